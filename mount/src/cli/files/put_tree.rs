//! `dfs put -r`: a local directory, with all that is in it.
//!
//! Whole files that are there already are left out, so that a put that was broken off goes on when it is asked for again. That is why it
//! does not depend on what is there whether PATH is the copy or the place for it: with a slash at its end, it is the place.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::Arc;

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::InodeNo;
use dfs_proto::pb;

use super::attributes::{kept, looks_same, of_local};
use super::crew::{Crew, Job};
use super::local::{Local, LocalWalk, bytes_below};
use super::make::{directory, special};
use super::moving::{AT_ONCE, How, Moving, count, means_inside, print};
use super::put::{Source, wait_for_keepers};
use super::same::Pair;
use crate::cli::output::printable;
use crate::cli::path::{base_name, is_directory, is_regular, is_symlink, look, name_it, resolve, split_last};
use crate::cli::progress::{Progress, Tally, is_shown};
use crate::cli::{CliError, in_session};
use crate::client::{Client, Master};

const REMEDY: &str = "see that it is there and readable";

pub(super) async fn put_tree(
    master: &Master,
    local: &Path,
    path: Option<&OsStr>,
    how: How,
    json: bool,
) -> Result<(), CliError> {
    let failed = |error: std::io::Error| CliError::local("put -r", local, &error, REMEDY);
    // What a link leads to is meant.
    let top = std::fs::metadata(local).map_err(failed)?;
    if !top.is_dir() {
        let why = "it is no directory; put without -r stores it";
        return Err(CliError::Local(format!("put -r {}: {why}", local.display())));
    }
    let whole = local.canonicalize().map_err(failed)?;
    let base = whole.file_name().map(|name| name.as_bytes().to_vec());
    let path = path.map_or_else(|| b"/".to_vec(), |path| path.as_bytes().to_vec());
    in_session(master, async |client| {
        let place = place(client, &path, base).await?;
        wait_for_keepers(client).await.map_err(|error| name_it(error, "put to", &path))?;
        let tally = Tally::new(None);
        if is_shown() {
            let (whole, tally) = (whole.clone(), tally.clone());
            tokio::task::spawn_blocking(move || tally.set_total(bytes_below(&whole)));
        }
        let progress = Progress::of(&tally);
        let moving = Moving::new(client, how, &tally);
        let stop = moving.stop.clone();
        let steps = LocalWalk::begin("put -r", whole, top);
        let failures = Crew::new(Arc::new(Putting { moving, place }), AT_ONCE).work(steps, &stop).await;
        progress.end().await;
        if json {
            print(&tally)?;
        }
        failures.into_result("put -r")
    })
    .await
}

/// Where the directory itself goes.
struct Place {
    parent: InodeNo,
    name: Vec<u8>,
    path: Vec<u8>,
}

async fn place(client: &Client, path: &[u8], base: Option<Vec<u8>>) -> Result<Place, CliError> {
    let named = |error| name_it(error, "put to", path);
    if !means_inside(path)
        && let Some((above, name)) = split_last(path)
    {
        let found = resolve(client, above, true).await.map_err(named)?;
        return Ok(Place { parent: InodeNo(found.attr.inode), name: name.to_vec(), path: path.to_vec() });
    }
    let found = resolve(client, path, true).await.map_err(named)?;
    let Some(name) = base else {
        let why = "the local directory has no name; give the name that it shall have";
        return Err(CliError::Usage(format!("put to {}: {why}", printable(path))));
    };
    let path = [path, &name].concat();
    Ok(Place { parent: InodeNo(found.attr.inode), name, path })
}

struct Putting {
    moving: Moving,
    place: Place,
}

/// A directory of the cluster.
struct Dir {
    inode: InodeNo,
    path: Vec<u8>,
    /// What it is a copy of.
    like: pb::Attr,
    /// Nothing was in it.
    is_new: bool,
}

fn name_of(path: &Path) -> Vec<u8> {
    base_name(path.as_os_str().as_bytes()).unwrap_or_default()
}

impl Job for Putting {
    type Dir = Dir;
    type Item = Local;

    async fn enter(&self, above: Option<&Dir>, item: Local) -> Result<Dir, CliError> {
        let (parent, name, path) = match above {
            None => (self.place.parent, self.place.name.clone(), self.place.path.clone()),
            Some(above) => {
                let name = name_of(&item.path);
                let path = [&above.path[..], b"/", &name].concat();
                (above.inode, name, path)
            }
        };
        let like = of_local(&item.meta);
        let made = directory(&self.moving.client, parent, &name, &like).await;
        let (inode, is_new) = made.map_err(|error| name_it(error, "put to", &path))?;
        count(&self.moving.tally.directories, 1);
        Ok(Dir { inode, path, like, is_new })
    }

    async fn one(&self, dir: &Dir, item: Local) -> Result<(), CliError> {
        let name = name_of(&item.path);
        let path = [&dir.path[..], b"/", &name].concat();
        let named = |error| name_it(error, "put to", &path);
        let like = of_local(&item.meta);
        if !is_regular(&like) {
            let read = |error| CliError::local("put -r", &item.path, &error, REMEDY);
            let target = match is_symlink(&like) {
                true => Some(std::fs::read_link(&item.path).map_err(read)?.into_os_string().into_vec()),
                false => None,
            };
            let made = special(&self.moving.client, dir.inode, &name, &like, target.as_deref()).await;
            count(&self.moving.tally.others, 1);
            return made.map_err(named);
        }
        // On a thread that may wait for a disk.
        let local = item.path.clone();
        let opened = tokio::task::spawn_blocking(move || Source::open(local.as_os_str())).await;
        let source = opened.map_err(|error| CliError::Local(format!("opening: {error}; report this")))??;
        let there = match dir.is_new {
            true => None,
            false => look(&self.moving.client, dir.inode, &name).await.map_err(named)?,
        };
        if let Some(there) = &there
            && self.is_there(there, &source).await.map_err(named)?
        {
            count(&self.moving.tally.files_there, 1);
            count(&self.moving.tally.bytes_there, there.size);
            return Ok(());
        }
        self.moving.store(source, (dir.inode, &name), &path).await
    }

    async fn leave(&self, dir: &Dir) -> Result<(), CliError> {
        let set = self.moving.client.setattr(kept(dir.inode.0, &dir.like)).await;
        set.map(drop).map_err(|error| name_it(error, "put to", &dir.path))
    }
}

impl Putting {
    /// Is the file there, whole?
    async fn is_there(&self, there: &pb::Attr, source: &Source) -> Result<bool, DfsError> {
        if is_directory(there) {
            let message = "there is a directory of this name; remove it, or put elsewhere";
            return Err(DfsError::new(ErrorCode::IsDirectory, message));
        }
        if !self.moving.how.checksum {
            return Ok(looks_same(there, &source.attr));
        }
        let Some(local) = source.file().filter(|_| is_regular(there) && there.size == source.attr.size)
        else {
            return Ok(false);
        };
        let (client, readers) = (&self.moving.client, &self.moving.readers);
        let pair = Pair { client, readers, inode: InodeNo(there.inode), local: local.clone() };
        let is_same = pair.same(there.size).await? == there.size;
        if is_same && !looks_same(there, &source.attr) {
            client.setattr(kept(there.inode, &source.attr)).await?;
        }
        Ok(is_same)
    }
}
