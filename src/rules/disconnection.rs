//! When a worker is dead whose session has ended because its client vanished.
//!
//! A process that is killed closes its connections, and the server sees it at once. A network that breaks looks the
//! same, and so does a pooler that is killed: then many sessions end at the same time, and nothing is known of any
//! worker but its silence.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::liveness::{delta, latest_credible, silence};

/// Losses within this time belong together, however short the grace is.
const SHORTEST_WINDOW: Duration = Duration::from_secs(5);

/// While a row stays locked, the death is tried again after this, or after a twentieth of the time that it has been.
const SHORTEST_RETRY_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_RETRY_PAUSE: Duration = Duration::from_secs(5);

/// In the place of a host: the worker has named none.
pub const UNKNOWN_HOST: u32 = 0;

/// What is asked of a worker before it is declared dead because of its session.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long it may take to be heard again.
    pub grace: Duration,
    /// How much longer, because no client could connect.
    pub excuse: Duration,
    /// With more than this share of the sessions lost within one window,
    pub fraction: f64,
    /// and more than this number, silence decides.
    pub minimum: usize,
}

impl Limits {
    /// Losses that are no further apart belong together.
    pub fn window(&self) -> Duration {
        window(self.grace)
    }
}

/// Losses that are no further apart than this belong together.
pub fn window(grace: Duration) -> Duration {
    grace.max(SHORTEST_WINDOW)
}

/// The loss of a worker's session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// When the session ended.
    pub at: DateTime<Utc>,
    /// A hash of the client's address.
    pub address: u32,
    /// A hash of the worker's host, or [`UNKNOWN_HOST`].
    pub host: u32,
}

fn apart(one: DateTime<Utc>, other: DateTime<Utc>) -> Duration {
    (one - other).abs().to_std().unwrap_or(Duration::MAX)
}

/// What is to be done about a worker whose session was lost and that was not heard since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may still be heard, until then.
    Waits(DateTime<Utc>),
    /// It is dead.
    Dead,
    /// It was lost together with so many others that silence decides.
    Together,
    /// It was lost before silence counts, or by another clock, so silence decides.
    OtherTime,
}

/// Judges the loss of a worker's session. `is_together` says whether it is one of too many.
pub fn judge(
    lost_at: DateTime<Utc>,
    is_together: bool,
    limits: &Limits,
    observing_since: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Verdict {
    if lost_at < observing_since || lost_at > latest_credible(now) {
        return Verdict::OtherTime;
    }
    if is_together {
        return Verdict::Together;
    }
    let end = lost_at + delta(limits.grace) + delta(limits.excuse);
    if now < end { Verdict::Waits(end) } else { Verdict::Dead }
}

/// Whether so many sessions were lost together that it was the network: of the sessions that workers were tied to,
/// `kept` are still there.
#[allow(clippy::cast_precision_loss, reason = "exact for more sessions than fit anywhere")]
pub fn is_mass(lost: usize, kept: usize, limits: &Limits) -> bool {
    lost > limits.minimum && lost as f64 > limits.fraction * (lost + kept) as f64
}

/// When a death is tried again that was due at `due` and whose row is locked.
pub fn retry_at(due: DateTime<Utc>, now: DateTime<Utc>) -> DateTime<Utc> {
    now + delta((silence(now, due) / 20).clamp(SHORTEST_RETRY_PAUSE, LONGEST_RETRY_PAUSE))
}

/// The losses among which a pooler is looked for: those of one address, where there is more than one host.
#[derive(Default)]
pub struct ByAddress(HashMap<u32, Vec<Loss>>);

impl FromIterator<Loss> for ByAddress {
    fn from_iter<T: IntoIterator<Item = Loss>>(losses: T) -> Self {
        let mut by_address: HashMap<u32, Vec<Loss>> = HashMap::new();
        for loss in losses {
            by_address.entry(loss.address).or_default().push(loss);
        }
        let has_hosts = |losses: &[Loss]| {
            let differs = |loss: &Loss| loss.host == UNKNOWN_HOST || loss.host != losses[0].host;
            losses.len() > 1 && losses.iter().any(differs)
        };
        by_address.retain(|_, losses| has_hosts(losses));
        Self(by_address)
    }
}

impl ByAddress {
    /// Whether workers of other hosts, or of hosts that are not known, were lost together with this one, from its
    /// address. It is among them itself.
    pub fn are_of_a_pooler(&self, loss: &Loss, window: Duration) -> bool {
        let Some(losses) = self.0.get(&loss.address) else { return false };
        let mut together = losses.iter().filter(|other| apart(loss.at, other.at) <= window);
        match loss.host {
            UNKNOWN_HOST => together.nth(1).is_some(),
            host => together.any(|other| other.host != host),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { grace: Duration::from_secs(5), excuse: Duration::ZERO, fraction: 0.5, minimum: 10 };

    fn at(milliseconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_700_000_000_000 + milliseconds).unwrap()
    }

    fn loss(milliseconds: i64) -> Loss {
        Loss { at: at(milliseconds), address: 1, host: 1 }
    }

    fn verdict(limits: &Limits, now: i64) -> Verdict {
        judge(at(0), false, limits, at(-10_000), at(now))
    }

    #[test]
    fn a_worker_is_dead_when_its_grace_is_over_and_not_before() {
        assert_eq!(verdict(&LIMITS, 0), Verdict::Waits(at(5_000)));
        assert_eq!(verdict(&LIMITS, 4_999), Verdict::Waits(at(5_000)));
        assert_eq!(verdict(&LIMITS, 5_000), Verdict::Dead);
    }

    #[test]
    fn without_a_grace_it_is_dead_at_once() {
        assert_eq!(verdict(&Limits { grace: Duration::ZERO, ..LIMITS }, 0), Verdict::Dead);
    }

    #[test]
    fn time_in_which_nobody_could_connect_is_added_to_the_grace() {
        let limits = Limits { excuse: Duration::from_secs(3), ..LIMITS };
        assert_eq!(verdict(&limits, 7_999), Verdict::Waits(at(8_000)));
        assert_eq!(verdict(&limits, 8_000), Verdict::Dead);
    }

    #[test]
    fn a_session_that_ended_before_the_server_could_hear_proves_nothing() {
        let judge = |since| judge(at(0), false, &LIMITS, at(since), at(60_000));
        assert_eq!(judge(1), Verdict::OtherTime);
        assert_eq!(judge(0), Verdict::Dead);
    }

    #[test]
    fn a_session_that_ended_in_the_future_proves_nothing() {
        let judge = |now| judge(at(0), false, &LIMITS, at(-3_600_000), at(now));
        assert_eq!(judge(-1_001), Verdict::OtherTime, "the clock was set back");
        assert_eq!(judge(-1_000), Verdict::Waits(at(5_000)));
    }

    #[test]
    fn more_than_half_of_the_sessions_are_the_network() {
        assert!(!is_mass(11, 11, &LIMITS));
        assert!(is_mass(12, 11, &LIMITS));
        assert!(is_mass(11, 0, &LIMITS));
        assert_eq!(judge(at(0), true, &LIMITS, at(-1), at(60_000)), Verdict::Together);
    }

    #[test]
    fn a_few_sessions_are_never_the_network() {
        assert!(!is_mass(10, 0, &LIMITS));
        assert!(!is_mass(1, 0, &LIMITS));
        assert!(is_mass(1, 0, &Limits { minimum: 0, ..LIMITS }));
    }

    #[test]
    fn with_a_share_of_one_nothing_is_the_network() {
        assert!(!is_mass(1_000, 0, &Limits { fraction: 1.0, ..LIMITS }));
        assert!(is_mass(11, 100_000, &Limits { fraction: 0.0, ..LIMITS }));
    }

    /// Whether the first of these is one of a pooler's.
    fn is_of_a_pooler(losses: &[Loss]) -> bool {
        ByAddress::from_iter(losses.iter().copied()).are_of_a_pooler(&losses[0], LIMITS.window())
    }

    #[test]
    fn one_address_with_two_hosts_is_a_pooler() {
        assert!(is_of_a_pooler(&[loss(0), Loss { host: 2, ..loss(100) }]));
        assert!(is_of_a_pooler(&[loss(0), loss(50), Loss { host: 2, ..loss(-100) }]));
        assert!(is_of_a_pooler(&[loss(0), Loss { host: UNKNOWN_HOST, ..loss(100) }]));
    }

    #[test]
    fn processes_of_one_host_may_die_together() {
        assert!(!is_of_a_pooler(&[loss(0), loss(0), loss(100)]));
    }

    #[test]
    fn two_addresses_are_no_pooler() {
        assert!(!is_of_a_pooler(&[loss(0), Loss { host: 2, address: 2, ..loss(100) }]));
    }

    #[test]
    fn hosts_that_are_not_known_may_be_two() {
        let unknown = Loss { host: UNKNOWN_HOST, ..loss(0) };
        assert!(is_of_a_pooler(&[unknown, unknown]));
        assert!(!is_of_a_pooler(&[unknown]), "one worker alone");
        assert!(!is_of_a_pooler(&[unknown, Loss { at: at(9_000), ..unknown }]));
    }

    #[test]
    fn what_is_lost_later_than_a_window_is_another_event() {
        let later = |milliseconds| Loss { host: 2, ..loss(milliseconds) };
        assert!(is_of_a_pooler(&[loss(0), later(5_000)]));
        assert!(!is_of_a_pooler(&[loss(0), later(5_001)]));
        assert_eq!(window(Duration::from_secs(60)), Duration::from_secs(60));
        assert_eq!(window(Duration::ZERO), Duration::from_secs(5), "at least five seconds");
    }

    #[test]
    fn a_locked_row_is_tried_again_at_once_and_then_less_often() {
        assert_eq!(retry_at(at(0), at(0)), at(20));
        assert_eq!(retry_at(at(0), at(1_000)), at(1_050));
        assert_eq!(retry_at(at(0), at(3_600_000)), at(3_605_000));
    }
}
