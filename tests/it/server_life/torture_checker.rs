//! The torture's checker on small histories: clean ones pass, and each planted fault is found.

#[allow(dead_code, reason = "the torture writes histories")]
#[path = "../../torture/history.rs"]
mod history;

#[path = "../../torture/checker/mod.rs"]
mod checker;

use checker::{Rule, check};
use history::{Call, Change, Death, Fault, History, Job, Outage, Row, Time, What};

const WORKER: &str = "worker-1";

/// Milliseconds after the beginning.
const fn ms(time: Time) -> Time {
    time * 1_000
}

/// A worker runs a job, is silent, dies, and comes back; it runs another job and beats to the end.
///
/// | ms | |
/// | --- | --- |
/// | 0 | registers, beats until 1500, claims job 1 at 1200 |
/// | 4000 | dies by silence; job 1 is settled |
/// | 6000 | comes back, claims job 2, finishes it at 6500, beats every half second until 9500 |
fn clean() -> History {
    let mut history = History {
        threshold: ms(2_000),
        grace: ms(500),
        unwritten: ms(1_000),
        read_at: ms(10_000),
        ..History::default()
    };
    call(&mut history, 0, What::Registered { incarnation: 1 });
    (500..=1_500).step_by(500).for_each(|at| beat(&mut history, at, 1));
    call(&mut history, 1_200, What::Claimed { job: 1, incarnation: 1 });
    change(&mut history, 1, 1_205, 1, "queued", "running");
    die(&mut history, 1, 1_505, 4_000);
    change(&mut history, 1, 4_001, 1, "running", "failed");
    history.deaths[0].returned_at = Some(ms(6_005));
    (6_000..=9_500).step_by(500).for_each(|at| beat(&mut history, at, 2));
    call(&mut history, 6_100, What::Claimed { job: 2, incarnation: 2 });
    change(&mut history, 2, 6_105, 2, "queued", "running");
    change(&mut history, 2, 6_505, 2, "running", "completed");
    call(&mut history, 6_500, What::Finished { job: 2 });
    history.jobs = vec![job(1, "failed"), job(2, "completed")];
    history.rows = vec![Row { worker: WORKER.into(), last_heartbeat_at: ms(9_505) }];
    history
}

/// A call that takes ten milliseconds.
fn call(history: &mut History, at: Time, what: What) {
    let call = Call { begin: ms(at), end: ms(at + 10), worker: WORKER.into(), process: 0, what };
    history.calls.push(call);
}

fn beat(history: &mut History, at: Time, incarnation: i64) {
    call(history, at, What::Beat { incarnation });
}

fn fail(history: &mut History, at: Time, sqlstate: Option<&str>) {
    let sqlstate = sqlstate.map(str::to_owned);
    call(history, at, What::Failed { call: "heartbeat".into(), sqlstate, message: "no".into() });
}

/// The change is seen in the order in which it is added.
fn change(history: &mut History, job: i64, at: Time, claimed_under: i64, old: &str, new: &str) {
    let (old, new) = (old.to_owned(), new.to_owned());
    history.changes.push(Change { job, at: ms(at), worker: WORKER.into(), claimed_under, old, new });
}

/// A death by silence, with its line in the log and one job.
fn die(history: &mut History, incarnation: i64, last: Time, at: Time) {
    history.log.push(WORKER.into());
    history.deaths.push(Death {
        worker: WORKER.into(),
        incarnation,
        reason: "stale".into(),
        last_heartbeat_at: ms(last),
        declared_dead_at: ms(at),
        returned_at: None,
        jobs_failed: 1,
    });
}

fn job(id: i64, status: &str) -> Job {
    Job { id, worker: WORKER.into(), status: status.into() }
}

fn outage(history: &mut History, begin: Time, end: Time) {
    history.outages.push(Outage { begin: ms(begin), end: ms(end) });
}

fn accepts(history: &History) {
    assert_eq!(check(history), []);
}

/// The fault is found; it may break other promises, too.
fn finds(history: &History, rule: Rule) {
    let found = check(history);
    assert!(found.iter().any(|violation| violation.rule == rule), "{rule:?} is not among {found:?}");
}

#[test]
fn a_death_and_a_return_are_no_fault() {
    accepts(&clean());
}

#[test]
fn a_worker_that_beat_within_the_threshold_before_its_death_is_found() {
    let mut history = clean();
    beat(&mut history, 2_500, 1);
    history.deaths[0].last_heartbeat_at = ms(2_505);
    finds(&history, Rule::SettledOnlyWhenDead);
}

/// The same, but at 2100 it dies of its lost session, after a kill.
fn disconnected() -> History {
    let mut history = clean();
    history.deaths[0].reason = "disconnected".into();
    history.deaths[0].declared_dead_at = ms(2_100);
    history.changes[1].at = ms(2_101);
    history.faults.push(Fault { begin: ms(1_590), end: ms(1_595), text: format!("kill -9 {WORKER}") });
    history
}

#[test]
fn a_death_of_a_lost_session_is_no_fault_sooner_than_a_threshold() {
    accepts(&disconnected());
}

#[test]
fn a_worker_that_beat_within_the_grace_before_its_death_is_found() {
    let mut history = disconnected();
    beat(&mut history, 1_700, 1);
    history.deaths[0].last_heartbeat_at = ms(1_705);
    finds(&history, Rule::SettledOnlyWhenDead);
}

#[test]
fn a_death_of_a_lost_session_of_a_process_that_was_not_killed_is_found() {
    let mut history = disconnected();
    for text in ["kill -9 worker-10", "pause worker-1 for 700 ms", "terminate the attached sessions"] {
        history.faults[0].text = text.into();
        finds(&history, Rule::SettledOnlyWhenDead);
    }
}

#[test]
fn a_kill_before_its_last_heartbeat_does_not_excuse_the_death_of_a_lost_session() {
    let mut history = disconnected();
    let cases = [(format!("kill -9 {WORKER}"), 100), (format!("kill -9 {WORKER}, process [1]"), 100)];
    let leave = (format!("{WORKER} is asked to leave"), -9_000);
    for (text, at) in cases.into_iter().chain([leave]) {
        history.faults[0] = Fault { begin: ms(at), end: ms(at + 5), text: text.clone() };
        finds(&history, Rule::SettledOnlyWhenDead);
        history.faults.push(Fault { begin: ms(1_595), end: ms(1_600), text });
        accepts(&history);
        history.faults.truncate(1);
    }
}

#[test]
fn a_death_sooner_than_a_grace_after_an_outage_is_found() {
    let mut history = disconnected();
    outage(&mut history, 1_650, 1_700);
    finds(&history, Rule::SettledOnlyWhenDead);
}

#[test]
fn a_crash_does_not_excuse_the_death_of_a_worker_that_was_beating() {
    let mut history = clean();
    beat(&mut history, 2_500, 1);
    outage(&mut history, 2_600, 2_700);
    finds(&history, Rule::SettledOnlyWhenDead);
}

#[test]
fn a_heartbeat_that_failed_proves_nothing() {
    let mut history = clean();
    fail(&mut history, 2_500, None);
    accepts(&history);
}

#[test]
fn a_death_sooner_than_a_threshold_after_an_outage_is_found() {
    let mut history = clean();
    outage(&mut history, 2_500, 2_700);
    finds(&history, Rule::SettledOnlyWhenDead);
}

#[test]
fn a_death_a_threshold_after_an_outage_is_no_fault() {
    let mut history = clean();
    outage(&mut history, 1_700, 1_900);
    accepts(&history);
}

#[test]
fn a_job_that_was_settled_without_a_death_is_found() {
    let mut history = clean();
    history.changes.last_mut().unwrap().new = "failed".into();
    history.changes.last_mut().unwrap().at = ms(3_900);
    history.deaths.clear();
    finds(&history, Rule::SettledOnlyWhenDead);
}

#[test]
fn a_job_of_the_next_life_settled_for_the_death_before_is_found() {
    let mut history = clean();
    history.changes.last_mut().unwrap().new = "failed".into();
    finds(&history, Rule::ReturnsWait);
}

#[test]
fn a_job_that_was_settled_after_the_return_is_found() {
    let mut history = clean();
    history.changes[1].at = ms(6_300);
    finds(&history, Rule::SettledOnlyWhenDead);
}

#[test]
fn a_job_that_still_ran_when_the_next_life_began_is_found() {
    let mut history = clean();
    history.changes[1].at = ms(6_300);
    finds(&history, Rule::ReturnsWait);
    history.changes.remove(1);
    history.jobs[0].status = "running".into();
    finds(&history, Rule::ReturnsWait);
}

#[test]
fn a_job_that_was_locked_when_the_next_life_began_may_be_settled_later() {
    let mut history = clean();
    history.changes[1].at = ms(6_300);
    let text = format!("lock the jobs of {WORKER} for 400 ms");
    history.faults.push(Fault { begin: ms(5_800), end: ms(6_200), text });
    accepts(&history);
    history.faults[0].text = "lock the jobs of worker-2 for 400 ms".into();
    finds(&history, Rule::ReturnsWait);
}

#[test]
fn a_job_that_was_claimed_during_the_return_is_no_fault() {
    let mut history = clean();
    call(&mut history, 6_000, What::Claimed { job: 3, incarnation: 1 });
    change(&mut history, 3, 6_008, 1, "queued", "running");
    history.jobs.push(job(3, "running"));
    accepts(&history);
}

#[test]
fn a_running_job_of_a_dead_worker_is_found() {
    let mut history = clean();
    die(&mut history, 2, 9_505, 12_000);
    history.deaths[1].jobs_failed = 0;
    accepts(&history);
    change(&mut history, 3, 9_000, 2, "queued", "running");
    history.jobs.push(job(3, "running"));
    finds(&history, Rule::DeadAreSettled);
}

#[test]
fn a_worker_that_was_left_dead_and_is_not_in_the_ledger_is_found() {
    let mut history = clean();
    history.left_dead.push(WORKER.into());
    finds(&history, Rule::DeadAreSettled);
    // It had left.
    history.rows.clear();
    accepts(&history);
}

#[test]
fn a_second_death_without_a_return_is_found() {
    let mut history = clean();
    die(&mut history, 2, 1_505, 4_300);
    history.deaths[1].jobs_failed = 0;
    finds(&history, Rule::DeadOnce);
}

#[test]
fn a_gap_in_the_numbers_of_the_ledger_is_found() {
    let mut history = clean();
    history.deaths[0].incarnation = 2;
    finds(&history, Rule::DeadOnce);
}

#[test]
fn numbers_may_begin_anew_after_an_outage_and_not_below_its_seconds() {
    let mut history = clean();
    outage(&mut history, 3_000, 3_500);
    history.deaths[0].incarnation = 4;
    assert!(check(&history).iter().all(|violation| violation.rule != Rule::DeadOnce));
    history.deaths[0].incarnation = 2;
    finds(&history, Rule::DeadOnce);
}

#[test]
fn jobs_that_the_ledger_counts_wrongly_are_found() {
    let mut history = clean();
    history.deaths[0].jobs_failed = 2;
    finds(&history, Rule::DeadOnce);
}

#[test]
fn a_death_that_is_in_the_log_twice_is_found() {
    let mut history = clean();
    history.log.push(WORKER.into());
    finds(&history, Rule::DeadOnce);
}

#[test]
fn a_death_that_is_not_in_the_log_is_found_unless_the_server_crashed() {
    let mut history = clean();
    history.log.clear();
    finds(&history, Rule::DeadOnce);
    outage(&mut history, 4_050, 4_100);
    accepts(&history);
}

#[test]
fn a_number_that_goes_back_is_found() {
    let mut history = clean();
    beat(&mut history, 9_600, 1);
    finds(&history, Rule::IncarnationsGrow);
}

#[test]
fn numbers_that_overtook_each_other_are_no_fault() {
    let mut history = clean();
    let late = Call { begin: ms(1_450), end: ms(6_200), ..history.calls[1].clone() };
    history.calls.push(late);
    accepts(&history);
}

#[test]
fn a_repeated_number_is_found_unless_the_worker_had_left() {
    let mut history = clean();
    call(&mut history, 9_700, What::Registered { incarnation: 2 });
    finds(&history, Rule::IncarnationsGrow);
    call(&mut history, 9_600, What::Deregistered);
    accepts(&history);
}

#[test]
fn a_result_that_overwrites_a_settled_job_is_found() {
    let mut history = clean();
    change(&mut history, 1, 6_300, 1, "failed", "completed");
    history.jobs[0].status = "completed".into();
    finds(&history, Rule::FinishedOnce);
}

#[test]
fn a_result_that_was_taken_and_is_gone_is_found() {
    let mut history = clean();
    call(&mut history, 3_900, What::Finished { job: 1 });
    finds(&history, Rule::FinishedOnce);
}

#[test]
fn a_result_that_was_taken_twice_is_found() {
    let mut history = clean();
    call(&mut history, 7_000, What::Finished { job: 2 });
    finds(&history, Rule::FinishedOnce);
}

#[test]
fn a_job_that_is_not_what_it_was_last_made_is_found() {
    let mut history = clean();
    history.jobs[1].status = "failed".into();
    finds(&history, Rule::FinishedOnce);
}

#[test]
fn a_heartbeat_that_the_ledger_does_not_know_of_is_found() {
    let mut history = clean();
    history.deaths[0].last_heartbeat_at = ms(1_005);
    finds(&history, Rule::HeartbeatsAreKept);
}

#[test]
fn a_heartbeat_that_was_in_memory_when_the_server_crashed_may_be_forgotten() {
    let mut history = clean();
    history.deaths[0].last_heartbeat_at = ms(1_005);
    outage(&mut history, 1_900, 1_950);
    accepts(&history);
}

#[test]
fn a_heartbeat_that_should_have_been_written_long_before_the_crash_is_found() {
    let mut history = clean();
    history.deaths[0].last_heartbeat_at = ms(505);
    outage(&mut history, 2_100, 2_200);
    history.deaths[0].declared_dead_at = ms(4_300);
    history.changes[1].at = ms(4_301);
    finds(&history, Rule::HeartbeatsAreKept);
}

#[test]
fn a_row_that_has_not_been_written_for_too_long_is_found() {
    let mut history = clean();
    history.rows[0].last_heartbeat_at = ms(8_005);
    finds(&history, Rule::HeartbeatsAreKept);
    // What is not due yet.
    history.rows[0].last_heartbeat_at = ms(8_505);
    accepts(&history);
}

#[test]
fn an_error_that_no_outage_explains_is_found() {
    let mut history = clean();
    fail(&mut history, 9_600, Some("57P01"));
    accepts(&history);
    fail(&mut history, 9_700, Some("40P01"));
    finds(&history, Rule::NoOtherErrors);
}
