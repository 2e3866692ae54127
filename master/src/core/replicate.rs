//! Copies: who copies what to whom until every chunk has `copies` live ones, and trimming of what is too much.
//!
//! A pass over the chunks that want copies (`Chunks::wanting`, most endangered first) begins every
//! `replicate_every_ms`, and at once when a keeper dies, leaves or comes. It goes on as orders end, a bounded
//! step at a time, since a keeper has few orders at once. A single chunk is looked at when it is recorded or
//! loses a copy.
//!
//! What must hold: source and destination of an order are two keepers, the source has the chunk, the
//! destination has not; each keeper's counts of orders and bytes under way are those of `Orders::map`.

use std::collections::{BTreeMap, BTreeSet};

use dfs_proto::ids::{ChunkId, KeeperId};
use dfs_proto::pb::{self, keeper_down};

use super::State;
use super::allowance::Allowance;
use super::grant::WRITE_LIFETIME_MS;
use super::out::Out;
use super::quiet_start::QuietStart;
use super::upload::Phase;

/// Orders at once of one keeper as source, and as destination.
const MAX_ORDERS: u32 = 4;
/// As many more for chunks that a client waits for.
const MAX_URGENT_ORDERS: u32 = 2 * MAX_ORDERS;
/// Keepers that yield have one part of so many of the repair rate, and no less than so many bytes a second (the
/// keeper's `pace`).
const YIELDING: u64 = 10;
const YIELDING_AT_LEAST: u64 = 2 << 20;
/// What is soon, for orders.
const SOON_S: u64 = 20;
/// An order that has not ended after this is forgotten; more time is given for what the repair rate makes slow.
const ORDER_LIFETIME_MS: i64 = 60_000;
/// A pair of keepers that failed to copy a chunk is not asked again for this long.
const SHUN_MS: i64 = 10_000;
/// Chunks that one step of a pass looks at.
const STEP: usize = 512;

/// One transfer from keeper to keeper.
pub(super) struct Order {
    pub chunk: ChunkId,
    pub source: KeeperId,
    pub destination: KeeperId,
    length: u32,
    deadline_ms: i64,
}

/// All of them, and how far the pass is.
#[derive(Default)]
pub(super) struct Orders {
    pub map: BTreeMap<u64, Order>,
    by_chunk: BTreeSet<(ChunkId, u64)>,
    last: u64,
    /// (chunk, source, destination) that failed, until when.
    shunned: BTreeMap<(ChunkId, KeeperId, KeeperId), i64>,
    /// Where the pass over chunks that want copies is; `None`: it is over.
    cursor: Option<(u32, ChunkId)>,
    /// This pass left out chunks because keepers were busy.
    left_out: bool,
    trim_cursor: Option<ChunkId>,
    next_pass_ms: i64,
    pub quiet: QuietStart,
    allowance: Allowance,
    /// Copied since the start.
    pub copied_chunks: u64,
    pub copied_bytes: u64,
}

impl Orders {
    /// Where copies of a chunk are on their way to.
    pub fn destinations(&self, chunk: ChunkId) -> Vec<KeeperId> {
        self.of(chunk).filter_map(|order| self.map.get(&order)).map(|order| order.destination).collect()
    }

    fn of(&self, chunk: ChunkId) -> impl Iterator<Item = u64> {
        self.by_chunk.range((chunk, 0)..=(chunk, u64::MAX)).map(|(_, order)| *order)
    }
}

/// What came of looking at one chunk.
#[derive(PartialEq, Eq)]
enum Looked {
    /// It has its copies, or they are on their way, or nobody could take or give them.
    Done,
    /// Keepers that could have too many orders now.
    Busy,
}

/// A chunk that is to be copied.
pub(super) struct Subject {
    pub info: pb::ChunkInfo,
    pub holders: Vec<KeeperId>,
    /// Copies to be made.
    pub missing: u32,
    /// It has fewer live copies than are safe, or somebody waits for it.
    pub urgent: bool,
    pub max_orders: u32,
}

impl State {
    pub(super) fn subject(&self, chunk: ChunkId) -> Option<Subject> {
        if let Some(row) = self.chunks.get(chunk) {
            let missing = self.tally(&row.keepers).missing(self.settings.copies, self.settings.min_copies);
            let urgent = row.live < self.settings.min_copies;
            let (info, holders) = (row.info(chunk), row.keepers.to_vec());
            return Some(Subject { info, holders, missing, urgent, max_orders: self.max_orders() });
        }
        if let Some(subject) = self.built_subject(chunk) {
            return Some(subject);
        }
        let upload = self.uploads.get(&chunk)?;
        let Phase::Stored { checksum } = upload.phase else { return None };
        let info = pb::ChunkInfo { chunk: chunk.0, length: upload.length, checksum };
        let missing = self.copies_needed(upload).saturating_sub(self.count_live(&upload.holders));
        let holders = upload.holders.clone();
        Some(Subject { info, holders, missing, urgent: true, max_orders: MAX_URGENT_ORDERS })
    }

    /// The live keeper that the chunk is copied from: the least busy. `refused` cannot.
    fn get_source_machine(&self, subject: &Subject, refused: &[KeeperId]) -> Option<KeeperId> {
        subject
            .holders
            .iter()
            .filter(|id| !refused.contains(id))
            .filter_map(|id| self.keepers.get(id).map(|keeper| (id, keeper)))
            .filter(|(_, keeper)| keeper.alive && keeper.connected && keeper.orders_out < subject.max_orders)
            .min_by_key(|(id, keeper)| (keeper.orders_out, keeper.load.active_reads, **id))
            .map(|(id, _)| *id)
    }

    /// The live keeper that gets the copy: one that has none, chosen as `placement` does. Copies that are to go count
    /// for nothing. One that has too many orders is waited for, rather than have the copy spread worse, unless the
    /// copy is urgent.
    fn select_machine_to_copy_to(
        &self,
        chunk: ChunkId,
        subject: &Subject,
        source: KeeperId,
    ) -> Option<KeeperId> {
        let counts = |id: &&KeeperId| self.is_alive(**id) && !self.is_draining(**id);
        let mut others: Vec<KeeperId> = subject.holders.iter().filter(counts).copied().collect();
        others.extend(self.orders.destinations(chunk));
        let has_few = |keeper: &super::Keeper| keeper.orders_in < subject.max_orders;
        let best = self.select_beside(subject.info.length, &others, |id, keeper| {
            id != source
                && !subject.holders.contains(&id)
                && (has_few(keeper) || !subject.urgent)
                && !self.orders.shunned.contains_key(&(chunk, source, id))
        });
        best.filter(|id| self.keepers.get(id).is_some_and(has_few))
    }

    /// Tells both: the destination what will come, then the source where to send it.
    fn notify_machine_data_transfer(
        &mut self,
        subject: &Subject,
        source: KeeperId,
        destination: KeeperId,
        out: &mut Out,
    ) {
        let (info, urgent) = (subject.info, subject.urgent);
        assert_ne!(source, destination, "a chunk cannot be copied to where it is");
        let chunk = ChunkId(info.chunk);
        self.orders.last += 1;
        let number = self.orders.last;
        let deadline_ms = out.now_ms.saturating_add(self.order_lifetime_ms());
        let order = Order { chunk, source, destination, length: info.length, deadline_ms };
        self.orders.map.insert(number, order);
        self.orders.by_chunk.insert((chunk, number));
        if let Some(keeper) = self.keepers.get_mut(&source) {
            keeper.orders_out += 1;
        }
        if let Some(keeper) = self.keepers.get_mut(&destination) {
            keeper.orders_in += 1;
            keeper.pending_bytes += u64::from(info.length);
        }
        let expires_ms = out.now_ms + WRITE_LIFETIME_MS;
        let grant = self.grant(chunk, pb::TicketOp::Copy, &[destination], info.length, expires_ms);
        let expect = pb::ExpectChunk { order: number, info: Some(info), source: source.0 };
        out.for_keeper(destination, keeper_down::Msg::Expect(expect));
        let push = pb::PushChunk { order: number, chunk: chunk.0, grant: Some(grant), urgent };
        out.for_keeper(source, keeper_down::Msg::Push(push));
    }

    /// Orders what one chunk lacks.
    fn look_at(&mut self, chunk: ChunkId, out: &mut Out) -> Looked {
        let Some(subject) = self.subject(chunk) else { return Looked::Done };
        if self.count_live(&subject.holders) == 0 {
            return Looked::Done;
        }
        let coming = u32::try_from(self.orders.of(chunk).count()).unwrap_or(u32::MAX);
        for _ in coming..subject.missing {
            let mut refused = Vec::new();
            let pair = loop {
                let Some(source) = self.get_source_machine(&subject, &refused) else { break None };
                match self.select_machine_to_copy_to(chunk, &subject, source) {
                    Some(destination) => break Some((source, destination)),
                    None => refused.push(source),
                }
            };
            match pair {
                Some((source, destination)) => {
                    self.notify_machine_data_transfer(&subject, source, destination, out);
                }
                None if self.is_busy(&subject) => return Looked::Busy,
                None => return Looked::Done,
            }
        }
        Looked::Done
    }

    /// Could it be that some keeper only has too many orders?
    fn is_busy(&self, subject: &Subject) -> bool {
        let full = |id: &KeeperId, orders: u32| orders >= subject.max_orders && self.is_alive(*id);
        self.keepers.iter().any(|(id, keeper)| {
            if subject.holders.contains(id) {
                full(id, keeper.orders_out)
            } else {
                full(id, keeper.orders_in) && keeper.is_writable() && !keeper.row.draining
            }
        })
    }

    /// Looks at one chunk now; if keepers are busy, the pass comes to it.
    pub(super) fn replicate_now(&mut self, chunk: ChunkId, out: &mut Out) {
        if self.look_at(chunk, out) == Looked::Busy && self.orders.cursor.is_none() {
            self.orders.cursor = Some((0, ChunkId(0)));
        }
    }

    /// Begins a pass.
    pub(super) fn start_scan(&mut self, out: &mut Out) {
        self.orders.cursor = Some((0, ChunkId(0)));
        self.orders.left_out = false;
        self.orders.trim_cursor = Some(ChunkId(0));
        self.go_on(out);
    }

    /// One step of the pass.
    fn go_on(&mut self, out: &mut Out) {
        if self.orders.quiet.is_on(out.now_ms) {
            return;
        }
        for _ in 0..STEP {
            let Some(cursor) = self.orders.cursor else { return };
            if !self.has_free_slots() || !self.orders.allowance.take(out.now_ms, self.keepers.len()) {
                return;
            }
            let Some((live, chunk)) = self.chunks.wanting().next(cursor) else {
                // Those that were left out get another pass, with the next step.
                self.orders.cursor = self.orders.left_out.then_some((0, ChunkId(0)));
                self.orders.left_out = false;
                return;
            };
            self.orders.cursor = Some((live, ChunkId(chunk.0.saturating_add(1))));
            if self.look_at(chunk, out) == Looked::Busy {
                self.orders.left_out = true;
            }
        }
    }

    fn has_free_slots(&self) -> bool {
        let mut keepers = self.keepers.values().filter(|keeper| keeper.alive && keeper.connected);
        let mut others = keepers.clone();
        let max_orders = self.max_orders();
        keepers.any(|keeper| keeper.orders_out < max_orders)
            && others.any(|keeper| keeper.is_writable() && keeper.orders_in < max_orders)
    }

    /// What is left of the repair rate while keepers yield to clients, in bytes a second.
    fn slowest_rate(&self) -> u64 {
        (self.settings.repair_rate / YIELDING).max(YIELDING_AT_LEAST).min(self.settings.repair_rate).max(1)
    }

    /// No more orders at once than a keeper can carry out soon, also while it yields.
    pub(super) fn max_orders(&self) -> u32 {
        let soon =
            self.slowest_rate().saturating_mul(SOON_S) / (2 * u64::from(self.settings.chunk_size.max(1)));
        u32::try_from(soon).unwrap_or(u32::MAX).clamp(1, MAX_ORDERS)
    }

    /// A keeper has up to so many orders out, as many in, and a build.
    fn order_lifetime_ms(&self) -> i64 {
        let at_once = u64::from(2 * self.max_orders() + 1) * u64::from(self.settings.chunk_size);
        let slow_ms = at_once.saturating_mul(2_000) / self.slowest_rate();
        ORDER_LIFETIME_MS.saturating_add(i64::try_from(slow_ms).unwrap_or(i64::MAX))
    }

    /// Is there, or may there be, something that is more important than moves?
    pub(super) fn is_repairing(&self, now_ms: i64) -> bool {
        self.orders.quiet.is_on(now_ms) || self.orders.cursor.is_some()
    }

    pub(super) fn orders_of(&self, chunk: ChunkId) -> usize {
        self.orders.of(chunk).count()
    }

    /// Has one copy more made there. False: nobody can give it now.
    pub(super) fn copy_to(&mut self, chunk: ChunkId, to: KeeperId, out: &mut Out) -> bool {
        let Some(subject) = self.subject(chunk) else { return false };
        let shunned = |source: &KeeperId| self.orders.shunned.contains_key(&(chunk, *source, to));
        let refused: Vec<KeeperId> = subject.holders.iter().copied().filter(shunned).collect();
        let Some(source) = self.get_source_machine(&subject, &refused).filter(|source| *source != to) else {
            return false;
        };
        self.notify_machine_data_transfer(&subject, source, to, out);
        true
    }

    pub(super) fn replicate_tick(&mut self, out: &mut Out) {
        if out.now_ms >= self.orders.next_pass_ms {
            let every_ms = i64::try_from(self.settings.replicate_every_ms).unwrap_or(i64::MAX);
            self.orders.next_pass_ms = out.now_ms.saturating_add(every_ms);
            self.start_scan(out);
        } else {
            self.go_on(out);
        }
        self.trim(out);
    }

    /// Deletes what is too much, one copy of a chunk at a time: the one that is needed least, if after it `copies` on
    /// stable storage are left.
    fn trim(&mut self, out: &mut Out) {
        let Some(from) = self.orders.trim_cursor else { return };
        let step: Vec<ChunkId> = self.chunks.surplus().range(from..).take(STEP).copied().collect();
        self.orders.trim_cursor = step.last().map(|chunk| ChunkId(chunk.0.saturating_add(1)));
        for chunk in step {
            self.trim_one(chunk, out);
        }
    }

    pub(super) fn trim_one(&mut self, chunk: ChunkId, out: &mut Out) {
        let Some(row) = self.chunks.get(chunk) else { return };
        let is_safe = |id: &KeeperId| self.is_alive(*id) && self.syncs.is_synced(chunk, *id);
        let (leaving, staying): (Vec<KeeperId>, Vec<KeeperId>) =
            row.keepers.iter().partition(|id| self.is_draining(**id));
        let staying: Vec<KeeperId> = staying.into_iter().filter(is_safe).collect();
        let copies = self.settings.copies as usize;
        let victim = match leaving.first() {
            _ if staying.len() > copies => {
                let is_connected =
                    |id: &KeeperId| self.keepers.get(id).is_some_and(|keeper| keeper.connected);
                let here: Vec<KeeperId> = staying.into_iter().filter(is_connected).collect();
                let moving = self.moves.loser_of(chunk).filter(|loser| here.contains(loser));
                moving.or_else(|| self.least_needed(&here))
            }
            Some(leaving) if staying.len() == copies => Some(*leaving),
            _ => None,
        };
        let length = row.length;
        let Some(keeper) = victim else {
            // Word that the others are synced may have been lost with a stream.
            return self.ask_to_sync(chunk, out);
        };
        self.remove_copy(chunk, keeper, out);
        self.delete_at(keeper, chunk, out);
        if let Some(keeper) = self.keepers.get_mut(&keeper) {
            keeper.gave(length);
        }
    }

    /// A copy has arrived.
    pub(super) fn copied(&mut self, by: KeeperId, copied: &pb::Copied, out: &mut Out) {
        let Some(info) = copied.info else { return };
        let chunk = ChunkId(info.chunk);
        let ordered = self.end_order(copied.order, chunk, |order| order.destination == by).is_some();
        self.troubles.served(by);
        match self.subject(chunk) {
            Some(subject) if subject.info == info => {
                if self.chunks.get(chunk).is_none() {
                    self.copy_under_way(chunk, by, out);
                } else if self.add_copy(chunk, by, out) {
                    self.orders.copied_chunks += u64::from(ordered);
                    self.orders.copied_bytes += u64::from(ordered) * u64::from(info.length);
                    self.syncs.add(chunk, by);
                    if !ordered {
                        // Old news: it may have been deleted since.
                        self.ask_to_verify(chunk, by, out);
                    }
                    if let Some(keeper) = self.keepers.get_mut(&by) {
                        keeper.took(info.length);
                        keeper.inventory_recorded(chunk);
                    }
                    self.ask_sync_if_waited_for(chunk, out);
                }
            }
            // Gone meanwhile, or other bytes than we know of: worth nothing.
            _ => {
                self.remove_copy(chunk, by, out);
                self.delete_unneeded(by, chunk, out);
            }
        }
        self.go_on(out);
    }

    /// A keeper has a copy of a chunk that is not in the table yet.
    pub(super) fn copy_under_way(&mut self, chunk: ChunkId, at: KeeperId, out: &mut Out) {
        if self.compaction.jobs.contains_key(&chunk) {
            self.built_gained_copy(chunk, at, out);
        } else {
            self.upload_gained_copy(chunk, at, false);
            self.advance(chunk, out);
        }
    }

    pub(super) fn copy_failed(&mut self, by: KeeperId, failed: &pb::CopyFailed, out: &mut Out) {
        let chunk = ChunkId(failed.chunk);
        let ended =
            self.end_order(failed.order, chunk, |order| order.source == by || order.destination == by);
        if let Some(order) = ended {
            let code = failed.error.as_ref().map(pb::Error::code);
            if by == order.source && matches!(code, Some(pb::Code::Unavailable | pb::Code::TimedOut)) {
                self.troubles.keeper_failed(order.destination, out.now_ms);
            }
            self.shun(&order, out.now_ms);
            self.replicate_now(chunk, out);
        }
        self.go_on(out);
    }

    fn shun(&mut self, order: &Order, now_ms: i64) {
        self.orders.shunned.insert((order.chunk, order.source, order.destination), now_ms + SHUN_MS);
    }

    pub(super) fn expire_orders(&mut self, out: &mut Out) {
        self.orders.shunned.retain(|_, until_ms| *until_ms > out.now_ms);
        let late: Vec<(u64, ChunkId)> = self
            .orders
            .map
            .iter()
            .filter(|(_, order)| out.now_ms >= order.deadline_ms)
            .map(|(number, order)| (*number, order.chunk))
            .collect();
        for (number, chunk) in late {
            if let Some(order) = self.end_order(number, chunk, |_| true) {
                self.shun(&order, out.now_ms);
                self.replicate_now(chunk, out);
            }
        }
    }

    fn end_order(&mut self, number: u64, chunk: ChunkId, is_it: impl Fn(&Order) -> bool) -> Option<Order> {
        self.orders.map.get(&number).filter(|order| order.chunk == chunk && is_it(order))?;
        let order = self.orders.map.remove(&number)?;
        self.orders.by_chunk.remove(&(chunk, number));
        if let Some(keeper) = self.keepers.get_mut(&order.source) {
            keeper.orders_out = keeper.orders_out.saturating_sub(1);
        }
        if let Some(keeper) = self.keepers.get_mut(&order.destination) {
            keeper.orders_in = keeper.orders_in.saturating_sub(1);
        }
        self.not_pending(order.destination, order.length);
        Some(order)
    }

    /// The chunk is not wanted any more.
    pub(super) fn cancel_orders_of(&mut self, chunk: ChunkId) {
        let orders: Vec<u64> = self.orders.of(chunk).collect();
        for number in orders {
            self.end_order(number, chunk, |_| true);
        }
    }

    /// The keeper does not have this chunk any more, nor is it sure that it is getting it.
    pub(super) fn cancel_orders_with(&mut self, chunk: ChunkId, keeper: KeeperId) {
        let orders: Vec<u64> = self.orders.of(chunk).collect();
        for number in orders {
            self.end_order(number, chunk, |order| order.source == keeper || order.destination == keeper);
        }
    }

    /// The keeper is gone.
    pub(super) fn cancel_orders_at(&mut self, keeper: KeeperId) {
        let orders: Vec<(u64, ChunkId)> = self
            .orders
            .map
            .iter()
            .filter(|(_, order)| order.source == keeper || order.destination == keeper)
            .map(|(number, order)| (*number, order.chunk))
            .collect();
        for (number, chunk) in orders {
            self.end_order(number, chunk, |_| true);
        }
    }

    /// What invariants look at: by chunk, the numbers of its orders.
    pub(super) fn orders_index(&self) -> impl Iterator<Item = (ChunkId, u64)> {
        self.orders.by_chunk.iter().copied()
    }
}

#[cfg(test)]
#[path = "replicate_tests.rs"]
mod tests;
