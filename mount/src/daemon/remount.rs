//! `mount -o remount,...`: gives a mount of ours that is there already other options. mount(8) calls us for it as
//! for any mount. The kernel does it, by itself; the process that serves the mount need not know.
//!
//! What can change is what the kernel keeps: ro, rw, dev, suid, exec, noatime, nodiratime, sync, dirsync. What is
//! not said stays as it is.

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

use crate::mountpoint::{self, attach, mountinfo};
use crate::options::words::MountWords;
use crate::options::{MountOptions, Remount};

/// Why the options cannot be changed.
#[derive(Debug, thiserror::Error)]
pub enum RemountError {
    /// Only root may.
    #[error(
        "remount of {0}: only root can change a mount; as a user, unmount it with `fusermount3 -u {0}` and mount it again"
    )]
    NotRoot(PathBuf),
    /// Nothing of ours is there.
    #[error(
        "remount of {path}: {there} is mounted there, not this file system; mount it first, without remount"
    )]
    NotOurs {
        /// The mount point.
        path: PathBuf,
        /// What is there.
        there: String,
    },
    /// It cannot be looked at.
    #[error("remount of {path}: {error}; see that it is a mount point")]
    Look {
        /// The mount point.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// Files are open for writing.
    #[error(
        "remount of {0}: files are open for writing; close them (`fuser -vm {0}` shows who has them), and try again"
    )]
    Busy(PathBuf),
    /// The kernel says no.
    #[error("remount of {path}: {error}; unmount it and mount it with these options")]
    Kernel {
        /// The mount point.
        path: PathBuf,
        /// What mount(2) said.
        error: io::Error,
    },
}

/// Does it.
///
/// # Errors
/// [`RemountError`]; nothing has changed then.
pub fn remount(wanted: &Remount) -> Result<(), RemountError> {
    let asked = wanted.mountpoint.clone();
    let path =
        mountpoint::real_name(&asked).map_err(|error| RemountError::Look { path: asked.clone(), error })?;
    let table = mountinfo::read().map_err(|error| RemountError::Look { path: path.clone(), error })?;
    let there = mountinfo::topmost(&table, &path);
    let Some(entry) = there.filter(|entry| entry.fs_type == format!("fuse.{}", wanted.subtype)) else {
        let there =
            there.map_or("nothing".to_owned(), |entry| format!("{} (type {})", entry.source, entry.fs_type));
        return Err(RemountError::NotOurs { path, there });
    };
    if !rustix::process::geteuid().is_root() {
        return Err(RemountError::NotRoot(path));
    }
    let options = changed(&entry.options, &wanted.words);
    let flags = attach::mount_flags(&options);
    rustix::mount::mount_remount(&path, flags, c"").map_err(|errno| match errno {
        Errno::BUSY => RemountError::Busy(path),
        errno => RemountError::Kernel { path, error: errno.into() },
    })
}

/// The options that are there (from the mount table), changed by the words.
fn changed(there: &str, words: &[String]) -> MountOptions {
    let mut all = MountWords { remount: true, ..MountWords::default() };
    // Those that mean nothing to us are the kernel's own.
    let there: Vec<&str> = there.split(',').collect();
    for word in &there {
        let _ = all.take(word);
    }
    // The mount and its file system each have one of these two; one `ro` is enough.
    all.read_only = there.contains(&"ro");
    for word in words {
        // Looked at when the command line was read.
        let _ = all.take(word);
    }
    MountOptions {
        read_only: all.read_only,
        allow_other: false,
        dev: all.dev.unwrap_or(true),
        suid: all.suid.unwrap_or(true),
        exec: !all.noexec,
        noatime: all.noatime,
        nodiratime: all.nodiratime,
        strictatime: all.strictatime,
        sync: all.sync,
        dirsync: all.dirsync,
        // Whom root counts as is settled when the daemon starts.
        squash: None,
        fsname: String::new(),
        subtype: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::mount::MountFlags;

    fn flags(there: &str, words: &[&str]) -> MountFlags {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        attach::mount_flags(&changed(there, &words))
    }

    #[test]
    fn what_is_not_said_stays() {
        const THERE: &str = "rw,nosuid,nodev,relatime,rw,sync,user_id=0,group_id=0,allow_other";
        let kept = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::SYNCHRONOUS;
        assert_eq!(flags(THERE, &["remount", "ro"]), kept | MountFlags::RDONLY);
        assert_eq!(flags(THERE, &["remount", "noexec"]), kept | MountFlags::NOEXEC);
        assert_eq!(flags(THERE, &["remount", "suid", "async"]), MountFlags::NODEV);
        assert_eq!(flags("ro,relatime,rw", &["remount"]), MountFlags::RDONLY);
        assert_eq!(flags("ro,relatime,ro", &["remount", "rw"]), MountFlags::empty());
    }
}
