//! Checksums of a chunk: a CRC-32C (Castagnoli, RFC 3720 appendix B.4) for each 64 KiB block, and one
//! CRC-32C over those. The keeper stores the first kind, the master records the second, a client
//! checks both: the blocks against the list, and the list against the record.

use bytes::Bytes;

/// Bytes that one block checksum covers. The last block of a chunk may be shorter.
pub const BLOCK_SIZE: usize = 64 * 1024;

/// The largest chunk: its block checksums must fit the chunk file's 4 KiB header.
pub const MAX_CHUNK_SIZE: usize = 32 * 1024 * 1024;

/// The smallest that a chunk size may be set to.
pub const MIN_CHUNK_SIZE: usize = BLOCK_SIZE;

/// How many blocks a chunk of `length` bytes has.
pub fn block_count(length: usize) -> usize {
    length.div_ceil(BLOCK_SIZE)
}

/// The checksum of one block.
pub fn block_sum(block: &[u8]) -> u32 {
    crc32c::crc32c(block)
}

/// The block checksums of one chunk, in order, encoded as they travel and are stored: 4 bytes each,
/// little-endian.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BlockSums(Bytes);

impl BlockSums {
    /// Of a whole chunk in memory.
    pub fn of(data: &[u8]) -> BlockSums {
        let mut summer = BlockSummer::new();
        summer.update(data);
        summer.finish()
    }

    /// From their encoding, for a chunk of `length` bytes; `None` when the number of sums is not
    /// that chunk's.
    pub fn decode(encoded: Bytes, length: usize) -> Option<BlockSums> {
        (encoded.len() == 4 * block_count(length)).then_some(BlockSums(encoded))
    }

    /// The encoding.
    pub fn encoded(&self) -> &Bytes {
        &self.0
    }

    /// The sum of block `index`, if there is such a block.
    pub fn get(&self, index: usize) -> Option<u32> {
        let at = index.checked_mul(4)?;
        let four = self.0.get(at..at.checked_add(4)?)?;
        Some(u32::from_le_bytes(four.try_into().ok()?))
    }

    /// The chunk's checksum, as the master records it: the CRC-32C over the encoding.
    pub fn checksum(&self) -> u32 {
        crc32c::crc32c(&self.0)
    }

    /// Is `block` what block `index` must be?
    pub fn verify(&self, index: usize, block: &[u8]) -> bool {
        self.get(index) == Some(block_sum(block))
    }
}

/// Sums a chunk that arrives in pieces of any size.
#[derive(Debug, Default)]
pub struct BlockSummer {
    sums: Vec<u8>,
    current: u32,
    filled: usize,
}

impl BlockSummer {
    /// Of an empty chunk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in the next bytes.
    pub fn update(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let take = data.len().min(BLOCK_SIZE - self.filled);
            let (now, rest) = data.split_at(take);
            self.current = crc32c::crc32c_append(self.current, now);
            self.filled += take;
            if self.filled == BLOCK_SIZE {
                self.close_block();
            }
            data = rest;
        }
    }

    fn close_block(&mut self) {
        self.sums.extend_from_slice(&self.current.to_le_bytes());
        self.current = 0;
        self.filled = 0;
    }

    /// The sums of all that was taken in.
    pub fn finish(mut self) -> BlockSums {
        if self.filled > 0 {
            self.close_block();
        }
        BlockSums(self.sums.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden() {
        // The check value of CRC-32C.
        assert_eq!(block_sum(b"123456789"), 0xe306_9283);
        let sums = BlockSums::of(b"123456789");
        assert_eq!(&sums.encoded()[..], [0x83, 0x92, 0x06, 0xe3]);
        assert_eq!(BlockSums::of(b"").encoded().len(), 0);
    }

    #[test]
    fn a_flipped_byte_is_seen() {
        let mut data = vec![7u8; 3 * BLOCK_SIZE + 5];
        let sums = BlockSums::of(&data);
        data[2 * BLOCK_SIZE + 1] ^= 1;
        let blocks: Vec<bool> = data.chunks(BLOCK_SIZE).enumerate().map(|(i, b)| sums.verify(i, b)).collect();
        assert_eq!(blocks, [true, true, false, true]);
        assert_ne!(BlockSums::of(&data).checksum(), sums.checksum());
        assert!(!sums.verify(4, b""));
    }

    #[test]
    fn a_list_of_another_length_is_refused() {
        assert!(BlockSums::decode(Bytes::from_static(&[0; 8]), BLOCK_SIZE).is_none());
        assert!(BlockSums::decode(Bytes::from_static(&[0; 4]), BLOCK_SIZE).is_some());
        assert!(BlockSums::decode(Bytes::new(), 0).is_some());
    }

    proptest! {
        #[test]
        fn pieces_sum_like_the_whole(data in proptest::collection::vec(any::<u8>(), 0..200_000), step in 1usize..100_000) {
            let mut summer = BlockSummer::new();
            for piece in data.chunks(step) {
                summer.update(piece);
            }
            prop_assert_eq!(summer.finish(), BlockSums::of(&data));
        }
    }
}
