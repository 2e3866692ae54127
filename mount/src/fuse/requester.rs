//! Who sent a request, what the mount makes of root, and when nobody waits for the answer any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Instant;

use dfs_observe::metrics::{ErrorClass, Label};
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::OperationNo;
use dfs_proto::pb;
use fuser::{Errno, FileHandle, INodeNo, Request};

use super::adapter::Adapter;
use super::convert::errno;
use super::metrics::{FuseOp, Metrics};
use super::signals;
use crate::client::operation;
use crate::fs::caller::Squash;
use crate::fs::{Caller, Fs};

impl Adapter {
    /// A request that has come.
    pub(super) fn call(&self, request: &Request, operation: FuseOp, inode: INodeNo) -> Call {
        Call::new(request, operation, inode, self.metrics.clone(), self.fs.clone())
    }
}

/// Who sent a request. `squash`: root counts as that user; `checked`: the master checks all.
pub fn caller(request: &Request, squash: Option<Squash>, checked: bool) -> Caller {
    let caller = Caller { uid: request.uid(), gid: request.gid(), pid: request.pid(), checked };
    squash.map_or(caller, |squash| caller.squashed_to(squash))
}

/// Whose permissions count for a change of attributes. `None`: those that the file was opened with (ftruncate(2)).
pub fn setattr_caller(caller: Caller, setattr: &pb::Setattr, handle: Option<FileHandle>) -> Option<Caller> {
    let through_handle = handle.is_some() && setattr.size.is_some();
    (!through_handle).then_some(caller)
}

/// A request, and the thread that waits for its answer. It counts as over when this is dropped, so it is to live until the
/// answer is given.
pub struct Call {
    pub operation: FuseOp,
    pub inode: INodeNo,
    /// 0 when it cannot be seen from here.
    pub thread: u32,
    /// For logs, also those of whoever is asked something for it.
    pub number: OperationNo,
    came: Instant,
    errno: AtomicI32,
    metrics: Arc<Metrics>,
    fs: Arc<Fs>,
}

impl Drop for Call {
    fn drop(&mut self) {
        let took = self.came.elapsed();
        self.metrics.operations.done(self.operation, took);
        let (operation, call, inode) = (self.number, self.operation.name(), self.inode.0);
        let (took_us, errno) = (took.as_micros(), self.errno.load(Ordering::Relaxed));
        tracing::debug!(target: "dfs::operations", %operation, call, inode, took_us, errno, "done");
    }
}

impl Call {
    /// `operation` on `inode`, for the thread that asks.
    pub fn new(
        request: &Request,
        operation: FuseOp,
        inode: INodeNo,
        metrics: Arc<Metrics>,
        fs: Arc<Fs>,
    ) -> Call {
        let (thread, came, errno) = (request.pid(), Instant::now(), AtomicI32::new(0));
        Call { operation, inode, thread, number: operation::next(), came, errno, metrics, fs }
    }

    /// For this error.
    pub fn errno(&self, error: &DfsError) -> Errno {
        self.explain(error);
        self.counted(errno(error))
    }

    /// What the errno does not tell a person goes to the log.
    fn explain(&self, error: &DfsError) {
        let (operation, call, code) = (self.number, self.operation.name(), error.code);
        if is_worth_a_line(code) {
            let path = self.fs.path_of(self.inode.0.into());
            tracing::warn!(%operation, call, path, ?code, "{error}");
        } else if tracing::enabled!(tracing::Level::DEBUG) {
            let path = self.fs.path_of(self.inode.0.into());
            tracing::debug!(%operation, call, path, ?code, "{error}");
        }
    }

    /// Ends with this.
    pub fn counted(&self, errno: Errno) -> Errno {
        self.errno.store(errno.into(), Ordering::Relaxed);
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

/// Errors that programs seldom make by themselves, and that people ask about.
fn is_worth_a_line(code: ErrorCode) -> bool {
    use dfs_proto::error::Errno::*;
    let of_programs = !matches!(code.errno(), EIO | ENOSPC | ETIMEDOUT | EPROTO | EDQUOT | EROFS);
    !of_programs || matches!(code, ErrorCode::Session | ErrorCode::Unauthenticated)
}

fn interrupted() -> DfsError {
    DfsError::new(ErrorCode::Interrupted, "a signal ended the wait")
}
