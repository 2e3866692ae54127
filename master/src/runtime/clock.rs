//! The times that commands are applied at: see [`Now`].
//!
//! Times of files are the machine's clock, except that it never goes back, since a step back would make the past
//! the future. While the machine's clock is behind ours, because somebody set it back, ours runs at half its speed until
//! they meet. Time limits (liveness, sessions, uploads, tickets) are reckoned in the monotonic clock, so that
//! whoever sets the machine's clock, or wakes the machine up, ends none of them.

use std::time::{Duration, Instant, SystemTime};

use dfs_proto::pb;

use crate::core::Now;

/// Tells the time.
#[derive(Debug)]
pub struct Clock {
    last: SystemTime,
    read_at: Instant,
    /// Where the steady clock begins, so that it looks like a time of day, and when that was.
    steady_from_ms: i64,
    begun_at: Instant,
}

impl Default for Clock {
    fn default() -> Self {
        let (wall, at) = (SystemTime::now(), Instant::now());
        Clock { last: wall, read_at: at, steady_from_ms: pb::Time::from(wall).as_millis(), begun_at: at }
    }
}

impl Clock {
    /// The times now; never before what they were.
    pub fn now(&mut self) -> Now {
        self.now_at(SystemTime::now(), Instant::now())
    }

    fn now_at(&mut self, wall: SystemTime, at: Instant) -> Now {
        let time = self.advance(wall, at).into();
        let passed = self.read_at.saturating_duration_since(self.begun_at).as_millis();
        Now { time, steady_ms: self.steady_from_ms.saturating_add(i64::try_from(passed).unwrap_or(i64::MAX)) }
    }

    fn advance(&mut self, wall: SystemTime, at: Instant) -> SystemTime {
        let passed = at.saturating_duration_since(self.read_at);
        self.read_at = self.read_at.max(at);
        let held_back = self.last.checked_add(passed / 2).unwrap_or(self.last);
        self.last = if wall >= self.last { wall } else { held_back };
        self.last
    }
}

/// Notices that this process stood still. After that, the silence of a keeper means nothing until the keepers had time
/// to be heard again.
#[derive(Debug)]
pub struct StallDetector {
    at: Instant,
    limit: Duration,
}

impl StallDetector {
    /// Calls a gap of more than `limit` between two looks a stall.
    pub fn new(limit: Duration) -> StallDetector {
        StallDetector { at: Instant::now(), limit }
    }

    /// How long the stall was, when there was one since the last look.
    pub fn look(&mut self) -> Option<Duration> {
        self.look_at(Instant::now())
    }

    fn look_at(&mut self, at: Instant) -> Option<Duration> {
        let gap = at.saturating_duration_since(self.at);
        self.at = at;
        (gap > self.limit).then_some(gap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn it_follows_the_machines_clock_forwards() {
        let mut clock = Clock::default();
        let (wall, at) = (clock.last, clock.read_at);
        assert_eq!(clock.advance(wall + SECOND, at + SECOND), wall + SECOND);
        assert_eq!(clock.advance(wall + 100 * SECOND, at + 2 * SECOND), wall + 100 * SECOND);
    }

    #[test]
    fn set_back_it_goes_on_at_half_speed_until_they_meet() {
        let mut clock = Clock::default();
        let (wall, at) = (clock.last, clock.read_at);
        let behind = wall - 10 * SECOND;
        assert_eq!(clock.advance(behind + 2 * SECOND, at + 2 * SECOND), wall + SECOND);
        assert_eq!(clock.advance(behind + 4 * SECOND, at + 4 * SECOND), wall + 2 * SECOND);
        assert_eq!(clock.advance(behind + 30 * SECOND, at + 30 * SECOND), wall + 20 * SECOND);
    }

    #[test]
    fn time_limits_do_not_hear_of_a_clock_that_is_set() {
        let mut clock = Clock::default();
        let (wall, at) = (clock.last, clock.read_at);
        let begin_ms = clock.steady_from_ms;
        let hour = 3_600 * SECOND;
        let forward = clock.now_at(wall + hour, at + SECOND);
        assert_eq!((forward.time, forward.steady_ms), ((wall + hour).into(), begin_ms + 1_000));
        assert_eq!(clock.now_at(wall - hour, at + 2 * SECOND).steady_ms, begin_ms + 2_000);
        assert_eq!(clock.now_at(wall, at).steady_ms, begin_ms + 2_000, "never back");
    }

    #[test]
    fn a_process_that_stood_still_notices_once() {
        let mut detector = StallDetector::new(SECOND);
        let at = detector.at;
        assert_eq!(detector.look_at(at + SECOND), None);
        assert_eq!(detector.look_at(at + 9 * SECOND), Some(8 * SECOND));
        assert_eq!(detector.look_at(at + 10 * SECOND), None);
        assert_eq!(detector.look_at(at), None);
    }
}
