//! For the fuzz targets (`fuzz/`): see `dfs_proto::fuzz`.

use dfs_proto::block_sum::BLOCK_SIZE;
use dfs_proto::ids::ChunkId;

use crate::store::format::{ChunkHeader, HEADER_LEN};

/// A chunk file of any bytes: its header as it is, and with its checksum put right; then its blocks.
pub fn chunk_file(bytes: &[u8]) {
    let mut header = [0; HEADER_LEN];
    let (head, data) = bytes.split_at(bytes.len().min(HEADER_LEN));
    header[..head.len()].copy_from_slice(head);
    let mut sealed = header;
    let crc = crc32c::crc32c(&sealed[..HEADER_LEN - 4]);
    sealed[HEADER_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
    let mut chunk = [0; 8];
    chunk.copy_from_slice(&header[16..24]);
    for raw in [header, sealed] {
        let Ok(found) = ChunkHeader::decode(&raw, ChunkId(u64::from_le_bytes(chunk))) else { continue };
        assert_eq!(found.encode().len(), HEADER_LEN);
        for (index, block) in data.chunks(BLOCK_SIZE).enumerate() {
            // Right or wrong: either is an answer.
            let _ = found.sums.verify(index, block);
        }
    }
}

/// The text of a keeper's `IDENTITY`.
pub fn identity(bytes: &[u8]) {
    crate::identity::read_any(&String::from_utf8_lossy(bytes));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dfs_proto::block_sum::BlockSums;
    use dfs_proto::fuzz::smoke;

    use super::*;

    #[test]
    fn no_chunk_file_breaks_its_reader() {
        let file = |data: &[u8]| {
            let header = ChunkHeader { chunk: ChunkId(77), length: data.len(), sums: BlockSums::of(data) };
            [&header.encode()[..], data].concat()
        };
        let seeds = [file(b"123456789"), file(&[7; 70_000])];
        smoke("chunk", &seeds, Duration::from_millis(700), chunk_file);
    }

    #[test]
    fn no_identity_breaks_its_reader() {
        let seed = b"format = 1\ncluster = abababababababababababababababab\nkeeper = 7\n".to_vec();
        smoke("identity", &[seed], Duration::from_millis(300), identity);
    }
}
