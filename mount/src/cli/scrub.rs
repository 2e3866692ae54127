//! `dfs scrub`: has keepers read all that they have, shows how far they are, and says what they found.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::pb;
use serde::Serialize;

use super::output::{Cell, Rows, human};
use super::progress::{Progress, Tally};
use super::{CliError, interrupted};
use crate::client::{Master, admin, renew};

/// How often the keepers' rows are asked for.
const POLL_EVERY: Duration = Duration::from_millis(500);
/// A keeper whose scrub gets no further for so long has given it up.
const STALLED_POLLS: u32 = 120;

#[derive(Serialize)]
struct Row {
    keeper: u64,
    chunks: u64,
    bytes: u64,
    bad: u64,
}

/// Bad copies are found: `CliError::Found`.
pub(super) async fn scrub(master: &Master, keepers: &[u64], json: bool) -> Result<(), CliError> {
    let started = admin::scrub(master, keepers).await?;
    let states = tokio::select! {
        states = watch(master, &started) => states?,
        () = interrupted() => {
            return Err(CliError::Local("scrub: stopped watching; the keepers go on, see dfs keepers".into()));
        }
    };
    let mut rows = Rows::new(json, ["KEEPER", "CHUNKS", "READ", "BAD"]);
    let mut bad = 0;
    for (keeper, state) in states {
        bad += state.bad;
        let value = Row { keeper, chunks: state.chunks, bytes: state.bytes, bad: state.bad };
        rows.row(|| cells(&value), &value)?;
    }
    rows.finish()?;
    if bad > 0 { Err(CliError::Found) } else { Ok(()) }
}

fn cells(row: &Row) -> [Cell; 4] {
    [
        Cell::Number(row.keeper.to_string()),
        Cell::Number(row.chunks.to_string()),
        Cell::Number(human(row.bytes)),
        Cell::Number(row.bad.to_string()),
    ]
}

/// Returns when every one of these scrubs is over.
async fn watch(
    master: &Master,
    started: &pb::ScrubStarted,
) -> Result<BTreeMap<u64, pb::ScrubState>, CliError> {
    let tally = Tally::new(None);
    let progress = Progress::of(&tally);
    let (mut last, mut stalled) = (BTreeMap::new(), 0);
    loop {
        tokio::time::sleep(POLL_EVERY).await;
        renew::if_due(master).await;
        let mut states = BTreeMap::new();
        for row in admin::keepers(master).await? {
            if started.keepers.contains(&row.keeper) {
                let state = row.scrub.unwrap_or_default();
                check(&row, &state, started.number)?;
                states.insert(row.keeper, state);
            }
        }
        let ours = |state: &&pb::ScrubState| state.number == started.number;
        let sum = |part: fn(&pb::ScrubState) -> u64| states.values().filter(ours).map(part).sum::<u64>();
        tally.set_total(sum(|state| state.total_bytes));
        tally.bytes.store(sum(|state| state.bytes), Ordering::Relaxed);
        if states.values().all(|state| state.number == started.number && !state.running) {
            progress.end().await;
            return Ok(states);
        }
        stalled = if states == last { stalled + 1 } else { 0 };
        if stalled >= STALLED_POLLS {
            let message = "scrub: no keeper gets any further; see the keepers' logs, and try again";
            return Err(CliError::Dfs(DfsError::new(ErrorCode::TimedOut, message)));
        }
        last = states;
    }
}

/// A scrub that will not come to its end: its keeper died, or was started anew, or another one was ordered.
fn check(row: &pb::KeeperRow, state: &pb::ScrubState, number: u64) -> Result<(), CliError> {
    let why = match state.number {
        _ if !row.alive => "it died meanwhile",
        later if later > number => "somebody ordered another scrub of it",
        _ => return Ok(()),
    };
    let message = format!("scrub: keeper {} does not end: {why}; run dfs scrub again", row.keeper);
    Err(CliError::Dfs(DfsError::new(ErrorCode::Unavailable, message)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrub_that_cannot_end_is_an_error() {
        let row = |alive| pb::KeeperRow { keeper: 3, alive, ..pb::KeeperRow::default() };
        let state = |number| pb::ScrubState { number, ..pb::ScrubState::default() };
        assert!(check(&row(true), &state(5), 5).is_ok());
        // The order has yet to arrive, or its heartbeat.
        assert!(check(&row(true), &state(0), 5).is_ok());
        assert!(check(&row(true), &state(6), 5).is_err());
        assert!(check(&row(false), &state(5), 5).is_err());
    }
}
