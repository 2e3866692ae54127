//! The checker: a log of operations in, everything that is wrong with it out. Pure.
//!
//! - [`register`]: one thing that is written and read as a whole: may a reader that began then have seen that?
//! - [`files`]: whole files, and files block by block.
//! - [`names`]: names and directories.
//! - [`appends`]: files of records.
//!
//! What counts, whatever fails meanwhile: what was acknowledged is there for every reader that begins later; what a reader
//! sees was written, and nothing acknowledged had overtaken it when the reader began; what failed or was cut off may
//! have happened or not, as a whole. At the end everything can be read, and all mounts see the same.

mod appends;
mod files;
mod names;
mod register;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use crate::faults::log::{Action, Operation, Outcome};

/// A mount's process stood still.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pause {
    /// Which mount.
    pub mount: u32,
    /// From when.
    pub from_ns: u64,
    /// Until when.
    pub to_ns: u64,
}

/// Everything that is known of a round.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Of all workers.
    pub operations: Vec<Operation>,
    /// While a mount stands still, its kernel shows what it has (SEMANTICS.md, Visibility).
    pub pauses: Vec<Pause>,
    /// From here on there were no faults and no writers, and everything was read once more.
    pub healed_ns: u64,
    /// How many mounts read everything then.
    pub mounts: u32,
}

/// What kind of thing is wrong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// At the end, something acknowledged is not there.
    Lost,
    /// A reader saw what had been overtaken when it began.
    Stale,
    /// A reader saw what nobody wrote there.
    Foreign,
    /// A reader saw a part of something that is one.
    Torn,
    /// A record is there twice.
    Duplicate,
    /// Records of one writer are in another order than it wrote them.
    Disorder,
    /// A call was refused for a reason that cannot be.
    Refused,
    /// At the end, something cannot be read.
    Unreadable,
    /// At the end, two mounts see different things.
    Differs,
}

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Wrong {
    /// Its kind.
    pub kind: Kind,
    /// The file or name.
    pub path: String,
    /// What exactly.
    pub what: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}: {}", self.kind, self.path, self.what)
    }
}

/// Everything that is wrong with a round.
pub fn check(history: &History) -> Vec<Wrong> {
    let mut wrong = Vec::new();
    files::check(history, &mut wrong);
    names::check(history, &mut wrong);
    appends::check(history, &mut wrong);
    unread(history, &mut wrong);
    wrong.sort();
    wrong.dedup();
    wrong
}

/// What reads of the path say of it at the end must be known on every mount.
fn unread(history: &History, wrong: &mut Vec<Wrong>) {
    let mut seen: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    for operation in &history.operations {
        match &operation.action {
            Action::Replace { path, .. } | Action::Overwrite { path, .. } | Action::Append { path, .. } => {
                seen.entry(path).or_default();
            }
            Action::Read { path } | Action::ReadRecords { path } if history.is_final(operation) => {
                let good = !matches!(operation.outcome, None | Some(Outcome::Failed(..)));
                if good {
                    seen.entry(path).or_default().push(operation.mount);
                }
            }
            _ => {}
        }
    }
    for (path, by) in seen {
        for mount in (0..history.mounts).filter(|mount| !by.contains(mount)) {
            let what = format!("mount {mount} could not read it when all was over");
            wrong.push(Wrong { kind: Kind::Unreadable, path: path.to_owned(), what });
        }
    }
}

impl History {
    fn is_final(&self, operation: &Operation) -> bool {
        operation.begin_ns >= self.healed_ns
    }

    /// When a reader began, as far as the freshness of what it sees goes.
    fn fresh_from(&self, operation: &Operation) -> u64 {
        const WAKING_NS: u64 = 2_000_000_000;
        let inside = |pause: &&Pause| {
            pause.mount == operation.mount
                && (pause.from_ns..=pause.to_ns + WAKING_NS).contains(&operation.begin_ns)
        };
        self.pauses.iter().filter(inside).map(|pause| pause.from_ns).fold(operation.begin_ns, u64::min)
    }

    /// Seconds since the first operation, for messages.
    fn seconds(&self, at_ns: u64) -> f64 {
        let first = self.operations.iter().map(|operation| operation.begin_ns).min().unwrap_or(0);
        at_ns.saturating_sub(first) as f64 / 1e9
    }

    fn when(&self, operation: &Operation) -> String {
        let end = operation.end_ns.map_or("?".to_owned(), |end| format!("{:.3}", self.seconds(end)));
        format!("mount {}, {:.3} to {end} s", operation.mount, self.seconds(operation.begin_ns))
    }

    fn stale_or_lost(&self, operation: &Operation) -> Kind {
        if self.is_final(operation) { Kind::Lost } else { Kind::Stale }
    }
}

/// Was it done, and said so? The time of that.
fn acknowledged(operation: &Operation) -> Option<u64> {
    operation.end_ns.filter(|_| operation.outcome == Some(Outcome::Done))
}
