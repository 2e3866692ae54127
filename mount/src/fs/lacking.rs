//! What inodes are known to lack: extended attributes at all, those that the kernel asks for by itself (access lists at
//! look-ups, acl(5); file capabilities at each write, capabilities(7)), and what a write takes away. For those it is
//! answered from here, and the master is not asked.
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

use super::privileges::set_ids;
use super::xattrs::is_security;
use crate::lock::lock;

/// Inodes remembered. Of one that fell out, the master is asked again.
const REMEMBERED: NonZeroUsize = NonZeroUsize::MIN.saturating_add(65_535);

/// When a request was made, against changes.
#[derive(Clone, Copy)]
pub struct Mark {
    changes: u64,
    at: Instant,
}

/// True: there is none.
#[derive(Clone, Copy, Default, Debug)]
struct Lacks {
    xattrs: bool,
    /// Of the extended attributes, those that the kernel asks for by itself.
    security: bool,
    capability: bool,
    set_ids: bool,
}

impl Lacks {
    fn of(attr: &pb::Attr) -> Lacks {
        let security = !attr.has_security;
        let set_ids = set_ids(attr.mode) == 0;
        Lacks { xattrs: attr.no_xattrs, security, capability: security, set_ids }
    }
}

/// What is known of an inode.
#[derive(Clone, Copy, Debug)]
struct Known {
    lacks: Lacks,
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
pub struct Lacking {
    /// The longest that anything is known.
    longest: Duration,
    inner: Mutex<Inner>,
}

impl Lacking {
    /// `longest` is at most what the master promised.
    pub fn new(longest: Duration) -> Lacking {
        Lacking::of(REMEMBERED, longest)
    }

    fn of(remembered: NonZeroUsize, longest: Duration) -> Lacking {
        let inner = Inner { inodes: LruCache::new(remembered), changes: 0, forgotten: 0 };
        Lacking { longest, inner: Mutex::new(inner) }
    }

    /// To be taken before a request, for [`Lacking::learn`].
    pub fn mark(&self) -> Mark {
        Mark { changes: lock(&self.inner).changes, at: Instant::now() }
    }

    /// The master answered a request that was made at `mark`.
    pub fn learn(&self, mark: Mark, attr: &pb::Attr) {
        self.note(mark, InodeNo(attr.inode), Lacks::of(attr));
    }

    /// The master was asked at `mark`, and has nothing that a write would take away.
    pub fn learn_unprivileged(&self, mark: Mark, attr: &pb::Attr) {
        let lacks = Lacks { capability: true, ..Lacks::of(attr) };
        self.note(mark, InodeNo(attr.inode), lacks);
    }

    fn note(&self, mark: Mark, inode: InodeNo, lacks: Lacks) {
        let mut inner = lock(&self.inner);
        let changed = inner.inodes.peek(&inode).map_or(inner.forgotten, |known| known.changed);
        if changed <= mark.changes {
            inner.put(inode, Known { lacks, changed, asked: mark.at });
        }
    }

    fn known(&self, inode: InodeNo) -> Lacks {
        let known = lock(&self.inner).inodes.get(&inode).copied();
        let known = known.filter(|known| known.asked.elapsed() < self.longest);
        known.map_or(Lacks::default(), |known| known.lacks)
    }

    /// Has the inode no extended attributes, for all that is known?
    pub fn has_no_xattrs(&self, inode: InodeNo) -> bool {
        self.known(inode).xattrs
    }

    /// Has it none of this name, for all that is known?
    pub fn has_none(&self, inode: InodeNo, name: &[u8]) -> bool {
        let lacks = self.known(inode);
        lacks.xattrs || lacks.security && is_security(name)
    }

    /// Has it nothing that a write takes away? `keeps_set_ids`: for who writes, set-id bits stay.
    pub fn is_unprivileged(&self, inode: InodeNo, keeps_set_ids: bool) -> bool {
        let lacks = self.known(inode);
        lacks.capability && (keeps_set_ids || lacks.set_ids)
    }

    /// The inode changed, or may have.
    pub fn forget(&self, inode: InodeNo) {
        let mut inner = lock(&self.inner);
        inner.changes += 1;
        let change = Known { lacks: Lacks::default(), changed: inner.changes, asked: Instant::now() };
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

    fn none(ledger: &Lacking, inode: InodeNo) -> bool {
        ledger.has_none(inode, b"security.capability")
    }

    #[test]
    fn what_the_master_said_is_known_until_it_changes() {
        let ledger = Lacking::new(LONG);
        assert!(!none(&ledger, InodeNo(5)));
        ledger.learn(ledger.mark(), &attr(5, false));
        ledger.learn(ledger.mark(), &attr(6, true));
        assert!(none(&ledger, InodeNo(5)) && !none(&ledger, InodeNo(6)));
        ledger.forget(InodeNo(5));
        assert!(!none(&ledger, InodeNo(5)));
        ledger.learn(ledger.mark(), &attr(5, false));
        ledger.learn(ledger.mark(), &attr(5, true));
        assert!(!none(&ledger, InodeNo(5)));
    }

    #[test]
    fn nothing_is_known_for_longer_than_the_master_tells_of_changes() {
        let ledger = Lacking::new(Duration::ZERO);
        ledger.learn(ledger.mark(), &attr(5, false));
        assert!(!none(&ledger, InodeNo(5)));
    }

    #[test]
    fn an_answer_to_a_question_from_before_the_change_does_not_count() {
        let ledger = Lacking::new(LONG);
        let before = ledger.mark();
        ledger.forget(InodeNo(5));
        ledger.learn(before, &attr(5, false));
        assert!(!none(&ledger, InodeNo(5)));
        ledger.learn(ledger.mark(), &attr(5, true));
        ledger.learn(before, &attr(5, false));
        assert!(!none(&ledger, InodeNo(5)), "the newer answer is known already");
        ledger.learn(before, &attr(6, false));
        assert!(none(&ledger, InodeNo(6)), "another inode");
        ledger.forget_all();
        ledger.learn(before, &attr(6, false));
        assert!(!none(&ledger, InodeNo(6)));
    }

    #[test]
    fn changes_count_also_when_they_fell_out() {
        let ledger = Lacking::of(NonZeroUsize::MIN, LONG);
        let before = ledger.mark();
        ledger.forget(InodeNo(5));
        ledger.forget(InodeNo(6));
        ledger.learn(before, &attr(5, false));
        assert!(!none(&ledger, InodeNo(5)));
        ledger.learn(ledger.mark(), &attr(5, false));
        assert!(none(&ledger, InodeNo(5)));
    }

    #[test]
    fn what_is_lacking_is_told_apart() {
        let ledger = Lacking::new(LONG);
        let learn = |attr: pb::Attr| ledger.learn(ledger.mark(), &attr);
        let file = InodeNo(5);
        let plain = pb::Attr { inode: 5, mode: 0o644, ..Default::default() };
        learn(plain);
        assert!(none(&ledger, file) && !ledger.has_none(file, b"user.mine") && !ledger.has_no_xattrs(file));
        assert!(ledger.is_unprivileged(file, false));
        learn(pb::Attr { no_xattrs: true, ..plain });
        assert!(ledger.has_none(file, b"user.mine") && ledger.has_no_xattrs(file));
        learn(pb::Attr { mode: 0o4755, ..plain });
        assert!(ledger.is_unprivileged(file, true) && !ledger.is_unprivileged(file, false));
        let listed = pb::Attr { has_security: true, ..plain };
        learn(listed);
        assert!(!ledger.is_unprivileged(file, true), "it may be a capability");
        ledger.learn_unprivileged(ledger.mark(), &listed);
        assert!(ledger.is_unprivileged(file, false) && !none(&ledger, file));
        ledger.forget(file);
        assert!(!ledger.is_unprivileged(file, true));
    }
}
