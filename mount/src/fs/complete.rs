//! Directories of which all names are known: those that this mount made. A look-up of another name needs no question.
//!
//! Programs that make files look for each name first. In a directory that was just made there is nothing but what was made
//! in it since, here or by others; of what others do the master tells (`trust`).
//!
//! What must hold: a name counts as taken from before the master is asked to make it; names that were taken away stay
//! (then the master is asked, which is as good). All is forgotten when somebody else changes a name in the directory, and when
//! nothing was done in it for as long as the master promised to tell. Names are kept as hashes with a secret of this process; of two
//! that share one, the master is asked. Memory is bounded.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::Mutex;

use dfs_proto::ids::InodeNo;
use lru::LruCache;

use super::trust::{Asked, Trust};
use crate::lock::lock;

/// Most names of all directories.
const MOST_NAMES: usize = 500_000;
/// A directory itself takes as much memory as so many names.
const DIRECTORY: usize = 8;

struct Directory {
    /// When the master was last asked for something by which it tells of changes from then on.
    asked: Asked,
    names: HashSet<u64>,
}

impl Directory {
    fn takes(&self) -> usize {
        self.names.len() + DIRECTORY
    }
}

/// See the module.
pub struct CompleteDirectories {
    most_names: usize,
    hasher: RandomState,
    inner: Mutex<Inner>,
}

struct Inner {
    directories: LruCache<InodeNo, Directory>,
    /// Of all, with what directories themselves take.
    names: usize,
}

impl Default for CompleteDirectories {
    fn default() -> Self {
        CompleteDirectories::of(MOST_NAMES)
    }
}

impl CompleteDirectories {
    fn of(most_names: usize) -> Self {
        let inner = Inner { directories: LruCache::unbounded(), names: 0 };
        CompleteDirectories { most_names, hasher: RandomState::new(), inner: Mutex::new(inner) }
    }

    /// This mount made a directory, for which it asked at `asked`.
    pub fn made(&self, asked: Asked, directory: InodeNo) {
        let mut inner = lock(&self.inner);
        inner.forget(directory);
        inner.names += DIRECTORY;
        inner.directories.put(directory, Directory { asked, names: HashSet::new() });
        inner.bound(self.most_names);
    }

    /// This mount will ask for this name to be made.
    pub fn will_make(&self, directory: InodeNo, name: &[u8]) {
        let hash = self.hasher.hash_one(name);
        let mut inner = lock(&self.inner);
        let added = inner.directories.get_mut(&directory).is_some_and(|of| of.names.insert(hash));
        if added {
            inner.names += 1;
            inner.bound(self.most_names);
        }
    }

    /// The master answered a change of names in this directory, which was asked for at `asked`: it tells of others from then on.
    pub fn heard(&self, trust: &Trust, asked: Asked, directory: InodeNo) {
        let mut inner = lock(&self.inner);
        let Some(of) = inner.directories.peek_mut(&directory) else { return };
        if !trust.are_names_right(of.asked, directory) {
            inner.forget(directory);
        } else if of.asked.is_before(asked) {
            of.asked = asked;
        }
    }

    /// As of when it is known that there is no such name, if it is.
    pub fn lacks(&self, trust: &Trust, directory: InodeNo, name: &[u8]) -> Option<Asked> {
        let mut inner = lock(&self.inner);
        let of = inner.directories.peek(&directory)?;
        if !trust.are_names_right(of.asked, directory) {
            inner.forget(directory);
            return None;
        }
        (!of.names.contains(&self.hasher.hash_one(name))).then_some(of.asked)
    }
}

impl Inner {
    fn forget(&mut self, directory: InodeNo) {
        if let Some(of) = self.directories.pop(&directory) {
            self.names -= of.takes();
        }
    }

    fn bound(&mut self, most_names: usize) {
        while self.names > most_names
            && let Some((_, of)) = self.directories.pop_lru()
        {
            self.names -= of.takes();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LONGEST: Duration = Duration::from_secs(30);
    const DIR: InodeNo = InodeNo(7);

    fn made(trust: &Trust) -> CompleteDirectories {
        let complete = CompleteDirectories::default();
        complete.made(trust.ask(), DIR);
        complete
    }

    fn lacks(complete: &CompleteDirectories, trust: &Trust, name: &[u8]) -> bool {
        complete.lacks(trust, DIR, name).is_some()
    }

    #[test]
    fn in_a_new_directory_there_is_what_was_made_in_it() {
        let trust = Trust::new(LONGEST);
        let complete = made(&trust);
        assert!(lacks(&complete, &trust, b"a") && complete.lacks(&trust, InodeNo(8), b"a").is_none());
        let asked = trust.ask();
        complete.will_make(DIR, b"a");
        assert!(!lacks(&complete, &trust, b"a") && lacks(&complete, &trust, b"b"));
        trust.names_changed(DIR, true);
        complete.heard(&trust, asked, DIR);
        assert!(!lacks(&complete, &trust, b"a") && lacks(&complete, &trust, b"b"));
    }

    #[test]
    fn when_somebody_else_changes_a_name_nothing_is_known_any_more() {
        let trust = Trust::new(LONGEST);
        let complete = made(&trust);
        trust.names_changed(DIR, false);
        assert!(!lacks(&complete, &trust, b"a"));
        let complete = made(&trust);
        let asked = trust.ask();
        trust.names_changed(DIR, false);
        // The answer to this mount's own change comes after the notice.
        complete.heard(&trust, asked, DIR);
        complete.heard(&trust, trust.ask(), DIR);
        assert!(!lacks(&complete, &trust, b"a"));
        let complete = made(&trust);
        trust.lost();
        trust.resumed();
        assert!(!lacks(&complete, &trust, b"a"));
    }

    #[test]
    fn it_is_known_for_as_long_as_the_master_tells_and_each_change_prolongs_that() {
        let trust = Trust::new(Duration::from_millis(200));
        let complete = made(&trust);
        let began = std::time::Instant::now();
        while began.elapsed() < Duration::from_millis(500) {
            let asked = trust.ask();
            complete.heard(&trust, asked, DIR);
            // A machine that is busy may have slept too long.
            assert!(lacks(&complete, &trust, b"a") || trust.is_over(asked));
            if !lacks(&complete, &trust, b"a") {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(250));
        assert!(!lacks(&complete, &trust, b"a"));
        complete.heard(&trust, trust.ask(), DIR);
        assert!(!lacks(&complete, &trust, b"a"), "what happened meanwhile nobody told");
    }

    #[test]
    fn memory_is_bounded() {
        let trust = Trust::new(LONGEST);
        let complete = CompleteDirectories::of(3 * DIRECTORY);
        (1..=3).for_each(|n| complete.made(trust.ask(), InodeNo(n)));
        let knows = |n| complete.lacks(&trust, InodeNo(n), b"none").is_some();
        assert!(knows(1) && knows(2) && knows(3));
        (0..DIRECTORY).for_each(|n| complete.will_make(InodeNo(3), n.to_string().as_bytes()));
        assert!(!knows(1) && knows(2) && knows(3));
        complete.made(trust.ask(), InodeNo(3));
        complete.made(trust.ask(), InodeNo(4));
        assert!(knows(2) && knows(3) && knows(4));
        assert_eq!(lock(&complete.inner).names, 3 * DIRECTORY);
    }
}
