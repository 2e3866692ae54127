//! fsck: the table set against what keepers have.
//!
//! Every live keeper is asked for a fresh inventory, for which it looks at its files. What differs is counted, and the
//! first of it kept by name. Without `repair` nothing in the table changes by it; with it, an inventory does what
//! it does after a hello (`inventory.rs`), and the replication scan makes up for what is missing.
//!
//! What must hold: one fsck at a time; it ends when all keepers that it asked have answered, left or died, or at its
//! deadline; what an upload or a compaction under way needs is no orphan. Not stored: a restart ends it.

use std::collections::BTreeSet;

use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{ChunkId, KeeperId};
use dfs_proto::pb::{self, keeper_down};

use super::State;
use super::command::Now;
use super::out::{Out, Res, fail};

/// Keepers that have not answered by then are named, and not waited for any longer.
const DEADLINE_MS: i64 = 300_000;
/// Findings that are kept by name.
const MAX_FINDINGS: usize = 1000;

/// The last fsck, under way or over.
#[derive(Default)]
pub(super) struct Fsck {
    pub number: u64,
    pub repair: bool,
    /// Have yet to answer.
    waiting: BTreeSet<KeeperId>,
    /// Have not answered in the end.
    silent: BTreeSet<KeeperId>,
    deadline_ms: i64,
    report: pb::FsckReport,
}

impl Fsck {
    /// Is this keeper's inventory part of it?
    pub fn waits_for(&self, keeper: KeeperId) -> bool {
        self.waiting.contains(&keeper)
    }

    /// Is what it finds only to be counted?
    pub fn only_looks(&self, keeper: KeeperId) -> bool {
        self.waits_for(keeper) && !self.repair
    }

    /// Something differs at a keeper.
    pub fn found(&mut self, kind: pb::FsckKind, keeper: KeeperId, chunk: ChunkId) {
        if !self.waits_for(keeper) {
            return;
        }
        match kind {
            pb::FsckKind::Orphan => self.report.orphans += 1,
            pb::FsckKind::Missing => self.report.missing += 1,
            pb::FsckKind::Wrong => self.report.wrong += 1,
            pb::FsckKind::Unrecorded => self.report.unrecorded += 1,
        }
        if self.report.findings.len() < MAX_FINDINGS {
            let finding = pb::FsckFinding { kind: kind as i32, keeper: keeper.0, chunk: chunk.0 };
            self.report.findings.push(finding);
        }
    }

    /// The keeper has answered.
    pub fn answered(&mut self, keeper: KeeperId) {
        if self.waiting.remove(&keeper) {
            self.report.keepers_checked += 1;
        }
    }

    /// The keeper will not answer.
    pub fn left(&mut self, keeper: KeeperId) {
        if self.waiting.remove(&keeper) {
            self.silent.insert(keeper);
        }
    }
}

impl State {
    pub(super) fn start_fsck(&mut self, repair: bool, out: &mut Out) -> Res<pb::FsckStarted> {
        if !self.fsck.waiting.is_empty() {
            return fail(ErrorCode::Busy, "another fsck is under way; try again when it is over");
        }
        let able = self.keepers.iter().filter(|(_, keeper)| keeper.alive && keeper.connected);
        let waiting: BTreeSet<KeeperId> = able.map(|(id, _)| *id).collect();
        if waiting.is_empty() {
            return fail(ErrorCode::NoKeeper, "no keeper is live: start one, or see why they are gone");
        }
        if waiting.iter().any(|id| self.keepers.get(id).is_some_and(|keeper| keeper.inventory.is_some())) {
            let message = "a keeper has just come and still says what it has; try again in a moment";
            return fail(ErrorCode::Busy, message);
        }
        // Another than that of any earlier one, also of an earlier master.
        let number = u64::try_from(out.now_ms).unwrap_or(0).max(self.fsck.number + 1);
        for id in &waiting {
            if let Some(keeper) = self.keepers.get_mut(id) {
                keeper.expect_inventory(number);
            }
            out.for_keeper(*id, keeper_down::Msg::SendInventory(pb::SendInventory { number }));
        }
        self.fsck = Fsck {
            number,
            repair,
            waiting,
            silent: BTreeSet::new(),
            deadline_ms: out.now_ms.saturating_add(DEADLINE_MS),
            report: pb::FsckReport::default(),
        };
        Ok(pb::FsckStarted { number })
    }

    pub(super) fn end_late_fsck(&mut self, out: &Out) {
        if out.now_ms >= self.fsck.deadline_ms {
            for keeper in std::mem::take(&mut self.fsck.waiting) {
                self.fsck.silent.insert(keeper);
            }
        }
    }

    /// How an fsck stands, with the chunks that have too few copies now.
    ///
    /// # Errors
    /// `NotFound`: this master has none of that number.
    pub fn fsck_report(&self, number: u64, now: impl Into<Now>) -> Res<pb::FsckReport> {
        if number == 0 || self.fsck.number != number {
            return fail(
                ErrorCode::NotFound,
                "this fsck is not known: the master was restarted, or there was another since; run it again",
            );
        }
        let status = self.status(now);
        let dead = self.keepers.iter().filter(|(_, keeper)| !keeper.alive).map(|(id, _)| *id);
        let unchecked: BTreeSet<KeeperId> = self.fsck.silent.iter().copied().chain(dead).collect();
        Ok(pb::FsckReport {
            done: self.fsck.waiting.is_empty(),
            chunks: status.chunks,
            lost: status.lost,
            endangered: status.endangered,
            under_replicated: status.under_replicated,
            lost_files: status.lost_files,
            copies_under_way: status.copies_under_way,
            want_copies: status.want_copies,
            keepers_live: status.keepers_live,
            keepers_unchecked: unchecked.into_iter().map(|id| id.0).collect(),
            ..self.fsck.report.clone()
        })
    }
}

#[cfg(test)]
#[path = "fsck_tests.rs"]
mod tests;
