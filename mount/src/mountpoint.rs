//! Where we mount: what is at the mount point now, and making it ready.
//!
//! - [`mountinfo`]: the kernel's mount table.
//! - [`attach`]: the mount itself, from mount(2) or fusermount3 to the unmount.
//! - [`fusermount`]: the set-user-id helper, for those who are not root.
//! - [`connection`]: our connection with the kernel, and how to end it by hand.
//! - [`readahead`]: how far the kernel reads ahead on our mount.
//!
//! [`prepare`] leaves a directory on which nothing is mounted, or an error that says what is there. It never
//! touches what is mounted there without need, and never waits for it without a deadline: a dead or a hung file
//! system at the mount point is just what has to be recognised.

pub mod attach;
pub mod connection;
pub mod fusermount;
pub mod mountinfo;
pub mod readahead;

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, StatxFlags};

use self::mountinfo::MountEntry;

/// The longest that looking at the mount point may take. A live file system answers at once.
const LOOK_DEADLINE: Duration = Duration::from_secs(10);

/// The most dead mounts that are taken off one another.
const MAX_LAYERS: usize = 16;

/// How long the end of a process that was killed may take to show, and how often it is looked for.
const DYING: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// The kernel's type of our mounts begins so; what follows `fuse.` is the subtype.
const FUSE_TYPE: &str = "fuse";

/// Why the mount point cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MountPointError {
    /// A file, a socket, ...
    #[error("mount point {0}: is not a directory; name a directory, or a path that is not there yet")]
    NotDirectory(PathBuf),
    /// A symbolic link to nowhere.
    #[error("mount point {0}: is a symbolic link to something that is not there; name a directory")]
    Dangling(PathBuf),
    /// It cannot be made.
    #[error("mount point {path}: cannot be created: {error}; create it, or name another")]
    Create {
        /// The mount point.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// It cannot be looked at.
    #[error("mount point {path}: cannot be looked at: {error}; name another, or see what is wrong with it")]
    Look {
        /// The mount point.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// What is mounted there, or on the way there, does not answer.
    #[error(
        "mount point {path}: {what} does not answer; take it away with `umount -l {path}` and mount again"
    )]
    Silent {
        /// The mount point.
        path: PathBuf,
        /// What is there, as far as is known.
        what: String,
    },
    /// One of our mounts, alive.
    #[error(
        "mount point {path}: {source_name} is mounted there already; unmount it first with `umount {path}`"
    )]
    AlreadyMounted {
        /// The mount point.
        path: PathBuf,
        /// Its source, as the mount table has it.
        source_name: String,
    },
    /// Somebody else's mount, alive or dead.
    #[error("mount point {path}: {source_name} (type {fs_type}{}) is mounted there; unmount it, or name another directory",
            if *.dead { ", dead" } else { "" })]
    Occupied {
        /// The mount point.
        path: PathBuf,
        /// Its source.
        source_name: String,
        /// Its type.
        fs_type: String,
        /// It does not work any more.
        dead: bool,
    },
    /// A dead mount of ours that will not go away.
    #[error(
        "mount point {path}: a dead mount is there and cannot be taken away: {reason}; `umount -l {path}` as root"
    )]
    Stuck {
        /// The mount point.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}

/// A directory on which nothing is mounted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MountPoint {
    /// Absolute, without symbolic links: as the mount table will show it.
    pub path: PathBuf,
    /// What the user should hear: it was created, is not empty, was recovered.
    pub notes: Vec<String>,
}

/// What is at a path.
#[derive(Debug)]
enum Found {
    Nothing,
    NotDirectory,
    Dangling,
    Directory { empty: bool },
    Mounted(MountEntry),
    Dead(MountEntry),
}

/// Makes `path` ready to be mounted on: creates it when it is missing, takes away a dead mount of ours.
/// `path` is absolute; `our_type` is the type of our mounts in the mount table (`fuse.dfs`).
///
/// # Errors
/// [`MountPointError`] when something is there that is not ours to touch.
pub fn prepare(path: &Path, our_type: &str) -> Result<MountPoint, MountPointError> {
    let mut notes = Vec::new();
    let began = Instant::now();
    for _ in 0..MAX_LAYERS {
        let (real, found) = look(path)?;
        match found {
            Found::Nothing => {
                create(path)?;
                notes.push(format!("mount point {} was not there; created", path.display()));
            }
            Found::NotDirectory => return Err(MountPointError::NotDirectory(real)),
            Found::Dangling => return Err(MountPointError::Dangling(real)),
            // What was killed a moment ago may still look alive: the kernel has its attributes cached.
            Found::Mounted(entry) if entry.fs_type == our_type && began.elapsed() < DYING => {
                thread::sleep(LOOK_AGAIN);
            }
            Found::Mounted(entry) if entry.fs_type == our_type => {
                return Err(MountPointError::AlreadyMounted { path: real, source_name: entry.source });
            }
            Found::Dead(entry) if entry.fs_type == our_type => {
                attach::take_away_dead(&real)
                    .map_err(|e| MountPointError::Stuck { path: real.clone(), reason: e.to_string() })?;
                notes.push(format!(
                    "mount point {} had a dead mount of {}; taken away",
                    real.display(),
                    entry.source
                ));
            }
            Found::Mounted(entry) => return Err(occupied(real, entry, false)),
            Found::Dead(entry) => return Err(occupied(real, entry, true)),
            Found::Directory { empty } => {
                if !empty {
                    let shown = real.display();
                    notes.push(format!(
                        "mount point {shown} is not empty; what is in it is hidden while mounted"
                    ));
                }
                return Ok(MountPoint { path: real, notes });
            }
        }
    }
    Err(MountPointError::Stuck { path: path.to_owned(), reason: "there is always one more".to_owned() })
}

fn occupied(path: PathBuf, entry: MountEntry, dead: bool) -> MountPointError {
    MountPointError::Occupied { path, source_name: entry.source, fs_type: entry.fs_type, dead }
}

fn create(path: &Path) -> Result<(), MountPointError> {
    let made = DirBuilder::new().recursive(true).mode(0o755).create(path);
    made.map_err(|error| MountPointError::Create { path: path.to_owned(), error })
}

/// [`find`] within [`LOOK_DEADLINE`], in a thread that is left to itself when it takes longer.
fn look(path: &Path) -> Result<(PathBuf, Found), MountPointError> {
    let (send, receive) = mpsc::sync_channel(1);
    let owned = path.to_owned();
    let spawned = thread::Builder::new().name("look".to_owned()).spawn(move || {
        let _ = send.send(find(&owned));
    });
    let answer = match spawned {
        Ok(_) => receive.recv_timeout(LOOK_DEADLINE),
        Err(error) => return Err(MountPointError::Look { path: path.to_owned(), error }),
    };
    match answer {
        Ok(found) => found.map_err(|error| MountPointError::Look { path: path.to_owned(), error }),
        Err(_) => {
            let there = mountinfo::read().ok().and_then(|t| mountinfo::topmost(&t, path).cloned());
            let what = match there {
                Some(entry) => format!("{} (type {}), mounted there,", entry.source, entry.fs_type),
                None => "the file system that it is on".to_owned(),
            };
            Err(MountPointError::Silent { path: path.to_owned(), what })
        }
    }
}

/// What is at `path`, and its real name. Looks into the mount table before it touches the path itself.
fn find(path: &Path) -> io::Result<(PathBuf, Found)> {
    let real = real_name(path)?;
    let table = mountinfo::read()?;
    let entry = mountinfo::topmost(&table, &real).cloned();
    // systemd's automounts put an `autofs` there, to be mounted upon; looking inside would wait for ourselves.
    if entry.as_ref().is_some_and(|e| e.fs_type == "autofs") {
        return Ok((real, Found::Directory { empty: true }));
    }
    let found = match (look_at(&real, entry.is_some()), entry) {
        (Ok(_), Some(entry)) => Found::Mounted(entry),
        (Err(error), Some(entry)) if is_dead(&error) => Found::Dead(entry),
        // Another user's FUSE mount hides even its attributes; it is alive all the same.
        (Err(error), Some(entry))
            if error.kind() == io::ErrorKind::PermissionDenied && entry.fs_type.starts_with(FUSE_TYPE) =>
        {
            Found::Mounted(entry)
        }
        (Ok(meta), None) if meta.is_dir() => {
            Found::Directory { empty: fs::read_dir(&real)?.next().is_none() }
        }
        (Ok(_), None) => Found::NotDirectory,
        (Err(error), None) if error.kind() == io::ErrorKind::NotFound => {
            if fs::symlink_metadata(&real).is_ok() { Found::Dangling } else { Found::Nothing }
        }
        (Err(error), None) if error.kind() == io::ErrorKind::NotADirectory => Found::NotDirectory,
        (Err(error), _) => return Err(error),
    };
    Ok((real, found))
}

/// The attributes of what is there. Those of a mount that is dead may be in the kernel's cache for half a minute, so whoever
/// serves it is asked.
fn look_at(path: &Path, is_mounted: bool) -> io::Result<fs::Metadata> {
    if is_mounted {
        rustix::fs::statx(rustix::fs::CWD, path, AtFlags::STATX_FORCE_SYNC, StatxFlags::TYPE)?;
    }
    fs::metadata(path)
}

/// How a FUSE mount answers whose process is gone.
fn is_dead(error: &io::Error) -> bool {
    let errno = rustix::io::Errno::from_io_error(error);
    matches!(errno, Some(rustix::io::Errno::NOTCONN | rustix::io::Errno::CONNABORTED))
}

/// `path` (absolute) without symbolic links, as far as it is there. The last part is resolved only where that
/// works: a dead mount cannot be looked at.
///
/// # Errors
/// When a directory on the way cannot be looked into.
pub fn real_name(path: &Path) -> io::Result<PathBuf> {
    if let Ok(real) = fs::canonicalize(path) {
        return Ok(real);
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(path.to_owned()) };
    match fs::canonicalize(parent) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(real_name(parent)?.join(name)),
        parent => Ok(parent?.join(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn fails(path: &Path) -> MountPointError {
        prepare(path, "fuse.dfs").unwrap_err()
    }

    #[test]
    fn a_missing_mount_point_is_created_with_its_parents() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let ready = prepare(&path, "fuse.dfs").unwrap();
        assert!(path.is_dir());
        assert_eq!(ready.path, fs::canonicalize(&path).unwrap());
        assert!(ready.notes[0].contains("created"), "{:?}", ready.notes);
    }

    #[test]
    fn an_empty_directory_needs_no_note_and_a_full_one_gets_one() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(prepare(dir.path(), "fuse.dfs").unwrap().notes, Vec::<String>::new());
        fs::write(dir.path().join("file"), b"").unwrap();
        let notes = prepare(dir.path(), "fuse.dfs").unwrap().notes;
        assert!(notes[0].contains("not empty"), "{notes:?}");
    }

    #[test]
    fn a_file_is_refused_and_so_is_a_path_below_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, b"").unwrap();
        assert!(matches!(fails(&file), MountPointError::NotDirectory(_)));
        assert!(matches!(fails(&file.join("below")), MountPointError::NotDirectory(_)));
        assert!(fails(&file).to_string().contains("file: is not a directory"));
    }

    #[test]
    fn symbolic_links_are_followed_and_dangling_ones_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("real")).unwrap();
        symlink("real", dir.path().join("link")).unwrap();
        symlink("nowhere", dir.path().join("broken")).unwrap();
        let ready = prepare(&dir.path().join("link"), "fuse.dfs").unwrap();
        assert_eq!(ready.path, fs::canonicalize(dir.path()).unwrap().join("real"));
        assert!(matches!(fails(&dir.path().join("broken")), MountPointError::Dangling(_)));
    }

    #[test]
    fn names_are_made_real_as_far_as_they_are_there() {
        let dir = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(dir.path()).unwrap();
        fs::create_dir(real.join("real")).unwrap();
        symlink("real", real.join("link")).unwrap();
        assert_eq!(real_name(&real.join("link/a/b/c")).unwrap(), real.join("real/a/b/c"));
    }

    #[test]
    fn what_others_mounted_is_left_alone_and_named() {
        let error = fails(Path::new("/proc"));
        assert!(
            matches!(&error, MountPointError::Occupied { fs_type, dead: false, .. } if fs_type == "proc"),
            "{error}"
        );
        // A live mount of our own type is told apart by its type alone.
        let error = prepare(Path::new("/proc"), "proc").unwrap_err();
        assert!(matches!(error, MountPointError::AlreadyMounted { .. }), "{error}");
    }
}
