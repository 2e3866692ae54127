//! Whole files, and files block by block.
//!
//! A file that is only ever replaced by rename is one register: a reader sees one version, whole. Any other file is
//! a register for each block, and the end of the file is what the blocks behind it hold: nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::names::{directory, names_fresh_from, own_changes};
use super::register::{Register, Verdict, Write};
use super::{History, Kind, Wrong, acknowledged};
use crate::faults::content::Block;
use crate::faults::log::{Action, How, Operation, Outcome, Run, Value};

#[derive(Default)]
struct Written<'a> {
    /// Files that are replaced as a whole.
    whole: BTreeMap<&'a str, Register>,
    /// The others, by block.
    blocks: BTreeMap<&'a str, Vec<Register>>,
    /// The length of each version, in blocks.
    lengths: BTreeMap<(&'a str, u64), u32>,
}

pub(super) fn check(history: &History, wrong: &mut Vec<Wrong>) {
    let (written, changes) = (collect(history), own_changes(history));
    for operation in &history.operations {
        let (Action::Read { path } | Action::ReadOpen { path }) = &operation.action else { continue };
        let runs = match &operation.outcome {
            Some(Outcome::Blocks(runs)) => Some(&runs[..]),
            Some(Outcome::Is(Ok(Value::Absent))) => None,
            _ => continue,
        };
        let found: BTreeSet<(Kind, String)> = if let Some(register) = written.whole.get(path.as_str()) {
            // Through an open descriptor, an older file may rightly be seen for ever.
            let fresh_ns = match operation.action {
                Action::ReadOpen { .. } => 0,
                _ => names_fresh_from(history, operation, directory(path), &changes, Some(path)),
            };
            whole(
                history,
                operation,
                register,
                runs,
                |version| written.lengths[&(path.as_str(), version)],
                fresh_ns,
            )
        } else if let Some(registers) = written.blocks.get(path.as_str()) {
            let cut_meanwhile = cut_meanwhile(history, operation, path);
            by_block(history, operation, registers, runs.unwrap_or(&[]), cut_meanwhile)
        } else {
            continue;
        };
        let when = history.when(operation);
        wrong.extend(found.into_iter().map(|(kind, what)| Wrong {
            kind,
            path: path.clone(),
            what: format!("{what} ({when})"),
        }));
    }
}

fn collect(history: &History) -> Written<'_> {
    let mut written = Written::default();
    let by_block = |operation: &&Operation| {
        matches!(&operation.action, Action::Overwrite { .. } | Action::Replace { how: How::Truncate, .. })
    };
    for operation in history.operations.iter().filter(by_block) {
        if let Action::Overwrite { path, .. } | Action::Replace { path, .. } = &operation.action {
            written.blocks.entry(path).or_default();
        }
    }
    let longest = longest(history);
    for operation in &history.operations {
        let write = |value: Value, passing: bool| Write {
            begin_ns: operation.begin_ns,
            settled_ns: acknowledged(operation),
            failed_ns: operation.end_ns.unwrap_or(history.healed_ns),
            passing,
            value,
        };
        match &operation.action {
            Action::Replace { path, version, blocks, .. } => {
                written.lengths.insert((path, *version), *blocks);
                let Some(registers) = written.blocks.get_mut(path.as_str()) else {
                    written.whole.entry(path).or_default().push(write(Value::File(*version), false));
                    continue;
                };
                registers.resize(longest[path.as_str()] as usize, Register::default());
                for (block, register) in registers.iter_mut().enumerate() {
                    let within = block < *blocks as usize;
                    // The truncation, and then the block.
                    register.push(write(Value::Absent, within));
                    if within {
                        register.push(write(Value::File(*version), false));
                    }
                }
            }
            Action::Overwrite { path, version, first, count } => {
                let registers = written.blocks.get_mut(path.as_str()).unwrap();
                registers.resize(longest[path.as_str()] as usize, Register::default());
                for register in &mut registers[*first as usize..(first + count) as usize] {
                    register.push(write(Value::File(*version), false));
                }
            }
            _ => {}
        }
    }
    written
}

/// The most blocks that each file ever had.
fn longest(history: &History) -> BTreeMap<&str, u32> {
    let mut longest: BTreeMap<&str, u32> = BTreeMap::new();
    for operation in &history.operations {
        let (path, blocks) = match &operation.action {
            Action::Replace { path, blocks, .. } => (path, *blocks),
            Action::Overwrite { path, first, count, .. } => (path, first + count),
            _ => continue,
        };
        let most = longest.entry(path).or_default();
        *most = blocks.max(*most);
    }
    longest
}

fn whole(
    history: &History,
    operation: &Operation,
    register: &Register,
    runs: Option<&[Run]>,
    length: impl Fn(u64) -> u32,
    fresh_ns: u64,
) -> BTreeSet<(Kind, String)> {
    let one = |kind, what| BTreeSet::from([(kind, what)]);
    let value = match runs {
        None => Value::Absent,
        Some([Run { first: 0, count, block: Block::Version(version, _) }]) => {
            let known = register.judge(0, u64::MAX, |value| *value == Value::File(*version));
            if known != Verdict::Right {
                return one(Kind::Foreign, format!("version {version}, which nobody wrote"));
            }
            let blocks = length(*version);
            if *count != blocks {
                return one(Kind::Torn, format!("{count} of the {blocks} blocks of version {version}"));
            }
            Value::File(*version)
        }
        Some(runs) => {
            let foreign = runs.iter().any(|run| !matches!(run.block, Block::Version(..)));
            let kind = if foreign { Kind::Foreign } else { Kind::Torn };
            return one(kind, format!("not one version but {runs:?}"));
        }
    };
    let end_ns = operation.end_ns.unwrap_or(u64::MAX);
    match register.judge(fresh_ns, end_ns, |candidate| *candidate == value) {
        Verdict::Right => BTreeSet::new(),
        Verdict::NeverWritten => one(Kind::Foreign, format!("{value:?} before it was written")),
        Verdict::Overtaken(by_ns) => one(
            history.stale_or_lost(operation),
            format!("{value:?}, overtaken by what was written at {:.3} s", history.seconds(by_ns)),
        ),
    }
}

/// Was the file being truncated while it was read?
///
/// Then zeroes are not counted as wrong, though they are: the kernel fills up a page that it gets less for than it asked for,
/// and does not take the new end of the file from a short answer when the file's attributes have changed, or are about
/// to, since it asked. SEMANTICS.md, "Differences from POSIX that are left", has it.
fn cut_meanwhile(history: &History, read: &Operation, path: &str) -> bool {
    let until_ns = read.end_ns.unwrap_or(u64::MAX);
    history.operations.iter().any(|operation| {
        matches!(&operation.action, Action::Replace { path: of, how: How::Truncate, .. } if of == path)
            && operation.begin_ns <= until_ns
            && operation.end_ns.is_none_or(|end_ns| end_ns >= read.begin_ns)
    })
}

fn by_block(
    history: &History,
    operation: &Operation,
    registers: &[Register],
    runs: &[Run],
    cut_meanwhile: bool,
) -> BTreeSet<(Kind, String)> {
    let mut found = BTreeSet::new();
    let (fresh_ns, end_ns) = (history.fresh_from(operation), operation.end_ns.unwrap_or(u64::MAX));
    let mut seen = vec![Value::Absent; registers.len()];
    for run in runs {
        let range = format!("blocks {} to {}", run.first, run.first + run.count - 1);
        let Block::Version(version, _) = &run.block else {
            let range_of = run.first as usize..((run.first + run.count) as usize).min(seen.len());
            if run.block == Block::Zeroes && cut_meanwhile {
                seen[range_of].fill(Value::Directory);
                continue;
            }
            found.insert((Kind::Foreign, format!("{range}: {:?}", run.block)));
            // Reported; not to be reported once more as the end of the file.
            seen[range_of].fill(Value::Directory);
            continue;
        };
        if (run.first + run.count) as usize > seen.len() {
            found.insert((Kind::Foreign, format!("{range}, behind every end that the file ever had")));
            continue;
        }
        seen[run.first as usize..(run.first + run.count) as usize].fill(Value::File(*version));
    }
    let mut last: Option<(usize, Kind, String)> = None;
    for (block, (register, value)) in registers.iter().zip(&seen).enumerate() {
        if *value == Value::Directory {
            continue;
        }
        let (kind, what) = match register.judge(fresh_ns, end_ns, |candidate| candidate == value) {
            Verdict::Right => continue,
            Verdict::NeverWritten => (Kind::Foreign, format!("{value:?}, which nobody had written there")),
            Verdict::Overtaken(by_ns) => (
                history.stale_or_lost(operation),
                format!("{value:?}, overtaken by what was written at {:.3} s", history.seconds(by_ns)),
            ),
        };
        // Neighbours with the same fault are one.
        if !last.as_ref().is_some_and(|(at, k, w)| at + 1 == block && *k == kind && *w == what) {
            found.insert((kind, format!("from block {block} on: {what}")));
        }
        last = Some((block, kind, what));
    }
    found
}
