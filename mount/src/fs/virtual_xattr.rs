//! Extended attributes that nobody sets: `user.dfs.copies`, `user.dfs.locations`, `user.dfs.md5`, of regular files.
//! They are computed when somebody asks for one by name, and not listed, so that whoever copies a file with its
//! attributes does not try to copy them.
//!
//! What this mount has not uploaded is uploaded first.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use dfs_proto::MAX_FILE_SIZE;
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::{ChunkId, InodeNo};
use dfs_proto::pb;
use serde::Serialize;

use super::Fs;

const PREFIX: &[u8] = b"user.dfs.";
const COPIES: &[u8] = b"user.dfs.copies";
const LOCATIONS: &[u8] = b"user.dfs.locations";
pub(super) const MD5: &[u8] = b"user.dfs.md5";

/// The longest value that the kernel hands on (XATTR_SIZE_MAX), in bytes.
const MAX_VALUE: usize = 64 * 1024;

/// Chunks that are gathered for one value: more than have room in it.
const MAX_CHUNKS: usize = 1024;

/// How long looking at all of a file's extents may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// The value of `user.dfs.locations`.
#[derive(Serialize)]
struct Locations {
    /// Of the file, in bytes.
    size: u64,
    /// False: the value had no room for all chunks; the last ones are missing.
    complete: bool,
    /// In the order of their first bytes in the file.
    chunks: Vec<Chunk>,
}

#[derive(Serialize)]
struct Chunk {
    /// As `dfs lookup` shows it.
    chunk: String,
    extents: Vec<Extent>,
    keepers: Vec<Keeper>,
}

/// In the file, in bytes.
#[derive(Serialize)]
struct Extent {
    offset: u64,
    length: u64,
}

#[derive(Serialize)]
struct Keeper {
    /// HOST:PORT.
    address: String,
    live: bool,
}

/// Is it one of those that are computed?
pub fn is_virtual(name: &[u8]) -> bool {
    name.starts_with(PREFIX)
}

/// # Errors
/// `Permission` for the names that are kept for these attributes: EPERM, as for the attributes of a file that
/// cannot be changed (setxattr(2)).
pub fn check_writable(name: &[u8]) -> Result<(), DfsError> {
    if is_virtual(name) {
        let name = String::from_utf8_lossy(name);
        let message = format!("extended attribute '{name}': user.dfs.* is read-only; use another name");
        return Err(DfsError::new(ErrorCode::Permission, message));
    }
    Ok(())
}

fn no_data(inode: InodeNo, name: &[u8]) -> DfsError {
    let name = String::from_utf8_lossy(name);
    DfsError::new(ErrorCode::NoData, format!("inode {inode} has no attribute '{name}'"))
}

impl Fs {
    /// The value of one of them.
    ///
    /// # Errors
    /// `NoData` when there is none of that name, or the inode is no regular file; those of computing it.
    pub(super) async fn virtual_xattr(&self, inode: InodeNo, name: &[u8]) -> Result<Bytes, DfsError> {
        self.upload(inode).await?;
        let value = match name {
            COPIES => self.timed(inode, self.least_copies(inode)).await.map(|copies| copies.to_string()),
            LOCATIONS => self.timed(inode, self.locations(inode)).await,
            MD5 => self.md5(inode).await,
            _ => return Err(no_data(inode, name)),
        };
        match value {
            Ok(value) => Ok(value.into()),
            // What is no regular file has none of these.
            Err(error) if error.code == ErrorCode::Invalid => Err(no_data(inode, name)),
            Err(error) => Err(error),
        }
    }

    /// What this mount has of a file and the master not.
    pub(super) async fn upload(&self, inode: InodeNo) -> Result<(), DfsError> {
        match self.files.get(inode) {
            Some(file) => file.writer.settle().await,
            None => Ok(()),
        }
    }

    async fn timed<T>(
        &self,
        inode: InodeNo,
        work: impl Future<Output = Result<T, DfsError>>,
    ) -> Result<T, DfsError> {
        tokio::time::timeout(DEADLINE, work).await.unwrap_or_else(|_| {
            let message = format!("inode {inode}: its chunks could not all be looked at; try again");
            Err(DfsError::new(ErrorCode::TimedOut, message))
        })
    }

    /// The least number of live copies of any chunk. A file without chunks cannot lose anything: it has as many as
    /// the cluster strives for.
    async fn least_copies(&self, inode: InodeNo) -> Result<usize, DfsError> {
        let mut least = None;
        let mut at = 0;
        while at < MAX_FILE_SIZE {
            let page = self.client.locate(inode, at, MAX_FILE_SIZE - at).await?;
            let live = |chunk: &pb::ChunkHolders| chunk.holders.iter().filter(|holder| holder.live).count();
            least = page.chunks.iter().map(live).chain(least).min();
            at = next(&page, at)?;
        }
        Ok(least.unwrap_or(self.client.info().copies as usize))
    }

    async fn locations(&self, inode: InodeNo) -> Result<String, DfsError> {
        let mut all = Locations { size: 0, complete: true, chunks: Vec::new() };
        let mut places: HashMap<u64, usize> = HashMap::new();
        let mut at = 0;
        while at < MAX_FILE_SIZE && all.chunks.len() < MAX_CHUNKS {
            let page = self.client.locate(inode, at, MAX_FILE_SIZE - at).await?;
            all.size = page.attr.unwrap_or_default().size;
            at = next(&page, at)?;
            let mut holders: HashMap<u64, Vec<pb::Holder>> =
                page.chunks.into_iter().map(|chunk| (chunk.chunk, chunk.holders)).collect();
            for extent in page.extents {
                let place = *places.entry(extent.chunk).or_insert(all.chunks.len());
                if place == all.chunks.len() {
                    all.chunks.push(chunk(extent.chunk, holders.remove(&extent.chunk).unwrap_or_default()));
                }
                all.chunks[place].extents.push(Extent { offset: extent.file_offset, length: extent.length });
            }
        }
        all.complete = at >= MAX_FILE_SIZE;
        all.into_json()
    }
}

impl Locations {
    /// With as many chunks as have room.
    fn into_json(mut self) -> Result<String, DfsError> {
        let failed = |error| DfsError::new(ErrorCode::Io, format!("locations as JSON: {error}"));
        loop {
            let json = serde_json::to_string(&self).map_err(failed)?;
            if json.len() <= MAX_VALUE {
                return Ok(json);
            }
            self.complete = false;
            // At least one less each time; a chunk of very many extents may leave nothing.
            let room = self.chunks.len() * MAX_VALUE / json.len();
            self.chunks.truncate(room.min(self.chunks.len().saturating_sub(1)));
        }
    }
}

fn chunk(chunk: u64, holders: Vec<pb::Holder>) -> Chunk {
    let keepers =
        holders.into_iter().map(|holder| Keeper { address: holder.address, live: holder.live }).collect();
    Chunk { chunk: ChunkId(chunk).to_string(), extents: Vec::new(), keepers }
}

/// Where the page after this one begins.
fn next(page: &pb::Located, at: u64) -> Result<u64, DfsError> {
    if page.covered_to > at {
        return Ok(page.covered_to);
    }
    let message = "the master's answer to locate covers nothing; see that both are of the same version";
    Err(DfsError::new(ErrorCode::Protocol, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_would_be_too_long_ends_early_and_says_so() {
        let holder = pb::Holder { keeper: 1, address: "10.0.0.1:4000".to_owned(), live: true };
        let many = (0..MAX_CHUNKS as u64).map(|n| chunk(n, vec![holder.clone(); 3])).collect();
        let all = Locations { size: 5, complete: true, chunks: many };
        let json = all.into_json().unwrap();
        assert!(json.len() <= MAX_VALUE && json.len() > MAX_VALUE / 2, "{}", json.len());
        assert!(json.contains("\"complete\":false"));
        assert!(json.contains("\"chunk\":\"0000000000000000\""));
    }

    #[test]
    fn names_of_these_attributes_are_not_to_be_set() {
        assert_eq!(check_writable(b"user.dfs.new").unwrap_err().code, ErrorCode::Permission);
        assert!(check_writable(b"user.dfs").is_ok());
        assert!(check_writable(b"user.mine").is_ok());
    }
}
