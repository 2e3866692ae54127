//! Files of records that several mounts append to: none lost, none twice, none torn, each writer's in its order.

use std::collections::{BTreeMap, BTreeSet};

use super::{History, Kind, Wrong, acknowledged};
use crate::faults::log::{Action, Operation, Outcome, Records};

/// (begun, acknowledged) of each record, by writer and number.
type Known = BTreeMap<(u32, u64), (u64, Option<u64>)>;

pub(super) fn check(history: &History, wrong: &mut Vec<Wrong>) {
    let mut files: BTreeMap<&str, Known> = BTreeMap::new();
    for operation in &history.operations {
        let Action::Append { path, writer, first, count } = &operation.action else { continue };
        let known = files.entry(path).or_default();
        for seq in *first..first + count {
            known.insert((*writer, seq), (operation.begin_ns, acknowledged(operation)));
        }
    }
    for operation in &history.operations {
        let Action::ReadRecords { path } = &operation.action else { continue };
        let nothing = Known::new();
        let known = files.get(path.as_str()).unwrap_or(&nothing);
        let found = match &operation.outcome {
            Some(Outcome::Records(records, rest)) => judge(history, operation, known, records, rest.as_ref()),
            Some(Outcome::Is(_)) => judge(history, operation, known, &[], None),
            _ => continue,
        };
        let when = history.when(operation);
        wrong.extend(found.into_iter().map(|(kind, what)| Wrong {
            kind,
            path: path.clone(),
            what: format!("{what} ({when})"),
        }));
    }
}

/// Was something appended on the same mount meanwhile? Then the end that the reader saw says nothing, though it should: the
/// kernel takes for the size what it knew and what it wrote itself. SEMANTICS.md, "Differences from POSIX that are left".
fn ends_too_early(history: &History, read: &Operation) -> bool {
    let Action::ReadRecords { path } = &read.action else { return false };
    let until_ns = read.end_ns.unwrap_or(u64::MAX);
    history.operations.iter().any(|operation| {
        matches!(&operation.action, Action::Append { path: of, .. } if of == path)
            && operation.mount == read.mount
            && operation.begin_ns <= until_ns
            && operation.end_ns.is_none_or(|end_ns| end_ns >= read.begin_ns)
    })
}

fn judge(
    history: &History,
    operation: &Operation,
    known: &Known,
    records: &[Records],
    rest: Option<&String>,
) -> Vec<(Kind, String)> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    let mut last: BTreeMap<u32, u64> = BTreeMap::new();
    let end_ns = operation.end_ns.unwrap_or(u64::MAX);
    let each = records.iter().flat_map(|run| (run.first..run.first + run.count).map(|seq| (run.writer, seq)));
    for (writer, seq) in each {
        let name = format!("record {seq} of writer {writer}");
        if known.get(&(writer, seq)).is_none_or(|(begin_ns, _)| *begin_ns > end_ns) {
            found.push((Kind::Foreign, format!("{name}, which nobody had written")));
        }
        if !seen.insert((writer, seq)) {
            found.push((Kind::Duplicate, format!("{name} is there twice")));
        } else if last.get(&writer).is_some_and(|before| *before > seq) {
            found.push((Kind::Disorder, format!("{name} comes after record {}", last[&writer])));
        }
        last.insert(writer, seq);
    }
    if ends_too_early(history, operation) {
        return found;
    }
    if let Some(rest) = rest {
        found.push((Kind::Torn, rest.clone()));
        // What comes behind cannot be told.
        return found;
    }
    let fresh_ns = history.fresh_from(operation);
    let due = known.iter().filter(|(_, (_, settled_ns))| settled_ns.is_some_and(|at| at < fresh_ns));
    let missing: Vec<(u32, u64)> =
        due.map(|(record, _)| *record).filter(|record| !seen.contains(record)).collect();
    if let Some((writer, seq)) = missing.first() {
        let what = format!(
            "{} acknowledged records are not there; first: record {seq} of writer {writer}",
            missing.len()
        );
        found.push((history.stale_or_lost(operation), what));
    }
    found
}
