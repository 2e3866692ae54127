//! Names and directories: each name is a register, and a change of several is one change.

use std::collections::BTreeMap;

use super::register::{Register, Verdict, Write};
use super::{History, Kind, Wrong, acknowledged};
use crate::faults::log::{Action, Change, How, Operation, Outcome, Value};

/// Errors that say something of the name itself, and not that something does not work: ENOENT, EEXIST, ENOTDIR, EISDIR,
/// ENOTEMPTY. Each name has one program that changes it, and that knows what is there.
const ABOUT_THE_NAME: [i32; 5] = [2, 17, 20, 21, 39];

pub(super) fn check(history: &History, wrong: &mut Vec<Wrong>) {
    let (registers, changes) = (collect(history), own_changes(history));
    for operation in &history.operations {
        let when = || history.when(operation);
        match (&operation.action, &operation.outcome) {
            (Action::Names { call, changes }, Some(Outcome::Failed(errno, step)))
                if ABOUT_THE_NAME.contains(errno) =>
            {
                let what = format!("{call} was refused with error {errno} at {step} ({})", when());
                wrong.push(Wrong { kind: Kind::Refused, path: changes[0].path.clone(), what });
            }
            (Action::Look { path }, Some(Outcome::Is(Err(what)))) => {
                wrong.push(Wrong {
                    kind: Kind::Foreign,
                    path: path.clone(),
                    what: format!("{what} ({})", when()),
                });
            }
            (Action::Look { path }, Some(Outcome::Is(Ok(value)))) => {
                let register = registers.get(path.as_str());
                let matches = |candidate: &Value| candidate == value;
                let shown = format!("{value:?}");
                let fresh_ns = names_fresh_from(history, operation, directory(path), &changes, None);
                judge(history, operation, (path, register, fresh_ns), matches, &shown, wrong);
            }
            (Action::List { path }, Some(Outcome::Names(names))) => {
                let fresh_ns = names_fresh_from(history, operation, path, &changes, None);
                list(history, operation, (path, names), fresh_ns, &registers, wrong);
            }
            _ => {}
        }
    }
    at_the_end(history, wrong);
}

fn collect(history: &History) -> BTreeMap<&str, Register> {
    let mut registers: BTreeMap<&str, Register> = BTreeMap::new();
    for operation in &history.operations {
        let Action::Names { changes, .. } = &operation.action else { continue };
        for change in changes {
            registers.entry(&change.path).or_default().push(Write {
                begin_ns: operation.begin_ns,
                settled_ns: acknowledged(operation),
                failed_ns: operation.end_ns.unwrap_or(history.healed_ns),
                passing: false,
                value: change.after.clone(),
            });
        }
    }
    registers
}

/// A change of a name by a mount.
pub(super) struct OwnChange<'a> {
    path: &'a str,
    begin_ns: u64,
    end_ns: Option<u64>,
}

/// The changes of names of each mount in each directory.
pub(super) type OwnChanges<'a> = BTreeMap<(u32, &'a str), Vec<OwnChange<'a>>>;

pub(super) fn own_changes(history: &History) -> OwnChanges<'_> {
    let mut all = OwnChanges::new();
    for operation in &history.operations {
        let paths: Vec<&str> = match &operation.action {
            Action::Names { changes, .. } => changes.iter().map(|change| change.path.as_str()).collect(),
            Action::Replace { path, how: How::Rename, .. } => vec![path],
            _ => continue,
        };
        for path in paths {
            let change = OwnChange { path, begin_ns: operation.begin_ns, end_ns: operation.end_ns };
            all.entry((operation.mount, directory(path))).or_default().push(change);
        }
    }
    all
}

pub(super) fn directory(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

/// While a mount itself changes a name in a directory, it shows the others there as they were before that (SEMANTICS.md,
/// Visibility, the second exception). Changes of `but` itself do not count.
pub(super) fn names_fresh_from(
    history: &History,
    look: &Operation,
    dir: &str,
    changes: &OwnChanges<'_>,
    but: Option<&str>,
) -> u64 {
    const WAKING_NS: u64 = 100_000_000;
    let under_way = |change: &&OwnChange<'_>| {
        change.begin_ns <= look.begin_ns
            && change.end_ns.is_none_or(|end_ns| end_ns + WAKING_NS >= look.begin_ns)
            && but.is_none_or(|but| but != change.path)
    };
    let of_dir = changes.get(&(look.mount, dir)).into_iter().flatten().filter(under_way);
    of_dir.map(|change| change.begin_ns).fold(history.fresh_from(look), u64::min)
}

fn judge(
    history: &History,
    operation: &Operation,
    (path, register, fresh_ns): (&str, Option<&Register>, u64),
    matches: impl Fn(&Value) -> bool,
    shown: &str,
    wrong: &mut Vec<Wrong>,
) {
    let nothing = Register::default();
    let end_ns = operation.end_ns.unwrap_or(u64::MAX);
    let (kind, what) = match register.unwrap_or(&nothing).judge(fresh_ns, end_ns, matches) {
        Verdict::Right => return,
        Verdict::NeverWritten => (Kind::Foreign, format!("{shown}, which nobody had made")),
        Verdict::Overtaken(by_ns) => (
            history.stale_or_lost(operation),
            format!("{shown}, overtaken by what was done at {:.3} s", history.seconds(by_ns)),
        ),
    };
    let what = format!("{what} ({})", history.when(operation));
    wrong.push(Wrong { kind, path: path.to_owned(), what });
}

fn list(
    history: &History,
    operation: &Operation,
    (dir, names): (&str, &[String]),
    fresh_ns: u64,
    registers: &BTreeMap<&str, Register>,
    wrong: &mut Vec<Wrong>,
) {
    let prefix = format!("{dir}/");
    let inside = |path: &&str| path.strip_prefix(&prefix).is_some_and(|name| !name.contains('/'));
    let known: Vec<&str> = registers.keys().copied().filter(inside).collect();
    for path in &known {
        let there = names.iter().any(|name| *name == path[prefix.len()..]);
        let matches = |value: &Value| (*value != Value::Absent) == there;
        let shown = if there { "listed" } else { "not listed" };
        judge(history, operation, (path, registers.get(path), fresh_ns), matches, shown, wrong);
    }
    for name in names.iter().filter(|name| !known.contains(&format!("{prefix}{name}").as_str())) {
        let what = format!("listed, but nobody made it ({})", history.when(operation));
        wrong.push(Wrong { kind: Kind::Foreign, path: format!("{prefix}{name}"), what });
    }
    for name in names.iter().filter(|name| names.iter().filter(|other| other == name).count() > 1) {
        let what = format!("listed twice ({})", history.when(operation));
        wrong.push(Wrong { kind: Kind::Foreign, path: format!("{prefix}{name}"), what });
    }
}

/// The last state: the same on all mounts, and each change that failed is done or not done, as a whole.
fn at_the_end(history: &History, wrong: &mut Vec<Wrong>) {
    let mut last: BTreeMap<&str, BTreeMap<u32, Value>> = BTreeMap::new();
    for operation in history.operations.iter().filter(|operation| history.is_final(operation)) {
        if let (Action::Look { path }, Some(Outcome::Is(Ok(value)))) = (&operation.action, &operation.outcome)
        {
            last.entry(path).or_default().insert(operation.mount, value.clone());
        }
    }
    let mut latest: BTreeMap<&str, u64> = BTreeMap::new();
    for operation in &history.operations {
        let Action::Names { changes, .. } = &operation.action else { continue };
        for change in changes {
            let at = latest.entry(&change.path).or_default();
            *at = operation.begin_ns.max(*at);
        }
    }
    for (path, by_mount) in &last {
        let values: Vec<&Value> = by_mount.values().collect();
        if values.iter().any(|value| *value != values[0]) {
            let what = format!("mounts see different things: {by_mount:?}");
            wrong.push(Wrong { kind: Kind::Differs, path: (*path).to_owned(), what });
        }
    }
    for path in latest.keys() {
        for mount in 0..history.mounts {
            if !last.get(path).is_some_and(|by_mount| by_mount.contains_key(&mount)) {
                let what = format!("mount {mount} could not look at it when all was over");
                wrong.push(Wrong { kind: Kind::Unreadable, path: (*path).to_owned(), what });
            }
        }
    }
    for operation in &history.operations {
        let Action::Names { call, changes } = &operation.action else { continue };
        let is_last = changes.iter().all(|change| latest[change.path.as_str()] == operation.begin_ns);
        if acknowledged(operation).is_some() || changes.len() < 2 || !is_last {
            continue;
        }
        let is = |change: &Change| last.get(change.path.as_str()).and_then(|by_mount| by_mount.get(&0));
        let done = changes.iter().all(|change| is(change).is_none_or(|value| *value == change.after));
        let not_done = changes.iter().all(|change| is(change).is_none_or(|value| *value == change.before));
        if !done && !not_done {
            let now: Vec<_> = changes.iter().map(|change| (&change.path, is(change))).collect();
            let what = format!("{call} is half done: {now:?} ({})", history.when(operation));
            wrong.push(Wrong { kind: Kind::Torn, path: changes[0].path.clone(), what });
        }
    }
}
