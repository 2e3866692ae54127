//! Which inodes are known to have none of the extended attributes that the kernel asks for by itself: access lists
//! at look-ups (acl(5)), file capabilities at each write (capabilities(7)). For those it is answered from here, and
//! the master is not asked.
//!
//! What must hold: an inode is known only while no change of it could have been missed. Replies and notices come
//! on different ways, so a reply counts only if nothing was heard of the inode since the request was made; and only
//! for as long as the master remembers that it has to tell of changes.

use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use dfs_proto::ids::InodeNo;
use dfs_proto::pb;
use lru::LruCache;

use crate::lock::lock;

/// Inodes remembered. Of one that fell out, the master is asked again.
const REMEMBERED: NonZeroUsize = NonZeroUsize::MIN.saturating_add(65_535);

/// The names that the kernel asks for by itself.
pub fn is_security(name: &[u8]) -> bool {
    is_access_list(name) || name == b"security.capability"
}

/// Of these, access lists.
pub fn is_access_list(name: &[u8]) -> bool {
    matches!(name, b"system.posix_acl_access" | b"system.posix_acl_default")
}

/// When a request was made, against changes.
#[derive(Clone, Copy)]
pub struct Mark {
    changes: u64,
    at: Instant,
}

/// What is known of an inode.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// It has none.
    none: bool,
    /// Its last change was at most this one.
    changed: u64,
    /// When that was asked for.
    asked: Instant,
}

#[derive(Debug)]
struct Inner {
    inodes: LruCache<InodeNo, Known>,
    /// Changes heard of, of any inode.
    changes: u64,
    /// Of changes up to this one it is not known any more of which inode they were.
    forgotten: u64,
}

/// See the module.
#[derive(Debug)]
pub struct SecurityLedger {
    /// The longest that anything is known.
    longest: Duration,
    inner: Mutex<Inner>,
}

impl SecurityLedger {
    /// `longest` is at most what the master promised.
    pub fn new(longest: Duration) -> SecurityLedger {
        SecurityLedger::of(REMEMBERED, longest)
    }

    fn of(remembered: NonZeroUsize, longest: Duration) -> SecurityLedger {
        let inner = Inner { inodes: LruCache::new(remembered), changes: 0, forgotten: 0 };
        SecurityLedger { longest, inner: Mutex::new(inner) }
    }

    /// To be taken before a request, for [`SecurityLedger::learn`].
    pub fn mark(&self) -> Mark {
        Mark { changes: lock(&self.inner).changes, at: Instant::now() }
    }

    /// The master answered a request that was made at `mark`.
    pub fn learn(&self, mark: Mark, attr: &pb::Attr) {
        let mut inner = lock(&self.inner);
        let inode = InodeNo(attr.inode);
        let changed = inner.inodes.peek(&inode).map_or(inner.forgotten, |known| known.changed);
        if changed <= mark.changes {
            inner.put(inode, Known { none: !attr.has_security, changed, asked: mark.at });
        }
    }

    /// Has the inode none of them, for all that is known?
    pub fn has_none(&self, inode: InodeNo) -> bool {
        let known = lock(&self.inner).inodes.get(&inode).copied();
        known.is_some_and(|known| known.none && known.asked.elapsed() < self.longest)
    }

    /// The inode changed, or may have.
    pub fn forget(&self, inode: InodeNo) {
        let mut inner = lock(&self.inner);
        inner.changes += 1;
        let change = Known { none: false, changed: inner.changes, asked: Instant::now() };
        inner.put(inode, change);
    }

    /// Anything may have changed.
    pub fn forget_all(&self) {
        let mut inner = lock(&self.inner);
        inner.changes += 1;
        inner.forgotten = inner.changes;
        inner.inodes.clear();
    }
}

impl Inner {
    fn put(&mut self, inode: InodeNo, known: Known) {
        if let Some((gone, known)) = self.inodes.push(inode, known)
            && gone != inode
        {
            self.forgotten = self.forgotten.max(known.changed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn attr(inode: u64, has_security: bool) -> pb::Attr {
        pb::Attr { inode, has_security, ..Default::default() }
    }

    #[test]
    fn what_the_master_said_is_known_until_it_changes() {
        let ledger = SecurityLedger::new(LONG);
        assert!(!ledger.has_none(InodeNo(5)));
        ledger.learn(ledger.mark(), &attr(5, false));
        ledger.learn(ledger.mark(), &attr(6, true));
        assert!(ledger.has_none(InodeNo(5)) && !ledger.has_none(InodeNo(6)));
        ledger.forget(InodeNo(5));
        assert!(!ledger.has_none(InodeNo(5)));
        ledger.learn(ledger.mark(), &attr(5, false));
        ledger.learn(ledger.mark(), &attr(5, true));
        assert!(!ledger.has_none(InodeNo(5)));
    }

    #[test]
    fn nothing_is_known_for_longer_than_the_master_tells_of_changes() {
        let ledger = SecurityLedger::new(Duration::ZERO);
        ledger.learn(ledger.mark(), &attr(5, false));
        assert!(!ledger.has_none(InodeNo(5)));
    }

    #[test]
    fn an_answer_to_a_question_from_before_the_change_does_not_count() {
        let ledger = SecurityLedger::new(LONG);
        let before = ledger.mark();
        ledger.forget(InodeNo(5));
        ledger.learn(before, &attr(5, false));
        assert!(!ledger.has_none(InodeNo(5)));
        ledger.learn(ledger.mark(), &attr(5, true));
        ledger.learn(before, &attr(5, false));
        assert!(!ledger.has_none(InodeNo(5)), "the newer answer is known already");
        ledger.learn(before, &attr(6, false));
        assert!(ledger.has_none(InodeNo(6)), "another inode");
        ledger.forget_all();
        ledger.learn(before, &attr(6, false));
        assert!(!ledger.has_none(InodeNo(6)));
    }

    #[test]
    fn changes_count_also_when_they_fell_out() {
        let ledger = SecurityLedger::of(NonZeroUsize::MIN, LONG);
        let before = ledger.mark();
        ledger.forget(InodeNo(5));
        ledger.forget(InodeNo(6));
        ledger.learn(before, &attr(5, false));
        assert!(!ledger.has_none(InodeNo(5)));
        ledger.learn(ledger.mark(), &attr(5, false));
        assert!(ledger.has_none(InodeNo(5)));
    }
}
