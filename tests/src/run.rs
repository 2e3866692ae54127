//! Commands with a deadline, and the form that every error message of ours must have.
//!
//! Output goes to files and not to pipes: a command that leaves a daemon behind must not be able to hold
//! up the test by keeping a pipe open.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::wait::secs;

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    /// The command line, for messages.
    pub line: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Runs a command to its end.
///
/// # Panics
/// When it cannot be started, or has not ended within `limit` (it is killed then).
#[track_caller]
pub fn run(command: &mut Command, limit: Duration) -> Ran {
    let line = format!("{command:?}");
    let (out, err) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(err.try_clone().unwrap());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot start {line}: {e}"));
    let begun = Instant::now();
    let mut late = false;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if begun.elapsed() > limit {
            late = true;
            child.kill().unwrap();
            break child.wait().unwrap();
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let ran = Ran { line, status, stdout: text(out), stderr: text(err) };
    assert!(!late, "not done within {limit:?}: {ran:#?}");
    ran
}

fn text(mut file: File) -> String {
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Runs a program with arguments; it must succeed within two minutes.
#[track_caller]
pub fn run_ok<S: AsRef<OsStr>>(words: &[S]) -> Ran {
    run(Command::new(&words[0]).args(&words[1..]), secs(120)).ok()
}

/// Runs a shell script with `args` as `$1`...; it must succeed within two minutes.
#[track_caller]
pub fn sh<S: AsRef<OsStr>>(script: &str, args: &[S]) -> Ran {
    run(Command::new("sh").args(["-euc", script, "sh"]).args(args), secs(120)).ok()
}

impl Ran {
    /// It must have succeeded.
    #[track_caller]
    pub fn ok(self) -> Ran {
        assert!(self.status.success(), "failed: {self:#?}");
        self
    }

    /// It must have failed with a one-line error of `program`, `program: what: why; remedy`, that holds
    /// each of `needles` (upper and lower case alike). Lines of the log do not count.
    #[track_caller]
    pub fn one_line_error(&self, program: &str, needles: &[&str]) {
        assert!(!self.status.success(), "succeeded, but had to fail: {self:#?}");
        assert!(self.status.code().is_some(), "was killed by a signal: {self:#?}");
        let lines: Vec<&str> = self.stderr.lines().filter(|l| !is_log_line(l)).collect();
        let [line] = lines[..] else { panic!("not one line on stderr but {}: {self:#?}", lines.len()) };
        assert!(line.starts_with(&format!("{program}: ")), "does not begin with '{program}: ': {self:#?}");
        assert!(line.contains("; "), "no '; remedy' at the end: {line}");
        for needle in needles {
            assert!(line.to_lowercase().contains(&needle.to_lowercase()), "'{needle}' is not in: {line}");
        }
        assert!(!self.stderr.contains("panicked at"), "a panic reached the user: {self:#?}");
    }
}

/// Does a line begin with the time, as those of the log do?
pub fn is_log_line(line: &str) -> bool {
    let stamp = line.as_bytes();
    stamp.len() > 20 && stamp[4] == b'-' && stamp[10] == b'T' && stamp[..4].iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Ran {
        run(Command::new("sh").args(["-c", script]), secs(10))
    }

    #[test]
    fn a_good_error_passes() {
        shell(
            "echo 2026-11-21T02:49:25.123456Z INFO x: y >&2; echo 'dfs: a /x: gone; look for it' >&2; exit 1",
        )
        .one_line_error("dfs", &["/X", "gone"]);
    }

    #[test]
    #[should_panic(expected = "not one line")]
    fn two_lines_do_not_pass() {
        shell("echo 'dfs: a: b; c' >&2; echo more >&2; exit 1").one_line_error("dfs", &[]);
    }

    #[test]
    #[should_panic(expected = "remedy")]
    fn an_error_without_a_remedy_does_not_pass() {
        shell("echo 'dfs: a: b' >&2; exit 1").one_line_error("dfs", &[]);
    }

    #[test]
    #[should_panic(expected = "had to fail")]
    fn success_does_not_pass() {
        shell("echo 'dfs: a: b; c' >&2").one_line_error("dfs", &[]);
    }

    #[test]
    #[should_panic(expected = "not done within")]
    fn a_command_that_hangs_is_ended() {
        run(Command::new("sleep").arg("1000"), Duration::from_millis(100));
    }

    #[test]
    fn a_daemon_that_keeps_the_output_open_does_not_hold_up() {
        let begun = Instant::now();
        shell("sleep 3 & echo done").ok();
        assert!(begun.elapsed() < secs(2));
    }
}
