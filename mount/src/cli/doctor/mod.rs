//! `dfs doctor`: looks at what usually is the matter, here and in the cluster, and says what to do. Leaves with 0 when nothing failed,
//! with 1 when something did. It changes nothing.
//!
//! - `cluster`: the master, its clock and version, keepers and their ports.
//! - `machine`: FUSE, limits, disks, the mounts that there are.

mod cluster;
mod machine;

use std::path::PathBuf;

use serde::Serialize;

use super::CliError;
use super::output::{Cell, Rows};
use crate::client::Master;

/// How one thing is.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    /// It works, and could be better.
    Warn,
    /// Something does not work.
    Fail,
}

/// One thing that was looked at.
#[derive(Serialize, Debug)]
struct Check {
    check: String,
    state: State,
    found: String,
    /// What to do; empty where there is nothing to be done.
    remedy: String,
}

impl Check {
    fn ok(check: impl Into<String>, found: impl Into<String>) -> Check {
        Check { check: check.into(), state: State::Ok, found: found.into(), remedy: String::new() }
    }

    fn warn(check: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) -> Check {
        Check { check: check.into(), state: State::Warn, found: found.into(), remedy: remedy.into() }
    }

    fn fail(check: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) -> Check {
        Check { state: State::Fail, ..Check::warn(check, found, remedy) }
    }
}

/// `dirs` are on this machine, to be looked at beside those of its keepers.
pub(super) async fn doctor(master: &Master, dirs: &[PathBuf], json: bool) -> Result<(), CliError> {
    let (mut checks, keepers) = cluster::checks(master).await;
    checks.extend(machine::checks(&keepers, dirs).await);
    let mut rows = Rows::new(json, ["STATE", "CHECK", "FOUND", "WHAT TO DO"]);
    for check in &checks {
        let state = match check.state {
            State::Ok => "ok",
            State::Warn => "warn",
            State::Fail => "FAIL",
        };
        let cells =
            || [state, &check.check, &check.found, &check.remedy].map(|text| Cell::Text(text.to_owned()));
        rows.row(cells, check)?;
    }
    rows.finish()?;
    match checks.iter().filter(|check| check.state == State::Fail).count() {
        0 => Ok(()),
        failed => {
            let all = checks.len();
            Err(CliError::Local(format!(
                "doctor: {failed} of {all} checks failed; do what stands beside them"
            )))
        }
    }
}
