//! fsync means stable storage: when it is answered, each chunk that the file had when it was asked for, and still has, is
//! synced on a keeper at least; but for one whose synced copy has gone bad without the master's knowing.

use std::collections::BTreeMap;

use dfs_proto::ids::KeeperId;
use dfs_proto::pb::{mount_down, mount_reply::Result as Reply, mount_request::Op};

use super::{Invariant, Saw};
use crate::core::{Command, Effect};
use crate::simulation::world::World;

/// Has a copy gone bad that the master still counts?
fn rots_unknown(chunk: u64, world: &World) -> bool {
    let Some(at) = world.rotted.get(&chunk) else { return false };
    let keeper = KeeperId(world.keepers[*at].id);
    world.master.rows.chunk(chunk).is_some_and(|row| row.keepers.contains(&keeper))
}

/// See the module.
#[derive(Default)]
pub(super) struct Fsync {
    /// By session and request.
    asked: BTreeMap<(u64, u64), Vec<u64>>,
}

impl Invariant for Fsync {
    fn name(&self) -> &'static str {
        "fsync means stable storage"
    }

    fn saw(&mut self, what: &Saw, world: &World) -> Result<(), String> {
        match what {
            Saw::Applied { command: Command::Mount { session, request }, .. } => {
                if let Some(Op::Fsync(op)) = &request.op {
                    let chunks = world.master.rows.extents(op.inode).map(|extent| extent.chunk.0);
                    let chunks = chunks.filter(|chunk| !rots_unknown(*chunk, world)).collect();
                    self.asked.insert((session.0, request.id), chunks);
                }
            }
            Saw::Left(Effect::ToMount(session, mount_down::Msg::Reply(reply))) => {
                let Some(chunks) = self.asked.remove(&(session.0, reply.id)) else { return Ok(()) };
                if !matches!(reply.result, Some(Reply::Empty(_))) {
                    return Ok(());
                }
                for chunk in chunks.into_iter().filter(|chunk| !rots_unknown(*chunk, world)) {
                    let synced = |keeper: &crate::simulation::keeper::Keeper| {
                        keeper.disk.get(&chunk).is_some_and(|copy| copy.synced)
                    };
                    let needed = world.master.durable.chunk(chunk).is_some();
                    if needed && !world.lost.contains(&chunk) && !world.keepers.iter().any(synced) {
                        return Err(format!("chunk {chunk} is synced nowhere"));
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}
