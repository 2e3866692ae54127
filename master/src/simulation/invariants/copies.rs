//! There are as many copies as are wanted, when it has been calm for long: of each chunk on `copies` keepers, or on all that
//! there are, each recorded and good; but for those that misfortune took for good.

use super::{Invariant, Saw};
use crate::simulation::world::World;

/// See the module.
pub(super) struct Copies;

impl Invariant for Copies {
    fn name(&self) -> &'static str {
        "there are as many copies as are wanted"
    }

    fn saw(&mut self, what: &Saw, world: &World) -> Result<(), String> {
        if !matches!(what, Saw::End) {
            return Ok(());
        }
        let want = world.keepers.len().min(world.master.settings.copies as usize);
        for (chunk, row) in world.master.rows.chunks().filter(|(chunk, _)| !world.lost.contains(chunk)) {
            let is_good =
                |id: u64| world.keeper_of(id).is_some_and(|at| world.keepers[at].good(chunk).is_some());
            let good = row.keepers.iter().filter(|keeper| is_good(keeper.0)).count();
            if good != want || row.keepers.len() != want {
                return Err(format!(
                    "chunk {chunk} is recorded on {:?}, {good} of these good; {want} are wanted",
                    row.keepers
                ));
            }
        }
        Ok(())
    }
}
