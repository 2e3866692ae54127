//! Keepers that failed a moment ago, to be asked last. Pure: the caller says what time it is.
//!
//! One that fails again as soon as it is trusted again, without a good answer between, is remembered twice as long
//! each time: who is away for long is not tried every few seconds. A keeper that answered late a few times in a row, while another was quicker, counts as failed too: a stopped
//! one would else cost a hedge's delay for every range that begins with it. One late answer means nothing.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use dfs_proto::ids::KeeperId;

/// How long a failure is remembered, the first time,
const REMEMBERED: Duration = Duration::from_secs(5);
/// and at most.
const LONGEST: Duration = Duration::from_secs(60);
/// Late answers in a row that count as a failure.
const LATE_IN_A_ROW: u32 = 3;

#[derive(Default)]
struct Record {
    failed_at: Option<Instant>,
    remembered: Duration,
    late_in_a_row: u32,
}

/// See the module.
#[derive(Default)]
pub(super) struct Suspects {
    keepers: HashMap<KeeperId, Record>,
}

impl Record {
    fn failed(&mut self, now: Instant) {
        if !self.is_suspect(now) {
            self.remembered = (self.remembered * 2).clamp(REMEMBERED, LONGEST);
        }
        self.failed_at = Some(now);
    }

    fn is_suspect(&self, now: Instant) -> bool {
        self.failed_at.is_some_and(|at| now.saturating_duration_since(at) < self.remembered)
    }
}

impl Suspects {
    /// It refused, broke the connection, or could not be reached.
    pub(super) fn failed(&mut self, keeper: KeeperId, now: Instant) {
        self.keepers.entry(keeper).or_default().failed(now);
    }

    /// Another copy was quicker although it was asked later.
    pub(super) fn late(&mut self, keeper: KeeperId, now: Instant) {
        let record = self.keepers.entry(keeper).or_default();
        record.late_in_a_row += 1;
        if record.late_in_a_row >= LATE_IN_A_ROW {
            record.failed(now);
        }
    }

    /// It answered well.
    pub(super) fn answered(&mut self, keeper: KeeperId) {
        self.keepers.remove(&keeper);
    }

    /// Is it to be asked last?
    pub(super) fn is_suspect(&self, keeper: KeeperId, now: Instant) -> bool {
        self.keepers.get(&keeper).is_some_and(|record| record.is_suspect(now))
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
    fn who_fails_again_is_remembered_longer() {
        let mut now = Instant::now();
        let mut suspects = Suspects::default();
        for seconds in [5, 10, 20, 40, 60, 60] {
            suspects.failed(KEEPER, now);
            now += Duration::from_secs(seconds);
            assert!(suspects.is_suspect(KEEPER, now.checked_sub(Duration::from_millis(1)).unwrap()));
            assert!(!suspects.is_suspect(KEEPER, now), "{seconds}");
        }
        suspects.answered(KEEPER);
        suspects.failed(KEEPER, now);
        assert!(!suspects.is_suspect(KEEPER, now + REMEMBERED));
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
