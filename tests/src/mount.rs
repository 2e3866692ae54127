//! One mount: `dfs-mount -f` in a directory of its own.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::Process;
use crate::run::run;
use crate::wait::{secs, wait_until};

/// A running dfs-mount and its directory.
pub struct Mount {
    /// The process, to be killed, stopped and looked at.
    pub process: Process,
    dir: PathBuf,
}

impl Mount {
    /// Waits until `process` has mounted `dir`.
    pub(crate) fn new(mut process: Process, dir: PathBuf) -> Mount {
        wait_until(secs(20), &format!("{} is mounted", dir.display()), || {
            assert!(process.is_running(), "dfs-mount ended before {} was mounted", dir.display());
            is_usable(&dir)
        });
        Mount { process, dir }
    }

    /// The mount point.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A path in the mount.
    pub fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.dir.join(below)
    }

    /// Unmounts as a user does. The process must end well.
    #[track_caller]
    pub fn unmount(mut self) {
        unmount(&self.dir);
        let status = self.process.wait_exit(secs(35));
        assert!(status.success(), "dfs-mount ended with {status} after umount");
    }

    /// Kills the process; the dead mount point is taken away.
    pub fn kill(&mut self) {
        self.process.kill();
        detach(&self.dir);
    }
}

/// `umount DIR`; may have to wait a moment while something has just been using it.
#[track_caller]
pub fn unmount(dir: &Path) {
    wait_until(secs(15), &format!("umount {}", dir.display()), || {
        run(Command::new("umount").arg(dir), Duration::from_secs(40)).status.success()
    });
}

/// Takes a mount point away whatever state it is in.
pub fn detach(dir: &Path) {
    run(Command::new("umount").arg("-l").arg(dir), secs(10));
}

/// The entry of /proc/self/mountinfo that is mounted on `dir`: (type, source).
pub fn mounted(dir: &Path) -> Option<(String, String)> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().rev().find_map(|line| {
        let (head, rest) = line.split_once(" - ")?;
        let point = head.split(' ').nth(4)?;
        let mut rest = rest.split(' ');
        (Path::new(point) == dir).then(|| Some((rest.next()?.to_owned(), rest.next()?.to_owned())))?
    })
}

/// Is one of ours mounted on `dir`, and does it answer?
pub fn is_usable(dir: &Path) -> bool {
    mounted(dir).is_some_and(|(kind, _)| kind == "fuse.dfs")
        && fs::metadata(dir).is_ok_and(|there| {
            let above = fs::metadata(dir.parent().unwrap()).unwrap();
            there.dev() != above.dev() && there.is_dir()
        })
        && fs::read_dir(dir).is_ok()
}
