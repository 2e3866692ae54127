//! When a read changes a file's atime: the rule of relatime, as mount(8) has it. The mount asks it to spare
//! the master a request, the master asks it again, because only it knows the newest times.

use crate::pb;

/// An atime that is this old is brought up to date by any read, in seconds.
const OLD_S: i64 = 24 * 60 * 60;

/// Must a read at `now` change the atime of an inode with these times? Never to an earlier one. With `always`
/// (strictatime) whenever it is later; else when it is not later than mtime and ctime, or is a day old.
pub fn is_due(attr: &pb::Attr, always: bool, now: pb::Time) -> bool {
    let key = |time: pb::Time| (time.sec, time.nsec);
    let time = |time: Option<pb::Time>| time.unwrap_or_default();
    let atime = time(attr.atime);
    if key(now) <= key(atime) {
        return false;
    }
    always
        || key(atime) <= key(time(attr.mtime))
        || key(atime) <= key(time(attr.ctime))
        || now.sec.saturating_sub(atime.sec) >= OLD_S
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(times: [i64; 3], always: bool, now: i64) -> bool {
        let [atime, mtime, ctime] = times.map(|sec| Some(pb::Time { sec, nsec: 5 }));
        let attr = pb::Attr { atime, mtime, ctime, ..Default::default() };
        is_due(&attr, always, pb::Time { sec: now, nsec: 6 })
    }

    #[test]
    fn relatime_is_that_of_linux() {
        assert!(due([100, 100, 50], false, 100), "not read since it was written");
        assert!(due([100, 50, 100], false, 100), "not read since its attributes were changed");
        assert!(!due([100, 99, 99], false, 200));
        assert!(!due([100, 99, 99], false, 99 + OLD_S));
        assert!(due([100, 99, 99], false, 100 + OLD_S), "a day old");
    }

    #[test]
    fn strictatime_is_always_and_nothing_goes_back() {
        assert!(due([100, 99, 99], true, 100));
        assert!(!due([100, 100, 100], false, 99));
        assert!(!due([100, 100, 100], true, 99));
        assert!(due([i64::MIN, 0, 0], false, 1), "no overflow");
    }
}
