//! Files that did not verify, which keepers keep until good copies are there. A keeper says of which chunks it has such
//! files; the master tells it when they may go.
//!
//! What must hold: a file of a chunk that is in the table goes only when `copies` live copies of it are on stable
//! storage. One of a chunk that nobody needs any more goes, too. Not stored: inventories say it again.

use std::collections::BTreeSet;

use dfs_proto::ids::{ChunkId, KeeperId};
use dfs_proto::pb::{self, keeper_down};

use super::State;
use super::out::Out;

/// Between two looks at what is in quarantine.
const LOOK_EVERY_MS: i64 = 1_000;
/// Chunks that one look takes of one keeper.
const STEP: usize = 512;

impl State {
    /// A keeper has a file of this chunk in quarantine.
    pub(super) fn note_quarantined(&mut self, keeper: KeeperId, chunk: ChunkId) {
        if let Some(keeper) = self.keepers.get_mut(&keeper) {
            keeper.quarantined.insert(chunk);
        }
    }

    /// Is there nothing that a file in quarantine could still be needed for?
    fn is_safe_without_quarantine(&self, chunk: ChunkId) -> bool {
        let Some(row) = self.chunks.get(chunk) else {
            return !self.is_under_way(chunk);
        };
        let good = |id: &&KeeperId| self.is_alive(**id) && self.syncs.is_synced(chunk, **id);
        row.keepers.iter().filter(good).count() >= self.settings.copies as usize
    }

    /// Are there copies enough, though not all are known to be on stable storage?
    fn waits_for_word(&self, chunk: ChunkId) -> bool {
        self.chunks.get(chunk).is_some_and(|row| row.live >= self.settings.copies)
    }

    pub(super) fn empty_quarantines(&mut self, out: &mut Out) {
        if out.now_ms < self.next_quarantine_look_ms {
            return;
        }
        self.next_quarantine_look_ms = out.now_ms.saturating_add(LOOK_EVERY_MS);
        let ids: Vec<KeeperId> = self
            .keepers
            .iter()
            .filter(|(_, k)| k.connected && !k.quarantined.is_empty())
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            self.empty_quarantine(id, out);
        }
    }

    /// Looks at the next few chunks of one keeper.
    fn empty_quarantine(&mut self, id: KeeperId, out: &mut Out) {
        let Some(keeper) = self.keepers.get(&id) else { return };
        let from = keeper.quarantine_cursor;
        let step: Vec<ChunkId> = keeper.quarantined.range(from..).take(STEP).copied().collect();
        let safe: BTreeSet<ChunkId> =
            step.iter().copied().filter(|chunk| self.is_safe_without_quarantine(*chunk)).collect();
        // Word that copies are synced may have been lost, or have come before word that they are there.
        for chunk in step.iter().filter(|chunk| !safe.contains(chunk) && self.waits_for_word(**chunk)) {
            self.ask_to_sync(*chunk, out);
        }
        if let Some(keeper) = self.keepers.get_mut(&id) {
            let next = |last: &ChunkId| ChunkId(last.0.saturating_add(1));
            keeper.quarantine_cursor =
                if step.len() < STEP { ChunkId(0) } else { step.last().map(next).unwrap_or_default() };
            keeper.quarantined.retain(|chunk| !safe.contains(chunk));
        }
        if !safe.is_empty() {
            let chunks = safe.iter().map(|chunk| chunk.0).collect();
            out.for_keeper(id, keeper_down::Msg::EmptyQuarantine(pb::EmptyQuarantine { chunks }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::command::Effect;
    use super::super::testkit::Kit;
    use super::*;
    use dfs_proto::ids::InodeNo;

    fn emptied(kit: &Kit) -> Vec<(KeeperId, u64)> {
        let of = |effect: &Effect| match effect {
            Effect::ToKeeper(keeper, keeper_down::Msg::EmptyQuarantine(order)) => {
                order.chunks.iter().map(|chunk| (*keeper, *chunk)).collect()
            }
            _ => Vec::new(),
        };
        kit.sent.iter().flat_map(of).collect()
    }

    fn three_synced_copies(kit: &mut Kit, chunk: ChunkId) {
        kit.copy_all();
        let holders = kit.state.chunks.get(chunk).unwrap().keepers.to_vec();
        for keeper in holders {
            kit.synced(keeper, chunk);
        }
    }

    #[test]
    fn it_is_emptied_when_all_copies_are_there_and_synced() {
        let mut kit = Kit::with_keepers(3);
        let file = kit.create(InodeNo::ROOT, "f");
        let chunk = kit.upload(file, 0, 10);
        three_synced_copies(&mut kit, chunk);
        kit.quarantined_copy(KeeperId(1), chunk);
        kit.pass_ms(3_000);
        assert_eq!(emptied(&kit), [], "two copies are left");
        kit.copy_all();
        kit.pass_ms(3_000);
        assert_eq!(emptied(&kit), [], "the third is not on stable storage");
        kit.synced(KeeperId(1), chunk);
        kit.pass_ms(1_000);
        assert_eq!(emptied(&kit), [(KeeperId(1), chunk.0)]);
        kit.pass_ms(5_000);
        assert_eq!(emptied(&kit).len(), 1, "it is said once");
    }

    #[test]
    fn it_is_emptied_though_word_that_a_copy_is_synced_came_before_word_that_it_is_there() {
        let mut kit = Kit::with_keepers(3);
        let file = kit.create(InodeNo::ROOT, "f");
        let chunk = kit.upload(file, 0, 10);
        three_synced_copies(&mut kit, chunk);
        kit.quarantined_copy(KeeperId(1), chunk);
        kit.synced(KeeperId(1), chunk);
        kit.copy_all();
        kit.sent.clear();
        kit.pass_ms(1_000);
        assert!(kit.was_asked_to_sync(KeeperId(1), chunk));
        kit.synced(KeeperId(1), chunk);
        kit.pass_ms(1_000);
        assert_eq!(emptied(&kit), [(KeeperId(1), chunk.0)]);
    }

    #[test]
    fn the_last_resort_is_kept_and_what_nobody_needs_is_not() {
        let mut kit = Kit::with_keepers(3);
        let file = kit.create(InodeNo::ROOT, "f");
        let chunk = kit.upload(file, 0, 10);
        three_synced_copies(&mut kit, chunk);
        for keeper in [1, 2, 3] {
            kit.quarantined_copy(KeeperId(keeper), chunk);
        }
        kit.pass_ms(20_000);
        assert_eq!(emptied(&kit), []);
        // A keeper that comes back says it again.
        kit.reconnect(KeeperId(2));
        kit.inventory_with_quarantine(KeeperId(2), Vec::new(), &[chunk.0, 500]);
        kit.pass_ms(2_000);
        assert_eq!(emptied(&kit), [(KeeperId(2), 500)], "no such chunk is in the table");
        kit.truncate(file, 0);
        kit.pass_ms(2_000);
        assert_eq!(emptied(&kit).len(), 4);
    }
}
