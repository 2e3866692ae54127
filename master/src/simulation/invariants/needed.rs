//! Nothing that is needed is deleted: when a keeper deletes a chunk as it was told, either no file that is durable needs it
//! (open and nameless ones do), or somebody else has a good copy. (That the record of it is
//! durable when the order leaves, `visible` sees to.)

use super::{Invariant, Saw};
use crate::simulation::world::World;

/// See the module.
pub(super) struct Needed;

impl Invariant for Needed {
    fn name(&self) -> &'static str {
        "nothing that is needed is deleted"
    }

    fn saw(&mut self, what: &Saw, world: &World) -> Result<(), String> {
        let Saw::Deleted { keeper, chunk } = what else { return Ok(()) };
        if world.master.durable.chunk(*chunk).is_none() {
            return Ok(());
        }
        let id = world.keepers[*keeper].id;
        let good = world.keepers.iter().filter(|keeper| keeper.good(*chunk).is_some()).count();
        if good == 0 && !world.lost.contains(chunk) {
            return Err(format!("keeper {id} was told to delete the last copy of chunk {chunk}"));
        }
        Ok(())
    }
}
