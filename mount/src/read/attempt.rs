//! One try at one keeper, and the verification of what it sent: the list of block checksums against the master's
//! record, the blocks against the list.

use std::ops::Range;

use bytes::Bytes;
use dfs_proto::block_sum::{BLOCK_SIZE, BlockSums};
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::ChunkId;
use dfs_proto::pb;

use super::cache::SumsCache;
use super::layout::Source;
use crate::client::data::{KeeperPool, RangeRead};

/// Fetches `blocks` of a chunk from `keeper` into buffers of their own, and verifies them.
///
/// # Errors
/// `Corrupt` when what came is not what the master recorded, else as [`KeeperPool::read_range`].
pub(super) async fn attempt(
    pool: &KeeperPool,
    sums: &SumsCache,
    source: &Source,
    blocks: Range<u32>,
    keeper: &pb::KeeperGrant,
) -> Result<Vec<Bytes>, DfsError> {
    let known = sums.get(source.chunk);
    let (offset, length) = bytes_of(&blocks, source.length);
    let range = pool.read_range(keeper, &source.ticket, offset, length, known.is_none()).await?;
    let verified = match known {
        Some(list) => list,
        None => {
            let list = verified_list(source, &range, keeper)?;
            sums.put(source.chunk, list.clone());
            list
        }
    };
    verify_blocks(source.chunk, &verified, blocks.start, &range.blocks, keeper)?;
    Ok(range.blocks)
}

/// Offset and length in bytes of `blocks` in a chunk of `chunk_length` bytes.
fn bytes_of(blocks: &Range<u32>, chunk_length: u32) -> (u32, u32) {
    let block = BLOCK_SIZE as u32;
    let start = blocks.start * block;
    (start, blocks.end.saturating_mul(block).min(chunk_length).saturating_sub(start))
}

fn corrupt(what: &str, chunk: ChunkId, keeper: &pb::KeeperGrant) -> DfsError {
    let message = format!(
        "{what} of chunk {chunk} from keeper {} at {} is not what was written",
        keeper.keeper, keeper.address
    );
    DfsError::new(ErrorCode::Corrupt, message)
}

fn verified_list(
    source: &Source,
    range: &RangeRead,
    keeper: &pb::KeeperGrant,
) -> Result<BlockSums, DfsError> {
    let encoded = range.sums.clone().unwrap_or_default();
    BlockSums::decode(encoded, source.length as usize)
        .filter(|list| list.checksum() == source.checksum)
        .ok_or_else(|| corrupt("the list of block checksums", source.chunk, keeper))
}

fn verify_blocks(
    chunk: ChunkId,
    sums: &BlockSums,
    first: u32,
    blocks: &[Bytes],
    keeper: &pb::KeeperGrant,
) -> Result<(), DfsError> {
    for (index, block) in (first..).zip(blocks) {
        if !sums.verify(index as usize, block) {
            return Err(corrupt(&format!("block {index}"), chunk, keeper));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(data: &[u8]) -> Source {
        let checksum = BlockSums::of(data).checksum();
        Source {
            chunk: ChunkId(1),
            length: data.len() as u32,
            checksum,
            ticket: Bytes::new(),
            keepers: Vec::new(),
            outdated: Default::default(),
        }
    }

    #[test]
    fn the_last_block_is_shorter() {
        let block = BLOCK_SIZE as u32;
        assert_eq!(bytes_of(&(0..2), 10 * block), (0, 2 * block));
        assert_eq!(bytes_of(&(1..3), 2 * block + 5), (block, block + 5));
    }

    #[test]
    fn a_list_that_the_master_did_not_record_is_refused() {
        let data = vec![7; BLOCK_SIZE + 1];
        let keeper = pb::KeeperGrant { keeper: 3, ..Default::default() };
        let list =
            |data: &[u8]| RangeRead { blocks: Vec::new(), sums: Some(BlockSums::of(data).encoded().clone()) };
        assert!(verified_list(&source(&data), &list(&data), &keeper).is_ok());
        let mut other = data.clone();
        other[5] ^= 1;
        let missing = RangeRead { blocks: Vec::new(), sums: None };
        for bad in [list(&other), list(&data[..5]), missing] {
            let error = verified_list(&source(&data), &bad, &keeper).unwrap_err();
            assert_eq!(error.code, ErrorCode::Corrupt);
            assert!(error.message.contains("keeper 3"));
        }
    }

    #[test]
    fn a_flipped_byte_and_a_block_of_another_place_are_refused() {
        let keeper = pb::KeeperGrant::default();
        let mut data = vec![7; 2 * BLOCK_SIZE];
        data[0] = 1;
        let sums = BlockSums::of(&data);
        let blocks: Vec<Bytes> = data.chunks(BLOCK_SIZE).map(Bytes::copy_from_slice).collect();
        assert!(verify_blocks(ChunkId(1), &sums, 0, &blocks, &keeper).is_ok());
        assert!(verify_blocks(ChunkId(1), &sums, 1, &blocks[..1], &keeper).is_err());
        data[BLOCK_SIZE] ^= 1;
        let flipped: Vec<Bytes> = data.chunks(BLOCK_SIZE).map(Bytes::copy_from_slice).collect();
        assert!(verify_blocks(ChunkId(1), &sums, 0, &flipped, &keeper).is_err());
    }
}
