//! How long a range takes these days, and so when one is late. Pure.
//!
//! After "The Tail at Scale" (Dean and Barroso, CACM 2013): a request that has taken longer than nearly all recent
//! ones did is sent to another copy too. Twice the recent 95th percentile, so that a load that grows, which makes
//! all requests slower together, is not answered with yet more load; and for the same reason no more than one in
//! [`RANGES_PER_HEDGE`] is hedged early, in the long run.

use std::time::Duration;

/// Ranges that count as recent.
const SAMPLES: usize = 128;
/// Fewer tell nothing.
const ENOUGH: usize = 16;
/// Before anything is known of them: seldom reached by a keeper that is well, and what a slow one then costs is not noticed.
const AT_FIRST: Duration = Duration::from_millis(50);
const FLOOR: Duration = Duration::from_millis(20);
/// However slow ranges are, one that has taken this long is late.
pub(super) const HEDGE_CAP: Duration = Duration::from_millis(500);

/// One hedge is earned by this many ranges,
const RANGES_PER_HEDGE: usize = 20;
/// and so many may be saved up: enough for the ranges that wait for a keeper which stops just now.
const SAVED_HEDGES: usize = 8;

/// See the module.
pub(super) struct Latency {
    recent: Vec<Duration>,
    next: usize,
    /// Kept from the last time it was worked out, which is every [`ENOUGH`] samples.
    delay: Option<Duration>,
    /// In ranges.
    earned: usize,
}

impl Default for Latency {
    fn default() -> Self {
        Self { recent: Vec::new(), next: 0, delay: None, earned: SAVED_HEDGES * RANGES_PER_HEDGE }
    }
}

impl Latency {
    /// A range took this long.
    pub(super) fn record(&mut self, took: Duration) {
        if self.recent.len() < SAMPLES {
            self.recent.push(took);
        } else {
            self.recent[self.next % SAMPLES] = took;
        }
        self.next = self.next.wrapping_add(1);
        self.earned = (self.earned + 1).min(SAVED_HEDGES * RANGES_PER_HEDGE);
        if self.recent.len() >= ENOUGH && self.next.is_multiple_of(ENOUGH) {
            self.delay = Some((self.p95() * 2).clamp(FLOOR, HEDGE_CAP));
        }
    }

    /// Recent ones sorted; 95 of 100 are no longer than this.
    fn p95(&self) -> Duration {
        let mut sorted = self.recent.clone();
        sorted.sort_unstable();
        let at = (sorted.len() * 95).div_ceil(100).saturating_sub(1);
        sorted.get(at).copied().unwrap_or(AT_FIRST)
    }

    /// May a late range be hedged now? Counts as one that was. Otherwise it should wait until [`HEDGE_CAP`].
    pub(super) fn may_hedge(&mut self) -> bool {
        let left = self.earned.checked_sub(RANGES_PER_HEDGE);
        self.earned = left.unwrap_or(self.earned);
        left.is_some()
    }

    /// A range that has taken this long is late.
    pub(super) fn hedge_delay(&self) -> Duration {
        self.delay.unwrap_or(AT_FIRST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(times: impl IntoIterator<Item = u64>) -> Duration {
        let mut latency = Latency::default();
        times.into_iter().for_each(|ms| latency.record(Duration::from_millis(ms)));
        latency.hedge_delay()
    }

    #[test]
    fn with_few_samples_it_is_the_start_value() {
        assert_eq!(after([1; 15]), AT_FIRST);
    }

    #[test]
    fn it_follows_the_recent_p95_between_floor_and_cap() {
        assert_eq!(after([1; 64]), FLOOR);
        assert_eq!(after([50; 64]), Duration::from_millis(100));
        assert_eq!(after([5000; 64]), HEDGE_CAP);
    }

    #[test]
    fn a_few_outliers_do_not_move_it() {
        assert_eq!(after((0..128).map(|n| if n % 30 == 0 { 5000 } else { 50 })), Duration::from_millis(100));
    }

    #[test]
    fn what_was_slow_once_is_forgotten() {
        assert_eq!(after([5000; 200].into_iter().chain([50; SAMPLES + ENOUGH])), Duration::from_millis(100));
    }

    #[test]
    fn hedges_are_saved_up_to_a_bound_and_earned_by_ranges() {
        let mut latency = Latency::default();
        let burst = |latency: &mut Latency| (0..1000).take_while(|_| latency.may_hedge()).count();
        assert_eq!(burst(&mut latency), SAVED_HEDGES);
        (0..RANGES_PER_HEDGE * 2).for_each(|_| latency.record(Duration::from_millis(1)));
        assert_eq!(burst(&mut latency), 2);
        (0..10_000).for_each(|_| latency.record(Duration::from_millis(1)));
        assert_eq!(burst(&mut latency), SAVED_HEDGES);
    }
}
