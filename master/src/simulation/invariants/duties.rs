//! No keeper is let go with what is needed: of every chunk that a forgotten keeper had, others that stay have all the copies
//! that are wanted; one that is said to be drained has nothing; and one that is to be emptied gets nothing new.

use std::collections::BTreeMap;

use dfs_proto::ids::{ChunkId, KeeperId};
use dfs_proto::pb::{keeper_down, mount_down, mount_reply::Result as Reply};

use super::{Invariant, Saw};
use crate::core::{Applied, Effect, Row, RowChange, RowKey};
use crate::simulation::world::World;

/// Commands between two looks at who is said to be drained.
const EVERY: u64 = 61;

/// See the module.
#[derive(Default)]
pub(super) struct Duties {
    /// Who had which chunk, before the command that is looked at.
    before: BTreeMap<ChunkId, Vec<KeeperId>>,
}

impl Duties {
    fn forgets_needed(&self, applied: &Applied, world: &World) -> Result<(), String> {
        let want = world.master.settings.copies as usize;
        for change in &applied.changes {
            let RowChange::Delete(RowKey::Keeper(forgotten)) = change else { continue };
            let had = self.before.iter().filter(|(_, keepers)| keepers.contains(forgotten));
            for (chunk, row) in had.filter_map(|(id, _)| Some((id, world.master.rows.chunk(id.0)?))) {
                let stays =
                    |keeper: &&KeeperId| world.master.rows.keeper(keeper.0).is_some_and(|row| !row.draining);
                let left = row.keepers.iter().filter(stays).count();
                if left < want {
                    return Err(format!(
                        "keeper {forgotten} with chunk {chunk} is forgotten; {left} of {want} copies are left"
                    ));
                }
            }
        }
        Ok(())
    }

    fn note(&mut self, changes: &[RowChange]) {
        for change in changes {
            match change {
                RowChange::Put(Row::Chunk(chunk, row)) => {
                    self.before.insert(*chunk, row.keepers.clone());
                }
                RowChange::Delete(RowKey::Chunk(chunk)) => {
                    self.before.remove(chunk);
                }
                _ => {}
            }
        }
    }
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
                self.forgets_needed(applied, world)?;
                self.note(&applied.changes);
                gets_something(applied, world)?;
                if world.commands.is_multiple_of(EVERY) {
                    drained_has_nothing(world)?;
                }
            }
            Saw::Started | Saw::Crashed => {
                let rows = world.master.rows.chunks();
                self.before = rows.map(|(chunk, row)| (ChunkId(chunk), row.keepers.clone())).collect();
            }
            Saw::End => drained_has_nothing(world)?,
            _ => {}
        }
        Ok(())
    }
}
