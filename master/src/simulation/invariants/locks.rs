//! Locks exclude each other: no two mounts that are in touch with the master hold locks of one file that conflict. (One that
//! was out of touch for 10 s, or did not come back within 10 s of a restart, has lost its own; the first thing that it hears is
//! that.)

use std::collections::BTreeMap;

use dfs_proto::pb::{LockKind, LockMode};

use super::{Invariant, Saw};
use crate::simulation::world::World;

/// See the module.
#[derive(Default)]
pub(super) struct Locks;

impl Invariant for Locks {
    fn name(&self) -> &'static str {
        "locks exclude each other"
    }

    fn saw(&mut self, what: &Saw, world: &World) -> Result<(), String> {
        if !matches!(
            what,
            Saw::Answered { .. } | Saw::Applied { command: crate::core::Command::MountHello { .. }, .. }
        ) {
            return Ok(());
        }
        let mut held: BTreeMap<u64, (usize, i32)> = BTreeMap::new();
        let epoch = world.master.settings.master_epoch;
        for (at, mount) in world.mounts.iter().enumerate() {
            // Welcomed by this master on a stream that both sides have.
            let whole = mount.link.is_some_and(|link| !world.links[link].cut);
            if !mount.alive || !mount.welcomed || mount.epoch != epoch || !whole {
                continue;
            }
            // The answer to one that is asked for may be on its way: others may know of it before.
            let known = |inode: &u64| !mount.asks_for_lock(*inode, LockKind::Fcntl);
            for (inode, lock) in mount.locks.iter().filter(|(inode, _)| known(inode)) {
                let Some((other, mode)) = held.insert(*inode, (at, lock.mode)) else { continue };
                if lock.mode == LockMode::Exclusive as i32 || mode == LockMode::Exclusive as i32 {
                    return Err(format!("inode {inode}: mounts {other} and {at} both have it"));
                }
            }
        }
        Ok(())
    }
}
