//! What operators order of keepers: to be emptied, to be away for a while, to be forgotten.
//!
//! *Draining*: gets nothing new, and its copies count for nothing, so replication makes others and trimming takes
//! them off it; until then it serves them and is a source. When it holds nothing and nothing is on its way to it, it is *drained*.
//! *In maintenance*: while it is away its copies count as if it were there, but for chunks that
//! have fewer live copies than `min_copies`. Both are in its row, and outlive master and keeper.
//!
//! A copy is *needed* as long as its chunk has fewer than `copies` live ones on other keepers that are not being drained.
//! Nobody who has a needed one can be forgotten.

use std::fmt::Write;

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::KeeperId;
use dfs_proto::pb::{self, keeper_down};

use super::State;
use super::out::{Out, Res, fail};
use super::row::RowKey;

/// What an operator can order of a keeper.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Duty {
    /// To get rid of all that it has.
    Drain,
    /// And now not any more.
    CancelDrain,
    /// It may be away for so long without being missed; 0: it may not.
    Maintenance {
        /// From now on.
        for_ms: u64,
    },
    /// To be no keeper of this cluster any more.
    Forget,
}

/// The longest maintenance.
const MAX_MAINTENANCE_MS: u64 = 30 * 86_400_000;

impl State {
    pub(super) fn change_duty(&mut self, keeper: &str, duty: Duty, out: &mut Out) -> Res<pb::KeeperRow> {
        let id = self.find_keeper(keeper)?;
        match duty {
            Duty::Drain => self.change_drain(id, true, out),
            Duty::CancelDrain => self.change_drain(id, false, out),
            Duty::Maintenance { for_ms } => self.change_maintenance(id, for_ms, out)?,
            Duty::Forget => return self.forget_keeper(id, out),
        }
        Ok(self.keeper_report(id, out.now_ms))
    }

    /// By its id or address.
    fn find_keeper(&self, name: &str) -> Res<KeeperId> {
        if let Some(id) = name.parse().ok().map(KeeperId).filter(|id| self.keepers.contains_key(id)) {
            return Ok(id);
        }
        let mut found = self.keepers.iter().filter(|(_, keeper)| keeper.row.address == name);
        match (found.next(), found.next()) {
            (Some((id, _)), None) => Ok(*id),
            (None, _) => fail(
                ErrorCode::NotFound,
                format!("no keeper has the id or address '{name}'; 'dfs keepers' lists them all"),
            ),
            (Some((one, _)), Some((other, _))) => fail(
                ErrorCode::Invalid,
                format!("keepers {one} and {other} both gave the address {name}; name the keeper by its id"),
            ),
        }
    }

    fn change_drain(&mut self, id: KeeperId, draining: bool, out: &mut Out) {
        let Some(keeper) = self.keepers.get_mut(&id).filter(|keeper| keeper.row.draining != draining) else {
            return;
        };
        keeper.row.draining = draining;
        tracing::info!(keeper = %id, draining, "an operator changed a keeper's duty");
        self.duty_changed(id, out);
    }

    fn change_maintenance(&mut self, id: KeeperId, for_ms: u64, out: &mut Out) -> Res<()> {
        if for_ms > MAX_MAINTENANCE_MS {
            let days = MAX_MAINTENANCE_MS / 86_400_000;
            let message = format!("a maintenance of {for_ms} ms is too long; choose up to {days} days");
            return fail(ErrorCode::Invalid, message);
        }
        let Some(keeper) = self.keepers.get_mut(&id) else { return Ok(()) };
        // At most MAX_MAINTENANCE_MS.
        let until_ms = if for_ms == 0 { 0 } else { out.now_ms.saturating_add(for_ms as i64) };
        if keeper.row.maintenance_until_ms != until_ms {
            keeper.row.maintenance_until_ms = until_ms;
            tracing::info!(keeper = %id, for_ms, "an operator changed a keeper's maintenance");
            self.duty_changed(id, out);
        }
        Ok(())
    }

    /// Its copies may count for more or for less from now on.
    fn duty_changed(&mut self, id: KeeperId, out: &mut Out) {
        out.touch(RowKey::Keeper(id));
        self.reindex_all_on(id);
        self.moves.want_spread();
        self.recheck_uploads(out);
        self.start_scan(out);
    }

    pub(super) fn end_maintenance(&mut self, out: &mut Out) {
        let is_over = |until_ms: i64| until_ms != 0 && out.now_ms >= until_ms;
        let over: Vec<KeeperId> = self
            .keepers
            .iter()
            .filter(|(_, keeper)| is_over(keeper.row.maintenance_until_ms))
            .map(|(id, _)| *id)
            .collect();
        for id in over {
            if let Some(keeper) = self.keepers.get_mut(&id) {
                keeper.row.maintenance_until_ms = 0;
                tracing::info!(keeper = %id, live = keeper.alive, "a keeper's maintenance is over");
            }
            self.duty_changed(id, out);
        }
    }

    /// Takes a keeper out of the table, with what it may still have.
    fn forget_keeper(&mut self, id: KeeperId, out: &mut Out) -> Res<pb::KeeperRow> {
        let was = self.keeper_report(id, out.now_ms);
        if was.alive && !was.drained {
            let message = format!(
                "keeper {id} is live and not drained; empty it with 'dfs drain {id}', or stop it for good, first"
            );
            return fail(ErrorCode::Invalid, message);
        }
        let needed = self.needed_on(id);
        if needed > 0 {
            let message = format!(
                "keeper {id} has copies of {needed} chunks of which {} other live keepers have not {} yet; wait until \
                 they are copied (see 'dfs status'), add a keeper, or bring this one back",
                self.others(id),
                self.settings.copies
            );
            return fail(ErrorCode::Invalid, message);
        }
        self.cancel_orders_at(id);
        self.drop_builds_at(id, out);
        for chunk in self.chunks.on(id).collect::<Vec<_>>() {
            self.remove_copy(chunk, id, out);
        }
        let uploads: Vec<_> = self.uploads.keys().copied().collect();
        uploads.into_iter().for_each(|chunk| self.upload_lost_copy(chunk, id));
        self.built_lost_copies(id, |_| true, out);
        self.keepers.remove(&id);
        self.syncs.forget_keeper(id);
        out.touch(RowKey::Keeper(id));
        tracing::info!(keeper = %id, address = was.address, "an operator had a keeper forgotten");
        let message = format!("it was drained, and an operator had keeper {id} forgotten; it can be removed");
        let error = DfsError::new(ErrorCode::NotFound, message).to_wire();
        out.for_keeper(id, keeper_down::Msg::Refused(error));
        self.recheck_uploads(out);
        self.recheck_syncs(out);
        Ok(was)
    }

    /// Chunks of which this keeper has a copy that is needed. Looks at all that it has.
    fn needed_on(&self, id: KeeperId) -> usize {
        let is_needed = |chunk: &super::chunks::Chunk| {
            let others: Vec<KeeperId> = chunk.keepers.iter().copied().filter(|other| *other != id).collect();
            self.tally(&others).staying < self.settings.copies
        };
        let chunks = self.chunks.on(id).filter_map(|chunk| self.chunks.get(chunk));
        let uploads = self.uploads.values().filter(|upload| upload.holders.contains(&id)).count();
        chunks.filter(|chunk| is_needed(chunk)).count() + uploads
    }

    /// Live keepers beside this one that are not being drained.
    fn others(&self, id: KeeperId) -> usize {
        let stays = |(other, keeper): &(&KeeperId, &super::Keeper)| {
            **other != id && keeper.alive && !keeper.row.draining
        };
        self.keepers.iter().filter(stays).count()
    }

    /// Is nothing on it, nor on its way to it?
    pub(super) fn is_drained(&self, id: KeeperId) -> bool {
        let Some(keeper) = self.keepers.get(&id) else { return false };
        let idle = keeper.row.draining && keeper.pending_bytes == 0 && keeper.orders_in == 0;
        let held = |holders: &[KeeperId]| holders.contains(&id);
        idle && self.chunks.count_on(id) == 0
            && !self.uploads.values().any(|upload| held(&upload.holders))
            && !self.compaction.jobs.values().any(|job| held(&job.holders))
    }

    /// Why a drain cannot end as things are; empty: it can, or there is none.
    pub(super) fn why_stuck(&self, id: KeeperId) -> String {
        let mut why = String::new();
        let Some(keeper) = self.keepers.get(&id).filter(|keeper| keeper.row.draining) else { return why };
        let (others, copies) = (self.others(id), self.settings.copies as usize);
        if self.chunks.count_on(id) == 0 {
            return why;
        }
        let takers = self.keepers.values().filter(|keeper| keeper.takes(self.settings.chunk_size)).count();
        let lost = self.chunks.wanting().below(1);
        // Writing to a String cannot fail.
        let _ = if others < copies {
            write!(why, "{copies} copies are wanted and {others} other keepers are live: add a keeper")
        } else if takers == 0 {
            write!(why, "no other keeper has room: add a keeper or make room")
        } else if !keeper.alive && lost.filter(|chunk| self.chunks.has_copy(*chunk, id)).count() > 0 {
            write!(why, "it is dead and has the only copies of some chunks: bring it back")
        } else {
            Ok(())
        };
        why
    }
}

#[cfg(test)]
#[path = "duty_tests.rs"]
mod tests;
