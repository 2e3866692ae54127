//! Garbage goes: when it has been calm for long, keepers have nothing but copies that are recorded, and nothing is left of
//! files without a name that nobody holds and that are not in the trash.

use super::{Invariant, Saw};
use crate::simulation::world::World;

/// See the module.
pub(super) struct Garbage;

impl Invariant for Garbage {
    fn name(&self) -> &'static str {
        "garbage goes"
    }

    fn saw(&mut self, what: &Saw, world: &World) -> Result<(), String> {
        if !matches!(what, Saw::End) {
            return Ok(());
        }
        for keeper in &world.keepers {
            for chunk in keeper.disk.keys() {
                let row = world.master.rows.chunk(*chunk);
                if !row.is_some_and(|row| row.keepers.iter().any(|k| k.0 == keeper.id)) {
                    return Err(format!("keeper {} has chunk {chunk}, recorded: {row:?}", keeper.id));
                }
            }
        }
        let trashed = |inode: u64| world.master.rows.trash().any(|(entry, _)| entry == inode);
        let held = |inode: u64| {
            trashed(inode) || world.mounts.iter().any(|mount| mount.alive && mount.opens.contains_key(&inode))
        };
        match world.master.rows.inodes().find(|(inode, row)| row.nlink == 0 && !held(*inode)) {
            Some((inode, _)) => Err(format!("inode {inode} has no name, and nobody holds it")),
            None => Ok(()),
        }
    }
}
