//! Append leases: while a session has a file's, its mount alone decides where the bytes of appending writes go. A
//! lease is an exclusive lock of a kind of its own (`locks`), so it lives and dies as locks do; besides, its holder is
//! asked to give it back as soon as another mount waits.
//!
//! Who had a file's lease last is stored with it, as an attribute that nobody sees: locks are declared again after a restart
//! of the master, and a mount that does not know yet that it lost the lease must not get it back before the one that has it.
//!
//! What must hold: bytes that were placed under a lease never become visible after the session lost it, since others
//! may have appended at the same place since; no grant is told before it is stored whose it is.

use bytes::Bytes;
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::{ChunkId, InodeNo, SessionId};
use dfs_proto::pb::{self, mount_down};

use super::State;
use super::lock_table::{LockFile, LockKind};
use super::out::{Out, Res, fail};
use super::row::{Name, RowKey};

/// The attribute with the session that had the lease last: 8 bytes, big-endian. (Names like this are reserved, see `digest`.)
const HOLDER_NAME: &[u8] = b"user.dfs.appender";

impl State {
    fn last_holder(&self, inode: InodeNo) -> Option<SessionId> {
        let stored = self.xattrs.get(&(inode, Name::from(HOLDER_NAME)))?;
        Some(SessionId(u64::from_be_bytes(stored[..].try_into().ok()?)))
    }

    /// A lock was granted: if it is a lease, it is stored whose it is now.
    pub(super) fn note_lease(&mut self, file: LockFile, holder: SessionId, out: &mut Out) {
        let LockFile { inode, kind } = file;
        let is_known = kind != LockKind::Append || self.last_holder(inode) == Some(holder);
        if !is_known && self.inodes.contains_key(&inode) {
            let name = Name::from(HOLDER_NAME);
            out.touch(RowKey::Xattr { inode, name: name.clone() });
            self.xattrs.insert((inode, name), Bytes::copy_from_slice(&holder.0.to_be_bytes()));
        }
    }

    /// May a session still have this lock, as far as is stored? Not the lease, if another had it since.
    pub(super) fn may_still_have(&self, file: LockFile, session: SessionId) -> bool {
        file.kind != LockKind::Append || self.last_holder(file.inode).is_none_or(|last| last == session)
    }

    /// Asks the holder of an append lease for it, if somebody waits.
    pub(super) fn recall(&self, file: LockFile, out: &mut Out) {
        if file.kind != LockKind::Append || !self.locks.table.is_waited_for(file) {
            return;
        }
        for holder in self.locks.table.holders(file) {
            // One that is away is asked when it says hello.
            if self.sessions.get(&holder.session).is_some_and(|session| session.connected) {
                let recall = pb::Recall { inode: file.inode.0 };
                out.for_mount(holder.session, mount_down::Msg::Recall(recall));
            }
        }
    }

    /// The same for all leases of a session, which may have missed it.
    pub(super) fn recall_all_of(&self, session: SessionId, out: &mut Out) {
        for file in self.locks.table.files_of(session, LockKind::Append) {
            self.recall(file, out);
        }
    }

    /// May this session add bytes that it placed under the file's append lease?
    pub(super) fn check_append(&self, by: SessionId, inode: InodeNo) -> Res<()> {
        let file = LockFile { inode, kind: LockKind::Append };
        if self.locks.table.holders(file).any(|holder| holder.session == by) {
            return Ok(());
        }
        fail(
            ErrorCode::WouldBlock,
            format!("inode {inode}: this mount has lost the append lease, so others may have appended since"),
        )
    }

    /// The session is about to lose its leases: what it placed under them and is not in the files yet must not
    /// get there.
    pub(super) fn drop_appends_of_session(&mut self, id: SessionId, out: &mut Out) {
        let error = DfsError::new(ErrorCode::Session, "the append lease was lost while this was on its way");
        for LockFile { inode, .. } in self.locks.table.files_of(id, LockKind::Append) {
            let queue = self.sessions.get(&id).and_then(|session| session.pending.get(&inode));
            let chunks: Vec<ChunkId> = queue.into_iter().flatten().copied().collect();
            for chunk in chunks {
                if self.drop_upload(chunk, out).is_some() {
                    self.say_failed(id, inode, chunk, &error, out);
                }
            }
        }
    }
}
