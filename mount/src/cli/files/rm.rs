//! `dfs rm`: removes files, and with `-r` whole trees, many names at once.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::InodeNo;
use serde::Serialize;

use super::crew::{Crew, Job};
use super::walk::{Entry, Walk};
use crate::cli::CliError;
use crate::cli::output::{Output, printable};
use crate::cli::path::{Found, is_directory, name_it, resolve};
use crate::cli::stop::Stop;
use crate::client::Client;

/// Removals under way at once. Many share one sync of the master's disk.
const AT_ONCE: usize = 64;

/// What is not wanted if it cannot be had.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    pub(super) whole_trees: bool,
    /// What is not there need not be removed.
    pub(super) if_there: bool,
}

#[derive(Serialize, Default)]
struct Removed {
    /// Everything but directories.
    files: u64,
    directories: u64,
}

pub(super) async fn rm(
    client: &Client,
    paths: &[OsString],
    wanted: Wanted,
    json: bool,
) -> Result<(), CliError> {
    let job = Arc::new(Removal {
        client: client.clone(),
        files: AtomicU64::new(0),
        directories: AtomicU64::new(0),
    });
    let removed = all(client, &job, paths, wanted).await;
    if json && removed.is_ok() {
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        let mut output = Output::new();
        output.json(&Removed { files: count(&job.files), directories: count(&job.directories) })?;
        output.finish()?;
    }
    removed
}

async fn all(
    client: &Client,
    job: &Arc<Removal>,
    paths: &[OsString],
    wanted: Wanted,
) -> Result<(), CliError> {
    let stop = Stop::on_signal();
    for path in paths {
        let path = path.as_bytes();
        let found = match resolve(client, path, false).await {
            Err(error) if error.code == ErrorCode::NotFound && wanted.if_there => continue,
            found => found.map_err(|error| name_it(error, "rm", path))?,
        };
        let refuse = |why: &str| Err(CliError::Local(format!("rm {}: {why}", printable(path))));
        if found.name.is_empty() {
            return refuse("it is the root, or named by '..'; name what is below it");
        }
        if !is_directory(&found.attr) {
            job.file(found.parent, &found.name).await.map_err(|error| name_it(error, "rm", path))?;
        } else if wanted.whole_trees {
            tree(client, job.clone(), found, path, &stop).await?;
        } else {
            return refuse("it is a directory; rm -r removes it with all that is in it");
        }
    }
    Ok(())
}

struct Removal {
    client: Client,
    files: AtomicU64,
    directories: AtomicU64,
}

struct Dir {
    parent: InodeNo,
    name: Vec<u8>,
    inode: InodeNo,
    path: Vec<u8>,
}

/// What somebody else removed need not be removed.
fn unless_gone<T>(done: Result<T, DfsError>) -> Result<bool, DfsError> {
    match done {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.code, ErrorCode::NotFound | ErrorCode::Stale) => Ok(false),
        Err(error) => Err(error),
    }
}

impl Removal {
    async fn file(&self, parent: InodeNo, name: &[u8]) -> Result<(), DfsError> {
        if unless_gone(self.client.unlink(parent, name).await)? {
            self.files.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl Job for Removal {
    type Dir = Dir;
    type Item = Entry;

    async fn enter(&self, _: Option<&Dir>, entry: Entry) -> Result<Dir, CliError> {
        let inode = InodeNo(entry.attr.inode);
        Ok(Dir { parent: entry.parent, name: entry.name, inode, path: entry.path })
    }

    async fn one(&self, dir: &Dir, entry: Entry) -> Result<(), CliError> {
        let removed = self.file(dir.inode, &entry.name).await;
        removed.map_err(|error| name_it(error, "rm", &entry.path))
    }

    async fn leave(&self, dir: &Dir) -> Result<(), CliError> {
        let removed = self.client.rmdir(dir.parent, &dir.name).await;
        if unless_gone(removed).map_err(|error| name_it(error, "rm", &dir.path))? {
            self.directories.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

async fn tree(
    client: &Client,
    job: Arc<Removal>,
    top: Found,
    path: &[u8],
    stop: &Stop,
) -> Result<(), CliError> {
    let walk = Walk::new(client, "rm", top, path);
    Crew::new(job, AT_ONCE).work(walk, stop).await.into_result("rm")
}
