//! Mounts on this machine, for commands that look at one.
//!
//! What must hold: a mount that does not answer holds up a command for [`WITHIN`] and no longer.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::CliError;
use crate::mountpoint::mountinfo::{self, MountEntry};

/// What our mounts are called in the mount table, unless `-o subtype` says otherwise.
const OURS: &str = "fuse.dfs";
/// For a mount to answer.
const WITHIN: Duration = Duration::from_secs(10);

/// Every mount of a cluster on this machine.
pub(super) fn all() -> Vec<MountEntry> {
    let table = mountinfo::read().unwrap_or_default();
    table.into_iter().filter(|mount| mount.fs_type == OURS).collect()
}

/// The mount that has `path`, which is absolute and without links.
pub(super) fn holding(what: &str, path: &Path) -> Result<MountEntry, CliError> {
    let table = mountinfo::read().unwrap_or_default();
    let longest = |mount: &&MountEntry| mount.path.as_os_str().len();
    // Of several on one place, the last one.
    let holds = table.iter().filter(|mount| path.starts_with(&mount.path)).max_by_key(longest);
    match holds.filter(|mount| mount.fs_type == OURS) {
        Some(mount) => Ok(mount.clone()),
        None => {
            let path = path.display();
            let why = "it is in no mount of a cluster; 'findmnt -t fuse.dfs' lists those that there are";
            Err(CliError::Local(format!("{what} {path}: {why}")))
        }
    }
}

/// Does `work` on a path, on a thread that is left to itself when it takes too long.
pub(super) async fn within_deadline<T: Send + 'static>(
    what: &str,
    path: &Path,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, CliError> {
    let working = tokio::time::timeout(WITHIN, tokio::task::spawn_blocking(work));
    let done = match working.await {
        Ok(Ok(done)) => done,
        Ok(Err(error)) => Err(io::Error::other(error)),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer from it")),
    };
    done.map_err(|error| CliError::local(what, path, &error, "see that it is there, and mounted"))
}
