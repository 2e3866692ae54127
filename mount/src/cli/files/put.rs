//! `dfs put`: stores local files, each under another name until it is whole, so that nobody sees half of it.
//!
//! A long file that is broken off stays as `.X.dfs-part` beside its place; the next put of that name takes it up again from the first
//! chunk on that is not as in the local file. Whoever takes it up renames it first, so that two never write to the same.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::InodeNo;
use dfs_proto::pb;
use md5::{Digest, Md5};
use tokio::sync::mpsc;

use super::attributes::{kept, of_local, owner, without_set_id};
use super::make::{create, rename, temporary_name};
use super::moving::{How, Moving, count, print};
use super::put_tree;
use super::same::Pair;
use crate::cli::output::printable;
use crate::cli::path::{Target, base_name, is_directory, is_regular, look, name_it, target};
use crate::cli::progress::{Progress, Tally};
use crate::cli::{CliError, in_session};
use crate::client::{Client, Master};

/// Bytes read from the local file at a time, and how many such pieces wait.
const PIECE: usize = 1024 * 1024;
const PIECES: usize = 4;
/// How long a cluster without a live keeper is given to get one.
const KEEPERS_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A local file.
pub(super) struct Source {
    input: Input,
    pub(super) attr: pb::Attr,
}

enum Input {
    /// Can be read from anywhere.
    File(Arc<File>),
    /// A pipe or the like.
    Stream(Box<dyn Read + Send + Sync>),
}

pub(super) async fn put(
    master: &Master,
    file: &OsStr,
    path: Option<&OsStr>,
    how: How,
    json: bool,
) -> Result<(), CliError> {
    if how.recursive {
        return put_tree::put_tree(master, Path::new(file), path, how, json).await;
    }
    // Before the session, so that a missing file is said at once.
    let source = Source::open(file)?;
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
        let target = target(client, &path, base.as_deref()).await.map_err(named)?;
        refuse_directory(&target).map_err(named)?;
        wait_for_keepers(client).await.map_err(named)?;
        let tally = Tally::new(source.length());
        let moving = Moving::new(client, how, &tally);
        let progress = Progress::of(&tally);
        let stored = moving.store(source, (target.parent, &target.name), &path).await;
        progress.end().await;
        stored?;
        if json { print(&tally) } else { Ok(()) }
    })
    .await
}

/// Where there is no keeper nothing can be stored. After a restart of the cluster they have to call first.
pub(super) async fn wait_for_keepers(client: &Client) -> Result<(), DfsError> {
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

fn refuse_directory(target: &Target) -> Result<(), DfsError> {
    if target.there.as_ref().is_none_or(|there| !is_directory(there)) {
        return Ok(());
    }
    let message = format!("it has a directory named {}; give another PATH", printable(&target.name));
    Err(DfsError::new(ErrorCode::IsDirectory, message))
}

impl Source {
    pub(super) fn open(file: &OsStr) -> Result<Source, CliError> {
        if file == "-" {
            let attr = pb::Attr { mode: 0o644, ..pb::Attr::default() };
            return Ok(Source { input: Input::Stream(Box::new(std::io::stdin())), attr });
        }
        let path = Path::new(file);
        let failed = |error: std::io::Error| {
            CliError::local("put", path, &error, "see that the file is there and readable")
        };
        let input = File::open(path).map_err(failed)?;
        let meta = input.metadata().map_err(failed)?;
        if meta.is_dir() {
            let message =
                format!("put {}: it is a directory; put -r stores it with all that is in it", path.display());
            return Err(CliError::Local(message));
        }
        let attr = of_local(&meta);
        let input = match meta.is_file() {
            true => Input::File(Arc::new(input)),
            false => Input::Stream(Box::new(input)),
        };
        Ok(Source { input, attr })
    }

    fn length(&self) -> Option<u64> {
        match &self.input {
            Input::File(_) => Some(self.attr.size),
            Input::Stream(_) => None,
        }
    }

    /// That the local file can be compared with one of the cluster.
    pub(super) fn file(&self) -> Option<&Arc<File>> {
        match &self.input {
            Input::File(file) => Some(file),
            Input::Stream(_) => None,
        }
    }
}

/// Under what name a part of a file is kept that shall have the name `name`.
fn part_name(name: &[u8]) -> Vec<u8> {
    let digest = Md5::digest(name);
    let hex: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!(".{hex}.dfs-part").into_bytes()
}

impl Moving {
    /// Stores a file under a name in a directory, in place of what has it. `path` is for errors.
    pub(super) async fn store(
        &self,
        source: Source,
        (parent, name): (InodeNo, &[u8]),
        path: &[u8],
    ) -> Result<(), CliError> {
        let named = |error| name_it(error, "put to", path);
        let part = source.length().filter(|length| self.is_worth_keeping(*length)).map(|_| part_name(name));
        let temporary = temporary_name()?;
        let (inode, from) =
            match self.take_up(parent, part.as_deref(), &temporary, &source).await.map_err(named)? {
                Some(taken) => taken,
                None => {
                    let mode = match self.how.keeps() {
                        true => without_set_id(source.attr.mode),
                        false => source.attr.mode & 0o777,
                    };
                    let owner = owner(&source.attr, self.how.keeps());
                    let inode = create(&self.client, parent, &temporary, mode, owner).await;
                    (inode.map_err(named)?, 0)
                }
            };
        count(&self.tally.bytes_there, from);
        let attr = source.attr;
        let whole = async {
            self.transfer(inode, source, from, path).await?;
            if self.how.keeps() {
                self.client.setattr(kept(inode.0, &attr)).await.map_err(named)?;
            }
            rename(&self.client, parent, &temporary, name).await.map_err(named)
        };
        let stored = tokio::select! {
            stored = whole => stored,
            () = self.stop.wait() => Err(CliError::Interrupted),
        };
        match &stored {
            Ok(()) => count(&self.tally.files, 1),
            Err(_) => self.give_up(inode, parent, &temporary, part.as_deref()).await,
        }
        self.client.release(inode);
        stored
    }

    /// A part that was kept, from now on under the name `temporary`, open, and how much of it is as in the local file.
    async fn take_up(
        &self,
        parent: InodeNo,
        part: Option<&[u8]>,
        temporary: &[u8],
        source: &Source,
    ) -> Result<Option<(InodeNo, u64)>, DfsError> {
        let (Some(part), Some(local)) = (part, source.file()) else { return Ok(None) };
        let client = &self.client;
        let Some(there) = look(client, parent, part).await?.filter(is_regular) else { return Ok(None) };
        match rename(client, parent, part, temporary).await {
            Ok(()) => {}
            // Somebody else was quicker.
            Err(error) if error.code == ErrorCode::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
        let inode = InodeNo(there.inode);
        let attr = client.open(inode, 2).await?;
        let pair = Pair { client, readers: &self.readers, inode, local: local.clone() };
        let same = pair.same(attr.size.min(source.attr.size)).await?;
        if same < attr.size {
            client.setattr(pb::Setattr { inode: inode.0, size: Some(same), ..Default::default() }).await?;
        }
        Ok(Some((inode, same)))
    }

    /// Keeps what is worth it, and removes the rest.
    async fn give_up(&self, inode: InodeNo, parent: InodeNo, temporary: &[u8], part: Option<&[u8]>) {
        let client = &self.client;
        let stored = client.getattr(inode).await.map_or(0, |attr| attr.size);
        let left = match part.filter(|_| self.is_worth_keeping(stored)) {
            Some(part) => rename(client, parent, temporary, part).await,
            None => client.unlink(parent, temporary).await.map(drop),
        };
        if let Err(error) = left {
            tracing::warn!(name = %printable(temporary), "the half-done file could not be put away: {error}");
        }
    }

    async fn transfer(&self, inode: InodeNo, source: Source, from: u64, path: &[u8]) -> Result<(), CliError> {
        let named = |error| name_it(error, "put to", path);
        let writer = self.writers.file(inode);
        let (sender, mut pieces) = mpsc::channel(PIECES);
        let reading = tokio::task::spawn_blocking(move || read_pieces(source.input, from, &sender));
        let mut at = from;
        while let Some(piece) = pieces.recv().await {
            writer.write(at, &piece).await.map_err(named)?;
            at += piece.len() as u64;
            count(&self.tally.bytes, piece.len() as u64);
        }
        let read = reading
            .await
            .map_err(|error| CliError::Local(format!("reading the file: {error}; report this")))?;
        read.map_err(|error| {
            let path = printable(path);
            CliError::Local(format!(
                "put to {path}: reading the file: {error}; see that it can be read whole"
            ))
        })?;
        writer.flush(false).await.map_err(named)
    }
}

/// Reads to the end, or until nobody takes the pieces any more.
fn read_pieces(mut input: Input, mut at: u64, sender: &mpsc::Sender<Bytes>) -> std::io::Result<()> {
    loop {
        let mut piece = Vec::new();
        match &mut input {
            Input::File(file) => {
                piece = vec![0; PIECE];
                let read = read_at(file, &mut piece, at)?;
                piece.truncate(read);
            }
            Input::Stream(stream) => {
                stream.by_ref().take(PIECE as u64).read_to_end(&mut piece)?;
            }
        }
        at += piece.len() as u64;
        if piece.is_empty() || sender.blocking_send(piece.into()).is_err() {
            return Ok(());
        }
    }
}

/// As much as there is.
fn read_at(file: &File, buffer: &mut [u8], at: u64) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_is_named_with_a_remedy() {
        let error = Source::open(OsStr::new("/nowhere/film.mp4")).map(|_| ()).unwrap_err().to_string();
        assert!(error.starts_with("put /nowhere/film.mp4: No such file"), "{error}");
        assert!(error.contains("; see that"), "{error}");
    }

    #[test]
    fn a_directory_is_refused() {
        assert!(
            Source::open(OsStr::new("/")).map(|_| ()).unwrap_err().to_string().contains("is a directory")
        );
    }

    async fn pieces_of(input: Input, from: u64) -> Vec<u8> {
        let (sender, mut pieces) = mpsc::channel(1);
        let reading = tokio::task::spawn_blocking(move || read_pieces(input, from, &sender));
        let mut got = Vec::new();
        while let Some(piece) = pieces.recv().await {
            got.extend_from_slice(&piece);
        }
        reading.await.unwrap().unwrap();
        got
    }

    #[tokio::test]
    async fn pieces_are_the_input_whole_and_in_order_from_where_it_is_asked_for() {
        let data: Vec<u8> = (0..3 * PIECE + 17).map(|n| (n % 251) as u8).collect();
        assert!(pieces_of(Input::Stream(Box::new(std::io::Cursor::new(data.clone()))), 0).await == data);
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &data).unwrap();
        let file = Arc::new(file);
        assert!(pieces_of(Input::File(file.clone()), 0).await == data);
        assert!(pieces_of(Input::File(file), 1_000_000).await == data[1_000_000..]);
    }

    #[test]
    fn the_name_of_a_part_fits_whatever_the_name_is() {
        assert_ne!(part_name(b"a"), part_name(b"b"));
        assert!(part_name(&[b'x'; 255]).len() < 40);
    }
}
