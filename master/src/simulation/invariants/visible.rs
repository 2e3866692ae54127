//! Nobody sees what a crash takes back: whatever leaves the master rests on rows that are durable.

use std::collections::{BTreeMap, BTreeSet};

use dfs_proto::ids::KeeperId;
use dfs_proto::pb::{self, keeper_down, mount_down, mount_reply::Result as Reply};

use super::{Invariant, Saw};
use crate::core::{Effect, Row, RowChange, RowKey};
use crate::simulation::rows::Rows;
use crate::simulation::world::World;

/// See the module.
#[derive(Default)]
pub(super) struct Visible {
    /// The newest (ctime, content version) of each inode that was ever durable.
    inodes: BTreeMap<u64, (i64, u32, u64)>,
    chunks: BTreeSet<u64>,
    /// Copies that their keepers will be asked to verify. Word of a copy that comes between a deletion and its leaving is such: the
    /// record has it again, until the keeper says that it has it no more.
    to_verify: BTreeSet<(KeeperId, u64)>,
}

fn age(time: pb::Time, version: u64) -> (i64, u32, u64) {
    (time.sec, time.nsec, version)
}

impl Visible {
    fn take_in<'a>(&mut self, rows: impl Iterator<Item = &'a Row>) {
        for row in rows {
            match row {
                Row::Inode(inode, row) => {
                    let newest = age(row.ctime, row.content_version);
                    let known = self.inodes.entry(inode.0).or_default();
                    *known = newest.max(*known);
                }
                Row::Chunk(chunk, _) => {
                    self.chunks.insert(chunk.0);
                }
                _ => {}
            }
        }
    }

    fn check_attr(&self, attr: &pb::Attr) -> Result<(), String> {
        let shown = age(attr.ctime.unwrap_or_default(), attr.content_version);
        match self.inodes.get(&attr.inode) {
            Some(durable) if shown <= *durable => Ok(()),
            durable => Err(format!("inode {} is shown as of {shown:?}, durable is {durable:?}", attr.inode)),
        }
    }

    fn check_reply(&self, reply: &Reply, rows: &Rows) -> Result<(), String> {
        match reply {
            Reply::Attr(attr) => self.check_attr(attr),
            Reply::Gone(gone) => {
                gone.moved.iter().chain(&gone.removed).try_for_each(|attr| self.check_attr(attr))
            }
            Reply::Copied(copied) => copied.attr.iter().try_for_each(|attr| self.check_attr(attr)),
            Reply::Lock(info) => info.attr.iter().try_for_each(|attr| self.check_attr(attr)),
            Reply::Layout(layout) => {
                layout.attr.iter().try_for_each(|attr| self.check_attr(attr))?;
                match layout.extents.iter().find(|extent| !self.chunks.contains(&extent.chunk)) {
                    Some(extent) => Err(format!("chunk {} is shown and not durable", extent.chunk)),
                    None => Ok(()),
                }
            }
            Reply::Placed(placed) => self.check_id(placed.chunk, rows),
            _ => Ok(()),
        }
    }

    fn check_id(&self, chunk: u64, rows: &Rows) -> Result<(), String> {
        match rows.0.get(&RowKey::Counters) {
            Some(Row::Counters(counters)) if chunk < counters.next_chunk => Ok(()),
            counters => Err(format!("chunk {chunk} is given out, and the counters are {counters:?}")),
        }
    }
}

impl Invariant for Visible {
    fn name(&self) -> &'static str {
        "nobody sees what a crash takes back"
    }

    fn saw(&mut self, what: &Saw, world: &World) -> Result<(), String> {
        let durable = &world.master.durable;
        match what {
            Saw::Started => {
                self.take_in(durable.0.values());
                // The batch that was in flight when it crashed may have got there.
                for (inode, newest) in &mut self.inodes {
                    if durable.inode(*inode).is_none() {
                        *newest = (i64::MAX, 0, 0);
                    }
                }
            }
            Saw::Committed(changes) => {
                for change in *changes {
                    match change {
                        RowChange::Put(row) => self.take_in(std::iter::once(row)),
                        // The command may have changed it before.
                        RowChange::Delete(RowKey::Inode(inode)) => {
                            self.inodes.insert(inode.0, (i64::MAX, 0, 0));
                        }
                        RowChange::Delete(RowKey::Chunk(chunk)) => {
                            self.chunks.insert(chunk.0);
                        }
                        RowChange::Delete(_) => {}
                    }
                }
            }
            Saw::Left(Effect::ToMount(_, mount_down::Msg::Reply(reply))) => {
                reply.result.iter().try_for_each(|result| self.check_reply(result, durable))?;
            }
            Saw::Left(Effect::ToMount(_, mount_down::Msg::UploadDone(done))) => {
                done.attr.iter().try_for_each(|attr| self.check_attr(attr))?;
                if done.error.is_none() && !self.chunks.contains(&done.chunk) {
                    return Err(format!("the success of chunk {} is told, and not durable", done.chunk));
                }
            }
            Saw::Applied { applied, .. } => {
                for effect in &applied.effects {
                    if let Effect::ToKeeper(keeper, keeper_down::Msg::Verify(verify)) = effect {
                        self.to_verify.insert((*keeper, verify.chunk));
                    }
                }
            }
            Saw::Crashed => self.to_verify.clear(),
            Saw::Left(Effect::ToKeeper(keeper, keeper_down::Msg::Verify(verify))) => {
                self.to_verify.remove(&(*keeper, verify.chunk));
            }
            Saw::Left(Effect::ToKeeper(keeper, keeper_down::Msg::Delete(delete))) => {
                let recorded = |chunk: &&u64| !self.to_verify.contains(&(*keeper, **chunk));
                for chunk in delete.chunks.iter().filter(recorded) {
                    if durable.chunk(*chunk).is_some_and(|row| row.keepers.contains(keeper)) {
                        return Err(format!(
                            "keeper {keeper} deletes chunk {chunk}, and the record of that is not durable"
                        ));
                    }
                }
            }
            Saw::Left(Effect::ToKeeper(_, keeper_down::Msg::Build(build))) => {
                self.check_id(build.chunk, durable)?
            }
            _ => {}
        }
        Ok(())
    }
}
