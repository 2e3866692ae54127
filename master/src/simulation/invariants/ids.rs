//! Ids are never used again: a chunk's is given out once, an inode's number and a keeper's id belong to one for ever.

use std::collections::BTreeSet;

use dfs_proto::pb::{keeper_down, mount_down, mount_reply::Result as Reply};

use super::{Invariant, Saw};
use crate::core::{Effect, Row, RowChange};
use crate::simulation::world::World;

/// See the module.
#[derive(Default)]
pub(super) struct Ids {
    chunks: BTreeSet<u64>,
    /// That were durable, and so may be known to somebody.
    inodes: BTreeSet<u64>,
    gone: BTreeSet<u64>,
}

impl Invariant for Ids {
    fn name(&self) -> &'static str {
        "ids are never used again"
    }

    fn saw(&mut self, what: &Saw, world: &World) -> Result<(), String> {
        match what {
            Saw::Left(effect) => {
                let chunk = match effect {
                    Effect::ToMount(_, mount_down::Msg::Reply(reply)) => match &reply.result {
                        Some(Reply::Placed(placed)) => placed.chunk,
                        _ => return Ok(()),
                    },
                    Effect::ToKeeper(_, keeper_down::Msg::Build(build)) => build.chunk,
                    _ => return Ok(()),
                };
                if !self.chunks.insert(chunk) {
                    return Err(format!("chunk {chunk} is given out twice"));
                }
            }
            Saw::Committed(changes) => {
                for change in *changes {
                    match change {
                        RowChange::Put(Row::Inode(inode, _)) => {
                            if self.gone.contains(&inode.0) {
                                return Err(format!("inode {inode} was gone, and is there again"));
                            }
                            self.inodes.insert(inode.0);
                        }
                        RowChange::Delete(crate::core::RowKey::Inode(inode)) => {
                            self.gone.insert(inode.0);
                        }
                        _ => {}
                    }
                }
            }
            Saw::End => {
                let ids: BTreeSet<u64> =
                    world.keepers.iter().map(|keeper| keeper.id).filter(|id| *id != 0).collect();
                let known = world.keepers.iter().filter(|keeper| keeper.id != 0).count();
                if ids.len() < known {
                    return Err("two keepers have one id".to_owned());
                }
            }
            _ => {}
        }
        Ok(())
    }
}
