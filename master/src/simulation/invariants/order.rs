//! What one mount writes to a file becomes visible in the order in which it was written: nothing while an older write, which its
//! mount has not given up for good, was never there; and nothing older again, but for what the mount asks for anew.

use std::collections::{BTreeMap, BTreeSet};

use dfs_proto::pb::keeper_down;

use super::{Invariant, Saw};
use crate::core::{Effect, Row, RowChange, RowKey};
use crate::simulation::world::World;

/// See the module.
#[derive(Default)]
pub(super) struct Order {
    writes: BTreeMap<u64, (usize, u64)>,
    /// The last that became visible, of each mount and file.
    last: BTreeMap<(usize, u64), u64>,
    /// Those that were never visible, of each mount and file.
    waiting: BTreeMap<(usize, u64), BTreeSet<u64>>,
    seen: BTreeSet<u64>,
    /// Chunks that compaction makes, and those that their mount has given up, and sends again.
    of_no_order: BTreeSet<u64>,
}

impl Invariant for Order {
    fn name(&self) -> &'static str {
        "writes become visible in their order"
    }

    fn saw(&mut self, what: &Saw, world: &World) -> Result<(), String> {
        match what {
            Saw::WriteBegun { mount, inode, write, .. } => {
                self.writes.insert(*write, (*mount, *inode));
                self.waiting.entry((*mount, *inode)).or_default().insert(*write);
            }
            Saw::WritesDropped { mount, inode } => drop(self.waiting.remove(&(*mount, *inode))),
            Saw::BegunAnew { mount, inode, given_up } => {
                self.last.remove(&(*mount, *inode));
                self.of_no_order.extend(*given_up);
            }
            Saw::Left(Effect::ToKeeper(_, keeper_down::Msg::Build(build))) => {
                self.of_no_order.insert(build.chunk);
            }
            Saw::Applied { applied, .. } => {
                let mut now = Vec::new();
                for change in &applied.changes {
                    let chunk = match change {
                        RowChange::Put(Row::Chunk(chunk, _)) => chunk,
                        // All of it may have been covered by what the same command made visible.
                        RowChange::Delete(RowKey::Chunk(chunk)) => chunk,
                        _ => continue,
                    };
                    if !self.seen.insert(chunk.0) || self.of_no_order.contains(&chunk.0) {
                        continue;
                    }
                    let Some(write) = world.chunks.get(&chunk.0).and_then(|c| c.first()).map(|b| b >> 16)
                    else {
                        continue;
                    };
                    let Some(key) = self.writes.get(&write) else { continue };
                    if let Some(last) = self.last.get(key).filter(|last| **last > write) {
                        return Err(format!("{key:?} (mount, inode): write {write} comes after {last}"));
                    }
                    now.push((*key, write));
                }
                // What one command makes visible has no order.
                for (key, write) in &now {
                    let last = self.last.entry(*key).or_default();
                    *last = *write.max(last);
                    self.waiting.get_mut(key).map(|waiting| waiting.remove(write));
                }
                for (key, write) in now {
                    let older = self.waiting.get(&key).and_then(BTreeSet::first);
                    if let Some(older) = older.filter(|older| **older < write) {
                        return Err(format!("{key:?} (mount, inode): write {write} comes before {older}"));
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}
