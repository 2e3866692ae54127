//! The table of chunks: length, checksum, references, copies; and indexes over it.
//!
//! What must hold: `refs` is the number of extents that refer to the chunk, `used` the sum of their lengths; `keepers` is sorted, each once;
//! the index by keeper has exactly the copies; `live` is the number of copies on live keepers; each chunk that wants
//! copies ([`Tally`]) is in `wanting` under that number, each with too many in `surplus`. So nothing ever has to
//! look at every chunk: neither the death of a keeper nor the replication scan.

use std::collections::{BTreeMap, BTreeSet};

use dfs_proto::ids::{ChunkId, KeeperId};
use dfs_proto::pb;

use super::State;
use super::chunk_set::ChunkSet;
use super::holders::Holders;
use super::keepers::Keeper;
use super::out::Out;
use super::row::{ChunkRow, RowKey};
use super::table::Table;

/// One chunk.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    pub length: u32,
    pub checksum: u32,
    pub refs: u32,
    /// Bytes, summed over those extents.
    pub used: u64,
    /// Copies on live keepers, as the indexes have it.
    pub live: u32,
    /// Every copy, on live keepers or not.
    pub keepers: Holders,
}

impl Chunk {
    pub fn to_row(&self) -> ChunkRow {
        ChunkRow { length: self.length, checksum: self.checksum, keepers: self.keepers.to_vec() }
    }

    pub fn info(&self, chunk: ChunkId) -> pb::ChunkInfo {
        pb::ChunkInfo { chunk: chunk.0, length: self.length, checksum: self.checksum }
    }
}

/// Copies of one chunk, counted by what they are worth.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Tally {
    /// On live keepers.
    pub live: u32,
    /// Of those, on keepers that are not being drained.
    pub staying: u32,
    /// On keepers that are being drained, live or not.
    leaving: u32,
    /// Those that stay, and those on keepers that are away and in maintenance.
    counted: u32,
}

impl Tally {
    fn of(copies: impl Iterator<Item = Worth>) -> Tally {
        let mut tally = Tally::default();
        for worth in copies {
            tally.live += u32::from(worth.alive);
            if worth.draining {
                tally.leaving += 1;
            } else {
                tally.staying += u32::from(worth.alive);
                tally.counted += u32::from(worth.alive || worth.in_maintenance);
            }
        }
        tally
    }

    /// How many are to be made: up to `copies`, or, of what a keeper in maintenance has, up to `min_copies`.
    pub fn missing(&self, copies: u32, min_copies: u32) -> u32 {
        copies.saturating_sub(self.counted).max(min_copies.saturating_sub(self.live))
    }

    /// Is one too many?
    pub fn is_surplus(&self, copies: u32) -> bool {
        self.staying > copies || self.staying == copies && self.leaving > 0
    }
}

/// Chunks that want copies, those with the fewest live ones first.
#[derive(Default)]
pub(super) struct Wanting(BTreeMap<u32, ChunkSet>);

impl Wanting {
    pub fn len(&self) -> usize {
        self.0.values().map(ChunkSet::len).sum()
    }

    pub fn contains(&self, live: u32, chunk: ChunkId) -> bool {
        self.0.get(&live).is_some_and(|chunks| chunks.contains(chunk))
    }

    /// The first at or after (live copies, chunk).
    pub fn next(&self, from: (u32, ChunkId)) -> Option<(u32, ChunkId)> {
        let first = |(live, chunks): (&u32, &ChunkSet)| {
            let from = if *live == from.0 { from.1 } else { ChunkId(0) };
            chunks.from(from).next().map(|chunk| (*live, chunk))
        };
        self.0.range(from.0..).find_map(first)
    }

    /// How many have fewer live copies than this.
    pub fn count_below(&self, live: u32) -> u64 {
        self.0.range(..live).map(|(_, chunks)| chunks.len() as u64).sum()
    }

    /// Those with fewer live copies than this.
    pub fn below(&self, live: u32) -> impl Iterator<Item = ChunkId> {
        self.0.range(..live).flat_map(|(_, chunks)| chunks.iter())
    }

    fn insert(&mut self, live: u32, chunk: ChunkId) {
        self.0.entry(live).or_default().insert(chunk);
    }

    fn remove(&mut self, live: u32, chunk: ChunkId) {
        if let Some(chunks) = self.0.get_mut(&live) {
            chunks.remove(chunk);
            if chunks.is_empty() {
                self.0.remove(&live);
            }
        }
    }
}

/// What a copy on a keeper is worth.
#[derive(Clone, Copy)]
struct Worth {
    alive: bool,
    draining: bool,
    in_maintenance: bool,
}

impl Worth {
    fn of(keeper: &Keeper) -> Worth {
        let (draining, in_maintenance) = (keeper.row.draining, keeper.row.in_maintenance());
        Worth { alive: keeper.alive, draining, in_maintenance }
    }
}

/// That of all keepers, close together, by id: whoever counts the copies of many chunks must not look for each keeper in
/// all that is known of it.
struct Worths(Vec<(KeeperId, Worth)>);

impl Worths {
    fn of(&self, keeper: KeeperId) -> Option<Worth> {
        let (first, _) = self.0.first()?;
        // Where it is if all that were ever handed out are still there.
        let guess = usize::try_from(keeper.0.checked_sub(first.0)?).ok()?;
        match self.0.get(guess) {
            Some((id, worth)) if *id == keeper => Some(*worth),
            _ => self.0.binary_search_by_key(&keeper, |(id, _)| *id).ok().map(|at| self.0[at].1),
        }
    }
}

/// All of them.
#[derive(Default)]
pub(super) struct Chunks {
    map: Table<ChunkId, Chunk>,
    by_keeper: BTreeMap<KeeperId, ChunkSet>,
    wanting: Wanting,
    surplus: BTreeSet<ChunkId>,
}

impl Chunks {
    pub fn get(&self, chunk: ChunkId) -> Option<&Chunk> {
        self.map.get(&chunk)
    }

    pub fn iter(&self) -> impl Iterator<Item = (ChunkId, &Chunk)> {
        self.map.iter()
    }

    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Chunks that want copies.
    pub fn wanting(&self) -> &Wanting {
        &self.wanting
    }

    /// Chunks with copies that are not wanted.
    pub fn surplus(&self) -> &BTreeSet<ChunkId> {
        &self.surplus
    }

    /// Copies that a keeper has.
    pub fn on(&self, keeper: KeeperId) -> impl Iterator<Item = ChunkId> {
        self.on_from(keeper, ChunkId(0))
    }

    /// The same, from this chunk on.
    pub fn on_from(&self, keeper: KeeperId, from: ChunkId) -> impl Iterator<Item = ChunkId> {
        self.by_keeper.get(&keeper).into_iter().flat_map(move |on| on.from(from))
    }

    /// The first chunk from this one on.
    pub fn next(&self, from: ChunkId) -> Option<ChunkId> {
        self.map.from(from).next().map(|(chunk, _)| chunk)
    }

    pub fn count_on(&self, keeper: KeeperId) -> usize {
        self.by_keeper.get(&keeper).map_or(0, ChunkSet::len)
    }

    /// A new chunk, or one from the store. Its indexes follow with `State::reindex`.
    pub fn insert(&mut self, id: ChunkId, chunk: Chunk) -> bool {
        for keeper in &*chunk.keepers {
            self.by_keeper.entry(*keeper).or_default().insert(id);
        }
        self.wanting.insert(chunk.live, id);
        self.map.insert(id, chunk).is_none()
    }

    /// One extent of `length` bytes more refers to it.
    pub fn add_ref(&mut self, chunk: ChunkId, length: u32) {
        if let Some(chunk) = self.map.get_mut(&chunk) {
            chunk.refs += 1;
            chunk.used += u64::from(length);
        }
    }

    fn remove(&mut self, id: ChunkId) -> Option<Chunk> {
        let chunk = self.map.remove(&id)?;
        for keeper in &*chunk.keepers {
            self.forget_on(*keeper, id);
        }
        self.wanting.remove(chunk.live, id);
        self.surplus.remove(&id);
        Some(chunk)
    }

    fn forget_on(&mut self, keeper: KeeperId, chunk: ChunkId) {
        if let Some(on) = self.by_keeper.get_mut(&keeper) {
            on.remove(chunk);
            if on.is_empty() {
                self.by_keeper.remove(&keeper);
            }
        }
    }

    /// Is the copy in the table?
    pub fn has_copy(&self, chunk: ChunkId, keeper: KeeperId) -> bool {
        self.get(chunk).is_some_and(|chunk| chunk.keepers.binary_search(&keeper).is_ok())
    }

    fn index(&mut self, id: ChunkId, tally: Tally, copies: u32, min_copies: u32) {
        let Some(chunk) = self.map.get_mut(&id) else { return };
        let before = std::mem::replace(&mut chunk.live, tally.live);
        let wants = tally.missing(copies, min_copies) > 0;
        if before != tally.live || !wants {
            self.wanting.remove(before, id);
        }
        if wants {
            self.wanting.insert(tally.live, id);
        }
        if tally.is_surplus(copies) {
            self.surplus.insert(id);
        } else {
            self.surplus.remove(&id);
        }
    }
}

impl State {
    /// Brings the indexes of a chunk up to date with its copies and who is alive.
    pub(super) fn reindex(&mut self, chunk: ChunkId) {
        if let Some(row) = self.chunks.get(chunk) {
            let tally = self.tally(&row.keepers);
            self.chunks.index(chunk, tally, self.settings.copies, self.settings.min_copies);
        }
    }

    /// Of everything that is on a keeper.
    pub(super) fn reindex_all_on(&mut self, keeper: KeeperId) {
        self.reindex_many(self.chunks.on(keeper).collect());
    }

    /// Of all these.
    pub(super) fn reindex_many(&mut self, chunks: Vec<ChunkId>) {
        let worths = Worths(self.keepers.iter().map(|(id, keeper)| (*id, Worth::of(keeper))).collect());
        for chunk in chunks {
            if let Some(row) = self.chunks.get(chunk) {
                let tally = Tally::of(row.keepers.iter().filter_map(|id| worths.of(*id)));
                self.chunks.index(chunk, tally, self.settings.copies, self.settings.min_copies);
            }
        }
    }

    /// What copies on these keepers are worth.
    pub(super) fn tally(&self, keepers: &[KeeperId]) -> Tally {
        Tally::of(keepers.iter().filter_map(|id| self.keepers.get(id)).map(Worth::of))
    }

    /// Records a copy. Was it new?
    pub(super) fn add_copy(&mut self, chunk: ChunkId, keeper: KeeperId, out: &mut Out) -> bool {
        let Some(row) = self.chunks.map.get_mut(&chunk) else { return false };
        if !row.keepers.insert(keeper) {
            return false;
        }
        self.chunks.by_keeper.entry(keeper).or_default().insert(chunk);
        out.touch(RowKey::Chunk(chunk));
        self.reindex(chunk);
        true
    }

    /// A copy leaves the table, and orders to copy it end. The chunk's row stays, even without a copy: it is lost then,
    /// until one comes back. Was there such a copy?
    pub(super) fn remove_copy(&mut self, chunk: ChunkId, keeper: KeeperId, out: &mut Out) -> bool {
        self.cancel_orders_with(chunk, keeper);
        let Some(row) = self.chunks.map.get_mut(&chunk) else { return false };
        if !row.keepers.remove(keeper) {
            return false;
        }
        self.chunks.forget_on(keeper, chunk);
        self.syncs.forget(chunk, keeper);
        out.touch(RowKey::Chunk(chunk));
        self.reindex(chunk);
        true
    }

    /// One extent of `length` bytes less refers to it; the last one takes it out of the table and off the
    /// keepers.
    pub(super) fn drop_ref(&mut self, chunk: ChunkId, length: u32, out: &mut Out) {
        let Some(row) = self.chunks.map.get_mut(&chunk) else { return };
        row.refs = row.refs.saturating_sub(1);
        row.used = row.used.saturating_sub(u64::from(length));
        if row.refs > 0 {
            // Who is left may be a file that nothing happens to: only a sweep finds it.
            self.compaction.want_sweep();
            return;
        }
        self.cancel_orders_of(chunk);
        let Some(row) = self.chunks.remove(chunk) else { return };
        out.touch(RowKey::Chunk(chunk));
        for keeper in row.keepers.iter().copied() {
            self.syncs.forget(chunk, keeper);
            self.delete_at(keeper, chunk, out);
        }
    }

    /// Tells a keeper to delete a chunk, if it is connected; else its next inventory will.
    pub(super) fn delete_at(&mut self, keeper: KeeperId, chunk: ChunkId, out: &mut Out) {
        if let Some(keeper_state) = self.keepers.get_mut(&keeper) {
            keeper_state.inventory_dropped(chunk);
            if keeper_state.connected {
                keeper_state.deletion_ordered(chunk, out.now_ms);
                out.delete(keeper, chunk);
            }
        }
    }
}
