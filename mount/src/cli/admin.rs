//! `dfs status`, `dfs lookup`: what the master knows.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::ChunkId;
use dfs_proto::{json, pb};

use super::CliError;
use super::output::{Cell, Output, Rows, human, printable};
use crate::client::{Master, admin};

pub(super) async fn status(master: &Master, as_json: bool) -> Result<(), CliError> {
    let status = admin::status(master).await?;
    let mut output = Output::new();
    if as_json {
        output.json(&json::Status::from(&status))?;
    } else {
        output.text(&status_text(&status))?;
    }
    output.finish()
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

pub(super) async fn lookup(master: &Master, path: &OsStr, as_json: bool) -> Result<(), CliError> {
    let mut rows = Rows::new(as_json, ["FILE", "OFFSET", "LENGTH", "CHUNK", "KEEPER", "ALIVE", "PATH"]);
    let mut failed = None;
    let listed = admin::lookup_table(master, path.as_bytes(), |row| {
        rows.row(|| copy_cells(&row), &json::Copy::from(&row)).map_err(|error| {
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
        let shown = serde_json::to_value(json::Status::from(&status)).unwrap();
        for key in ["files", "bytes", "chunks", "endangered", "lost", "keepers_live", "keepers_dead"] {
            assert!(shown[key].is_u64(), "{key}");
        }
        assert_eq!(shown["files"], 7);
    }

    #[test]
    fn a_lost_file_is_named() {
        let status = pb::ClusterStatus { lost_files: vec!["/a/b".into()], ..Default::default() };
        assert!(status_text(&status).contains("LOST        /a/b\n"));
    }
}
