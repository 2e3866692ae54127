//! The master's clock as this machine knows it. Pure: the caller says what time it is here.
//!
//! Each exchange with the master gives a sample: what its clock showed, and how long the exchange took. The
//! error of a sample is at most half of that, so that the quickest of the last ones is believed.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};

use dfs_proto::pb;

/// Samples that are kept: of eight seconds, with two pings a second.
const SAMPLES: usize = 16;

/// A step back by more than this was done to the master's clock on purpose, and is followed.
const STEP_BACK: Duration = Duration::from_secs(1);

struct Sample {
    here: Instant,
    master: SystemTime,
    round_trip: Duration,
}

/// See the module.
#[derive(Default)]
pub(super) struct Clock {
    samples: VecDeque<Sample>,
    last: Option<SystemTime>,
}

impl Clock {
    /// Takes in that the master's clock showed `master` at some time in the `round_trip` that ended at `here`.
    pub(super) fn learn(&mut self, master: pb::Time, here: Instant, round_trip: Duration) {
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        let master = SystemTime::from(master);
        let master = master.checked_add(round_trip / 2).unwrap_or(master);
        self.samples.push_back(Sample { here, master, round_trip });
    }

    /// Forgets what another master process said.
    pub(super) fn reset(&mut self) {
        self.samples.clear();
    }

    /// The master's clock at `here`.
    pub(super) fn now(&mut self, here: Instant) -> pb::Time {
        let best = self.samples.iter().min_by_key(|sample| sample.round_trip);
        let believed = best
            .and_then(|sample| sample.master.checked_add(here.saturating_duration_since(sample.here)))
            .unwrap_or_else(SystemTime::now);
        let now = match self.last {
            Some(last) if last > believed && last.duration_since(believed).is_ok_and(|by| by < STEP_BACK) => {
                last
            }
            _ => believed,
        };
        self.last = Some(now);
        pb::Time::from(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> pb::Time {
        pb::Time { sec: ms / 1000, nsec: (ms % 1000) as u32 * 1_000_000 }
    }

    #[test]
    fn the_quickest_sample_is_believed() {
        let start = Instant::now();
        let mut clock = Clock::default();
        clock.learn(at(1_000_000), start, Duration::from_millis(2));
        clock.learn(at(1_005_000), start + Duration::from_secs(1), Duration::from_millis(800));
        assert_eq!(clock.now(start + Duration::from_secs(2)), at(1_002_001));
    }

    #[test]
    fn it_does_not_go_back_by_a_little() {
        let start = Instant::now();
        let mut clock = Clock::default();
        clock.learn(at(1_000_000), start, Duration::from_millis(4));
        let before = clock.now(start);
        clock.learn(at(999_900), start, Duration::ZERO);
        assert_eq!(clock.now(start), before);
    }

    #[test]
    fn it_follows_a_master_whose_clock_was_set_back() {
        let start = Instant::now();
        let mut clock = Clock::default();
        clock.learn(at(1_000_000), start, Duration::ZERO);
        clock.now(start);
        clock.reset();
        clock.learn(at(900_000), start, Duration::ZERO);
        assert_eq!(clock.now(start), at(900_000));
    }
}
