//! Locks that programs of this mount hold, and append leases that it holds itself, as far as is known: to be declared
//! when the session is resumed. Pure.
//!
//! What must hold: it never says more than the master granted: what is given up is forgotten when that is asked,
//! what is granted is noted before anybody is told. A lock that was lost stays lost until its owner has closed the
//! file; an append lease that was lost is simply not there any more.

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

/// (inode, kind, owner)
type Key = (u64, i32, u64);

/// See the module.
#[derive(Default)]
pub(super) struct HeldLocks(BTreeMap<Key, Held>);

fn key(lock: &pb::FileLock) -> Key {
    (lock.inode, lock.kind, lock.owner)
}

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
        let held = self.0.entry(key(lock)).or_default();
        held.pid = lock.pid;
        held.handles.insert(handle);
    }

    /// What is given up counts as given up from now on.
    pub fn asked(&mut self, lock: &pb::FileLock) {
        let Some(held) = self.0.get_mut(&key(lock)) else { return };
        match mode(lock) {
            None => held.ranges.set(lock.start, lock.end, None),
            Some(LockMode::Shared) => held.ranges.weaken(lock.start, lock.end),
            // Another mode of a flock may be had only by giving up the one before.
            Some(LockMode::Exclusive) if lock.kind() == pb::LockKind::Flock => {
                if !held.ranges.is_exclusive(lock.start, lock.end) {
                    held.ranges.set(lock.start, lock.end, None);
                }
            }
            Some(LockMode::Exclusive) => {}
        }
    }

    /// The master said yes.
    pub fn granted(&mut self, lock: &pb::FileLock) {
        if let Some(held) = self.0.get_mut(&key(lock)) {
            held.ranges.set(lock.start, lock.end, mode(lock));
        }
    }

    /// The owners, each with the kind of its locks, that have asked for a lock since they last closed the file; of
    /// these the ones that `which` chooses by lock and handles.
    pub fn owners(
        &self,
        inode: u64,
        which: impl Fn(pb::LockKind, u64, &BTreeSet<u64>) -> bool,
    ) -> Vec<(pb::LockKind, u64)> {
        let of_inode = self.0.range((inode, i32::MIN, 0)..=(inode, i32::MAX, u64::MAX));
        let kinds = of_inode.filter_map(|((_, kind, owner), held)| {
            let kind = pb::LockKind::try_from(*kind).ok()?;
            (kind != pb::LockKind::Append && which(kind, *owner, &held.handles)).then_some((kind, *owner))
        });
        kinds.collect()
    }

    /// Has anybody asked for a lock on this inode and not closed the file since?
    pub fn is_any(&self, inode: u64) -> bool {
        self.0.range((inode, i32::MIN, 0)..=(inode, i32::MAX, u64::MAX)).next().is_some()
    }

    /// Is there anything of this lock?
    pub fn holds(&self, lock: &pb::FileLock) -> bool {
        self.0.get(&key(lock)).is_some_and(|held| !held.lost && !held.ranges.is_empty())
    }

    /// Does the owner hold any of these bytes exclusively?
    pub fn is_exclusive(&self, lock: &pb::FileLock) -> bool {
        let held = self.0.get(&key(lock));
        held.is_some_and(|held| held.ranges.is_exclusive(lock.start, lock.end))
    }

    /// The owner has closed the file.
    pub fn forget(&mut self, lock: &pb::FileLock) {
        self.0.remove(&key(lock));
    }

    /// For the hello.
    pub fn declare(&self) -> Vec<pb::FileLock> {
        let whole = self.0.iter().filter(|(_, held)| !held.lost);
        let ranges = whole.flat_map(|(&(inode, kind, owner), held)| {
            held.ranges.iter().map(move |range| pb::FileLock {
                inode,
                owner,
                kind,
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
            if lock.kind() == pb::LockKind::Append {
                self.forget(lock);
            } else if let Some(held) = self.0.get_mut(&key(lock)) {
                held.lost = true;
            }
        }
    }

    /// Did this owner lose a lock on this inode?
    pub fn is_lost(&self, lock: &pb::FileLock) -> bool {
        self.0.get(&key(lock)).is_some_and(|held| held.lost)
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
        pb::FileLock { inode: 1, owner: 2, kind: 0, start, end, mode: mode as i32, pid: 3 }
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
    fn kinds_do_not_mix_and_a_flock_is_given_up_to_become_exclusive() {
        let mut held = HeldLocks::default();
        let fcntl = lock(pb::LockMode::Shared, 0, 9);
        let flock = pb::FileLock { kind: pb::LockKind::Flock as i32, ..fcntl };
        for lock in [&fcntl, &flock] {
            held.begin(lock, 5);
            held.granted(lock);
        }
        assert_eq!(held.owners(1, |_, _, handles| handles.contains(&5)).len(), 2);
        held.asked(&pb::FileLock { mode: pb::LockMode::Exclusive as i32, ..flock });
        assert_eq!(held.declare(), [fcntl]);
    }

    #[test]
    fn a_lost_lease_can_be_had_again() {
        let mut held = HeldLocks::default();
        let lease = pb::FileLock { kind: pb::LockKind::Append as i32, ..lock(pb::LockMode::Exclusive, 0, 9) };
        held.begin(&lease, 0);
        held.granted(&lease);
        assert!(held.holds(&lease) && held.owners(1, |_, _, _| true).is_empty());
        held.lose(&[lease]);
        assert!(!held.holds(&lease) && !held.is_lost(&lease));
        held.begin(&lease, 0);
        held.granted(&lease);
        assert_eq!(held.declare(), [lease]);
    }

    #[test]
    fn a_lost_lock_stays_lost_until_the_file_is_closed() {
        let mut held = HeldLocks::default();
        let whole = lock(pb::LockMode::Exclusive, 0, 9);
        held.begin(&whole, 5);
        held.granted(&whole);
        held.lose(&[whole]);
        assert!(held.is_lost(&whole) && held.is_lost_through(5) && held.declare().is_empty());
        held.granted(&whole);
        assert!(held.is_lost(&whole));
        held.forget(&whole);
        assert!(!held.is_lost(&whole) && !held.is_lost_through(5));
    }
}
