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
        self.end();
        detach(&self.dir);
    }

    /// SIGKILL, and waits for its end. Returns whether it went by itself: a process that waits in the kernel for its own
    /// mount ends only when the kernel is told to give up the connection.
    pub fn end(&mut self) -> bool {
        let by_itself = self.process.kill_within(secs(5));
        if !by_itself {
            abort(&self.dir);
            assert!(
                self.process.kill_within(secs(20)),
                "dfs-mount of {} cannot be killed",
                self.dir.display()
            );
        }
        by_itself
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if !self.process.kill_within(secs(5)) {
            abort(&self.dir);
        }
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

/// Has the kernel give up the connections of all FUSE mounts on `dir`, which is in a scratch directory: who waits for
/// them gets an error. For root alone; else nothing happens.
pub fn abort(dir: &Path) {
    let control = dir.ancestors().nth(2).unwrap().join("fusectl");
    if fs::create_dir(&control).is_ok() {
        run(Command::new("mount").args(["-t", "fusectl", "none"]).arg(&control), secs(10));
    }
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    for line in table.lines() {
        let mut words = line.split(' ').skip(2);
        let (Some(device), _, Some(point)) = (words.next(), words.next(), words.next()) else { continue };
        if Path::new(point) == dir
            && let Some((_, number)) = device.split_once(':')
        {
            let _ = fs::write(control.join(number).join("abort"), b"1");
        }
    }
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
