//! Every function of the extension with random and absurd arguments, from several sessions at
//! once. `FUZZ_SEED` repeats a run, `FUZZ_CALLS` makes it longer.

use crate::cluster::*;
use postgres::Client;
use std::collections::BTreeMap;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};
use std::{env, iter};

const SESSIONS: u64 = 4;

/// Calls of one transaction: few, because it keeps the rows locked that others may want.
const BATCH: usize = 25;

fn number_from(variable: &str, otherwise: u64) -> u64 {
    env::var(variable).map_or(otherwise, |value| value.parse().expect("a number"))
}

/// The generator of Marsaglia's xorshift family that has 64 bits of state: good enough, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap() % sides
    }

    fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.roll(choices.len())].clone()
    }
}

/// A function as the catalog has it.
#[derive(Clone)]
struct Function {
    name: String,
    types: Vec<String>,
    /// How many of the last arguments need not be given.
    defaults: i16,
}

/// What arguments are made of.
struct Hostile {
    functions: Vec<Function>,
    texts: Vec<String>,
    relations: Vec<String>,
    columns: Vec<String>,
}

impl Hostile {
    fn of(client: &mut Client) -> Self {
        let strings = |client: &mut Client, sql: &str| -> Vec<String> {
            client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
        };
        let columns = "SELECT DISTINCT attname::text FROM pg_attribute WHERE attrelid >= 16384
                       UNION SELECT attname FROM pg_attribute WHERE attrelid = 'pg_database'::regclass ORDER BY 1";
        let relations = "SELECT DISTINCT ON (relkind, relpersistence, relnamespace, n) oid::text FROM (
                             SELECT *, row_number() OVER (PARTITION BY relkind, relnamespace ORDER BY oid) / 8 AS n
                             FROM pg_class) c
                         UNION SELECT oid::text FROM pg_class
                         WHERE relnamespace = 'public'::regnamespace ORDER BY 1";
        Self {
            functions: functions(client),
            texts: texts(),
            columns: strings(client, columns),
            relations: strings(client, relations),
        }
    }

    /// One call as a statement, in half of the cases with as many arguments as come: words that must be known are not
    /// guessed.
    fn call(&self, dice: &mut Dice) -> String {
        let function = dice.pick(&self.functions);
        let omitted = dice.roll(2) * dice.roll(usize::try_from(function.defaults).unwrap() + 1);
        let given = &function.types[..function.types.len() - omitted];
        let arguments: Vec<String> =
            given.iter().map(|kind| format!("{}::{kind}", self.argument(dice, kind))).collect();
        format!("SELECT * FROM {}({})", function.name, arguments.join(", "))
    }

    fn argument(&self, dice: &mut Dice, kind: &str) -> String {
        if dice.roll(40) == 0 {
            return "NULL".into();
        }
        match kind {
            "text" => quoted(&self.text(dice)),
            "name" => quoted(&match dice.roll(8) {
                0 => self.text(dice),
                1 | 2 => dice.pick(&self.columns),
                _ => dice.pick(COLUMNS).into(),
            }),
            "text[]" => self.array(dice),
            "regclass" => match dice.roll(10) {
                0 => dice.pick(&["0", "4294967295", "16383", "1"]).to_owned() + "::oid",
                1..=4 => dice.pick(&self.relations) + "::oid",
                _ => quoted(dice.pick(TABLES)),
            },
            "regprocedure" => quoted(dice.pick(&[
                "0",
                "1",
                "4294967295",
                "pg_catalog.now()",
                "pg_catalog.pg_sleep(double precision)",
            ])),
            "interval" => quoted(dice.pick(INTERVALS)),
            "boolean" => dice.pick(&["true", "false"]).into(),
            "smallint" | "integer" | "bigint" | "double precision" => {
                dice.pick(&["0", "-1", "3", "2147483647", "(-2147483648)", "1e3"]).into()
            }
            other => panic!("no arguments of type {other} are made here"),
        }
    }

    /// Often a worker or a word that is known, so that calls get further than to the first check.
    fn text(&self, dice: &mut Dice) -> String {
        match dice.roll(3) {
            0 => dice.pick(&self.texts),
            1 => format!("worker-{}", dice.roll(1000)),
            _ => dice
                .pick(&[
                    "running",
                    "failed",
                    "queued",
                    "fail",
                    "requeue",
                    "busy",
                    "lost",
                    "claim",
                    "attempts",
                    "seconds",
                    "worker_id = NULL",
                    "completed_at = now()",
                    "id = coalesce(id, '7')",
                ])
                .into(),
        }
    }

    fn array(&self, dice: &mut Dice) -> String {
        let length = dice.pick(&[0, 1, 2, 3, 40]);
        let mut elements: Vec<String> = iter::repeat_with(|| quoted(&self.text(dice))).take(length).collect();
        match dice.roll(6) {
            0 => elements.push("NULL".into()),
            1 => return format!("ARRAY[[{0}, NULL], [{0}, {0}]]", quoted(&self.text(dice))),
            2 => return "'[7:8][-1:0]={{a,b},{c,d}}'".into(),
            _ => (),
        }
        format!("ARRAY[{}]::text[]", elements.join(", "))
    }
}

/// All functions of the extension that SQL can call: sweeps, which take long, seldom, and the one with the most
/// arguments often.
fn functions(client: &mut Client) -> Vec<Function> {
    let sql = "SELECT p.oid::regproc::text, ARRAY(SELECT format_type(t, NULL) FROM unnest(p.proargtypes) t),
                      p.pronargdefaults
               FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid JOIN pg_extension x ON x.oid = d.refobjid
               WHERE d.deptype = 'e' AND d.classid = 'pg_proc'::regclass AND x.extname = 'rgrid_heartbeat'
                 AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype) ORDER BY p.oid";
    let rows = client.query(sql, &[]).unwrap();
    let functions =
        rows.iter().map(|row| Function { name: row.get(0), types: row.get(1), defaults: row.get(2) });
    let weighted = functions.flat_map(|function| {
        let weight = match function.name.as_str() {
            "rgrid_sweep" => 1,
            "rgrid_watch_jobs" => 24,
            _ => 12,
        };
        iter::repeat_n(function, weight)
    });
    let weighted: Vec<Function> = weighted.collect();
    assert!(weighted.len() > 60, "the functions are found");
    weighted
}

/// Columns that tables of jobs have, so that some calls get past all checks.
const COLUMNS: &[&str] = &["worker_id", "status", "execution_error", "completed_at", "retry_count", "id"];

const TABLES: &[&str] = &["executions", "enums", "domains", "parent", "unlogged", "\"Weird \"\"Name\""];

const INTERVALS: &[&str] = &[
    "0",
    "-1 day",
    "1 microsecond",
    "1 second",
    "2 minutes",
    "1000000 years",
    "-178000000 years",
    "178000000 years",
    "2147483647 days",
    "-2147483648 days",
    "2147483647 months",
    "1 mon -30 days",
    "9223372036854 seconds",
    "soon",
];

fn texts() -> Vec<String> {
    let fixed = [
        "",
        " ",
        "a",
        "\u{1}",
        "\n",
        "a\tb",
        "\u{7f}",
        "\u{85}",
        "\u{200b}",
        "\u{202e}",
        "\u{feff}",
        "\u{ffff}",
        "\u{10ffff}",
        "e\u{301}",
        "'; DROP TABLE executions; --",
        "\"; DROP TABLE executions; --",
        "\\",
        "\\'",
        "E'\\000'",
        "$$",
        "$1",
        "%s%n%",
        "NULL",
        "null",
        "{}",
        "[]",
        "@extschema@",
        "@table@",
        "ctid",
        "xmin",
        "oid",
        "tableoid",
        "........pg.dropped.2........",
        "pg_catalog.pg_class",
    ];
    let long = [63, 64, 65, 255, 256, 100_000];
    let long = long.into_iter().flat_map(|n| ["x".repeat(n), "漢".repeat(n), "'".repeat(n)]);
    fixed.into_iter().map(String::from).chain(long).collect()
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Tables of every kind, and a function that runs a statement and answers its SQLSTATE.
fn prepare(client: &mut Client) {
    run(
        client,
        "CREATE TYPE state AS ENUM ('queued', 'running', 'failed', 'busy', 'lost');
         CREATE DOMAIN word AS varchar(12) CHECK (VALUE <> 'lost');
         CREATE TYPE pair AS (status text, worker_id text);
         CREATE TABLE enums (id int PRIMARY KEY, status state, worker_id varchar(5), completed_at date, gone int,
             retry_count smallint, max_retries bigint, execution_error varchar(20), tags text[], couple pair, span int4range);
         ALTER TABLE enums DROP gone;
         CREATE TABLE domains (id uuid, status word NOT NULL, worker_id uuid, completed_at timestamptz, execution_error word,
             retry_count int, max_retries int, doubled text GENERATED ALWAYS AS (status || status) STORED);
         CREATE TABLE parent (LIKE enums) PARTITION BY LIST (status);
         CREATE TABLE part PARTITION OF parent FOR VALUES IN ('running'); CREATE TABLE rest PARTITION OF parent DEFAULT;
         CREATE UNLOGGED TABLE unlogged (LIKE executions); CREATE TABLE \"Weird \"\"Name\" (LIKE executions);
         CREATE TABLE nothing (); CREATE VIEW seen AS TABLE executions; CREATE MATERIALIZED VIEW kept AS TABLE executions;
         CREATE SEQUENCE counter; CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER nowhere FOREIGN DATA WRAPPER nowhere;
         CREATE FOREIGN TABLE elsewhere (status text, worker_id text) SERVER nowhere;
         INSERT INTO enums SELECT i, 'running', 'a', NULL, i FROM generate_series(1, 50) i;
         CREATE FUNCTION outcome(statement text) RETURNS text LANGUAGE plpgsql AS $$BEGIN
             EXECUTE statement; RETURN '00000';
         EXCEPTION WHEN OTHERS THEN RETURN SQLSTATE || ' ' || SQLERRM; END$$;
         CREATE ROLE owner LOGIN; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO owner;
         ALTER TABLE enums OWNER TO owner; ALTER TABLE parent OWNER TO owner; ALTER TABLE unlogged OWNER TO owner",
    );
}

/// Runs so many random calls in batches. Answers how often each SQLSTATE came, the first five characters of an outcome.
fn fuzz(mut client: Client, hostile: &Hostile, mut dice: Dice, calls: u64) -> BTreeMap<String, u64> {
    run(&mut client, "SET client_min_messages = error; SET lock_timeout = '10ms'");
    let mut outcomes = BTreeMap::new();
    for _ in 0..calls.div_ceil(BATCH as u64) {
        let statements: Vec<String> = iter::repeat_with(|| hostile.call(&mut dice)).take(BATCH).collect();
        let sql = "SELECT outcome(s) FROM unnest($1::text[]) WITH ORDINALITY AS u (s, n) ORDER BY n";
        let rows = match client.query(sql, &[&statements]) {
            Ok(rows) => rows,
            // At the commit, which may have to wait for a lock, too.
            Err(error) => {
                let code = error.code().unwrap_or_else(|| panic!("the session ended: {error:?}")).code();
                assert!(!code.starts_with("XX") && !code.starts_with("57"), "{error:?}: {statements:?}");
                *outcomes.entry(code.to_owned()).or_insert(0) += BATCH as u64;
                continue;
            }
        };
        for (row, statement) in rows.iter().zip(&statements) {
            let outcome: String = row.get(0);
            assert!(!outcome.starts_with("XX"), "{outcome}: {statement}");
            *outcomes.entry(outcome[..5].to_owned()).or_insert(0) += 1;
        }
    }
    outcomes
}

#[test]
fn no_arguments_make_a_function_crash_or_call_it_its_own_fault() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let (seed, calls) = (number_from("FUZZ_SEED", now), number_from("FUZZ_CALLS", 100_000));
    println!("FUZZ_SEED={seed} FUZZ_CALLS={calls}");
    let cluster = Cluster::quick()
        .setting("rgrid_heartbeat.check_interval", "1s")
        .setting("deadlock_timeout", "50ms")
        .setting("log_min_error_statement", "panic")
        .setting("max_locks_per_transaction", "512")
        .start();
    let database = cluster.database("fuzzed");
    let mut client = database.connect();
    prepare(&mut client);
    let started: String = ask(&mut client, "SELECT pg_postmaster_start_time()::text", &[]);
    let hostile = Hostile::of(&mut client);
    let outcomes = thread::scope(|scope| {
        let sessions: Vec<_> = (1..=SESSIONS)
            .map(|n| {
                let client = database.connect_as(if n == 1 { "postgres" } else { "owner" });
                let dice = Dice((seed ^ (n << 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
                let hostile = &hostile;
                scope.spawn(move || fuzz(client, hostile, dice, calls / SESSIONS))
            })
            .collect();
        sessions
            .into_iter()
            .map(|session| session.join().expect("a session with this seed"))
            .collect::<Vec<_>>()
    });
    println!("{outcomes:?}");
    assert_eq!(ask::<String>(&mut client, "SELECT pg_postmaster_start_time()::text", &[]), started);
    for crash in ["was terminated by signal", "PANIC:", "internal error", "panicked at"] {
        assert_eq!(cluster.log_lines_with(&[crash]), Vec::<String>::new());
    }
    let total = |code: &str| outcomes.iter().filter_map(|session| session.get(code)).sum::<u64>();
    // Arguments get past the first check, and every check refuses some.
    for code in ["00000", "22023", "22004", "42P01", "42703", "42804", "42809", "42501"] {
        assert!(total(code) > calls / 10_000, "{code} came {} times", total(code));
    }
}
