//! What the kernel may still have in its page cache: for each file that this mount opened lately, the content
//! version that its pages are of. An open may keep the pages only when the file is still of that version.
//!
//! And which files are not to be read through that cache, because another mount changes them again and again: the kernel
//! fills a page with zeroes after the end that a read came to, and may show them up to the size that it knew before.

use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dfs_proto::ids::InodeNo;
use dfs_proto::pb;
use lru::LruCache;

/// Files remembered. A file that fell out loses its pages at the next open.
const REMEMBERED: NonZeroUsize = NonZeroUsize::MIN.saturating_add(65_535);

/// Files remembered that others change.
const CHANGED_REMEMBERED: NonZeroUsize = NonZeroUsize::MIN.saturating_add(4_095);

/// A file that another mount changed so lately may be changed again while it is read.
const CHANGES_AGAIN_WITHIN: Duration = Duration::from_secs(10);

/// The same of a file that this mount did not know when it was changed, so that nobody told it of that.
const CHANGED_UNHEARD_WITHIN_MS: i64 = 2_000;

/// Inode -> content version of the kernel's pages, and when another mount changed it.
pub struct PageCacheLedger {
    versions: Mutex<LruCache<InodeNo, u64>>,
    changed: Mutex<LruCache<InodeNo, Instant>>,
}

impl Default for PageCacheLedger {
    fn default() -> Self {
        Self {
            versions: Mutex::new(LruCache::new(REMEMBERED)),
            changed: Mutex::new(LruCache::new(CHANGED_REMEMBERED)),
        }
    }
}

impl PageCacheLedger {
    fn locked(&self) -> MutexGuard<'_, LruCache<InodeNo, u64>> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changes(&self) -> MutexGuard<'_, LruCache<InodeNo, Instant>> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A file is opened: may the kernel keep its pages?
    pub fn opened(&self, attr: &pb::Attr) -> bool {
        self.locked().put(InodeNo(attr.inode), attr.content_version) == Some(attr.content_version)
    }

    /// May the kernel have pages of the file, as far as is known?
    pub fn has_pages(&self, inode: InodeNo) -> bool {
        self.locked().contains(&inode)
    }

    /// This mount changed the content, through the kernel's pages. They stay right if nobody else changed
    /// anything in between.
    pub fn own_change(&self, attr: &pb::Attr) {
        let mut versions = self.locked();
        if let Some(version) = versions.get_mut(&InodeNo(attr.inode))
            && version.checked_add(1) == Some(attr.content_version)
        {
            *version = attr.content_version;
        }
    }

    /// Somebody else changed the content.
    pub fn changed(&self, inode: InodeNo) {
        self.locked().pop(&inode);
        self.changes().put(inode, Instant::now());
    }

    /// A file was opened of which the kernel has no pages of this version. Where its content was changed a moment before, somebody
    /// else did it, who may do it again. `now`: by the master's clock.
    pub fn opened_unknown(&self, attr: &pb::Attr, now: pb::Time) {
        let since_ms = now.as_millis().saturating_sub(attr.ctime.unwrap_or_default().as_millis());
        // One that was just made has no content.
        if attr.content_version > 0 && since_ms < CHANGED_UNHEARD_WITHIN_MS {
            self.changes().put(InodeNo(attr.inode), Instant::now());
        }
    }

    /// Did somebody else change the content a moment ago?
    pub fn changes_elsewhere(&self, inode: InodeNo) -> bool {
        self.changes().peek(&inode).is_some_and(|when| when.elapsed() < CHANGES_AGAIN_WITHIN)
    }

    /// The session was lost: anything may have changed.
    pub fn forget_all(&self) {
        self.locked().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attr(content_version: u64) -> pb::Attr {
        pb::Attr { inode: 5, content_version, ..Default::default() }
    }

    #[test]
    fn pages_are_kept_while_the_version_stays() {
        let ledger = PageCacheLedger::default();
        assert!(!ledger.opened(&attr(1)));
        assert!(ledger.opened(&attr(1)));
        assert!(!ledger.opened(&attr(2)), "somebody else wrote");
    }

    #[test]
    fn a_file_that_is_first_opened_a_moment_after_a_change_changes_elsewhere() {
        let time = |sec| pb::Time { sec, nsec: 0 };
        let opened = |content_version, now| {
            let ledger = PageCacheLedger::default();
            let attr = pb::Attr { ctime: Some(time(100)), ..attr(content_version) };
            ledger.opened_unknown(&attr, time(now));
            ledger.changes_elsewhere(InodeNo(5))
        };
        assert!(opened(1, 101));
        assert!(!opened(1, 102), "long ago");
        assert!(!opened(0, 101), "it has no content");
    }

    #[test]
    fn own_changes_keep_the_pages_and_others_do_not() {
        let ledger = PageCacheLedger::default();
        ledger.opened(&attr(1));
        ledger.own_change(&attr(2));
        ledger.own_change(&attr(3));
        assert!(ledger.opened(&attr(3)));
        ledger.own_change(&attr(5));
        assert!(!ledger.opened(&attr(5)), "version 4 was somebody else's");
        assert!(!ledger.changes_elsewhere(InodeNo(5)));
        ledger.changed(InodeNo(5));
        assert!(!ledger.opened(&attr(5)));
        assert!(ledger.changes_elsewhere(InodeNo(5)));
        ledger
            .changed
            .lock()
            .unwrap()
            .put(InodeNo(5), Instant::now().checked_sub(CHANGES_AGAIN_WITHIN).unwrap());
        assert!(!ledger.changes_elsewhere(InodeNo(5)));
        ledger.forget_all();
        assert!(!ledger.opened(&attr(5)));
    }
}
