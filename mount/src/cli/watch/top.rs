//! `dfs top URL|MOUNT`: how often each operation is done, and how long it takes.

use std::ffi::OsStr;
use std::time::{Duration, Instant};

use dfs_tls::Connector;
use serde::Serialize;

use super::figures::{Figures, Operation, shown, shown_at_most};
use super::source::Source;
use crate::cli::CliError;
use crate::cli::output::{Cell, Output, human, table};

/// Whichever of these a process has.
const FAMILIES: [&str; 3] = ["dfs_mount_operation", "dfs_master_request", "dfs_keeper_request"];
/// Between two looks, at least.
pub(super) const SHORTEST: Duration = Duration::from_millis(100);

/// Between two moments.
#[derive(Serialize)]
struct Shown {
    of: String,
    seconds: f64,
    operations: Vec<Rate>,
    /// Counters that grew, by name: how much a second.
    rates: std::collections::BTreeMap<String, f64>,
}

#[derive(Serialize)]
struct Rate {
    op: String,
    per_second: f64,
    errors_per_second: f64,
    mean_ms: f64,
    /// Upper bounds; null: longer than all that is told apart.
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
}

pub(super) async fn top(
    typed: &OsStr,
    pages: Option<&Connector>,
    every: Duration,
    once: bool,
    json: bool,
) -> Result<(), CliError> {
    let source = Source::new("top", typed, pages)?;
    let every = every.max(SHORTEST);
    let (mut at, mut before) = (Instant::now(), source.look("top").await?);
    loop {
        tokio::time::sleep(every).await;
        let (now, figures) = (Instant::now(), source.look("top").await?);
        let shown = compare(&source, &before, &figures, now - at);
        let mut output = Output::new();
        match json {
            true => output.json(&shown)?,
            false => output.text(&draw(&shown, once))?,
        }
        output.finish()?;
        if once {
            return Ok(());
        }
        (at, before) = (now, figures);
    }
}

pub(super) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn compare(source: &Source, before: &Figures, now: &Figures, took: Duration) -> Shown {
    let seconds = took.as_secs_f64().max(1e-3);
    let done = FAMILIES.iter().flat_map(|family| now.since(before, family));
    let rate = |(op, done): (String, Operation)| Rate {
        op,
        per_second: done.count / seconds,
        errors_per_second: done.errors / seconds,
        mean_ms: ms(done.mean()),
        p50_ms: done.quantile(0.5).map(ms),
        p99_ms: done.quantile(0.99).map(ms),
    };
    let grew = now.values.iter().filter(|(name, _)| name.starts_with("dfs_") && name.ends_with("_total"));
    let rates = grew
        .map(|(name, value)| (name.clone(), (value - before.value(name)) / seconds))
        .filter(|(_, rate)| *rate > 0.0)
        .collect();
    Shown { of: source.to_string(), seconds, operations: done.map(rate).collect(), rates }
}

/// On a terminal in place of what was there.
pub(super) fn screen(text: &str, once: bool) -> String {
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stdout());
    if once || !is_terminal { format!("{text}\n") } else { format!("\x1b[H\x1b[2J{text}") }
}

fn draw(shown: &Shown, once: bool) -> String {
    let time = |ms: f64| self::shown(Duration::from_secs_f64(ms / 1e3));
    let rows = shown.operations.iter().map(|rate| {
        let at_most = |ms: Option<f64>| shown_at_most(ms.map(|ms| Duration::from_secs_f64(ms / 1e3)));
        [
            Cell::Text(rate.op.clone()),
            Cell::Number(format!("{:.1}", rate.per_second)),
            Cell::Number(format!("{:.1}", rate.errors_per_second)),
            Cell::Number(time(rate.mean_ms)),
            Cell::Number(at_most(rate.p50_ms)),
            Cell::Number(at_most(rate.p99_ms)),
        ]
    });
    let mut text = format!("{}, {:.1} s\n", shown.of, shown.seconds);
    text += &table(["OPERATION", "/S", "ERRORS/S", "MEAN", "P50", "P99"], rows);
    for (name, rate) in &shown.rates {
        let words = name.trim_start_matches("dfs_").trim_end_matches("_total").replace('_', " ");
        let rate = if name.contains("bytes") { human(*rate as u64) } else { format!("{rate:.1}") };
        text += &format!("{words}: {rate}/s\n");
    }
    screen(&text, once)
}
