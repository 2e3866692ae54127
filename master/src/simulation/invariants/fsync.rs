//! fsync means stable storage: when it is answered, each chunk that the file had when it was asked for, and still has, is
//! synced on a keeper at least.

use std::collections::BTreeMap;

use dfs_proto::pb::{mount_down, mount_reply::Result as Reply, mount_request::Op};

use super::{Invariant, Saw};
use crate::core::{Command, Effect};
use crate::simulation::world::World;

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
                    let chunks = world.master.rows.extents(op.inode).map(|extent| extent.chunk.0).collect();
                    self.asked.insert((session.0, request.id), chunks);
                }
            }
            Saw::Left(Effect::ToMount(session, mount_down::Msg::Reply(reply))) => {
                let Some(chunks) = self.asked.remove(&(session.0, reply.id)) else { return Ok(()) };
                if !matches!(reply.result, Some(Reply::Empty(_))) {
                    return Ok(());
                }
                for chunk in chunks {
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
