//! How fast background work goes: copies out and in, and builds. One budget of bytes a second for all of them
//! together, which the master sets; a part of it while clients read or write, so that they keep their speed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::load::Load;
use crate::queue::Stop;

/// Until the master says otherwise, in bytes a second.
const DEFAULT_RATE: u64 = 100 << 20;
/// While clients are busy, one part of so many is left.
const YIELDING: u64 = 10;
/// But no less than this, in bytes a second, so that nothing waits for longer than connections are silent.
const YIELDING_AT_LEAST: u64 = 2 << 20;
/// What was not used is not saved up for longer than this.
const SAVED: Duration = Duration::from_millis(20);
/// Between two looks whether the keeper stops.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The budget.
#[derive(Debug)]
pub(crate) struct Pace {
    rate: AtomicU64,
    /// When all bytes so far are paid for.
    paid: Mutex<Instant>,
}

impl Pace {
    pub fn new() -> Pace {
        Pace { rate: AtomicU64::new(DEFAULT_RATE), paid: Mutex::new(Instant::now()) }
    }

    /// Bytes a second; 0: what the default is.
    pub fn set_rate(&self, rate: u64) {
        self.rate.store(if rate == 0 { DEFAULT_RATE } else { rate }, Ordering::Relaxed);
    }

    /// Waits until so many bytes may be sent, received or built. `urgent`: without regard to clients.
    pub fn spend(&self, bytes: usize, urgent: bool, load: &Load, stop: &Stop) {
        let mut left = self.wait(bytes, !urgent && load.foreground_is_busy(), Instant::now());
        while !left.is_zero() && !stop.is_set() {
            let nap = left.min(LOOK_EVERY);
            std::thread::sleep(nap);
            left -= nap;
        }
    }

    fn wait(&self, bytes: usize, yielding: bool, now: Instant) -> Duration {
        let full = self.rate.load(Ordering::Relaxed);
        let rate = if yielding { (full / YIELDING).max(YIELDING_AT_LEAST).min(full) } else { full };
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        let from = (*paid).max(now.checked_sub(SAVED).unwrap_or(now));
        *paid = from + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        paid.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    /// How long a second's worth takes, in pieces, from several threads' points of view.
    fn seconds(pace: &Pace, mib: usize, yielding: bool) -> f64 {
        let now = Instant::now();
        let waits = (0..mib).map(|_| pace.wait(MIB, yielding, now));
        waits.last().map_or(0.0, |wait| wait.as_secs_f64())
    }

    #[test]
    fn all_share_one_budget_and_leave_most_of_it_to_clients() {
        let pace = Pace::new();
        let alone = seconds(&pace, 100, false);
        assert!((0.95..=1.05).contains(&alone), "{alone}");
        let pace = Pace::new();
        pace.set_rate(200 << 20);
        let yielding = seconds(&pace, 20, true);
        assert!((0.95..=1.05).contains(&yielding), "{yielding}");
    }

    #[test]
    fn a_small_budget_yields_no_further_than_to_what_keeps_connections_alive() {
        let pace = Pace::new();
        pace.set_rate(4 << 20);
        assert!(seconds(&pace, 4, true) < 2.1);
        let pace = Pace::new();
        pace.set_rate(1 << 20);
        assert!((3.9..=4.1).contains(&seconds(&pace, 4, true)));
    }

    #[test]
    fn what_was_not_used_is_not_saved_up() {
        let pace = Pace::new();
        let later = Instant::now() + Duration::from_secs(100);
        let waits: Vec<Duration> = (0..10).map(|_| pace.wait(MIB, false, later)).collect();
        assert!(waits[0].is_zero() && waits[9] > Duration::from_millis(70), "{waits:?}");
    }
}
