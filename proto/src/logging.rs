//! Logs: one set-up for every binary, and the words of the upload's trace.
//!
//! Each of the seven steps of an upload (docs/PROTOCOL.md) is one event at debug level, with the fields `step`
//! (1 to 7) and `chunk`, in the process that does it. [`upload_step!`] writes it, so that all processes agree
//! on the form and one `grep chunk=<id>` follows an upload through all logs. Only step 1 has no chunk yet: it
//! has `inode` and `upload`, and so has the mount's event of step 2, which names the chunk.

use std::io::IsTerminal;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::otlp::{self, Endpoint};

/// Writes one upload step: number, chunk id, and what happened.
#[macro_export]
macro_rules! upload_step {
    ($step:literal, $chunk:expr, $($what:tt)+) => {
        tracing::debug!(target: "dfs::upload", step = $step, chunk = %$chunk, $($what)+)
    };
}

/// Said of a bare level: the gRPC stack writes several lines for each message, which nobody who follows
/// ours wants to read.
const QUIET: &str = "h2=warn,hyper=warn,hyper_util=warn,tower=warn,tonic=warn";

/// Starts logging to stderr, for the whole process. `filter` is as tracing's `EnvFilter` reads it
/// (`info`, `dfs_keeper=debug`, ...); a bare level is for our own code. A second call changes nothing.
///
/// # Errors
/// Says which directive of the filter cannot be read.
pub fn init(filter: &str, json: bool) -> Result<(), String> {
    init_with(filter, json, None)
}

/// The same; with an endpoint, what this program does is sent there as traces, too.
///
/// # Errors
/// As [`init`]; and when there is no thread for it.
pub fn init_with(filter: &str, json: bool, traces: Option<(Endpoint, &'static str)>) -> Result<(), String> {
    let parsed = EnvFilter::try_new(spelled_out(filter))
        .map_err(|e| format!("log filter '{filter}' cannot be read: {e}; write a level (error, warn, info, debug, trace) or module=level"))?;
    let traces = traces
        .map(|(endpoint, service)| otlp::layer(endpoint, service))
        .transpose()
        .map_err(|e| format!("--otlp: start its thread: {e}; raise the limit of processes"))?;
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let lines = if json { layer.json().flatten_event(true).boxed() } else { layer.boxed() };
    // Fails only when a subscriber is already there, which is what the caller wanted.
    let _ = tracing_subscriber::registry().with(lines.with_filter(parsed)).with(traces).try_init();
    Ok(())
}

fn spelled_out(filter: &str) -> String {
    match filter.parse::<LevelFilter>() {
        Ok(LevelFilter::OFF | LevelFilter::ERROR | LevelFilter::WARN) | Err(_) => filter.to_owned(),
        Ok(_) => format!("{filter},{QUIET}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_level_is_for_our_own_code() {
        assert_eq!(spelled_out("debug"), format!("debug,{QUIET}"));
        assert_eq!(spelled_out("off"), "off");
        assert_eq!(spelled_out("dfs_keeper=debug,h2=trace"), "dfs_keeper=debug,h2=trace");
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_named() {
        assert!(init("=[", false).is_err_and(|why| why.contains("=[")));
    }
}
