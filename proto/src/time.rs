//! Points in time as they are stored and sent: the master's clock, to the nanosecond.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::pb;

const NANOS_PER_SEC: u32 = 1_000_000_000;

impl pb::Time {
    /// This machine's clock now.
    pub fn now() -> pb::Time {
        pb::Time::from(SystemTime::now())
    }

    /// Milliseconds since 1970, rounded down; saturates.
    pub fn as_millis(&self) -> i64 {
        self.sec.saturating_mul(1_000).saturating_add(i64::from(self.nsec / 1_000_000))
    }

    /// Nanoseconds brought under a second, as a hostile sender may not have.
    pub fn normalized(self) -> pb::Time {
        pb::Time { sec: self.sec, nsec: self.nsec.min(NANOS_PER_SEC - 1) }
    }
}

impl From<SystemTime> for pb::Time {
    fn from(time: SystemTime) -> pb::Time {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => pb::Time {
                sec: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
                nsec: after.subsec_nanos(),
            },
            Err(before) => {
                let before = before.duration();
                let whole = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
                match before.subsec_nanos() {
                    0 => pb::Time { sec: -whole, nsec: 0 },
                    nsec => pb::Time { sec: -whole - 1, nsec: NANOS_PER_SEC - nsec },
                }
            }
        }
    }
}

impl From<pb::Time> for SystemTime {
    /// Times that this machine cannot express become 1970.
    fn from(time: pb::Time) -> SystemTime {
        let time = time.normalized();
        let whole = Duration::from_secs(time.sec.unsigned_abs());
        let second =
            if time.sec >= 0 { UNIX_EPOCH.checked_add(whole) } else { UNIX_EPOCH.checked_sub(whole) };
        second.and_then(|s| s.checked_add(Duration::from_nanos(u64::from(time.nsec)))).unwrap_or(UNIX_EPOCH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn times_before_and_after_1970_round_trip(sec in -4_000_000_000i64..40_000_000_000, nsec in 0..NANOS_PER_SEC) {
            let time = pb::Time { sec, nsec };
            prop_assert_eq!(pb::Time::from(SystemTime::from(time)), time);
        }
    }

    #[test]
    fn hostile_times_do_not_panic() {
        for sec in [i64::MIN, i64::MAX, -1] {
            let _ = SystemTime::from(pb::Time { sec, nsec: u32::MAX });
        }
    }
}
