//! `dfs get -r`: a directory of the cluster, with all that is in it.
//!
//! Whole files that are there already are left out, so that a get that was broken off goes on when it is asked for again. As with put -r,
//! DIR is the copy, and with a slash at its end, or as `.`, the place for it.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dfs_proto::ids::InodeNo;
use dfs_proto::pb;
use rustix::fs::{CWD, FileType, Mode};

use super::attributes::{give_local, looks_same, of_local};
use super::crew::{Crew, Job};
use super::get::{REMEDY, blocking, part_of};
use super::moving::{AT_ONCE, How, Moving, count, means_inside, print};
use super::same::Pair;
use super::walk::{Entry, Walk};
use crate::cli::CliError;
use crate::cli::output::printable;
use crate::cli::path::{base_name, is_directory, is_regular, is_symlink, name_it, resolve};
use crate::cli::progress::{Progress, Tally, is_shown};
use crate::client::Client;

pub(super) async fn get_tree(
    client: &Client,
    path: &[u8],
    to: Option<&OsStr>,
    how: How,
    json: bool,
) -> Result<(), CliError> {
    let named = |error| name_it(error, "get -r", path);
    let found = resolve(client, path, true).await.map_err(named)?;
    if !is_directory(&found.attr) {
        let why = "it is no directory; get without -r fetches it";
        return Err(CliError::Local(format!("get -r {}: {why}", printable(path))));
    }
    let top = local_top(path, to)?;
    let tally = Tally::new(None);
    if is_shown() {
        let root = resolve(client, path, true).await.map_err(named)?;
        let (walk, tally) = (Walk::new(client, "get -r", root, path), tally.clone());
        tokio::spawn(async move {
            if let Ok(total) = bytes_below(walk).await {
                tally.set_total(total);
            }
        });
    }
    let progress = Progress::of(&tally);
    let moving = Moving::new(client, how, &tally);
    let stop = moving.stop.clone();
    let walk = Walk::new(client, "get -r", found, path);
    let failures = Crew::new(Arc::new(Getting { moving, top }), AT_ONCE).work(walk, &stop).await;
    progress.end().await;
    if json {
        print(&tally)?;
    }
    failures.into_result("get -r")
}

fn local_top(path: &[u8], to: Option<&OsStr>) -> Result<PathBuf, CliError> {
    let base = base_name(path).map(|name| PathBuf::from(OsString::from_vec(name)));
    let nameless = || CliError::Usage(format!("get -r {}: say a DIR that it shall become", printable(path)));
    match to {
        None => base.ok_or_else(nameless),
        Some(to) if means_inside(to.as_bytes()) => Ok(Path::new(to).join(base.ok_or_else(nameless)?)),
        Some(to) => Ok(PathBuf::from(to)),
    }
}

async fn bytes_below(mut walk: Walk) -> Result<u64, CliError> {
    let mut sum = 0;
    while let Some(entry) = walk.next_entry().await? {
        sum += if is_regular(&entry.attr) { entry.attr.size } else { 0 };
    }
    Ok(sum)
}

struct Getting {
    moving: Moving,
    top: PathBuf,
}

/// A local directory, and what it is a copy of.
struct Dir {
    path: PathBuf,
    like: pb::Attr,
}

impl Job for Getting {
    type Dir = Dir;
    type Item = Entry;

    async fn enter(&self, above: Option<&Dir>, entry: Entry) -> Result<Dir, CliError> {
        let path = match above {
            None => self.top.clone(),
            Some(above) => above.path.join(OsStr::from_bytes(&entry.name)),
        };
        let made = path.clone();
        let is_top = above.is_none();
        let make = blocking(move || make_directory(&made, is_top)).await;
        make.map_err(|error| CliError::local("get -r to", &path, &error, REMEDY))?;
        count(&self.moving.tally.directories, 1);
        Ok(Dir { path, like: entry.attr })
    }

    async fn one(&self, dir: &Dir, entry: Entry) -> Result<(), CliError> {
        let to = dir.path.join(OsStr::from_bytes(&entry.name));
        if is_regular(&entry.attr) {
            return self.file(&to, &entry).await;
        }
        let mut target = None;
        if is_symlink(&entry.attr) {
            let inode = InodeNo(entry.attr.inode);
            let read = self.moving.client.readlink(inode).await;
            target = Some(read.map_err(|error| name_it(error, "get -r", &entry.path))?);
        }
        let (place, attr) = (to.clone(), entry.attr);
        let made = blocking(move || special(&place, &attr, target.as_deref())).await;
        made.map_err(|error| CliError::local("get -r to", &to, &error, REMEDY))?;
        count(&self.moving.tally.others, 1);
        Ok(())
    }

    async fn leave(&self, dir: &Dir) -> Result<(), CliError> {
        let (path, like) = (dir.path.clone(), dir.like);
        let given = blocking(move || give_local(&path, &like)).await;
        given.map_err(|error| CliError::local("get -r to", &dir.path, &error, REMEDY))
    }
}

impl Getting {
    async fn file(&self, to: &Path, entry: &Entry) -> Result<(), CliError> {
        let is_there = self.is_there(to, &entry.attr).await;
        if is_there.map_err(|error| name_it(error, "get -r", &entry.path))? {
            count(&self.moving.tally.files_there, 1);
            count(&self.moving.tally.bytes_there, entry.attr.size);
            return Ok(());
        }
        self.moving.fetch(InodeNo(entry.attr.inode), to, &entry.path).await
    }

    /// Is the file there, whole?
    async fn is_there(&self, to: &Path, like: &pb::Attr) -> Result<bool, dfs_proto::error::DfsError> {
        let checksum = self.moving.how.checksum;
        let place = to.to_owned();
        let look = blocking(move || {
            let meta = place.symlink_metadata()?;
            let file = if checksum && meta.is_file() { Some(File::open(&place)?) } else { None };
            Ok((meta, file))
        });
        let Ok((meta, file)) = look.await else { return Ok(false) };
        let there = of_local(&meta);
        if !checksum {
            return Ok(looks_same(&there, like));
        }
        let Some(local) = file.filter(|_| there.size == like.size).map(Arc::new) else { return Ok(false) };
        let (client, readers) = (&self.moving.client, &self.moving.readers);
        let is_same =
            Pair { client, readers, inode: InodeNo(like.inode), local }.same(like.size).await? == like.size;
        if is_same && !looks_same(&there, like) {
            let (place, like) = (to.to_owned(), *like);
            return Ok(blocking(move || give_local(&place, &like)).await.is_ok());
        }
        Ok(is_same)
    }
}

/// The directory, which may be there; a link to one only at the top, which somebody has named.
fn make_directory(path: &Path, is_top: bool) -> io::Result<()> {
    match std::fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let meta = if is_top { path.metadata()? } else { path.symlink_metadata()? };
            if meta.is_dir() { Ok(()) } else { Err(io::Error::other("there is something else of this name")) }
        }
        made => made,
    }
}

/// A symbolic link, or a node, in place of what has the name; a whole directory is not replaced.
fn special(to: &Path, attr: &pb::Attr, target: Option<&[u8]>) -> io::Result<()> {
    if let Some(target) = target
        && std::fs::read_link(to).is_ok_and(|there| there.as_os_str().as_bytes() == target)
    {
        return Ok(());
    }
    let part = part_of(to);
    match std::fs::remove_file(&part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    match target {
        Some(target) => std::os::unix::fs::symlink(OsStr::from_bytes(target), &part)?,
        None => {
            let (kind, mode) = (FileType::from_raw_mode(attr.mode), Mode::from_raw_mode(attr.mode & 0o777));
            rustix::fs::mknodat(CWD, &part, kind, mode, attr.rdev.into())?;
        }
    }
    let named = give_local(&part, attr).and_then(|()| std::fs::rename(&part, to));
    if named.is_err() {
        // What matters is the error before it.
        let _ = std::fs::remove_file(&part);
    }
    named
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_tree_goes() {
        let top = |path: &str, to: Option<&str>| local_top(path.as_bytes(), to.map(OsStr::new)).ok();
        assert_eq!(top("/a/b", None), Some("b".into()));
        assert_eq!(top("/a/b", Some("c")), Some("c".into()));
        assert_eq!(top("/a/b", Some("c/")), Some("c/b".into()));
        assert_eq!(top("/a/b/", Some(".")), Some("./b".into()));
        assert_eq!(top("/", Some("all")), Some("all".into()));
        assert_eq!(top("/", None), None);
    }

    #[test]
    fn a_link_that_is_there_is_no_directory() {
        let dir = tempfile::tempdir().unwrap();
        let (link, real) = (dir.path().join("link"), dir.path().join("real"));
        std::fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        assert!(make_directory(&link, true).is_ok());
        assert!(make_directory(&link, false).is_err());
        assert!(make_directory(&real, false).is_ok());
    }
}
