//! `dfs put`: stores a local file, under a temporary name at first, so that nobody sees half of it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::InodeNo;
use dfs_proto::pb;
use tokio::sync::mpsc;

use super::output::printable;
use super::path::{base_name, is_directory, name_it, resolve, split_last};
use super::progress::Progress;
use super::{CliError, in_session, interrupted};
use crate::client::{Client, Master};
use crate::write::Writers;

/// Bytes that are written and not yet stored.
const WRITE_BUFFER: u64 = 64 * 1024 * 1024;
/// Bytes read from the local file at a time, and how many such pieces wait.
const PIECE: usize = 1024 * 1024;
const PIECES: usize = 4;
/// How long a cluster without a live keeper is given to get one.
const KEEPERS_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What is stored.
struct Source {
    input: Box<dyn Read + Send>,
    length: Option<u64>,
    mode: u32,
}

/// Where it goes to.
struct Target {
    parent: InodeNo,
    name: Vec<u8>,
}

pub(super) async fn put(master: &Master, file: &OsStr, path: Option<&OsStr>) -> Result<(), CliError> {
    // Before the session, so that a missing file is said at once.
    let source = open(file)?;
    let base = if file == "-" { None } else { base_name(file.as_bytes()) };
    let path = match (path, &base) {
        (Some(path), _) => path.as_bytes().to_vec(),
        (None, Some(base)) => [b"/", &base[..]].concat(),
        (None, None) => {
            return Err(CliError::Usage("put -: a PATH is needed for what comes from stdin".into()));
        }
    };
    in_session(master, async |client| {
        let named = |error| name_it(error, "put to", &path);
        let target = target(client, &path, base).await.map_err(named)?;
        wait_for_keepers(client).await.map_err(named)?;
        store(client, source, &target, &path).await
    })
    .await
}

/// Where there is no keeper nothing can be stored. After a restart of the cluster they have to call first.
async fn wait_for_keepers(client: &Client) -> Result<(), DfsError> {
    let give_up = Instant::now() + KEEPERS_WITHIN;
    while client.statfs(InodeNo::ROOT).await?.total == 0 {
        if Instant::now() >= give_up {
            let message = "no keeper is live; start one, or see why they are gone (dfs keepers)";
            return Err(DfsError::new(ErrorCode::NoKeeper, message));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

fn open(file: &OsStr) -> Result<Source, CliError> {
    if file == "-" {
        return Ok(Source { input: Box::new(std::io::stdin()), length: None, mode: 0o644 });
    }
    let path = Path::new(file);
    let failed = |error: std::io::Error| {
        CliError::local("put", path, &error, "see that the file is there and readable")
    };
    let input = File::open(path).map_err(failed)?;
    let meta = input.metadata().map_err(failed)?;
    if meta.is_dir() {
        let message = format!(
            "put {}: it is a directory; put its files one by one, or cp -r to a mount",
            path.display()
        );
        return Err(CliError::Local(message));
    }
    let length = meta.is_file().then_some(meta.len());
    Ok(Source { input: Box::new(input), length, mode: meta.permissions().mode() & 0o777 })
}

/// `base` is the local file's own name.
async fn target(client: &Client, path: &[u8], base: Option<Vec<u8>>) -> Result<Target, DfsError> {
    match resolve(client, path, true).await {
        Ok(found) if is_directory(&found.attr) => {
            let parent = InodeNo(found.attr.inode);
            let needs_name = || DfsError::new(ErrorCode::IsDirectory, "it is a directory; say a name in it");
            let name = base.ok_or_else(needs_name)?;
            match client.lookup(parent, &name).await {
                Ok(attr) if is_directory(&attr) => {
                    let message = format!("it has a directory named {}; give another PATH", printable(&name));
                    Err(DfsError::new(ErrorCode::IsDirectory, message))
                }
                Err(error) if error.code != ErrorCode::NotFound => Err(error),
                _ => Ok(Target { parent, name }),
            }
        }
        Ok(found) => Ok(Target { parent: found.parent, name: found.name }),
        Err(error) if error.code == ErrorCode::NotFound => {
            let (parent, name) = split_last(path).ok_or(error)?;
            let parent = resolve(client, parent, true).await?;
            if !is_directory(&parent.attr) {
                return Err(DfsError::new(ErrorCode::NotDirectory, "its parent is no directory"));
            }
            Ok(Target { parent: InodeNo(parent.attr.inode), name: name.to_vec() })
        }
        Err(error) => Err(error),
    }
}

async fn store(client: &Client, source: Source, target: &Target, path: &[u8]) -> Result<(), CliError> {
    let named = |error| name_it(error, "put to", path);
    let temporary = temporary_name()?;
    let create = pb::Create {
        parent: target.parent.0,
        name: Bytes::copy_from_slice(&temporary),
        mode: source.mode,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        umask: 0,
    };
    let inode = InodeNo(client.create(create).await.map_err(named)?.what.inode);
    let whole = async {
        transfer(client, inode, source, path).await?;
        let rename = pb::Rename {
            parent: target.parent.0,
            name: Bytes::copy_from_slice(&temporary),
            new_parent: target.parent.0,
            new_name: Bytes::copy_from_slice(&target.name),
            no_replace: false,
            exchange: false,
        };
        client.rename(rename).await.map_err(named)?;
        Ok(())
    };
    let outcome = tokio::select! {
        outcome = whole => outcome,
        () = interrupted() => Err(CliError::Interrupted),
    };
    if outcome.is_err()
        && let Err(error) = client.unlink(target.parent, &temporary).await
    {
        tracing::warn!(name = %printable(&temporary), "the half-done file could not be removed: {error}");
    }
    client.release(inode);
    outcome
}

fn temporary_name() -> Result<Vec<u8>, CliError> {
    let mut random = [0; 8];
    getrandom::fill(&mut random)
        .map_err(|error| CliError::Local(format!("choosing a temporary name: {error}; try again")))?;
    Ok(format!(".{:016x}.dfs-put", u64::from_le_bytes(random)).into_bytes())
}

async fn transfer(client: &Client, inode: InodeNo, source: Source, path: &[u8]) -> Result<(), CliError> {
    let named = |error| name_it(error, "put to", path);
    let writer = Writers::new(client.clone(), WRITE_BUFFER).file(inode);
    let mut progress = Progress::new(source.length);
    let (sender, mut pieces) = mpsc::channel(PIECES);
    let reading = tokio::task::spawn_blocking(move || read_pieces(source.input, &sender));
    let mut at = 0;
    let outcome = async {
        while let Some(piece) = pieces.recv().await {
            writer.write(at, &piece).await.map_err(named)?;
            at += piece.len() as u64;
            progress.at(at);
        }
        let read = reading
            .await
            .map_err(|error| CliError::Local(format!("reading the file: {error}; report this")))?;
        read.map_err(|error| {
            CliError::Local(format!("reading the file: {error}; see that it can be read whole"))
        })?;
        writer.flush(false).await.map_err(named)
    }
    .await;
    progress.end(at);
    outcome
}

/// Reads to the end, or until nobody takes the pieces any more.
fn read_pieces(mut input: impl Read, sender: &mpsc::Sender<Bytes>) -> std::io::Result<()> {
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        input.by_ref().take(PIECE as u64).read_to_end(&mut piece)?;
        if piece.is_empty() || sender.blocking_send(piece.into()).is_err() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_is_named_with_a_remedy() {
        let error = open(OsStr::new("/nowhere/film.mp4")).map(|_| ()).unwrap_err().to_string();
        assert!(error.starts_with("put /nowhere/film.mp4: No such file"), "{error}");
        assert!(error.contains("; see that"), "{error}");
    }

    #[test]
    fn a_directory_is_refused() {
        assert!(open(OsStr::new("/")).map(|_| ()).unwrap_err().to_string().contains("is a directory"));
    }

    #[tokio::test]
    async fn pieces_are_the_input_whole_and_in_order() {
        let data: Vec<u8> = (0..3 * PIECE + 17).map(|n| (n % 251) as u8).collect();
        let (sender, mut pieces) = mpsc::channel(1);
        let input = std::io::Cursor::new(data.clone());
        let reading = tokio::task::spawn_blocking(move || read_pieces(input, &sender));
        let mut got = Vec::new();
        while let Some(piece) = pieces.recv().await {
            got.extend_from_slice(&piece);
        }
        reading.await.unwrap().unwrap();
        assert!(got == data);
    }
}
