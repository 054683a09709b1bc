//! The time zones that sessions have without asking for one.

use super::sql;
use crate::error::Result;

/// Those that are not UTC, or not all the year: of new sessions of the caller, and of roles and databases in whose
/// sessions the current database may be used. Each is a zone and where it is set.
pub fn other_than_utc() -> Result<Vec<String>> {
    let statement = "
        WITH zones AS (
            SELECT s.reset_val AS zone, 'default of this session' AS place
            FROM pg_catalog.pg_settings s WHERE s.name OPERATOR(pg_catalog.=) 'TimeZone'
            UNION ALL
            SELECT pg_catalog.substr(c.setting, 10),
                pg_catalog.concat_ws(' in ', 'role ' OPERATOR(pg_catalog.||) pg_catalog.quote_ident(r.rolname),
                    CASE WHEN d.oid IS NOT NULL THEN 'this database' END)
            FROM pg_catalog.pg_db_role_setting s
            CROSS JOIN pg_catalog.unnest(s.setconfig) AS c (setting)
            LEFT JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) s.setrole
            LEFT JOIN pg_catalog.pg_database d ON d.oid OPERATOR(pg_catalog.=) s.setdatabase
            WHERE pg_catalog.lower(c.setting) OPERATOR(pg_catalog.~~) 'timezone=%'
              AND (d.oid IS NULL OR d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()))
        SELECT pg_catalog.format('\"%s\" (%s)', z.zone, z.place) FROM zones z
        WHERE EXISTS (SELECT FROM (VALUES (0), (182)) AS t (days)
                      CROSS JOIN pg_catalog.make_interval(days => t.days) AS later (days)
                      WHERE pg_catalog.timezone(z.zone, pg_catalog.now() OPERATOR(pg_catalog.+) later.days)
                            OPERATOR(pg_catalog.<>)
                            pg_catalog.timezone('UTC', pg_catalog.now() OPERATOR(pg_catalog.+) later.days))
        ORDER BY 1";
    sql::read(statement, &[], |row| row.required(1, "zone"))
}
