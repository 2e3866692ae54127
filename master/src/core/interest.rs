//! What a mount may have cached: the inodes of which the master told it attributes or entries.
//!
//! What must hold: an interest lives at least [`INTEREST_MS`], counted from when it was noted; a mount caches nothing
//! for longer than that, counted from its request. So whatever it has cached it is told about. Two generations
//! of sets take turns, so that memory is bounded by what a mount asks for in twice that time, and no mount has to
//! say what it forgot. Not stored: after a restart, and on every new stream, mounts trust nothing.

use std::collections::HashSet;

use dfs_proto::ids::{InodeNo, SessionId};
use dfs_proto::pb::{self, mount_reply::Result as Reply, mount_request::Op};

use super::State;
use super::out::Res;

/// How long an interest lives at least.
pub(super) const INTEREST_MS: i64 = 40_000;
/// Most inodes of one generation. A mount that asked for more is told of everything.
const MAX_NOTED: usize = 1 << 20;

/// One session's. The sets are asked for members alone, so their order decides nothing.
#[derive(Default)]
pub(super) struct Interest {
    young: HashSet<InodeNo>,
    old: HashSet<InodeNo>,
    /// Generations for which it is told of everything.
    everything: u8,
    rotated_at_ms: Option<i64>,
}

impl Interest {
    /// The mount is told of this inode.
    pub fn note(&mut self, inode: InodeNo) {
        if self.young.len() >= MAX_NOTED {
            self.young = HashSet::new();
            self.everything = 2;
        }
        self.young.insert(inode);
    }

    /// May the mount have cached anything of this inode, or of its entries?
    pub fn has(&self, inode: InodeNo) -> bool {
        self.everything > 0 || self.has_noted(inode)
    }

    /// Was the mount told of this inode?
    pub fn has_noted(&self, inode: InodeNo) -> bool {
        self.young.contains(&inode) || self.old.contains(&inode)
    }

    /// The mount was told of so much that nobody knows what.
    #[cfg(test)]
    pub fn of_everything() -> Interest {
        Interest { everything: 2, ..Interest::default() }
    }

    /// To be called as time passes.
    pub fn rotate(&mut self, now_ms: i64) {
        let last_ms = *self.rotated_at_ms.get_or_insert(now_ms);
        if now_ms.saturating_sub(last_ms) >= INTEREST_MS {
            self.rotated_at_ms = Some(now_ms);
            self.old = std::mem::take(&mut self.young);
            self.everything = self.everything.saturating_sub(1);
        }
    }
}

/// The inode that a request names and that its answer tells of, or whose entries it tells of.
fn named(op: &Op) -> [Option<u64>; 2] {
    match op {
        Op::Lookup(op) => [Some(op.parent), None],
        Op::Readdir(op) => [Some(op.inode), None],
        Op::Create(op) => [Some(op.parent), None],
        Op::Mknod(op) => [Some(op.parent), None],
        Op::Mkdir(op) => [Some(op.parent), None],
        Op::Symlink(op) => [Some(op.parent), None],
        Op::Link(op) => [Some(op.parent), Some(op.inode)],
        Op::Unlink(op) => [Some(op.parent), None],
        Op::Rmdir(op) => [Some(op.parent), None],
        Op::Rename(op) => [Some(op.parent), Some(op.new_parent)],
        Op::Getattr(op) => [Some(op.inode), None],
        Op::Setattr(op) => [Some(op.inode), None],
        Op::Open(op) => [Some(op.inode), None],
        Op::Layout(op) => [Some(op.inode), None],
        Op::Getxattr(op) => [Some(op.inode), None],
        Op::Setxattr(op) => [Some(op.inode), None],
        Op::Listxattr(op) => [Some(op.inode), None],
        Op::Removexattr(op) => [Some(op.inode), None],
        Op::Fallocate(op) => [Some(op.inode), None],
        Op::CopyRange(op) => [Some(op.source), Some(op.target)],
        Op::Readlink(op) => [Some(op.inode), None],
        Op::TouchAtime(op) => [Some(op.inode), None],
        Op::Release(_)
        | Op::Alloc(_)
        | Op::AbortUpload(_)
        | Op::Fsync(_)
        | Op::Statfs(_)
        | Op::ReportBad(_)
        | Op::GetLock(_)
        | Op::SetLock(_)
        | Op::CancelLock(_)
        | Op::Locate(_)
        | Op::SetDigest(_)
        | Op::Barrier(_) => [None, None],
    }
}

impl State {
    /// Notes what an answer tells a mount. That there is no such name is told too.
    pub(super) fn note_interest(&mut self, by: SessionId, op: &Op, answer: &Res<Reply>) {
        let Some(session) = self.sessions.get_mut(&by) else { return };
        let interest = &mut session.interest;
        named(op).into_iter().flatten().for_each(|inode| interest.note(InodeNo(inode)));
        match answer {
            Ok(Reply::Attr(attr)) => interest.note(InodeNo(attr.inode)),
            Ok(Reply::Entries(pb::DirEntries { entries, .. })) => {
                entries
                    .iter()
                    .filter_map(|entry| entry.attr)
                    .for_each(|attr| interest.note(InodeNo(attr.inode)));
            }
            Ok(Reply::Gone(gone)) => {
                let told = [gone.moved, gone.removed, gone.exchanged].into_iter().flatten();
                told.for_each(|attr| interest.note(InodeNo(attr.inode)));
            }
            _ => {}
        }
    }
}
