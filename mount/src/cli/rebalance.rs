//! `dfs rebalance`: evens out how full keepers are.

use clap::Subcommand;
use dfs_proto::pb;
use dfs_proto::pb::rebalance_request::Action;
use serde::Serialize;

use super::CliError;
use super::keepers::LOOK_EVERY;
use super::output::{Output, human};
use super::progress::Line;
use crate::client::{Master, admin, renew};

#[derive(Subcommand, Debug)]
pub(super) enum Rebalance {
    /// Move chunks from keepers that are fuller than the mean to emptier ones
    Start {
        /// Wait for the end, and show how far it is
        #[arg(long)]
        wait: bool,
    },
    /// Show how far it is, or how the last one ended
    Status,
    /// Stop; what was moved stays where it is
    Stop,
}

#[derive(Serialize)]
struct Status<'a> {
    running: bool,
    moved_chunks: u64,
    moved_bytes: u64,
    left_bytes: u64,
    ended: &'a str,
}

pub(super) async fn rebalance(master: &Master, command: &Rebalance, json: bool) -> Result<(), CliError> {
    let status = match command {
        Rebalance::Start { wait: false } => admin::rebalance(master, Action::Start).await?,
        Rebalance::Start { wait: true } => {
            let status = admin::rebalance(master, Action::Start).await?;
            wait_for_end(master, status).await?
        }
        Rebalance::Status => admin::rebalance(master, Action::Status).await?,
        Rebalance::Stop => admin::rebalance(master, Action::Stop).await?,
    };
    let mut output = Output::new();
    if json {
        output.json(&Status {
            running: status.running,
            moved_chunks: status.moved_chunks,
            moved_bytes: status.moved_bytes,
            left_bytes: status.left_bytes,
            ended: &status.ended,
        })?;
    } else {
        output.text(&format!("{}\n", words(&status)))?;
    }
    output.finish()
}

fn words(status: &pb::RebalanceStatus) -> String {
    let (moved, left) = (human(status.moved_bytes), human(status.left_bytes));
    let far = format!("{moved} moved in {} chunks", status.moved_chunks);
    match (status.running, &*status.ended) {
        (true, _) => format!("rebalancing: {far}, {left} left"),
        (false, "") => format!("not rebalancing; keepers that are too full have {left} more than the mean"),
        (false, how) => format!("not rebalancing; the last one: {how}; {far}"),
    }
}

/// Interrupted, it goes on without being watched.
async fn wait_for_end(master: &Master, begun: pb::RebalanceStatus) -> Result<pb::RebalanceStatus, CliError> {
    let mut status = begun;
    let mut line = Line::new();
    while status.running {
        line.show(&words(&status));
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = super::interrupted() => {
                line.end();
                let message = "rebalance: no longer watched, but it goes on; 'dfs rebalance stop' ends it";
                return Err(CliError::Local(message.to_owned()));
            }
        }
        renew::if_due(master).await;
        status = admin::rebalance(master, Action::Status).await?;
    }
    line.end();
    Ok(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_how_far_it_is_and_how_it_ended() {
        let mut status =
            pb::RebalanceStatus { running: true, moved_chunks: 2, moved_bytes: 2048, ..Default::default() };
        assert_eq!(words(&status), "rebalancing: 2.00 KiB moved in 2 chunks, 0 B left");
        status.running = false;
        status.ended = "stopped by an operator".to_owned();
        assert!(words(&status).contains("stopped by an operator; 2.00 KiB"));
    }
}
