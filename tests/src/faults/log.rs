//! The log of operations: what was called when, and what came of it.
//!
//! Each worker process writes one file, a JSON object a line: one when a call begins, one when it has ended. A call without
//! an end was cut off. Times are of the machine's monotonic clock, which is one for all processes.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::faults::content::Block;

/// Nanoseconds of the machine's monotonic clock.
pub fn now_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// How a whole file is written anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum How {
    /// Under another name, closed, and renamed over the old one: others see the one or the other.
    Rename,
    /// Truncated at the open, written, closed: others see it grow.
    Truncate,
}

/// What a name stands for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Value {
    /// It is not there.
    Absent,
    /// A directory.
    Directory,
    /// A file with this version as its content.
    File(u64),
}

/// What one name was and is to be after a change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Change {
    /// The name, with its directories.
    pub path: String,
    /// Before.
    pub before: Value,
    /// After.
    pub after: Value,
}

/// A call, or a few that are acknowledged together.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Action {
    /// A whole file anew; acknowledged by close, or by rename.
    Replace {
        /// The file.
        path: String,
        /// Which writing.
        version: u64,
        /// Its length, in blocks.
        blocks: u32,
        /// How.
        how: How,
    },
    /// Blocks of a file in place; acknowledged by fsync.
    Overwrite {
        /// The file.
        path: String,
        /// Which writing.
        version: u64,
        /// The first block.
        first: u32,
        /// How many.
        count: u32,
    },
    /// Records `first`, `first + 1`, ... of a writer, one write each; acknowledged by fsync.
    Append {
        /// The file.
        path: String,
        /// Who.
        writer: u32,
        /// The first record's number.
        first: u64,
        /// How many.
        count: u64,
    },
    /// A change of names.
    Names {
        /// mkdir, create, rename, link, unlink or rmdir.
        call: String,
        /// All that it changes, at once.
        changes: Vec<Change>,
    },
    /// A whole file, opened for this.
    Read {
        /// The file.
        path: String,
    },
    /// A whole file through a descriptor that stays open.
    ReadOpen {
        /// The file.
        path: String,
    },
    /// A whole file of records.
    ReadRecords {
        /// The file.
        path: String,
    },
    /// One name.
    Look {
        /// The name, with its directories.
        path: String,
    },
    /// All names of a directory.
    List {
        /// The directory.
        path: String,
    },
}

/// So many blocks from `first` on are the same.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Run {
    /// The first block's number.
    pub first: u32,
    /// How many.
    pub count: u32,
    /// What they are.
    pub block: Block,
}

/// Records of a writer that follow each other, in their order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Records {
    /// Who.
    pub writer: u32,
    /// The first one's number.
    pub first: u64,
    /// How many.
    pub count: u64,
}

/// What came of a call.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Outcome {
    /// Done, and said so.
    Done,
    /// An error: its number, and which step failed.
    Failed(i32, String),
    /// What a reader saw, up to the end of the file.
    Blocks(Vec<Run>),
    /// What a reader of records saw, and what is wrong with the first thing that is no record.
    Records(Vec<Records>, Option<String>),
    /// What a name stands for. `Err`: it is there, and this is wrong with it.
    Is(Result<Value, String>),
    /// What is in a directory.
    Names(Vec<String>),
}

/// A line of the log.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
enum Line {
    Begin { id: u64, mount: u32, at_ns: u64, action: Action },
    End { id: u64, at_ns: u64, outcome: Outcome },
}

/// An operation, put together from the two lines.
#[derive(Clone, PartialEq, Debug)]
pub struct Operation {
    /// The mount that it was called on.
    pub mount: u32,
    /// Before the call.
    pub begin_ns: u64,
    /// After it; `None` if it was cut off.
    pub end_ns: Option<u64>,
    /// What.
    pub action: Action,
    /// What came of it.
    pub outcome: Option<Outcome>,
}

/// Writes a log. Shared by the threads of a process.
pub struct Writer {
    file: File,
    mount: u32,
    next: AtomicU64,
}

impl Writer {
    /// Into this file, which must not be on a mount of ours.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(path: &Path, mount: u32) -> io::Result<Writer> {
        let file = File::options().append(true).create_new(true).open(path)?;
        Ok(Writer { file, mount, next: AtomicU64::new(0) })
    }

    /// Logs that `action` begins, does it, and logs what came of it.
    pub fn run(&self, action: Action, call: impl FnOnce() -> Outcome) -> Outcome {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.line(&Line::Begin { id, mount: self.mount, at_ns: now_ns(), action });
        let outcome = call();
        self.line(&Line::End { id, at_ns: now_ns(), outcome: outcome.clone() });
        outcome
    }

    fn line(&self, line: &Line) {
        let mut text = serde_json::to_vec(line).unwrap();
        text.push(b'\n');
        // One write of an appending file, so that threads do not mix lines.
        (&self.file).write_all(&text).unwrap();
    }
}

/// Reads a log, in the order in which operations began.
pub fn read(path: &Path) -> Vec<Operation> {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("no log {}: {e}", path.display()));
    let (mut all, mut open) = (Vec::new(), HashMap::new());
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    for line in whole.lines() {
        match serde_json::from_str(line).unwrap_or_else(|e| panic!("not a line of a log: {e}: {line}")) {
            Line::Begin { id, mount, at_ns, action } => {
                open.insert(id, all.len());
                all.push(Operation { mount, begin_ns: at_ns, end_ns: None, action, outcome: None });
            }
            Line::End { id, at_ns, outcome } => {
                let operation = &mut all[open[&id]];
                (operation.end_ns, operation.outcome) = (Some(at_ns), Some(outcome));
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_what_was_cut_off_has_no_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let writer = Writer::create(&path, 1).unwrap();
        let look = |name: &str| Action::Look { path: name.into() };
        writer.run(look("a"), || Outcome::Is(Ok(Value::File(3))));
        let at_ns = now_ns();
        writer.line(&Line::Begin { id: 9, mount: 1, at_ns, action: look("b") });
        let read = read(&path);
        assert_eq!(read.len(), 2);
        assert_eq!(read[0].outcome, Some(Outcome::Is(Ok(Value::File(3)))));
        assert!(read[0].end_ns.unwrap() >= read[0].begin_ns);
        assert_eq!((read[1].begin_ns, read[1].end_ns, &read[1].outcome), (at_ns, None, &None));
    }
}
