//! `dfs quota`: how many bytes and files there may be below a directory.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use clap::Subcommand;
use dfs_proto::pb;
use dfs_proto::units::Size;
use serde::Serialize;

use super::output::{Cell, Rows, human, printable};
use super::path::name_it;
use super::{CliError, complete};
use crate::client::{Master, admin};

/// Paths are absolute; symbolic links in them are not followed.
#[derive(Subcommand, Debug)]
pub(super) enum Quota {
    /// Set a directory's limits; one that is not named stays as it is
    #[command(arg_required_else_help = true)]
    Set {
        /// A directory of the cluster
        #[arg(add = complete::paths())]
        path: OsString,
        /// Most that may be stored below it, as du counts it: 10GiB
        #[arg(long, required_unless_present = "files")]
        size: Option<Size>,
        /// Most files, directories and everything else below it
        #[arg(long, value_name = "N")]
        files: Option<u64>,
    },
    /// Show a directory's limits, and what is used of them
    Get {
        /// A directory of the cluster
        #[arg(add = complete::paths())]
        path: OsString,
    },
    /// Take a directory's limits away
    Clear {
        /// A directory of the cluster
        #[arg(add = complete::paths())]
        path: OsString,
    },
    /// Show every directory that has limits
    List,
}

/// Nulls are limits that are not set.
#[derive(Serialize)]
struct Row<'a> {
    path: Cow<'a, str>,
    max_bytes: Option<u64>,
    used_bytes: u64,
    max_files: Option<u64>,
    used_files: u64,
}

pub(super) async fn quota(master: &Master, command: &Quota, json: bool) -> Result<(), CliError> {
    match command {
        Quota::Set { path, size, files } => {
            let set = admin::set_quota(master, path.as_bytes(), size.map(|size| size.0), *files).await;
            set.map_err(|error| name_it(error, "quota set", path.as_bytes()))
        }
        Quota::Get { path } => {
            let found = admin::quotas(master, path.as_bytes()).await;
            let found = found.map_err(|error| name_it(error, "quota get", path.as_bytes()))?;
            if found.is_empty() {
                return Err(none("get", path));
            }
            show(&found, json)
        }
        Quota::Clear { path } => match admin::clear_quota(master, path.as_bytes()).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(none("clear", path)),
            Err(error) => Err(name_it(error, "quota clear", path.as_bytes())),
        },
        Quota::List => show(&admin::quotas(master, b"").await?, json),
    }
}

fn none(what: &str, path: &OsStr) -> CliError {
    CliError::Local(format!(
        "quota {what} {}: this directory has no quota; dfs quota list shows those that have one",
        printable(path.as_bytes())
    ))
}

fn show(quotas: &[pb::QuotaInfo], json: bool) -> Result<(), CliError> {
    let mut rows = Rows::new(json, ["DIRECTORY", "SIZE", "USED", "FILES", "USED"]);
    for quota in quotas {
        let value = Row {
            path: String::from_utf8_lossy(&quota.path),
            max_bytes: quota.max_bytes,
            used_bytes: quota.used_bytes,
            max_files: quota.max_inodes,
            used_files: quota.used_inodes,
        };
        rows.row(|| cells(quota), &value)?;
    }
    rows.finish()
}

fn cells(quota: &pb::QuotaInfo) -> [Cell; 5] {
    let none = || "-".to_owned();
    [
        Cell::Text(printable(&quota.path)),
        Cell::Number(quota.max_bytes.map_or_else(none, human)),
        Cell::Number(human(quota.used_bytes)),
        Cell::Number(quota.max_inodes.map_or_else(none, |limit| limit.to_string())),
        Cell::Number(quota.used_inodes.to_string()),
    ]
}
