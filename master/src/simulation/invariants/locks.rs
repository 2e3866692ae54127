//! Locks exclude each other: no two mounts that are in touch with the master hold locks of one file that conflict. (One that
//! was out of touch for 10 s, or did not come back within 10 s of a restart, has lost its own; the first thing that it hears is
//! that.)

use std::collections::BTreeMap;

use dfs_proto::pb::LockMode;

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
            for (inode, lock) in &mount.locks {
                let Some((other, mode)) = held.insert(*inode, (at, lock.mode)) else { continue };
                if lock.mode == LockMode::Exclusive as i32 || mode == LockMode::Exclusive as i32 {
                    return Err(format!("inode {inode}: mounts {other} and {at} both have it"));
                }
            }
        }
        Ok(())
    }
}
