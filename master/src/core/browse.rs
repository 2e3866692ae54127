//! What is shown of files in a browser: a file by its path, what is in a directory, and how to read a range. Paths are as they are seen by whoever
//! sees `root` alone (`bound.rs`); no symbolic link is followed.

use dfs_proto::error::ErrorCode;
use dfs_proto::ids::InodeNo;
use dfs_proto::pb;

use super::State;
use super::command::Now;
use super::out::{Res, fail};
use super::row::Name;

impl State {
    /// What is at a path.
    ///
    /// # Errors
    /// `NotFound`, `NotDirectory`.
    pub fn find(&self, root: InodeNo, path: &[u8]) -> Res<pb::Attr> {
        self.attr(self.resolve_below(root, path)?.0)
    }

    /// Entries of a directory behind a name (empty: from the start), in the order of names as bytes; and whether that was all.
    ///
    /// # Errors
    /// `Stale`, `NotDirectory`.
    pub fn list(&self, directory: InodeNo, after: &[u8], limit: usize) -> Res<(Vec<(Name, pb::Attr)>, bool)> {
        let mut rest = self.dir(directory)?.entries.after(after);
        let entries = rest.by_ref().take(limit).map(|(name, inode)| Ok((name.into(), self.attr(inode)?)));
        let entries = entries.collect::<Res<Vec<_>>>()?;
        Ok((entries, rest.next().is_none()))
    }

    /// Where a range of a file can be read, with tickets. Changes nothing that is stored.
    ///
    /// # Errors
    /// `Stale`: it is gone, or outside of what the asker sees.
    pub fn read_plan(
        &mut self,
        root: InodeNo,
        inode: InodeNo,
        (offset, length): (u64, u64),
        now: Now,
    ) -> Res<pb::FileLayout> {
        if !self.is_below(inode, root) {
            return fail(ErrorCode::Stale, format!("inode {inode} is gone: its last name was removed"));
        }
        self.layout_of(pb::Layout { inode: inode.0, offset, length }, now.steady_ms)
    }
}
