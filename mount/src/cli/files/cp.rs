//! `dfs cp`: copies within the cluster. No byte is moved: the copy refers to the same chunks, and each lives on by itself.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::InodeNo;
use dfs_proto::pb;
use serde::Serialize;

use super::attributes::{kept, owner, without_set_id};
use super::crew::{Crew, Job};
use super::make::{create, directory, rename, special, temporary_name};
use super::mv::needs_directory;
use super::walk::{Entry, Walk};
use crate::cli::CliError;
use crate::cli::output::{Output, printable};
use crate::cli::path::{Target, is_directory, is_regular, is_symlink, name_it, resolve, target};
use crate::cli::stop::Stop;
use crate::client::Client;
use crate::lock::lock;

/// Files under way at once.
const AT_ONCE: usize = 16;

/// How to copy.
#[derive(Clone, Copy)]
pub(super) struct How {
    pub(super) whole_trees: bool,
    /// Mode, times and for root the owner.
    pub(super) keep: bool,
}

#[derive(Serialize)]
struct Copied {
    /// Everything but directories.
    files: u64,
    bytes: u64,
}

pub(super) async fn cp(
    client: &Client,
    from: &[OsString],
    to: &OsString,
    how: How,
    json: bool,
) -> Result<(), CliError> {
    let keep = how.keep || how.whole_trees;
    let (files, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
    let (client, stop) = (client.clone(), Stop::on_signal());
    let job = Arc::new(Copying { client: client.clone(), keep, stop, top: Mutex::default(), files, bytes });
    all(&client, &job, from, to.as_bytes(), how).await?;
    let mut output = Output::new();
    if json {
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        output.json(&Copied { files: count(&job.files), bytes: count(&job.bytes) })?;
    }
    output.finish()
}

async fn all(
    client: &Client,
    job: &Arc<Copying>,
    from: &[OsString],
    to: &[u8],
    how: How,
) -> Result<(), CliError> {
    if from.len() > 1 {
        needs_directory(client, "cp", to).await?;
    }
    for from in from {
        let from = from.as_bytes();
        // With -r, links are copied as what they are.
        let found = resolve(client, from, !how.whole_trees).await;
        let found = found.map_err(|error| name_it(error, "cp", from))?;
        let refuse = |why: &str| Err(CliError::Local(format!("cp {}: {why}", printable(from))));
        let base = (!found.name.is_empty()).then_some(&found.name[..]);
        let target = target(client, to, base).await.map_err(|error| name_it(error, "cp to", to))?;
        if target.there.is_some_and(|there| there.inode == found.attr.inode) {
            return refuse("it is the same file as what it would be copied to; choose another name");
        }
        if !is_directory(&found.attr) {
            let (attr, name) = (found.attr, &target.name[..]);
            job.entry(target.parent, name, &attr).await.map_err(|error| name_it(error, "cp", from))?;
        } else if !how.whole_trees {
            return refuse("it is a directory; cp -r copies it with all that is in it");
        } else if target.above.contains(&InodeNo(found.attr.inode)) {
            return refuse("a directory cannot be copied into itself; choose another place");
        } else {
            let walk = Walk::new(client, "cp", found, from);
            *lock(&job.top) = Some(target);
            Crew::new(job.clone(), AT_ONCE).work(walk, &job.stop).await.into_result("cp")?;
        }
    }
    Ok(())
}

struct Copying {
    client: Client,
    keep: bool,
    stop: Stop,
    /// Where the tree goes that is being copied.
    top: Mutex<Option<Target>>,
    files: AtomicU64,
    bytes: AtomicU64,
}

/// The copy of a directory, and what it is a copy of.
struct Dir {
    inode: InodeNo,
    like: pb::Attr,
    path: Vec<u8>,
}

impl Job for Copying {
    type Dir = Dir;
    type Item = Entry;

    async fn enter(&self, above: Option<&Dir>, entry: Entry) -> Result<Dir, CliError> {
        let (parent, name) = match (above, lock(&self.top).take()) {
            (None, Some(top)) => (top.parent, top.name),
            (Some(above), _) => (above.inode, entry.name),
            // There is a top for each tree.
            (None, None) => return Err(CliError::Interrupted),
        };
        let made = directory(&self.client, parent, &name, &entry.attr).await;
        let (inode, _) = made.map_err(|error| name_it(error, "cp", &entry.path))?;
        Ok(Dir { inode, like: entry.attr, path: entry.path })
    }

    async fn one(&self, dir: &Dir, entry: Entry) -> Result<(), CliError> {
        let copied = self.entry(dir.inode, &entry.name, &entry.attr).await;
        copied.map_err(|error| name_it(error, "cp", &entry.path))
    }

    async fn leave(&self, dir: &Dir) -> Result<(), CliError> {
        let set = self.client.setattr(kept(dir.inode.0, &dir.like)).await;
        set.map(drop).map_err(|error| name_it(error, "cp", &dir.path))
    }
}

impl Copying {
    /// What is no directory.
    async fn entry(&self, parent: InodeNo, name: &[u8], like: &pb::Attr) -> Result<(), DfsError> {
        if is_regular(like) {
            self.file(parent, name, like).await?;
        } else if is_symlink(like) {
            let target = self.client.readlink(InodeNo(like.inode)).await?;
            special(&self.client, parent, name, like, Some(&target)).await?;
        } else {
            special(&self.client, parent, name, like, None).await?;
        }
        self.files.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn file(&self, parent: InodeNo, name: &[u8], like: &pb::Attr) -> Result<(), DfsError> {
        let client = &self.client;
        let temporary = temporary_name().map_err(|error| DfsError::new(ErrorCode::Io, error.to_string()))?;
        let mode = without_set_id(like.mode);
        let inode = create(client, parent, &temporary, mode, owner(like, self.keep)).await?;
        let whole = async {
            self.content(InodeNo(like.inode), inode).await?;
            if self.keep {
                client.setattr(kept(inode.0, like)).await?;
            }
            rename(client, parent, &temporary, name).await
        };
        let done = tokio::select! {
            done = whole => done,
            () = self.stop.wait() => Err(DfsError::new(ErrorCode::Interrupted, "a signal ended it")),
        };
        if done.is_err() {
            // What matters is the error before it.
            let _ = client.unlink(parent, &temporary).await;
        }
        client.release(inode);
        done
    }

    async fn content(&self, source: InodeNo, target: InodeNo) -> Result<(), DfsError> {
        let mut at = 0;
        loop {
            let copy = pb::CopyRange {
                source: source.0,
                source_offset: at,
                target: target.0,
                target_offset: at,
                length: dfs_proto::MAX_FILE_SIZE - at,
            };
            match self.client.copy_range(copy).await?.length {
                0 => break,
                length => at += length,
            }
        }
        self.bytes.fetch_add(at, Ordering::Relaxed);
        Ok(())
    }
}
