//! The program `dfs-mount`: from its arguments to its exit status.
//!
//! - [`ready`]: what the process in the background tells the one that the user started.
//! - [`log_file`]: where it logs.
//! - [`run`]: the life of a mount, foreground or background.
//! - `threads`: on which all of it runs. `resident`: its pages are in memory.
//! - [`subdir`]: the directory of the cluster that is mounted.
//! - [`remount`]: other options for a mount that is there.
//! - [`stop`]: signals, and how a mount ends.
//! - [`guard`]: a process that sees to it that a mount which is killed can end.
//!
//! Going to the background: the program starts itself again, with a pipe for its standard output and the log
//! file for its standard error, and waits at the pipe. Nothing is forked: what a fork would carry over (threads,
//! locks) is just what makes it unsafe. The second process leaves the terminal's session, mounts, and says
//! `ready` or what is wrong; only then does the first one return. So it returns 0 exactly when the mount is
//! usable.

pub mod guard;
pub mod log_file;
pub mod ready;
pub mod remount;
mod resident;
pub mod run;
pub mod stop;
pub mod subdir;
mod threads;

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::options::{self, OptionsError, Remount, Settings, home};
use log_file::LogFileError;
use ready::{Outcome, Starter};
use run::RunError;

/// Tells the second process that it is the second one: the number of the first.
const CHILD_OF: &str = "DFS_MOUNT_CHILD_OF";

/// How long a start may take, over the time that is allowed for finding the master. An embedded master may have
/// a large store to read.
const START_DEADLINE: Duration = Duration::from_secs(300);

/// How long a process that said what is wrong may take to go.
const EXIT_DEADLINE: Duration = Duration::from_secs(10);

const FAILED: u8 = 1;
const USAGE: u8 = 2;

/// Why `dfs-mount` exits with 1.
#[derive(Debug, thiserror::Error)]
enum DaemonError {
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    LogFile(#[from] LogFileError),
    /// The filter cannot be read; the message is whole.
    #[error("{0}; write it as info, or as dfs_mount=debug,info")]
    Filter(String),
    #[error("standard output and error: cannot be set up: {0}; run it again")]
    Stdio(io::Error),
    #[error("the process in the background: cannot be started: {0}; try -f")]
    Spawn(io::Error),
    /// The second process says so itself.
    #[error("{0}")]
    Told(String),
    #[error("the process in the background ended before the mount was usable ({status}); {log}")]
    Died { status: String, log: String },
    #[error("the mount was not usable after {waited_s} s; it was given up; {log}")]
    Silent { waited_s: u64, log: String },
}

/// Runs `dfs-mount` with these arguments, the program's name first.
pub fn main(args: Vec<OsString>) -> ExitCode {
    if let Some(ended) = guard::main() {
        return ended;
    }
    match options::parse_remount(&args) {
        Ok(Some(wanted)) => return remounted(&wanted),
        // What is wrong with the arguments is said below.
        Ok(None) | Err(OptionsError::Clap(_)) => {}
        Err(error) => return usage(&error),
    }
    let settings = match options::parse(args.clone(), &home::caller()) {
        Ok(settings) => settings,
        Err(OptionsError::Clap(error)) => {
            // Help and version are errors of status 0. A closed terminal is nobody to tell.
            let _ = error.print();
            return if error.exit_code() == 0 { ExitCode::SUCCESS } else { ExitCode::from(USAGE) };
        }
        Err(error) => return usage(&error),
    };
    if settings.pretend {
        return ExitCode::SUCCESS;
    }
    if is_second_process() {
        return second_process(&settings);
    }
    if settings.foreground {
        return foreground(&settings);
    }
    match first_process(&settings, &args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dfs-mount: {error}");
            ExitCode::from(FAILED)
        }
    }
}

fn usage(error: &OptionsError) -> ExitCode {
    eprintln!("dfs-mount: {error}");
    ExitCode::from(USAGE)
}

fn remounted(wanted: &Remount) -> ExitCode {
    if wanted.pretend {
        return ExitCode::SUCCESS;
    }
    match remount::remount(wanted) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dfs-mount: {error}");
            ExitCode::from(FAILED)
        }
    }
}

fn foreground(settings: &Settings) -> ExitCode {
    let mut starter = match Starter::terminal() {
        Ok(starter) => starter,
        Err(error) => {
            eprintln!("dfs-mount: {}", DaemonError::Stdio(error));
            return ExitCode::from(FAILED);
        }
    };
    let logging = settings.log_file.as_deref().map_or(Ok(()), log_to);
    let done = logging.and_then(|()| live(settings, &mut starter));
    // With a log file of its own, standard error is that file, and the user reads the starter.
    if let (Err(error), Some(_)) = (&done, &settings.log_file) {
        tracing::error!("{error}");
    }
    finish(done, &mut starter)
}

/// The process that stays. It has the arguments of the first one.
fn second_process(settings: &Settings) -> ExitCode {
    let Ok(mut starter) = Starter::pipe() else {
        // The first process sees the pipe end, and says so.
        return ExitCode::from(FAILED);
    };
    // It gets a session of its own when it is mounted: `Starter::ready`. No directory is kept busy. All paths in the settings are absolute.
    if let Err(error) = std::env::set_current_dir("/") {
        starter.note(&format!("the working directory is kept busy: {error}"));
    }
    let done = live(settings, &mut starter);
    if let Err(error) = &done {
        tracing::error!("{error}");
    }
    finish(done, &mut starter)
}

fn live(settings: &Settings, starter: &mut Starter) -> Result<(), DaemonError> {
    let traces = settings.otlp.clone().map(|endpoint| (endpoint, "dfs-mount"));
    dfs_proto::logging::init_with(&settings.log_filter, settings.log_json, traces)
        .map_err(DaemonError::Filter)?;
    Ok(run::run(settings, starter)?)
}

fn finish(done: Result<(), DaemonError>, starter: &mut Starter) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            starter.error(&error.to_string());
            ExitCode::from(FAILED)
        }
    }
}

fn log_to(path: &Path) -> Result<(), DaemonError> {
    let log = log_file::open(path)?;
    rustix::stdio::dup2_stderr(&log).map_err(|e| DaemonError::Stdio(e.into()))
}

fn is_second_process() -> bool {
    let parent = rustix::process::getppid().map(|p| p.as_raw_nonzero().to_string());
    let named = std::env::var(CHILD_OF).ok();
    named.is_some() && named == parent
}

/// The process that the user started: starts the second one, waits until the mount is usable.
fn first_process(settings: &Settings, args: &[OsString]) -> Result<(), DaemonError> {
    let (log, log_told) = open_log(settings)?;
    let deadline = START_DEADLINE + settings.master_timeout;
    let mut child = start_second(args, log).map_err(DaemonError::Spawn)?;
    let pipe = child
        .stdout
        .take()
        .ok_or_else(|| DaemonError::Spawn(io::Error::other("it has no standard output")))?;
    match ready::wait(pipe, deadline, |note| eprintln!("dfs-mount: {note}")) {
        Outcome::Ready => Ok(()),
        Outcome::Failed(message) => {
            // What it holds (the data directory's lock) is free again when the user reads the message.
            wait_for_exit(&mut child, EXIT_DEADLINE);
            Err(DaemonError::Told(message))
        }
        Outcome::Died => {
            let status = wait_for_exit(&mut child, EXIT_DEADLINE);
            Err(DaemonError::Died { status, log: log_told })
        }
        Outcome::Silent => {
            let _ = child.kill();
            wait_for_exit(&mut child, EXIT_DEADLINE);
            Err(DaemonError::Silent { waited_s: deadline.as_secs(), log: log_told })
        }
    }
}

/// The log file as the second process's standard error, and where to look for words.
fn open_log(settings: &Settings) -> Result<(Stdio, String), DaemonError> {
    let chosen = settings.log_file.clone().or_else(|| log_file::default_path(&settings.mountpoint));
    let opened = chosen.map(|path| (log_file::open(&path), path));
    match opened {
        Some((Ok(file), path)) => Ok((Stdio::from(file), format!("its log is {}", path.display()))),
        Some((Err(error), _)) if settings.log_file.is_some() => Err(error.into()),
        // Nobody asked for that one: a mount without a log is better than none.
        Some((Err(error), _)) => {
            eprintln!("dfs-mount: {error}; there will be no log");
            Ok((Stdio::null(), "run it with -f to see more".to_owned()))
        }
        None => Ok((Stdio::null(), "run it with -f to see more".to_owned())),
    }
}

fn start_second(args: &[OsString], log: Stdio) -> io::Result<Child> {
    let mut command = Command::new(own_program()?);
    if let Some((name, rest)) = args.split_first() {
        // The name tells whether mount(8) called.
        command.arg0(name).args(rest);
    }
    command.env(CHILD_OF, std::process::id().to_string());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn()
}

/// This program's file; the kernel's link to it when the file was replaced meanwhile.
fn own_program() -> io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    Ok(if path.exists() { path } else { PathBuf::from("/proc/self/exe") })
}

fn wait_for_exit(child: &mut Child, deadline: Duration) -> String {
    let give_up = Instant::now() + deadline;
    while Instant::now() < give_up {
        match child.try_wait() {
            Ok(Some(status)) => return status.to_string(),
            Ok(None) => thread::sleep(Duration::from_millis(10)),
            Err(error) => return error.to_string(),
        }
    }
    "it still runs".to_owned()
}
