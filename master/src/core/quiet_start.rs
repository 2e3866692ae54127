//! The time after a start of the master in which its keepers come back. What is missing is not copied yet, for it mostly comes by
//! itself; it is quiet for longer while keepers keep coming, but not for ever.

/// At least so long,
const QUIET_MS: i64 = 2 * dfs_proto::DEAD_AFTER_MS as i64;
/// and so long after a keeper has come, for others may be coming,
const STILL_COMING_MS: i64 = dfs_proto::DEAD_AFTER_MS as i64;
/// but at most so long.
const LONGEST_MS: i64 = 60_000;

/// See the module. Without a start there is none.
#[derive(Default)]
pub(super) struct QuietStart {
    until_ms: i64,
    at_most_ms: i64,
}

impl QuietStart {
    /// The state was loaded.
    pub fn begin(&mut self, now_ms: i64) {
        self.until_ms = now_ms.saturating_add(QUIET_MS);
        self.at_most_ms = now_ms.saturating_add(LONGEST_MS);
    }

    /// Is it quiet yet?
    pub fn is_on(&self, now_ms: i64) -> bool {
        now_ms < self.until_ms
    }

    /// A keeper came.
    pub fn keeper_came(&mut self, now_ms: i64) {
        if self.is_on(now_ms) {
            let longer = now_ms.saturating_add(STILL_COMING_MS).min(self.at_most_ms);
            self.until_ms = self.until_ms.max(longer);
        }
    }
}
