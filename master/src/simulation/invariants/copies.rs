//! There are as many copies as are wanted, when it has been calm for long: of each chunk on `copies` keepers, or on all that
//! there are, each recorded and good, and none on those that are being emptied, if there are enough others; but for chunks that
//! misfortune took for good.

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
        let stays = |id: u64| world.master.rows.keeper(id).is_some_and(|row| !row.draining);
        let staying = world.keepers.iter().filter(|keeper| keeper.up && stays(keeper.id)).count();
        let copies = world.master.settings.copies as usize;
        let want = staying.min(copies);
        for (chunk, row) in world.master.rows.chunks().filter(|(chunk, _)| !world.lost.contains(chunk)) {
            let is_good =
                |id: u64| world.keeper_of(id).is_some_and(|at| world.keepers[at].good(chunk).is_some());
            let here = row.keepers.iter().filter(|keeper| stays(keeper.0));
            let good = here.clone().filter(|keeper| is_good(keeper.0)).count();
            let leaving = row.keepers.len() - here.clone().count();
            if good != want || here.count() != want || staying >= copies && leaving > 0 {
                return Err(format!(
                    "chunk {chunk} is recorded on {:?}, {good} of these good and staying; {want} are wanted",
                    row.keepers
                ));
            }
        }
        Ok(())
    }
}
