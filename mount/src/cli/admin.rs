//! `dfs status`, `dfs lookup`: what the master knows.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::ChunkId;
use dfs_proto::pb;
use serde::Serialize;

use super::CliError;
use super::output::{Cell, Output, Rows, human, printable};
use crate::client::{Master, admin};

#[derive(Serialize)]
struct Status<'a> {
    cluster: &'a str,
    version: &'a str,
    files: u64,
    directories: u64,
    bytes: u64,
    chunks: u64,
    copies: u64,
    endangered: u64,
    under_replicated: u64,
    lost: u64,
    lost_files: &'a [String],
    keepers_live: u64,
    keepers_dead: u64,
    mounts: u64,
    total_bytes: u64,
    free_bytes: u64,
    copies_under_way: u64,
    compactions_under_way: u64,
    compactions_waiting: u64,
    compacted_bytes: u64,
    requests: u64,
    trash_files: u64,
    trash_bytes: u64,
    want_copies: u32,
    min_copies: u32,
    chunk_size: u32,
}

pub(super) async fn status(master: &Master, json: bool) -> Result<(), CliError> {
    let status = admin::status(master).await?;
    let mut output = Output::new();
    if json {
        output.json(&status_json(&status))?;
    } else {
        output.text(&status_text(&status))?;
    }
    output.finish()
}

fn status_json(status: &pb::ClusterStatus) -> Status<'_> {
    Status {
        cluster: &status.cluster,
        version: &status.version,
        files: status.files,
        directories: status.directories,
        bytes: status.bytes,
        chunks: status.chunks,
        copies: status.copies,
        endangered: status.endangered,
        under_replicated: status.under_replicated,
        lost: status.lost,
        lost_files: &status.lost_files,
        keepers_live: status.keepers_live,
        keepers_dead: status.keepers_dead,
        mounts: status.mounts,
        total_bytes: status.total_bytes,
        free_bytes: status.free_bytes,
        copies_under_way: status.copies_under_way,
        compactions_under_way: status.compactions_under_way,
        compactions_waiting: status.compactions_waiting,
        compacted_bytes: status.compacted_bytes,
        requests: status.requests,
        trash_files: status.trash_files,
        trash_bytes: status.trash_bytes,
        want_copies: status.want_copies,
        min_copies: status.min_copies,
        chunk_size: status.chunk_size,
    }
}

fn status_text(status: &pb::ClusterStatus) -> String {
    let mut lines = vec![
        format!("cluster     {} (version {})", status.cluster, status.version),
        format!("keepers     {} live, {} dead", status.keepers_live, status.keepers_dead),
        format!("mounts      {}", status.mounts),
        format!(
            "files       {} in {} directories, {}",
            status.files,
            status.directories,
            human(status.bytes)
        ),
        format!(
            "chunks      {} of at most {}, {} copies on live keepers",
            status.chunks,
            human(u64::from(status.chunk_size)),
            status.copies
        ),
        format!(
            "copies      {} wanted, {} before an upload counts, {} being made",
            status.want_copies, status.min_copies, status.copies_under_way
        ),
        format!(
            "health      {} lost, {} endangered, {} with fewer copies than wanted",
            status.lost, status.endangered, status.under_replicated
        ),
        format!(
            "compaction  {} chunks being built, {} files waiting, {} moved since the master started",
            status.compactions_under_way,
            status.compactions_waiting,
            human(status.compacted_bytes)
        ),
        format!("trash       {} files, {}", status.trash_files, human(status.trash_bytes)),
        format!("disks       {} free of {}", human(status.free_bytes), human(status.total_bytes)),
    ];
    lines.extend(status.lost_files.iter().map(|file| format!("LOST        {}", printable(file.as_bytes()))));
    lines.push(String::new());
    lines.join("\n")
}

#[derive(Serialize)]
struct Copy<'a> {
    file: std::borrow::Cow<'a, str>,
    chunk: String,
    offset: u64,
    length: u64,
    /// No copy is known: null.
    keeper: Option<u64>,
    path: &'a str,
    alive: bool,
}

pub(super) async fn lookup(master: &Master, path: &OsStr, json: bool) -> Result<(), CliError> {
    let mut rows = Rows::new(json, ["FILE", "OFFSET", "LENGTH", "CHUNK", "KEEPER", "ALIVE", "PATH"]);
    let mut failed = None;
    let listed = admin::lookup_table(master, path.as_bytes(), |row| {
        let value = Copy {
            file: String::from_utf8_lossy(&row.file),
            chunk: ChunkId(row.chunk).to_string(),
            offset: row.offset,
            length: row.length,
            keeper: (row.keeper != 0).then_some(row.keeper),
            path: &row.path,
            alive: row.keeper != 0 && row.alive,
        };
        rows.row(|| copy_cells(&row), &value).map_err(|error| {
            failed = Some(error);
            DfsError::new(ErrorCode::Interrupted, "stdout takes no more")
        })
    })
    .await;
    if let Some(error) = failed {
        return Err(error);
    }
    listed.map_err(|error| super::path::name_it(error, "lookup", path.as_bytes()))?;
    rows.finish()
}

fn copy_cells(row: &pb::LookupRow) -> [Cell; 7] {
    let (keeper, alive, path) = match row.keeper {
        0 => ("-".to_owned(), "LOST", "-".to_owned()),
        keeper => (keeper.to_string(), if row.alive { "yes" } else { "no" }, printable(row.path.as_bytes())),
    };
    [
        Cell::Text(printable(&row.file)),
        Cell::Number(row.offset.to_string()),
        Cell::Number(row.length.to_string()),
        Cell::Text(ChunkId(row.chunk).to_string()),
        Cell::Number(keeper),
        Cell::Text(alive.to_owned()),
        Cell::Text(path),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_json_has_what_scripts_rely_on() {
        let status = pb::ClusterStatus { files: 7, keepers_live: 3, ..Default::default() };
        let json = serde_json::to_value(status_json(&status)).unwrap();
        for key in ["files", "bytes", "chunks", "endangered", "lost", "keepers_live", "keepers_dead"] {
            assert!(json[key].is_u64(), "{key}");
        }
        assert_eq!(json["files"], 7);
    }

    #[test]
    fn a_lost_file_is_named() {
        let status = pb::ClusterStatus { lost_files: vec!["/a/b".into()], ..Default::default() };
        assert!(status_text(&status).contains("LOST        /a/b\n"));
    }
}
