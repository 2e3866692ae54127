//! Everything is answered: when it has been calm for long, no mount waits for anything, and nothing is on its way.

use super::{Invariant, Saw};
use crate::simulation::world::World;

/// See the module.
pub(super) struct Answered;

impl Invariant for Answered {
    fn name(&self) -> &'static str {
        "everything is answered"
    }

    fn saw(&mut self, what: &Saw, world: &World) -> Result<(), String> {
        if !matches!(what, Saw::End) {
            return Ok(());
        }
        for (at, mount) in world.mounts.iter().enumerate().filter(|(_, mount)| mount.alive) {
            if !mount.welcomed {
                return Err(format!("mount {at} has no session"));
            }
            if let Some((id, asked)) =
                mount.asked.iter().find(|(_, asked)| world.now_ms - asked.at_ms > 30_000)
            {
                return Err(format!("mount {at}: request {id} is not answered: {:?}", asked.op));
            }
            if let Some((inode, queue)) = mount.queues.iter().find(|(_, queue)| !queue.writes.is_empty()) {
                return Err(format!("mount {at}: writes to inode {inode} have no end: {:?}", queue.writes));
            }
        }
        Ok(())
    }
}
