//! `dfs backup`: a dump of all metadata of a running cluster.
//!
//! What must hold: under the name that was given there is a whole dump on stable storage, or what was there before. It
//! is for its owner alone: it has every name and attribute of the cluster.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use dfs_proto::error::{DfsError, ErrorCode};
use serde::Serialize;

use super::output::{Output, human};
use super::{CliError, interrupted};
use crate::client::{Master, admin};

#[derive(Serialize)]
struct Done {
    rows: u64,
    bytes: u64,
}

pub(super) async fn backup(master: &Master, to: &Path, json: bool) -> Result<(), CliError> {
    const REMEDY: &str = "see that the directory is there, writable and has room";
    let failed = |error: io::Error| CliError::local("backup to", to, &error, REMEDY);
    let part = part_of(to);
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part);
    let file = file.map_err(failed)?;
    let done = tokio::select! {
        done = fetch(master, &file) => done.map_err(|error| match error {
            Failed::Master(error) => error.into(),
            Failed::Local(error) => failed(error),
        }),
        () = interrupted() => Err(CliError::Interrupted),
    };
    let done = done.and_then(|done| keep(&file, &part, to).map_err(failed).map(|()| done));
    if done.is_err() {
        // What matters is the error before it.
        let _ = fs::remove_file(&part);
    }
    let Done { rows, bytes } = done?;
    let mut output = Output::new();
    match json {
        true => output.json(&Done { rows, bytes })?,
        false => output.text(&format!("{}: {rows} rows, {}\n", to.display(), human(bytes)))?,
    }
    output.finish()
}

enum Failed {
    Master(DfsError),
    Local(io::Error),
}

async fn fetch(master: &Master, mut file: &File) -> Result<Done, Failed> {
    let (mut bytes, mut local) = (0, None);
    let fetched = admin::backup(master, |part| {
        bytes += part.len() as u64;
        file.write_all(part).map_err(|error| {
            let stop = DfsError::new(ErrorCode::Io, error.to_string());
            local = Some(error);
            stop
        })
    });
    let rows = fetched.await;
    match (rows, local) {
        (Ok(rows), _) => Ok(Done { rows, bytes }),
        (Err(_), Some(error)) => Err(Failed::Local(error)),
        (Err(error), None) => Err(Failed::Master(error)),
    }
}

fn part_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".part");
    PathBuf::from(name)
}

fn keep(file: &File, part: &Path, to: &Path) -> io::Result<()> {
    file.sync_all()?;
    fs::rename(part, to)?;
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}
