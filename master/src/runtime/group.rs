//! The group commit: batches of row changes, and which effects have to wait for which batch.
//!
//! Pure: no lock, no thread, no I/O. The engine asks [`GroupCommit::admit_as`] for every command, and its
//! commit thread walks [`GroupCommit::take`] -> store -> [`GroupCommit::committed`].
//!
//! Batches are numbered. At most one is being committed and one is open:
//!
//! ```text
//! durable ... | in flight: committed + 1 | open: the next
//! ```
//!
//! A command's effects have to wait for a batch (its number is `need` below):
//!
//! - for the batch with its own changes, if it has any;
//! - else, if all that it does is to answer, for the newest batch that touches an inode that it shows. The
//!   inodes of an invalidation that is still queued count as touched, so that an answer about an inode
//!   never overtakes an invalidation of it;
//! - else (it orders a keeper to do something, or tells a third party) for every change there is (but those of the roll,
//!   which nothing is for that is ever said). To have
//!   a chunk deleted for a reason that a crash takes back would be the end of a file;
//! - and who is given a chunk's id, for a change of the counters: an id whose reservation is lost would be handed out
//!   again. (Ids of inodes and keepers come with their rows.)
//!
//! A batch that nobody waits for need not be committed at once: it has changes without effects (a third copy is noted),
//! or such whose answer may come late (an atime). It is when something else joins it, and for what rests on it somebody
//! waits then, or when the commit thread looks after it.

use std::collections::HashMap;

use dfs_proto::ids::InodeNo;
use dfs_proto::pb;

use crate::core::row::Counters;
use crate::core::{Applied, Command, Effect, Row, RowChange, RowKey};

type BatchNo = u64;

/// Commands in a batch that nobody waits for.
const MAX_PATIENT: usize = 1024;

/// Row changes to be committed together, and what leaves when they are.
#[derive(Debug, Default)]
struct Batch {
    changes: Vec<RowChange>,
    effects: Vec<Effect>,
    commands: usize,
    touched: Vec<InodeNo>,
    /// Somebody waits for it, or it has become large.
    hurries: bool,
}

/// What became durable.
#[derive(Debug, Default)]
pub struct Committed {
    /// To be sent now, in this order.
    pub effects: Vec<Effect>,
    /// How many commands waited in the batch.
    pub commands: usize,
}

/// What is to be done with a command's effects.
#[derive(Debug)]
pub enum Admitted {
    /// Sent at once.
    Now(Vec<Effect>),
    /// They are in a batch.
    Queued,
}

/// See the head of this file.
#[derive(Debug, Default)]
pub struct GroupCommit {
    durable: BatchNo,
    open: Batch,
    in_flight: Option<Batch>,
    /// The newest batch that touches an inode; only those that are not durable.
    touched_by: HashMap<InodeNo, BatchNo>,
    newest_change: BatchNo,
    newest_counters: BatchNo,
    counters: Option<Counters>,
}

impl GroupCommit {
    /// As [`GroupCommit::admit_as`], for who commits every batch at once.
    #[cfg(test)]
    pub fn admit(&mut self, only_answers: bool, applied: Applied) -> Admitted {
        self.admit_as(only_answers, false, applied)
    }

    /// Takes in what a command did. `may_wait`: its answer may leave late; see [`may_wait`].
    pub fn admit_as(&mut self, only_answers: bool, may_wait: bool, applied: Applied) -> Admitted {
        let Applied { changes, effects, shows } = applied;
        if changes.is_empty() && effects.is_empty() {
            return Admitted::Now(effects);
        }
        let need = if !changes.is_empty() {
            self.open_no()
        } else if only_answers {
            let shown = shows.iter().filter_map(|inode| self.touched_by.get(inode)).max();
            let reserved = if effects.iter().any(hands_out_id) { self.newest_counters } else { 0 };
            shown.copied().unwrap_or(0).max(reserved)
        } else {
            self.newest_change
        };
        if need <= self.durable {
            return Admitted::Now(effects);
        }
        self.note_touched(need, &changes, &effects);
        let batch = match &mut self.in_flight {
            Some(in_flight) if need == self.durable + 1 => in_flight,
            _ => &mut self.open,
        };
        batch.commands += 1;
        // What others are told of they are told at once.
        let is_patient = effects.is_empty() || may_wait && only_answers;
        batch.hurries |= !is_patient || batch.commands >= MAX_PATIENT;
        batch.changes.extend(changes);
        batch.effects.extend(effects);
        Admitted::Queued
    }

    /// Whether there is a batch to take at once.
    pub fn hurries(&self) -> bool {
        self.open.hurries
    }

    /// Somebody waits for all that was applied until now.
    pub fn hurry(&mut self) {
        self.open.hurries |= self.has_open();
    }

    /// Whether there is a batch to take.
    pub fn has_open(&self) -> bool {
        self.open.commands > 0
    }

    /// The open batch becomes the one in flight, and its changes are given out to be committed. There must
    /// be none in flight.
    pub fn take(&mut self) -> Vec<RowChange> {
        assert!(self.in_flight.is_none(), "a batch is taken while another is in flight");
        let mut batch = std::mem::take(&mut self.open);
        let changes = std::mem::take(&mut batch.changes);
        self.in_flight = Some(batch);
        changes
    }

    /// The batch in flight is on stable storage.
    pub fn committed(&mut self) -> Committed {
        let Some(batch) = self.in_flight.take() else { return Committed::default() };
        self.durable += 1;
        for inode in batch.touched {
            if self.touched_by.get(&inode).is_some_and(|&no| no <= self.durable) {
                self.touched_by.remove(&inode);
            }
        }
        Committed { effects: batch.effects, commands: batch.commands }
    }

    /// The batch that everything applied until now is durable with.
    pub fn newest_change(&self) -> u64 {
        self.newest_change
    }

    /// The batch that this, and the roll, is durable with.
    pub fn newest_batch(&self) -> u64 {
        self.durable + u64::from(self.in_flight.is_some()) + u64::from(self.has_open())
    }

    /// The newest batch that is durable.
    pub fn durable(&self) -> u64 {
        self.durable
    }

    fn open_no(&self) -> BatchNo {
        self.durable + 1 + u64::from(self.in_flight.is_some())
    }

    fn note_touched(&mut self, need: BatchNo, changes: &[RowChange], effects: &[Effect]) {
        if !changes.iter().all(is_of_the_roll) {
            self.newest_change = need;
        }
        let mut touched = Vec::new();
        for change in changes {
            touches(change, &mut touched);
            if let RowChange::Put(Row::Counters(counters)) = change
                && self.counters.replace(*counters) != Some(*counters)
            {
                self.newest_counters = need;
            }
        }
        for effect in effects {
            if let Effect::ToMount(_, pb::mount_down::Msg::Invalidate(i)) = effect {
                touched.extend([i.inode, i.parent].into_iter().filter(|&n| n != 0).map(InodeNo));
            }
        }
        let batch = match &mut self.in_flight {
            Some(in_flight) if need == self.durable + 1 => in_flight,
            _ => &mut self.open,
        };
        for inode in touched {
            if self.touched_by.insert(inode, need) != Some(need) {
                batch.touched.push(inode);
            }
        }
    }
}

fn is_of_the_roll(change: &RowChange) -> bool {
    matches!(change, RowChange::Put(Row::Session(_)) | RowChange::Delete(RowKey::Session(_)))
}

/// Adds the inodes that a change touches.
fn touches(change: &RowChange, touched: &mut Vec<InodeNo>) {
    match change {
        RowChange::Put(Row::Dentry { parent, inode, .. }) => touched.extend([*parent, *inode]),
        RowChange::Put(Row::Inode(inode, _) | Row::Extent(inode, _) | Row::Xattr { inode, .. })
        | RowChange::Delete(
            RowKey::Inode(inode) | RowKey::Extent { inode, .. } | RowKey::Xattr { inode, .. },
        ) => touched.push(*inode),
        RowChange::Delete(RowKey::Dentry { parent, .. }) => touched.push(*parent),
        RowChange::Put(
            Row::Counters(_)
            | Row::Chunk(..)
            | Row::Keeper(..)
            | Row::Reply { .. }
            | Row::Quota(..)
            | Row::Trash(..)
            | Row::Session(_)
            | Row::User(..),
        )
        | RowChange::Delete(
            RowKey::Counters
            | RowKey::Chunk(_)
            | RowKey::Keeper(_)
            | RowKey::Reply { .. }
            | RowKey::Quota(_)
            | RowKey::Trash(_)
            | RowKey::Session(_)
            | RowKey::User(_),
        ) => {}
    }
}

fn hands_out_id(effect: &Effect) -> bool {
    match effect {
        Effect::ToMount(_, pb::mount_down::Msg::Reply(reply)) => {
            matches!(reply.result, Some(pb::mount_reply::Result::Placed(_)))
        }
        _ => false,
    }
}

/// Whether a command does nothing but answer whoever sent it, so that `shows` names all that its effects
/// depend on. To be asked before the command is applied; `effects_answer` after.
pub fn asks(command: &Command) -> bool {
    match command {
        Command::Enroll(_)
        | Command::MountHello { .. }
        | Command::Mount { .. }
        | Command::MountAcks { .. }
        | Command::KeeperHello(_) => true,
        Command::Keeper { msg, .. } => matches!(msg, pb::keeper_up::Msg::Heartbeat(_)),
        Command::MountGone { .. } | Command::KeeperGone(_) | Command::Operator(_) | Command::Tick => false,
    }
}

/// Whether nobody waits for the command's answer: it only says that the next such command may come.
pub fn may_wait(command: &Command) -> bool {
    match command {
        Command::Mount { request, .. } => {
            matches!(request.op, Some(pb::mount_request::Op::TouchAtime(_)))
        }
        Command::Enroll(_)
        | Command::MountHello { .. }
        | Command::MountAcks { .. }
        | Command::MountGone { .. }
        | Command::KeeperHello(_)
        | Command::Keeper { .. }
        | Command::KeeperGone(_)
        | Command::Operator(_)
        | Command::Tick => false,
    }
}

/// The other half of [`asks`].
pub fn effects_answer(effects: &[Effect]) -> bool {
    use pb::{keeper_down, mount_down};
    effects.iter().all(|effect| match effect {
        Effect::MountAnswer(_) | Effect::KeeperAnswer(_) | Effect::OperatorAnswer(_) => true,
        Effect::CloseMount(_) => false,
        Effect::ToMount(_, msg) => matches!(msg, mount_down::Msg::Reply(_) | mount_down::Msg::Welcome(_)),
        Effect::ToKeeper(_, msg) => {
            matches!(msg, keeper_down::Msg::Ack(_) | keeper_down::Msg::Welcome(_))
        }
    })
}

#[cfg(test)]
mod tests;
