//! Shows what was found: the numbers of a run, and of each violation the part of the history around it.

use crate::checker::Violation;
use crate::history::{Call, History, SECOND, Time, What};

/// Violations that are shown; the others are like them, as a rule.
const SHOWN: usize = 8;

/// How much of a history is shown before and after a violation.
const BEFORE: Time = 8 * SECOND;
const AFTER: Time = SECOND;

/// What happened, in a few lines; and what a run without would prove nothing about.
pub fn summary(history: &History) -> (String, Vec<&'static str>) {
    let calls = |condition: fn(&Call) -> bool| history.calls.iter().filter(|call| condition(call)).count();
    let deaths = |reason: &str| history.deaths.iter().filter(|death| death.reason == reason).count();
    let changes = |new: &str| history.changes.iter().filter(|change| change.new == new).count();
    let returns =
        history.deaths.iter().filter(|death| death.is_of_silence() && death.returned_at.is_some()).count();
    let counts = [
        ("heartbeats answered", calls(|call| matches!(call.what, What::Beat { .. }))),
        ("registrations", calls(|call| matches!(call.what, What::Registered { .. }))),
        ("calls that failed", calls(|call| matches!(call.what, What::Failed { .. }))),
        ("jobs claimed", changes("running")),
        ("jobs completed", changes("completed")),
        ("jobs settled", changes("failed")),
        ("results refused", calls(|call| matches!(call.what, What::Refused { .. }))),
        ("deaths by silence", deaths("stale")),
        ("deaths by a lost session", deaths("disconnected")),
        ("returns from them", returns),
        ("deaths by a new registration", deaths("restarted")),
        ("outages", history.outages.len()),
    ];
    let lines: Vec<String> = counts.iter().map(|(what, count)| format!("{count:8} {what}")).collect();
    let never = [
        "jobs settled",
        "deaths by silence",
        "deaths by a lost session",
        "returns from them",
        "deaths by a new registration",
        "outages",
    ];
    let never = counts.iter().filter(|(what, count)| *count == 0 && never.contains(what));
    (lines.join("\n"), never.map(|(what, _)| *what).collect())
}

/// The violations, each with what happened to its worker and to the server around that time.
pub fn tell(history: &History, violations: &[Violation], started: Time) -> String {
    let shown: Vec<String> =
        violations.iter().take(SHOWN).map(|violation| one(history, violation, started)).collect();
    let more = violations.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!("\nand {more} more") } else { String::new() };
    shown.join("\n") + &more
}

fn one(history: &History, violation: &Violation, started: Time) -> String {
    let Violation { rule, worker, at, text } = violation;
    let (from, to) = (at - BEFORE, at + AFTER);
    let mut lines: Vec<(Time, String)> = Vec::new();
    let calls = history.calls.iter().filter(|call| call.worker == *worker);
    lines.extend(calls.map(|call| {
        (
            call.end,
            format!("process {}: {:?}, {} ms", call.process, call.what, (call.end - call.begin) / 1_000),
        )
    }));
    for fault in history.faults.iter().filter(|fault| concerns(&fault.text, worker)) {
        lines.push((fault.begin, format!("begins: {}", fault.text)));
        lines.push((fault.end, format!("is over: {}", fault.text)));
    }
    let changes = history.changes.iter().filter(|change| change.worker == *worker);
    lines.extend(changes.map(|change| {
        (
            change.at,
            format!(
                "job {} {} -> {}, claimed under {}",
                change.job, change.old, change.new, change.claimed_under
            ),
        )
    }));
    for death in history.deaths.iter().filter(|death| death.worker == *worker) {
        let number = death.incarnation;
        lines.push((death.last_heartbeat_at, format!("last heartbeat before death {number}")));
        lines.push((
            death.declared_dead_at,
            format!("death {number}, {}, jobs failed: {}", death.reason, death.jobs_failed),
        ));
        lines.extend(death.returned_at.map(|at| (at, format!("return from death {number}"))));
    }
    lines.retain(|(time, _)| (from..=to).contains(time));
    lines.push((*at, format!("--> {rule:?}: {text}")));
    lines.sort();
    let lines: Vec<String> =
        lines.iter().map(|(time, line)| format!("  {:9.3} s  {line}", seconds(time - started))).collect();
    format!("{worker}: {rule:?}: {text}\n{}\n", lines.join("\n"))
}

/// Whether a fault was done to this worker, or to nobody in particular.
fn concerns(fault: &str, worker: &str) -> bool {
    let mut words = fault.split([' ', ',']);
    !fault.contains("worker-") || words.any(|word| word == worker)
}

#[allow(clippy::cast_precision_loss, reason = "for people to read")]
fn seconds(time: Time) -> f64 {
    time as f64 / 1e6
}
