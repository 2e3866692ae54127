//! Who sent a request, what the mount makes of root, and when nobody waits for the answer any more.

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::pb;
use fuser::{Errno, FileHandle, INodeNo, Request};

use super::convert::errno;
use super::signals;
use crate::fs::caller::Squash;
use crate::fs::{Caller, Fs};

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

/// A request, and the thread that waits for its answer.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// As the log names it.
    pub operation: &'static str,
    pub inode: INodeNo,
    /// 0 when it cannot be seen from here.
    pub thread: u32,
}

impl Call {
    /// `operation` on `inode`, for the thread that asks.
    pub fn new(request: &Request, operation: &'static str, inode: INodeNo) -> Call {
        Call { operation, inode, thread: request.pid() }
    }

    /// For this error.
    pub fn errno(&self, error: &DfsError) -> Errno {
        errno(self.operation, self.inode.0, error)
    }

    /// Does `work`, which is dropped when its caller is ended by a signal before it is done.
    ///
    /// # Errors
    /// That of `work`, or `Interrupted`.
    pub async fn unless_ended<T>(
        &self,
        fs: &Fs,
        work: impl Future<Output = Result<T, DfsError>>,
    ) -> Result<T, DfsError> {
        tokio::select! {
            biased;
            done = work => done,
            () = self.ended(fs) => Err(interrupted()),
        }
    }

    /// Ends when a signal has ended the wait of the thread.
    pub async fn ended(&self, fs: &Fs) {
        signals::wait_for_end(self.thread, || fs.is_cut_off()).await;
    }
}

fn interrupted() -> DfsError {
    DfsError::new(ErrorCode::Interrupted, "a signal ended the wait")
}
