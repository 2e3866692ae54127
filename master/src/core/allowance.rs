//! How much the passes over chunks may look at: so many keepers in each tenth of a second, whatever begins the passes.
//! One look at a chunk costs as many as there are keepers, since any of them may be the best place for a copy. So with a thousand
//! keepers, all of which come at once or die at once, the lock is free most of the time.

/// Of time, in milliseconds: that of a tick.
const WINDOW_MS: i64 = 100;
/// Looks at one keeper in a window. Some 10 ms.
const LOOKS: usize = 50_000;

/// See the module.
#[derive(Default)]
pub(super) struct Allowance {
    /// The number of the window that `used` is of.
    window: i64,
    used: usize,
}

impl Allowance {
    /// May one more chunk be looked at, now, with so many keepers? The first one of a window always may.
    pub fn take(&mut self, now_ms: i64, keepers: usize) -> bool {
        let window = now_ms.div_euclid(WINDOW_MS);
        if window != self.window {
            (self.window, self.used) = (window, 0);
        }
        let may = self.used == 0 || self.used + keepers <= LOOKS;
        if may {
            self.used += keepers.max(1);
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_window_has_so_many_looks_and_one_chunk_at_least() {
        let mut allowance = Allowance::default();
        let mut taken = |now_ms, keepers| (0..).take_while(|_| allowance.take(now_ms, keepers)).count();
        assert_eq!(taken(1_000, 1_000), 50);
        assert_eq!(taken(1_099, 1_000), 0);
        assert_eq!(taken(1_100, 3), LOOKS / 3);
        assert_eq!(taken(1_200, 10 * LOOKS), 1);
        assert_eq!(taken(-1, 1_000), 50);
    }
}
