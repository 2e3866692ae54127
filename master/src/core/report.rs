//! What operators see of the cluster and its keepers. From memory; changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use dfs_proto::ids::{ChunkId, InodeNo, KeeperId};
use dfs_proto::{label, pb};

use super::State;
use super::command::Now;
use super::lookup_table::Walk;

/// Most names of lost files.
const MAX_LOST_FILES: usize = 100;

/// What can be said of the cluster without looking at more than its keepers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs)]
pub struct Figures {
    pub inodes: u64,
    /// Of mounts, since the start.
    pub requests: u64,
    pub chunks: u64,
    /// Copies on live keepers.
    pub copies: u64,
    /// Chunks with fewer live copies than `min_copies`, than `copies`, than one.
    pub endangered: u64,
    pub under_replicated: u64,
    pub lost: u64,
    pub mounts: u64,
    /// Raw, over live keepers.
    pub total_bytes: u64,
    pub free_bytes: u64,
    pub copies_under_way: u64,
    pub copied_chunks: u64,
    pub copied_bytes: u64,
    pub compactions_under_way: u64,
    pub compactions_waiting: u64,
    pub compacted_bytes: u64,
    /// Uploads that have a place and are in no file yet.
    pub uploads: u64,
    /// Replies that wait until other mounts have forgotten something.
    pub replies_held: u64,
    pub trash_files: u64,
    pub trash_bytes: u64,
    pub keepers: Vec<KeeperFigures>,
}

/// The same of one keeper.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs)]
pub struct KeeperFigures {
    pub keeper: u64,
    pub address: String,
    pub alive: bool,
    pub connected: bool,
    pub draining: bool,
    pub in_maintenance: bool,
    pub read_only: bool,
    /// Since the last message.
    pub silent_ms: u64,
    pub total: u64,
    pub used: u64,
    pub free: u64,
    pub chunks: u64,
    pub quarantine_bytes: u64,
    /// Bytes that clients read and that came in, since that keeper started.
    pub bytes_read: u64,
    pub bytes_written: u64,
    /// Copies under way to it, and from it.
    pub orders_in: u32,
    pub orders_out: u32,
}

impl State {
    /// The cluster without its files. Looks at the keepers alone, so it may be asked often.
    pub fn figures(&self, now: impl Into<Now>) -> Figures {
        let now_ms = now.into().steady_ms;
        let (total_bytes, free_bytes, _) = self.capacity();
        let alive = self.keepers.iter().filter(|(_, keeper)| keeper.alive);
        let wanting = self.chunks.wanting();
        let (trash_files, trash_bytes) = self.trash.size();
        Figures {
            inodes: self.inodes.len() as u64,
            requests: self.requests,
            chunks: self.chunks.len() as u64,
            copies: alive.map(|(id, _)| self.chunks.count_on(*id) as u64).sum(),
            endangered: wanting.count_below(self.settings.min_copies),
            under_replicated: wanting.count_below(self.settings.copies),
            lost: wanting.count_below(1),
            mounts: self.sessions.values().filter(|session| session.connected).count() as u64,
            total_bytes,
            free_bytes,
            copies_under_way: self.orders.map.len() as u64,
            copied_chunks: self.orders.copied_chunks,
            copied_bytes: self.orders.copied_bytes,
            compactions_under_way: self.compaction.jobs.len() as u64,
            compactions_waiting: self.compaction.waiting() as u64,
            compacted_bytes: self.compaction.moved_bytes,
            uploads: self.uploads.len() as u64,
            replies_held: self.acks.waiting() as u64,
            trash_files,
            trash_bytes,
            keepers: self.keepers.keys().map(|id| self.keeper_figures(*id, now_ms)).collect(),
        }
    }

    /// Copies needed before an upload is a success.
    pub fn min_copies(&self) -> u32 {
        self.settings.min_copies
    }

    /// Some of the copies that were ordered and are under way: chunk, from, to.
    pub fn copies_under_way(&self, most: usize) -> Vec<(ChunkId, KeeperId, KeeperId)> {
        let orders = self.orders.map.values().take(most);
        orders.map(|order| (order.chunk, order.source, order.destination)).collect()
    }

    fn keeper_figures(&self, id: KeeperId, now_ms: i64) -> KeeperFigures {
        let Some(keeper) = self.keepers.get(&id) else { return KeeperFigures::default() };
        KeeperFigures {
            keeper: id.0,
            address: keeper.row.address.clone(),
            alive: keeper.alive,
            connected: keeper.connected,
            draining: keeper.row.draining,
            in_maintenance: keeper.row.maintenance_until_ms > now_ms,
            read_only: keeper.load.read_only,
            silent_ms: u64::try_from(now_ms.saturating_sub(keeper.last_heard_ms)).unwrap_or(0),
            total: keeper.load.total,
            used: keeper.load.used,
            free: keeper.load.free,
            chunks: self.chunks.count_on(id) as u64,
            quarantine_bytes: keeper.load.quarantine_bytes,
            bytes_read: keeper.load.bytes_read,
            bytes_written: keeper.load.bytes_written,
            orders_in: keeper.orders_in,
            orders_out: keeper.orders_out,
        }
    }

    /// The cluster as a whole. Looks at what is in the trash, and when something is lost, at every name.
    pub fn status(&self, now: impl Into<Now>) -> pb::ClusterStatus {
        self.status_below(InodeNo::ROOT, now)
    }

    /// The same for whoever sees `root` alone. Figures are those of the whole cluster, names are not.
    pub fn status_below(&self, root: InodeNo, now: impl Into<Now>) -> pb::ClusterStatus {
        let (figures, census) = (self.figures(now), self.census_of_names());
        let live = figures.keepers.iter().filter(|keeper| keeper.alive).count();
        pb::ClusterStatus {
            cluster: self.settings.cluster.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            files: census.files,
            directories: census.directories,
            bytes: census.bytes,
            chunks: figures.chunks,
            copies: figures.copies,
            endangered: figures.endangered,
            under_replicated: figures.under_replicated,
            lost: figures.lost,
            keepers_live: live as u64,
            keepers_dead: (self.keepers.len() - live) as u64,
            want_copies: self.settings.copies,
            min_copies: self.settings.min_copies,
            chunk_size: self.settings.chunk_size,
            mounts: figures.mounts,
            total_bytes: figures.total_bytes,
            free_bytes: figures.free_bytes,
            lost_files: self.lost_files(root),
            copies_under_way: figures.copies_under_way,
            compactions_under_way: figures.compactions_under_way,
            compactions_waiting: figures.compactions_waiting,
            compacted_bytes: figures.compacted_bytes,
            requests: self.requests,
            trash_files: figures.trash_files,
            trash_bytes: figures.trash_bytes,
        }
    }

    fn lost_files(&self, root: InodeNo) -> Vec<String> {
        let lost: BTreeSet<ChunkId> = self.chunks.wanting().below(1).collect();
        if lost.is_empty() {
            return Vec::new();
        }
        let inodes: BTreeSet<InodeNo> = self
            .extents
            .iter()
            .filter(|(_, _, span)| lost.contains(&span.chunk))
            .map(|(inode, _, _)| inode)
            .collect();
        Walk::new(self, root, b"/")
            .filter(|(_, inode)| inodes.contains(inode))
            .map(|(path, _)| String::from_utf8_lossy(&path).into_owned())
            .take(MAX_LOST_FILES)
            .collect()
    }

    /// Every keeper that has ever joined, by id.
    pub fn keepers(&self, now: impl Into<Now>) -> Vec<pb::KeeperRow> {
        let now_ms = now.into().steady_ms;
        self.keepers.keys().map(|id| self.keeper_report(*id, now_ms)).collect()
    }

    /// One of them; nothing, if there is none.
    pub(super) fn keeper_report(&self, id: KeeperId, now_ms: i64) -> pb::KeeperRow {
        let Some(keeper) = self.keepers.get(&id) else { return pb::KeeperRow::default() };
        let row = &keeper.row;
        let host = (label::HOST.to_owned(), row.host.clone());
        let labels: BTreeMap<String, String> = row.labels.clone().into_iter().chain([host]).collect();
        let left_ms = row.maintenance_until_ms.saturating_sub(now_ms);
        pb::KeeperRow {
            keeper: id.0,
            address: row.address.clone(),
            data_dir: row.data_dir.clone(),
            host: row.host.clone(),
            version: row.version.clone(),
            alive: keeper.alive,
            last_heard_ms: u64::try_from(now_ms.saturating_sub(keeper.last_heard_ms)).unwrap_or(0),
            total: keeper.load.total,
            used: keeper.load.used,
            free: keeper.load.free,
            chunks: self.chunks.count_on(id) as u64,
            bytes_read: keeper.load.bytes_read,
            bytes_written: keeper.load.bytes_written,
            read_only: keeper.load.read_only,
            quarantine_bytes: keeper.load.quarantine_bytes,
            quarantine_files: keeper.load.quarantine_files,
            scrub: keeper.load.scrub,
            labels: labels.into_iter().map(|(name, value)| pb::Label { name, value }).collect(),
            draining: row.draining,
            drained: self.is_drained(id),
            maintenance_left_ms: u64::try_from(left_ms).unwrap_or(0),
            stuck: self.why_stuck(id),
        }
    }
}
