//! Whole lists of directories, for as long as they are known to be right (`trust`): a directory in which nothing changed is
//! listed again without asking. Memory is bounded.
//!
//! The kernel could keep such lists by itself (FOPEN_CACHE_DIR). It puts them together from what any of the programs gets
//! that list a directory at once, and goes on in them in the middle, without looking how old they are: entries would be
//! missing, or be there twice. So it is not let, and each list is of one piece.
//!
//! After each list that the kernel was given it takes the directory's atime for changed, and asks. So that atime is kept here too.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use dfs_proto::ids::InodeNo;
use dfs_proto::pb;
use lru::LruCache;

use super::places::Name;
use super::trust::{Asked, Trust};
use crate::lock::lock;

/// Most entries of all directories.
const MOST_ENTRIES: usize = 500_000;

/// A directory itself takes as much memory as so many entries.
const DIRECTORY: usize = 8;

/// One entry, without what changes while it is there.
#[derive(Clone, Debug)]
pub struct Listed {
    /// By which lists are ordered.
    pub name: Name,
    /// What it leads to.
    pub inode: InodeNo,
    /// The type of that.
    pub mode: u32,
}

/// All of a directory.
#[derive(Clone, Debug)]
pub struct List {
    /// When its beginning was asked for: it is right if nothing changed since.
    pub asked: Asked,
    /// The directory above.
    pub parent: InodeNo,
    /// In order.
    pub entries: Vec<Listed>,
    /// To list it counted as reading the directory: listing it once more changes no atime.
    pub read: bool,
}

struct Kept {
    list: Arc<List>,
    /// The directory's own attributes, when they were asked for after the list was whole,
    attr: Option<(Asked, pb::Attr)>,
    /// and after its atime was changed last.
    since: Instant,
}

/// See the module.
pub struct Lists {
    most_entries: usize,
    inner: Mutex<Inner>,
}

struct Inner {
    /// In the order in which they came.
    lists: LruCache<InodeNo, Kept>,
    /// Of all lists, with what directories themselves take.
    entries: usize,
}

impl Default for Lists {
    fn default() -> Self {
        Lists::of(MOST_ENTRIES)
    }
}

impl Lists {
    fn of(most_entries: usize) -> Lists {
        Lists { most_entries, inner: Mutex::new(Inner { lists: LruCache::unbounded(), entries: 0 }) }
    }

    /// Is a list of so many entries too long to be kept?
    pub fn is_too_long(&self, entries: usize) -> bool {
        entries + DIRECTORY > self.most_entries
    }

    /// A directory was listed whole.
    pub fn put(&self, directory: InodeNo, list: List) {
        if self.is_too_long(list.entries.len()) {
            return;
        }
        let mut inner = lock(&self.inner);
        inner.take(directory);
        inner.entries += list.entries.len() + DIRECTORY;
        inner.lists.put(directory, Kept { list: Arc::new(list), attr: None, since: Instant::now() });
        while inner.entries > self.most_entries {
            inner.take_oldest();
        }
    }

    /// The list of this directory, if it is right.
    pub fn get(&self, trust: &Trust, directory: InodeNo) -> Option<Arc<List>> {
        let list = lock(&self.inner).lists.peek(&directory)?.list.clone();
        trust.is_list_right(list.asked, directory).then_some(list)
    }

    /// The master said this of an inode, which was asked for then.
    pub fn note_attr(&self, asked: Asked, attr: &pb::Attr) {
        if let Some(kept) = lock(&self.inner).lists.peek_mut(&InodeNo(attr.inode))
            && kept.list.read
            && asked.is_after(kept.since)
        {
            kept.attr = Some((asked, *attr));
        }
    }

    /// The master changed the atime of an inode for this mount.
    pub fn atime_changed(&self, inode: InodeNo) {
        if let Some(kept) = lock(&self.inner).lists.peek_mut(&inode) {
            (kept.attr, kept.since) = (None, Instant::now());
        }
    }

    /// The attributes of a directory whose list is kept, and when they were asked for, if both are right.
    pub fn attr(&self, trust: &Trust, directory: InodeNo) -> Option<(Asked, pb::Attr)> {
        let inner = lock(&self.inner);
        let kept = inner.lists.peek(&directory)?;
        kept.attr.filter(|_| trust.is_list_right(kept.list.asked, directory))
    }

    /// Forgets those that were asked for too long ago.
    pub fn forget_old(&self, trust: &Trust) {
        let mut inner = lock(&self.inner);
        while inner.lists.peek_lru().is_some_and(|(_, kept)| trust.is_over(kept.list.asked)) {
            inner.take_oldest();
        }
    }
}

impl Inner {
    fn take(&mut self, directory: InodeNo) {
        if let Some(kept) = self.lists.pop(&directory) {
            self.entries -= kept.list.entries.len() + DIRECTORY;
        }
    }

    fn take_oldest(&mut self) {
        if let Some((_, kept)) = self.lists.pop_lru() {
            self.entries -= kept.list.entries.len() + DIRECTORY;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn list(trust: &Trust, count: u64) -> List {
        let entry = |n: u64| Listed {
            name: n.to_string().into_bytes().into(),
            inode: InodeNo(100 + n),
            mode: libc::S_IFREG,
        };
        List {
            asked: trust.ask(),
            parent: InodeNo::ROOT,
            entries: (0..count).map(entry).collect(),
            read: true,
        }
    }

    #[test]
    fn the_oldest_lists_go_first_and_too_long_ones_are_not_kept() {
        let (lists, trust) = (Lists::of(30), Trust::new(Duration::from_secs(30)));
        let length = |directory| lists.get(&trust, InodeNo(directory)).map(|list| list.entries.len());
        lists.put(InodeNo(1), list(&trust, 4));
        lists.put(InodeNo(2), list(&trust, 3));
        assert_eq!((length(1), length(2)), (Some(4), Some(3)));
        lists.put(InodeNo(3), list(&trust, 4));
        assert_eq!((length(1), length(2), length(3)), (None, Some(3), Some(4)));
        lists.put(InodeNo(2), list(&trust, 4));
        lists.put(InodeNo(3), list(&trust, 30));
        assert_eq!((length(2), length(3)), (Some(4), Some(4)));
    }

    #[test]
    fn a_list_is_given_until_something_changes() {
        let (lists, trust) = (Lists::of(30), Trust::new(Duration::from_secs(30)));
        lists.put(InodeNo(1), list(&trust, 4));
        lists.put(InodeNo(2), list(&trust, 4));
        trust.names_changed(InodeNo(1), true);
        assert!(lists.get(&trust, InodeNo(1)).is_none() && lists.get(&trust, InodeNo(2)).is_some());
        lists.forget_old(&trust);
        assert!(lists.get(&trust, InodeNo(2)).is_some());
        lists.forget_old(&Trust::new(Duration::ZERO));
        assert_eq!(lock(&lists.inner).entries, 0);
    }

    #[test]
    fn attributes_are_kept_with_a_list_that_counted_as_reading() {
        let (lists, trust) = (Lists::of(30), Trust::new(Duration::from_secs(30)));
        let attr = |inode| pb::Attr { inode, nlink: 7, ..Default::default() };
        let before = trust.ask();
        lists.put(InodeNo(1), list(&trust, 1));
        lists.put(InodeNo(2), List { read: false, ..list(&trust, 1) });
        lists.note_attr(before, &attr(1));
        assert!(lists.attr(&trust, InodeNo(1)).is_none(), "the list may have changed the atime since");
        (1..4).for_each(|inode| lists.note_attr(trust.ask(), &attr(inode)));
        assert_eq!(lists.attr(&trust, InodeNo(1)).map(|(_, attr)| attr.nlink), Some(7));
        assert!(lists.attr(&trust, InodeNo(2)).is_none() && lists.attr(&trust, InodeNo(3)).is_none());
        lists.atime_changed(InodeNo(1));
        assert!(lists.attr(&trust, InodeNo(1)).is_none());
        lists.note_attr(trust.ask(), &attr(1));
        assert!(lists.attr(&trust, InodeNo(1)).is_some());
        trust.attrs_changed(InodeNo(1));
        assert!(lists.attr(&trust, InodeNo(1)).is_none());
    }
}
