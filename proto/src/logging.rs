//! Logs: one set-up for every binary, and the words of the upload's trace.
//!
//! Each of the seven steps of an upload (DESIGN: the upload) is one event at debug level, with
//! the fields `step` (1 to 7) and `chunk`, in the process that does it. [`upload_step!`] writes it, so
//! that all processes agree on the form and one `grep chunk=<id>` follows an upload through all logs.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Writes one upload step: number, chunk id, and what happened.
#[macro_export]
macro_rules! upload_step {
    ($step:literal, $chunk:expr, $($what:tt)+) => {
        tracing::debug!(target: "dfs::upload", step = $step, chunk = %$chunk, $($what)+)
    };
}

/// Starts logging to stderr, for the whole process. `filter` is as tracing's `EnvFilter` reads it
/// (`info`, `dfs_keeper=debug`, ...). A second call changes nothing.
///
/// # Errors
/// Says which directive of the filter cannot be read.
pub fn init(filter: &str, json: bool) -> Result<(), String> {
    let parsed =
        EnvFilter::try_new(filter).map_err(|e| format!("log filter '{filter}' cannot be read: {e}"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // Fails only when a subscriber is already there, which is what the caller wanted.
    let _ = if json { builder.json().flatten_event(true).try_init() } else { builder.try_init() };
    Ok(())
}
