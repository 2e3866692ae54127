//! `dfs profile MOUNT`: where the time of its operations goes. Operations run side by side, and the mount waits ahead of them and behind
//! them too (it prefetches, and uploads later), so that the parts need not sum up to the whole.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::figures::{Operation, shown, shown_at_most};
use super::source::Source;
use super::top::ms;
use crate::cli::output::{Cell, Output, table};
use crate::cli::{CliError, stop::Stop};

#[derive(Serialize)]
struct Profile {
    of: String,
    seconds: f64,
    operations: Vec<Part>,
    /// What the mount waited for meanwhile: `master`: answers of the master; `fetch`: ranges from keepers; `store`: chunks on their way to keepers.
    waits: Vec<Part>,
    /// Blocks that were found in the mount's cache, and not.
    cache_hits: f64,
    cache_misses: f64,
}

#[derive(Serialize)]
struct Part {
    name: String,
    count: f64,
    errors: f64,
    total_ms: f64,
    mean_ms: f64,
    /// An upper bound; null: longer than all that is told apart.
    p99_ms: Option<f64>,
    /// Of the time of all operations, or of all waits: 0 to 1.
    share: f64,
}

pub(super) async fn profile(path: &Path, period: Duration, json: bool) -> Result<(), CliError> {
    let source = Source::mount("profile", path)?;
    let stop = Stop::on_signal();
    let (before, at) = (source.look("profile").await?, Instant::now());
    // Interrupted, it shows what there is.
    tokio::select! {
        () = tokio::time::sleep(period) => {}
        () = stop.wait() => {}
    }
    let (now, seconds) = (source.look("profile").await?, at.elapsed().as_secs_f64());
    let grown = |name: &str| (now.value(name) - before.value(name)).max(0.0);
    let profile = Profile {
        of: source.to_string(),
        seconds,
        operations: parts(now.since(&before, "dfs_mount_operation")),
        waits: parts(now.since(&before, "dfs_mount_wait")),
        cache_hits: grown("dfs_mount_cache_hits_total"),
        cache_misses: grown("dfs_mount_cache_misses_total"),
    };
    let mut output = Output::new();
    match json {
        true => output.json(&profile)?,
        false => output.text(&draw(&profile))?,
    }
    output.finish()
}

fn parts(done: Vec<(String, Operation)>) -> Vec<Part> {
    let all_s: f64 = done.iter().map(|(_, done)| done.sum_s).sum();
    let part = |(name, done): (String, Operation)| Part {
        name,
        count: done.count,
        errors: done.errors,
        total_ms: done.sum_s * 1e3,
        mean_ms: ms(done.mean()),
        p99_ms: done.quantile(0.99).map(ms),
        share: done.sum_s / all_s.max(1e-12),
    };
    done.into_iter().map(part).collect()
}

fn draw(profile: &Profile) -> String {
    let rows = |parts: &[Part]| {
        let time = |ms: f64| Duration::from_secs_f64(ms / 1e3);
        let row = move |part: &Part| {
            [
                Cell::Text(part.name.clone()),
                Cell::Number(format!("{:.0}", part.count)),
                Cell::Number(format!("{:.0}", part.errors)),
                Cell::Number(shown(time(part.total_ms))),
                Cell::Number(shown(time(part.mean_ms))),
                Cell::Number(shown_at_most(part.p99_ms.map(time))),
                Cell::Number(format!("{:.0} %", part.share * 100.0)),
            ]
        };
        parts.iter().map(row).collect::<Vec<_>>()
    };
    let columns = ["OPERATION", "COUNT", "ERRORS", "TOTAL", "MEAN", "P99", "SHARE"];
    let mut text = format!("{}, {:.1} s\n", profile.of, profile.seconds);
    text += &table(columns, rows(&profile.operations).into_iter());
    let columns = ["WAITS FOR", "COUNT", "ERRORS", "TOTAL", "MEAN", "P99", "SHARE"];
    text += "\n";
    text += &table(columns, rows(&profile.waits).into_iter());
    let (hits, misses) = (profile.cache_hits, profile.cache_misses);
    if hits + misses > 0.0 {
        let share = hits / (hits + misses) * 100.0;
        text += &format!("\ncache: {hits:.0} blocks found, {misses:.0} not ({share:.0} % found)\n");
    }
    text
}
