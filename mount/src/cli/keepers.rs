//! `dfs keepers`, and what is ordered of one: `dfs drain`, `dfs maintenance`, `dfs forget`.

use std::time::Duration;

use clap::Subcommand;
use dfs_proto::json::Keeper;
use dfs_proto::pb;
use dfs_proto::units::Period;

use super::CliError;
use super::output::{Cell, Output, Rows, human, printable};
use super::progress::Line;
use crate::client::{Master, admin, renew};

/// How often a drain that is waited for is looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Subcommand, Debug)]
pub(super) enum Switch {
    /// The keeper may be away for a while
    On {
        /// How long at most: 30m, 2h
        #[arg(long = "for", value_name = "PERIOD", default_value = "1h")]
        period: Period,
    },
    /// It may not any more
    Off,
}

pub(super) async fn keepers(master: &Master, json: bool) -> Result<(), CliError> {
    let columns = [
        "KEEPER",
        "ADDRESS",
        "STATE",
        "CHUNKS",
        "USED",
        "FREE",
        "READ",
        "WRITTEN",
        "QUARANTINE",
        "LABELS",
        "DATA",
    ];
    let mut rows = Rows::new(json, columns);
    for keeper in admin::keepers(master).await? {
        rows.row(|| keeper_cells(&keeper), &Keeper::from(&keeper))?;
    }
    rows.finish()
}

fn keeper_cells(keeper: &pb::KeeperRow) -> [Cell; 11] {
    let labels: Vec<String> =
        keeper.labels.iter().map(|label| format!("{}={}", label.name, label.value)).collect();
    [
        Cell::Number(keeper.keeper.to_string()),
        Cell::Text(keeper.address.clone()),
        Cell::Text(state(keeper)),
        Cell::Number(keeper.chunks.to_string()),
        Cell::Number(human(keeper.used)),
        Cell::Number(human(keeper.free)),
        Cell::Number(human(keeper.bytes_read)),
        Cell::Number(human(keeper.bytes_written)),
        Cell::Number(human(keeper.quarantine_bytes)),
        Cell::Text(printable(labels.join(",").as_bytes())),
        Cell::Text(printable(keeper.data_dir.as_bytes())),
    ]
}

/// `live`, `dead`, `read-only`, and what was ordered.
pub(super) fn state(keeper: &pb::KeeperRow) -> String {
    let mut state = match (keeper.alive, keeper.read_only) {
        (false, _) => "dead",
        (true, true) => "read-only",
        (true, false) => "live",
    }
    .to_owned();
    match (keeper.drained, keeper.draining) {
        (true, _) => state.push_str(", drained"),
        (false, true) => state.push_str(", draining"),
        (false, false) => {}
    }
    if keeper.maintenance_left_ms > 0 {
        state.push_str(&format!(", maintenance {}", left(keeper.maintenance_left_ms)));
    }
    state
}

/// A period for people: `59m`, `12s`.
fn left(ms: u64) -> String {
    let seconds = ms.div_ceil(1000);
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7199 => format!("{}m", seconds / 60),
        _ => format!("{}h", seconds / 3600),
    }
}

/// Prints a keeper as JSON, or the words.
fn say(keeper: &pb::KeeperRow, json: bool, words: &str) -> Result<(), CliError> {
    let mut output = Output::new();
    if json {
        output.json(&Keeper::from(keeper))?;
    } else {
        output.text(words)?;
    }
    output.finish()
}

pub(super) async fn drain(
    master: &Master,
    name: &str,
    cancel: bool,
    wait: bool,
    json: bool,
) -> Result<(), CliError> {
    let mut keeper = admin::drain(master, name, cancel).await?;
    let id = keeper.keeper;
    if cancel {
        return say(&keeper, json, &format!("keeper {id} is not being drained any more\n"));
    }
    if wait {
        keeper = wait_drained(master, keeper).await?;
    }
    let words = match (keeper.drained, &*keeper.stuck) {
        (true, _) => format!("keeper {id} is drained: it is safe to stop it, and 'dfs forget {id}'\n"),
        (false, "") => format!("keeper {id} is being drained: {} chunks are left on it\n", keeper.chunks),
        (false, why) => format!("keeper {id} is being drained, but {why}\n"),
    };
    say(&keeper, json, &words)
}

/// Shows how far a drain is, until it is done. Interrupted, it goes on without being watched.
async fn wait_drained(master: &Master, keeper: pb::KeeperRow) -> Result<pb::KeeperRow, CliError> {
    let (id, all) = (keeper.keeper, keeper.chunks);
    let mut now = keeper;
    let mut line = Line::new();
    while !now.drained {
        let note = if now.stuck.is_empty() { String::new() } else { format!(" ({})", now.stuck) };
        line.show(&format!("keeper {id}: {} of {all} chunks left{note}", now.chunks));
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = super::interrupted() => {
                line.end();
                return Err(CliError::Local(format!(
                    "drain {id}: no longer watched, but it goes on; 'dfs drain {id} --cancel' ends it"
                )));
            }
        }
        // It may take days, and a login is good for minutes.
        renew::if_due(master).await;
        let found = admin::keepers(master).await?.into_iter().find(|keeper| keeper.keeper == id);
        now = match found.filter(|keeper| keeper.draining) {
            Some(keeper) => keeper,
            None => {
                line.end();
                let why = "somebody else cancelled it, or had the keeper forgotten; see 'dfs keepers'";
                return Err(CliError::Local(format!("drain {id}: {why}")));
            }
        };
    }
    line.end();
    Ok(now)
}

pub(super) async fn maintenance(
    master: &Master,
    name: &str,
    switch: &Switch,
    json: bool,
) -> Result<(), CliError> {
    let period = match switch {
        Switch::On { period } => period.0,
        Switch::Off => Duration::ZERO,
    };
    let keeper = admin::maintenance(master, name, period).await?;
    let id = keeper.keeper;
    let words = match keeper.maintenance_left_ms {
        0 => format!("keeper {id} is not in maintenance\n"),
        ms => {
            format!("keeper {id} is in maintenance for {}: what it has is not copied meanwhile\n", left(ms))
        }
    };
    say(&keeper, json, &words)
}

pub(super) async fn forget(master: &Master, name: &str, json: bool) -> Result<(), CliError> {
    let keeper = admin::forget(master, name).await?;
    let (id, dir) = (keeper.keeper, printable(keeper.data_dir.as_bytes()));
    say(&keeper, json, &format!("keeper {id} is forgotten: its data directory {dir} can be removed\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_says_all_that_matters() {
        let mut keeper = pb::KeeperRow { alive: true, draining: true, ..pb::KeeperRow::default() };
        assert_eq!(state(&keeper), "live, draining");
        keeper.drained = true;
        keeper.maintenance_left_ms = 3_599_900;
        assert_eq!(state(&keeper), "live, drained, maintenance 60m");
        assert_eq!(state(&pb::KeeperRow::default()), "dead");
    }

    #[test]
    fn periods_for_people() {
        for (ms, text) in [(1, "1s"), (119_000, "119s"), (120_000, "2m"), (7_200_000, "2h")] {
            assert_eq!(left(ms), text);
        }
    }
}
