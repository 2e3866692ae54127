//! Copies go to keepers that have none: never to the source itself, nor to one that is recorded as having the chunk; and they
//! come from one that is.

use dfs_proto::ids::KeeperId;
use dfs_proto::pb::keeper_down;

use super::{Invariant, Saw};
use crate::core::Effect;
use crate::simulation::world::World;

/// See the module.
pub(super) struct Orders;

impl Invariant for Orders {
    fn name(&self) -> &'static str {
        "copies go to keepers that have none"
    }

    fn saw(&mut self, what: &Saw, world: &World) -> Result<(), String> {
        let Saw::Applied { applied, .. } = what else { return Ok(()) };
        for effect in &applied.effects {
            let Effect::ToKeeper(source, keeper_down::Msg::Push(push)) = effect else { continue };
            let to = push
                .grant
                .as_ref()
                .and_then(|grant| grant.keepers.first())
                .map(|keeper| KeeperId(keeper.keeper));
            let Some(to) = to.filter(|to| to != source) else {
                return Err(format!("keeper {source} is to copy chunk {} to {to:?}", push.chunk));
            };
            let Some(row) = world.master.rows.chunk(push.chunk) else { continue };
            if row.keepers.contains(&to) || !row.keepers.contains(source) {
                return Err(format!(
                    "keeper {source} is to copy chunk {} to keeper {to}; it is recorded on {:?}",
                    push.chunk, row.keepers
                ));
            }
        }
        Ok(())
    }
}
