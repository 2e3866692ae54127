//! What is deleted is kept as long as was promised: with the trash on, a file whose last name goes is in it from then on; it
//! leaves it when its time is over, or an operator says so, and stays a whole file until then. It does leave it then.

use std::collections::{BTreeMap, BTreeSet};

use super::{Invariant, Saw};
use crate::core::operator::Operation;
use crate::core::{Command, Row, RowChange, RowKey};
use crate::simulation::rows::is_file;
use crate::simulation::world::World;

/// After its time is over, an entry may be there for so long: it goes with a tick of a master that is up.
const LATE_MS: i64 = 20_000;

/// See the module.
#[derive(Default)]
pub(super) struct Trash {
    /// Files that have a name.
    named: BTreeSet<u64>,
    /// Entries, and when they came in.
    entries: BTreeMap<u64, i64>,
    /// An operator had all that came in until then purged.
    emptied_ms: i64,
}

impl Trash {
    fn take_in(&mut self, row: &Row) {
        match row {
            Row::Inode(inode, row) if is_file(row) && row.nlink > 0 => drop(self.named.insert(inode.0)),
            Row::Trash(inode, row) => drop(self.entries.insert(inode.0, row.deleted.as_millis())),
            _ => {}
        }
    }

    fn applied(&mut self, command: &Command, changes: &[RowChange], world: &World) -> Result<(), String> {
        if matches!(command, Command::Operator(Operation::Trash(_))) {
            self.emptied_ms = world.now_ms;
        }
        for change in changes {
            match change {
                RowChange::Put(Row::Inode(inode, row)) if row.nlink == 0 => {
                    let trashed = changes.iter().any(
                        |change| matches!(change, RowChange::Put(Row::Trash(entry, _)) if entry == inode),
                    );
                    if self.named.remove(&inode.0) && !trashed {
                        return Err(format!("inode {inode} has lost its last name, and is not in the trash"));
                    }
                }
                RowChange::Delete(RowKey::Inode(inode)) => {
                    if self.named.remove(&inode.0) {
                        return Err(format!("inode {inode} had a name, and is gone at once"));
                    }
                    if self.entries.contains_key(&inode.0)
                        && !changes.contains(&RowChange::Delete(RowKey::Trash(*inode)))
                    {
                        return Err(format!("inode {inode} is in the trash, and gone"));
                    }
                }
                RowChange::Delete(RowKey::Trash(inode)) => {
                    let until_ms = world.now_ms - world.master.settings.trash_ms as i64;
                    let deleted_ms = self.entries.remove(&inode.0).unwrap_or(0);
                    if deleted_ms > until_ms.max(self.emptied_ms) {
                        return Err(format!("inode {inode} left the trash before its time was over"));
                    }
                }
                _ => {}
            }
        }
        changes.iter().for_each(|change| {
            if let RowChange::Put(row) = change {
                self.take_in(row);
            }
        });
        Ok(())
    }
}

impl Invariant for Trash {
    fn name(&self) -> &'static str {
        "what is deleted is kept as long as was promised"
    }

    fn saw(&mut self, what: &Saw, world: &World) -> Result<(), String> {
        if world.master.settings.trash_ms == 0 {
            return Ok(());
        }
        match what {
            Saw::Started => {
                self.named.clear();
                self.entries.clear();
                world.master.durable.0.values().for_each(|row| self.take_in(row));
            }
            Saw::Applied { command, applied } => self.applied(command, &applied.changes, world)?,
            Saw::End => {
                let until_ms = world.now_ms - world.master.settings.trash_ms as i64 - LATE_MS;
                if let Some((inode, _)) =
                    world.master.rows.trash().find(|(_, row)| row.deleted.as_millis() < until_ms)
                {
                    return Err(format!("inode {inode} is in the trash for too long"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
