//! `dfs top` without more: the cluster, as the master sees it. Needs no --http.

use std::time::{Duration, Instant};

use dfs_proto::pb;
use serde::Serialize;

use super::top::{SHORTEST, screen};
use crate::cli::CliError;
use crate::cli::keepers::state;
use crate::cli::output::{Cell, Output, human, table};
use crate::client::{Master, admin, renew};

#[derive(Serialize)]
struct Shown {
    of: String,
    seconds: f64,
    /// Of mounts to the master.
    requests_per_second: f64,
    mounts: u64,
    endangered: u64,
    lost: u64,
    copies_under_way: u64,
    keepers: Vec<KeeperRates>,
}

#[derive(Serialize)]
struct KeeperRates {
    keeper: u64,
    address: String,
    state: String,
    read_bytes_per_second: f64,
    written_bytes_per_second: f64,
    free: u64,
}

struct Moment {
    at: Instant,
    status: pb::ClusterStatus,
    keepers: Vec<pb::KeeperRow>,
}

async fn look(master: &Master) -> Result<Moment, CliError> {
    // It may be looked at for longer than a login is good.
    renew::if_due(master).await;
    let (status, keepers) = (admin::status(master).await?, admin::keepers(master).await?);
    Ok(Moment { at: Instant::now(), status, keepers })
}

pub(super) async fn top(master: &Master, every: Duration, once: bool, json: bool) -> Result<(), CliError> {
    let mut before = look(master).await?;
    loop {
        tokio::time::sleep(every.max(SHORTEST)).await;
        let now = look(master).await?;
        let shown = compare(master, &before, &now);
        let mut output = Output::new();
        match json {
            true => output.json(&shown)?,
            false => output.text(&draw(&shown, once))?,
        }
        output.finish()?;
        if once {
            return Ok(());
        }
        before = now;
    }
}

fn compare(master: &Master, before: &Moment, now: &Moment) -> Shown {
    let seconds = (now.at - before.at).as_secs_f64().max(1e-3);
    // What is less than before was counted by another process.
    let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
    let keeper = |row: &pb::KeeperRow| {
        let then = before.keepers.iter().find(|then| then.keeper == row.keeper);
        let (read, written) =
            then.map_or((row.bytes_read, row.bytes_written), |then| (then.bytes_read, then.bytes_written));
        KeeperRates {
            keeper: row.keeper,
            address: row.address.clone(),
            state: state(row),
            read_bytes_per_second: rate(row.bytes_read, read),
            written_bytes_per_second: rate(row.bytes_written, written),
            free: row.free,
        }
    };
    Shown {
        of: master.address.clone(),
        seconds,
        requests_per_second: rate(now.status.requests, before.status.requests),
        mounts: now.status.mounts,
        endangered: now.status.endangered,
        lost: now.status.lost,
        copies_under_way: now.status.copies_under_way,
        keepers: now.keepers.iter().map(keeper).collect(),
    }
}

fn draw(shown: &Shown, once: bool) -> String {
    let mut text = format!(
        "cluster at {}: {:.1} requests/s of {} mounts; {} chunks lost, {} endangered, {} copies under way\n",
        shown.of,
        shown.requests_per_second,
        shown.mounts,
        shown.lost,
        shown.endangered,
        shown.copies_under_way
    );
    let rows = shown.keepers.iter().map(|keeper| {
        [
            Cell::Number(keeper.keeper.to_string()),
            Cell::Text(keeper.address.clone()),
            Cell::Text(keeper.state.clone()),
            Cell::Number(format!("{}/s", human(keeper.read_bytes_per_second as u64))),
            Cell::Number(format!("{}/s", human(keeper.written_bytes_per_second as u64))),
            Cell::Number(human(keeper.free)),
        ]
    });
    text += &table(["KEEPER", "ADDRESS", "STATE", "READ", "WRITTEN", "FREE"], rows);
    screen(&text, once)
}
