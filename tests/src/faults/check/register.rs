//! One thing that is written and read as a whole: a name, a file, a block.

use crate::faults::log::Value;

/// A request that was cut off on its way may still be carried out for as long: that of a killed mount, say, by a master
/// that stood still.
const LATE_NS: u64 = 120_000_000_000;

/// A writing of it.
#[derive(Clone, Debug)]
pub struct Write {
    /// When the call began.
    pub begin_ns: u64,
    /// When it ended well. `None`: it failed or was cut off, and may have happened or not.
    pub settled_ns: Option<u64>,
    /// When it failed, or the last that was heard of it.
    pub failed_ns: u64,
    /// A step on the way to what the call was for, that cannot be seen any more when it has ended well.
    pub passing: bool,
    /// What was written.
    pub value: Value,
}

/// What was seen: right or not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It may have been seen.
    Right,
    /// Nobody had written it before the reader ended.
    NeverWritten,
    /// Something newer had been acknowledged before the reader began: written at this time.
    Overtaken(u64),
}

/// All writings of one thing.
#[derive(Clone, Debug)]
pub struct Register {
    writes: Vec<Write>,
}

impl Default for Register {
    /// It is not there at first.
    fn default() -> Self {
        let first =
            Write { begin_ns: 0, settled_ns: Some(0), failed_ns: 0, passing: false, value: Value::Absent };
        Register { writes: vec![first] }
    }
}

impl Register {
    /// Takes in a writing.
    pub fn push(&mut self, write: Write) {
        self.writes.push(write);
    }

    /// May a reader have seen something that `matches`, that ended at `end_ns`, and before which everything that was
    /// acknowledged at `fresh_ns` had happened?
    pub fn judge(&self, fresh_ns: u64, end_ns: u64, matches: impl Fn(&Value) -> bool) -> Verdict {
        let settled = self.writes.iter().filter(|write| !write.passing);
        let newest = settled
            .filter(|write| write.settled_ns.is_some_and(|at| at < fresh_ns))
            .map(|write| write.begin_ns)
            .max()
            .unwrap_or(0);
        let mut verdict = Verdict::NeverWritten;
        for write in &self.writes {
            if write.begin_ns > end_ns || !matches(&write.value) {
                continue;
            }
            let seen_until = match write.settled_ns {
                Some(at) if write.passing && at < fresh_ns => 0,
                Some(at) => at,
                None => write.failed_ns.saturating_add(LATE_NS),
            };
            if seen_until >= newest {
                return Verdict::Right;
            }
            verdict = Verdict::Overtaken(newest);
        }
        verdict
    }
}
