//! The jobs of compaction: one new chunk each.
//!
//! A keeper is ordered to build the chunk of parts of old ones; it is copied to others; and when enough of them have it on
//! stable storage, the extents are swapped in one command. Only parts that still refer to the bytes that they referred
//! to when the order was given are swapped: chunks never change, so the same place in the same chunk is the same bytes.
//!
//! What must hold: a job's chunk is not in the table; it is on its way at `builder` until `checksum` is known, and from
//! then on `holders` have it; the old chunks lose their extents only when the new one has as many synced live copies as
//! are wanted and can be had, and no fewer than `min_copies`. After a crash a chunk that no extent refers to is
//! garbage, which inventories find.

use std::collections::BTreeMap;

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::{ChunkId, InodeNo, KeeperId};
use dfs_proto::pb::{self, keeper_down};

use super::State;
use super::chunks::Chunk;
use super::compact_plan::Window;
use super::content::Span;
use super::grant::WRITE_LIFETIME_MS;
use super::holders::Holders;
use super::out::Out;
use super::replicate::Subject;
use super::row::RowKey;

/// A job has this long to be built, and as long again to be copied.
const JOB_LIFETIME_MS: i64 = WRITE_LIFETIME_MS;
/// A keeper with more requests under way than this builds nothing.
const BUSY_REQUESTS: u32 = 8;
/// Keepers that one source of a build names: the order has thousands of sources.
const MAX_SOURCE_KEEPERS: usize = 3;

/// A chunk that is being built.
pub(super) struct Job {
    pub inode: InodeNo,
    /// What it will hold, in order.
    items: Vec<(u64, Span)>,
    pub length: u32,
    pub builder: KeeperId,
    /// `None`: not built yet.
    pub checksum: Option<u32>,
    /// That have it: sorted, each once.
    pub holders: Vec<KeeperId>,
    deadline_ms: i64,
}

/// What came of giving an order.
pub(super) enum Given {
    Yes,
    /// No keeper can take it now.
    Busy,
    /// The file has changed, or a chunk has no live copy.
    Obsolete,
}

impl State {
    /// The parts of [start, start + length of `was`) that still refer to what they referred to.
    fn unchanged(&self, inode: InodeNo, start: u64, was: Span) -> Vec<(u64, Span)> {
        let same = |(at, now): &(u64, Span)| {
            let offset = u64::from(was.chunk_offset) + (at - start);
            now.chunk == was.chunk && u64::from(now.chunk_offset) == offset
        };
        self.extents_within(inode, start, start + u64::from(was.length)).filter(same).collect()
    }

    /// Has one window built.
    pub(super) fn order_build(&mut self, inode: InodeNo, window: &Window, out: &mut Out) -> Given {
        let whole = |(start, span): &(u64, Span)| {
            let parts = self.unchanged(inode, *start, *span);
            parts.iter().map(|(_, part)| u64::from(part.length)).sum::<u64>() == u64::from(span.length)
                && self.chunks.get(span.chunk).is_some_and(|chunk| chunk.live > 0)
        };
        if !window.items.iter().all(whole) {
            return Given::Obsolete;
        }
        let Some(builder) = self.select_machine_to_build_on(window) else { return Given::Busy };
        let chunk = self.ids.chunk(out);
        let order = self.build_order(chunk, window, out.now_ms);
        out.for_keeper(builder, keeper_down::Msg::Build(order));
        if let Some(keeper) = self.keepers.get_mut(&builder) {
            keeper.pending_bytes += u64::from(window.length);
        }
        let job = Job {
            inode,
            items: window.items.clone(),
            length: window.length,
            builder,
            checksum: None,
            holders: Vec::new(),
            deadline_ms: out.now_ms + JOB_LIFETIME_MS,
        };
        self.compaction.jobs.insert(chunk, job);
        Given::Yes
    }

    /// A keeper that is not busy, and has as much as possible of what is packed. `None` also when there are not
    /// enough live keepers to hold the new chunk.
    fn select_machine_to_build_on(&self, window: &Window) -> Option<KeeperId> {
        let able = self.keepers.values().filter(|keeper| keeper.takes(window.length)).count();
        let jobs = &self.compaction.jobs;
        if able < self.settings.min_copies as usize || jobs.len() >= 2 * able {
            return None;
        }
        let mut here: BTreeMap<KeeperId, u64> = BTreeMap::new();
        for (_, span) in &window.items {
            for keeper in self.chunks.get(span.chunk).into_iter().flat_map(|chunk| &*chunk.keepers) {
                *here.entry(*keeper).or_default() += u64::from(span.length);
            }
        }
        let builds = |id| jobs.values().any(|job| job.builder == id && job.checksum.is_none());
        self.keepers
            .iter()
            .filter(|(id, keeper)| {
                let requests = keeper.load.active_reads.saturating_add(keeper.load.active_writes);
                keeper.takes(window.length)
                    && !keeper.row.in_maintenance()
                    && requests <= BUSY_REQUESTS
                    && keeper.orders_in + keeper.orders_out < self.max_orders()
                    && !builds(**id)
            })
            .max_by_key(|(id, keeper)| (here.get(id).copied(), keeper.load.free, std::cmp::Reverse(**id)))
            .map(|(id, _)| *id)
    }

    fn build_order(&mut self, chunk: ChunkId, window: &Window, now_ms: i64) -> pb::BuildChunk {
        let mut order = pb::BuildChunk { chunk: chunk.0, ..pb::BuildChunk::default() };
        let mut numbers: BTreeMap<ChunkId, u32> = BTreeMap::new();
        for (_, span) in &window.items {
            let fresh = numbers.len() as u32;
            let source = *numbers.entry(span.chunk).or_insert(fresh);
            if source == fresh {
                order.sources.extend(self.source_of(span.chunk, MAX_SOURCE_KEEPERS, now_ms));
            }
            match order.pieces.last_mut() {
                Some(last) if last.source == source && last.offset + last.length == span.chunk_offset => {
                    last.length += span.length;
                }
                _ => order.pieces.push(pb::BuildPiece {
                    source,
                    offset: span.chunk_offset,
                    length: span.length,
                }),
            }
        }
        order
    }

    /// A keeper has built a chunk, and synced it.
    pub(super) fn built(&mut self, by: KeeperId, built: &pb::ChunkBuilt, out: &mut Out) {
        self.doubt_sources(&built.bad, out);
        let Some(info) = built.info else { return };
        let chunk = ChunkId(info.chunk);
        let ours = |job: &&mut Job| job.builder == by && job.checksum.is_none() && job.length == info.length;
        let Some(job) = self.compaction.jobs.get_mut(&chunk).filter(ours) else {
            // Nobody waits for it any more.
            if self.chunks.get(chunk).is_none() && !self.compaction.jobs.contains_key(&chunk) {
                self.delete_unneeded(by, chunk, out);
            }
            return;
        };
        job.checksum = Some(info.checksum);
        job.holders = vec![by];
        job.deadline_ms = out.now_ms + JOB_LIFETIME_MS;
        self.not_pending(by, info.length);
        if let Some(keeper) = self.keepers.get_mut(&by) {
            keeper.took(info.length);
            keeper.inventory_recorded(chunk);
        }
        self.advance_job(chunk, out);
    }

    pub(super) fn build_failed(&mut self, by: KeeperId, failed: &pb::BuildFailed, out: &mut Out) {
        self.doubt_sources(&failed.bad, out);
        let chunk = ChunkId(failed.chunk);
        if self.compaction.jobs.get(&chunk).is_some_and(|job| job.builder == by && job.checksum.is_none()) {
            let why = failed.error.clone().map(DfsError::from_wire);
            let why = why.unwrap_or_else(|| DfsError::new(ErrorCode::Io, "it did not say why"));
            tracing::warn!(keeper = %by, %chunk, "compaction is put off: {why}");
            self.drop_job(chunk, true, out);
        }
    }

    fn doubt_sources(&mut self, bad: &[pb::BadSource], out: &mut Out) {
        for source in bad {
            self.doubt_copy(ChunkId(source.chunk), KeeperId(source.keeper), out);
        }
    }

    /// What `replicate` has to know of a chunk that is built and not in a file yet.
    pub(super) fn built_subject(&self, chunk: ChunkId) -> Option<Subject> {
        let job = self.compaction.jobs.get(&chunk)?;
        let info = pb::ChunkInfo { chunk: chunk.0, length: job.length, checksum: job.checksum? };
        let missing = self.copies_before_swap(job).saturating_sub(self.count_live(&job.holders));
        let holders = job.holders.clone();
        Some(Subject { info, holders, missing, urgent: false, max_orders: self.max_orders() })
    }

    /// No byte may rest on fewer copies after the swap than before: as many as are wanted, if there are so many
    /// keepers.
    fn copies_before_swap(&self, job: &Job) -> u32 {
        let able = self
            .keepers
            .iter()
            .filter(|(id, keeper)| keeper.takes(job.length) || keeper.alive && job.holders.contains(id));
        let able = u32::try_from(able.count()).unwrap_or(u32::MAX);
        able.min(self.settings.copies).max(self.settings.min_copies)
    }

    /// A copy of a built chunk has arrived; it is not synced yet.
    pub(super) fn built_gained_copy(&mut self, chunk: ChunkId, by: KeeperId, out: &mut Out) {
        let Some(job) = self.compaction.jobs.get_mut(&chunk) else { return };
        let Err(at) = job.holders.binary_search(&by) else { return };
        job.holders.insert(at, by);
        let length = job.length;
        self.syncs.add(chunk, by);
        if let Some(keeper) = self.keepers.get_mut(&by) {
            keeper.took(length);
            keeper.inventory_recorded(chunk);
        }
        out.sync(by, chunk);
    }

    /// Copies of built chunks turned out to be gone from a keeper.
    pub(super) fn built_lost_copies(
        &mut self,
        keeper: KeeperId,
        is_gone: impl Fn(&ChunkId) -> bool,
        out: &mut Out,
    ) {
        let held = |(chunk, job): &(&ChunkId, &Job)| job.holders.contains(&keeper) && is_gone(chunk);
        let gone: Vec<ChunkId> = self.compaction.jobs.iter().filter(held).map(|(chunk, _)| *chunk).collect();
        for chunk in gone {
            self.syncs.forget(chunk, keeper);
            self.cancel_orders_with(chunk, keeper);
            let Some(job) = self.compaction.jobs.get_mut(&chunk) else { continue };
            job.holders.retain(|holder| *holder != keeper);
            if job.holders.is_empty() {
                self.drop_job(chunk, true, out);
            }
        }
    }

    /// A keeper's stream is gone, and orders to build with it.
    pub(super) fn drop_builds_at(&mut self, keeper: KeeperId, out: &mut Out) {
        let building = |job: &Job| job.builder == keeper && job.checksum.is_none();
        self.drop_jobs(building, out);
    }

    pub(super) fn end_late_jobs(&mut self, out: &mut Out) {
        let now_ms = out.now_ms;
        self.drop_jobs(|job| now_ms >= job.deadline_ms, out);
    }

    fn drop_jobs(&mut self, is_over: impl Fn(&Job) -> bool, out: &mut Out) {
        let over = self.compaction.jobs.iter().filter(|(_, job)| is_over(job));
        let over: Vec<ChunkId> = over.map(|(chunk, _)| *chunk).collect();
        for chunk in over {
            self.drop_job(chunk, true, out);
        }
    }

    /// The chunk will not be in the file: something failed, or the file has changed.
    fn drop_job(&mut self, chunk: ChunkId, failed: bool, out: &mut Out) {
        let Some(job) = self.compaction.jobs.remove(&chunk) else { return };
        self.cancel_orders_of(chunk);
        if job.checksum.is_none() {
            self.not_pending(job.builder, job.length);
            self.delete_at(job.builder, chunk, out);
        }
        for keeper in &job.holders {
            self.syncs.forget(chunk, *keeper);
            self.delete_at(*keeper, chunk, out);
        }
        self.job_over(job.inode, 0, failed);
    }

    pub(super) fn advance_jobs(&mut self, out: &mut Out) {
        let built = self.compaction.jobs.iter().filter(|(_, job)| job.checksum.is_some());
        let built: Vec<ChunkId> = built.map(|(chunk, _)| *chunk).collect();
        for chunk in built {
            self.advance_job(chunk, out);
        }
    }

    fn advance_job(&mut self, chunk: ChunkId, out: &mut Out) {
        let Some(job) = self.compaction.jobs.get(&chunk) else { return };
        let safe = |id: &&KeeperId| self.is_alive(**id) && self.syncs.is_synced(chunk, **id);
        let synced = job.holders.iter().filter(safe).count();
        if synced >= self.copies_before_swap(job) as usize {
            self.swap(chunk, out);
        } else {
            self.replicate_now(chunk, out);
        }
    }

    /// The new chunk takes the place of the old ones, wherever the file still is what it was.
    fn swap(&mut self, chunk: ChunkId, out: &mut Out) {
        let Some(job) = self.compaction.jobs.get(&chunk) else { return };
        let (inode, Some(checksum)) = (job.inode, job.checksum) else { return };
        let mut parts: Vec<(u64, Span)> = Vec::new();
        let (mut base, mut moved) = (0u32, 0u64);
        for (start, was) in &job.items {
            for (at, part) in self.unchanged(inode, *start, *was) {
                moved += u64::from(part.length);
                // Part of a u32 length: it fits.
                let chunk_offset = base + (at - start) as u32;
                match parts.last_mut() {
                    Some((before, last))
                        if *before + u64::from(last.length) == at
                            && last.chunk_offset + last.length == chunk_offset =>
                    {
                        last.length += part.length;
                    }
                    _ => parts.push((at, Span { length: part.length, chunk_offset, chunk })),
                }
            }
            base += was.length;
        }
        if moved * 2 < u64::from(job.length) {
            return self.drop_job(chunk, false, out);
        }
        let Some(Job { length, holders, .. }) = self.compaction.jobs.remove(&chunk) else { return };
        let live = self.count_live(&holders);
        self.chunks
            .insert(chunk, Chunk { length, checksum, refs: 0, used: 0, live, keepers: Holders::of(holders) });
        self.reindex(chunk);
        out.touch(RowKey::Chunk(chunk));
        for (start, span) in parts {
            self.put_extent(inode, start, span, out);
        }
        tracing::debug!(%inode, %chunk, bytes = moved, "extents are swapped for a chunk of compaction");
        self.compaction.swapped.insert(inode);
        self.job_over(inode, moved, false);
        self.recheck_syncs(out);
        self.replicate_now(chunk, out);
    }
}
