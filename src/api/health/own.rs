//! The check of the extension's own objects: who owns them, who has rights on them, what is attached to them.

use super::{Finding, attempt};
use crate::error::Result;
use crate::installation::Installation;
use crate::pg::sql;
use crate::rules::text::printable;
use crate::shmem::databases;
use crate::sweep::own_tables;
use crate::tables::own::OwnTables;

const CHECK: &str = "own objects";

/// Functions, views and other members that belong to a role which is neither a superuser nor the owner of the
/// extension: such a role can replace them.
const OF_OTHERS: &str = "SELECT pg_describe_object(s.classid, s.objid, 0), pg_get_userbyid(s.refobjid)::text \
    FROM pg_shdepend s JOIN pg_depend d ON d.classid = s.classid AND d.objid = s.objid AND d.deptype = 'e' \
    JOIN pg_extension x ON x.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass \
    JOIN pg_roles r ON r.oid = s.refobjid \
    LEFT JOIN pg_class c ON s.classid = 'pg_class'::regclass AND c.oid = s.objid \
    WHERE x.extname = 'rgrid_heartbeat' AND s.deptype = 'o' AND NOT r.rolsuper AND s.refobjid <> $1 \
      AND s.dbid = (SELECT b.oid FROM pg_database b WHERE b.datname = current_database()) \
      AND coalesce(c.relkind <> 'r', true) \
    ORDER BY 1";

/// Rights and triggers on functions and views that are not the extension's own. They give no power over sweepers, but
/// any role may call such a function, and a trigger of a view runs as its caller.
const ON_OTHER_OBJECTS: &str = "WITH member AS (SELECT d.classid, d.objid FROM pg_depend d JOIN pg_extension x ON x.oid = d.refobjid \
        WHERE d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass AND x.extname = 'rgrid_heartbeat') \
    SELECT f.what FROM ( \
        SELECT format('EXECUTE of PUBLIC on %s', p.oid::regprocedure) FROM member m JOIN pg_proc p ON p.oid = m.objid, \
            aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a \
        WHERE m.classid = 'pg_proc'::regclass AND a.grantee = 0 AND p.proname <> 'rgrid_fence_violated' \
        UNION ALL SELECT format('%s of %s on %s', a.privilege_type, \
                                CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END, c.oid::regclass) \
        FROM member m JOIN pg_class c ON c.oid = m.objid AND c.relkind = 'v', aclexplode(c.relacl) a \
        WHERE m.classid = 'pg_class'::regclass AND a.privilege_type <> 'SELECT' AND a.grantee <> c.relowner \
        UNION ALL SELECT format('trigger %I of %s', t.tgname, c.oid::regclass) \
        FROM member m JOIN pg_class c ON c.oid = m.objid AND c.relkind = 'v' JOIN pg_trigger t ON t.tgrelid = c.oid \
        WHERE m.classid = 'pg_class'::regclass) AS f (what) \
    ORDER BY 1";

pub fn finding(installation: &Installation) -> Finding {
    attempt(CHECK, || look(installation))
}

fn look(installation: &Installation) -> Result<Finding> {
    let foreign = OwnTables::of(installation).foreign()?;
    if !foreign.is_empty() {
        // A sweeper looks for some of it only after it was met.
        databases::note_foreign_code();
        return Ok(Finding::error(
            CHECK,
            format!(
                "Tables of the extension have something that is not its own: {}.",
                own_tables::list(&foreign)
            ),
            installation
                .sql("The next sweeper removes it. Without sweepers: SELECT @extschema@.rgrid_sweep();"),
        ));
    }
    let of_others: Vec<(String, String)> = sql::read(OF_OTHERS, &[installation.owner.into()], |row| {
        Ok((row.required(1, "object")?, row.required(2, "role")?))
    })?;
    if let Some((object, role)) = of_others.first() {
        return Ok(Finding::error(
            CHECK,
            format!(
                "{} objects of the extension belong to other roles, which can replace them, such as {} to {}.",
                of_others.len(),
                printable(object),
                printable(role)
            ),
            "ALTER ... OWNER TO a superuser.",
        ));
    }
    let others: Vec<String> = sql::read(ON_OTHER_OBJECTS, &[], |row| row.required(1, "object"))?;
    Ok(match others.first() {
        None => Finding::good(
            CHECK,
            "The extension's objects belong to its owner, and nothing is attached to its tables.",
        ),
        Some(first) => Finding::warning(
            CHECK,
            format!("{} rights or triggers are not the extension's own: {}.", others.len(), printable(first)),
            "REVOKE these rights, and drop the triggers.",
        ),
    })
}
