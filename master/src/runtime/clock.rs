//! The time that commands are applied at.
//!
//! It is the machine's clock, except that it never goes back: liveness, ticket expiry and file times are
//! all reckoned in it, and a step back would make the past the future. While the machine's clock is behind
//! ours, because somebody set it back, ours runs at half its speed until they meet.

use std::time::{Duration, Instant, SystemTime};

use dfs_proto::pb;

/// Tells the time.
#[derive(Debug)]
pub struct Clock {
    last: SystemTime,
    read_at: Instant,
}

impl Default for Clock {
    fn default() -> Self {
        Clock { last: SystemTime::now(), read_at: Instant::now() }
    }
}

impl Clock {
    /// The time now; never before what it was.
    pub fn now(&mut self) -> pb::Time {
        self.advance(SystemTime::now(), Instant::now()).into()
    }

    fn advance(&mut self, wall: SystemTime, at: Instant) -> SystemTime {
        let passed = at.saturating_duration_since(self.read_at);
        self.read_at = self.read_at.max(at);
        let held_back = self.last.checked_add(passed / 2).unwrap_or(self.last);
        self.last = if wall >= self.last { wall } else { held_back };
        self.last
    }
}

/// Notices that this process, or its machine, stood still or had its clock moved. After that, the silence
/// of a keeper means nothing until the keepers had time to be heard again.
#[derive(Debug)]
pub struct StallDetector {
    wall: SystemTime,
    at: Instant,
    limit: Duration,
}

impl StallDetector {
    /// Calls a gap of more than `limit` between two looks a stall.
    pub fn new(limit: Duration) -> StallDetector {
        StallDetector { wall: SystemTime::now(), at: Instant::now(), limit }
    }

    /// How long the stall was, when there was one since the last look.
    pub fn look(&mut self) -> Option<Duration> {
        self.look_at(SystemTime::now(), Instant::now())
    }

    fn look_at(&mut self, wall: SystemTime, at: Instant) -> Option<Duration> {
        let by_wall = wall.duration_since(self.wall).unwrap_or_default();
        let gap = by_wall.max(at.saturating_duration_since(self.at));
        (self.wall, self.at) = (wall, at);
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
    fn a_process_that_stood_still_notices_once() {
        let mut detector = StallDetector::new(SECOND);
        let (wall, at) = (detector.wall, detector.at);
        assert_eq!(detector.look_at(wall + SECOND, at + SECOND), None);
        assert_eq!(detector.look_at(wall + 2 * SECOND, at + 9 * SECOND), Some(8 * SECOND));
        assert_eq!(detector.look_at(wall + 60 * SECOND, at + 10 * SECOND), Some(58 * SECOND));
        assert_eq!(detector.look_at(wall + 61 * SECOND, at + 11 * SECOND), None);
        assert_eq!(detector.look_at(wall, at + 11 * SECOND), None);
    }
}
