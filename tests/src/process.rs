//! One process of the system under test.
//!
//! Its standard error, where the log goes, is kept in a file, over restarts too. When a test fails, the end of it is
//! printed. Each process leads a process group of its own.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::scratch::Scratch;
use crate::wait::wait_for;

const TAIL_LINES: usize = 40;

/// Where our binaries are: beside the directory of the test executables.
pub fn binary_dir() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let beside = exe.parent().unwrap();
    let dir = if beside.ends_with("deps") { beside.parent().unwrap() } else { beside };
    dir.to_owned()
}

/// The path of one of our binaries.
///
/// # Panics
/// When it is not there, with a message that says how to build it.
pub fn binary(name: &str) -> PathBuf {
    let path = binary_dir().join(name);
    assert!(
        path.is_file(),
        "{} is not there: run ./tests/run.sh, or `cargo build --workspace --bins` first",
        path.display()
    );
    path
}

/// Makes the command of a process: once for each start.
type Recipe = Box<dyn Fn() -> Command + Send>;

/// A process that can be ended and started again.
pub struct Process {
    name: String,
    log: PathBuf,
    recipe: Recipe,
    child: Option<Child>,
    /// Where the log of this run begins, in bytes.
    log_from: usize,
}

impl Process {
    /// Starts `recipe`'s command. `name` names its log.
    pub fn start(scratch: &Scratch, name: &str, recipe: impl Fn() -> Command + Send + 'static) -> Process {
        let log = scratch.path("log").join(format!("{name}.log"));
        let mut process =
            Process { name: name.to_owned(), log, recipe: Box::new(recipe), child: None, log_from: 0 };
        process.restart();
        process
    }

    /// Starts it again, with another command from now on.
    pub fn restart_as(&mut self, recipe: impl Fn() -> Command + Send + 'static) {
        self.recipe = Box::new(recipe);
        self.restart();
    }

    /// Starts it again, after it was killed or has ended.
    pub fn restart(&mut self) {
        assert!(!self.is_running(), "{} runs already", self.name);
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        self.log_from = log.metadata().unwrap().len() as usize;
        let mut command = (self.recipe)();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
        self.child = Some(command.spawn().unwrap_or_else(|e| panic!("cannot start {}: {e}", self.name)));
    }

    /// Of the running process, or of the last one.
    pub fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().unwrap())
    }

    /// Has it not ended?
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid(), signal)
            .unwrap_or_else(|e| panic!("cannot signal {}: {e}", self.name));
    }

    /// SIGKILL, and waits for its end.
    pub fn kill(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGKILL. Has it ended within `limit`? One that waits in the kernel cannot.
    pub fn kill_within(&mut self, limit: Duration) -> bool {
        let Some(child) = &mut self.child else { return true };
        let _ = child.kill();
        let begun = Instant::now();
        loop {
            match child.try_wait() {
                Ok(None) if begun.elapsed() < limit => std::thread::sleep(Duration::from_millis(5)),
                Ok(None) => return false,
                _ => return true,
            }
        }
    }

    /// SIGSTOP: it stays, and does nothing.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn cont(&self) {
        self.signal(Signal::CONT);
    }

    /// Waits for it to end by itself.
    #[track_caller]
    pub fn wait_exit(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("{} ends", self.name);
        wait_for(limit, &what, || self.child.as_mut().unwrap().try_wait().unwrap())
    }

    /// All that it wrote so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// What it wrote since it was last started.
    pub fn log_since_start(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(log.get(self.log_from..).unwrap_or_default()).into_owned()
    }

    /// Has it neither ended nor is about to be waited for?
    pub fn is_alive(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid().as_raw_nonzero()));
        stat.is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
    }

    /// Resident bytes now.
    pub fn rss(&self) -> u64 {
        status_bytes(self.pid(), "VmRSS:")
    }

    /// The most resident bytes that it ever had.
    pub fn peak_rss(&self) -> u64 {
        status_bytes(self.pid(), "VmHWM:")
    }
}

/// A size from /proc/PID/status, in bytes.
pub fn status_bytes(pid: Pid, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    let kib: u64 = line.trim().strip_suffix(" kB").unwrap().trim().parse().unwrap();
    kib * 1024
}

/// The last lines of a log.
pub fn tail(log: &Path) -> String {
    let text = String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

impl Drop for Process {
    fn drop(&mut self) {
        let ended = match &mut self.child {
            Some(child) => child.try_wait().ok().flatten(),
            None => None,
        };
        self.kill();
        if std::thread::panicking() {
            let state = ended.map_or("was running".to_owned(), |status| format!("had ended: {status}"));
            eprintln!("---- end of the log of {} ({state}) ----\n{}", self.name, tail(&self.log));
        } else if let Some(line) = self.log().lines().find(|line| line.contains("panicked at")) {
            panic!("{} panicked: {line}", self.name);
        }
    }
}
