//! Keepers that failed a moment ago, to be asked last. Pure: the caller says what time it is.
//!
//! A keeper that answered late a few times in a row, while another was quicker, counts as failed too: a stopped
//! one would else cost a hedge's delay for every range that begins with it. One late answer means nothing.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use dfs_proto::ids::KeeperId;

/// How long a failure is remembered.
const REMEMBERED: Duration = Duration::from_secs(5);
/// Late answers in a row that count as a failure.
const LATE_IN_A_ROW: u32 = 3;

#[derive(Default)]
struct Record {
    failed_at: Option<Instant>,
    late_in_a_row: u32,
}

/// See the module.
#[derive(Default)]
pub(super) struct Suspects {
    keepers: HashMap<KeeperId, Record>,
}

impl Suspects {
    /// It refused, broke the connection, or could not be reached.
    pub(super) fn failed(&mut self, keeper: KeeperId, now: Instant) {
        self.keepers.entry(keeper).or_default().failed_at = Some(now);
    }

    /// Another copy was quicker although it was asked later.
    pub(super) fn late(&mut self, keeper: KeeperId, now: Instant) {
        let record = self.keepers.entry(keeper).or_default();
        record.late_in_a_row += 1;
        if record.late_in_a_row >= LATE_IN_A_ROW {
            record.failed_at = Some(now);
        }
    }

    /// It answered well.
    pub(super) fn answered(&mut self, keeper: KeeperId) {
        self.keepers.remove(&keeper);
    }

    /// Is it to be asked last?
    pub(super) fn is_suspect(&self, keeper: KeeperId, now: Instant) -> bool {
        let failed_at = self.keepers.get(&keeper).and_then(|record| record.failed_at);
        failed_at.is_some_and(|at| now.saturating_duration_since(at) < REMEMBERED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEPER: KeeperId = KeeperId(1);

    #[test]
    fn a_failure_is_remembered_for_a_while() {
        let now = Instant::now();
        let mut suspects = Suspects::default();
        suspects.failed(KEEPER, now);
        assert!(suspects.is_suspect(KEEPER, now + REMEMBERED / 2));
        assert!(!suspects.is_suspect(KEEPER, now + REMEMBERED));
        assert!(!suspects.is_suspect(KeeperId(2), now));
    }

    #[test]
    fn one_late_answer_means_nothing_but_several_in_a_row_do() {
        let now = Instant::now();
        let mut suspects = Suspects::default();
        for _ in 0..10 {
            suspects.late(KEEPER, now);
            suspects.late(KEEPER, now);
            assert!(!suspects.is_suspect(KEEPER, now));
            suspects.answered(KEEPER);
        }
        (0..LATE_IN_A_ROW).for_each(|_| suspects.late(KEEPER, now));
        assert!(suspects.is_suspect(KEEPER, now));
    }

    #[test]
    fn a_good_answer_clears_it() {
        let now = Instant::now();
        let mut suspects = Suspects::default();
        suspects.failed(KEEPER, now);
        suspects.answered(KEEPER);
        assert!(!suspects.is_suspect(KEEPER, now));
    }
}
