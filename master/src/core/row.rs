//! The rows in which the state is stored: what the core says changed, what a store keeps, and what it
//! gives back at start. How rows look on disk is the store's business (`store/codec.rs`).
//!
//! Everything that must outlive the process is in one of these. Liveness, uploads under way and reference counts are not, nor of
//! sessions more than that they are there: they are learned or derived again.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use dfs_proto::ids::{ChunkId, InodeNo, KeeperId, SessionId};
use dfs_proto::pb;
use dfs_proto::token::Roles;

use super::id_map::IdMap;

/// A user's name: see [`super::users::check_name`].
pub type UserName = Box<str>;

/// A name of 1 to 255 bytes, any but '/' and NUL.
pub type Name = Box<[u8]>;

/// One row, whole.
#[derive(Clone, PartialEq, Debug)]
pub enum Row {
    /// The one row of counters.
    Counters(Counters),
    /// An inode. One with `nlink` 0 is held by open handles alone.
    Inode(InodeNo, InodeRow),
    /// A name in a directory.
    Dentry {
        /// The directory.
        parent: InodeNo,
        /// In it.
        name: Name,
        /// What the name leads to.
        inode: InodeNo,
    },
    /// A run of a file's bytes. Extents of one inode never overlap.
    Extent(InodeNo, ExtentRow),
    /// A chunk that some extent needs.
    Chunk(ChunkId, ChunkRow),
    /// An extended attribute.
    Xattr {
        /// Of this inode.
        inode: InodeNo,
        /// 1 to 255 bytes.
        name: Name,
        /// At most 64 KiB.
        value: Bytes,
    },
    /// A keeper that has joined, ever.
    Keeper(KeeperId, KeeperRow),
    /// What a mount's request was answered with, until the mount has the answer.
    Reply {
        /// Of this session.
        session: SessionId,
        /// Its id within the session.
        request: u64,
        /// A `MountReply`, as protobuf encodes it.
        reply: Bytes,
    },
    /// The limits of a directory. What is used of them is derived.
    Quota(InodeNo, QuotaRow),
    /// A file without a name that is kept in the trash.
    Trash(InodeNo, TrashRow),
    /// A mount that may trust what it has cached.
    Session(SessionId),
    /// Somebody who may log in, or keepers that may join.
    User(UserName, UserRow),
}

/// What a row is found by.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[allow(missing_docs)]
pub enum RowKey {
    Counters,
    Inode(InodeNo),
    Dentry { parent: InodeNo, name: Name },
    Extent { inode: InodeNo, file_offset: u64 },
    Chunk(ChunkId),
    Xattr { inode: InodeNo, name: Name },
    Keeper(KeeperId),
    Reply { session: SessionId, request: u64 },
    Quota(InodeNo),
    Trash(InodeNo),
    Session(SessionId),
    User(UserName),
}

/// A change of one row. A command's changes are stored all or none.
#[derive(Clone, PartialEq, Debug)]
pub enum RowChange {
    /// Insert, or replace the row of the same key.
    Put(Row),
    /// Remove; a key that is not there is no error.
    Delete(RowKey),
}

/// Numbers that must never go back. Each is the first id that was never handed out; chunk ids are
/// reserved in blocks, so that a chunk that was only ever ticketed costs no row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub struct Counters {
    pub next_inode: u64,
    pub next_chunk: u64,
    pub next_keeper: u64,
}

/// An inode's stored attributes. The number of names, and for directories of subdirectories, is in
/// `nlink` as stat(2) counts it.
#[derive(Clone, PartialEq, Debug)]
#[allow(missing_docs)]
pub struct InodeRow {
    /// File type and permission bits, as st_mode.
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    /// Bytes. Of a symbolic link: of its target. Of a directory: 0 here, shown as 4096.
    pub size: u64,
    pub atime: pb::Time,
    pub mtime: pb::Time,
    pub ctime: pb::Time,
    /// Grows with every change of content.
    pub content_version: u64,
    /// Of a symbolic link.
    pub target: Option<Box<[u8]>>,
}

/// (file offset, length) -> (chunk, offset in chunk), in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub struct ExtentRow {
    pub file_offset: u64,
    pub length: u64,
    pub chunk: ChunkId,
    pub chunk_offset: u32,
}

/// A chunk, and who is believed to have a copy of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChunkRow {
    /// Bytes.
    pub length: u32,
    /// Over its block checksums (`dfs_proto::block_sum`).
    pub checksum: u32,
    /// Sorted, each once.
    pub keepers: Vec<KeeperId>,
}

/// What is remembered of a keeper while it is away.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs)]
pub struct KeeperRow {
    /// HOST:PORT of its data port, as it last said.
    pub address: String,
    pub data_dir: String,
    /// The label `host`.
    pub host: String,
    pub version: String,
    /// The other labels.
    pub labels: BTreeMap<String, String>,
    /// An operator wants all copies off it.
    pub draining: bool,
    /// It may be away until then without being missed, in ms; 0: it may not.
    pub maintenance_until_ms: i64,
}

impl KeeperRow {
    /// Is it expected to be away for a while?
    pub fn in_maintenance(&self) -> bool {
        self.maintenance_until_ms != 0
    }
}

/// What may be below a directory; `None`: no limit. One of them is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs)]
pub struct QuotaRow {
    pub max_bytes: Option<u64>,
    pub max_inodes: Option<u64>,
}

/// What is remembered of a file in the trash, beside the file itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TrashRow {
    /// Absolute: the last name that it had.
    pub path: Box<[u8]>,
    /// When it lost that.
    pub deleted: pb::Time,
    /// Stored bytes that it had then.
    pub bytes: u64,
}

/// A user.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct UserRow {
    /// Argon2id, in the PHC format; empty: there is no password with which to log in.
    pub password_hash: String,
    /// What the user may do.
    pub roles: Roles,
    /// Nothing, for now.
    pub disabled: bool,
    /// Tokens of another one are good for nothing.
    pub generation: u32,
    /// The directory that is all that the user sees.
    pub dir: Option<InodeNo>,
    /// How the ids of the user's machines are mapped.
    pub ids: Arc<IdMap>,
}

/// Shows nothing of the password.
impl std::fmt::Debug for UserRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserRow")
            .field("roles", &self.roles)
            .field("disabled", &self.disabled)
            .field("generation", &self.generation)
            .field("dir", &self.dir)
            .field("ids", &self.ids)
            .finish_non_exhaustive()
    }
}
