//! `dfs get`: fetches files from all keepers that have them, each under another name until it is whole.
//!
//! The part of a long file that is broken off stays as `NAME.part`; the next get takes it up again from the first chunk on that is not as in
//! the cluster. Whoever writes to a part has it locked.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::InodeNo;
use dfs_proto::pb;
use rustix::fs::FlockOperation;
use tokio::sync::mpsc;

use super::attributes::give_local;
use super::get_tree;
use super::moving::{How, Moving, count, print};
use super::same::Pair;
use crate::cli::CliError;
use crate::cli::output::printable;
use crate::cli::path::{base_name, is_directory, is_regular, name_it, resolve};
use crate::cli::progress::{Progress, Tally};
use crate::client::Client;
use crate::read::ReadStream;

/// Bytes taken at a time, and how many such pieces wait to be written.
const PIECE: u64 = 1024 * 1024;
const PIECES: usize = 8;
pub(super) const REMEDY: &str = "see that the directory is there, writable and has room";

pub(super) async fn get(
    client: &Client,
    path: &OsStr,
    file: Option<&OsStr>,
    how: How,
    json: bool,
) -> Result<(), CliError> {
    let path = path.as_bytes();
    if how.recursive {
        return get_tree::get_tree(client, path, file, how, json).await;
    }
    let to = local_target(path, file)?;
    let Some(to) = to else { return to_stdout(client, "get", path).await };
    let attr = regular(client, "get", path).await?;
    let tally = Tally::new(Some(attr.size));
    let moving = Moving::new(client, how, &tally);
    let progress = Progress::of(&tally);
    let fetched = moving.fetch(InodeNo(attr.inode), &to, path).await;
    progress.end().await;
    fetched?;
    if json { print(&tally) } else { Ok(()) }
}

/// A file, to stdout.
pub(super) async fn to_stdout(client: &Client, what: &'static str, path: &[u8]) -> Result<(), CliError> {
    let attr = regular(client, what, path).await?;
    let tally = Tally::new(Some(attr.size));
    let how = How { recursive: false, preserve: false, checksum: false };
    let moving = Moving::new(client, how, &tally);
    let progress = Progress::of(&tally);
    let written = moving.write_to(InodeNo(attr.inode), path, 0, io::stdout()).await;
    progress.end().await;
    match written? {
        (_, Err(error)) => Err(CliError::stdout(&error)),
        _ => Ok(()),
    }
}

/// What a path leads to, if that is a regular file.
async fn regular(client: &Client, what: &'static str, path: &[u8]) -> Result<pb::Attr, CliError> {
    let found = resolve(client, path, true).await.map_err(|error| name_it(error, what, path))?;
    if is_regular(&found.attr) {
        return Ok(found.attr);
    }
    let (is, remedy) = match is_directory(&found.attr) {
        true => ("a directory", "give the path of a file, or use dfs get -r"),
        false => ("no regular file", "give the path of a file"),
    };
    Err(CliError::Local(format!("{what} {}: it is {is}; {remedy}", printable(path))))
}

/// Where the bytes go; `None`: stdout.
fn local_target(path: &[u8], file: Option<&OsStr>) -> Result<Option<PathBuf>, CliError> {
    if file.is_some_and(|file| file == "-") {
        return Ok(None);
    }
    let base = || {
        let name =
            base_name(path).ok_or_else(|| CliError::Usage(format!("get {}: say a FILE", printable(path))))?;
        Ok(PathBuf::from(OsString::from_vec(name)))
    };
    match file.map(Path::new) {
        Some(file) if file.is_dir() => Ok(Some(file.join(base()?))),
        Some(file) => Ok(Some(file.to_owned())),
        None => base().map(Some),
    }
}

/// Under what name a file is until it is whole.
pub(super) fn part_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".part");
    PathBuf::from(name)
}

/// Work on local files, on a thread that may wait for a disk.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// The part of `to`, which is ours from now on.
fn lock_part(to: &Path) -> io::Result<File> {
    let part = part_of(to);
    loop {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&part)?;
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(io::Error::other(format!("another program is writing {}", part.display())));
        }
        // Whoever had it before may have given it its name, or removed it.
        if part
            .symlink_metadata()
            .is_ok_and(|there| file.metadata().is_ok_and(|ours| there.ino() == ours.ino()))
        {
            return Ok(file);
        }
    }
}

impl Moving {
    /// Fetches a file, in place of what has the local name.
    pub(super) async fn fetch(&self, inode: InodeNo, to: &Path, path: &[u8]) -> Result<(), CliError> {
        let failed = |error: io::Error| CliError::local("get to", to, &error, REMEDY);
        let place = to.to_owned();
        let part = Arc::new(blocking(move || lock_part(&place)).await.map_err(failed)?);
        let fetched = self.fill(inode, &part, to, path).await;
        match &fetched {
            Ok(()) => count(&self.tally.files, 1),
            Err(_) => {
                let is_kept = part.metadata().is_ok_and(|meta| self.is_worth_keeping(meta.len()));
                if !is_kept {
                    // What matters is the error before it.
                    let _ = std::fs::remove_file(part_of(to));
                }
            }
        }
        fetched
    }

    async fn fill(&self, inode: InodeNo, part: &Arc<File>, to: &Path, path: &[u8]) -> Result<(), CliError> {
        let failed = |error: io::Error| CliError::local("get to", to, &error, REMEDY);
        let from = self.take_up_part(inode, part).await.map_err(|error| name_it(error, "get", path))?;
        count(&self.tally.bytes_there, from);
        let mut output = part.try_clone().map_err(failed)?;
        let positioned = blocking(move || {
            output.set_len(from)?;
            output.seek(io::SeekFrom::Start(from))?;
            Ok(output)
        });
        let output = positioned.await.map_err(failed)?;
        let (attr, written) = self.write_to(inode, path, from, output).await?;
        written.map_err(failed)?;
        let (to, keeps) = (to.to_owned(), self.how.keeps());
        let named = to.clone();
        let name = move || {
            let part = part_of(&to);
            if keeps {
                give_local(&part, &attr)?;
            }
            std::fs::rename(&part, &to)
        };
        blocking(name).await.map_err(|error| CliError::local("get to", &named, &error, REMEDY))
    }

    /// How much of a part is as in the cluster.
    async fn take_up_part(&self, inode: InodeNo, part: &Arc<File>) -> Result<u64, DfsError> {
        let length = part.metadata().map_or(0, |meta| meta.len());
        if !self.is_worth_keeping(length) {
            return Ok(0);
        }
        let (client, readers) = (&self.client, &self.readers);
        Pair { client, readers, inode, local: part.clone() }.same(length).await
    }

    /// Writes a file's bytes from `from` on. Returns what it was then, and how the writing went.
    pub(super) async fn write_to(
        &self,
        inode: InodeNo,
        path: &[u8],
        from: u64,
        output: impl Write + Send + 'static,
    ) -> Result<(pb::Attr, io::Result<()>), CliError> {
        let attr = self.client.open(inode, 4).await.map_err(|error| name_it(error, "get", path))?;
        let (sender, pieces) = mpsc::channel(PIECES);
        let writing = tokio::task::spawn_blocking(move || write_pieces(output, pieces));
        let read = tokio::select! {
            read = self.read_pieces(&attr, from, sender) => read,
            () = self.stop.wait() => Err(DfsError::new(ErrorCode::Interrupted, "a signal ended it")),
        };
        let written = match self.stop.is_set() {
            // Stdout may take no more, and nobody waits for it.
            true => Ok(Ok(())),
            false => writing.await,
        };
        self.client.release(inode);
        read.map_err(|error| name_it(error, "get", path))?;
        let lost = |error| CliError::Local(format!("writing the file: {error}; report this"));
        Ok((attr, written.map_err(lost)?))
    }

    /// Reads the file in order; the prefetcher fetches what comes next from all keepers at once.
    async fn read_pieces(
        &self,
        attr: &pb::Attr,
        from: u64,
        sender: mpsc::Sender<Bytes>,
    ) -> Result<(), DfsError> {
        let reader = self.readers.file(InodeNo(attr.inode));
        let stream = ReadStream::new();
        let mut at = from;
        while at < attr.size {
            let piece = reader.read(&stream, at, (attr.size - at).min(PIECE) as usize).await?;
            // What was opened a moment ago, and no mixture of that and another.
            if piece.bytes.is_empty() || piece.attr.content_version != attr.content_version {
                let message = "somebody changed the file while it was read; get it again";
                return Err(DfsError::new(ErrorCode::Busy, message));
            }
            at += piece.bytes.len() as u64;
            count(&self.tally.bytes, piece.bytes.len() as u64);
            // The writer ended early: it says why.
            if sender.send(piece.bytes).await.is_err() {
                break;
            }
        }
        Ok(())
    }
}

fn write_pieces(mut output: impl Write, mut pieces: mpsc::Receiver<Bytes>) -> io::Result<()> {
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

    #[test]
    fn a_part_has_one_writer() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("film");
        let first = lock_part(&to).unwrap();
        assert!(lock_part(&to).unwrap_err().to_string().contains("film.part"));
        drop(first);
        assert!(lock_part(&to).is_ok());
    }
}
