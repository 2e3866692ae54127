//! Waiting: for a condition, with a deadline, and never for a fixed time.

use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(20);

/// Waits until `condition` holds.
///
/// # Panics
/// When it does not within `limit`; the message says `what` was waited for.
#[track_caller]
pub fn wait_until(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(limit, what, || condition().then_some(()));
}

/// Waits until `attempt` gives a value, and returns it.
///
/// # Panics
/// When it gives none within `limit`; the message says `what` was waited for.
#[track_caller]
pub fn wait_for<T>(limit: Duration, what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(begun.elapsed() < limit, "waited {limit:?} in vain: {what}");
        std::thread::sleep(POLL);
    }
}

/// Seconds, for the many limits in the tests.
pub const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_until_there_is_a_value() {
        let mut left = 3;
        let got = wait_for(secs(5), "three turns", || {
            left -= 1;
            (left == 0).then_some("done")
        });
        assert_eq!(got, "done");
    }

    #[test]
    #[should_panic(expected = "in vain: the impossible")]
    fn gives_up_at_the_deadline() {
        wait_until(Duration::from_millis(60), "the impossible", || false);
    }
}
