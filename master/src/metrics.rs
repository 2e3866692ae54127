//! What a master counts, and how Prometheus sees it.
//!
//! Requests are counted where they are applied (`runtime/engine.rs`): one counts as over when its reply leaves, or would, were
//! there no other mounts that have to forget something first, and no lock to be waited for. Everything about the cluster comes
//! from [`Figures`], which looks at the keepers and at nothing that there are more of.

use std::time::Duration;

use dfs_observe::labels;
use dfs_observe::metrics::{Counter, ErrorClass, Histogram, Kind, Operations, Page};
use dfs_proto::pb::keeper_up::Msg;
use dfs_proto::pb::mount_request::Op as Request;

use crate::core::{Figures, KeeperFigures};

labels! {
    /// Requests of mounts.
    pub enum Op {
        Lookup = "lookup", Getattr = "getattr", Setattr = "setattr", Create = "create", Mknod = "mknod", Mkdir = "mkdir",
        Symlink = "symlink", Link = "link", Unlink = "unlink", Rmdir = "rmdir", Rename = "rename", Readlink = "readlink",
        Readdir = "readdir", Open = "open", Release = "release", Layout = "layout", Alloc = "alloc",
        AbortUpload = "abort_upload", Fsync = "fsync", Statfs = "statfs", Getxattr = "getxattr", Setxattr = "setxattr",
        Listxattr = "listxattr", Removexattr = "removexattr", ReportBad = "report_bad", Fallocate = "fallocate",
        CopyRange = "copy_range", GetLock = "get_lock", SetLock = "set_lock", CancelLock = "cancel_lock", Barrier = "barrier",
        TouchAtime = "touch_atime", Locate = "locate", SetDigest = "set_digest", Unknown = "unknown",
    }
}

labels! {
    /// What keepers say.
    pub enum Said {
        Heartbeat = "heartbeat", Stored = "stored", Copied = "copied", CopyFailed = "copy_failed", Synced = "synced",
        Inventory = "inventory", BadCopy = "bad_copy", Built = "built", BuildFailed = "build_failed", Arrived = "arrived",
        Hello = "hello",
    }
}

/// Of a request.
pub(crate) fn op(request: Option<&Request>) -> Op {
    match request {
        None => Op::Unknown,
        Some(Request::Lookup(_)) => Op::Lookup,
        Some(Request::Getattr(_)) => Op::Getattr,
        Some(Request::Setattr(_)) => Op::Setattr,
        Some(Request::Create(_)) => Op::Create,
        Some(Request::Mknod(_)) => Op::Mknod,
        Some(Request::Mkdir(_)) => Op::Mkdir,
        Some(Request::Symlink(_)) => Op::Symlink,
        Some(Request::Link(_)) => Op::Link,
        Some(Request::Unlink(_)) => Op::Unlink,
        Some(Request::Rmdir(_)) => Op::Rmdir,
        Some(Request::Rename(_)) => Op::Rename,
        Some(Request::Readlink(_)) => Op::Readlink,
        Some(Request::Readdir(_)) => Op::Readdir,
        Some(Request::Open(_)) => Op::Open,
        Some(Request::Release(_)) => Op::Release,
        Some(Request::Layout(_)) => Op::Layout,
        Some(Request::Alloc(_)) => Op::Alloc,
        Some(Request::AbortUpload(_)) => Op::AbortUpload,
        Some(Request::Fsync(_)) => Op::Fsync,
        Some(Request::Statfs(_)) => Op::Statfs,
        Some(Request::Getxattr(_)) => Op::Getxattr,
        Some(Request::Setxattr(_)) => Op::Setxattr,
        Some(Request::Listxattr(_)) => Op::Listxattr,
        Some(Request::Removexattr(_)) => Op::Removexattr,
        Some(Request::ReportBad(_)) => Op::ReportBad,
        Some(Request::Fallocate(_)) => Op::Fallocate,
        Some(Request::CopyRange(_)) => Op::CopyRange,
        Some(Request::GetLock(_)) => Op::GetLock,
        Some(Request::SetLock(_)) => Op::SetLock,
        Some(Request::CancelLock(_)) => Op::CancelLock,
        Some(Request::Barrier(_)) => Op::Barrier,
        Some(Request::TouchAtime(_)) => Op::TouchAtime,
        Some(Request::Locate(_)) => Op::Locate,
        Some(Request::SetDigest(_)) => Op::SetDigest,
    }
}

/// Of a keeper's message.
pub(crate) fn said(msg: &Msg) -> Said {
    match msg {
        Msg::Hello(_) => Said::Hello,
        Msg::Heartbeat(_) => Said::Heartbeat,
        Msg::Stored(_) => Said::Stored,
        Msg::Copied(_) => Said::Copied,
        Msg::CopyFailed(_) => Said::CopyFailed,
        Msg::Synced(_) => Said::Synced,
        Msg::Inventory(_) => Said::Inventory,
        Msg::BadCopy(_) => Said::BadCopy,
        Msg::Built(_) => Said::Built,
        Msg::BuildFailed(_) => Said::BuildFailed,
        Msg::Arrived(_) => Said::Arrived,
    }
}

/// What one master counts.
#[derive(Debug, Default)]
pub struct Metrics {
    pub(crate) requests: Operations<Op>,
    pub(crate) keeper_messages: dfs_observe::metrics::Counters<Said>,
    pub(crate) commits: Histogram,
    pub(crate) commit_rows: Counter,
    pub(crate) commit_failures: Counter,
}

/// What the runtime knows at the moment.
#[derive(Debug, Default)]
pub(crate) struct Now {
    pub figures: Figures,
    pub store_fails: bool,
    /// Commands that wait for their batch.
    pub queued_commands: usize,
    /// Messages that wait to be sent, of the connection with most of them.
    pub longest_outbox: usize,
}

impl Metrics {
    pub(crate) fn failed(&self, op: Op, code: i32) {
        let code = dfs_proto::error::ErrorCode::from_wire(code);
        self.requests.failed(op, ErrorClass::of_errno(code.errno() as i32));
    }

    pub(crate) fn write(&self, now: &Now, page: &mut Page) {
        self.requests.write(page, "dfs_master_request", "Requests of mounts");
        page.counters(
            "dfs_master_keeper_messages_total",
            "Messages of keepers",
            "kind",
            &self.keeper_messages,
        );
        page.family("dfs_master_commit_seconds", Kind::Histogram, "Commits of the store: how long they took");
        page.histogram(&[], &self.commits);
        page.counter("dfs_master_commit_rows_total", "Rows that were committed", &self.commit_rows);
        page.counter("dfs_master_commit_failures_total", "Commits that failed", &self.commit_failures);
        let gauges = [
            (
                "dfs_master_store_failing",
                "1 while the store takes no changes, and they are refused",
                u64::from(now.store_fails),
            ),
            (
                "dfs_master_queued_commands",
                "Commands that wait until their changes are durable",
                now.queued_commands as u64,
            ),
            (
                "dfs_master_longest_outbox",
                "Messages that wait to be sent, of the connection with most of them",
                now.longest_outbox as u64,
            ),
        ];
        write_gauges(page, &gauges);
        write_cluster(&now.figures, page);
        write_keepers(&now.figures.keepers, page);
    }
}

fn write_gauges(page: &mut Page, gauges: &[(&str, &str, u64)]) {
    for (name, help, value) in gauges {
        page.value(name, Kind::Gauge, help, value);
    }
}

fn write_cluster(figures: &Figures, page: &mut Page) {
    let live = figures.keepers.iter().filter(|keeper| keeper.alive).count();
    page.family("dfs_master_keepers", Kind::Gauge, "Keepers: live, or dead");
    page.sample(&[("state", "live")], live);
    page.sample(&[("state", "dead")], figures.keepers.len() - live);
    page.family("dfs_master_sessions", Kind::Gauge, "Open sessions");
    page.sample(&[("kind", "mount")], figures.mounts);
    page.sample(&[("kind", "keeper")], figures.keepers.iter().filter(|keeper| keeper.connected).count());
    let f = figures;
    write_gauges(
        page,
        &[
            ("dfs_master_inodes", "Files, directories and everything else that has a number", f.inodes),
            ("dfs_master_chunks", "Chunks", f.chunks),
            ("dfs_master_copies", "Copies on live keepers", f.copies),
            ("dfs_master_chunks_lost", "Chunks without a live copy", f.lost),
            ("dfs_master_chunks_endangered", "Chunks with fewer live copies than --min-copies", f.endangered),
            (
                "dfs_master_chunks_under_replicated",
                "Chunks with fewer live copies than --copies: those that wait for repair",
                f.under_replicated,
            ),
            ("dfs_master_repairs_running", "Copies that were ordered and are under way", f.copies_under_way),
            ("dfs_master_compactions_running", "Chunks that are being built", f.compactions_under_way),
            (
                "dfs_master_compactions_waiting",
                "Files that will be looked at when they are quiet",
                f.compactions_waiting,
            ),
            ("dfs_master_uploads", "Uploads that have a place and are in no file yet", f.uploads),
            (
                "dfs_master_replies_held",
                "Replies that wait until other mounts have forgotten something",
                f.replies_held,
            ),
            ("dfs_master_total_bytes", "Room on live keepers, used and free", f.total_bytes),
            ("dfs_master_free_bytes", "Free room on live keepers", f.free_bytes),
            (
                "dfs_master_used_bytes",
                "Used room on live keepers",
                f.total_bytes.saturating_sub(f.free_bytes),
            ),
            ("dfs_master_trash_files", "Files in the trash", f.trash_files),
            ("dfs_master_trash_bytes", "Stored bytes of the files in the trash", f.trash_bytes),
        ],
    );
    let counters = [
        (
            "dfs_master_repaired_chunks_total",
            "Copies that were made by order, for repair or for evenness",
            f.copied_chunks,
        ),
        ("dfs_master_repaired_bytes_total", "Bytes of the copies that were made by order", f.copied_bytes),
        ("dfs_master_compacted_bytes_total", "Bytes that were moved into new chunks", f.compacted_bytes),
    ];
    for (name, help, value) in counters {
        page.value(name, Kind::Counter, help, value);
    }
}

type OfKeeper = (&'static str, Kind, &'static str, fn(&KeeperFigures) -> f64);

/// A family each, a sample for each keeper.
const OF_KEEPERS: &[OfKeeper] = &[
    ("dfs_master_keeper_up", Kind::Gauge, "1 for a live keeper, 0 for a dead one", |k| f64::from(k.alive)),
    ("dfs_master_keeper_silent_seconds", Kind::Gauge, "Time since the keeper was last heard", |k| {
        Duration::from_millis(k.silent_ms).as_secs_f64()
    }),
    ("dfs_master_keeper_total_bytes", Kind::Gauge, "Size of the keeper's file system", |k| k.total as f64),
    ("dfs_master_keeper_free_bytes", Kind::Gauge, "Free room of the keeper", |k| k.free as f64),
    ("dfs_master_keeper_used_bytes", Kind::Gauge, "Bytes of the keeper's chunks", |k| k.used as f64),
    ("dfs_master_keeper_chunks", Kind::Gauge, "Copies on the keeper", |k| k.chunks as f64),
    ("dfs_master_keeper_read_only", Kind::Gauge, "1 while the keeper takes no chunks", |k| {
        f64::from(k.read_only)
    }),
    ("dfs_master_keeper_draining", Kind::Gauge, "1 while the keeper is drained", |k| f64::from(k.draining)),
    ("dfs_master_keeper_in_maintenance", Kind::Gauge, "1 while the keeper is in maintenance", |k| {
        f64::from(k.in_maintenance)
    }),
    (
        "dfs_master_keeper_quarantine_bytes",
        Kind::Gauge,
        "Bytes of bad copies that the keeper keeps aside",
        |k| k.quarantine_bytes as f64,
    ),
    ("dfs_master_keeper_orders", Kind::Gauge, "Copies under way to the keeper and from it", |k| {
        f64::from(k.orders_in + k.orders_out)
    }),
];

fn write_keepers(keepers: &[KeeperFigures], page: &mut Page) {
    for (name, kind, help, value) in OF_KEEPERS {
        page.family(name, *kind, help);
        for keeper in keepers {
            let id = keeper.keeper.to_string();
            page.sample(&[("keeper", &id), ("address", &keeper.address)], value(keeper));
        }
    }
}
