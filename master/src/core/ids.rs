//! Numbers that are never handed out twice, not even after a restart.
//!
//! The stored row of counters is ahead of what was handed out: ids are reserved in blocks, so that the row
//! is written once per block. After a restart the rest of a block is skipped.

use dfs_proto::ids::{ChunkId, InodeNo, KeeperId};

use super::out::Out;
use super::row::{Counters, RowKey};

/// Ids that one write of the row reserves.
pub(super) const BLOCK: u64 = 1024;

/// Ids above this are taken for nonsense when they come from outside.
pub(super) const MAX_FOREIGN_ID: u64 = 1 << 62;

/// The next ids.
pub(super) struct Ids {
    /// As in the store: nothing at or above these was ever handed out.
    pub stored: Counters,
    next_inode: u64,
    next_chunk: u64,
}

impl Ids {
    /// Of a fresh cluster. Inode 1 is the root.
    pub fn fresh() -> Ids {
        Ids::loaded(Counters { next_inode: 2, next_chunk: 1, next_keeper: 1 })
    }

    /// From the stored row.
    pub fn loaded(stored: Counters) -> Ids {
        Ids { stored, next_inode: stored.next_inode, next_chunk: stored.next_chunk }
    }

    pub fn inode(&mut self, out: &mut Out) -> InodeNo {
        if self.next_inode >= self.stored.next_inode {
            self.stored.next_inode = self.next_inode + BLOCK;
            out.touch(RowKey::Counters);
        }
        self.next_inode += 1;
        InodeNo(self.next_inode - 1)
    }

    /// A chunk's id leaves the master before any other row has it.
    pub fn chunk(&mut self, out: &mut Out) -> ChunkId {
        if self.next_chunk >= self.stored.next_chunk {
            self.stored.next_chunk = self.next_chunk + BLOCK;
            out.touch(RowKey::Counters);
        }
        self.next_chunk += 1;
        ChunkId(self.next_chunk - 1)
    }

    pub fn keeper(&mut self, out: &mut Out) -> KeeperId {
        out.touch(RowKey::Counters);
        self.stored.next_keeper += 1;
        KeeperId(self.stored.next_keeper - 1)
    }

    /// A keeper has this id already.
    pub fn keeper_in_use(&mut self, keeper: KeeperId, out: &mut Out) {
        if keeper.0 >= self.stored.next_keeper {
            self.stored.next_keeper = keeper.0 + 1;
            out.touch(RowKey::Counters);
        }
    }

    /// Some keeper has a chunk of this id. Only after the store was put back to an older state can it be
    /// one that we did not hand out; it must not be handed out again.
    pub fn chunk_in_use(&mut self, chunk: ChunkId, out: &mut Out) {
        if chunk.0 >= self.next_chunk && chunk.0 < MAX_FOREIGN_ID {
            self.next_chunk = chunk.0 + 1;
            if self.next_chunk > self.stored.next_chunk {
                self.stored.next_chunk = self.next_chunk + BLOCK;
                out.touch(RowKey::Counters);
            }
        }
    }
}
