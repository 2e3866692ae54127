//! Rows as a store has them, and what they say.

use std::collections::BTreeMap;

use dfs_proto::ids::{ChunkId, InodeNo, KeeperId};

use crate::core::row::{ChunkRow, ExtentRow, InodeRow, KeeperRow, QuotaRow, TrashRow};
use crate::core::{Row, RowChange, RowKey};
use crate::store::codec::key_of;

/// See the module.
#[derive(Clone, Default)]
pub(super) struct Rows(pub BTreeMap<RowKey, Row>);

impl Rows {
    pub fn change(&mut self, changes: &[RowChange]) {
        for change in changes {
            match change {
                RowChange::Put(row) => drop(self.0.insert(key_of(row), row.clone())),
                RowChange::Delete(key) => drop(self.0.remove(key)),
            }
        }
    }

    pub fn inode(&self, inode: u64) -> Option<&InodeRow> {
        match self.0.get(&RowKey::Inode(InodeNo(inode))) {
            Some(Row::Inode(_, row)) => Some(row),
            _ => None,
        }
    }

    pub fn chunk(&self, chunk: u64) -> Option<&ChunkRow> {
        match self.0.get(&RowKey::Chunk(ChunkId(chunk))) {
            Some(Row::Chunk(_, row)) => Some(row),
            _ => None,
        }
    }

    pub fn inodes(&self) -> impl Iterator<Item = (u64, &InodeRow)> {
        self.0.range(RowKey::Inode(InodeNo(0))..=RowKey::Inode(InodeNo(u64::MAX))).filter_map(|(_, row)| {
            match row {
                Row::Inode(inode, row) => Some((inode.0, row)),
                _ => None,
            }
        })
    }

    pub fn keeper(&self, keeper: u64) -> Option<&KeeperRow> {
        match self.0.get(&RowKey::Keeper(KeeperId(keeper))) {
            Some(Row::Keeper(_, row)) => Some(row),
            _ => None,
        }
    }

    pub fn keepers(&self) -> impl Iterator<Item = (u64, &KeeperRow)> {
        let all = RowKey::Keeper(KeeperId(0))..=RowKey::Keeper(KeeperId(u64::MAX));
        self.0.range(all).filter_map(|(_, row)| match row {
            Row::Keeper(keeper, row) => Some((keeper.0, row)),
            _ => None,
        })
    }

    pub fn trash(&self) -> impl Iterator<Item = (u64, &TrashRow)> {
        let all = RowKey::Trash(InodeNo(0))..=RowKey::Trash(InodeNo(u64::MAX));
        self.0.range(all).filter_map(|(_, row)| match row {
            Row::Trash(inode, row) => Some((inode.0, row)),
            _ => None,
        })
    }

    pub fn quota(&self, directory: u64) -> Option<QuotaRow> {
        match self.0.get(&RowKey::Quota(InodeNo(directory))) {
            Some(Row::Quota(_, row)) => Some(*row),
            _ => None,
        }
    }

    pub fn quotas(&self) -> impl Iterator<Item = (u64, QuotaRow)> {
        let all = RowKey::Quota(InodeNo(0))..=RowKey::Quota(InodeNo(u64::MAX));
        self.0.range(all).filter_map(|(_, row)| match row {
            Row::Quota(directory, row) => Some((directory.0, *row)),
            _ => None,
        })
    }

    /// What the names in a directory lead to.
    pub fn names_in(&self, directory: u64) -> impl Iterator<Item = u64> {
        let first = |inode| RowKey::Dentry { parent: InodeNo(inode), name: Box::default() };
        self.0.range(first(directory)..first(directory + 1)).filter_map(|(_, row)| match row {
            Row::Dentry { inode, .. } => Some(inode.0),
            _ => None,
        })
    }

    pub fn chunks(&self) -> impl Iterator<Item = (u64, &ChunkRow)> {
        self.0.range(RowKey::Chunk(ChunkId(0))..=RowKey::Chunk(ChunkId(u64::MAX))).filter_map(|(_, row)| {
            match row {
                Row::Chunk(chunk, row) => Some((chunk.0, row)),
                _ => None,
            }
        })
    }

    pub fn extents(&self, inode: u64) -> impl Iterator<Item = &ExtentRow> {
        let inode = InodeNo(inode);
        let all = RowKey::Extent { inode, file_offset: 0 }..=RowKey::Extent { inode, file_offset: u64::MAX };
        self.0.range(all).filter_map(|(_, row)| match row {
            Row::Extent(_, row) => Some(row),
            _ => None,
        })
    }
}

/// Is it a regular file?
pub(super) fn is_file(row: &InodeRow) -> bool {
    row.mode & 0o170_000 == 0o100_000
}
