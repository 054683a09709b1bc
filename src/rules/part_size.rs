//! How many rows a flush writes at once: few while heartbeats arrive, many while nobody beats.

/// Few enough that a worker which must write its own row does not wait long, and that a processor is soon free again for
/// heartbeats that arrive meanwhile. Many enough that the cost of a transaction hardly matters.
const FEW: usize = 5_000;

/// Enough for one join with the whole table, which is faster than a look-up for each row.
const MANY: usize = 250_000;

/// So many rows are written without a heartbeat of their workers before more are written at once. Of a million workers
/// that beat every 30 seconds, so many are silent for that long once in about 10,000 times, computed from parts of 15 ms.
const QUIET: usize = 4 * FEW;

/// The size of the next part.
#[derive(Debug, Default)]
pub struct PartSize {
    /// Rows that were written since the last heartbeat that was noticed.
    quiet: usize,
}

impl PartSize {
    /// How many rows the next part has at most.
    pub fn rows(&self) -> usize {
        if self.quiet < QUIET { FEW } else { MANY }
    }

    /// A part of so many rows is written. `is_beating`: one of its workers has sent a heartbeat meanwhile.
    pub fn part_ends(&mut self, rows: usize, is_beating: bool) {
        self.quiet = if is_beating { 0 } else { self.quiet + rows };
    }
}

/// Whether a part is one for which the whole table is joined.
pub fn is_large(rows: usize) -> bool {
    rows > FEW
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_large_while_nobody_beats() {
        let mut size = PartSize::default();
        for _ in 0..4 {
            assert_eq!(size.rows(), FEW);
            size.part_ends(FEW, false);
        }
        assert_eq!(size.rows(), MANY);
        size.part_ends(MANY, false);
        assert_eq!(size.rows(), MANY);
        size.part_ends(MANY, true);
        assert_eq!(size.rows(), FEW, "one heartbeat is enough");
        (0..3).for_each(|_| size.part_ends(FEW, false));
        size.part_ends(FEW, true);
        assert_eq!(size.rows(), FEW, "it begins anew");
    }
}
