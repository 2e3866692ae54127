//! What operators see of the cluster and its keepers. From memory; changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use dfs_proto::ids::{ChunkId, InodeNo, KeeperId};
use dfs_proto::{label, pb};

use super::State;
use super::command::Now;
use super::lookup_table::Walk;

/// Most names of lost files.
const MAX_LOST_FILES: usize = 100;

impl State {
    /// The cluster as a whole. Looks at what is in the trash, and when something is lost, at every name.
    pub fn status(&self, _now: impl Into<Now>) -> pb::ClusterStatus {
        let census = self.census_of_names();
        let fewer = |live: u32| self.chunks.wanting().below(live).count() as u64;
        let live = self.keepers.values().filter(|keeper| keeper.alive).count();
        let alive = self.keepers.iter().filter(|(_, keeper)| keeper.alive);
        let copies = alive.map(|(id, _)| self.chunks.count_on(*id) as u64).sum();
        let (total_bytes, free_bytes, _) = self.capacity();
        pb::ClusterStatus {
            cluster: self.settings.cluster.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            files: census.files,
            directories: census.directories,
            bytes: census.bytes,
            chunks: self.chunks.len() as u64,
            copies,
            endangered: fewer(self.settings.min_copies),
            under_replicated: fewer(self.settings.copies),
            lost: fewer(1),
            keepers_live: live as u64,
            keepers_dead: (self.keepers.len() - live) as u64,
            want_copies: self.settings.copies,
            min_copies: self.settings.min_copies,
            chunk_size: self.settings.chunk_size,
            mounts: self.sessions.values().filter(|session| session.connected).count() as u64,
            total_bytes,
            free_bytes,
            lost_files: self.lost_files(),
            copies_under_way: self.orders.map.len() as u64,
            compactions_under_way: self.compaction.jobs.len() as u64,
            compactions_waiting: self.compaction.waiting() as u64,
            compacted_bytes: self.compaction.moved_bytes,
            requests: self.requests,
            trash_files: self.trash.size().0,
            trash_bytes: self.trash.size().1,
        }
    }

    fn lost_files(&self) -> Vec<String> {
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
        Walk::new(self, InodeNo::ROOT, b"/")
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
