//! Nothing that is needed is deleted: when a keeper deletes a chunk as it was told, either no file that is durable needs it
//! (open and nameless ones do), or others have good copies: as many as are always to be, if so many are known.

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
        let Some(row) = world.master.durable.chunk(*chunk) else { return Ok(()) };
        let id = world.keepers[*keeper].id;
        if row.keepers.iter().any(|keeper| keeper.0 == id) {
            return Err(format!("keeper {id} was told to delete chunk {chunk}, which counts on it"));
        }
        let good = world.keepers.iter().filter(|keeper| keeper.good(*chunk).is_some()).count();
        if good == 0 && !world.lost.contains(chunk) {
            return Err(format!("keeper {id} was told to delete the last copy of chunk {chunk}"));
        }
        Ok(())
    }
}
