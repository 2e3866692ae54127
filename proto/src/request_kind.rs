//! What a request of a mount is to those who carry it, keep it, or ask it again. The one place that names them all:
//! a new request does not compile before it has its line here.

use crate::pb::mount_request::Op;

/// See each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RequestKind {
    /// Changes nothing.
    Question,
    /// Changes what other mounts may have cached. To do it twice would be wrong, so the reply is stored with the change;
    /// it leaves when the others have forgotten.
    Change,
    /// Changes something, and doing so twice is as good as once; or a hello says it anew (opens, locks, uploads).
    Repeatable,
    /// Is answered when others have done something, however late.
    Wait,
    /// Is not answered.
    Notice,
}

/// In `Open.access`.
const ACCESS_WRITE: u32 = 2;

/// Of a request.
pub fn request_kind(op: &Op) -> RequestKind {
    match op {
        Op::Lookup(_)
        | Op::Getattr(_)
        | Op::Readlink(_)
        | Op::Readdir(_)
        | Op::Layout(_)
        | Op::Statfs(_)
        | Op::Getxattr(_)
        | Op::Listxattr(_)
        | Op::GetLock(_)
        | Op::Locate(_) => RequestKind::Question,
        Op::Setattr(_)
        | Op::Create(_)
        | Op::Mknod(_)
        | Op::Mkdir(_)
        | Op::Symlink(_)
        | Op::Link(_)
        | Op::Unlink(_)
        | Op::Rmdir(_)
        | Op::Rename(_)
        | Op::Setxattr(_)
        | Op::Removexattr(_)
        | Op::Fallocate(_)
        | Op::CopyRange(_) => RequestKind::Change,
        Op::SetLock(set) if set.wait => RequestKind::Wait,
        Op::Open(_)
        | Op::Alloc(_)
        | Op::AbortUpload(_)
        | Op::Fsync(_)
        | Op::SetLock(_)
        | Op::CancelLock(_)
        | Op::TouchAtime(_)
        | Op::SetDigest(_) => RequestKind::Repeatable,
        Op::Barrier(_) => RequestKind::Wait,
        Op::Release(_) | Op::ReportBad(_) => RequestKind::Notice,
    }
}

/// Does it change files, or what is known of them? Not to be done by whoever may only read. Locks and their ends are no
/// changes, nor is word of a bad copy; an open is one if it is to write, so that a program hears at once that it cannot.
pub fn changes_files(op: &Op) -> bool {
    match op {
        Op::Alloc(_) | Op::AbortUpload(_) | Op::TouchAtime(_) | Op::SetDigest(_) => true,
        Op::Open(open) => open.access & ACCESS_WRITE != 0,
        Op::Fsync(_) | Op::SetLock(_) | Op::CancelLock(_) => false,
        other => request_kind(other) == RequestKind::Change,
    }
}
