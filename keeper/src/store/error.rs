//! What can go wrong with one chunk on this disk.

use std::io;

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::ChunkId;
use rustix::io::Errno;

/// Why an operation of the chunk store failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// No such chunk here.
    #[error("chunk {0} is not here")]
    NotFound(ChunkId),
    /// Its file was here, and somebody took it away.
    #[error("the file of chunk {0} is gone; see who removes files in this keeper's data directory")]
    Vanished(ChunkId),
    /// The chunk is here with other bytes, which never change.
    #[error("chunk {0} is here already, with other bytes; ask the master for a new chunk")]
    Exists(ChunkId),
    /// The master has had it deleted before it was whole.
    #[error("chunk {0} is not wanted any more: the master has taken it back; ask it for a new chunk")]
    TakenBack(ChunkId),
    /// Bytes do not verify.
    #[error("chunk {chunk} does not verify: {why}")]
    Corrupt {
        /// Which chunk.
        chunk: ChunkId,
        /// What is wrong.
        why: String,
    },
    /// The disk is full, or below its reserve.
    #[error("chunk {chunk} cannot be stored: {why}; free space or add a keeper")]
    NoSpace {
        /// Which chunk.
        chunk: ChunkId,
        /// How full.
        why: String,
    },
    /// The disk takes no writes.
    #[error("chunk {0} cannot be stored: the disk is read-only; remount it writable")]
    ReadOnly(ChunkId),
    /// The disk failed.
    #[error("chunk {chunk}: cannot {what}: {source}; check this keeper's disk")]
    Io {
        /// Which chunk.
        chunk: ChunkId,
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl StoreError {
    /// A failed write, by its errno.
    pub fn of_write(chunk: ChunkId, what: &'static str, source: io::Error) -> StoreError {
        match Errno::from_io_error(&source) {
            Some(Errno::NOSPC | Errno::DQUOT) => {
                StoreError::NoSpace { chunk, why: format!("cannot {what}: {source}") }
            }
            Some(Errno::ROFS) => StoreError::ReadOnly(chunk),
            _ => StoreError::Io { chunk, what, source },
        }
    }

    /// The code that a peer branches on.
    pub fn code(&self) -> ErrorCode {
        match self {
            StoreError::NotFound(_) | StoreError::Vanished(_) => ErrorCode::NotFound,
            StoreError::Exists(_) => ErrorCode::Exists,
            StoreError::TakenBack(_) => ErrorCode::Stale,
            StoreError::Corrupt { .. } => ErrorCode::Corrupt,
            StoreError::NoSpace { .. } => ErrorCode::NoSpace,
            StoreError::ReadOnly(_) => ErrorCode::ReadOnly,
            StoreError::Io { .. } => ErrorCode::Io,
        }
    }

    /// Is the copy itself gone or bad, so that the master must hear of it?
    pub fn means_bad_copy(&self) -> bool {
        matches!(self, StoreError::NotFound(_) | StoreError::Vanished(_) | StoreError::Corrupt { .. })
    }
}

impl From<&StoreError> for DfsError {
    fn from(error: &StoreError) -> DfsError {
        DfsError::new(error.code(), error.to_string())
    }
}
