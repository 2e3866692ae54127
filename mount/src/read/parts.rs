//! The bytes of a read, put together of blocks and holes.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use dfs_proto::block_sum::BLOCK_SIZE;

use super::planner::DataPiece;
use crate::client::data::Buffers;

/// Of a buffer that is kept, in bytes: no read of the kernel is longer.
const BUFFER: usize = 1024 * 1024;
/// Smaller ones come cheaply from the allocator.
const LARGE: usize = 128 * 1024;
/// Buffers that are kept; more than a few are seldom in use at once.
const KEPT: usize = 4;

/// Buffers for reads that are longer than a block.
pub(super) fn read_buffers() -> Arc<Buffers> {
    Arc::new(Buffers::new(LARGE..=BUFFER, KEPT))
}

/// A read being put together. The bytes of one block are not copied.
pub(super) struct Parts<'a> {
    wanted: usize,
    buffers: &'a Buffers,
    only: Option<Bytes>,
    buffer: BytesMut,
}

impl<'a> Parts<'a> {
    /// Of so many bytes, all of which have to be added.
    pub(super) fn new(wanted: usize, buffers: &'a Buffers) -> Self {
        Self { wanted, buffers, only: None, buffer: BytesMut::new() }
    }

    fn push(&mut self, part: Bytes) {
        if part.len() == self.wanted {
            self.only = Some(part);
            return;
        }
        self.reserve();
        self.buffer.extend_from_slice(&part);
    }

    fn reserve(&mut self) {
        if self.buffer.capacity() == 0 {
            self.buffer = self.buffers.take(self.wanted);
        }
    }

    /// Zeroes.
    pub(super) fn add_hole(&mut self, length: u64) {
        self.reserve();
        // A hole is never longer than the read, whose length is a usize.
        let end = self.buffer.len() + length as usize;
        self.buffer.resize(end, 0);
    }

    /// `blocks` are those that `piece` lies in.
    pub(super) fn add(&mut self, piece: &DataPiece, blocks: &[Bytes]) {
        let mut skip = piece.offset as usize % BLOCK_SIZE;
        let mut left = piece.length as usize;
        for block in blocks {
            let take = left.min(block.len().saturating_sub(skip));
            self.push(block.slice(skip..skip + take));
            left -= take;
            skip = 0;
        }
        assert_eq!(left, 0, "blocks do not cover their piece {piece:?}");
    }

    /// The bytes of the read.
    pub(super) fn finish(self) -> Bytes {
        let bytes = self.only.unwrap_or_else(|| self.buffer.freeze());
        assert_eq!(bytes.len(), self.wanted, "a read of another length than was asked for");
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_proto::ids::ChunkId;

    fn piece(offset: u32, length: u32) -> DataPiece {
        DataPiece { chunk: ChunkId(1), offset, length, first_copy: 0 }
    }

    #[test]
    fn a_read_inside_one_block_is_not_copied() {
        let block = Bytes::from(vec![7; BLOCK_SIZE]);
        let buffers = read_buffers();
        let mut parts = Parts::new(100, &buffers);
        parts.add(&piece(BLOCK_SIZE as u32 + 10, 100), std::slice::from_ref(&block));
        assert_eq!(parts.finish().as_ptr(), block[10..].as_ptr());
    }

    #[test]
    fn blocks_and_holes_are_put_together_in_order() {
        let blocks = [Bytes::from(vec![1; BLOCK_SIZE]), Bytes::from(vec![2; 50])];
        let buffers = read_buffers();
        let mut parts = Parts::new(5 + 10 + 50 + 3, &buffers);
        parts.add_hole(5);
        parts.add(&piece(BLOCK_SIZE as u32 - 10, 60), &blocks);
        parts.add_hole(3);
        let expected = [vec![0; 5], vec![1; 10], vec![2; 50], vec![0; 3]].concat();
        assert_eq!(parts.finish(), expected);
    }

    #[test]
    fn nothing_is_read_as_nothing() {
        assert_eq!(Parts::new(0, &read_buffers()).finish(), Bytes::new());
    }
}
