//! `dfs get`: fetches a file from all keepers that have it, under a temporary name at first.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::InodeNo;
use dfs_proto::pb;
use tokio::sync::mpsc;

use crate::cli::output::printable;
use crate::cli::path::{base_name, is_directory, is_regular, name_it, resolve};
use crate::cli::progress::Progress;
use crate::cli::{CliError, interrupted};
use crate::client::Client;
use crate::read::{ReadStream, Readers};

/// Bytes of blocks that are kept; the prefetcher takes a quarter of it.
const CACHE: u64 = 128 * 1024 * 1024;
/// Bytes taken at a time, and how many such pieces wait to be written.
const PIECE: u64 = 1024 * 1024;
const PIECES: usize = 8;

pub(super) async fn get(client: &Client, path: &OsStr, file: Option<&OsStr>) -> Result<(), CliError> {
    let path = path.as_bytes();
    match local_target(path, file)? {
        None => fetch_open(client, "get", path, None).await,
        Some(to) => {
            let outcome = fetch_open(client, "get", path, Some(&to)).await;
            if outcome.is_err() {
                // It may not have been made yet.
                let _ = std::fs::remove_file(part_of(&to));
            }
            outcome
        }
    }
}

/// A file, to stdout.
pub(super) async fn to_stdout(client: &Client, what: &'static str, path: &[u8]) -> Result<(), CliError> {
    fetch_open(client, what, path, None).await
}

async fn fetch_open(
    client: &Client,
    what: &'static str,
    path: &[u8],
    to: Option<&Path>,
) -> Result<(), CliError> {
    let named = |error: DfsError| name_it(error, what, path);
    let found = resolve(client, path, true).await.map_err(named)?;
    if !is_regular(&found.attr) {
        let is = if is_directory(&found.attr) { "a directory" } else { "no regular file" };
        return Err(CliError::Local(format!(
            "{what} {}: it is {is}; give the path of a file",
            printable(path)
        )));
    }
    let attr = client.open(InodeNo(found.attr.inode), 0).await.map_err(named)?;
    let outcome = tokio::select! {
        outcome = fetch(client, &attr, to, path) => outcome,
        () = interrupted() => Err(CliError::Interrupted),
    };
    client.release(InodeNo(attr.inode));
    outcome
}

/// Where the bytes go; `None`: stdout.
fn local_target(path: &[u8], file: Option<&OsStr>) -> Result<Option<PathBuf>, CliError> {
    if file.is_some_and(|file| file == "-") {
        return Ok(None);
    }
    let base = || {
        let name =
            base_name(path).ok_or_else(|| CliError::Usage(format!("get {}: say a FILE", printable(path))))?;
        Ok(PathBuf::from(std::ffi::OsString::from_vec(name)))
    };
    match file.map(Path::new) {
        Some(file) if file.is_dir() => Ok(Some(file.join(base()?))),
        Some(file) => Ok(Some(file.to_owned())),
        None => base().map(Some),
    }
}

fn part_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".part");
    PathBuf::from(name)
}

async fn fetch(client: &Client, attr: &pb::Attr, to: Option<&Path>, path: &[u8]) -> Result<(), CliError> {
    const REMEDY: &str = "see that the directory is there, writable and has room";
    let (sender, pieces) = mpsc::channel(PIECES);
    let Some(to) = to else {
        let writing = tokio::task::spawn_blocking(move || write_pieces(std::io::stdout(), pieces));
        let read = read_pieces(client, attr, sender, path).await;
        let written = writing.await.map_err(lost)?;
        return written.map_err(|error| CliError::stdout(&error)).and(read);
    };
    let part = part_of(to);
    let failed = |error: std::io::Error| CliError::local("get to", to, &error, REMEDY);
    let output = File::create(&part).map_err(failed)?;
    let writing = tokio::task::spawn_blocking(move || write_pieces(output, pieces));
    let read = read_pieces(client, attr, sender, path).await;
    writing.await.map_err(lost)?.map_err(failed)?;
    read?;
    std::fs::rename(&part, to).map_err(failed)
}

fn lost(error: tokio::task::JoinError) -> CliError {
    CliError::Local(format!("writing the file: {error}; report this"))
}

/// Reads the file in order; the prefetcher fetches what comes next from all keepers at once.
async fn read_pieces(
    client: &Client,
    attr: &pb::Attr,
    sender: mpsc::Sender<Bytes>,
    path: &[u8],
) -> Result<(), CliError> {
    let reader = Readers::new(client.clone(), CACHE).file(InodeNo(attr.inode));
    let stream = ReadStream::new();
    let mut progress = Progress::new(Some(attr.size));
    let mut at = 0;
    let outcome = loop {
        let left = attr.size - at;
        if left == 0 {
            break Ok(());
        }
        match reader.read(&stream, at, left.min(PIECE) as usize).await {
            Ok(piece) if piece.bytes.is_empty() => {
                let message = "somebody made the file shorter while it was read; get it again";
                break Err(name_it(DfsError::new(ErrorCode::Busy, message), "get", path));
            }
            Ok(piece) => {
                at += piece.bytes.len() as u64;
                // The writer ended early: it says why.
                if sender.send(piece.bytes).await.is_err() {
                    break Ok(());
                }
            }
            Err(error) => break Err(name_it(error, "get", path)),
        }
        progress.at(at);
    };
    progress.end(at);
    outcome
}

fn write_pieces(mut output: impl Write, mut pieces: mpsc::Receiver<Bytes>) -> std::io::Result<()> {
    while let Some(piece) = pieces.blocking_recv() {
        output.write_all(&piece)?;
    }
    output.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_the_bytes_go() {
        let target =
            |path: &str, file: Option<&str>| local_target(path.as_bytes(), file.map(OsStr::new)).unwrap();
        assert_eq!(target("/a/b.mp4", None), Some("b.mp4".into()));
        assert_eq!(target("/a/b.mp4", Some("/")), Some("/b.mp4".into()));
        assert_eq!(target("/a/b.mp4", Some("c")), Some("c".into()));
        assert_eq!(target("/a/b.mp4", Some("-")), None);
        assert!(local_target(b"/..", None).is_err());
        assert_eq!(part_of(Path::new("x/b.mp4")), Path::new("x/b.mp4.part"));
    }
}
