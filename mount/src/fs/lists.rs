//! The names of directories whose list the kernel may have cached, in the order in which they were given out. The
//! kernel can begin with its own list and go on with ours, on a handle that has given out nothing yet: the numbers
//! that it has then are those of the handle that the list was read through.
//!
//! What must hold: a directory whose names are not here is not listed from the kernel's cache. Memory is bounded.

use std::sync::{Arc, Mutex};

use dfs_proto::ids::InodeNo;
use lru::LruCache;

use crate::lock::lock;

/// Most names of all directories.
const MOST_NAMES: usize = 500_000;

/// Names by number, from 0.
pub type Names = Arc<Vec<Box<[u8]>>>;

/// See the module.
pub struct Lists {
    most_names: usize,
    inner: Mutex<Inner>,
}

struct Inner {
    lists: LruCache<InodeNo, Names>,
    names: usize,
}

impl Default for Lists {
    fn default() -> Self {
        Lists::of(MOST_NAMES)
    }
}

impl Lists {
    fn of(most_names: usize) -> Lists {
        Lists { most_names, inner: Mutex::new(Inner { lists: LruCache::unbounded(), names: 0 }) }
    }

    /// A directory was listed whole.
    pub fn put(&self, directory: InodeNo, names: &[Box<[u8]>]) {
        let mut inner = lock(&self.inner);
        if let Some(old) = inner.lists.pop(&directory) {
            inner.names -= old.len() + 1;
        }
        // One more for each directory, so that empty ones are bounded too.
        if names.len() >= self.most_names {
            return;
        }
        inner.names += names.len() + 1;
        inner.lists.put(directory, Arc::new(names.to_vec()));
        while inner.names > self.most_names
            && let Some((_, gone)) = inner.lists.pop_lru()
        {
            inner.names -= gone.len() + 1;
        }
    }

    /// The names that the kernel's list of this directory has.
    pub fn get(&self, directory: InodeNo) -> Option<Names> {
        lock(&self.inner).lists.get(&directory).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<Box<[u8]>> {
        (0..count).map(|n| n.to_string().into_bytes().into()).collect()
    }

    #[test]
    fn the_oldest_lists_go_first_and_too_long_ones_are_not_kept() {
        let lists = Lists::of(10);
        lists.put(InodeNo(1), &names(4));
        lists.put(InodeNo(2), &names(3));
        assert_eq!(lists.get(InodeNo(1)).map(|list| list.len()), Some(4));
        lists.put(InodeNo(3), &names(4));
        assert!(lists.get(InodeNo(2)).is_none() && lists.get(InodeNo(1)).is_some());
        lists.put(InodeNo(1), &names(10));
        assert!(lists.get(InodeNo(1)).is_none() && lists.get(InodeNo(3)).is_some());
    }
}
