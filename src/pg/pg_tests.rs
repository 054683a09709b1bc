//! What one backend can show of the code that no SQL function shows: scopes, conversions, look-ups.
#![allow(clippy::unwrap_used, reason = "tests")]

#[pgrx::pg_schema]
mod tests {
    use chrono::{DateTime, Utc};
    use pgrx::prelude::*;

    use crate::error::{Error, Result};
    use crate::pg::scope::{self, Scope};
    use crate::pg::{self, catalog, sql};

    fn text(statement: &str) -> String {
        Spi::get_one::<String>(statement).unwrap().unwrap()
    }

    fn role(name: &str) -> pg_sys::Oid {
        Spi::run(&format!("CREATE ROLE {name}")).unwrap();
        Spi::get_one(&format!("SELECT oid FROM pg_roles WHERE rolname = '{name}'")).unwrap().unwrap()
    }

    #[pg_test]
    fn work_runs_as_the_role_with_settings_of_its_own() {
        let role = role("another_role");
        Spi::run("SET search_path = public; SET row_security = on").unwrap();
        let inside = Scope::of(role, &[]).lock_timeout(c"1s").run(|| {
            text(
                "SELECT concat_ws('; ', current_user, current_setting('search_path'), \
                  current_setting('row_security'), current_setting('lock_timeout'))",
            )
        });
        assert_eq!(inside, "another_role; pg_catalog, pg_temp; off; 1s");
        let after = text(
            "SELECT concat_ws('; ', current_user = session_user, current_setting('search_path'), \
             current_setting('row_security'), current_setting('lock_timeout'))",
        );
        assert_eq!(after, "t; public; on; 0");
    }

    #[pg_test]
    fn an_error_in_the_work_puts_the_role_back() {
        let role = role("another_role");
        let failed: Result<()> = scope::subtransaction(|| {
            Scope::of(role, &[]).run(|| sql::write("SELECT 1 / 0", &[]).map(|_| ()))
        });
        assert!(matches!(failed, Err(Error::Caught(caught)) if caught.message == "division by zero"));
        let after =
            text("SELECT concat_ws('; ', current_user = session_user, current_setting('row_security'))");
        assert_eq!(after, "t; on");
    }

    #[pg_test]
    fn a_failed_subtransaction_undoes_its_work_and_no_more() {
        Spi::run("CREATE TABLE kept (number int)").unwrap();
        let good: Result<usize> = scope::subtransaction(|| sql::write("INSERT INTO kept VALUES (1)", &[]));
        assert_eq!(good.unwrap(), 1);
        let bad: Result<()> = scope::subtransaction(|| {
            sql::write("INSERT INTO kept VALUES (2)", &[])?;
            Err(Error::EmptyWorkerId)
        });
        assert!(bad.is_err());
        assert_eq!(text("SELECT string_agg(number::text, ',') FROM kept"), "1");
    }

    #[pg_test]
    fn times_survive_the_way_to_postgres_and_back() {
        for time in ["1999-12-31 23:59:59.999999Z", "2000-01-01 00:00:00Z", "2026-02-28 12:00:00.000001Z"] {
            let time: DateTime<Utc> = time.parse().unwrap();
            assert_eq!(pg::time_of(pg::timestamptz(time).unwrap()), time);
        }
    }

    #[pg_test]
    fn the_infinities_are_the_ends_of_time() {
        let read = |literal: &str| {
            let statement = format!("SELECT timestamptz '{literal}'");
            pg::time_of(Spi::get_one::<TimestampWithTimeZone>(&statement).unwrap().unwrap())
        };
        assert!(read("infinity") > pg::now());
        assert_eq!(read("-infinity"), DateTime::<Utc>::MIN_UTC);
        assert!(pg::timestamptz(DateTime::<Utc>::MIN_UTC).is_none());
    }

    #[pg_test]
    fn a_column_tells_how_many_characters_fit() {
        Spi::run("CREATE TABLE columns (a varchar(64), b varchar, c text)").unwrap();
        let table: pg_sys::Oid = Spi::get_one("SELECT 'columns'::regclass::oid").unwrap().unwrap();
        let limit = |name: &str| catalog::column(table, name).unwrap().character_limit();
        assert_eq!((limit("a"), limit("b"), limit("c")), (Some(64), None, None));
        assert!(catalog::column(table, "ctid").is_none());
        assert!(catalog::column(table, "d").is_none());
    }

    #[pg_test]
    fn a_name_is_quoted_only_where_it_must_be() {
        Spi::run("CREATE SCHEMA \"Odd\"; CREATE TABLE \"Odd\".plain ()").unwrap();
        let table: pg_sys::Oid = Spi::get_one("SELECT '\"Odd\".plain'::regclass::oid").unwrap().unwrap();
        assert_eq!(catalog::qualified_name(table).unwrap(), "\"Odd\".plain");
        assert!(catalog::qualified_name(pg_sys::InvalidOid).is_none());
    }
}
