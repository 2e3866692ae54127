//! A directory for one test, and nothing left of it afterwards.
//!
//! What must hold: when the test is over, also by a panic, by SIGKILL or by a runner's time limit, every process that was
//! started with this scratch's environment is gone (daemons too), every mount below the directory is gone, and so is the
//! directory. Mounts of a process that cannot be killed are aborted in the kernel.
//! A watchdog sees to that, a small shell in a session of its own: it waits for the end of a pipe that only
//! the test process holds. Processes are known by the environment variable [`MARK`], which names the directory.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal};

use crate::wait::secs;

/// In the environment of every process of a test: the scratch directory it belongs to.
pub const MARK: &str = "DFS_TEST_SCRATCH";

const WATCHDOG: &str = r#"
dir=$1
cat >/dev/null
for turn in 1 2 3 4 5 6 7 8 9 10; do
    found=$(grep -lzxF "DFS_TEST_SCRATCH=$dir" /proc/[0-9]*/environ 2>/dev/null)
    [ -n "$found" ] || break
    for environ in $found; do
        pid=${environ#/proc/}
        kill -9 "${pid%/environ}" 2>/dev/null
    done
    sleep 0.05
done
mkdir -p "$dir/fusectl"
[ -e "$dir/fusectl/waiting" ] || mount -t fusectl none "$dir/fusectl" 2>/dev/null
while read -r _ _ device _ point _; do
    case $point in
        "$dir"/mnt/*) echo 1 >"$dir/fusectl/${device#*:}/abort" ;;
    esac
done </proc/self/mountinfo 2>/dev/null
while read -r _ _ _ _ point _; do
    case $point in
        "$dir"/*) umount -l "$point" 2>/dev/null || fusermount3 -uz "$point" 2>/dev/null ;;
    esac
done </proc/self/mountinfo
rm -rf --one-file-system "$dir"
"#;

/// The directory of one test.
#[derive(Debug)]
pub struct Scratch {
    dir: PathBuf,
    watchdog: Child,
}

impl Scratch {
    /// A new directory under the system's temporary directory, and its watchdog.
    pub fn new() -> Scratch {
        let dir = tempfile::Builder::new().prefix("dfs-test-").tempdir().unwrap().keep();
        let dir = dir.canonicalize().unwrap();
        // Some tests become another user.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        // Its own session takes it out of the runner's process group, which is killed whole at a time limit.
        let watchdog = Command::new("setsid")
            .args(["sh", "-c", WATCHDOG, "sh"])
            .arg(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start the watchdog with setsid and sh: {e}"));
        for sub in ["home", "log", "mnt"] {
            fs::create_dir(dir.join(sub)).unwrap();
        }
        Scratch { dir, watchdog }
    }

    /// The directory: absolute, without links.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A path below it.
    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.join(below)
    }

    /// One of our binaries with an environment of this scratch: homes below the directory, no `DFS_...` of the caller.
    pub fn command(&self, binary: &str) -> Command {
        let mut command = Command::new(crate::process::binary(binary));
        self.dress(&mut command);
        command
    }

    /// Any program with the same environment; our binaries come first in its PATH.
    pub fn program(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        self.dress(&mut command);
        command
    }

    fn dress(&self, command: &mut Command) {
        for (name, value) in self.environment() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
    }

    /// What processes of this test get in their environment (a value) and do not inherit (none).
    pub fn environment(&self) -> Vec<(OsString, Option<OsString>)> {
        let ours = |name: &OsString| name.to_string_lossy().starts_with("DFS_");
        let not_inherited = std::env::vars_os().map(|(name, _)| name).filter(ours).map(|name| (name, None));
        let system = std::env::var("PATH").unwrap_or_else(|_| "/usr/sbin:/usr/bin:/sbin:/bin".into());
        let path = format!("{}:{system}", crate::process::binary_dir().display());
        let set = [
            (MARK, self.dir.clone().into_os_string()),
            ("PATH", path.into()),
            ("HOME", self.path("home").into()),
            ("XDG_DATA_HOME", self.path("home/share").into()),
            ("XDG_STATE_HOME", self.path("home/state").into()),
            ("XDG_RUNTIME_DIR", self.path("home").into()),
            ("GIT_CONFIG_NOSYSTEM", "1".into()),
            ("LC_ALL", "C.UTF-8".into()),
        ];
        not_inherited.chain(set.map(|(name, value)| (name.into(), Some(value)))).collect()
    }

    /// One of our binaries as the user nobody, who owns the home of this scratch from now on. For root alone.
    pub fn as_nobody(&self, binary: &str) -> Command {
        crate::require_root();
        const NOBODY: u32 = 65_534;
        for dir in ["home", "home/share", "home/state"] {
            fs::create_dir_all(self.path(dir)).unwrap();
            std::os::unix::fs::chown(self.path(dir), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        // The build directory may be closed to others than its owner.
        let copy = self.path("bin").join(binary);
        fs::create_dir_all(self.path("bin")).unwrap();
        fs::copy(crate::process::binary(binary), &copy).unwrap();
        let mut command = self.program("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(copy);
        command
    }

    /// The processes of this scratch that run `binary`, daemons among them. Zombies and guards do not count.
    pub fn pids(&self, binary: &str) -> Vec<Pid> {
        let mut pids = self.all_pids(binary);
        pids.retain(|pid| !is_guard(*pid));
        pids
    }

    /// The guards of the mounts of this scratch.
    pub fn guards(&self) -> Vec<Pid> {
        let mut pids = self.all_pids("dfs-mount");
        pids.retain(|pid| is_guard(*pid));
        pids
    }

    fn all_pids(&self, binary: &str) -> Vec<Pid> {
        let mark = format!("{MARK}={}", self.dir.display());
        let of_ours = |pid: i32| {
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environ.split(|b| *b == 0).any(|entry| entry == mark.as_bytes())
        };
        let runs = |pid: i32| {
            let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            exe.file_name() == Some(OsStr::new(binary))
        };
        let numbers =
            fs::read_dir("/proc").unwrap().filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
        numbers.filter(|pid| runs(*pid) && of_ours(*pid)).filter_map(Pid::from_raw).collect()
    }

    /// Sends a signal to every such process.
    pub fn signal(&self, binary: &str, signal: Signal) {
        for pid in self.pids(binary) {
            // Gone by itself in the meantime: that is what the caller waits for anyway.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}

fn is_guard(pid: Pid) -> bool {
    let comm = fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero()));
    comm.is_ok_and(|name| name.trim() == "dfs-mount-guard")
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        let begun = Instant::now();
        while begun.elapsed() < secs(20) {
            if !matches!(self.watchdog.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        eprintln!("the watchdog of {} has not finished yet", self.dir.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait::wait_until;

    fn alive(pid: u32) -> bool {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    }

    #[test]
    fn a_scratch_leaves_no_process_and_no_directory() {
        let scratch = Scratch::new();
        let dir = scratch.dir().to_owned();
        fs::write(scratch.path("file"), b"x").unwrap();
        let mut child = scratch.program("setsid").args(["sleep", "1000"]).spawn().unwrap();
        wait_until(secs(5), "the child runs", || alive(child.id()));
        drop(scratch);
        wait_until(secs(5), "the child is gone", || !alive(child.id()));
        child.wait().unwrap();
        assert!(!dir.exists());
    }

    #[test]
    fn a_test_process_that_is_killed_leaves_nothing() {
        // The watchdog alone, with a pipe that ends as it does when its owner is killed.
        let mut scratch = Scratch::new();
        let dir = scratch.dir().to_owned();
        drop(scratch.watchdog.stdin.take());
        wait_until(secs(10), "the directory is gone", || !dir.exists());
    }
}
