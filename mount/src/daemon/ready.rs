//! What the starting mount tells the user.
//!
//! From the background it goes through a pipe, a line each: `note TEXT`, then one of `ready` and
//! `error TEXT`. The end of the pipe without either means that the process died. In the foreground the same
//! words go to standard error.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

const NOTE: &str = "note ";
const READY: &str = "ready";
const ERROR: &str = "error ";

/// Longest line that is read, in bytes.
const MAX_LINE: u64 = 64 * 1024;

/// Lines that may wait to be printed.
const LINES: usize = 64;

/// The side that starts.
#[derive(Debug)]
pub struct Starter {
    /// `None` when there is nobody to tell any more.
    out: Option<File>,
    prefix: Prefix,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Prefix {
    /// For a program to read.
    Protocol,
    /// For a person.
    Name,
}

impl Starter {
    /// Speaks to the user directly. Keeps a standard error of its own, so that the log may take the other.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn terminal() -> io::Result<Starter> {
        let out = File::from(io::stderr().as_fd().try_clone_to_owned()?);
        Ok(Starter { out: Some(out), prefix: Prefix::Name })
    }

    /// Speaks through standard output, which is the pipe. Standard output itself becomes `/dev/null`, so that
    /// nothing else can get into the pipe, and the pipe can be closed.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn pipe() -> io::Result<Starter> {
        let out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        rustix::stdio::dup2_stdout(OpenOptions::new().write(true).open("/dev/null")?)?;
        Ok(Starter { out: Some(out), prefix: Prefix::Protocol })
    }

    /// Something that the user should hear and that stops nothing.
    pub fn note(&mut self, text: &str) {
        tracing::info!("{text}");
        // Nobody listens any more: `ready` will find out.
        let _ = match self.prefix {
            Prefix::Protocol => self.line(NOTE, text),
            Prefix::Name => self.line("dfs-mount: ", text),
        };
    }

    /// The mount is usable. A program that waits is told nothing more after this, and what ends its terminal or its process group is
    /// not meant for us any more.
    ///
    /// Not earlier: systemd's automount lets only its own process group through to the mount point until the mount is reported,
    /// and has everybody else wait for it, who would be ourselves.
    ///
    /// # Errors
    /// When nobody waits any more: the user gave up, and wants no mount.
    pub fn ready(&mut self) -> io::Result<()> {
        if self.prefix == Prefix::Name {
            return Ok(());
        }
        // Fails only for a process that leads a group already, and then it needs no other.
        let _ = rustix::process::setsid();
        let said = self.line(READY, "");
        self.out = None;
        said
    }

    /// It will not be, or is not any more. Nothing can be said after this.
    pub fn error(&mut self, text: &str) {
        // Nobody listens any more: the log has it.
        let _ = match self.prefix {
            Prefix::Protocol => self.line(ERROR, text),
            Prefix::Name => self.line("dfs-mount: ", text),
        };
        self.out = None;
    }

    fn line(&mut self, prefix: &str, text: &str) -> io::Result<()> {
        match &mut self.out {
            // One write, so that lines of several processes do not mix.
            Some(out) => out.write_all(format!("{prefix}{}\n", text.replace('\n', " ")).as_bytes()),
            None => Ok(()),
        }
    }
}

/// How a start ended, for the side that waits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The mount is usable.
    Ready,
    /// It will not be; here is why.
    Failed(String),
    /// The pipe ended without a word.
    Died,
    /// Nothing was heard within the deadline.
    Silent,
}

/// Reads the pipe until the start has ended, and hands each note on.
pub fn wait(pipe: impl Read + Send + 'static, deadline: Duration, mut note: impl FnMut(&str)) -> Outcome {
    let give_up = Instant::now() + deadline;
    let (send, lines) = mpsc::sync_channel(LINES);
    let spawned = thread::Builder::new().name("ready".to_owned()).spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = String::new();
        // The other end is our own program; a broken line is as good as its end.
        while reader.by_ref().take(MAX_LINE).read_line(&mut line).is_ok_and(|n| n > 0) {
            if send.send(std::mem::take(&mut line)).is_err() {
                return;
            }
        }
    });
    if spawned.is_err() {
        return Outcome::Died;
    }
    loop {
        match lines.recv_timeout(give_up.saturating_duration_since(Instant::now())) {
            Ok(line) => match parse(&line) {
                Some(Line::Note(text)) => note(text),
                Some(Line::Ready) => return Outcome::Ready,
                Some(Line::Error(text)) => return Outcome::Failed(text.to_owned()),
                None => {}
            },
            Err(RecvTimeoutError::Disconnected) => return Outcome::Died,
            Err(RecvTimeoutError::Timeout) => return Outcome::Silent,
        }
    }
}

enum Line<'a> {
    Note(&'a str),
    Ready,
    Error(&'a str),
}

fn parse(line: &str) -> Option<Line<'_>> {
    let line = line.strip_suffix('\n')?;
    if line == READY {
        return Some(Line::Ready);
    }
    let note = line.strip_prefix(NOTE).map(Line::Note);
    note.or_else(|| line.strip_prefix(ERROR).map(Line::Error))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    fn hear(text: &str) -> (Outcome, Vec<String>) {
        let mut notes = Vec::new();
        let outcome = wait(io::Cursor::new(text.to_owned()), LONG, |n| notes.push(n.to_owned()));
        (outcome, notes)
    }

    fn pair() -> (std::io::PipeReader, Starter) {
        let (reader, writer) = io::pipe().unwrap();
        let out = File::from(std::os::fd::OwnedFd::from(writer));
        (reader, Starter { out: Some(out), prefix: Prefix::Protocol })
    }

    #[test]
    fn notes_are_handed_on_until_it_is_ready() {
        let (reader, mut starter) = pair();
        starter.note("created");
        starter.note("two\nlines");
        starter.ready().unwrap();
        let mut notes = Vec::new();
        assert_eq!(wait(reader, LONG, |n| notes.push(n.to_owned())), Outcome::Ready);
        assert_eq!(notes, ["created", "two lines"]);
    }

    #[test]
    fn an_error_comes_whole_and_in_one_line() {
        let (reader, mut starter) = pair();
        starter.error("what: why;\nremedy");
        assert_eq!(wait(reader, LONG, |_| ()), Outcome::Failed("what: why; remedy".to_owned()));
    }

    #[test]
    fn a_process_that_dies_is_not_taken_for_a_ready_one() {
        assert_eq!(hear(""), (Outcome::Died, vec![]));
        assert_eq!(hear("note x\n"), (Outcome::Died, vec!["x".to_owned()]));
        assert_eq!(hear("read"), (Outcome::Died, vec![]));
        assert_eq!(hear("ready"), (Outcome::Died, vec![]));
        assert_eq!(hear("already\nready now\n"), (Outcome::Died, vec![]));
    }

    #[test]
    fn silence_ends_at_the_deadline() {
        let (reader, _starter) = pair();
        assert_eq!(wait(reader, Duration::from_millis(50), |_| ()), Outcome::Silent);
    }

    #[test]
    fn ready_fails_when_nobody_waits_any_more() {
        let (reader, mut starter) = pair();
        drop(reader);
        assert!(starter.ready().is_err());
    }
}
