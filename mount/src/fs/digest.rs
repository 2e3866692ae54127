//! The MD5 of a file's content. It is computed when somebody asks for it, and remembered by the master until the
//! content changes.
//!
//! It is read through a reader of its own, verified like every read, with a small cache: the mount's own is left
//! as it is. What must hold: the digest is that of one content, as it was at some time between the question and the
//! answer. The master takes it only for the content version that the file had before the first byte was read.

use std::time::Duration;

use bytes::Bytes;
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::InodeNo;
use dfs_proto::pb;
use md5::{Digest, Md5};
use tokio::sync::{Semaphore, mpsc};

use super::Fs;
use super::virtual_xattr::MD5;
use crate::client::Client;
use crate::read::{ReadStream, Readers};

/// Computations at once; others wait.
const AT_ONCE: usize = 2;

/// Cache of one computation, in bytes: enough to read ahead.
const CACHE: u64 = 16 << 20;

/// Bytes read at once.
const STEP: u64 = 1 << 20;

/// Pieces that may wait to be hashed.
const WAITING: usize = 4;

/// How often a file that changes meanwhile is begun anew.
const ATTEMPTS: u32 = 4;

/// The longest that an answer may take. A signal to the program that asks ends it sooner.
const DEADLINE: Duration = Duration::from_secs(3600);

/// Bounds the computations.
pub struct Digests {
    turns: Semaphore,
}

impl Default for Digests {
    fn default() -> Self {
        Self { turns: Semaphore::new(AT_ONCE) }
    }
}

/// An inode that is held open while it is read.
struct Held<'a> {
    client: &'a Client,
    attr: pb::Attr,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.client.release(InodeNo(self.attr.inode));
    }
}

impl Fs {
    /// The MD5 of a regular file's content as hex digits: what the master remembers, or computed now.
    ///
    /// # Errors
    /// `NoData` for what is no regular file; `Busy` when the content did not stay the same for long enough; those
    /// of reading.
    pub(super) async fn md5(&self, inode: InodeNo) -> Result<String, DfsError> {
        let digest = match self.client.getxattr(inode, MD5).await {
            Err(error) if error.code == ErrorCode::NoData => {
                let work = self.compute_md5(inode);
                tokio::time::timeout(DEADLINE, work).await.unwrap_or_else(|_| Err(late(inode)))?.to_vec()
            }
            remembered => remembered?.to_vec(),
        };
        Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    async fn compute_md5(&self, inode: InodeNo) -> Result<[u8; 16], DfsError> {
        let _turn = self.digests.turns.acquire().await;
        for _ in 0..ATTEMPTS {
            self.upload(inode).await?;
            let held = Held { client: &self.client, attr: self.client.open(inode, 0).await? };
            let Some(md5) = md5_of(&self.client, &held.attr).await? else { continue };
            match self.client.set_digest(inode, held.attr.content_version, md5).await {
                Err(error) if error.code == ErrorCode::Busy => {}
                // What others are told is not for who may only read, where the master asks that.
                Err(error) if error.code == ErrorCode::Access => return Ok(md5),
                done => return done.map(|()| md5),
            }
        }
        let message = format!(
            "inode {inode}: its content changed {ATTEMPTS} times while its MD5 was computed; try again"
        );
        Err(DfsError::new(ErrorCode::Busy, message))
    }
}

fn late(inode: InodeNo) -> DfsError {
    let message = format!("inode {inode}: its MD5 was not there within {} s", DEADLINE.as_secs());
    DfsError::new(ErrorCode::TimedOut, message)
}

/// `None`: the content changed meanwhile.
async fn md5_of(client: &Client, attr: &pb::Attr) -> Result<Option<[u8; 16]>, DfsError> {
    let inode = InodeNo(attr.inode);
    if attr.mode & libc::S_IFMT != libc::S_IFREG {
        return Err(DfsError::new(ErrorCode::NoData, format!("inode {inode} is not a regular file")));
    }
    // Hashing takes the processor for long.
    let (pieces, mut waiting) = mpsc::channel::<Bytes>(WAITING);
    let hasher = tokio::task::spawn_blocking(move || {
        let mut md5 = Md5::new();
        while let Some(piece) = waiting.blocking_recv() {
            md5.update(&piece);
        }
        md5.finalize().into()
    });
    let reader = Readers::new(client.clone(), CACHE).file(inode);
    let stream = ReadStream::new();
    let mut at = 0;
    while at < attr.size {
        // At most STEP.
        let length = STEP.min(attr.size - at);
        let piece = reader.read(&stream, at, length as usize).await?;
        if piece.attr.content_version != attr.content_version {
            return Ok(None);
        }
        at += length;
        if pieces.send(piece.bytes).await.is_err() {
            break;
        }
    }
    drop(pieces);
    hasher
        .await
        .map(Some)
        .map_err(|error| DfsError::new(ErrorCode::Io, format!("inode {inode}: MD5: {error}")))
}
