//! The plans of the statements that settle jobs.
#![allow(clippy::unwrap_used, reason = "tests")]

#[pgrx::pg_schema]
mod tests {
    use pgrx::datum::DatumWithOid;
    use pgrx::prelude::*;
    use serde_json::Value;

    use crate::installation::Installation;
    use crate::jobs::statement::Statements;
    use crate::jobs::table::{JobTable, LockPolicy};
    use crate::jobs::watched;
    use crate::pg::{self, arrays, catalog, sql};

    /// A watched table with many running jobs, and nothing but a partial index on these to find those of a worker.
    fn watched_table(worker_type: &str, worker: &str, on_death: &str) -> JobTable {
        Spi::run(&format!(
            "CREATE TABLE planned (status text, worker_id {worker_type}, execution_error text,
                                   completed_at timestamptz, retry_count int, max_retries int);
             INSERT INTO planned SELECT CASE WHEN n % 10 = 0 THEN 'running' ELSE 'failed' END, {worker}
             FROM generate_series(1, 20000) n;
             CREATE INDEX planned_running ON planned (worker_id) WHERE status = 'running';
             ANALYZE planned;
             SELECT rgrid_watch_jobs('planned', on_death => '{on_death}')"
        ))
        .unwrap();
        let oid = Spi::get_one("SELECT 'planned'::regclass::oid").unwrap().unwrap();
        watched::find(&Installation::of_caller().unwrap(), oid).unwrap()
    }

    /// Whether a plan finds rows by the worker's column in the index, and reads the table in no other way. Rows that
    /// another part of the statement has found may be fetched by their places.
    fn uses_the_index(plan: &Value) -> bool {
        let text = plan.to_string();
        let conditions = [r#""Index Cond":"(worker_id "#, r#""Index Cond":"((worker_id)::"#];
        let by_worker = conditions.iter().any(|condition| text.contains(condition));
        by_worker && text.contains(r#""Index Name":"planned_running""#) && !text.contains("Seq Scan")
    }

    fn plan(table: &JobTable, statement: &str, arguments: &[DatumWithOid<'_>]) -> Value {
        let explain = format!("EXPLAIN (FORMAT JSON) {statement}");
        let plans = table.scope().run(|| {
            sql::write_returning(&explain, arguments, |row| {
                let pgrx::Json(plans) = row.required(1, "plan")?;
                Ok(plans)
            })
        });
        plans.unwrap().remove(0)
    }

    /// The statements, each with the arguments that it has in use: all end with those of the rows where they are of
    /// rows.
    fn check_plans(table: &JobTable, of_rows: bool, worker: &str) {
        let columns = table.columns().unwrap();
        let all = Statements::new(table, &columns, None);
        let statements = if of_rows { all.of_rows() } else { all };
        let texts = [
            statements.rows(),
            statements.running(),
            statements.lock_free(),
            statements.count(),
            statements.lock(),
            statements.settle(LockPolicy::Refuse),
            statements.settle(LockPolicy::Skip),
        ];
        let own = catalog::relation(table.relation.oid).unwrap().oid.to_u32().to_string();
        for text in texts {
            let workers = arrays::of(&[worker.to_owned()]);
            let places = [arrays::texts([own.as_str()].into_iter()), arrays::texts(["(0,1)"].into_iter())];
            let mut arguments = vec![workers, "gone".into(), pg::timestamptz(pg::now()).into()];
            arguments.extend(places);
            let plan = plan(table, &text, &arguments);
            // Few rows of a known place are found by that.
            let by_place = of_rows && plan.to_string().contains(r#""Node Type":"Tid Scan""#);
            assert!(by_place || uses_the_index(&plan), "{text}\n{plan:#}");
        }
    }

    fn check_type(worker_type: &str, worker: &str, id: &str) {
        for on_death in ["fail", "requeue"] {
            let table = watched_table(worker_type, worker, on_death);
            check_plans(&table, false, id);
            check_plans(&table, true, id);
            Spi::run("DROP TABLE planned").unwrap();
        }
    }

    #[pg_test]
    fn a_partial_index_serves_every_statement_for_workers_as_text() {
        check_type("text", "'w' || n", "w20");
        check_type("varchar(64)", "'w' || n", "w20");
    }

    #[pg_test]
    fn a_partial_index_serves_every_statement_for_workers_as_values() {
        check_type("uuid", "md5(n::text)::uuid", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11");
        check_type("numeric(12,2)", "n", "20.0");
        check_type("bigint", "n", "020");
        check_type("inet", "'10.0.0.0'::inet + n", "10.0.0.20/32");
        check_type("char(40)", "'w' || n", "w20");
        check_type("timestamptz", "'2020-01-01'::timestamptz + n * interval '1 s'", "2020-01-01");
    }

    #[pg_test]
    fn a_partial_index_serves_every_statement_for_workers_of_a_domain_and_of_an_extension() {
        Spi::run("CREATE DOMAIN worker_uuid AS uuid").unwrap();
        check_type("worker_uuid", "md5(n::text)::uuid", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11");
        // Builds of PostgreSQL without its contrib modules lack it.
        let available = "SELECT count(*) FROM pg_available_extensions WHERE name = 'citext'";
        if Spi::get_one::<i64>(available) == Ok(Some(1)) {
            Spi::run("CREATE EXTENSION citext").unwrap();
            check_type("citext", "'w' || n", "W20");
        }
    }

    #[pg_test]
    fn a_partial_index_serves_every_statement_for_a_nondeterministic_collation() {
        let collation = "CREATE COLLATION ignore_case \
                         (provider = icu, locale = 'und-u-ks-level2', deterministic = false)";
        // Not every build of PostgreSQL has ICU.
        if Spi::get_one::<bool>("SELECT EXISTS (SELECT FROM pg_collation WHERE collname = 'und-x-icu')")
            != Ok(Some(true))
        {
            return;
        }
        Spi::run(collation).unwrap();
        check_type("text COLLATE ignore_case", "'w' || n", "w20");
    }
}
