//! For how long the kernel may use each answer (`trust`, and what was written here and is not committed).

use std::time::Duration;

use dfs_proto::ids::InodeNo;
use dfs_proto::pb;

use super::Caller;
use super::Fs;
use super::board::{Board, Job};
use super::events::Notice;
use super::known_names::Found;
use super::removals::Removal;
use super::trust::{Asked, Ttl};

/// An answer to a look-up that came from here.
pub struct KnownEntry {
    /// What the name leads to, if it is there.
    pub attr: Option<pb::Attr>,
    /// How long the kernel may believe it.
    pub ttl: Ttl,
    /// As of when it counts.
    pub asked: Asked,
}

impl Fs {
    /// Notices for the kernel: to be delivered by whoever talks to it.
    pub fn notices(&self) -> &Board {
        &self.board
    }

    /// To be called when the kernel asks for something that it may cache.
    pub fn ask(&self) -> Asked {
        self.trust.ask()
    }

    /// To be held from before a name is taken away, by an unlink or a rename onto it, until the kernel was answered.
    pub fn removal(&self, thread: u32) -> Removal {
        self.removals.begin(thread)
    }

    /// To be awaited before the kernel is told these attributes, which `thread` asked for (`removals`).
    pub async fn until_counted(&self, thread: u32, mut attrs: impl Iterator<Item = &pb::Attr>) {
        if !self.removals.is_none() && attrs.any(|attr| self.trust.has_told_more_names(attr)) {
            self.removals.counted(thread).await;
        }
    }

    /// How long the kernel may use attributes that it asked for at `asked`.
    pub fn may_cache_attr(&self, asked: Asked, attr: &pb::Attr) -> Duration {
        let inode = InodeNo(attr.inode);
        let ttl = self.trust.attr(asked, attr);
        if self.changes_soon(inode) { Duration::ZERO } else { ttl }
    }

    /// How long the kernel may use an entry that it asked for at `asked`; without attributes, that there is none.
    pub fn may_cache_entry(
        &self,
        asked: Asked,
        parent: InodeNo,
        name: &[u8],
        attr: Option<&pb::Attr>,
    ) -> Ttl {
        if let Some(attr) = attr {
            self.paths.note(InodeNo(attr.inode), parent, name);
        }
        let ttl = self.trust.entry(asked, parent, name, attr);
        match attr {
            Some(attr) if self.changes_soon(InodeNo(attr.inode)) => Ttl { attr: Duration::ZERO, ..ttl },
            _ => ttl,
        }
    }

    /// Attributes that need not be asked for, how long the kernel may use them, and as of when they count: of a directory whose
    /// list is kept, or of what this mount changed last.
    pub fn known_attr(&self, inode: InodeNo) -> Option<(pb::Attr, Duration, Asked)> {
        let listed = || {
            let counted = self.atimes.counts_lists_once();
            counted.then(|| self.lists.attr(&self.trust, inode)).flatten()
        };
        let (asked, attr) = self.known.get(&self.trust, inode).or_else(listed)?;
        self.may_be_told(&attr).then(|| (attr, self.trust.attr(asked, &attr), asked))
    }

    /// To be called when the kernel was told known attributes: a change of this mount may have come between, of which it
    /// hears no notice.
    pub fn told_known(&self, inode: InodeNo, asked: Asked) {
        if self.trust.changed_since(asked, inode) {
            self.board.put(Job { key: inode, notices: vec![Notice::Attributes(inode)], ..Job::default() });
        }
    }

    /// What a look-up finds, if nobody needs to be asked, and for how long the kernel may believe it; `None` for the attributes: there is
    /// no such name.
    pub fn known_entry(&self, caller: &Caller, parent: InodeNo, name: &[u8]) -> Option<KnownEntry> {
        // Whether one whom it checks may look is for the master to say.
        let found = (!caller.checked).then(|| self.known_names.find(&self.trust, parent, name)).flatten()?;
        let (asked, attr) = match found {
            Found::Nothing(asked) => {
                let ttl = self.may_cache_entry(asked, parent, name, None);
                return Some(KnownEntry { attr: None, ttl, asked });
            }
            Found::Entry(asked, attr) => self.known.newest(&self.trust, asked, attr)?,
        };
        self.may_be_told(&attr).then(|| {
            let ttl = self.may_cache_entry(asked, parent, name, Some(&attr));
            KnownEntry { attr: Some(attr), ttl, asked }
        })
    }

    /// May known attributes be told? What is written here and not committed changes them; and who counts names waits (`removals`).
    fn may_be_told(&self, attr: &pb::Attr) -> bool {
        let is_counted = self.removals.is_none() || !self.trust.has_told_more_names(attr);
        is_counted && !self.changes_soon(InodeNo(attr.inode))
    }

    /// The same for an entry of a list, which may be older than what this mount changed since: then the kernel asks.
    pub(super) fn may_cache_listed(
        &self,
        asked: Asked,
        parent: InodeNo,
        name: &[u8],
        attr: &pb::Attr,
    ) -> Ttl {
        if self.trust.has_new_entries(asked, parent) {
            return Ttl::default();
        }
        self.may_cache_entry(asked, parent, name, Some(attr))
    }

    /// The path under which an inode was last seen, for people.
    pub fn path_of(&self, inode: InodeNo) -> String {
        self.paths.of(inode)
    }

    /// Its attributes change when what was written here is committed.
    fn changes_soon(&self, inode: InodeNo) -> bool {
        self.files.get(inode).is_some_and(|file| file.writer.has_pending())
    }
}
