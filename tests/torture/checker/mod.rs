//! Judges a history by the promises alone. It shares nothing with the code that it checks: neither its rules about
//! time nor its tables, but for the names of the columns.
//!
//! A call says less than the server knows: what was done was done at some moment between its begin and its end. So
//! each rule takes the moment that accuses nobody wrongly. What failed or was never answered proves nothing.

use super::history::{Call, Change, Death, Fault, History, Outage, SECOND, Time, What};
use std::collections::{BTreeMap, HashMap};

mod jobs;

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub rule: Rule,
    pub worker: String,
    pub at: Time,
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// No job of a worker that was beating was settled, and no outage kills.
    SettledOnlyWhenDead,
    /// Every job of a dead worker was settled.
    DeadAreSettled,
    /// Each death is once in the ledger and once in the log.
    DeadOnce,
    /// Incarnations grow.
    IncarnationsGrow,
    /// Whoever is told a number has no running job of an earlier one.
    ReturnsWait,
    /// A job is finished once, and what was given up stays so.
    FinishedOnce,
    /// No heartbeat that was acknowledged is forgotten.
    HeartbeatsAreKept,
    /// No error but those that an outage or a lock explains.
    NoOtherErrors,
}

/// Between the last attempt of a call to have a lock, which it waits a second for, and its answer.
const LEFT_BEHIND: Time = 2 * SECOND;

/// A process that is asked to leave finishes its job first, and deregisters, which may have to wait for a server.
const LEAVING: Time = 10 * SECOND;

/// Everything that is wrong, the first first.
pub fn check(history: &History) -> Vec<Violation> {
    let mut checker = Checker { history, workers: Worker::all(history), violations: Vec::new() };
    checker.check_all();
    checker.violations.sort_by_key(|violation| violation.at);
    checker.violations
}

/// What a history says of one worker.
#[derive(Default)]
struct Worker<'a> {
    calls: Vec<&'a Call>,
    /// In the order of their incarnations.
    deaths: Vec<&'a Death>,
    /// The jobs that it claimed, each with the changes after the claim.
    changes: BTreeMap<i64, Vec<&'a Change>>,
}

impl<'a> Worker<'a> {
    fn all(history: &'a History) -> BTreeMap<&'a str, Self> {
        let mut workers: BTreeMap<&str, Self> = BTreeMap::new();
        for call in &history.calls {
            workers.entry(&call.worker).or_default().calls.push(call);
        }
        for death in &history.deaths {
            workers.entry(&death.worker).or_default().deaths.push(death);
        }
        for change in &history.changes {
            let worker = workers.entry(&change.worker).or_default();
            worker.changes.entry(change.job).or_default().push(change);
        }
        for worker in workers.values_mut() {
            worker.deaths.sort_by_key(|death| death.incarnation);
        }
        workers
    }

    /// The calls that told it a number, with the number.
    fn answers(&self) -> impl Iterator<Item = (&'a Call, i64)> {
        self.calls.iter().filter_map(|call| call.answer().map(|number| (*call, number)))
    }

    /// When it was first told a number above this one, for certain.
    fn told_above(&self, incarnation: i64) -> Option<Time> {
        self.answers().filter(|(_, number)| *number > incarnation).map(|(call, _)| call.end).min()
    }

    fn settled(&self) -> impl Iterator<Item = &'a Change> {
        self.changes.values().flatten().copied().filter(|change| change.new == "failed")
    }
}

struct Checker<'a> {
    history: &'a History,
    workers: BTreeMap<&'a str, Worker<'a>>,
    violations: Vec<Violation>,
}

impl<'a> Checker<'a> {
    fn check_all(&mut self) {
        for (id, worker) in std::mem::take(&mut self.workers) {
            self.no_worker_died_while_beating(id, &worker);
            self.no_outage_killed(id, &worker);
            self.lost_sessions_have_a_cause(id, &worker);
            self.each_settlement_has_its_death(id, &worker);
            self.the_ledger_counts_what_was_settled(id, &worker);
            self.deaths_are_in_a_row(id, &worker);
            self.the_log_has_each_death_once(id, &worker);
            self.answers_grow(id, &worker);
            self.answers_come_after_the_settlement(id, &worker);
            self.deaths_know_the_last_heartbeat(id, &worker);
            self.the_row_has_the_last_heartbeat(id, &worker);
            self.errors_are_explained(id, &worker);
        }
        self.nothing_of_the_dead_runs();
        self.those_left_dead_are_in_the_ledger();
        self.jobs_are_finished_once();
        self.acknowledged_results_stay();
    }

    fn accuse(&mut self, rule: Rule, worker: &str, at: Time, text: String) {
        self.violations.push(Violation { rule, worker: worker.into(), at, text });
    }

    /// How long a worker must not have been heard for this death.
    fn silence_for(&self, death: &Death) -> Time {
        if death.is_of_lost_session() { self.history.grace } else { self.history.threshold }
    }

    /// Whoever was told number n or less within a threshold before death n was not silent; within a grace, if its
    /// session was lost. A crash is no excuse: after it, nobody is judged before a whole threshold has passed.
    fn no_worker_died_while_beating(&mut self, id: &str, worker: &Worker<'_>) {
        for death in worker.deaths.iter().filter(|death| death.is_of_silence()) {
            let cutoff = death.declared_dead_at - self.silence_for(death);
            let heard = |(call, number): &(&Call, i64)| *number <= death.incarnation && call.begin >= cutoff;
            if let Some((call, _)) = worker.answers().find(heard) {
                let silence = milliseconds(death.declared_dead_at - call.begin);
                let text = format!("death {} was declared {silence} ms after a heartbeat", death.incarnation);
                self.accuse(Rule::SettledOnlyWhenDead, id, death.declared_dead_at, text);
            }
        }
    }

    /// What happened during an outage may have been before or after the moment that the server lost its memory.
    fn no_outage_killed(&mut self, id: &str, worker: &Worker<'_>) {
        for death in worker.deaths.iter().filter(|death| death.is_of_silence()) {
            let at = death.declared_dead_at;
            let silence = self.silence_for(death);
            let is_early = |outage: &&Outage| outage.end <= at && at <= outage.begin + silence;
            if let Some(outage) = self.history.outages.iter().find(is_early) {
                let since = milliseconds(at - outage.begin);
                let text =
                    format!("death {} was declared {since} ms after an outage began", death.incarnation);
                self.accuse(Rule::SettledOnlyWhenDead, id, at, text);
            }
        }
    }

    /// Only processes that are killed, or end, lose their sessions without a word; and who is heard after that is
    /// alive.
    fn lost_sessions_have_a_cause(&mut self, id: &str, worker: &Worker<'_>) {
        let kills = [format!("kill -9 {id}"), "kill half of the workers for good".to_owned()];
        let (kills_one, leave) = (format!("kill -9 {id}, "), format!("{id} is asked to leave"));
        // When a session may have been lost at the latest.
        let end = |fault: &Fault| match fault.text.as_str() {
            text if text == leave => Some(fault.end + LEAVING),
            text if kills.iter().any(|kill| kill == text) || text.starts_with(&kills_one) => Some(fault.end),
            _ => None,
        };
        for death in worker.deaths.iter().filter(|death| death.is_of_lost_session()) {
            let at = death.declared_dead_at;
            let told =
                worker.answers().filter(|(call, number)| *number <= death.incarnation && call.begin < at);
            let heard = told.map(|(call, _)| call.begin).max().unwrap_or(Time::MIN);
            let is_cause = |fault: &Fault| fault.begin < at && end(fault).is_some_and(|end| end >= heard);
            if !self.history.faults.iter().any(is_cause) {
                let text = format!(
                    "death {} is of a lost session, and no process was killed since it was heard",
                    death.incarnation
                );
                self.accuse(Rule::SettledOnlyWhenDead, id, at, text);
            }
        }
    }

    /// The last death before a settlement is the reason of it: the job is of that life or an earlier one, and the
    /// worker had not been told the next number yet.
    fn each_settlement_has_its_death(&mut self, id: &str, worker: &Worker<'_>) {
        for change in worker.settled() {
            let (job, at) = (change.job, change.at);
            let reason = worker.deaths.iter().rfind(|death| death.declared_dead_at <= at);
            let Some(death) = reason else {
                self.accuse(
                    Rule::SettledOnlyWhenDead,
                    id,
                    at,
                    format!("job {job} was settled without a death"),
                );
                continue;
            };
            let number = death.incarnation;
            if change.claimed_under > number {
                let claimed = change.claimed_under;
                let text =
                    format!("job {job}, claimed under {claimed}, was settled because of death {number}");
                self.accuse(Rule::ReturnsWait, id, at, text);
            }
            if worker.told_above(number).is_some_and(|told| told < at && !self.jobs_were_locked(id, told)) {
                let text = format!("job {job} was settled after the return from death {number}");
                self.accuse(Rule::SettledOnlyWhenDead, id, at, text);
            }
        }
    }

    fn the_ledger_counts_what_was_settled(&mut self, id: &str, worker: &Worker<'_>) {
        let counted: i64 = worker.deaths.iter().map(|death| death.jobs_failed).sum();
        let settled = worker.settled().count();
        if usize::try_from(counted) != Ok(settled) {
            let text = format!("{settled} jobs were settled, and the ledger counts {counted}");
            self.accuse(Rule::DeadOnce, id, self.history.read_at, text);
        }
    }

    /// Numbers without a gap but for a promotion's, and a return between two deaths.
    fn deaths_are_in_a_row(&mut self, id: &str, worker: &Worker<'_>) {
        let mut before: Option<&Death> = None;
        for death in &worker.deaths {
            let next = before.map_or(1, |before| before.incarnation + 1);
            if death.incarnation != next && !self.begins_anew(before, death) {
                let text = format!("death {} is in the place of death {next}", death.incarnation);
                self.accuse(Rule::DeadOnce, id, death.declared_dead_at, text);
            }
            before = Some(death);
        }
        for pair in worker.deaths.windows(2) {
            if pair[0].returned_at.is_none_or(|returned| returned > pair[1].declared_dead_at) {
                let text = format!("death {} follows without a return", pair[1].incarnation);
                self.accuse(Rule::DeadOnce, id, pair[1].declared_dead_at, text);
            }
        }
    }

    /// Whether a number may be the first that the worker got after a promotion: those begin at the seconds since 1970,
    /// or above all that were given before.
    fn begins_anew(&self, before: Option<&Death>, death: &Death) -> bool {
        let number = death.incarnation;
        self.history.outages.iter().filter(|outage| outage.begin < death.declared_dead_at).any(|outage| {
            let base = outage.begin / SECOND;
            before.is_none_or(|before| before.incarnation < base)
                && (base..=death.declared_dead_at / SECOND + self.deaths()).contains(&number)
        })
    }

    fn deaths(&self) -> i64 {
        i64::try_from(self.history.deaths.len()).unwrap_or(i64::MAX)
    }

    /// The line is written after the commit, so that a crash may come between them.
    fn the_log_has_each_death_once(&mut self, id: &str, worker: &Worker<'_>) {
        let lines = self.history.log.iter().filter(|line| *line == id).count();
        let is_excused = |death: &&&Death| {
            let at = death.declared_dead_at;
            self.history.outages.iter().any(|outage| at < outage.end && outage.begin < at + 3 * SECOND)
        };
        let deaths = worker.deaths.len();
        let excused = worker.deaths.iter().filter(is_excused).count();
        if lines > deaths || lines + excused < deaths {
            let text = format!("{deaths} deaths, {lines} lines in the log");
            self.accuse(Rule::DeadOnce, id, self.history.read_at, text);
        }
    }

    /// Whoever asks after an answer is told at least as much; who registers, more, if the one before had not left.
    fn answers_grow(&mut self, id: &str, worker: &Worker<'_>) {
        let left = |since: Time| {
            let is_leave = |call: &&&Call| match &call.what {
                What::Deregistered => true,
                What::Failed { call, .. } => call == "deregister",
                _ => false,
            };
            worker.calls.iter().filter(is_leave).any(|call| call.end >= since)
        };
        for (call, number) in worker.answers() {
            let before = worker.answers().filter(|(earlier, _)| earlier.end < call.begin);
            let Some((earlier, highest)) = before.max_by_key(|(_, number)| *number) else { continue };
            let registers = matches!(call.what, What::Registered { .. });
            if number < highest || registers && number == highest && !left(earlier.begin) {
                let text = format!("told {number} after {highest}");
                self.accuse(Rule::IncarnationsGrow, id, call.end, text);
            }
        }
    }

    /// Whether jobs of a worker may have been locked when it was told a number: by a session of ours, or by a process
    /// of its own that stands still. Such jobs are noted, and settled later if nobody has changed them.
    fn jobs_were_locked(&self, id: &str, told: Time) -> bool {
        let (locks, replaces) = (format!("lock the jobs of {id} for"), format!("pause {id}, start another"));
        self.history.faults.iter().any(|fault| {
            let is_such = fault.text.starts_with(&locks) || fault.text.starts_with(&replaces);
            is_such && (fault.begin..=fault.end + LEFT_BEHIND).contains(&told)
        })
    }

    /// A job of an earlier life that was claimed for certain before the return is settled when the worker is told.
    fn answers_come_after_the_settlement(&mut self, id: &str, worker: &Worker<'_>) {
        let claims: HashMap<i64, Time> = worker.calls.iter().filter_map(|call| claim(call)).collect();
        for death in &worker.deaths {
            let told = worker.told_above(death.incarnation);
            let Some((returned, told)) = death.returned_at.zip(told) else { continue };
            for (job, changes) in &worker.changes {
                let of_that_life = changes
                    .iter()
                    .any(|change| change.new == "running" && change.claimed_under <= death.incarnation);
                let was_claimed = claims.get(job).is_some_and(|end| *end < returned);
                let ended = changes.iter().find(|change| change.old == "running").map(|change| change.at);
                let is_late = ended.is_none_or(|ended| ended > told) && !self.jobs_were_locked(id, told);
                if of_that_life && was_claimed && is_late {
                    let text =
                        format!("job {job} of life {} still ran when the next was told", death.incarnation);
                    self.accuse(Rule::ReturnsWait, id, told, text);
                }
            }
        }
    }

    /// What the server lost with its memory is excused, if it was not in memory for too long already.
    fn deaths_know_the_last_heartbeat(&mut self, id: &str, worker: &Worker<'_>) {
        for death in worker.deaths.iter().filter(|death| death.is_of_silence()) {
            let forgotten = worker
                .answers()
                .filter(|(call, number)| *number <= death.incarnation && call.begin > death.last_heartbeat_at)
                .find(|(call, _)| !self.may_be_lost(call, death.declared_dead_at));
            if let Some((call, _)) = forgotten {
                let by = milliseconds(call.begin - death.last_heartbeat_at);
                let text = format!("death {} knows of no heartbeat of the last {by} ms", death.incarnation);
                self.accuse(Rule::HeartbeatsAreKept, id, death.declared_dead_at, text);
            }
        }
    }

    fn the_row_has_the_last_heartbeat(&mut self, id: &str, worker: &Worker<'_>) {
        let Some(row) = self.history.rows.iter().find(|row| row.worker == id) else { return };
        let written_by = self.history.read_at - self.history.unwritten;
        let forgotten = worker
            .answers()
            .filter(|(call, _)| call.begin > row.last_heartbeat_at && call.end < written_by)
            .find(|(call, _)| !self.may_be_lost(call, self.history.read_at));
        if let Some((call, _)) = forgotten {
            let by = milliseconds(call.begin - row.last_heartbeat_at);
            let text = format!("its row is {by} ms older than a heartbeat of long ago");
            self.accuse(Rule::HeartbeatsAreKept, id, call.end, text);
        }
    }

    fn may_be_lost(&self, call: &Call, until: Time) -> bool {
        self.history.outages.iter().any(|outage| {
            outage.begin < until
                && outage.begin - self.history.unwritten < call.end
                && call.begin < outage.end
        })
    }

    /// The server may be away, and locks may be held for too long.
    fn errors_are_explained(&mut self, id: &str, worker: &Worker<'_>) {
        for call in &worker.calls {
            if let What::Failed { call: name, sqlstate: Some(sqlstate), message } = &call.what {
                // Shutdown, crash, not yet up, a standby; a job that stays locked.
                let explained = ["57P01", "57P02", "57P03", "25006", "55P03"];
                if !explained.contains(&sqlstate.as_str()) {
                    let text = format!("{name}: {sqlstate} {message}");
                    self.accuse(Rule::NoOtherErrors, id, call.end, text);
                }
            }
        }
    }
}

/// A job, and when its claim was known.
fn claim(call: &Call) -> Option<(i64, Time)> {
    match call.what {
        What::Claimed { job, .. } => Some((job, call.end)),
        _ => None,
    }
}

fn milliseconds(time: Time) -> Time {
    time / 1_000
}
