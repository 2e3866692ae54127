//! The trash: files whose last name went are kept for a while, if a period is set.
//!
//! What is in the trash is an inode without a name that a row holds, as an open would. It counts in no quota, and keeps
//! its chunks, attributes and access list. After the period, or when an operator says so, the row goes, and the
//! inode with it unless somebody has it open. Only regular files are kept: what else has no bytes is quickly made again.
//!
//! What must hold: what is in the trash is a file without a name; `bytes` is the sum over all entries; `by_time` has
//! each entry once. Purging takes [`STEP`] entries per tick, so that nobody waits for it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::{InodeNo, SessionId};
use dfs_proto::pb;

use super::State;
use super::inode::{Body, Inode};
use super::out::{Out, Res, fail};
use super::row::{RowKey, TrashRow};

/// Entries that are purged in one tick.
const STEP: usize = 64;
/// Entries in one page of a listing.
const PAGE: usize = 1000;
/// No mount has this id: everybody is told of a change.
const NOBODY: SessionId = SessionId(0);

/// All entries.
#[derive(Default)]
pub(super) struct Trash {
    map: BTreeMap<InodeNo, TrashRow>,
    /// (when, entry), the oldest first.
    by_time: BTreeSet<(i64, InodeNo)>,
    bytes: u64,
    /// What came in up to this time is to go, whatever the period.
    empty_until_ms: i64,
}

impl Trash {
    pub fn get(&self, inode: InodeNo) -> Option<&TrashRow> {
        self.map.get(&inode)
    }

    pub fn has(&self, inode: InodeNo) -> bool {
        self.map.contains_key(&inode)
    }

    pub fn keys(&self) -> impl Iterator<Item = InodeNo> {
        self.map.keys().copied()
    }

    /// Files and bytes.
    pub fn size(&self) -> (u64, u64) {
        (self.map.len() as u64, self.bytes)
    }

    /// False: it is there already.
    pub fn insert(&mut self, inode: InodeNo, row: TrashRow) -> bool {
        self.by_time.insert((row.deleted.as_millis(), inode));
        self.bytes = self.bytes.saturating_add(row.bytes);
        self.map.insert(inode, row).is_none()
    }

    fn remove(&mut self, inode: InodeNo) -> Option<TrashRow> {
        let row = self.map.remove(&inode)?;
        self.by_time.remove(&(row.deleted.as_millis(), inode));
        self.bytes = self.bytes.saturating_sub(row.bytes);
        Some(row)
    }

    /// Those that came in up to this time, the oldest first.
    fn up_to(&self, until_ms: i64) -> impl Iterator<Item = InodeNo> {
        self.by_time.range(..=(until_ms, InodeNo(u64::MAX))).map(|(_, inode)| *inode)
    }
}

/// What an operator does with the trash.
#[derive(Clone, Debug)]
pub enum TrashOperation {
    /// Gives a file a name again.
    Restore {
        /// The entry: an inode.
        entry: InodeNo,
        /// Absolute; empty: the name that it had.
        to: Bytes,
    },
    /// Lets a file go now. `None`: all that are there.
    Purge(Option<InodeNo>),
}

impl State {
    /// The absolute path of a name in a directory. Costs a step per directory above it.
    fn path_of(&self, mut directory: InodeNo, name: &[u8]) -> Box<[u8]> {
        let mut names: Vec<&[u8]> = vec![name];
        while directory != InodeNo::ROOT {
            let Some(Body::Dir(dir)) = self.inodes.get(&directory).map(|node| &node.body) else { break };
            names.push(&dir.name);
            directory = dir.parent;
        }
        let mut path = Vec::new();
        for name in names.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        path.into()
    }

    /// A name of an inode has just gone from this directory. Its last one: it is kept, if the trash is on.
    pub(super) fn trash_if_last(&mut self, inode: InodeNo, parent: InodeNo, name: &[u8], out: &mut Out) {
        if self.settings.trash_ms == 0 {
            return;
        }
        let bytes = match self.inodes.get(&inode) {
            Some(Inode { nlink: 0, body: Body::File { allocated, .. }, .. }) => *allocated,
            _ => return,
        };
        let row = TrashRow { path: self.path_of(parent, name), deleted: out.now, bytes };
        self.trash.insert(inode, row);
        out.touch(RowKey::Trash(inode));
    }

    /// An entry leaves the trash, and its inode with it if nobody else holds it.
    fn purge(&mut self, inode: InodeNo, out: &mut Out) {
        if self.trash.remove(inode).is_some() {
            out.touch(RowKey::Trash(inode));
            self.reap_if_unused(inode, out);
        }
    }

    /// Some of those whose time is over.
    pub(super) fn purge_trash(&mut self, out: &mut Out) {
        let period_ms = i64::try_from(self.settings.trash_ms).unwrap_or(i64::MAX);
        let until_ms = out.now.as_millis().saturating_sub(period_ms).max(self.trash.empty_until_ms);
        let over: Vec<InodeNo> = self.trash.up_to(until_ms).take(STEP).collect();
        for inode in over {
            self.purge(inode, out);
        }
    }

    pub(super) fn change_trash(&mut self, operation: &TrashOperation, out: &mut Out) -> Res<pb::TrashList> {
        match operation {
            TrashOperation::Restore { entry, to } => self.restore(*entry, to, out),
            TrashOperation::Purge(Some(entry)) => {
                let entries = vec![self.trash_entry(*entry)?];
                self.purge(*entry, out);
                Ok(pb::TrashList { entries, ..pb::TrashList::default() })
            }
            TrashOperation::Purge(None) => {
                self.trash.empty_until_ms = out.now.as_millis();
                let (files, bytes) = self.trash.size();
                Ok(pb::TrashList { files, bytes, ..pb::TrashList::default() })
            }
        }
    }

    fn trash_entry(&self, entry: InodeNo) -> Res<pb::TrashEntry> {
        match self.trash.get(entry) {
            Some(row) => Ok(pb::TrashEntry {
                entry: entry.0,
                path: Bytes::copy_from_slice(&row.path),
                deleted_ms: row.deleted.as_millis(),
                bytes: row.bytes,
                size: self.inodes.get(&entry).map_or(0, |node| node.size),
            }),
            None => {
                fail(ErrorCode::NotFound, format!("there is no {entry} in the trash; dfs trash ls lists it"))
            }
        }
    }

    fn restore(&mut self, entry: InodeNo, to: &[u8], out: &mut Out) -> Res<pb::TrashList> {
        let mut restored = self.trash_entry(entry)?;
        if !to.is_empty() {
            restored.path = Bytes::copy_from_slice(to);
        }
        let path = restored.path.clone();
        let at = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        let (directory, name) = (&path[..at], &path[(at + 1).min(path.len())..]);
        let place = || -> Res<InodeNo> {
            let (parent, _) = self.resolve(directory)?;
            self.check_free(parent, name)?;
            self.check_quota_for_name(Some(entry), parent)?;
            Ok(parent)
        };
        let parent = place().map_err(|error| {
            let advice = "make that possible, or choose another place with --to PATH";
            DfsError::new(error.code, format!("{}; {advice}", error.message))
        })?;
        let now = out.now;
        let node = self.inode_mut(entry, out)?;
        node.nlink = 1;
        node.ctime = now.into();
        self.trash.remove(entry);
        out.touch(RowKey::Trash(entry));
        self.put_entry(parent, name, entry, out)?;
        self.name_changed(NOBODY, parent, name, out);
        self.inode_changed(NOBODY, entry, false, out);
        Ok(pb::TrashList { entries: vec![restored], ..pb::TrashList::default() })
    }

    /// A page of the trash, the oldest first: files that were at or below `path` (empty: all), behind an entry of the
    /// page before.
    pub fn list_trash(&self, path: &[u8], after: Option<(i64, InodeNo)>) -> pb::TrashList {
        self.list_trash_below(InodeNo::ROOT, path, after)
    }

    /// The same as it is seen by whoever sees `root` alone: files that were below the path that it has now. Nothing is said of
    /// how much there is in all.
    pub fn list_trash_below(
        &self,
        root: InodeNo,
        path: &[u8],
        after: Option<(i64, InodeNo)>,
    ) -> pb::TrashList {
        if root == InodeNo::ROOT {
            return self.list_trash_at(path, after);
        }
        let Some(mut base) = self.dir_path(root) else { return pb::TrashList::default() };
        let length = base.len();
        base.push(b'/');
        base.extend_from_slice(path.strip_prefix(b"/").unwrap_or(path));
        let mut list = self.list_trash_at(&base, after);
        list.entries.iter_mut().for_each(|entry| entry.path = entry.path.slice(length..));
        pb::TrashList { files: 0, bytes: 0, ..list }
    }

    fn list_trash_at(&self, path: &[u8], after: Option<(i64, InodeNo)>) -> pb::TrashList {
        let path = path.strip_suffix(b"/").unwrap_or(path);
        let below = |inode: &InodeNo| {
            let row = self.trash.get(*inode);
            let rest = row.and_then(|row| row.path.strip_prefix(path));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        };
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let rest = self.trash.by_time.range((from, std::ops::Bound::Unbounded));
        let page: Vec<(i64, InodeNo)> = rest.take(PAGE).copied().collect();
        let next = page.last().filter(|_| page.len() == PAGE);
        let (files, bytes) = self.trash.size();
        pb::TrashList {
            entries: page
                .iter()
                .filter(|(_, i)| below(i))
                .filter_map(|(_, i)| self.trash_entry(*i).ok())
                .collect(),
            next: next.map(|(deleted_ms, entry)| pb::TrashCursor { deleted_ms: *deleted_ms, entry: entry.0 }),
            files,
            bytes,
        }
    }

    /// For `invariants.rs`.
    pub(super) fn check_trash(&self) -> Result<(), String> {
        for inode in self.trash.keys() {
            let node = self.inodes.get(&inode);
            if !node.is_some_and(|node| node.is_file() && node.nlink == 0) {
                return Err(format!("inode {inode} is in the trash, and is no file without a name"));
            }
        }
        if let Some((inode, _)) = self.trash.map.iter().find(|(_, row)| !row.path.starts_with(b"/")) {
            return Err(format!("inode {inode} is in the trash under a path that is not absolute"));
        }
        let bytes: u64 = self.trash.map.values().map(|row| row.bytes).sum();
        let times = self.trash.map.iter().map(|(inode, row)| (row.deleted.as_millis(), *inode));
        if bytes != self.trash.bytes || times.collect::<BTreeSet<_>>() != self.trash.by_time {
            return Err("the trash does not add up".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "trash_tests.rs"]
mod tests;
