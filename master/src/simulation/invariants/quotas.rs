//! Quotas count what is there, and hold: what a quota says is used is what a walk through the rows finds below its directory,
//! each inode once; and nothing makes that more than the limit, but for uploads that were let in before it was set, and for
//! one that took no room when it was let in: what it was to replace may have been cut off since.

use std::collections::{BTreeMap, BTreeSet};

use dfs_proto::ids::InodeNo;
use dfs_proto::pb::{mount_down, mount_reply::Result as Reply};

use super::{Invariant, Saw};
use crate::core::row::QuotaRow;
use crate::core::{Effect, Row, RowChange, RowKey};
use crate::simulation::world::World;

/// Commands between two comparisons with what the master says.
const EVERY: u64 = 41;

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Used {
    bytes: u64,
    inodes: u64,
}

struct Known {
    limits: QuotaRow,
    used: Used,
    /// Chunks that were placed before the limits were set may still come in.
    old_chunks: u64,
    /// Since then: the last chunk that was placed before, and the bytes from then on.
    history: Vec<(u64, u64)>,
}

impl Known {
    fn new(limits: QuotaRow, used: Used, last_chunk: u64) -> Known {
        Known { limits, used, old_chunks: last_chunk, history: vec![(last_chunk, used.bytes)] }
    }

    /// The most bytes that there were since a chunk was placed.
    fn most_since(&self, chunk: u64) -> u64 {
        let newer = self.history.iter().rev().take_while(|(placed, _)| *placed >= chunk).count();
        let from = (self.history.len() - newer).saturating_sub(1);
        self.history[from..].iter().map(|(_, bytes)| *bytes).max().unwrap_or(0)
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Quotas {
    known: BTreeMap<u64, Known>,
    last_chunk: u64,
}

/// What is below a directory.
fn count(directory: u64, world: &World) -> Used {
    let rows = &world.master.rows;
    let mut used = Used::default();
    let mut seen = BTreeSet::new();
    let mut left = vec![directory];
    while let Some(parent) = left.pop() {
        for inode in rows.names_in(parent) {
            if !seen.insert(inode) {
                continue;
            }
            used.inodes += 1;
            let bytes: u64 = rows.extents(inode).map(|extent| extent.length).sum();
            used.bytes += bytes.div_ceil(512) * 512;
            left.push(inode);
        }
    }
    used
}

impl Quotas {
    fn check_limits(&mut self, changes: &[RowChange], world: &World) -> Result<(), String> {
        // That become visible.
        let oldest_chunk = changes.iter().filter_map(|change| match change {
            RowChange::Put(Row::Chunk(chunk, _)) => Some(chunk.0),
            _ => None,
        });
        let oldest_chunk = oldest_chunk.min().unwrap_or(u64::MAX);
        self.known.retain(|inode, _| world.master.rows.quota(*inode).is_some());
        for (inode, limits) in world.master.rows.quotas() {
            let used = count(inode, world);
            let fresh = Known::new(limits, used, self.last_chunk);
            let known = self.known.entry(inode).or_insert(fresh);
            if known.limits != limits {
                *known = Known::new(limits, used, self.last_chunk);
                continue;
            }
            let before = std::mem::replace(&mut known.used, used);
            let is_over = |limit: Option<u64>, before: u64, used: u64| {
                used > before && limit.is_some_and(|limit| used > limit)
            };
            let too_many = is_over(limits.max_inodes, before.inodes, used.inodes);
            let too_much = is_over(limits.max_bytes, before.bytes, used.bytes)
                && used.bytes > known.most_since(oldest_chunk);
            known.history.push((self.last_chunk, used.bytes));
            if too_many || too_much && oldest_chunk > known.old_chunks {
                return Err(format!(
                    "directory {inode} may have {limits:?} below it; it had {before:?}, and has {used:?}"
                ));
            }
        }
        Ok(())
    }

    /// What the master says is what is there.
    fn compare(&self, world: &World) -> Result<(), String> {
        let Some(state) = &world.master.state else { return Ok(()) };
        let said = state.quotas(b"").map_err(|error| error.to_string())?.quotas;
        let mut said: Vec<Used> =
            said.iter().map(|quota| Used { bytes: quota.used_bytes, inodes: quota.used_inodes }).collect();
        let mut counted: Vec<Used> =
            world.master.rows.quotas().map(|(inode, _)| count(inode, world)).collect();
        // Paths are not known here: as many of each.
        said.sort_by_key(|used| (used.bytes, used.inodes));
        counted.sort_by_key(|used| (used.bytes, used.inodes));
        if said != counted {
            return Err(format!("the master says {said:?}, there is {counted:?}"));
        }
        Ok(())
    }
}

impl Invariant for Quotas {
    fn name(&self) -> &'static str {
        "quotas count what is there, and hold"
    }

    fn saw(&mut self, what: &Saw, world: &World) -> Result<(), String> {
        match what {
            Saw::Started => self.known.clear(),
            Saw::Applied { applied, .. } => {
                for effect in &applied.effects {
                    if let Effect::ToMount(_, mount_down::Msg::Reply(reply)) = effect
                        && let Some(Reply::Placed(placed)) = &reply.result
                    {
                        self.last_chunk = placed.chunk.max(self.last_chunk);
                    }
                }
                let matters = |change: &RowChange| {
                    matches!(
                        change,
                        RowChange::Put(Row::Dentry { .. } | Row::Extent(..) | Row::Quota(..))
                            | RowChange::Delete(
                                RowKey::Dentry { .. } | RowKey::Extent { .. } | RowKey::Quota(InodeNo(_))
                            )
                    )
                };
                if applied.changes.iter().any(matters) {
                    self.check_limits(&applied.changes, world)?;
                }
                if world.commands.is_multiple_of(EVERY) {
                    self.compare(world)?;
                }
            }
            Saw::End => self.compare(world)?,
            _ => {}
        }
        Ok(())
    }
}
