//! Locks that a mount takes for its programs, and the append leases that it holds itself.

use dfs_proto::pb::{self, LockKind, LockMode, mount_reply::Result as Reply, mount_request::Op};

use super::Bug;
use super::mount::{FILE_LEN, Mount, Task};
use super::world::{Event, World};

/// A lock on a whole file that was granted.
pub(super) struct Lock {
    pub mode: i32,
}

/// The append lease of one file.
pub(super) enum Lease {
    Asked,
    /// The next append goes to `end`.
    Held {
        end: u64,
        recalled: bool,
    },
}

fn whole(inode: u64, kind: LockKind, mode: i32) -> pb::FileLock {
    pb::FileLock {
        inode,
        owner: if kind == LockKind::Append { inode } else { 5 },
        kind: kind as i32,
        start: 0,
        end: u64::MAX,
        mode,
        ..pb::FileLock::default()
    }
}

impl Mount {
    /// For the hello: what was granted, and not given up.
    pub fn declared(&self) -> Vec<pb::FileLock> {
        let locks = self.locks.iter().map(|(inode, lock)| whole(*inode, LockKind::Fcntl, lock.mode));
        let held = self.leases.iter().filter(|(_, lease)| matches!(lease, Lease::Held { .. }));
        let leases = held.map(|(inode, _)| whole(*inode, LockKind::Append, LockMode::Exclusive as i32));
        locks.chain(leases).collect()
    }

    pub fn asks_for_lock(&self, inode: u64, kind: LockKind) -> bool {
        self.asked.values().any(|asked| match &asked.op {
            Op::SetLock(pb::SetLock { lock: Some(lock), .. }) => {
                lock.inode == inode && lock.kind == kind as i32
            }
            _ => false,
        })
    }
}

impl World {
    pub fn lock_something(&mut self, at: usize, inode: u64) {
        if self.mounts[at].asks_for_lock(inode, LockKind::Fcntl) {
            return;
        }
        let mode = self.rng.pick(&[LockMode::Shared, LockMode::Exclusive, LockMode::Exclusive]);
        let lock = Some(whole(inode, LockKind::Fcntl, mode.unwrap_or(LockMode::Shared) as i32));
        let wait = self.rng.percent(50);
        self.ask(at, Op::SetLock(pb::SetLock { lock, wait }));
    }

    pub fn unlock_something(&mut self, at: usize) {
        let held: Vec<u64> = self.mounts[at].locks.keys().copied().collect();
        if let Some(inode) = self.rng.pick(&held) {
            self.unlock(at, inode);
        }
    }

    pub fn unlock(&mut self, at: usize, inode: u64) {
        if self.mounts[at].asks_for_lock(inode, LockKind::Fcntl) {
            return;
        }
        self.mounts[at].locks.remove(&inode);
        let lock = Some(whole(inode, LockKind::Fcntl, LockMode::Unlock as i32));
        self.ask(at, Op::SetLock(pb::SetLock { lock, wait: false }));
    }

    /// What the mount has from now on.
    pub fn lock_granted(&mut self, at: usize, op: &pb::SetLock, result: &Reply) {
        let (Some(lock), Reply::Lock(_)) = (op.lock, result) else { return };
        if lock.kind != LockKind::Append as i32 && lock.mode != LockMode::Unlock as i32 {
            self.mounts[at].locks.insert(lock.inode, Lock { mode: lock.mode });
        }
    }

    pub fn lock_answered(&mut self, at: usize, op: &pb::SetLock, result: &Reply) {
        let Some(lock) = op.lock else { return };
        let mount = &mut self.mounts[at];
        let append = lock.kind == LockKind::Append as i32;
        match result {
            Reply::Lock(info) if append && lock.mode != LockMode::Unlock as i32 => {
                let end = info.attr.map_or(0, |attr| attr.size);
                mount.leases.insert(lock.inode, Lease::Held { end, recalled: false });
                self.append(at, lock.inode);
            }
            Reply::Error(_) if append => drop(mount.leases.remove(&lock.inode)),
            _ => {}
        }
        if self.is_calm() && !append && lock.mode != LockMode::Unlock as i32 {
            self.unlock(at, lock.inode);
        }
    }

    /// The master gave these away.
    pub fn lose_locks(&mut self, at: usize, lost: &[pb::FileLock]) {
        for lock in lost {
            if self.bug == Some(Bug::MountKeepsLostLocks) {
                continue;
            }
            if lock.kind == LockKind::Append as i32 {
                self.mounts[at].leases.remove(&lock.inode);
                self.fail_writes(at, lock.inode);
            } else {
                self.mounts[at].locks.remove(&lock.inode);
            }
        }
    }

    /// write(2) with O_APPEND.
    pub fn append(&mut self, at: usize, inode: u64) {
        let (length, calm) = (1 + self.rng.below(5) as u64, self.is_calm());
        match self.mounts[at].leases.get_mut(&inode) {
            _ if calm => {}
            None => {
                if !self.mounts[at].opens.contains_key(&inode) {
                    self.ask(at, Op::Open(pb::Open { inode, access: 0 }));
                    return;
                }
                self.mounts[at].leases.insert(inode, Lease::Asked);
                let lock = Some(whole(inode, LockKind::Append, LockMode::Exclusive as i32));
                self.ask(at, Op::SetLock(pb::SetLock { lock, wait: true }));
            }
            Some(Lease::Held { end, recalled: false }) if *end + length < FILE_LEN => {
                let file_offset = *end;
                *end += length;
                let before = self.mounts[at].queues.get(&inode).map_or(0, |q| q.writes.len());
                self.begin_write(at, inode, vec![pb::Run { file_offset, length }], true);
                let after = self.mounts[at].queues.get(&inode).map_or(0, |q| q.writes.len());
                if let Some(Lease::Held { end, .. }) = self.mounts[at].leases.get_mut(&inode)
                    && after <= before
                {
                    // The queue was full.
                    *end = file_offset;
                }
                if self.rng.percent(60) {
                    self.after(5, Event::Mount(at, Task::Append { inode }));
                }
            }
            Some(_) => {}
        }
    }

    /// It is given back when nothing is on its way.
    pub fn recalled(&mut self, at: usize, inode: u64) {
        let idle = self.mounts[at].queues.get(&inode).is_none_or(|queue| queue.writes.is_empty());
        let Some(Lease::Held { recalled, .. }) = self.mounts[at].leases.get_mut(&inode) else { return };
        *recalled = true;
        if idle {
            self.mounts[at].leases.remove(&inode);
            let lock = Some(whole(inode, LockKind::Append, LockMode::Unlock as i32));
            self.ask(at, Op::SetLock(pb::SetLock { lock, wait: false }));
        }
    }
}
