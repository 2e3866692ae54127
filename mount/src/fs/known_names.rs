//! Directories of which names are known, so that a look-up in them needs no question: those that this mount made, and those in which
//! programs looked up one name after the other, which were listed ahead (`names_ahead`).
//!
//! Programs that make files look for each name first; programs that look at all files of a directory look them up one by one.
//!
//! What must hold: what this mount changes of a name is not known from before the master is asked until somebody asks it again. All of a
//! directory is forgotten when somebody else changes a name in it (`trust`), and when nothing was done in it for as long as
//! the master promised to tell. A list counts only if no name was changed, by anybody, since it was asked for. Memory is bounded.

use std::collections::HashMap;
use std::sync::Mutex;

use dfs_proto::ids::InodeNo;
use dfs_proto::{MAX_NAME_LEN, pb};
use lru::LruCache;

use super::trust::{Asked, Trust};
use crate::lock::lock;

/// Most memory, in names.
const MOST: usize = 300_000;
/// A directory takes as much memory as so many names,
const DIRECTORY: usize = 8;
/// and the attributes of an entry.
const ATTRIBUTES: usize = 4;

/// What is known of one name.
enum Name {
    /// That it may be there.
    Maybe,
    /// What it leads to, and as of when the attributes count.
    Leads(Box<(Asked, pb::Attr)>),
}

impl Name {
    fn takes(&self) -> usize {
        match self {
            Name::Maybe => 1,
            Name::Leads(_) => 1 + ATTRIBUTES,
        }
    }
}

struct Directory {
    /// When the master was last asked for something by which it tells of changes from then on.
    asked: Asked,
    /// There is no other name.
    whole: bool,
    names: HashMap<Box<[u8]>, Name>,
    /// Memory.
    takes: usize,
}

/// What a look-up finds without a question, as of then.
pub enum Found {
    /// This.
    Entry(Asked, pb::Attr),
    /// That there is no such name.
    Nothing(Asked),
}

/// See the module.
pub struct KnownNames {
    most: usize,
    inner: Mutex<Inner>,
}

struct Inner {
    directories: LruCache<InodeNo, Directory>,
    /// Memory of all.
    takes: usize,
}

impl Default for KnownNames {
    fn default() -> Self {
        KnownNames::of(MOST)
    }
}

impl KnownNames {
    fn of(most: usize) -> Self {
        KnownNames { most, inner: Mutex::new(Inner { directories: LruCache::unbounded(), takes: 0 }) }
    }

    /// This mount made a directory, for which it asked at `asked`.
    pub fn made(&self, asked: Asked, directory: InodeNo) {
        let made = Directory { asked, whole: true, names: HashMap::new(), takes: DIRECTORY };
        lock(&self.inner).put(directory, made, self.most);
    }

    /// The names of a directory were asked for at `asked`: all of them, if it is `whole`.
    pub fn listed(
        &self,
        trust: &Trust,
        asked: Asked,
        directory: InodeNo,
        entries: Vec<pb::DirEntry>,
        whole: bool,
    ) {
        let leads = |entry: pb::DirEntry| {
            let name = match entry.attr {
                Some(attr) => Name::Leads(Box::new((asked, attr))),
                None => Name::Maybe,
            };
            (entry.name.as_ref().into(), name)
        };
        let names: HashMap<Box<[u8]>, Name> = entries.into_iter().map(leads).collect();
        let takes = DIRECTORY + names.values().map(Name::takes).sum::<usize>();
        let mut inner = lock(&self.inner);
        // Under the lock: what is changed from now on is noted here.
        if !trust.has_new_entries(asked, directory) && trust.are_names_right(asked, directory) {
            inner.put(directory, Directory { asked, whole, names, takes }, self.most);
        }
    }

    /// This mount changes, or has changed, this name.
    pub fn changes(&self, directory: InodeNo, name: &[u8]) {
        let mut inner = lock(&self.inner);
        let Some(of) = inner.directories.get_mut(&directory) else { return };
        let before = of.names.insert(name.into(), Name::Maybe).map_or(0, |name| name.takes());
        of.takes = of.takes + 1 - before;
        inner.takes = inner.takes + 1 - before;
        inner.bound(self.most);
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

    /// What a look-up of this name finds, if that is known. Whether the attributes are still right is to be seen.
    pub fn find(&self, trust: &Trust, directory: InodeNo, name: &[u8]) -> Option<Found> {
        if name.len() > MAX_NAME_LEN {
            // That is another error than that it is not there.
            return None;
        }
        let mut inner = lock(&self.inner);
        let of = inner.directories.peek(&directory)?;
        if !trust.are_names_right(of.asked, directory) {
            inner.forget(directory);
            return None;
        }
        match of.names.get(name) {
            Some(Name::Leads(entry)) => Some(Found::Entry(entry.0, entry.1)),
            Some(Name::Maybe) => None,
            None => of.whole.then_some(Found::Nothing(of.asked)),
        }
    }
}

impl Inner {
    fn put(&mut self, directory: InodeNo, of: Directory, most: usize) {
        self.forget(directory);
        self.takes += of.takes;
        self.directories.put(directory, of);
        self.bound(most);
    }

    fn forget(&mut self, directory: InodeNo) {
        if let Some(of) = self.directories.pop(&directory) {
            self.takes -= of.takes;
        }
    }

    fn bound(&mut self, most: usize) {
        while self.takes > most
            && let Some((_, of)) = self.directories.pop_lru()
        {
            self.takes -= of.takes;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    const LONGEST: Duration = Duration::from_secs(30);
    const DIR: InodeNo = InodeNo(7);

    fn made(trust: &Trust) -> KnownNames {
        let names = KnownNames::default();
        names.made(trust.ask(), DIR);
        names
    }

    fn lacks(names: &KnownNames, trust: &Trust, name: &[u8]) -> bool {
        matches!(names.find(trust, DIR, name), Some(Found::Nothing(_)))
    }

    fn leads(names: &KnownNames, trust: &Trust, name: &[u8]) -> Option<u64> {
        match names.find(trust, DIR, name) {
            Some(Found::Entry(_, attr)) => Some(attr.inode),
            _ => None,
        }
    }

    fn entries(inodes: std::ops::Range<u64>) -> Vec<pb::DirEntry> {
        let attr = |inode| pb::Attr { inode, ..Default::default() };
        let entry = |n: u64| pb::DirEntry { name: n.to_string().into(), attr: Some(attr(n)) };
        inodes.map(entry).collect()
    }

    #[test]
    fn in_a_new_directory_there_is_what_was_made_in_it() {
        let trust = Trust::new(LONGEST);
        let names = made(&trust);
        assert!(lacks(&names, &trust, b"a") && names.find(&trust, InodeNo(8), b"a").is_none());
        let asked = trust.ask();
        names.changes(DIR, b"a");
        assert!(!lacks(&names, &trust, b"a") && lacks(&names, &trust, b"b"));
        trust.names_changed(DIR, true);
        names.heard(&trust, asked, DIR);
        assert!(!lacks(&names, &trust, b"a") && lacks(&names, &trust, b"b"));
        assert!(!lacks(&names, &trust, &[b'x'; MAX_NAME_LEN + 1]), "no name can be so long");
    }

    #[test]
    fn of_a_list_every_name_is_known_but_those_that_this_mount_changed() {
        let trust = Trust::new(LONGEST);
        let names = KnownNames::default();
        names.listed(&trust, trust.ask(), DIR, entries(10..20), true);
        assert_eq!(leads(&names, &trust, b"13"), Some(13));
        assert!(lacks(&names, &trust, b"x"));
        names.changes(DIR, b"13");
        trust.names_changed(DIR, true);
        assert!(names.find(&trust, DIR, b"13").is_none() && leads(&names, &trust, b"14").is_some());
        names.listed(&trust, trust.ask(), DIR, entries(10..20), false);
        assert!(leads(&names, &trust, b"13").is_some());
        assert!(names.find(&trust, DIR, b"x").is_none(), "there may be more names");
    }

    #[test]
    fn a_list_counts_only_if_nothing_changed_since_it_was_asked_for() {
        let trust = Trust::new(LONGEST);
        for own in [true, false] {
            let names = KnownNames::default();
            let asked = trust.ask();
            trust.names_changed(DIR, own);
            names.listed(&trust, asked, DIR, entries(1..2), true);
            assert!(names.find(&trust, DIR, b"1").is_none() && names.find(&trust, DIR, b"x").is_none());
        }
    }

    #[test]
    fn when_somebody_else_changes_a_name_nothing_is_known_any_more() {
        let trust = Trust::new(LONGEST);
        let names = made(&trust);
        trust.names_changed(DIR, false);
        assert!(!lacks(&names, &trust, b"a"));
        let names = made(&trust);
        let asked = trust.ask();
        trust.names_changed(DIR, false);
        // The answer to this mount's own change comes after the notice.
        names.heard(&trust, asked, DIR);
        names.heard(&trust, trust.ask(), DIR);
        assert!(!lacks(&names, &trust, b"a"));
        let names = made(&trust);
        trust.lost();
        trust.resumed();
        assert!(!lacks(&names, &trust, b"a"));
    }

    #[test]
    fn it_is_known_for_as_long_as_the_master_tells_and_each_change_prolongs_that() {
        let trust = Trust::new(Duration::from_millis(200));
        let names = made(&trust);
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(500) {
            let asked = trust.ask();
            names.heard(&trust, asked, DIR);
            // A machine that is busy may have slept too long.
            assert!(lacks(&names, &trust, b"a") || trust.is_over(asked));
            if !lacks(&names, &trust, b"a") {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(250));
        assert!(!lacks(&names, &trust, b"a"));
        names.heard(&trust, trust.ask(), DIR);
        assert!(!lacks(&names, &trust, b"a"), "what happened meanwhile nobody told");
    }

    #[test]
    fn memory_is_bounded() {
        let trust = Trust::new(LONGEST);
        let names = KnownNames::of(3 * DIRECTORY);
        (1..=3).for_each(|n| names.made(trust.ask(), InodeNo(n)));
        let knows = |n| names.find(&trust, InodeNo(n), b"none").is_some();
        assert!(knows(1) && knows(2) && knows(3));
        (0..DIRECTORY).for_each(|n| names.changes(InodeNo(3), n.to_string().as_bytes()));
        assert!(!knows(1) && knows(2) && knows(3));
        names.made(trust.ask(), InodeNo(3));
        names.made(trust.ask(), InodeNo(4));
        assert!(knows(2) && knows(3) && knows(4));
        assert_eq!(lock(&names.inner).takes, 3 * DIRECTORY);
        names.listed(&trust, trust.ask(), InodeNo(5), entries(1..100), true);
        assert!(!knows(5), "it is too long");
        assert_eq!(lock(&names.inner).takes, 0);
    }
}
