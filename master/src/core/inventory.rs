//! What keepers say that they have, set against the table; and copies that are bad.
//!
//! An inventory takes many messages, and the world goes on meanwhile: a copy recorded since it began may be
//! missing from it, and one dropped since may still be in it. Both are remembered while it lasts.

use std::collections::BTreeSet;

use dfs_proto::ids::{ChunkId, KeeperId};
use dfs_proto::pb::{self, keeper_down, mount_reply::Result as Reply};

use super::State;
use super::out::Out;
use super::upload::Phase;

/// Verifications asked of late that are remembered.
const VERIFY_KEPT: usize = 10_000;

/// An inventory under way.
#[derive(Default)]
pub(super) struct Inventory {
    /// Of the order that it answers; 0: it follows a hello.
    pub number: u64,
    seen: BTreeSet<ChunkId>,
    /// Copies recorded on the keeper since it began.
    pub recorded: BTreeSet<ChunkId>,
    /// Copies dropped from the keeper since it began.
    pub dropped: BTreeSet<ChunkId>,
    /// Deletions that were ordered a moment before, on a stream that has ended.
    pub ordered_before: BTreeSet<ChunkId>,
}

impl Inventory {
    /// One that begins.
    pub fn of(number: u64) -> Inventory {
        Inventory { number, ..Inventory::default() }
    }
}

impl State {
    pub(super) fn inventory_page(&mut self, id: KeeperId, page: &pb::InventoryPage, out: &mut Out) {
        // Without a hello or an order before it, or after its last page: not asked for.
        let expected = self.keepers.get(&id).and_then(|keeper| keeper.inventory.as_ref());
        if expected.is_none_or(|inventory| inventory.number != page.number) {
            return;
        }
        for chunk in &page.quarantined {
            self.note_quarantined(id, ChunkId(*chunk));
        }
        self.note_seen(id, page, out);
        if page.last {
            // First what it lacks: else what it has could make a chunk visible that is then copied from it.
            self.remove_missing(id, out);
        }
        for info in &page.chunks {
            self.inventory_entry(id, info, out);
        }
        if page.last {
            if let Some(keeper) = self.keepers.get_mut(&id) {
                keeper.inventory = None;
            }
            self.fsck.answered(id);
            self.start_scan(out);
        }
    }

    fn note_seen(&mut self, id: KeeperId, page: &pb::InventoryPage, out: &mut Out) {
        for chunk in page.chunks.iter().map(|info| ChunkId(info.chunk)) {
            self.ids.chunk_in_use(chunk, out);
            if let Some(inventory) = self.keepers.get_mut(&id).and_then(|keeper| keeper.inventory.as_mut()) {
                inventory.seen.insert(chunk);
            }
        }
    }

    fn inventory_entry(&mut self, id: KeeperId, info: &pb::ChunkInfo, out: &mut Out) {
        let chunk = ChunkId(info.chunk);
        let Some(inventory) = self.keepers.get(&id).and_then(|keeper| keeper.inventory.as_ref()) else {
            return;
        };
        let ordered_before = inventory.ordered_before.contains(&chunk);
        let dropped = inventory.dropped.contains(&chunk) || ordered_before;
        let Some(row) = self.chunks.get(chunk) else {
            if !dropped && self.subject(chunk).is_some_and(|subject| subject.info == *info) {
                // Word that it arrived was lost with the stream.
                self.copy_under_way(chunk, id, out);
            } else if !self.is_under_way(chunk) && !self.is_spared(chunk, out.now) {
                // One that was ticketed and is not in the table yet stays; what else is not there is garbage.
                self.fsck.found(pb::FsckKind::Orphan, id, chunk);
                if !self.fsck.only_looks(id) {
                    self.delete_at(id, chunk, out);
                }
            }
            return;
        };
        if row.info(chunk) != *info {
            self.fsck.found(pb::FsckKind::Wrong, id, chunk);
            if !self.fsck.only_looks(id) {
                self.remove_copy(chunk, id, out);
                self.ask_to_verify(chunk, id, out);
            }
        } else if ordered_before && !self.chunks.has_copy(chunk, id) {
            if !self.fsck.only_looks(id) {
                // Whether it has this copy, nobody knows: a new one is ordered after the deletion.
                self.cancel_orders_with(chunk, id);
                self.delete_at(id, chunk, out);
            }
        } else if !dropped && !self.chunks.has_copy(chunk, id) {
            self.fsck.found(pb::FsckKind::Unrecorded, id, chunk);
            if !self.fsck.only_looks(id) && self.add_copy(chunk, id, out) {
                // It may have come in a moment ago.
                self.syncs.add(chunk, id);
                out.sync(id, chunk);
            }
        }
    }

    /// These came in a while ago. An upload that was given up may have left them, and nobody spoken of them.
    pub(super) fn arrived(&mut self, id: KeeperId, arrived: &pb::Arrived, out: &mut Out) {
        for chunk in arrived.chunks.iter().map(|raw| ChunkId(*raw)) {
            let is_needed = self.is_under_way(chunk) || self.is_spared(chunk, out.now);
            if self.chunks.get(chunk).is_none() && !is_needed {
                tracing::info!(keeper = %id, %chunk, "nobody needs this chunk: it is deleted");
                self.delete_at(id, chunk, out);
            }
        }
    }

    /// A keeper speaks of a chunk that nobody needs, as far as is known: it is deleted there, but for what a dump that the
    /// state was restored from did not know.
    pub(super) fn delete_unneeded(&mut self, at: KeeperId, chunk: ChunkId, out: &mut Out) {
        if self.chunks.get(chunk).is_some() || !self.is_spared(chunk, out.now) {
            self.delete_at(at, chunk, out);
        }
    }

    fn is_spared(&self, chunk: ChunkId, now: pb::Time) -> bool {
        self.settings.spared.is_some_and(|spared| chunk < spared.below && now.as_millis() < spared.until_ms)
    }

    /// All pages are there: what was in none of them is gone.
    fn remove_missing(&mut self, id: KeeperId, out: &mut Out) {
        let Some(keeper) = self.keepers.get_mut(&id) else { return };
        let Some(inventory) = keeper.inventory.as_mut() else { return };
        let (seen, recorded) = (std::mem::take(&mut inventory.seen), std::mem::take(&mut inventory.recorded));
        let missing = |chunk: &ChunkId| !seen.contains(chunk) && !recorded.contains(chunk);
        let gone: Vec<ChunkId> = self.chunks.on(id).filter(missing).collect();
        if !gone.is_empty() {
            tracing::warn!(keeper = %id, chunks = gone.len(), "keeper lacks chunks that it had");
        }
        for chunk in &gone {
            self.fsck.found(pb::FsckKind::Missing, id, *chunk);
        }
        if self.fsck.only_looks(id) {
            return;
        }
        for chunk in gone {
            self.remove_copy(chunk, id, out);
        }
        let gone: Vec<ChunkId> = self
            .uploads
            .iter()
            .filter(|(chunk, upload)| missing(chunk) && upload.holders.contains(&id))
            .map(|(chunk, _)| *chunk)
            .collect();
        for chunk in gone {
            self.upload_lost_copy(chunk, id);
        }
        self.built_lost_copies(id, missing, out);
        self.recheck_uploads(out);
        self.recheck_syncs(out);
    }

    pub(super) fn bad_copy(&mut self, id: KeeperId, bad: &pb::BadCopy, out: &mut Out) {
        let chunk = ChunkId(bad.chunk);
        if bad.quarantined {
            self.note_quarantined(id, chunk);
        }
        if let Some(keeper) = self.keepers.get_mut(&id) {
            keeper.inventory_dropped(chunk);
        }
        self.verify_asked.remove(&(chunk, id));
        self.doubt_uploads_at(id, |doubted| doubted == chunk);
        if self.remove_copy(chunk, id, out) {
            let kind = if bad.quarantined { pb::FsckKind::Wrong } else { pb::FsckKind::Missing };
            self.fsck.found(kind, id, chunk);
            tracing::warn!(keeper = %id, %chunk, "keeper's copy is bad or gone: copying it again");
            self.replicate_now(chunk, out);
        }
        self.upload_lost_copy(chunk, id);
        self.built_lost_copies(id, |built| *built == chunk, out);
        self.recheck_uploads(out);
        self.recheck_syncs(out);
    }

    pub(super) fn report_bad(&mut self, op: &pb::ReportBad, out: &mut Out) -> Reply {
        let (chunk, keeper) = (ChunkId(op.chunk), KeeperId(op.keeper));
        self.doubt_copy(chunk, keeper, out);
        Reply::Empty(pb::Empty {})
    }

    /// Somebody could not read this copy, if it is one.
    pub(super) fn doubt_copy(&mut self, chunk: ChunkId, keeper: KeeperId, out: &mut Out) {
        if self.chunks.has_copy(chunk, keeper) {
            self.ask_to_verify(chunk, keeper, out);
        }
    }

    /// At most once a second for one copy.
    pub(super) fn ask_to_verify(&mut self, chunk: ChunkId, keeper: KeeperId, out: &mut Out) {
        let connected = self.keepers.get(&keeper).is_some_and(|keeper| keeper.connected);
        if !connected
            || self.verify_asked.len() >= VERIFY_KEPT
            || self.verify_asked.contains_key(&(chunk, keeper))
        {
            return;
        }
        self.verify_asked.insert((chunk, keeper), out.now_ms);
        let info = self.chunks.get(chunk).map(|row| row.info(chunk));
        out.for_keeper(keeper, keeper_down::Msg::Verify(pb::VerifyChunk { chunk: chunk.0, info }));
    }

    /// Is the chunk not in the table, and may yet come into it?
    pub(super) fn is_under_way(&self, chunk: ChunkId) -> bool {
        self.uploads.get(&chunk).is_some_and(|upload| upload.phase != Phase::Failed)
            || self.compaction.jobs.contains_key(&chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::super::command::{Effect, Spared};
    use super::super::testkit::{Kit, checksum};
    use super::*;
    use dfs_proto::ids::InodeNo;
    use dfs_proto::pb::keeper_up;

    fn copies(kit: &Kit, chunk: ChunkId) -> Vec<u64> {
        kit.state.chunks.get(chunk).unwrap().keepers.iter().map(|k| k.0).collect()
    }

    #[test]
    fn an_inventory_adds_removes_and_orders_deletion() {
        let mut kit = Kit::with_keepers(3);
        let file = kit.create(InodeNo::ROOT, "f");
        let lacks = kit.upload(file, 0, 10);
        let has = kit.upload(file, 10, 10);
        kit.copy_all();
        let returns = KeeperId(3);
        kit.reconnect(returns);
        let mut infos = vec![kit.info(has)];
        infos.push(pb::ChunkInfo { chunk: 999, length: 1, checksum: 1 });
        kit.inventory(returns, infos);
        assert!(!copies(&kit, lacks).contains(&3));
        assert!(copies(&kit, has).contains(&3));
        assert!(kit.was_deleted(returns, ChunkId(999)));
        // And the missing one is ordered again at once.
        kit.copy_all();
        assert_eq!(copies(&kit, lacks), [1, 2, 3]);
        // An id that somebody has is not handed out.
        let placed = kit.alloc(file, 0, 1);
        assert!(placed.chunk > 999);
    }

    #[test]
    fn after_a_restoring_chunks_of_before_are_kept_for_a_while() {
        let mut kit = Kit::with_keepers(1);
        let (old, new) = (ChunkId(500), ChunkId(2000));
        let until_ms = kit.now().as_millis() + 60_000;
        kit.state.settings.spared = Some(Spared { below: ChunkId(1000), until_ms });
        let infos = [old, new].map(|chunk| pb::ChunkInfo { chunk: chunk.0, length: 1, checksum: 1 });
        kit.reconnect(KeeperId(1));
        kit.inventory(KeeperId(1), infos.to_vec());
        assert!(!kit.was_deleted(KeeperId(1), old) && kit.was_deleted(KeeperId(1), new));
        kit.pass_ms(60_000);
        kit.reconnect(KeeperId(1));
        kit.inventory(KeeperId(1), infos.to_vec());
        assert!(kit.was_deleted(KeeperId(1), old));
    }

    #[test]
    fn copies_recorded_or_dropped_during_an_inventory_are_not_mistaken() {
        let mut kit = Kit::with_keepers(2);
        let file = kit.create(InodeNo::ROOT, "f");
        let old = kit.upload(file, 0, 10);
        kit.reconnect(KeeperId(1));
        let stale = vec![kit.info(old)];
        let new = kit.upload(file, 50, 10);
        kit.truncate(file, 0);
        let newer = kit.upload(file, 0, 10);
        kit.inventory(KeeperId(1), stale);
        assert!(kit.state.chunks.get(old).is_none() && kit.state.chunks.get(new).is_none());
        assert_eq!(copies(&kit, newer), [1, 2]);
    }

    #[test]
    fn a_copy_that_arrived_and_was_not_heard_of_counts() {
        let mut kit = Kit::with_keepers(2);
        let file = kit.create(InodeNo::ROOT, "f");
        let placed = kit.alloc(file, 0, 10);
        kit.store_on(&placed, &[KeeperId(1)]);
        assert_eq!(kit.pushes().len(), 1, "it waits for a second copy");
        kit.reconnect(KeeperId(2));
        let info = pb::ChunkInfo { chunk: placed.chunk, length: 10, checksum: checksum(placed.chunk) };
        kit.inventory(KeeperId(2), vec![info]);
        assert_eq!(copies(&kit, ChunkId(placed.chunk)), [1, 2]);
        assert_eq!(kit.attr(file).size, 10);
    }

    #[test]
    fn a_copy_that_an_inventory_tells_of_may_have_come_in_a_moment_ago() {
        let mut kit = Kit::with_keepers(3);
        let file = kit.create(InodeNo::ROOT, "f");
        let chunk = kit.upload(file, 0, 10);
        let third = KeeperId([1, 2, 3].into_iter().find(|id| !copies(&kit, chunk).contains(id)).unwrap());
        // It was copied there, and the word of that was lost with the stream.
        kit.reconnect(third);
        kit.inventory(third, vec![kit.info(chunk)]);
        assert_eq!(copies(&kit, chunk), [1, 2, 3]);
        assert!(!kit.state.syncs.is_synced(chunk, third));
        let sync = keeper_down::Msg::Sync(pb::SyncChunks { chunks: vec![chunk.0] });
        assert!(kit.sent.contains(&Effect::ToKeeper(third, sync)), "it is asked to say so");
        kit.synced(third, chunk);
        assert!(kit.state.syncs.is_synced(chunk, third));
    }

    #[test]
    fn a_deletion_that_may_leave_only_now_is_not_undone_by_an_inventory() {
        let mut kit = Kit::with_keepers(4);
        let file = kit.create(InodeNo::ROOT, "f");
        let chunk = kit.upload(file, 0, 10);
        kit.copy_all();
        let has = copies(&kit, chunk);
        has.iter().for_each(|keeper| kit.synced(KeeperId(*keeper), chunk));
        let fourth = KeeperId([1, 2, 3, 4].into_iter().find(|id| !has.contains(id)).unwrap());
        kit.reconnect(fourth);
        kit.inventory(fourth, vec![kit.info(chunk)]);
        kit.synced(fourth, chunk);
        let trimmed = (0..30).any(|_| {
            kit.pass_ms(1_000);
            copies(&kit, chunk).len() == 3
        });
        assert!(trimmed, "one copy is too many");
        let left = copies(&kit, chunk);
        let trimmed = KeeperId([1, 2, 3, 4].into_iter().find(|id| !left.contains(id)).unwrap());
        // The order waits for its batch, or was lost; the keeper comes anew and has the chunk yet.
        kit.sent.clear();
        kit.reconnect(trimmed);
        kit.inventory(trimmed, vec![kit.info(chunk)]);
        assert_eq!(copies(&kit, chunk), left);
        assert!(kit.was_deleted(trimmed, chunk));
        // Also when it is to have a copy again by now, which may never come.
        kit.kill(KeeperId(left[0]));
        kit.reconnect(trimmed);
        assert_eq!(kit.state.orders.destinations(chunk), [trimmed]);
        kit.sent.clear();
        kit.inventory(trimmed, vec![kit.info(chunk)]);
        assert!(kit.was_deleted(trimmed, chunk));
        kit.copy_all();
        assert!(copies(&kit, chunk).contains(&trimmed.0));
    }

    #[test]
    fn a_copy_lost_before_an_inventory_is_missed_though_its_upload_ends_meanwhile() {
        let mut kit = Kit::with_keepers(2);
        let file = kit.create(InodeNo::ROOT, "f");
        let first = kit.alloc(file, 0, 10);
        let second = kit.alloc(file, 10, 10);
        kit.store(&second);
        kit.reconnect(KeeperId(2));
        kit.store_on(&first, &[KeeperId(1), KeeperId(2)]);
        kit.inventory(KeeperId(2), vec![kit.info(ChunkId(first.chunk))]);
        assert_eq!(copies(&kit, ChunkId(first.chunk)), [1, 2]);
        assert_eq!(copies(&kit, ChunkId(second.chunk)), [1]);
    }

    #[test]
    fn a_copy_order_does_not_outlive_word_that_the_copy_is_bad() {
        let mut kit = Kit::with_keepers(3);
        let file = kit.create(InodeNo::ROOT, "f");
        let chunk = kit.upload(file, 0, 10);
        let (order, _, _, to) = kit.pushes()[0];
        kit.bad_copy(to, chunk);
        let info = Some(kit.info(chunk));
        kit.keeper_says(to, keeper_up::Msg::Copied(pb::Copied { info, order }));
        assert!(kit.was_verified(to, chunk), "it may have been said before");
    }

    #[test]
    fn a_keeper_that_comes_anew_is_asked_for_what_may_not_be_synced() {
        let mut kit = Kit::with_keepers(2);
        let file = kit.create(InodeNo::ROOT, "f");
        let chunk = kit.upload(file, 0, 10);
        kit.sent.clear();
        kit.reconnect(KeeperId(2));
        let sync = keeper_down::Msg::Sync(pb::SyncChunks { chunks: vec![chunk.0] });
        assert!(kit.sent.contains(&Effect::ToKeeper(KeeperId(2), sync)));
    }

    #[test]
    fn word_of_a_copy_that_may_be_older_than_its_loss_is_verified() {
        let mut kit = Kit::with_keepers(2);
        let file = kit.create(InodeNo::ROOT, "f");
        // The first keeper's word is late; the second has lost what it had, and come back without it.
        let placed = kit.alloc(file, 0, 10);
        kit.reconnect(KeeperId(2));
        kit.inventory(KeeperId(2), Vec::new());
        kit.store_on(&placed, &[KeeperId(1), KeeperId(2)]);
        let chunk = ChunkId(placed.chunk);
        assert!(kit.was_verified(KeeperId(2), chunk) && !kit.was_verified(KeeperId(1), chunk));
        // It said that its copy is bad before the word came that it has one.
        let placed = kit.alloc(file, 10, 10);
        let chunk = ChunkId(placed.chunk);
        kit.bad_copy(KeeperId(1), chunk);
        kit.store_on(&placed, &[KeeperId(2), KeeperId(1)]);
        assert!(kit.was_verified(KeeperId(1), chunk) && !kit.was_verified(KeeperId(2), chunk));
    }

    #[test]
    fn a_copy_of_another_checksum_does_not_count() {
        let mut kit = Kit::with_keepers(2);
        let file = kit.create(InodeNo::ROOT, "f");
        let chunk = kit.upload(file, 0, 10);
        kit.reconnect(KeeperId(1));
        let mut info = kit.info(chunk);
        info.checksum ^= 1;
        kit.inventory(KeeperId(1), vec![info]);
        assert_eq!(copies(&kit, chunk), [2]);
        assert!(kit.was_verified(KeeperId(1), chunk));
    }

    #[test]
    fn a_bad_copy_is_replaced_and_the_last_one_keeps_its_row() {
        let mut kit = Kit::with_keepers(3);
        let file = kit.create(InodeNo::ROOT, "f");
        let chunk = kit.upload(file, 0, 10);
        kit.copy_all();
        kit.bad_copy(KeeperId(1), chunk);
        assert_eq!(copies(&kit, chunk), [2, 3]);
        kit.copy_all();
        assert_eq!(copies(&kit, chunk), [1, 2, 3]);
        for keeper in [1, 2, 3] {
            kit.bad_copy(KeeperId(keeper), chunk);
        }
        assert!(copies(&kit, chunk).is_empty());
        assert_eq!(kit.state.status(kit.now()).lost, 1);
        assert_eq!(kit.state.status(kit.now()).lost_files, ["/f"]);
    }

    #[test]
    fn what_arrived_and_nobody_needs_is_deleted_and_nothing_else() {
        let mut kit = Kit::with_keepers(2);
        let file = kit.create(InodeNo::ROOT, "f");
        let stored = kit.upload(file, 0, 10);
        let placed = ChunkId(kit.alloc(file, 10, 10).chunk);
        let unknown = ChunkId(900);
        let chunks = vec![stored.0, placed.0, unknown.0];
        kit.keeper_says(KeeperId(2), keeper_up::Msg::Arrived(pb::Arrived { chunks }));
        let deleted = |chunk| kit.was_deleted(KeeperId(2), chunk);
        assert!(deleted(unknown) && !deleted(stored) && !deleted(placed));
    }

    #[test]
    fn reports_are_passed_on_once_a_second() {
        let mut kit = Kit::with_keepers(1);
        let file = kit.create(InodeNo::ROOT, "f");
        let chunk = kit.upload(file, 0, 10);
        let report = pb::ReportBad { chunk: chunk.0, keeper: 1, error: None };
        let mut asked = 0;
        for _ in 0..10 {
            kit.sent.clear();
            kit.ok(pb::mount_request::Op::ReportBad(report.clone()));
            asked += usize::from(kit.was_verified(KeeperId(1), chunk));
            kit.pass_ms(200);
        }
        assert_eq!(asked, 2);
    }
}
