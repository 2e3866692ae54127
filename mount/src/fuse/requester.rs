//! Who sent a request, what the mount makes of root, and when nobody waits for the answer any more.

use std::sync::Arc;
use std::time::Instant;

use dfs_observe::metrics::{ErrorClass, Label};
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::pb;
use fuser::{Errno, FileHandle, INodeNo, Request};

use super::adapter::Adapter;
use super::convert::errno;
use super::metrics::{FuseOp, Metrics};
use super::signals;
use crate::fs::caller::Squash;
use crate::fs::{Caller, Fs};

impl Adapter {
    /// A request that has come.
    pub(super) fn call(&self, request: &Request, operation: FuseOp, inode: INodeNo) -> Call {
        Call::new(request, operation, inode, self.metrics.clone())
    }
}

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

/// A request, and the thread that waits for its answer. It counts as over when this is dropped, so it is to live until the
/// answer is given.
#[derive(Debug)]
pub struct Call {
    pub operation: FuseOp,
    pub inode: INodeNo,
    /// 0 when it cannot be seen from here.
    pub thread: u32,
    came: Instant,
    metrics: Arc<Metrics>,
}

impl Drop for Call {
    fn drop(&mut self) {
        self.metrics.operations.done(self.operation, self.came.elapsed());
    }
}

impl Call {
    /// `operation` on `inode`, for the thread that asks.
    pub fn new(request: &Request, operation: FuseOp, inode: INodeNo, metrics: Arc<Metrics>) -> Call {
        Call { operation, inode, thread: request.pid(), came: Instant::now(), metrics }
    }

    /// For this error.
    pub fn errno(&self, error: &DfsError) -> Errno {
        self.counted(errno(self.operation.name(), self.inode.0, error))
    }

    /// Ends with this.
    pub fn counted(&self, errno: Errno) -> Errno {
        self.metrics.operations.failed(self.operation, ErrorClass::of_errno(errno.into()));
        errno
    }

    /// So many bytes were read for it.
    pub fn has_read(&self, bytes: usize) {
        self.metrics.bytes_read.add(bytes as u64);
    }

    /// So many bytes were taken in.
    pub fn has_written(&self, bytes: u32) {
        self.metrics.bytes_written.add(u64::from(bytes));
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
