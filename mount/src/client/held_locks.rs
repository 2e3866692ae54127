//! Locks that programs of this mount hold, as far as is known: to be declared when the session is resumed.
//! Pure.
//!
//! What must hold: it never says more than the master granted: what is given up is forgotten when that is asked,
//! what is granted is noted before anybody is told. A lock that was lost stays lost until its owner has closed the
//! file.

use std::collections::{BTreeMap, BTreeSet};

use dfs_proto::lock_ranges::{LockMode, LockRanges};
use dfs_proto::pb;

#[derive(Default)]
struct Held {
    ranges: LockRanges,
    pid: u32,
    /// Handles that it was asked through.
    handles: BTreeSet<u64>,
    lost: bool,
}

/// By (inode, owner). See the module.
#[derive(Default)]
pub(super) struct HeldLocks(BTreeMap<(u64, u64), Held>);

fn mode(lock: &pb::FileLock) -> Option<LockMode> {
    match lock.mode() {
        pb::LockMode::Unlock => None,
        pb::LockMode::Shared => Some(LockMode::Shared),
        pb::LockMode::Exclusive => Some(LockMode::Exclusive),
    }
}

impl HeldLocks {
    /// A handle is about to be used to lock.
    pub fn begin(&mut self, lock: &pb::FileLock, handle: u64) {
        let held = self.0.entry((lock.inode, lock.owner)).or_default();
        held.pid = lock.pid;
        held.handles.insert(handle);
    }

    /// What is given up counts as given up from now on.
    pub fn asked(&mut self, lock: &pb::FileLock) {
        let Some(held) = self.0.get_mut(&(lock.inode, lock.owner)) else { return };
        match mode(lock) {
            None => held.ranges.set(lock.start, lock.end, None),
            Some(LockMode::Shared) => held.ranges.weaken(lock.start, lock.end),
            Some(LockMode::Exclusive) => {}
        }
    }

    /// The master said yes.
    pub fn granted(&mut self, lock: &pb::FileLock) {
        if let Some(held) = self.0.get_mut(&(lock.inode, lock.owner)) {
            held.ranges.set(lock.start, lock.end, mode(lock));
        }
    }

    /// Has the owner, or the handle, ever asked for a lock since it last closed the file?
    pub fn owners(&self, inode: u64, which: impl Fn(u64, &BTreeSet<u64>) -> bool) -> Vec<u64> {
        let of_inode = self.0.range((inode, 0)..=(inode, u64::MAX));
        of_inode.filter(|((_, owner), held)| which(*owner, &held.handles)).map(|((_, o), _)| *o).collect()
    }

    /// Does the owner hold any of these bytes exclusively?
    pub fn is_exclusive(&self, lock: &pb::FileLock) -> bool {
        let held = self.0.get(&(lock.inode, lock.owner));
        held.is_some_and(|held| held.ranges.is_exclusive(lock.start, lock.end))
    }

    /// The owner has closed the file.
    pub fn forget(&mut self, inode: u64, owner: u64) {
        self.0.remove(&(inode, owner));
    }

    /// For the hello.
    pub fn declare(&self) -> Vec<pb::FileLock> {
        let whole = self.0.iter().filter(|(_, held)| !held.lost);
        let ranges = whole.flat_map(|(&(inode, owner), held)| {
            held.ranges.iter().map(move |range| pb::FileLock {
                inode,
                owner,
                flock: false,
                start: range.start,
                end: range.end,
                mode: match range.mode {
                    LockMode::Shared => pb::LockMode::Shared as i32,
                    LockMode::Exclusive => pb::LockMode::Exclusive as i32,
                },
                pid: held.pid,
            })
        });
        ranges.collect()
    }

    /// The master gave these away.
    pub fn lose(&mut self, lost: &[pb::FileLock]) {
        for lock in lost {
            if let Some(held) = self.0.get_mut(&(lock.inode, lock.owner)) {
                held.lost = true;
            }
        }
    }

    /// Did this owner lose a lock on this inode?
    pub fn is_lost(&self, inode: u64, owner: u64) -> bool {
        self.0.get(&(inode, owner)).is_some_and(|held| held.lost)
    }

    /// Was a lock lost that was taken through this handle?
    pub fn is_lost_through(&self, handle: u64) -> bool {
        self.0.values().any(|held| held.lost && held.handles.contains(&handle))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(mode: pb::LockMode, start: u64, end: u64) -> pb::FileLock {
        pb::FileLock { inode: 1, owner: 2, flock: false, start, end, mode: mode as i32, pid: 3 }
    }

    #[test]
    fn what_is_declared_was_granted_and_not_given_up() {
        let mut held = HeldLocks::default();
        let whole = lock(pb::LockMode::Exclusive, 0, 9);
        held.begin(&whole, 5);
        held.asked(&whole);
        assert!(held.declare().is_empty());
        held.granted(&whole);
        assert_eq!(held.declare(), [whole]);
        held.asked(&lock(pb::LockMode::Shared, 0, 4));
        held.asked(&lock(pb::LockMode::Unlock, 5, 9));
        assert_eq!(held.declare(), [lock(pb::LockMode::Shared, 0, 4)]);
    }

    #[test]
    fn a_lost_lock_stays_lost_until_the_file_is_closed() {
        let mut held = HeldLocks::default();
        let whole = lock(pb::LockMode::Exclusive, 0, 9);
        held.begin(&whole, 5);
        held.granted(&whole);
        held.lose(&[whole]);
        assert!(held.is_lost(1, 2) && held.is_lost_through(5) && held.declare().is_empty());
        held.granted(&whole);
        assert!(held.is_lost(1, 2));
        held.forget(1, 2);
        assert!(!held.is_lost(1, 2) && !held.is_lost_through(5));
    }
}
