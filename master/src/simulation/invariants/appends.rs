//! No append is lost: of files that are only appended to, what was acknowledged is there at the end, each piece at a place of
//! its own.

use std::collections::BTreeMap;

use super::acknowledged::content;
use super::{Invariant, Saw};
use crate::simulation::world::World;
use crate::simulation::writes::byte;

/// See the module.
#[derive(Default)]
pub(super) struct Appends {
    /// By file and place: length and write.
    acked: BTreeMap<(u64, u64), (u64, u64)>,
}

impl Invariant for Appends {
    fn name(&self) -> &'static str {
        "no append is lost"
    }

    fn saw(&mut self, what: &Saw, world: &World) -> Result<(), String> {
        match what {
            Saw::WriteAcked { inode, write, runs, append: true } => {
                let Some(run) = runs.first() else { return Ok(()) };
                let (from, to) = (run.file_offset, run.file_offset + run.length);
                let before = self.acked.range((*inode, 0)..(*inode, to)).next_back();
                if let Some(((_, at), (length, other))) =
                    before.filter(|((_, at), (length, _))| at + length > from)
                {
                    return Err(format!(
                        "inode {inode}: appends {other} (at {at}, {length}) and {write} (at {from}) overlap"
                    ));
                }
                self.acked.insert((*inode, from), (run.length, *write));
            }
            Saw::End => {
                for ((inode, at), (length, write)) in &self.acked {
                    if world.master.rows.inode(*inode).is_none() {
                        continue;
                    }
                    let bytes = content(*inode, world);
                    let is = |place: u64| bytes.get(place as usize) == Some(&byte(*write, place));
                    if let Some(place) = (*at..at + length).find(|place| !is(*place)) {
                        return Err(format!("inode {inode}: append {write} is not at {place}"));
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}
