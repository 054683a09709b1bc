//! What the torturer writes down while it is at work, and shows.

use crate::history::{Fault, Outage, Time, now};
use std::sync::Mutex;

/// Shared by the threads that do the faults.
pub struct Notes {
    pub started: Time,
    taken: Mutex<(Vec<Fault>, Vec<Outage>)>,
}

impl Notes {
    pub fn new() -> Self {
        Self { started: now(), taken: Mutex::default() }
    }

    /// Does something and notes when it began and ended.
    pub fn during<T>(&self, text: &str, work: impl FnOnce() -> T) -> T {
        let begin = now();
        let done = work();
        let end = now();
        println!("[{:7.3} s] {text} ({} ms)", self.seconds(begin), (end - begin) / 1_000);
        self.taken.lock().expect("notes").0.push(Fault { begin, end, text: text.into() });
        done
    }

    /// Does something that empties the server's memory.
    pub fn outage(&self, text: &str, work: impl FnOnce()) {
        let begin = now();
        self.during(text, work);
        self.taken.lock().expect("notes").1.push(Outage { begin, end: now() });
    }

    pub fn into_parts(self) -> (Vec<Fault>, Vec<Outage>) {
        self.taken.into_inner().expect("notes")
    }

    #[allow(clippy::cast_precision_loss, reason = "for people to read")]
    fn seconds(&self, at: Time) -> f64 {
        (at - self.started) as f64 / 1e6
    }
}
