//! A small process beside the one that serves the mount, for the moment when that one is killed.
//!
//! A process that is killed ends when all its threads have. One of ours that is just delivering a notice waits in the
//! kernel for the lock of a directory, which a program holds that waits for our answer, which will not come: neither
//! would ever end, nor could the mount point be used again. The guard sees that the process is on its way out and
//! ends the connection with the kernel; then everybody gets an error and goes. The dead mount stays where it is, so
//! that nobody writes into the directory below by mistake; the next `dfs-mount` takes it away.
//!
//! The guard is this program started again, and knows the other by a pipe. The pipe ends when the other lets go of the
//! guard, or is gone whole: then there is nothing to do.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::mount::UnmountFlags;

use super::own_program;
use crate::mountpoint::attach::Attached;
use crate::mountpoint::connection;

/// Tells the process that it is a guard: whose, and of which mount.
const GUARD_OF: &str = "DFS_MOUNT_GUARD_OF";

/// Its name in the list of processes. The kernel keeps 15 bytes.
const NAME: &str = "dfs-mount-guard";

/// How often the guard looks whether the process is on its way out.
const LOOK_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 300_000_000 };

/// How long the guard may take to go.
const EXIT_DEADLINE: Duration = Duration::from_secs(2);

/// PF_EXITING of the kernel's sched.h, in the flags of proc(5)'s stat.
const EXITING: u64 = 4;

/// The guard of a mount. Goes when this is dropped.
#[derive(Debug)]
pub struct Guard(Child);

impl Guard {
    /// Starts the guard of this process and its mount.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(attached: &Attached) -> io::Result<Guard> {
        let mut command = Command::new(own_program()?);
        command.arg0(NAME).env(GUARD_OF, format!("{} {attached}", std::process::id()));
        // Nothing of ours is held open by it: neither the terminal nor the log.
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        Ok(Guard(child))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let give_up = Instant::now() + EXIT_DEADLINE;
        while let Ok(None) = self.0.try_wait() {
            if Instant::now() >= give_up {
                let _ = self.0.kill();
                let _ = self.0.wait();
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Is this process a guard? Then it guards until it has nothing to guard any more.
pub fn main() -> Option<ExitCode> {
    let (server, attached) = parse(&std::env::var(GUARD_OF).ok()?)?;
    let parent = rustix::process::getppid()?;
    if parent.as_raw_nonzero().get() != server {
        // Started by somebody else with our environment.
        return None;
    }
    // What ends the other's terminal or process group is not meant for it.
    let _ = rustix::process::setsid();
    let _ = std::env::set_current_dir("/");
    let _ = std::fs::write("/proc/self/comm", NAME);
    while !pipe_ended() {
        if is_on_its_way_out(server) {
            end_connection(&attached);
            break;
        }
    }
    Some(ExitCode::SUCCESS)
}

fn parse(text: &str) -> Option<(i32, Attached)> {
    let (server, attached) = text.split_once(' ')?;
    Some((server.parse().ok()?, attached.parse().ok()?))
}

/// Waits for a while; has the pipe ended by then?
fn pipe_ended() -> bool {
    let stdin = io::stdin();
    match poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&LOOK_EVERY)) {
        Ok(0) | Err(rustix::io::Errno::INTR) => false,
        // Nothing is ever written.
        Ok(_) | Err(_) => matches!(stdin.lock().read(&mut [0]), Ok(0) | Err(_)),
    }
}

/// Its first thread has ended, or is about to.
fn is_on_its_way_out(pid: i32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    is_ending(&stat)
}

/// From the text of proc(5)'s stat.
fn is_ending(stat: &str) -> bool {
    let Some((_, fields)) = stat.rsplit_once(") ") else { return false };
    let mut fields = fields.split(' ');
    let state = fields.next();
    let flags = fields.nth(5).and_then(|flags| flags.parse::<u64>().ok()).unwrap_or(0);
    matches!(state, Some("Z" | "X")) || flags & EXITING != 0
}

fn end_connection(attached: &Attached) {
    // Only while it is in the table is it sure whose device number that is.
    let Some(path) = attached.path() else { return };
    if connection::abort(attached.device()).is_ok() {
        return;
    }
    // The kernel's list of connections is not mounted here. An unmount by force ends the connection as well.
    let _busy = keep_busy(&path);
    let _ = rustix::mount::unmount(&path, UnmountFlags::FORCE | UnmountFlags::NOFOLLOW);
}

/// What is in use is not unmounted.
fn keep_busy(path: &Path) -> rustix::io::Result<rustix::fd::OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whom_it_guards_is_handed_on() {
        let (server, attached) = parse("12 345 0:67").unwrap();
        assert_eq!((server, attached.to_string()), (12, "345 0:67".to_owned()));
        for bad in ["", "12", "12 345", "x 345 0:67", "12 345 0", "12 345 0:67 8"] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_process_whose_first_thread_ended_is_on_its_way_out() {
        let stat = |state: &str, flags: u64| format!("7 (dfs-mount (x)) {state} 1 2 3 4 5 {flags} 6\n");
        assert!(!is_ending(&stat("S", 0x40_0040)));
        assert!(!is_ending(&stat("T", 0x40_0040)), "stopped is not dead");
        assert!(is_ending(&stat("Z", 0x40_0040)));
        assert!(is_ending(&stat("D", 0x40_0044)));
        assert!(!is_on_its_way_out(i32::try_from(std::process::id()).unwrap()));
        assert!(is_on_its_way_out(i32::MAX));
    }
}
