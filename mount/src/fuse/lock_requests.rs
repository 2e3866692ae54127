//! Lock requests of the kernel: whose they are, and how they are answered.
//!
//! The kernel marks the requests of flock(2), but fuser 0.18.0 does not hand the mark on. A request that is not for the
//! whole file is of fcntl(2). For the others we look at which system call the asking thread is in. Where that cannot
//! be seen (the thread is in another pid namespace, or, if the mount does not run as root, belongs to somebody else or
//! may not be looked at), the lock counts as fcntl's, as on NFS: it holds against other mounts all the same, but it and
//! locks of fcntl on the whole file exclude each other.

use std::time::Duration;

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::pb;
use fuser::{Errno, FileHandle, INodeNo, LockOwner, ReplyEmpty, ReplyLock};

use super::adapter::Adapter;
use super::requester::Call;
use super::signals;
use super::writes::forget_pages;
use crate::client::lanes::Lane;
use crate::fs::Fs;

/// The last byte of a lock on a whole file.
const WHOLE_END: u64 = i64::MAX as u64;
/// A thread that has just asked may not have gone to sleep yet; then the kernel does not say what it does.
const LOOKS: usize = 20;
const BETWEEN_LOOKS: Duration = Duration::from_millis(1);
/// By the numbers of the machine's own programs, and of 32-bit ones, which mean no other call that locks.
const FLOCK_CALLS: [i64; 2] = [libc::SYS_flock, 143];
const FCNTL_CALLS: [i64; 3] = [libc::SYS_fcntl, 55, 221];

/// What is asked for, but for its kind.
pub struct LockRequest(pb::FileLock);

impl LockRequest {
    /// `None`: there is no such lock.
    pub fn decode(
        ino: INodeNo,
        owner: LockOwner,
        (start, end): (u64, u64),
        typ: i32,
        pid: u32,
    ) -> Option<LockRequest> {
        let mode = match typ {
            libc::F_RDLCK => pb::LockMode::Shared,
            libc::F_WRLCK => pb::LockMode::Exclusive,
            libc::F_UNLCK => pb::LockMode::Unlock,
            _ => return None,
        };
        let kind = pb::LockKind::Fcntl as i32;
        let mode = mode as i32;
        Some(LockRequest(pb::FileLock { inode: ino.0, owner: owner.0, kind, start, end, mode, pid }))
    }

    fn is_whole(&self) -> bool {
        (self.0.start, self.0.end) == (0, WHOLE_END)
    }
}

impl Adapter {
    /// Sets a lock, or takes it away.
    pub(super) fn lock(
        &self,
        call: Call,
        handle: FileHandle,
        wanted: LockRequest,
        sleep: bool,
        reply: ReplyEmpty,
    ) {
        let (fs, notifier, ino) = (self.fs.clone(), self.notifier.clone(), call.inode);
        self.work_for(Lane::Control, call.number, async move {
            match set(&fs, handle.0, wanted, &call, sleep).await {
                Ok(fresh) => {
                    if !fresh {
                        // What others wrote before they unlocked must be seen by who has the lock now.
                        forget_pages(&notifier, ino).await;
                    }
                    reply.ok();
                }
                Err(errno) => reply.error(errno),
            }
        });
    }
}

/// Answers a test, which only fcntl(2) has.
pub async fn get(fs: &Fs, call: Call, wanted: LockRequest, reply: ReplyLock) {
    let lock = wanted.0;
    match call.unless_ended(fs, fs.get_lock(lock)).await {
        Ok(Some(held)) => {
            let typ = match held.mode() {
                pb::LockMode::Shared => libc::F_RDLCK,
                pb::LockMode::Exclusive | pb::LockMode::Unlock => libc::F_WRLCK,
            };
            reply.locked(held.start, held.end, typ, held.pid);
        }
        Ok(None) => reply.locked(lock.start, lock.end, libc::F_UNLCK, 0),
        Err(error) => reply.error(lock_errno(&call, &error)),
    }
}

/// Takes, changes or gives up a lock for the thread that calls. False: see [`Fs::set_lock`].
///
/// # Errors
/// As the program gets it.
async fn set(fs: &Fs, handle: u64, wanted: LockRequest, call: &Call, wait: bool) -> Result<bool, Errno> {
    let whole = wanted.is_whole();
    let LockRequest(mut lock) = wanted;
    let kind = if whole { kind_of_call(call.thread).await } else { Some(pb::LockKind::Fcntl) };
    lock.kind = kind.unwrap_or(pb::LockKind::Fcntl) as i32;
    let refused = |error: DfsError| lock_errno(call, &error);
    if kind.is_none() && lock.mode() == pb::LockMode::Unlock {
        // It may have been seen when it locked.
        let flock = pb::FileLock { kind: pb::LockKind::Flock as i32, ..lock };
        fs.set_lock(handle, flock, false, std::future::pending()).await.map_err(refused)?;
    }
    let locked = fs.set_lock(handle, lock, wait, signals::wait_for_signal(call.thread));
    call.unless_ended(fs, locked).await.map_err(refused)
}

/// fcntl(2) and flock(2) have a word of their own for too many locks.
fn lock_errno(call: &Call, error: &DfsError) -> Errno {
    match error.code {
        ErrorCode::Busy => call.counted(Errno::from_i32(libc::ENOLCK)),
        _ => call.errno(error),
    }
}

/// Of the system call that a thread waits in; `None`: that cannot be seen.
async fn kind_of_call(thread: u32) -> Option<pb::LockKind> {
    if thread == 0 {
        return None;
    }
    let kind = tokio::task::spawn_blocking(move || {
        let path = format!("/proc/{thread}/syscall");
        for _ in 0..LOOKS {
            if let Some(call) = call_number(&std::fs::read_to_string(&path).ok()?) {
                return kind_of_number(call);
            }
            std::thread::sleep(BETWEEN_LOOKS);
        }
        None
    });
    let kind = kind.await.ok().flatten();
    if kind.is_none() {
        tracing::debug!(thread, "which call locks a whole file cannot be seen; it counts as fcntl");
    }
    kind
}

/// From the text of proc(5)'s syscall; `None`: the thread runs.
fn call_number(text: &str) -> Option<i64> {
    text.split_whitespace().next()?.parse().ok()
}

fn kind_of_number(call: i64) -> Option<pb::LockKind> {
    if FLOCK_CALLS.contains(&call) {
        Some(pb::LockKind::Flock)
    } else if FCNTL_CALLS.contains(&call) {
        Some(pb::LockKind::Fcntl)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_call_is_the_first_number() {
        let text = format!("{} 0x3 0x2 0x0 0x0 0x0 0x0 0x7ffc 0x7f21\n", libc::SYS_flock);
        assert_eq!(call_number(&text).and_then(kind_of_number), Some(pb::LockKind::Flock));
        let text = format!("{} 0x3 0x7 0x0\n", libc::SYS_fcntl);
        assert_eq!(call_number(&text).and_then(kind_of_number), Some(pb::LockKind::Fcntl));
        assert_eq!(call_number("running\n"), None);
        assert_eq!(call_number("-1 0x7ffc 0x7f21\n").and_then(kind_of_number), None);
    }
}
