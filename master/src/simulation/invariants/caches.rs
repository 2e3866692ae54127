//! What a mount trusts is so: when a change is answered, no other mount trusts anything older of what was changed.

use std::collections::BTreeMap;

use bytes::Bytes;
use dfs_proto::pb::{mount_down, mount_reply::Result as Reply};

use super::once::changes_once;
use super::{Invariant, Saw};
use crate::core::{Command, Effect, Row, RowChange, RowKey};
use crate::simulation::world::World;

/// What a request changed: inodes, and names in directories.
#[derive(Clone, Default)]
struct Changed {
    step: u64,
    inodes: Vec<u64>,
    names: Vec<(u64, Bytes)>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Caches {
    by_request: BTreeMap<(u64, u64), Changed>,
}

fn changed(changes: &[RowChange], step: u64) -> Changed {
    let mut changed = Changed { step, ..Changed::default() };
    for change in changes {
        match change {
            RowChange::Put(Row::Inode(inode, _)) => changed.inodes.push(inode.0),
            RowChange::Delete(RowKey::Inode(inode)) => changed.inodes.push(inode.0),
            RowChange::Put(Row::Dentry { parent, name, .. })
            | RowChange::Delete(RowKey::Dentry { parent, name }) => {
                changed.names.push((parent.0, Bytes::copy_from_slice(name)));
            }
            _ => {}
        }
    }
    changed
}

impl Invariant for Caches {
    fn name(&self) -> &'static str {
        "what a mount trusts is so"
    }

    fn saw(&mut self, what: &Saw, world: &World) -> Result<(), String> {
        match what {
            Saw::Applied { command: Command::Mount { session, request }, applied } => {
                if !request.op.as_ref().is_some_and(changes_once) {
                    return Ok(());
                }
                let changed = changed(&applied.changes, world.step);
                if !changed.inodes.is_empty() || !changed.names.is_empty() {
                    self.by_request.insert((session.0, request.id), changed);
                }
            }
            Saw::Crashed => self.by_request.clear(),
            Saw::Left(Effect::ToMount(session, mount_down::Msg::Reply(reply))) => {
                let Some(changed) = self.by_request.remove(&(session.0, reply.id)) else { return Ok(()) };
                if matches!(reply.result, Some(Reply::Error(_))) {
                    return Ok(());
                }
                for (at, mount) in world.mounts.iter().enumerate().filter(|(_, m)| m.session != session.0) {
                    let old = |cached: &crate::simulation::cache::Cached| {
                        cached.stamp < changed.step && cached.until_ms > world.now_ms
                    };
                    if let Some(inode) =
                        changed.inodes.iter().find(|i| mount.cache.attrs.get(i).is_some_and(old))
                    {
                        return Err(format!("mount {at} trusts old attributes of inode {inode}"));
                    }
                    if let Some(name) =
                        changed.names.iter().find(|n| mount.cache.names.get(n).is_some_and(old))
                    {
                        return Err(format!("mount {at} trusts an old name: {name:?}"));
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}
