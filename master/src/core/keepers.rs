//! Keepers: who has joined, who is alive, how full and busy each is.
//!
//! *alive*: heard from within [`DEAD_AFTER_MS`], as the last tick saw it. *connected*: its session's stream is
//! open. A live keeper that is not connected may still serve readers, but gets nothing new: no upload, no copy.
//!
//! What must hold: the indexes over chunks change with every change of `alive`.

use std::collections::{BTreeSet, VecDeque};

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::{ChunkId, KeeperId};
use dfs_proto::label;
use dfs_proto::pb::{self, keeper_down, keeper_up};
use dfs_proto::ticket::TicketKey;
use dfs_proto::{DEAD_AFTER_MS, PROTOCOL_VERSION};

use super::State;
use super::command::Effect;
use super::ids::MAX_FOREIGN_ID;
use super::inventory::Inventory;
use super::out::Out;
use super::placement::Spot;
use super::row::{KeeperRow, RowKey};

/// Between two heartbeats.
const HEARTBEAT_MS: u32 = 1_000;
/// A deletion that was ordered before this has left, or never will: the batch that it waits for is long on disk.
const DELETED_BY_MS: i64 = 10_000;

/// One keeper.
pub(super) struct Keeper {
    pub row: KeeperRow,
    /// Where it is, by the row's host and labels.
    pub spot: Spot,
    pub key: TicketKey,
    pub alive: bool,
    pub connected: bool,
    /// Its data port speaks TLS. As it last said; nobody is sent to one that has not said it since the start.
    pub data_tls: bool,
    pub last_heard_ms: i64,
    /// As it last said, less what it has taken since.
    pub load: pb::Load,
    /// Of uploads and copies that are on their way to it.
    pub pending_bytes: u64,
    /// Copy orders to it, and from it.
    pub orders_in: u32,
    pub orders_out: u32,
    /// Number of the last placement on it, and of the last with it as the primary.
    pub last_placed: u64,
    pub last_primary: u64,
    /// While it tells what it has.
    pub inventory: Option<Inventory>,
    /// Deletions that were ordered of late, and when: they may have been lost with a stream, or leave only now, on the next.
    deletions: VecDeque<(i64, ChunkId)>,
    /// Chunks of which it keeps a file that did not verify, and how far they were looked at.
    pub quarantined: BTreeSet<ChunkId>,
    pub quarantine_cursor: ChunkId,
}

impl Keeper {
    /// Known, and away.
    pub fn away(row: KeeperRow, key: TicketKey) -> Keeper {
        Keeper {
            spot: Spot::of(&row),
            row,
            key,
            alive: false,
            connected: false,
            data_tls: false,
            last_heard_ms: i64::MIN,
            load: pb::Load::default(),
            pending_bytes: 0,
            orders_in: 0,
            orders_out: 0,
            last_placed: 0,
            last_primary: 0,
            inventory: None,
            deletions: VecDeque::new(),
            quarantined: BTreeSet::new(),
            quarantine_cursor: ChunkId(0),
        }
    }

    /// A chunk arrived; the next heartbeat will count it.
    pub fn took(&mut self, length: u32) {
        self.load.free = self.load.free.saturating_sub(u64::from(length));
        self.load.used = self.load.used.saturating_add(u64::from(length));
    }

    /// And one went.
    pub fn gave(&mut self, length: u32) {
        self.load.free = self.load.free.saturating_add(u64::from(length));
        self.load.used = self.load.used.saturating_sub(u64::from(length));
    }

    /// Begins listening to its inventory of this number.
    pub fn expect_inventory(&mut self, number: u64) {
        self.inventory = Some(Inventory::of(number));
        self.quarantined.clear();
    }

    /// It is to delete a chunk.
    pub fn deletion_ordered(&mut self, chunk: ChunkId, now_ms: i64) {
        self.deletions.push_back((now_ms, chunk));
    }

    fn forget_old_deletions(&mut self, now_ms: i64) {
        while self.deletions.front().is_some_and(|(at_ms, _)| now_ms.saturating_sub(*at_ms) > DELETED_BY_MS) {
            self.deletions.pop_front();
        }
    }

    /// A copy was recorded: the inventory under way may be too old to have it.
    pub fn inventory_recorded(&mut self, chunk: ChunkId) {
        if let Some(inventory) = &mut self.inventory {
            inventory.recorded.insert(chunk);
            inventory.dropped.remove(&chunk);
            inventory.ordered_before.remove(&chunk);
        }
    }

    /// A copy was dropped: the inventory under way may be too old to lack it.
    pub fn inventory_dropped(&mut self, chunk: ChunkId) {
        if let Some(inventory) = &mut self.inventory {
            inventory.recorded.remove(&chunk);
            inventory.dropped.insert(chunk);
        }
    }
}

impl State {
    pub(super) fn is_alive(&self, keeper: KeeperId) -> bool {
        self.keepers.get(&keeper).is_some_and(|keeper| keeper.alive)
    }

    pub(super) fn count_live(&self, keepers: &[KeeperId]) -> u32 {
        keepers.iter().map(|keeper| u32::from(self.is_alive(*keeper))).sum()
    }

    pub(super) fn keeper_hello(&mut self, hello: pb::KeeperHello, out: &mut Out) {
        if let Err(error) = check_hello(&hello) {
            return out.answer(Effect::KeeperAnswer(keeper_down::Msg::Refused(error.to_wire())));
        }
        let id = if hello.keeper == 0 { self.ids.keeper(out) } else { KeeperId(hello.keeper) };
        self.ids.keeper_in_use(id, out);
        let key = TicketKey::derive(&self.settings.secret, id);
        let known = self.keepers.get(&id).map(|keeper| keeper.row.clone());
        let row = KeeperRow {
            address: hello.address,
            data_dir: hello.data_dir,
            host: hello.host,
            version: hello.version,
            labels: hello.labels.into_iter().map(|label| (label.name, label.value)).collect(),
            ..known.clone().unwrap_or_default()
        };
        // One that was forgotten may come back while uploads to it are yet under way.
        let pending_bytes = if known.is_none() { self.uploading_to(id) } else { 0 };
        let fresh = || Keeper { pending_bytes, ..Keeper::away(row.clone(), key.clone()) };
        let keeper = self.keepers.entry(id).or_insert_with(fresh);
        if known.as_ref() != Some(&row) {
            keeper.spot = Spot::of(&row);
            keeper.row = row;
            out.touch(RowKey::Keeper(id));
        }
        keeper.load = hello.load.unwrap_or_default();
        keeper.connected = true;
        keeper.data_tls = hello.data_tls;
        keeper.expect_inventory(0);
        keeper.forget_old_deletions(out.now_ms);
        if let Some(inventory) = &mut keeper.inventory {
            inventory.ordered_before = keeper.deletions.iter().map(|(_, chunk)| *chunk).collect();
        }
        self.fsck.left(id);
        out.answer(Effect::KeeperAnswer(keeper_down::Msg::Welcome(pb::KeeperWelcome {
            cluster: bytes::Bytes::copy_from_slice(&self.settings.cluster.0),
            keeper: id.0,
            key: key.to_bytes(),
            heartbeat_ms: HEARTBEAT_MS,
            chunk_size: self.settings.chunk_size,
            repair_rate: self.settings.repair_rate,
            now: Some(out.steady()),
        })));
        self.moves.want_spread();
        // Orders that the broken stream may have lost are forgotten, and made again.
        self.cancel_orders_at(id);
        self.drop_builds_at(id, out);
        self.doubt_uploads_at(id, |_| true);
        self.heard(id, out);
        self.syncs.came(id, out.now_ms);
        self.ask_syncs_again(id, out);
        self.recheck_uploads(out);
        self.orders.quiet.keeper_came(out.now_ms);
        self.start_scan(out);
    }

    pub(super) fn keeper_says(&mut self, id: KeeperId, msg: keeper_up::Msg, out: &mut Out) {
        if !self.keepers.get(&id).is_some_and(|keeper| keeper.connected) {
            return;
        }
        self.heard(id, out);
        match msg {
            // A second hello on one stream is the session's business.
            keeper_up::Msg::Hello(_) => {}
            keeper_up::Msg::Heartbeat(beat) => {
                if let (Some(keeper), Some(load)) = (self.keepers.get_mut(&id), beat.load) {
                    keeper.load = load;
                }
                let ack = pb::HeartbeatAck { seq: beat.seq, now: Some(out.steady()) };
                out.for_keeper(id, keeper_down::Msg::Ack(ack));
            }
            keeper_up::Msg::Stored(stored) => self.stored(id, &stored, out),
            keeper_up::Msg::Copied(copied) => self.copied(id, &copied, out),
            keeper_up::Msg::CopyFailed(failed) => self.copy_failed(id, &failed, out),
            keeper_up::Msg::Synced(synced) => self.synced(id, &synced, out),
            keeper_up::Msg::Inventory(page) => self.inventory_page(id, &page, out),
            keeper_up::Msg::BadCopy(bad) => self.bad_copy(id, &bad, out),
            keeper_up::Msg::Arrived(arrived) => self.arrived(id, &arrived, out),
            keeper_up::Msg::Built(built) => self.built(id, &built, out),
            keeper_up::Msg::BuildFailed(failed) => self.build_failed(id, &failed, out),
        }
    }

    pub(super) fn keeper_gone(&mut self, id: KeeperId, out: &mut Out) {
        if let Some(keeper) = self.keepers.get_mut(&id) {
            keeper.connected = false;
            keeper.inventory = None;
            self.fsck.left(id);
            self.cancel_orders_at(id);
            self.drop_builds_at(id, out);
            self.start_scan(out);
        }
    }

    /// Any word from a keeper shows that it lives.
    fn heard(&mut self, id: KeeperId, out: &mut Out) {
        let Some(keeper) = self.keepers.get_mut(&id) else { return };
        keeper.last_heard_ms = out.now_ms;
        if !keeper.alive {
            keeper.alive = true;
            self.syncs.came(id, out.now_ms);
            self.reindex_all_on(id);
            self.start_scan(out);
        }
    }

    pub(super) fn find_dead_keepers(&mut self, out: &mut Out) {
        let limit = i64::try_from(DEAD_AFTER_MS).unwrap_or(i64::MAX);
        self.keepers.values_mut().for_each(|keeper| keeper.forget_old_deletions(out.now_ms));
        let dead: Vec<KeeperId> = self
            .keepers
            .iter()
            .filter(|(_, keeper)| keeper.alive && out.now_ms.saturating_sub(keeper.last_heard_ms) > limit)
            .map(|(id, _)| *id)
            .collect();
        for id in &dead {
            if let Some(keeper) = self.keepers.get_mut(id) {
                keeper.alive = false;
                keeper.inventory = None;
                tracing::warn!(keeper = %id, address = keeper.row.address, "keeper is dead: nothing heard for {DEAD_AFTER_MS} ms");
            }
            self.fsck.left(*id);
            self.cancel_orders_at(*id);
            self.drop_builds_at(*id, out);
            self.reindex_all_on(*id);
        }
        if !dead.is_empty() {
            let lost = self.chunks.wanting().below(1).count();
            if lost > 0 {
                tracing::error!(
                    chunks = lost,
                    "no live keeper has these many chunks: 'dfs status' names the files"
                );
            }
            self.fail_uploads_at(&dead, out);
            self.recheck_uploads(out);
            self.recheck_syncs(out);
            self.start_scan(out);
        }
    }

    /// What was on its way to a keeper arrived, or will not.
    pub(super) fn not_pending(&mut self, keeper: KeeperId, length: u32) {
        if let Some(keeper) = self.keepers.get_mut(&keeper) {
            keeper.pending_bytes = keeper.pending_bytes.saturating_sub(u64::from(length));
        }
    }
}

fn check_hello(hello: &pb::KeeperHello) -> Result<(), DfsError> {
    if hello.protocol_version != PROTOCOL_VERSION {
        let message = format!(
            "this master speaks protocol version {PROTOCOL_VERSION}, keeper at {} version {}: use the same release on both",
            hello.address, hello.protocol_version
        );
        return Err(DfsError::new(ErrorCode::Version, message));
    }
    if hello.address.is_empty() {
        return Err(DfsError::new(
            ErrorCode::Invalid,
            "a keeper must say at which address its data port can be reached",
        ));
    }
    if hello.keeper >= MAX_FOREIGN_ID {
        let message = format!("{} cannot be a keeper's id: the data directory is damaged", hello.keeper);
        return Err(DfsError::new(ErrorCode::Invalid, message));
    }
    if hello.labels.len() > label::MAX_LABELS {
        let message =
            format!("{} labels are too many; give at most {}", hello.labels.len(), label::MAX_LABELS);
        return Err(DfsError::new(ErrorCode::Invalid, message));
    }
    for label in &hello.labels {
        label::check(&label.name, &label.value).map_err(|why| DfsError::new(ErrorCode::Invalid, why))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testkit::Kit;
    use super::*;

    #[test]
    fn a_keeper_dies_after_three_silent_seconds_and_lives_again_when_heard() {
        let mut kit = Kit::with_keepers(1);
        kit.state.keepers.get_mut(&KeeperId(1)).unwrap().last_heard_ms = kit.now_ms();
        kit.pass_silently_ms(3_000);
        assert!(kit.state.is_alive(KeeperId(1)));
        kit.pass_silently_ms(1);
        assert!(!kit.state.is_alive(KeeperId(1)));
        kit.heartbeat(KeeperId(1));
        assert!(kit.state.is_alive(KeeperId(1)));
    }

    #[test]
    fn ids_are_given_taken_over_and_never_given_twice() {
        let mut kit = Kit::with_keepers(2);
        kit.keeper_hello(KeeperId(7), "h7");
        assert_eq!(kit.keeper_hello(KeeperId(0), "h8"), KeeperId(8));
        assert_eq!(kit.keeper_hello(KeeperId(2), "h2"), KeeperId(2));
        kit.restart();
        assert_eq!(kit.keeper_hello(KeeperId(0), "h9"), KeeperId(9));
    }
}
