//! How much of a local file is the same as one of the cluster, from the start on. What the cluster has is known by its checksums, so
//! that as a rule no byte of it is fetched.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use dfs_proto::block_sum::BlockSums;
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::InodeNo;
use dfs_proto::pb;

use crate::client::Client;
use crate::read::{ReadStream, Readers};

/// Bytes compared at a time where there is no checksum of exactly them.
const PIECE: u64 = 1024 * 1024;

/// The files that are compared.
pub(super) struct Pair<'a> {
    pub(super) client: &'a Client,
    pub(super) readers: &'a Arc<Readers>,
    pub(super) inode: InodeNo,
    pub(super) local: Arc<File>,
}

impl Pair<'_> {
    /// Bytes from the start that are the same, at most `limit`. Where one ends in the middle of a chunk, that chunk does not count.
    ///
    /// # Errors
    /// What the master says. A local file that cannot be read is not the same.
    pub(super) async fn same(&self, limit: u64) -> Result<u64, DfsError> {
        let mut at = 0;
        while at < limit {
            let began_at = at;
            let layout = self.client.layout(self.inode, at, limit - at).await?;
            let size = layout.attr.unwrap_or_default().size;
            let infos: Vec<pb::ChunkInfo> = layout.chunks.iter().filter_map(|chunk| chunk.info).collect();
            for extent in &layout.extents {
                let end = extent.file_offset.saturating_add(extent.length);
                if end <= at {
                    continue;
                }
                if extent.file_offset > at {
                    let hole = extent.file_offset.min(limit) - at;
                    let zero = self.local_is(at, hole, None).await;
                    if !zero || extent.file_offset >= limit {
                        return Ok(if zero { limit } else { at });
                    }
                    at = extent.file_offset;
                }
                let info = infos.iter().find(|info| info.chunk == extent.chunk);
                if end > limit || !self.extent_is(at, extent, info).await? {
                    return Ok(at);
                }
                at = end;
            }
            let covered = layout.covered_to.min(size).min(limit);
            if covered > at {
                if !self.local_is(at, covered - at, None).await {
                    return Ok(at);
                }
                at = covered;
            }
            if at >= size || at == began_at {
                break;
            }
        }
        Ok(at)
    }

    async fn extent_is(
        &self,
        at: u64,
        extent: &pb::Extent,
        info: Option<&pb::ChunkInfo>,
    ) -> Result<bool, DfsError> {
        let whole = info.filter(|info| {
            at == extent.file_offset && extent.chunk_offset == 0 && u64::from(info.length) == extent.length
        });
        match whole {
            Some(info) => Ok(self.local_is(at, extent.length, Some(info.checksum)).await),
            None => self.bytes_are(at, extent.file_offset + extent.length).await,
        }
    }

    /// Has the local file these bytes: those of a chunk with this checksum, or zeroes?
    async fn local_is(&self, at: u64, length: u64, checksum: Option<u32>) -> bool {
        let local = self.local.clone();
        let compare = move || -> io::Result<bool> {
            match checksum {
                Some(checksum) => {
                    let chunk = read(&local, at, length)?;
                    Ok(BlockSums::of(&chunk).checksum() == checksum)
                }
                None => {
                    let (mut at, end) = (at, at + length);
                    while at < end {
                        let piece = read(&local, at, PIECE.min(end - at))?;
                        if piece.iter().any(|byte| *byte != 0) {
                            return Ok(false);
                        }
                        at += piece.len() as u64;
                    }
                    Ok(true)
                }
            }
        };
        tokio::task::spawn_blocking(compare).await.is_ok_and(|same| same.unwrap_or(false))
    }

    async fn bytes_are(&self, mut at: u64, end: u64) -> Result<bool, DfsError> {
        let (reader, stream) = (self.readers.file(self.inode), ReadStream::new());
        while at < end {
            let theirs = reader.read(&stream, at, PIECE.min(end - at) as usize).await?.bytes;
            if theirs.is_empty() {
                return Ok(false);
            }
            let (local, from, length) = (self.local.clone(), at, theirs.len() as u64);
            let ours = tokio::task::spawn_blocking(move || read(&local, from, length)).await;
            let lost = |error| DfsError::new(ErrorCode::Io, format!("comparing: {error}; report this"));
            if ours.map_err(lost)?.is_ok_and(|ours| ours == theirs) {
                at += length;
            } else {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// At most a chunk.
fn read(file: &File, at: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}
