//! No keeper is let go with what is needed: of every chunk that a forgotten keeper had, others that stay have all the copies
//! that are wanted; one that is said to be drained has nothing; and one that is to be emptied gets nothing new.

use dfs_proto::ids::KeeperId;
use dfs_proto::pb::{keeper_down, mount_down, mount_reply::Result as Reply};

use super::{Invariant, Saw};
use crate::core::{Applied, Effect, Row, RowChange, RowKey};
use crate::simulation::world::World;

/// Commands between two looks at who is said to be drained.
const EVERY: u64 = 61;

/// See the module.
pub(super) struct Duties;

fn forgets_needed(applied: &Applied, world: &World) -> Result<(), String> {
    let forgets = |change: &RowChange| matches!(change, RowChange::Delete(RowKey::Keeper(_)));
    if !applied.changes.iter().any(forgets) {
        return Ok(());
    }
    let want = world.master.settings.copies as usize;
    for change in &applied.changes {
        let RowChange::Put(Row::Chunk(chunk, row)) = change else { continue };
        let stays = |keeper: &&KeeperId| world.master.rows.keeper(keeper.0).is_some_and(|row| !row.draining);
        let left = row.keepers.iter().filter(stays).count();
        if left < want {
            return Err(format!(
                "a keeper with chunk {chunk} is forgotten; {left} of {want} copies are left"
            ));
        }
    }
    Ok(())
}

fn gets_something(applied: &Applied, world: &World) -> Result<(), String> {
    for effect in &applied.effects {
        let grant = match effect {
            Effect::ToMount(_, mount_down::Msg::Reply(reply)) => match &reply.result {
                Some(Reply::Placed(placed)) => &placed.grant,
                _ => continue,
            },
            Effect::ToKeeper(_, keeper_down::Msg::Push(push)) => &push.grant,
            _ => continue,
        };
        let is_draining = |id: u64| world.master.rows.keeper(id).is_some_and(|row| row.draining);
        let named = grant.iter().flat_map(|grant| &grant.keepers).map(|keeper| keeper.keeper);
        if let Some(keeper) = named.into_iter().find(|id| is_draining(*id)) {
            return Err(format!("keeper {keeper} is to be emptied, and gets a new chunk"));
        }
    }
    Ok(())
}

fn drained_has_nothing(world: &World) -> Result<(), String> {
    let Some(state) = &world.master.state else { return Ok(()) };
    for keeper in state.keepers(world.now()).into_iter().filter(|keeper| keeper.drained) {
        let id = KeeperId(keeper.keeper);
        if let Some((chunk, _)) = world.master.rows.chunks().find(|(_, row)| row.keepers.contains(&id)) {
            return Err(format!("keeper {id} is said to be drained, and has chunk {chunk}"));
        }
    }
    Ok(())
}

impl Invariant for Duties {
    fn name(&self) -> &'static str {
        "no keeper is let go with what is needed"
    }

    fn saw(&mut self, what: &Saw, world: &World) -> Result<(), String> {
        match what {
            Saw::Applied { applied, .. } => {
                forgets_needed(applied, world)?;
                gets_something(applied, world)?;
                if world.commands.is_multiple_of(EVERY) {
                    drained_has_nothing(world)?;
                }
            }
            Saw::End => drained_has_nothing(world)?,
            _ => {}
        }
        Ok(())
    }
}
