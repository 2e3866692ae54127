//! Moves: chunks that have enough copies, and would have them better elsewhere.
//!
//! A move is one copy more, where it helps; then trimming takes the one that is needed least. Moves come
//! after everything else: only while no pass over chunks that want copies is under way, and few at once.
//!
//! - *Spreading*: when keepers came or changed, a walk through all chunks finds those whose copies could be spread better.
//! - *Rebalancing*, when an operator starts it: from keepers that are fuller than the mean to emptier ones, as long as
//!   no chunk is spread worse for it.
//!
//! What must hold: a move that spreads makes the spread better, and one that rebalances makes it no worse and goes from a
//! keeper that is fuller than the mean to one that is not and stays so. So moves end. Nothing of this is stored.

use std::collections::{BTreeMap, BTreeSet};

use dfs_proto::ids::{ChunkId, KeeperId};
use dfs_proto::pb;

use super::State;
use super::out::Out;

/// Moves of one keeper at once, as source or destination.
const MAX_MOVES: u32 = 2;
/// Chunks that one step of a walk looks at.
const STEP: usize = 512;
/// A walk is made again after this, though nothing is known to have changed.
const SPREAD_EVERY_MS: i64 = 600_000;
/// A keeper is as full as the mean when it is within so many parts of 100 of it, or within two chunks.
const EVEN_PERCENT: u64 = 2;

/// All of it.
#[derive(Default)]
pub(super) struct Moves {
    /// Chunks that get a copy more, or have it and are not trimmed yet; and who is to lose one.
    under_way: BTreeMap<ChunkId, KeeperId>,
    /// Where the walk is; `None`: none is under way.
    spread: Option<ChunkId>,
    spread_wanted: bool,
    next_spread_ms: i64,
    rebalance: Rebalance,
}

/// The last rebalancing.
#[derive(Default)]
struct Rebalance {
    running: bool,
    moved_chunks: u64,
    moved_bytes: u64,
    /// How far the chunks of each source were looked at.
    cursors: BTreeMap<KeeperId, ChunkId>,
    /// Sources that were looked through. When all were and something was moved meanwhile, they are again.
    exhausted: BTreeSet<KeeperId>,
    moved_before: u64,
    ended: &'static str,
}

impl Moves {
    /// Keepers came or changed: there may be better places now.
    pub fn want_spread(&mut self) {
        self.spread_wanted = true;
    }

    /// Who is to lose its copy of a chunk that moves.
    pub fn loser_of(&self, chunk: ChunkId) -> Option<KeeperId> {
        self.under_way.get(&chunk).copied()
    }
}

/// How full a keeper is, and how full it would be if all were as full as the mean; in bytes.
struct Fill {
    used: u64,
    target: u64,
    /// The part that is used, of 2^32.
    part: u64,
}

impl Fill {
    fn over(&self) -> u64 {
        self.used.saturating_sub(self.target)
    }
}

impl State {
    pub(super) fn moves_tick(&mut self, out: &mut Out) {
        self.settle_moves(out);
        if self.is_repairing(out.now_ms) {
            return;
        }
        let moves = &mut self.moves;
        if moves.spread.is_none() && (moves.spread_wanted || out.now_ms >= moves.next_spread_ms) {
            moves.spread_wanted = false;
            moves.next_spread_ms = out.now_ms.saturating_add(SPREAD_EVERY_MS);
            moves.spread = Some(ChunkId(0));
        }
        self.spread_step(out);
        self.rebalance_step(out);
    }

    /// Trims what has arrived, and forgets what failed.
    fn settle_moves(&mut self, out: &mut Out) {
        let under_way: Vec<(ChunkId, KeeperId)> =
            self.moves.under_way.iter().map(|(chunk, victim)| (*chunk, *victim)).collect();
        for (chunk, victim) in under_way {
            if self.chunks.surplus().contains(&chunk) {
                self.trim_one(chunk, out);
            }
            if self.orders_of(chunk) > 0 || self.chunks.surplus().contains(&chunk) {
                continue;
            }
            self.moves.under_way.remove(&chunk);
            let length = self.chunks.get(chunk).map_or(0, |row| row.length);
            let rebalance = &mut self.moves.rebalance;
            if rebalance.running && length > 0 && !self.chunks.has_copy(chunk, victim) {
                rebalance.moved_chunks += 1;
                rebalance.moved_bytes += u64::from(length);
            }
        }
    }

    fn may_move(&self, keeper: KeeperId) -> bool {
        self.keepers.get(&keeper).is_some_and(|keeper| {
            keeper.orders_in + keeper.orders_out < MAX_MOVES && !keeper.row.in_maintenance()
        })
    }

    /// The live copies of a chunk that has exactly as many as are wanted, and with which nothing else goes on.
    fn movable(&self, chunk: ChunkId) -> Option<(u32, Vec<KeeperId>)> {
        let row = self.chunks.get(chunk)?;
        let tally = self.tally(&row.keepers);
        let copies = self.settings.copies;
        let quiet = tally.live == copies && tally.staying == copies && self.orders_of(chunk) == 0;
        let live = || row.keepers.iter().copied().filter(|id| self.is_alive(*id)).collect();
        quiet.then(|| (row.length, live()))
    }

    /// How these copies are spread when `loser` has lost its own to `to`.
    fn crowding_after(&self, live: &[KeeperId], to: KeeperId, loser: KeeperId) -> super::placement::Crowding {
        let after: Vec<KeeperId> = live.iter().copied().filter(|id| *id != loser).chain([to]).collect();
        self.crowding(&after)
    }

    fn order_move(&mut self, chunk: ChunkId, to: KeeperId, loser: KeeperId, out: &mut Out) -> bool {
        let ordered = self.copy_to(chunk, to, out);
        if ordered {
            self.moves.under_way.insert(chunk, loser);
        }
        ordered
    }

    fn spread_step(&mut self, out: &mut Out) {
        for _ in 0..STEP {
            let Some(from) = self.moves.spread else { return };
            let Some(chunk) = self.chunks.next(from) else {
                self.moves.spread = None;
                return;
            };
            if let Some((to, loser)) = self.better_place(chunk) {
                if !self.may_move(to) || !self.order_move(chunk, to, loser, out) {
                    // It is this chunk's turn again with the next tick.
                    return;
                }
                tracing::debug!(%chunk, %to, from = %loser, "a copy moves: it is spread better there");
            }
            self.moves.spread = Some(ChunkId(chunk.0.saturating_add(1)));
        }
    }

    fn better_place(&self, chunk: ChunkId) -> Option<(KeeperId, KeeperId)> {
        let (length, live) = self.movable(chunk)?;
        if self.crowding(&live) == super::placement::Crowding::default() {
            return None;
        }
        let known = self.chunks.get(chunk).map_or(&[][..], |row| &row.keepers);
        let may = |id, keeper: &super::Keeper| !known.contains(&id) && !keeper.row.in_maintenance();
        let to = self.select_beside(length, &live, may)?;
        let with: Vec<KeeperId> = live.iter().copied().chain([to]).collect();
        let loser = self.least_needed(&with)?;
        let better = self.crowding_after(&live, to, loser) < self.crowding(&live);
        (loser != to && better).then_some((to, loser))
    }

    // Rebalancing

    pub(super) fn change_rebalance(&mut self, run: bool) {
        let rebalance = &mut self.moves.rebalance;
        if run && !rebalance.running {
            *rebalance = Rebalance { running: true, ..Rebalance::default() };
        } else if !run && rebalance.running {
            rebalance.running = false;
            rebalance.ended = "stopped by an operator";
        }
    }

    /// How full each keeper is that takes part.
    fn fills(&self) -> BTreeMap<KeeperId, Fill> {
        let part_of = |(_, keeper): &(&KeeperId, &super::Keeper)| {
            keeper.alive && keeper.connected && !keeper.row.draining && !keeper.row.in_maintenance()
        };
        let mut fills: BTreeMap<KeeperId, Fill> = BTreeMap::new();
        let (mut all_used, mut all_space) = (0u128, 0u128);
        let mut spaces: BTreeMap<KeeperId, u64> = BTreeMap::new();
        for (id, keeper) in self.keepers.iter().filter(part_of) {
            let leaving = self.moves.under_way.iter().filter(|(_, victim)| *victim == id);
            let leaving: u64 = leaving
                .filter_map(|(chunk, _)| self.chunks.get(*chunk))
                .map(|row| u64::from(row.length))
                .sum();
            let space = keeper.load.used.saturating_add(keeper.load.free);
            let used = keeper.load.used.saturating_add(keeper.pending_bytes).saturating_sub(leaving);
            all_used += u128::from(used);
            all_space += u128::from(space);
            let part = ((u128::from(used) << 32) / u128::from(space.max(1))) as u64;
            spaces.insert(*id, space);
            fills.insert(*id, Fill { used, target: 0, part });
        }
        for (id, fill) in &mut fills {
            let space = u128::from(spaces.get(id).copied().unwrap_or(0));
            // No more than the space of one keeper.
            fill.target = (space * all_used / all_space.max(1)) as u64;
        }
        fills
    }

    /// How far from the mean is near enough, in bytes.
    fn tolerance(&self, fill: &Fill) -> u64 {
        (fill.target / 100 * EVEN_PERCENT).max(2 * u64::from(self.settings.chunk_size))
    }

    fn are_uneven(&self, fills: &BTreeMap<KeeperId, Fill>) -> bool {
        fills.values().any(|fill| fill.used.abs_diff(fill.target) > self.tolerance(fill))
    }

    fn rebalance_step(&mut self, out: &mut Out) {
        while self.moves.rebalance.running {
            let fills = self.fills();
            let uneven = self.are_uneven(&fills);
            let source = fills
                .iter()
                .filter(|(id, fill)| {
                    uneven && fill.over() > 0 && !self.moves.rebalance.exhausted.contains(id)
                })
                .max_by_key(|(id, fill)| (fill.part, std::cmp::Reverse(**id)))
                .map(|(id, _)| *id);
            let Some(source) = source else {
                if self.moves.under_way.is_empty() {
                    let rebalance = &mut self.moves.rebalance;
                    if uneven && rebalance.moved_chunks > rebalance.moved_before {
                        rebalance.moved_before = rebalance.moved_chunks;
                        rebalance.cursors.clear();
                        rebalance.exhausted.clear();
                        continue;
                    }
                    rebalance.running = false;
                    rebalance.ended = if uneven {
                        "done as far as failure domains and free space allow"
                    } else {
                        "done: all keepers are as full as the mean"
                    };
                    tracing::info!(
                        chunks = rebalance.moved_chunks,
                        bytes = rebalance.moved_bytes,
                        "rebalancing ended"
                    );
                }
                return;
            };
            if !self.may_move(source) || !self.rebalance_from(source, &fills, out) {
                return;
            }
        }
    }

    /// Moves one chunk off a keeper. False: not now.
    fn rebalance_from(&mut self, source: KeeperId, fills: &BTreeMap<KeeperId, Fill>, out: &mut Out) -> bool {
        let from = self.moves.rebalance.cursors.get(&source).copied().unwrap_or(ChunkId(0));
        let step: Vec<ChunkId> = self.chunks.on_from(source, from).take(STEP).collect();
        for chunk in &step {
            if let Some(to) = self.emptier_place(*chunk, source, fills) {
                if !self.may_move(to) {
                    return false;
                }
                self.moves.rebalance.cursors.insert(source, ChunkId(chunk.0.saturating_add(1)));
                return self.order_move(*chunk, to, source, out);
            }
            self.moves.rebalance.cursors.insert(source, ChunkId(chunk.0.saturating_add(1)));
        }
        if step.is_empty() {
            self.moves.rebalance.exhausted.insert(source);
            return true;
        }
        false
    }

    /// The emptiest keeper that could have a chunk instead of `source`.
    fn emptier_place(
        &self,
        chunk: ChunkId,
        source: KeeperId,
        fills: &BTreeMap<KeeperId, Fill>,
    ) -> Option<KeeperId> {
        let (length, live) = self.movable(chunk)?;
        let known = self.chunks.get(chunk).map_or(&[][..], |row| &row.keepers);
        let takes = |id: KeeperId| self.keepers.get(&id).is_some_and(|keeper| keeper.takes(length));
        fills
            .iter()
            .filter(|(id, fill)| {
                let after = fill.used.saturating_add(u64::from(length));
                after <= fill.target && takes(**id) && !known.contains(id)
            })
            .filter(|(id, _)| self.crowding_after(&live, **id, source) <= self.crowding(&live))
            .min_by_key(|(id, fill)| (!self.may_move(**id), fill.part, **id))
            .map(|(id, _)| *id)
    }

    /// What operators see of it.
    pub fn rebalance_status(&self) -> pb::RebalanceStatus {
        let rebalance = &self.moves.rebalance;
        let fills = self.fills();
        let over = if self.are_uneven(&fills) { fills.values().map(Fill::over).sum() } else { 0 };
        pb::RebalanceStatus {
            running: rebalance.running,
            moved_chunks: rebalance.moved_chunks,
            moved_bytes: rebalance.moved_bytes,
            left_bytes: over,
            ended: rebalance.ended.to_owned(),
        }
    }
}

#[cfg(test)]
#[path = "moves_tests.rs"]
mod tests;
