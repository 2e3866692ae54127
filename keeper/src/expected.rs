//! Copies that the master said will come, by the number of their order.
//!
//! Why a copy that was not announced yet has to wait: the announcement comes on the same stream as the master's
//! deletions, the copy does not. So a copy may be here before a deletion that the master ordered long before it ordered the
//! copy, and would be deleted in the older one's place.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Announcements that are remembered; the master has far fewer orders for one keeper.
const KEPT: usize = 1024;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Expected {
    orders: Mutex<BTreeSet<u64>>,
    announced: Condvar,
}

impl Expected {
    /// A copy will come.
    pub fn announce(&self, order: u64) {
        let mut orders = self.lock();
        orders.insert(order);
        if orders.len() > KEPT {
            orders.pop_first();
        }
        self.announced.notify_all();
    }

    /// The session is over, and with it all orders of before.
    pub fn forget_all(&self) {
        self.lock().clear();
    }

    /// Waits until this order is announced, and takes the announcement. False: it was not within `patience`.
    pub fn take(&self, order: u64, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut orders = self.lock();
        while !orders.remove(&order) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            orders = self.announced.wait_timeout(orders, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_announcement_is_good_for_one_copy() {
        let expected = Expected::default();
        expected.announce(7);
        assert!(expected.take(7, Duration::ZERO));
        assert!(!expected.take(7, Duration::from_millis(1)));
        (0..=KEPT as u64).for_each(|order| expected.announce(order));
        assert!(!expected.take(0, Duration::ZERO), "the oldest was dropped");
        assert!(expected.take(KEPT as u64, Duration::ZERO));
        expected.forget_all();
        assert!(!expected.take(5, Duration::ZERO));
    }

    #[test]
    fn one_who_waits_is_woken() {
        let expected = Expected::default();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| expected.take(7, Duration::from_secs(20)));
            expected.announce(6);
            expected.announce(7);
            assert!(waits.join().unwrap());
        });
    }
}
