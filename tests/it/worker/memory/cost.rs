//! What a heartbeat costs: no WAL, no transaction id, one call for many workers.

use super::*;

#[test]
fn heartbeats_of_a_known_worker_write_no_wal_and_no_row_until_the_flush() {
    let cluster = still().start();
    let database = cluster.visited_database("steady");
    let mut client = database.connect();
    known_worker(&mut client, "worker");
    let row = row_time(&mut client, "worker");
    // The server's own processes write, too, now and then: one thousand without a byte is proof enough.
    wait_until("a thousand heartbeats without a byte of WAL", || {
        wal_of(&mut client, a_thousand_beats_in_one_transaction) == 0
    });
    assert_eq!(row_time(&mut client, "worker"), row, "the row was written before a flush");
    assert!(wal_of(&mut client, |client| age_row(client, "worker")) > 0, "a written row would show");

    let before = server_time(&mut client);
    assert_eq!(beat(&mut client, "worker"), 1);
    let after = server_time(&mut client);
    cluster.set("rgrid_heartbeat.flush_interval", "100ms");
    await_written_since(&mut client, "worker", before);
    let row = row_time(&mut client, "worker").unwrap();
    assert!(before <= row && row <= after, "the row has {row}, the heartbeat was in {before}..{after}");
}

fn a_thousand_beats_in_one_transaction(client: &mut Client) {
    let mut transaction = client.transaction().unwrap();
    let beat = transaction.prepare("SELECT rgrid_heartbeat('worker')").unwrap();
    for _ in 0..1_000 {
        assert_eq!(transaction.query_one(&beat, &[]).unwrap().get::<_, i64>(0), 1);
    }
    let xid = transaction.query_one("SELECT txid_current_if_assigned() IS NULL", &[]).unwrap();
    assert!(xid.get::<_, bool>(0), "a heartbeat assigned a transaction id");
    transaction.commit().unwrap();
}

/// Bytes of WAL that the whole server wrote meanwhile.
fn wal_of(client: &mut Client, work: impl FnOnce(&mut Client)) -> i64 {
    let position = "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint";
    let before: i64 = ask(client, position, &[]);
    work(client);
    ask::<i64>(client, position, &[]) - before
}

#[test]
fn one_call_for_many_known_workers_assigns_no_xid_and_keeps_their_order() {
    let cluster = still_server();
    let database = cluster.visited_database("agents");
    let mut client = database.connect();
    beat(&mut client, "w007");
    sweep_away(&mut client, "w007");
    let many = "array_agg('w' || lpad(n::text, 3, '0') ORDER BY n DESC) FROM generate_series(1, 300) n";
    let answers = format!(
        "SELECT string_agg(incarnation::text, '' ORDER BY place) FROM
             (SELECT {many}) AS w (ids), rgrid_heartbeat(w.ids, 'host')
                 WITH ORDINALITY AS a (incarnation, place)"
    );
    let wanted: String = (1..=300).rev().map(|n| if n == 7 { '2' } else { '1' }).collect();
    assert_eq!(ask::<String>(&mut client, &answers, &[]), wanted);
    let rows: i64 = ask(&mut client, "SELECT count(*) FROM worker_heartbeats WHERE hostname = 'host'", &[]);
    assert_eq!(rows, 300);
    wait_until("a call for three hundred known workers without a transaction id", || {
        run(&mut client, "BEGIN");
        assert_eq!(ask::<String>(&mut client, &answers, &[]), wanted);
        let without = ask(&mut client, "SELECT pg_current_xact_id_if_assigned() IS NULL", &[]);
        run(&mut client, "COMMIT");
        without
    });
}

#[test]
fn a_call_with_one_bad_id_hears_none_of_the_others() {
    let cluster = still_server();
    let database = cluster.visited_database("refusals");
    let mut client = database.connect();
    known_worker(&mut client, "known");
    let heard = last_heard(&mut client, "known");
    for (bad, code) in [("NULL", "22004"), ("''", "22023"), ("E'a\\nb'", "22023")] {
        let call = format!("SELECT rgrid_heartbeat(ARRAY['known', 'new', {bad}])");
        assert_eq!(sqlstate(&mut client, &call), code, "{bad}");
    }
    assert_eq!(last_heard(&mut client, "known"), heard);
    assert_eq!(rows(&mut client, "new"), 0);
}
