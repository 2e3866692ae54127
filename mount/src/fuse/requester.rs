//! Who sent a request, and what the mount makes of root.

use dfs_proto::pb;
use fuser::{FileHandle, Request};

use crate::fs::Caller;
use crate::fs::caller::Squash;

/// Who sent a request. `squash`: root counts as that user.
pub fn caller(request: &Request, squash: Option<Squash>) -> Caller {
    let caller = Caller { uid: request.uid(), gid: request.gid(), pid: request.pid(), squashed: false };
    squash.map_or(caller, |squash| caller.squashed_to(squash))
}

/// Whose permissions count for a change of attributes. `None`: those that the file was opened with (ftruncate(2)).
pub fn setattr_caller(caller: Caller, setattr: &pb::Setattr, handle: Option<FileHandle>) -> Option<Caller> {
    let through_handle = handle.is_some() && setattr.size.is_some();
    (!through_handle).then_some(caller)
}
