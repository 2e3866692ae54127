//! `dfs top` and `dfs profile`: what a process of the cluster does at the moment, from the figures that it counts.
//!
//! - [`figures`]: the figures of one moment, read from a page of metrics, and what happened between two moments.
//! - [`source`]: where they are had from: HTTP, or an attribute of a mount's root.
//! - `top`: rates and waits, again and again. `cluster`: the same of all keepers, from the master. `profile`: where a mount's time goes.

mod cluster;
mod figures;
mod profile;
mod source;
mod top;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Subcommand, ValueHint};
use dfs_proto::units::Period;

use super::CliError;
use crate::client::Master;

#[derive(Subcommand, Debug)]
pub(super) enum Watch {
    /// Show what is done at the moment: by the cluster, by a process with --http, or by a mount
    Top {
        /// HOST:PORT of a process with --http, or a mounted directory [default: the cluster, asked from the master]
        #[arg(value_name = "URL|MOUNT", value_hint = ValueHint::AnyPath)]
        of: Option<OsString>,
        /// How often
        #[arg(long, value_name = "PERIOD", default_value = "1s")]
        every: Period,
        /// Once, and no more
        #[arg(long)]
        once: bool,
    },
    /// Show where the time of a mount's operations goes
    Profile {
        /// A mounted directory
        #[arg(value_hint = ValueHint::DirPath)]
        mount: PathBuf,
        /// How long to look
        #[arg(long = "for", value_name = "PERIOD", default_value = "10s")]
        period: Period,
    },
}

pub(super) async fn watch(master: &Master, command: &Watch, json: bool) -> Result<(), CliError> {
    match command {
        Watch::Top { of: Some(of), every, once } => {
            let pages = master.tls.as_ref().map(|tls| &tls.to_pages);
            top::top(of, pages, every.0, *once, json).await
        }
        Watch::Top { of: None, every, once } => cluster::top(master, every.0, *once, json).await,
        Watch::Profile { mount, period } => profile::profile(mount, period.0, json).await,
    }
}
