//! What operators are told, as JSON: the one form for `dfs --json` and for the master's page.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Serialize;

use crate::ids::ChunkId;
use crate::pb;

/// The cluster as a whole.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct Status<'a> {
    pub cluster: &'a str,
    pub version: &'a str,
    pub files: u64,
    pub directories: u64,
    pub bytes: u64,
    pub chunks: u64,
    pub copies: u64,
    pub endangered: u64,
    pub under_replicated: u64,
    pub lost: u64,
    pub lost_files: &'a [String],
    pub keepers_live: u64,
    pub keepers_dead: u64,
    pub mounts: u64,
    pub total_bytes: u64,
    pub free_bytes: u64,
    pub copies_under_way: u64,
    pub compactions_under_way: u64,
    pub compactions_waiting: u64,
    pub compacted_bytes: u64,
    pub requests: u64,
    pub trash_files: u64,
    pub trash_bytes: u64,
    pub want_copies: u32,
    pub min_copies: u32,
    pub chunk_size: u32,
}

impl<'a> From<&'a pb::ClusterStatus> for Status<'a> {
    fn from(status: &'a pb::ClusterStatus) -> Status<'a> {
        Status {
            cluster: &status.cluster,
            version: &status.version,
            files: status.files,
            directories: status.directories,
            bytes: status.bytes,
            chunks: status.chunks,
            copies: status.copies,
            endangered: status.endangered,
            under_replicated: status.under_replicated,
            lost: status.lost,
            lost_files: &status.lost_files,
            keepers_live: status.keepers_live,
            keepers_dead: status.keepers_dead,
            mounts: status.mounts,
            total_bytes: status.total_bytes,
            free_bytes: status.free_bytes,
            copies_under_way: status.copies_under_way,
            compactions_under_way: status.compactions_under_way,
            compactions_waiting: status.compactions_waiting,
            compacted_bytes: status.compacted_bytes,
            requests: status.requests,
            trash_files: status.trash_files,
            trash_bytes: status.trash_bytes,
            want_copies: status.want_copies,
            min_copies: status.min_copies,
            chunk_size: status.chunk_size,
        }
    }
}

/// One keeper.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct Keeper<'a> {
    pub keeper: u64,
    pub address: &'a str,
    pub data_dir: &'a str,
    pub host: &'a str,
    pub version: &'a str,
    pub alive: bool,
    pub last_heard_ms: u64,
    pub total: u64,
    pub used: u64,
    pub free: u64,
    pub chunks: u64,
    pub bytes_read: u64,
    pub bytes_written: u64,
    pub read_only: bool,
    pub quarantine_bytes: u64,
    pub quarantine_files: u64,
    pub labels: BTreeMap<&'a str, &'a str>,
    pub draining: bool,
    pub drained: bool,
    pub maintenance_left_ms: u64,
    pub stuck: &'a str,
}

impl<'a> From<&'a pb::KeeperRow> for Keeper<'a> {
    fn from(keeper: &'a pb::KeeperRow) -> Keeper<'a> {
        Keeper {
            keeper: keeper.keeper,
            address: &keeper.address,
            data_dir: &keeper.data_dir,
            host: &keeper.host,
            version: &keeper.version,
            alive: keeper.alive,
            last_heard_ms: keeper.last_heard_ms,
            total: keeper.total,
            used: keeper.used,
            free: keeper.free,
            chunks: keeper.chunks,
            bytes_read: keeper.bytes_read,
            bytes_written: keeper.bytes_written,
            read_only: keeper.read_only,
            quarantine_bytes: keeper.quarantine_bytes,
            quarantine_files: keeper.quarantine_files,
            labels: keeper.labels.iter().map(|label| (&*label.name, &*label.value)).collect(),
            draining: keeper.draining,
            drained: keeper.drained,
            maintenance_left_ms: keeper.maintenance_left_ms,
            stuck: &keeper.stuck,
        }
    }
}

/// A row of the look-up table.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct Copy<'a> {
    /// Bytes that are no text are shown as U+FFFD.
    pub file: Cow<'a, str>,
    pub chunk: String,
    pub offset: u64,
    pub length: u64,
    /// No copy is known: null.
    pub keeper: Option<u64>,
    pub path: &'a str,
    pub alive: bool,
}

impl<'a> From<&'a pb::LookupRow> for Copy<'a> {
    fn from(row: &'a pb::LookupRow) -> Copy<'a> {
        Copy {
            file: String::from_utf8_lossy(&row.file),
            chunk: ChunkId(row.chunk).to_string(),
            offset: row.offset,
            length: row.length,
            keeper: (row.keeper != 0).then_some(row.keeper),
            path: &row.path,
            alive: row.keeper != 0 && row.alive,
        }
    }
}
