//! The bytes of a read, put together of blocks and holes; and the buffers for large ones, which are used again and again.
//!
//! Fresh memory of that size costs the kernel more (a fault for each page, which it fills with zeroes) than the copy into it.

use std::sync::Mutex;

use bytes::{Bytes, BytesMut};
use dfs_proto::block_sum::BLOCK_SIZE;

use super::lock;
use super::planner::DataPiece;

/// Of a buffer that is kept, in bytes: no read of the kernel is longer.
const BUFFER: usize = 1024 * 1024;
/// Smaller ones come cheaply from the allocator.
const LARGE: usize = 128 * 1024;
/// Buffers that are kept; more than a few are seldom in use at once.
const KEPT: usize = 4;

/// Buffers that nobody uses.
#[derive(Default)]
pub struct Buffers(Mutex<Vec<BytesMut>>);

impl Buffers {
    /// An empty one with room for `length` bytes.
    pub(super) fn take(&self, length: usize) -> BytesMut {
        if !(LARGE..=BUFFER).contains(&length) {
            return BytesMut::with_capacity(length);
        }
        lock(&self.0).pop().unwrap_or_else(|| BytesMut::with_capacity(BUFFER))
    }

    /// The read was answered. Whatever somebody else still uses is left to him.
    pub fn give_back(&self, bytes: Bytes) {
        if bytes.len() < LARGE {
            return;
        }
        let Ok(mut buffer) = bytes.try_into_mut() else { return };
        buffer.clear();
        let mut kept = lock(&self.0);
        if kept.len() < KEPT && buffer.capacity() == BUFFER {
            kept.push(buffer);
        }
    }
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
        let buffers = Buffers::default();
        let mut parts = Parts::new(100, &buffers);
        parts.add(&piece(BLOCK_SIZE as u32 + 10, 100), std::slice::from_ref(&block));
        assert_eq!(parts.finish().as_ptr(), block[10..].as_ptr());
    }

    #[test]
    fn blocks_and_holes_are_put_together_in_order() {
        let blocks = [Bytes::from(vec![1; BLOCK_SIZE]), Bytes::from(vec![2; 50])];
        let buffers = Buffers::default();
        let mut parts = Parts::new(5 + 10 + 50 + 3, &buffers);
        parts.add_hole(5);
        parts.add(&piece(BLOCK_SIZE as u32 - 10, 60), &blocks);
        parts.add_hole(3);
        let expected = [vec![0; 5], vec![1; 10], vec![2; 50], vec![0; 3]].concat();
        assert_eq!(parts.finish(), expected);
    }

    #[test]
    fn nothing_is_read_as_nothing() {
        assert_eq!(Parts::new(0, &Buffers::default()).finish(), Bytes::new());
    }

    #[test]
    fn a_buffer_is_used_again_when_nobody_else_has_it() {
        let buffers = Buffers::default();
        let read = || {
            let mut parts = Parts::new(2 * BLOCK_SIZE, &buffers);
            parts.add_hole(2 * BLOCK_SIZE as u64);
            parts.finish()
        };
        let first = read();
        let at = first.as_ptr();
        let other = first.clone();
        buffers.give_back(first);
        let second = read();
        assert_ne!(second.as_ptr(), at, "somebody reads it");
        buffers.give_back(other);
        let third = read();
        assert_eq!(third.as_ptr(), at);
        assert_eq!(third, vec![0; 2 * BLOCK_SIZE]);
        // Others than ours are not kept, nor too many.
        buffers.give_back(Bytes::from(vec![7; BUFFER / 2]));
        assert!(lock(&buffers.0).is_empty());
        let many: Vec<Bytes> = (0..KEPT + 3).map(|_| read()).collect();
        many.into_iter().for_each(|bytes| buffers.give_back(bytes));
        assert_eq!(lock(&buffers.0).len(), KEPT);
    }
}
