//! The chunk file: a header of 4096 bytes, then the chunk's bytes. The data is so aligned to pages
//! and can be sent to a socket straight from the page cache.
//!
//! The header, all numbers little-endian:
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 8 | magic, `DFSCHUNK` |
//! | 8 | 4 | format version, 1 |
//! | 12 | 4 | length of the chunk in bytes, 1 to 32 MiB |
//! | 16 | 8 | chunk id |
//! | 24 | 4 n | the CRC-32C of each of the n 64 KiB blocks of data, in order (dfs_proto::block_sum) |
//! | 24 + 4 n | .. | zeroes |
//! | 4092 | 4 | header checksum: CRC-32C of the first 4092 bytes |
//!
//! The header is written last. A file whose header verifies and whose size is 4096 + length was
//! received whole.

use bytes::Bytes;
use dfs_proto::block_sum::{BlockSums, MAX_CHUNK_SIZE, block_count};
use dfs_proto::ids::ChunkId;

/// Bytes before the chunk's data in its file.
pub(crate) const HEADER_LEN: usize = 4096;
/// The format that is written, and the newest that is read.
pub(crate) const FORMAT: u32 = 1;

const MAGIC: [u8; 8] = *b"DFSCHUNK";
const SUMS_AT: usize = 24;
const CHECKSUM_AT: usize = HEADER_LEN - 4;

/// What a chunk file says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ChunkHeader {
    /// Which chunk it is.
    pub chunk: ChunkId,
    /// Bytes of data.
    pub length: usize,
    /// The checksums of its blocks.
    pub sums: BlockSums,
}

/// Why 4096 bytes are no header of the chunk that was looked for.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum HeaderError {
    #[error("it does not begin with {:?}", String::from_utf8_lossy(&MAGIC))]
    Magic,
    #[error("its header does not verify")]
    Checksum,
    #[error("its format is {0}, this program knows {FORMAT}")]
    Format(u32),
    #[error("its header promises {0} bytes")]
    Length(u32),
    #[error("it is chunk {0}")]
    OtherChunk(ChunkId),
}

impl ChunkHeader {
    /// The 4096 bytes.
    ///
    /// # Panics
    /// When the length is over 32 MiB or the sums are another length's: our own mistake.
    pub fn encode(&self) -> Vec<u8> {
        let sums = self.sums.encoded();
        assert!(
            self.length <= MAX_CHUNK_SIZE && sums.len() == 4 * block_count(self.length),
            "a header that cannot be: {self:?}"
        );
        let mut raw = vec![0; HEADER_LEN];
        raw[0..8].copy_from_slice(&MAGIC);
        raw[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        raw[12..16].copy_from_slice(&(self.length as u32).to_le_bytes());
        raw[16..24].copy_from_slice(&self.chunk.0.to_le_bytes());
        raw[SUMS_AT..SUMS_AT + sums.len()].copy_from_slice(sums);
        let checksum = crc32c::crc32c(&raw[..CHECKSUM_AT]);
        raw[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
        raw
    }

    /// Checks and decodes the header of `chunk`.
    ///
    /// # Errors
    /// [`HeaderError`] when it is anything else.
    pub fn decode(raw: &[u8; HEADER_LEN], chunk: ChunkId) -> Result<ChunkHeader, HeaderError> {
        if raw[0..8] != MAGIC {
            return Err(HeaderError::Magic);
        }
        if crc32c::crc32c(&raw[..CHECKSUM_AT]) != u32_at(raw, CHECKSUM_AT) {
            return Err(HeaderError::Checksum);
        }
        // A later format may keep its checksum elsewhere, but a flipped bit must not pass for one.
        let format = u32_at(raw, 8);
        if format != FORMAT {
            return Err(HeaderError::Format(format));
        }
        let length = u32_at(raw, 12);
        if length == 0 || length as usize > MAX_CHUNK_SIZE {
            return Err(HeaderError::Length(length));
        }
        let found = ChunkId(u64::from(u32_at(raw, 16)) | u64::from(u32_at(raw, 20)) << 32);
        if found != chunk {
            return Err(HeaderError::OtherChunk(found));
        }
        let length = length as usize;
        let sums = Bytes::copy_from_slice(&raw[SUMS_AT..SUMS_AT + 4 * block_count(length)]);
        match BlockSums::decode(sums, length) {
            Some(sums) => Ok(ChunkHeader { chunk, length, sums }),
            None => Err(HeaderError::Length(length as u32)),
        }
    }
}

fn u32_at(raw: &[u8; HEADER_LEN], at: usize) -> u32 {
    u32::from_le_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CHUNK: ChunkId = ChunkId(0x1122_3344_5566_7788);

    fn raw(header: &ChunkHeader) -> [u8; HEADER_LEN] {
        header.encode().try_into().unwrap()
    }

    fn header(data: &[u8]) -> ChunkHeader {
        ChunkHeader { chunk: CHUNK, length: data.len(), sums: BlockSums::of(data) }
    }

    /// As somebody would write it who wants to get past the checksum.
    fn resealed(mut raw: [u8; HEADER_LEN]) -> [u8; HEADER_LEN] {
        let checksum = crc32c::crc32c(&raw[..CHECKSUM_AT]);
        raw[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
        raw
    }

    #[test]
    fn golden() {
        let raw = raw(&header(b"123456789"));
        assert_eq!(&raw[..8], b"DFSCHUNK");
        assert_eq!(raw[8..16], [1, 0, 0, 0, 9, 0, 0, 0]);
        assert_eq!(raw[16..24], [0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
        assert_eq!(raw[24..32], [0x83, 0x92, 0x06, 0xe3, 0, 0, 0, 0]);
        assert_eq!(raw[4092..], [0xc4, 0x7d, 0x59, 0x43]);
    }

    #[test]
    fn the_largest_chunk_fits() {
        let header = header(&vec![5; MAX_CHUNK_SIZE]);
        assert_eq!(ChunkHeader::decode(&raw(&header), CHUNK), Ok(header));
    }

    #[test]
    fn another_chunks_header_is_refused() {
        let raw = raw(&header(b"x"));
        assert_eq!(ChunkHeader::decode(&raw, ChunkId(1)), Err(HeaderError::OtherChunk(CHUNK)));
    }

    #[test]
    fn hostile_headers_that_checksum_well_are_refused() {
        let good = raw(&header(b"x"));
        let mut newer = good;
        newer[8] = 2;
        assert_eq!(ChunkHeader::decode(&resealed(newer), CHUNK), Err(HeaderError::Format(2)));
        for length in [0, MAX_CHUNK_SIZE as u32 + 1, u32::MAX] {
            let mut lying = good;
            lying[12..16].copy_from_slice(&length.to_le_bytes());
            assert_eq!(ChunkHeader::decode(&resealed(lying), CHUNK), Err(HeaderError::Length(length)));
        }
        assert_eq!(ChunkHeader::decode(&[0; HEADER_LEN], CHUNK), Err(HeaderError::Magic));
    }

    proptest! {
        #[test]
        fn headers_round_trip(data in proptest::collection::vec(any::<u8>(), 1..200_000)) {
            let header = header(&data);
            prop_assert_eq!(ChunkHeader::decode(&raw(&header), CHUNK), Ok(header));
        }

        #[test]
        fn no_flipped_bit_passes(at in 0..HEADER_LEN, bit in 0..8) {
            let mut raw = raw(&header(b"some data"));
            raw[at] ^= 1u8 << bit;
            prop_assert!(ChunkHeader::decode(&raw, CHUNK).is_err());
        }

        #[test]
        fn hostile_bytes_do_not_panic(head in proptest::collection::vec(any::<u8>(), 40)) {
            let mut raw = [0; HEADER_LEN];
            raw[..40].copy_from_slice(&head);
            raw[..8].copy_from_slice(&MAGIC);
            let _ = ChunkHeader::decode(&resealed(raw), CHUNK);
        }
    }
}
