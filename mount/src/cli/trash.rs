//! `dfs trash`: files that were removed and are kept for a while.

use std::borrow::Cow;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use clap::Subcommand;
use dfs_proto::pb;
use serde::Serialize;

use super::CliError;
use super::output::{Cell, Output, Rows, human, minute, printable};
use crate::client::{Master, admin};

/// Files are kept when dfs-master runs with --trash.
#[derive(Subcommand, Debug)]
pub(super) enum Trash {
    /// List what is kept, the oldest first
    Ls {
        /// Only what was here, or below
        #[arg(default_value = "/")]
        path: OsString,
    },
    /// Give a file its name again
    Restore {
        /// Its number in dfs trash ls
        entry: u64,
        /// Where to [default: where it was]
        #[arg(long, value_name = "PATH")]
        to: Option<OsString>,
    },
    /// Let files go now
    #[command(arg_required_else_help = true)]
    Purge {
        /// Its number in dfs trash ls
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        entry: Option<u64>,
        /// Everything that is in the trash now
        #[arg(long)]
        all: bool,
    },
}

#[derive(Serialize)]
struct Row<'a> {
    entry: u64,
    path: Cow<'a, str>,
    size: u64,
    bytes: u64,
    deleted_ms: i64,
}

fn row(entry: &pb::TrashEntry) -> Row<'_> {
    Row {
        entry: entry.entry,
        path: String::from_utf8_lossy(&entry.path),
        size: entry.size,
        bytes: entry.bytes,
        deleted_ms: entry.deleted_ms,
    }
}

pub(super) async fn trash(master: &Master, command: &Trash, json: bool) -> Result<(), CliError> {
    match command {
        Trash::Ls { path } => ls(master, path.as_bytes(), json).await,
        Trash::Restore { entry, to } => {
            let to = to.as_deref().map_or(&b""[..], OsStrExt::as_bytes);
            let list = admin::restore_trash(master, *entry, to).await?;
            say(&list, json, |list| {
                let path =
                    list.entries.first().map_or(Cow::Borrowed("/"), |e| Cow::Owned(printable(&e.path)));
                format!("restored {path}\n")
            })
        }
        Trash::Purge { entry, .. } => {
            let list = admin::purge_trash(master, entry.unwrap_or(0)).await?;
            let (files, bytes) = match list.entries.first() {
                Some(entry) => (1, entry.bytes),
                None => (list.files, list.bytes),
            };
            say(&list, json, |_| format!("{files} files of {} are being removed\n", human(bytes)))
        }
    }
}

fn say(list: &pb::TrashList, json: bool, words: impl Fn(&pb::TrashList) -> String) -> Result<(), CliError> {
    let mut output = Output::new();
    if json {
        output.json(&list.entries.iter().map(row).collect::<Vec<_>>())?;
    } else {
        output.text(&words(list))?;
    }
    output.finish()
}

async fn ls(master: &Master, path: &[u8], json: bool) -> Result<(), CliError> {
    let mut rows = Rows::new(json, ["ENTRY", "REMOVED", "SIZE", "PATH"]);
    let mut after = None;
    loop {
        let list = admin::trash(master, path, after).await?;
        for entry in &list.entries {
            rows.row(|| cells(entry), &row(entry))?;
        }
        after = list.next;
        if after.is_none() {
            return rows.finish();
        }
    }
}

fn cells(entry: &pb::TrashEntry) -> [Cell; 4] {
    [
        Cell::Number(entry.entry.to_string()),
        Cell::Text(minute(entry.deleted_ms.div_euclid(1000))),
        Cell::Number(human(entry.size)),
        Cell::Text(printable(&entry.path)),
    ]
}
