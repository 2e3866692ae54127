//! A change is done once: asked again after a break, or after a crash of the master, it is answered and not done again.

use std::collections::BTreeMap;

use dfs_proto::pb::mount_request::Op;

use super::{Invariant, Saw};
use crate::core::{Command, Row, RowChange, RowKey};
use crate::simulation::world::World;

/// See the module.
#[derive(Default)]
pub(super) struct Once {
    /// Requests that changed something, by session and id; true: that is durable.
    done: BTreeMap<(u64, u64), bool>,
    /// Those of the batches that are not durable, oldest first, with how many changes were applied until then.
    applied: u64,
    durable: u64,
    pending: Vec<(u64, (u64, u64))>,
}

/// Are there changes that doing it twice would make twice?
fn changes(op: &Op, rows: &[RowChange]) -> bool {
    let names = |change: &RowChange| {
        matches!(
            change,
            RowChange::Put(Row::Dentry { .. } | Row::Inode(..) | Row::Extent(..) | Row::Xattr { .. })
                | RowChange::Delete(RowKey::Dentry { .. } | RowKey::Extent { .. } | RowKey::Xattr { .. })
        )
    };
    changes_once(op) && rows.iter().any(names)
}

/// One of those whose answer waits for everybody, and is remembered.
pub(super) fn changes_once(op: &Op) -> bool {
    matches!(
        op,
        Op::Setattr(_)
            | Op::Create(_)
            | Op::Mkdir(_)
            | Op::Link(_)
            | Op::Unlink(_)
            | Op::Rmdir(_)
            | Op::Rename(_)
            | Op::Setxattr(_)
            | Op::Fallocate(_)
            | Op::CopyRange(_)
    )
}

impl Invariant for Once {
    fn name(&self) -> &'static str {
        "a change is done once"
    }

    fn saw(&mut self, what: &Saw, _world: &World) -> Result<(), String> {
        match what {
            Saw::Applied { command, applied } => {
                self.applied += applied.changes.len() as u64;
                let Command::Mount { session, request } = command else { return Ok(()) };
                let Some(op) = request.op.as_ref().filter(|op| changes(op, &applied.changes)) else {
                    return Ok(());
                };
                let key = (session.0, request.id);
                if self.done.insert(key, false).is_some() {
                    return Err(format!(
                        "request {} of session {session} was done twice: {op:?}",
                        request.id
                    ));
                }
                self.pending.push((self.applied, key));
            }
            Saw::Committed(changes) => {
                self.durable += changes.len() as u64;
                let durable = self.durable;
                self.pending.retain(|(until, _)| *until > durable);
            }
            // What was not durable never was. What was in flight may be, so nothing is said of it.
            Saw::Crashed => {
                for (_, key) in self.pending.drain(..) {
                    self.done.remove(&key);
                }
                self.durable = self.applied;
            }
            _ => {}
        }
        Ok(())
    }
}
