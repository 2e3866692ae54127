//! Keepers: who has joined, who is alive, how full and busy each is.
//!
//! *alive*: heard from within [`DEAD_AFTER_MS`], as the last tick saw it. *connected*: its session's stream is
//! open. A live keeper that is not connected may still serve readers, but gets nothing new: no upload, no copy.
//!
//! What must hold: the indexes over chunks change with every change of `alive`.

use std::collections::BTreeSet;

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::{ChunkId, KeeperId};
use dfs_proto::pb::{self, keeper_down, keeper_up};
use dfs_proto::ticket::TicketKey;
use dfs_proto::{DEAD_AFTER_MS, PROTOCOL_VERSION};

use super::State;
use super::command::Effect;
use super::ids::MAX_FOREIGN_ID;
use super::inventory::Inventory;
use super::out::Out;
use super::row::{KeeperRow, RowKey};

/// Between two heartbeats.
const HEARTBEAT_MS: u32 = 1_000;

/// A keeper takes no new chunk when it would be left with less than this.
const FREE_RESERVE_BYTES: u64 = 16 << 20;

/// One keeper.
pub(super) struct Keeper {
    pub row: KeeperRow,
    pub key: TicketKey,
    pub alive: bool,
    pub connected: bool,
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
    /// Chunks of which it keeps a file that did not verify, and how far they were looked at.
    pub quarantined: BTreeSet<ChunkId>,
    pub quarantine_cursor: ChunkId,
}

impl Keeper {
    /// Known, and away.
    pub fn away(row: KeeperRow, key: TicketKey) -> Keeper {
        Keeper {
            row,
            key,
            alive: false,
            connected: false,
            last_heard_ms: i64::MIN,
            load: pb::Load::default(),
            pending_bytes: 0,
            orders_in: 0,
            orders_out: 0,
            last_placed: 0,
            last_primary: 0,
            inventory: None,
            quarantined: BTreeSet::new(),
            quarantine_cursor: ChunkId(0),
        }
    }

    /// Can be given orders, and has not run out of ways to take bytes.
    pub fn is_writable(&self) -> bool {
        self.alive && self.connected && !self.load.read_only
    }

    /// Has room for a chunk of this length, beside all that is on its way.
    pub fn has_room(&self, length: u32) -> bool {
        let need = self.pending_bytes.saturating_add(u64::from(length)).saturating_add(FREE_RESERVE_BYTES);
        self.load.free >= need
    }

    /// A chunk arrived; the next heartbeat will count it.
    pub fn took(&mut self, length: u32) {
        self.load.free = self.load.free.saturating_sub(u64::from(length));
        self.load.used = self.load.used.saturating_add(u64::from(length));
    }

    /// Begins listening to its inventory of this number.
    pub fn expect_inventory(&mut self, number: u64) {
        self.inventory = Some(Inventory::of(number));
        self.quarantined.clear();
    }

    /// A copy was recorded: the inventory under way may be too old to have it.
    pub fn inventory_recorded(&mut self, chunk: ChunkId) {
        if let Some(inventory) = &mut self.inventory {
            inventory.recorded.insert(chunk);
            inventory.dropped.remove(&chunk);
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
        let row = KeeperRow {
            address: hello.address,
            data_dir: hello.data_dir,
            host: hello.host,
            version: hello.version,
        };
        let known = self.keepers.contains_key(&id);
        let keeper = self.keepers.entry(id).or_insert_with(|| Keeper::away(row.clone(), key.clone()));
        if !known || keeper.row != row {
            keeper.row = row;
            out.touch(RowKey::Keeper(id));
        }
        keeper.load = hello.load.unwrap_or_default();
        keeper.connected = true;
        keeper.expect_inventory(0);
        self.fsck.left(id);
        out.answer(Effect::KeeperAnswer(keeper_down::Msg::Welcome(pb::KeeperWelcome {
            cluster: bytes::Bytes::copy_from_slice(&self.settings.cluster.0),
            keeper: id.0,
            key: key.to_bytes(),
            heartbeat_ms: HEARTBEAT_MS,
            chunk_size: self.settings.chunk_size,
            now: Some(out.steady()),
        })));
        // Orders that the broken stream may have lost are forgotten, and made again.
        self.cancel_orders_at(id);
        self.drop_builds_at(id, out);
        self.heard(id, out);
        self.ask_syncs_again(id, out);
        self.recheck_uploads(out);
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
            self.reindex_all_on(id);
            self.start_scan(out);
        }
    }

    fn reindex_all_on(&mut self, keeper: KeeperId) {
        let chunks: Vec<ChunkId> = self.chunks.on(keeper).collect();
        for chunk in chunks {
            self.reindex(chunk);
        }
    }

    pub(super) fn find_dead_keepers(&mut self, out: &mut Out) {
        let limit = i64::try_from(DEAD_AFTER_MS).unwrap_or(i64::MAX);
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
            let lost = self.chunks.wanting().range(..(1, ChunkId(0))).count();
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

    /// Keepers for a new chunk: the primary, then companions in relay order, `want` in all if there are
    /// so many. Least bytes under way first, then the one that waited longest; companions on other
    /// hosts first; those of `avoid`, and those that others have trouble with, only when nobody else is left.
    ///
    /// # Errors
    /// `NoKeeper`: none is live. `NoSpace`: those that are have no room.
    pub(super) fn place(&mut self, length: u32, want: u32, avoid: &[u64]) -> Result<Vec<KeeperId>, DfsError> {
        let mut chosen: Vec<KeeperId> = Vec::new();
        while chosen.len() < want as usize {
            let next = self
                .keepers
                .iter()
                .filter(|(id, keeper)| {
                    keeper.is_writable() && keeper.has_room(length) && !chosen.contains(id)
                })
                .min_by_key(|(id, keeper)| {
                    let same_host = chosen.iter().any(|c| self.host_of(*c) == Some(&keeper.row.host));
                    let avoided = avoid.contains(&id.0) || self.troubles.is_shunned(**id);
                    let last = if chosen.is_empty() { keeper.last_primary } else { keeper.last_placed };
                    (avoided, same_host, keeper.pending_bytes, last, **id)
                })
                .map(|(id, _)| *id);
            let Some(next) = next else { break };
            // A companion that just failed would only fail again.
            if (avoid.contains(&next.0) || self.troubles.is_shunned(next)) && !chosen.is_empty() {
                break;
            }
            chosen.push(next);
        }
        if chosen.is_empty() {
            return Err(if self.keepers.values().any(|keeper| keeper.alive && keeper.connected) {
                DfsError::new(
                    ErrorCode::NoSpace,
                    "every live keeper is full or read-only; add a keeper or make room",
                )
            } else {
                DfsError::new(ErrorCode::NoKeeper, "no keeper is live: start one, or see why they are gone")
            });
        }
        for (at, id) in chosen.iter().enumerate() {
            self.placements += 1;
            if let Some(keeper) = self.keepers.get_mut(id) {
                keeper.last_placed = self.placements;
                if at == 0 {
                    keeper.last_primary = self.placements;
                }
                keeper.pending_bytes += u64::from(length);
            }
        }
        Ok(chosen)
    }

    pub(super) fn host_of(&self, keeper: KeeperId) -> Option<&String> {
        self.keepers.get(&keeper).map(|keeper| &keeper.row.host)
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

    #[test]
    fn uploads_spread_and_companions_are_on_other_hosts() {
        let mut kit = Kit::new();
        for (id, host) in [(1, "a"), (2, "a"), (3, "b"), (4, "b")] {
            kit.keeper_hello(KeeperId(id), host);
        }
        let file = kit.create(dfs_proto::ids::InodeNo::ROOT, "f");
        let mut primaries = [0; 5];
        for i in 0..40 {
            let placed = kit.alloc(file, i * 10, 10);
            let keepers: Vec<u64> = placed.grant.unwrap().keepers.iter().map(|k| k.keeper).collect();
            assert_eq!(keepers.len(), 2);
            assert_ne!(keepers[0] <= 2, keepers[1] <= 2, "{keepers:?} share a host");
            primaries[keepers[0] as usize] += 1;
        }
        assert!(primaries[1..].iter().all(|n| (5..=15).contains(n)), "{primaries:?}");
    }

    #[test]
    fn full_and_missing_keepers_are_told_apart() {
        let mut kit = Kit::new();
        let file = kit.create(dfs_proto::ids::InodeNo::ROOT, "f");
        assert_eq!(kit.alloc_code(file, 0, 10, &[]), Some(ErrorCode::NoKeeper));
        kit.keeper_hello(KeeperId(1), "h1");
        assert_eq!(kit.alloc_code(file, 0, 10, &[]), None);
        // Nobody else is there, so even one to be avoided is used.
        assert_eq!(kit.alloc_code(file, 0, 10, &[1]), None);
        kit.state.keepers.get_mut(&KeeperId(1)).unwrap().load.read_only = true;
        assert_eq!(kit.alloc_code(file, 0, 10, &[]), Some(ErrorCode::NoSpace));
        kit.keeper_hello(KeeperId(2), "h2");
        kit.state.keepers.get_mut(&KeeperId(2)).unwrap().load.free = FREE_RESERVE_BYTES + 5;
        assert_eq!(kit.alloc_code(file, 0, 10, &[]), Some(ErrorCode::NoSpace));
        assert_eq!(kit.alloc_code(file, 0, 5, &[]), None);
    }
}
