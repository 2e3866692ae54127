//! Attributes that came with the replies to this mount's own changes, for as long as they are right (`trust`).
//!
//! After each change the kernel asks for attributes anew: of the directory whose names changed before the next look-up in it, of
//! the inode that was renamed or written. The reply to the change had them already, and so the master is not asked.
//!
//! What must hold: what is kept is what the master said after the change, and nothing else of the inode was heard of
//! since the change was asked for; so of two changes that overlap, neither is kept. Memory is bounded.

use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::time::Instant;

use dfs_proto::ids::InodeNo;
use dfs_proto::pb;
use lru::LruCache;

use super::trust::{Asked, Trust};
use crate::lock::lock;

/// Inodes remembered. Of one that fell out, the master is asked again.
const REMEMBERED: NonZeroUsize = NonZeroUsize::MIN.saturating_add((1 << 16) - 1);

/// What is known of one inode.
struct Node {
    /// Attributes, and as of when they count.
    attr: Option<(Asked, pb::Attr)>,
    /// What was asked for before has an atime that is old now.
    atime_since: Option<Instant>,
}

/// See the module.
pub struct Known {
    nodes: Mutex<LruCache<InodeNo, Node>>,
}

impl Default for Known {
    fn default() -> Known {
        Known { nodes: Mutex::new(LruCache::new(REMEMBERED)) }
    }
}

impl Known {
    /// This mount changed something of an inode, with what it asked for at `asked`, and was told this of it.
    pub fn changed(&self, trust: &Trust, asked: Asked, attr: &pb::Attr) {
        let inode = InodeNo(attr.inode);
        if let Some(asked) = trust.own_change(inode, asked) {
            self.put(asked, attr);
        }
    }

    /// The attributes that an own change came to, as of when `trust` says that they count.
    pub fn put(&self, asked: Asked, attr: &pb::Attr) {
        let mut nodes = lock(&self.nodes);
        let node = nodes.get_or_insert_mut(InodeNo(attr.inode), || Node { attr: None, atime_since: None });
        if node.atime_since.is_none_or(|since| asked.is_after(since)) {
            *node = Node { attr: Some((asked, *attr)), atime_since: None };
        }
    }

    /// The master was asked to change the atime of an inode. Returns what `atime_changed` wants.
    pub fn atime_changes(&self, inode: InodeNo) -> Instant {
        let since = Instant::now();
        lock(&self.nodes).put(inode, Node { attr: None, atime_since: Some(since) });
        since
    }

    /// It did, was asked to at `asked`, and said this of the inode. Other answers that came meanwhile may be older or newer.
    pub fn atime_changed(&self, trust: &Trust, since: Instant, asked: Asked, attr: &pb::Attr) {
        let inode = InodeNo(attr.inode);
        if let Some(node) = lock(&self.nodes).peek_mut(&inode)
            && node.atime_since == Some(since)
            && trust.is_attr_right(asked, inode)
        {
            *node = Node { attr: Some((asked, *attr)), atime_since: None };
        }
    }

    /// The attributes that are known of an inode of which `attr` was told, too, asked for at `asked`.
    pub fn newest(&self, trust: &Trust, asked: Asked, attr: pb::Attr) -> Option<(Asked, pb::Attr)> {
        let inode = InodeNo(attr.inode);
        let nodes = lock(&self.nodes);
        let node = nodes.peek(&inode);
        if let Some((asked, attr)) = node.and_then(|node| node.attr)
            && trust.is_attr_right(asked, inode)
        {
            return Some((asked, attr));
        }
        let atime_is_old = node.and_then(|node| node.atime_since).is_some_and(|since| !asked.is_after(since));
        (!atime_is_old && trust.is_attr_right(asked, inode)).then_some((asked, attr))
    }

    /// The attributes of an inode, and as of when they count, if they are known.
    pub fn get(&self, trust: &Trust, inode: InodeNo) -> Option<(Asked, pb::Attr)> {
        lock(&self.nodes).peek(&inode)?.attr.filter(|(asked, _)| trust.is_attr_right(*asked, inode))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LONGEST: Duration = Duration::from_secs(30);
    const DIR: InodeNo = InodeNo(7);

    fn attr(nlink: u32) -> pb::Attr {
        pb::Attr { inode: DIR.0, nlink, ..Default::default() }
    }

    fn known_nlink(known: &Known, trust: &Trust) -> Option<u32> {
        known.get(trust, DIR).map(|(_, attr)| attr.nlink)
    }

    #[test]
    fn what_a_change_came_to_is_known_until_the_next_change_whoever_does_it() {
        let (known, trust) = (Known::default(), Trust::new(LONGEST));
        assert!(known.get(&trust, DIR).is_none());
        known.changed(&trust, trust.ask(), &attr(3));
        assert_eq!(known_nlink(&known, &trust), Some(3));
        known.changed(&trust, trust.ask(), &attr(4));
        assert_eq!(known_nlink(&known, &trust), Some(4));
        trust.attrs_changed(InodeNo(8));
        assert_eq!(known_nlink(&known, &trust), Some(4));
        trust.attrs_changed(DIR);
        assert_eq!(known_nlink(&known, &trust), None);
    }

    #[test]
    fn of_changes_that_overlap_none_is_known() {
        let (known, trust) = (Known::default(), Trust::new(LONGEST));
        let (first, second) = (trust.ask(), trust.ask());
        known.changed(&trust, second, &attr(4));
        known.changed(&trust, first, &attr(3));
        assert_eq!(known_nlink(&known, &trust), None);
        // Somebody else's change was heard of before the reply.
        let third = trust.ask();
        trust.attrs_changed(DIR);
        known.changed(&trust, third, &attr(5));
        assert_eq!(known_nlink(&known, &trust), None);
    }

    #[test]
    fn a_read_makes_old_what_was_asked_for_before_it() {
        let (known, trust) = (Known::default(), Trust::new(LONGEST));
        let before = trust.ask();
        known.changed(&trust, before, &attr(3));
        known.atime_changes(DIR);
        assert_eq!(known_nlink(&known, &trust), None);
        known.changed(&trust, before, &attr(3));
        assert_eq!(known_nlink(&known, &trust), None);
        std::thread::sleep(Duration::from_millis(1));
        known.changed(&trust, trust.ask(), &attr(4));
        assert_eq!(known_nlink(&known, &trust), Some(4));
    }

    #[test]
    fn what_is_told_with_a_new_atime_is_known_if_nothing_else_happened_meanwhile() {
        let (known, trust) = (Known::default(), Trust::new(LONGEST));
        let (asked, first) = (trust.ask(), known.atime_changes(DIR));
        known.atime_changed(&trust, first, asked, &attr(4));
        assert_eq!(known_nlink(&known, &trust), Some(4));
        let (asked, second) = (trust.ask(), known.atime_changes(DIR));
        known.atime_changed(&trust, first, asked, &attr(4));
        assert_eq!(known_nlink(&known, &trust), None, "it was read again since");
        trust.attrs_changed(DIR);
        known.atime_changed(&trust, second, asked, &attr(4));
        assert_eq!(known_nlink(&known, &trust), None, "it was changed since");
    }

    #[test]
    fn of_two_that_were_told_the_newest_counts_and_none_that_a_read_made_old() {
        let (known, trust) = (Known::default(), Trust::new(LONGEST));
        let newest = |known: &Known, asked| known.newest(&trust, asked, attr(3)).map(|(_, attr)| attr.nlink);
        let listed = trust.ask();
        assert_eq!(newest(&known, listed), Some(3));
        known.changed(&trust, trust.ask(), &attr(4));
        assert_eq!(newest(&known, listed), Some(4));
        known.atime_changes(DIR);
        assert_eq!(newest(&known, listed), None);
        trust.attrs_changed(DIR);
        assert_eq!(newest(&Known::default(), listed), None);
    }

    #[test]
    fn nothing_is_known_over_a_break_or_for_longer_than_is_promised() {
        let (known, trust) = (Known::default(), Trust::new(LONGEST));
        let asked = trust.ask();
        known.changed(&trust, asked, &attr(3));
        trust.lost();
        assert_eq!(known_nlink(&known, &trust), None);
        trust.resumed();
        known.changed(&trust, asked, &attr(3));
        assert_eq!(known_nlink(&known, &trust), None, "it was asked for before the break");
        let trust = Trust::new(Duration::ZERO);
        known.changed(&trust, trust.ask(), &attr(3));
        assert_eq!(known_nlink(&known, &trust), None);
    }
}
