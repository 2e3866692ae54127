//! Where the bytes of a read lie, and whom to ask for them first. Pure.
//!
//! A chunk is cut into ranges of [`RANGE_SIZE`]. Range `i` of chunk `c` is first asked from copy `(c + i) mod n` of
//! its `n` live copies in the order of keeper ids: every reader of a whole chunk asks each copy for an equal share,
//! and readers of single ranges of many chunks spread as well.

use dfs_proto::block_sum::BLOCK_SIZE;
use dfs_proto::ids::ChunkId;
use dfs_proto::pb;

/// Bytes of a chunk that are asked from one keeper at a time. A multiple of the block size.
pub const RANGE_SIZE: u32 = 256 * 1024;

/// Blocks in a whole range.
pub const RANGE_BLOCKS: u32 = RANGE_SIZE / BLOCK_SIZE as u32;

/// One part of a read, in the order of the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Piece {
    /// Nobody wrote here: zeroes.
    Hole {
        /// Bytes.
        length: u64,
    },
    /// Part of one range of a chunk.
    Data(DataPiece),
}

/// Part of one range of one chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataPiece {
    /// The chunk.
    pub chunk: ChunkId,
    /// Where in the chunk, in bytes.
    pub offset: u32,
    /// Bytes, at least one; never beyond the range that `offset` lies in.
    pub length: u32,
    /// Which of the chunk's live copies, in the order of keeper ids, is asked first.
    pub first_copy: usize,
}

impl DataPiece {
    /// The range's number in its chunk.
    pub fn range(&self) -> u32 {
        self.offset / RANGE_SIZE
    }

    /// Numbers in the chunk of the blocks that the piece lies in.
    pub fn blocks(&self) -> std::ops::Range<u32> {
        let block = BLOCK_SIZE as u32;
        self.offset / block..(self.offset + self.length).div_ceil(block)
    }

    /// Those of them whose last byte is in the piece.
    pub fn blocks_ended(&self) -> std::ops::Range<u32> {
        let block = BLOCK_SIZE as u32;
        self.offset / block..(self.offset + self.length) / block
    }
}

/// Which of `copies` live copies is asked first for a range.
pub fn first_copy(chunk: ChunkId, range: u32, copies: usize) -> usize {
    // The remainder is smaller than `copies`, which is a usize.
    (chunk.0.wrapping_add(u64::from(range)) % copies.max(1) as u64) as usize
}

/// Cuts `length` bytes from `offset` into pieces. `extents` are sorted by file offset and do not overlap;
/// `copies` tells how many live copies a chunk has.
pub fn plan(
    extents: &[pb::Extent],
    offset: u64,
    length: u64,
    copies: impl Fn(ChunkId) -> usize,
) -> Vec<Piece> {
    let end = offset.saturating_add(length);
    let mut pieces = Vec::new();
    let mut at = offset;
    let first = extents.partition_point(|extent| extent.file_offset.saturating_add(extent.length) <= offset);
    for extent in extents[first..].iter().take_while(|extent| extent.file_offset < end) {
        if extent.file_offset > at {
            pieces.push(Piece::Hole { length: extent.file_offset - at });
            at = extent.file_offset;
        }
        let stop = end.min(extent.file_offset.saturating_add(extent.length));
        let chunk = ChunkId(extent.chunk);
        cut(&mut pieces, extent, at, stop, copies(chunk));
        at = at.max(stop);
    }
    if at < end {
        pieces.push(Piece::Hole { length: end - at });
    }
    pieces
}

/// Cuts the part [at, stop) of the file, which lies in `extent`, at the borders of ranges.
fn cut(pieces: &mut Vec<Piece>, extent: &pb::Extent, mut at: u64, stop: u64, copies: usize) {
    let chunk = ChunkId(extent.chunk);
    while at < stop {
        let offset = extent.chunk_offset + (at - extent.file_offset) as u32;
        let left_in_range = RANGE_SIZE - offset % RANGE_SIZE;
        let length = u64::from(left_in_range).min(stop - at) as u32;
        let first_copy = first_copy(chunk, offset / RANGE_SIZE, copies);
        pieces.push(Piece::Data(DataPiece { chunk, offset, length, first_copy }));
        at += u64::from(length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Extents from (gap before, length, offset in chunk) triples, one chunk each.
    fn extents(shape: &[(u64, u64, u32)]) -> Vec<pb::Extent> {
        let mut at = 0;
        let mut out = Vec::new();
        for (n, &(gap, length, chunk_offset)) in shape.iter().enumerate() {
            at += gap;
            out.push(pb::Extent { file_offset: at, length, chunk: n as u64 + 1, chunk_offset });
            at += length;
        }
        out
    }

    proptest! {
        #[test]
        fn pieces_cover_exactly_the_range(
            shape in proptest::collection::vec((0u64..500_000, 1u64..3_000_000, 0u32..1_000_000), 0..8),
            offset in 0u64..12_000_000,
            length in 0u64..6_000_000,
        ) {
            let extents = extents(&shape);
            let mut at = offset;
            for piece in plan(&extents, offset, length, |_| 3) {
                match piece {
                    Piece::Hole { length } => {
                        prop_assert!(length > 0);
                        prop_assert!(!extents.iter().any(|e| e.file_offset < at + length && at < e.file_offset + e.length));
                        at += length;
                    }
                    Piece::Data(data) => {
                        let extent = extents.iter().find(|e| e.chunk == data.chunk.0).unwrap();
                        prop_assert!(data.length > 0);
                        prop_assert_eq!(u64::from(data.offset - extent.chunk_offset), at - extent.file_offset);
                        prop_assert!(at + u64::from(data.length) <= extent.file_offset + extent.length);
                        prop_assert_eq!(data.range(), (data.offset + data.length - 1) / RANGE_SIZE);
                        at += u64::from(data.length);
                    }
                }
            }
            prop_assert_eq!(at, offset + length);
        }

        #[test]
        fn each_copy_serves_an_equal_share(copies in 1usize..6, chunks in 1u64..20, first_chunk: u32) {
            const CHUNK: u64 = 8 << 20;
            let extents: Vec<pb::Extent> = (0..chunks)
                .map(|n| pb::Extent { file_offset: n * CHUNK, length: CHUNK, chunk: u64::from(first_chunk) + n, chunk_offset: 0 })
                .collect();
            let mut served = vec![0u64; copies];
            for piece in plan(&extents, 0, chunks * CHUNK, |_| copies) {
                if let Piece::Data(data) = piece {
                    served[data.first_copy] += u64::from(data.length);
                }
            }
            let fair = chunks * CHUNK / copies as u64;
            for bytes in served {
                prop_assert!(bytes.abs_diff(fair) <= chunks * u64::from(RANGE_SIZE), "{bytes} of {fair}");
            }
        }
    }

    #[test]
    fn beyond_the_last_extent_there_is_a_hole() {
        assert_eq!(plan(&[], 5, 10, |_| 1), [Piece::Hole { length: 10 }]);
        assert_eq!(plan(&[], 5, 0, |_| 1), []);
    }

    #[test]
    fn no_copies_are_no_crash() {
        assert_eq!(first_copy(ChunkId(7), 3, 0), 0);
    }

    #[test]
    fn blocks_of_a_piece() {
        let piece = DataPiece { chunk: ChunkId(1), offset: 65_535, length: 2, first_copy: 0 };
        assert_eq!(piece.blocks(), 0..2);
        assert_eq!(piece.blocks_ended(), 0..1);
        let piece = DataPiece { chunk: ChunkId(1), offset: 65_536, length: 65_536, first_copy: 0 };
        assert_eq!(piece.blocks(), 1..2);
        assert_eq!(piece.blocks_ended(), 1..2);
        let piece = DataPiece { chunk: ChunkId(1), offset: 10, length: 100, first_copy: 0 };
        assert!(piece.blocks_ended().is_empty());
    }
}
