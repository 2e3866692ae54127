//! What a process tells of itself.
//!
//! - [`metrics`]: counters, gauges and histograms of latencies, and the page on which Prometheus reads them.
//! - [`process`]: what the operating system knows of this process.
//! - [`http`]: the server that shows them, and what else a role has to show. `patient`: a peer that reads nothing is cut off.
//!
//! It knows nothing of masters, keepers and mounts: each has a value of its own type for what it counts, and a function that
//! writes that on a page. There is no process-wide state, so that several of them can live in one process.

pub mod http;
pub mod metrics;
mod patient;
pub mod process;

/// For roles, which add routes of their own.
pub use axum;
