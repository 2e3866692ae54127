//! What a keeper counts, and how Prometheus sees it.

use std::sync::Arc;

use dfs_observe::axum::Router;
use dfs_observe::http::Shown;
use dfs_observe::labels;
use dfs_observe::metrics::{Counter, Counters, Gauge, Kind, Operations, Page};

use crate::node::Node;

labels! {
    /// Requests on the data port. A chunk comes from a client, from the keeper before us in a chain, or is a copy.
    pub(crate) enum DataOp { Read = "read", Write = "write", Relayed = "relayed", Copy = "copy", Other = "other" }
}

/// What one keeper counts.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub requests: Operations<DataOp>,
    /// Of chunks, that came in or went out with these requests.
    pub bytes: Counters<DataOp>,
    /// That went to other keepers by order of the master.
    pub pushed_bytes: Counter,
    pub connections: Gauge,
    pub bad_copies: Counter,
}

/// For the HTTP server.
pub(crate) fn shown(node: &Arc<Node>) -> Shown {
    let (for_metrics, for_ready) = (node.clone(), node.clone());
    Shown {
        role: "keeper",
        version: env!("CARGO_PKG_VERSION"),
        metrics: Arc::new(move |page| write(&for_metrics, page)),
        ready: Arc::new(move || match for_ready.outbox.is_connected() {
            true => Ok(()),
            false => Err("there is no connection to the master".to_owned()),
        }),
        routes: Router::new(),
    }
}

fn write(node: &Node, page: &mut Page) {
    let metrics = &node.metrics;
    for (name, help, value) in dfs_proto::otlp::counters() {
        page.value(name, Kind::Counter, help, value);
    }
    metrics.requests.write(page, "dfs_keeper_request", "Requests on the data port");
    let bytes = "Bytes of chunks that came in, or went out, with requests on the data port";
    page.counters("dfs_keeper_bytes_total", bytes, "op", &metrics.bytes);
    page.counter(
        "dfs_keeper_pushed_bytes_total",
        "Bytes of copies for other keepers that the master ordered",
        &metrics.pushed_bytes,
    );
    page.gauge("dfs_keeper_connections", "Connections to the data port", &metrics.connections);
    page.counter("dfs_keeper_bad_copies_total", "Copies that were found bad or gone", &metrics.bad_copies);
    let load = node.report_load();
    let scrub = load.scrub.unwrap_or_default();
    let share = if scrub.total_bytes == 0 { 1.0 } else { scrub.bytes as f64 / scrub.total_bytes as f64 };
    let gauges: [(&str, &str, f64); 12] = [
        (
            "dfs_keeper_connected",
            "1 while there is a session with the master",
            f64::from(node.outbox.is_connected()),
        ),
        ("dfs_keeper_chunks", "Chunks that are here", load.chunks as f64),
        ("dfs_keeper_total_bytes", "Size of the file system", load.total as f64),
        ("dfs_keeper_free_bytes", "Free room, less the reserve", load.free as f64),
        ("dfs_keeper_used_bytes", "Bytes of the chunks that are here", load.used as f64),
        ("dfs_keeper_read_only", "1 while no chunks are taken", f64::from(load.read_only)),
        ("dfs_keeper_quarantine_files", "Bad copies that are kept aside", load.quarantine_files as f64),
        ("dfs_keeper_quarantine_bytes", "Their bytes", load.quarantine_bytes as f64),
        ("dfs_keeper_active_reads", "Reads under way", f64::from(load.active_reads)),
        ("dfs_keeper_active_writes", "Chunks that are coming in", f64::from(load.active_writes)),
        ("dfs_keeper_scrub_running", "1 while everything is read and checked", f64::from(scrub.running)),
        ("dfs_keeper_scrub_progress_ratio", "How much of it is read, 0 to 1", share.min(1.0)),
    ];
    for (name, help, value) in gauges {
        page.value(name, Kind::Gauge, help, value);
    }
}
