//! Buffers that are used again and again.
//!
//! Fresh memory costs the kernel more (a fault for each page, which it fills with zeroes) than the copy into it.

use std::ops::RangeInclusive;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use dfs_proto::block_sum::BLOCK_SIZE;

/// Buffers of blocks that are kept: what is under way at once when one program reads fast.
const BLOCKS_KEPT: usize = 64;

/// Buffers of one size that nobody uses.
#[derive(Debug)]
pub struct Buffers {
    /// What they are taken for, in bytes; all are as large as the most.
    lengths: RangeInclusive<usize>,
    /// How many are kept.
    most: usize,
    free: Mutex<Vec<BytesMut>>,
}

impl Buffers {
    /// None yet. They will be as large as the end of `lengths`, and at most `most` are kept.
    pub fn new(lengths: RangeInclusive<usize>, most: usize) -> Buffers {
        Buffers { lengths, most, free: Mutex::default() }
    }

    /// For blocks of chunks.
    pub fn of_blocks() -> Buffers {
        Buffers::new(BLOCK_SIZE..=BLOCK_SIZE, BLOCKS_KEPT)
    }

    /// An empty one with room for `length` bytes.
    pub fn take(&self, length: usize) -> BytesMut {
        if !self.lengths.contains(&length) {
            return BytesMut::with_capacity(length);
        }
        self.free().pop().unwrap_or_else(|| BytesMut::with_capacity(*self.lengths.end()))
    }

    /// These bytes are not needed any more here. Whatever somebody else still uses is left to him.
    pub fn give_back(&self, bytes: Bytes) {
        if !self.lengths.contains(&bytes.len()) {
            return;
        }
        let Ok(mut buffer) = bytes.try_into_mut() else { return };
        buffer.clear();
        let mut free = self.free();
        if free.len() < self.most && buffer.capacity() == *self.lengths.end() {
            free.push(buffer);
        }
    }

    fn free(&self) -> MutexGuard<'_, Vec<BytesMut>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_when_nobody_else_has_it() {
        let buffers = Buffers::new(1000..=4096, 3);
        let filled = || {
            let mut buffer = buffers.take(2000);
            assert!(buffer.is_empty());
            buffer.resize(2000, 7);
            buffer.freeze()
        };
        let first = filled();
        let at = first.as_ptr();
        let other = first.clone();
        buffers.give_back(first);
        let second = filled();
        assert_ne!(second.as_ptr(), at, "somebody reads it");
        assert_eq!(other, vec![7; 2000]);
        buffers.give_back(other);
        assert_eq!(filled().as_ptr(), at);
    }

    #[test]
    fn others_than_ours_are_not_kept_nor_too_many() {
        let buffers = Buffers::new(1000..=4096, 3);
        buffers.give_back(Bytes::from(vec![7; 2000]));
        buffers.give_back(Bytes::from(vec![7; 5000]));
        assert!(buffers.free().is_empty());
        assert_eq!(buffers.take(10).capacity(), 10);
        let many: Vec<BytesMut> = (0..6).map(|_| buffers.take(4096)).collect();
        many.into_iter().for_each(|mut buffer| {
            buffer.resize(4096, 1);
            buffers.give_back(buffer.freeze());
        });
        assert_eq!(buffers.free().len(), 3);
    }
}
