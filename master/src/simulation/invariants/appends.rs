//! No append is lost: of files that are only appended to, what was acknowledged is there at the end, each piece at a place of
//! its own and whole; and there is nothing else in them, at the end and whenever somebody reads: no hole, no torn piece.

use std::collections::BTreeMap;

use super::acknowledged::content;
use super::{Invariant, Saw};
use crate::simulation::world::World;
use crate::simulation::writes::byte;

struct Append {
    at: u64,
    length: u64,
    acked: bool,
}

/// See the module.
#[derive(Default)]
pub(super) struct Appends {
    /// By file and number.
    all: BTreeMap<(u64, u64), Append>,
    /// Those that were acknowledged, by file and place.
    acked: BTreeMap<(u64, u64), u64>,
}

impl Appends {
    /// What was acknowledged, and overlaps this.
    fn overlaps(&self, inode: u64, from: u64, to: u64) -> Option<u64> {
        let before = self.acked.range((inode, 0)..(inode, to)).next_back();
        let (_, write) = before?;
        self.all.get(&(inode, *write)).filter(|other| other.at + other.length > from).map(|_| *write)
    }

    /// One file, as somebody sees it or as it is.
    fn check(&self, inode: u64, bytes: &[u64]) -> Result<(), String> {
        let end = bytes.iter().rposition(|value| *value != 0).map_or(0, |last| last + 1);
        let mut at = 0;
        while at < end {
            let write = bytes[at] >> 16;
            let Some(append) = self.all.get(&(inode, write)).filter(|append| append.at == at as u64) else {
                return Err(format!("inode {inode}: what is at {at} (of write {write}) is no whole append"));
            };
            let till = at + append.length as usize;
            if let Some(torn) = (at..till).find(|at| bytes.get(*at) != Some(&byte(write, *at as u64))) {
                return Err(format!("inode {inode}: append {write} is torn at {torn}"));
            }
            at = till;
        }
        Ok(())
    }

    fn check_all(&self, world: &World) -> Result<(), String> {
        for inode in world.logs.iter().filter(|inode| world.master.rows.inode(**inode).is_some()) {
            let bytes = content(*inode, world);
            self.check(*inode, &bytes)?;
            for ((_, write), append) in self.all.range((*inode, 0)..=(*inode, u64::MAX)) {
                if append.acked && bytes.get(append.at as usize) != Some(&byte(*write, append.at)) {
                    return Err(format!("inode {inode}: append {write} is not at {}", append.at));
                }
            }
        }
        Ok(())
    }
}

impl Invariant for Appends {
    fn name(&self) -> &'static str {
        "no append is lost"
    }

    fn saw(&mut self, what: &Saw, world: &World) -> Result<(), String> {
        match what {
            Saw::WriteBegun { inode, write, append: true, runs, .. } => {
                let Some(run) = runs.first() else { return Ok(()) };
                let append = Append { at: run.file_offset, length: run.length, acked: false };
                self.all.insert((*inode, *write), append);
            }
            Saw::WriteAcked { inode, write, append: true, .. } => {
                let Some(append) = self.all.get_mut(&(*inode, *write)) else { return Ok(()) };
                append.acked = true;
                let (from, to) = (append.at, append.at + append.length);
                if let Some(other) = self.overlaps(*inode, from, to) {
                    return Err(format!(
                        "inode {inode}: appends {other} and {write} (from {from} to {to}) overlap"
                    ));
                }
                self.acked.insert((*inode, from), *write);
            }
            Saw::Read { inode, bytes, .. } if world.logs.contains(inode) => self.check(*inode, bytes)?,
            Saw::End => self.check_all(world)?,
            _ => {}
        }
        Ok(())
    }
}
