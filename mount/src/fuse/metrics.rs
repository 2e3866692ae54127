//! What a mount counts, and how Prometheus sees it.

use std::sync::Arc;

use dfs_observe::axum::Router;
use dfs_observe::http::Shown;
use dfs_observe::labels;
use dfs_observe::metrics::{Counter, Kind, Operations, Page};

use crate::client::lanes::Lane;
use crate::fs::Fs;

labels! {
    /// Requests of the kernel.
    pub enum FuseOp {
        Lookup = "lookup",
        Getattr = "getattr",
        Setattr = "setattr",
        Readlink = "readlink",
        Mknod = "mknod",
        Mkdir = "mkdir",
        Unlink = "unlink",
        Rmdir = "rmdir",
        Symlink = "symlink",
        Rename = "rename",
        Link = "link",
        Open = "open",
        Create = "create",
        Read = "read",
        Write = "write",
        Flush = "flush",
        Fsync = "fsync",
        Release = "release",
        Getlk = "getlk",
        Setlk = "setlk",
        Lseek = "lseek",
        Fallocate = "fallocate",
        CopyFileRange = "copy_file_range",
        Opendir = "opendir",
        Readdir = "readdir",
        Readdirplus = "readdirplus",
        Statfs = "statfs",
        Setxattr = "setxattr",
        Getxattr = "getxattr",
        Listxattr = "listxattr",
        Removexattr = "removexattr",
    }
}

/// What one mount counts by itself; the rest is with whoever does it.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct Metrics {
    pub operations: Operations<FuseOp>,
    /// That the kernel was given, and that were taken from it.
    pub bytes_read: Counter,
    pub bytes_written: Counter,
}

/// For the HTTP server.
pub fn shown(metrics: Arc<Metrics>, fs: Arc<Fs>) -> Shown {
    let for_ready = fs.clone();
    Shown {
        role: "mount",
        version: env!("CARGO_PKG_VERSION"),
        metrics: Arc::new(move |page| {
            write(&metrics, &fs, page);
            for (name, help, value) in dfs_proto::otlp::counters() {
                page.value(name, Kind::Counter, help, value);
            }
        }),
        ready: Arc::new(move || match for_ready.gauges().session_up {
            true => Ok(()),
            false => Err("there is no connection to the master".to_owned()),
        }),
        routes: Router::new(),
    }
}

/// The attribute of the mount's root that has all of it, for `dfs top` and `dfs profile`.
pub const ATTRIBUTE: &[u8] = b"user.dfs.metrics";

/// The value of [`ATTRIBUTE`]: the lines of the page, without those that say nothing.
pub fn as_attribute(metrics: &Metrics, fs: &Fs) -> String {
    let mut page = Page::default();
    write(metrics, fs, &mut page);
    let mut text = String::new();
    let mut last = ("", "");
    let whole = page.into_text();
    for line in whole.lines() {
        let (series, value) = line.rsplit_once(' ').unwrap_or((line, ""));
        // Of buckets, which count all that are smaller too, those that have something of their own.
        let family = series.split(",le=").next().unwrap_or(series);
        let is_same = (family, value) == last && series.contains(",le=");
        if !line.starts_with('#') && value != "0" && !is_same {
            text.push_str(line);
            text.push('\n');
        }
        last = (family, value);
    }
    text
}

/// Waits of the mount for others, by whom they are for.
fn write_waits(fs: &Fs, page: &mut Page) {
    page.family("dfs_mount_wait_seconds", Kind::Histogram, "What the mount waited for: how long that took");
    let client = fs.client();
    page.histogram(&[("op", "master")], client.master_calls());
    for (name, at) in [("fetch", 0), ("store", 1)] {
        for (lane, of_lane) in [("control", Lane::Control), ("bytes", Lane::Bytes)] {
            page.histogram(&[("op", name), ("lane", lane)], client.keepers(of_lane).took()[at]);
        }
    }
}

fn write(metrics: &Metrics, fs: &Fs, page: &mut Page) {
    let now = &fs.gauges();
    write_waits(fs, page);
    metrics.operations.write(page, "dfs_mount_operation", "Requests of the kernel");
    page.counter("dfs_mount_read_bytes_total", "Bytes that programs read", &metrics.bytes_read);
    page.counter("dfs_mount_written_bytes_total", "Bytes that programs wrote", &metrics.bytes_written);
    let counters = [
        ("dfs_mount_cache_hits_total", "Blocks that were asked for and in the cache", now.cache_hits),
        ("dfs_mount_cache_misses_total", "Blocks that were asked for and not in the cache", now.cache_misses),
        (
            "dfs_mount_hedges_total",
            "Ranges that were asked of one more keeper, since one was late",
            now.hedges,
        ),
        (
            "dfs_mount_read_retries_total",
            "Ranges that were asked of one more keeper, since one failed",
            now.read_retries,
        ),
        (
            "dfs_mount_upload_retries_total",
            "Uploads that began anew, since a keeper failed",
            now.upload_retries,
        ),
        ("dfs_mount_streams_total", "Connections to the master that there have been", now.streams),
    ];
    for (name, help, value) in counters {
        page.value(name, Kind::Counter, help, value);
    }
    let gauges = [
        ("dfs_mount_cache_bytes", "Memory that the cache of blocks takes", now.cache_bytes),
        (
            "dfs_mount_write_buffer_used_bytes",
            "Bytes that were written and are on their way",
            now.write_buffer_used,
        ),
        ("dfs_mount_write_buffer_size_bytes", "As many as there may be of them", now.write_buffer_size),
        ("dfs_mount_session_up", "1 while there is a session with the master", u64::from(now.session_up)),
        (
            "dfs_mount_master_down",
            "1 while the master is known not to run, so that nothing can change",
            u64::from(now.master_down),
        ),
    ];
    for (name, help, value) in gauges {
        page.value(name, Kind::Gauge, help, value);
    }
}
