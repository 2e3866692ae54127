//! Locks and append leases over the session: calls of which some may take for ever.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::InodeNo;
use dfs_proto::pb;
use tokio::sync::oneshot;

use super::Client;
use super::calls::{Abandon, unexpected};
use super::requests::{Answer, Op, Reply};

/// How often a wait looks whether the master is still there.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Leases are taken through no handle.
const NO_HANDLE: u64 = 0;

/// A lock on all of a file.
fn whole(inode: InodeNo, kind: pb::LockKind, owner: u64, mode: pb::LockMode) -> pb::FileLock {
    let (kind, mode) = (kind as i32, mode as i32);
    pb::FileLock { inode: inode.0, owner, kind, start: 0, end: u64::MAX, mode, pid: 0 }
}

/// An owner of its own for each file, so that waits for several can never form a ring.
fn lease(inode: InodeNo, mode: pb::LockMode) -> pb::FileLock {
    whole(inode, pb::LockKind::Append, inode.0, mode)
}

fn lost(inode: u64) -> DfsError {
    let message = format!(
        "inode {inode}: a lock was lost while the master could not be reached; close the file and begin again"
    );
    DfsError::new(ErrorCode::Io, message)
}

impl Client {
    /// Who would be in the way of this lock?
    ///
    /// # Errors
    /// `Stale`, `TimedOut`, ...; `Io` when the owner lost a lock of this file.
    pub async fn get_lock(&self, lock: pb::FileLock) -> Result<Option<pb::FileLock>, DfsError> {
        if self.inner.shared.requests().locks.is_lost(&lock) {
            return Err(lost(lock.inode));
        }
        match self.call("get_lock", Op::GetLock(pb::GetLock { lock: Some(lock) })).await? {
            Reply::Lock(info) => Ok(info.conflict),
            other => Err(unexpected("get_lock", &other)),
        }
    }

    /// Takes, changes or gives up a lock, asked for through `handle`; returns the file as it was at the grant.
    /// With `wait`, waits until it is granted, or `interrupted` ends.
    ///
    /// # Errors
    /// `WouldBlock`, `Deadlock`, `Interrupted`; `Io` when the owner lost a lock of this file; `Busy`: too many.
    pub async fn set_lock(
        &self,
        handle: u64,
        lock: pb::FileLock,
        wait: bool,
        interrupted: impl Future<Output = ()> + Send,
    ) -> Result<Option<pb::Attr>, DfsError> {
        let unlock = lock.mode() == pb::LockMode::Unlock;
        {
            let mut requests = self.inner.shared.requests();
            if requests.locks.is_lost(&lock) {
                return Err(lost(lock.inode));
            }
            if !unlock {
                requests.locks.begin(&lock, handle);
            }
        }
        let op = Op::SetLock(pb::SetLock { lock: Some(lock), wait });
        let reply =
            if wait { self.wait_for(op, interrupted).await? } else { self.call("set_lock", op).await? };
        // The session may have been resumed in between, without the locks that the owner had before.
        if self.inner.shared.requests().locks.is_lost(&lock) {
            return Err(lost(lock.inode));
        }
        match reply {
            Reply::Lock(info) => Ok(info.attr),
            other => Err(unexpected("set_lock", &other)),
        }
    }

    async fn wait_for(
        &self,
        op: Op,
        interrupted: impl Future<Output = ()> + Send,
    ) -> Result<Reply, DfsError> {
        let shared = &*self.inner.shared;
        let (reply, mut answer) = oneshot::channel();
        let abandon = Abandon { shared, id: shared.ask(op, None, reply)? };
        let ended = |result: Result<Result<Answer, DfsError>, oneshot::error::RecvError>| {
            result.unwrap_or_else(|_| Err(shared.closed_error())).map(|answer| answer.reply)
        };
        tokio::select! {
            biased;
            result = &mut answer => return ended(result),
            () = interrupted => {}
            () = self.master_is_away() => return Err(shared.timed_out("set_lock")),
        }
        // It may be granted before the master hears of this: then that is the answer.
        self.call("cancel_lock", Op::CancelLock(pb::CancelLock { request: abandon.id })).await?;
        match tokio::time::timeout(shared.op_timeout(), answer).await {
            Ok(result) => ended(result),
            Err(_) => Err(shared.timed_out("cancel_lock")),
        }
    }

    /// Ends when the session has been lost for as long as a call may take, from now on.
    pub(crate) async fn master_is_away(&self) {
        let shared = &*self.inner.shared;
        let mut heard = Instant::now();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if shared.is_up() {
                heard = Instant::now();
            } else if heard.elapsed() > shared.op_timeout() {
                return;
            }
        }
    }

    /// Gives up all locks on a file of the owners that `which` chooses by kind, owner and handles: they closed it.
    /// All are asked for at once; the future waits for the answers.
    ///
    /// # Errors
    /// `TimedOut`: the master could not be told; it finds out when the session is resumed.
    pub fn unlock_all(
        &self,
        inode: InodeNo,
        which: impl Fn(pb::LockKind, u64, &BTreeSet<u64>) -> bool,
    ) -> impl Future<Output = Result<(), DfsError>> + Send + 'static {
        let owners = self.inner.shared.requests().locks.owners(inode.0, which);
        let unlock = |(kind, owner)| self.unlock_whole(whole(inode, kind, owner, pb::LockMode::Unlock));
        let asked: Vec<_> = owners.into_iter().map(unlock).collect();
        async move {
            let mut result = Ok(());
            for answer in asked {
                result = result.and(answer.await);
            }
            result
        }
    }

    fn unlock_whole(
        &self,
        lock: pb::FileLock,
    ) -> impl Future<Output = Result<(), DfsError>> + Send + 'static {
        let shared = self.inner.shared.clone();
        let (reply, answer) = oneshot::channel();
        let asked = shared.ask(Op::SetLock(pb::SetLock { lock: Some(lock), wait: false }), None, reply);
        shared.requests().locks.forget(&lock);
        async move {
            asked?;
            match tokio::time::timeout(shared.op_timeout(), answer).await {
                Ok(Ok(result)) => result.map(|_| ()),
                Ok(Err(_)) => Err(shared.closed_error()),
                Err(_) => Err(shared.timed_out("unlock")),
            }
        }
    }

    /// Waits for the append lease of a file, at most `within`; returns the file as it was at the grant.
    ///
    /// # Errors
    /// `TimedOut`; `Stale`: the file is gone.
    pub async fn acquire_append(&self, inode: InodeNo, within: Duration) -> Result<pb::Attr, DfsError> {
        let lease = lease(inode, pb::LockMode::Exclusive);
        self.inner.shared.requests().locks.begin(&lease, NO_HANDLE);
        let op = Op::SetLock(pb::SetLock { lock: Some(lease), wait: true });
        match self.wait_for(op, tokio::time::sleep(within)).await {
            Ok(Reply::Lock(pb::LockInfo { attr: Some(attr), .. })) => Ok(attr),
            Ok(other) => Err(unexpected("set_lock", &other)),
            Err(error) if error.code == ErrorCode::Interrupted => {
                let message = format!(
                    "append to inode {inode}: another mount has not given the append lease back within {within:?}"
                );
                Err(DfsError::new(ErrorCode::TimedOut, message))
            }
            Err(error) => Err(error),
        }
        .inspect_err(|_| self.forget_append(inode))
    }

    /// The master says that this mount has not got the append lease of a file.
    pub fn forget_append(&self, inode: InodeNo) {
        self.inner.shared.requests().locks.forget(&lease(inode, pb::LockMode::Unlock));
    }

    /// Gives the append lease of a file back.
    ///
    /// # Errors
    /// `TimedOut`: the master could not be told; it finds out when the session is resumed.
    pub async fn return_append(&self, inode: InodeNo) -> Result<(), DfsError> {
        self.unlock_whole(lease(inode, pb::LockMode::Unlock)).await
    }

    /// Has this mount the append lease of a file, as far as it knows?
    pub fn holds_append(&self, inode: InodeNo) -> bool {
        self.inner.shared.requests().locks.holds(&lease(inode, pb::LockMode::Exclusive))
    }

    /// Has anybody here asked for a lock on the inode, the append lease included, and not given it up since?
    pub fn has_locks(&self, inode: InodeNo) -> bool {
        self.inner.shared.requests().locks.is_any(inode.0)
    }

    /// Does the lock's owner hold any of its bytes exclusively?
    pub fn holds_exclusively(&self, lock: &pb::FileLock) -> bool {
        self.inner.shared.requests().locks.is_exclusive(lock)
    }

    /// Was a lock lost that was taken through this handle?
    pub fn lost_lock(&self, handle: u64) -> bool {
        let shared = &*self.inner.shared;
        shared.locks_lost.load(Ordering::Relaxed) && shared.requests().locks.is_lost_through(handle)
    }
}
