//! The checker can fail: a log with each kind of fault in it, and each is caught. And it passes what is right.

use super::*;
use crate::faults::content::Block;
use crate::faults::log::{Change, How, Records, Run, Value};

/// Everything was over, and read once more, from here on.
const HEALED: u64 = 1_000;

/// A history of one mount; `at` says when each operation begins and ends.
#[derive(Default)]
struct Log(History);

impl Log {
    fn new() -> Log {
        Log(History { healed_ns: HEALED, mounts: 1, ..History::default() })
    }

    fn at(mut self, begin_ns: u64, end_ns: u64, action: Action, outcome: Outcome) -> Log {
        let (end_ns, outcome) = (Some(end_ns), Some(outcome));
        self.0.operations.push(Operation { mount: 0, begin_ns, end_ns, action, outcome });
        self
    }

    fn replace(self, begin: u64, end: u64, version: u64, how: How, outcome: Outcome) -> Log {
        self.at(begin, end, Action::Replace { path: "f".into(), version, blocks: 4, how }, outcome)
    }

    fn read(self, begin: u64, end: u64, runs: &[(u32, u32, Block)]) -> Log {
        let run = |(first, count, block): &(u32, u32, Block)| Run {
            first: *first,
            count: *count,
            block: block.clone(),
        };
        let runs = runs.iter().map(run).collect();
        self.at(begin, end, Action::Read { path: "f".into() }, Outcome::Blocks(runs))
    }

    fn overwrite(self, begin: u64, end: u64, version: u64, first: u32, outcome: Outcome) -> Log {
        self.at(begin, end, Action::Overwrite { path: "f".into(), version, first, count: 1 }, outcome)
    }

    fn append(self, begin: u64, end: u64, first: u64, count: u64, outcome: Outcome) -> Log {
        self.at(begin, end, Action::Append { path: "l".into(), writer: 1, first, count }, outcome)
    }

    fn records(self, begin: u64, runs: &[(u64, u64)], rest: Option<&str>) -> Log {
        let run = |(first, count): &(u64, u64)| Records { writer: 1, first: *first, count: *count };
        let outcome = Outcome::Records(runs.iter().map(run).collect(), rest.map(str::to_owned));
        self.at(begin, begin + 1, Action::ReadRecords { path: "l".into() }, outcome)
    }

    fn names(self, begin: u64, end: u64, changes: &[(&str, Value, Value)], outcome: Outcome) -> Log {
        let change = |(path, before, after): &(&str, Value, Value)| Change {
            path: (*path).into(),
            before: before.clone(),
            after: after.clone(),
        };
        let changes = changes.iter().map(change).collect();
        self.at(begin, end, Action::Names { call: "rename".into(), changes }, outcome)
    }

    fn look(self, begin: u64, path: &str, value: Value) -> Log {
        self.at(begin, begin + 1, Action::Look { path: path.into() }, Outcome::Is(Ok(value)))
    }

    /// Exactly these kinds are found.
    #[track_caller]
    fn has(self, kinds: &[Kind]) {
        let wrong = check(&self.0);
        let found: Vec<Kind> = wrong.iter().map(|wrong| wrong.kind).collect();
        assert_eq!(found, kinds, "{wrong:#?}");
    }
}

use Block::Version;
use Outcome::Done;

fn failed() -> Outcome {
    Outcome::Failed(5, "close".into())
}

/// Version 1, then 2, of a file that is replaced by rename.
fn replaced() -> Log {
    Log::new().replace(10, 20, 1, How::Rename, Done).replace(30, 40, 2, How::Rename, Done)
}

/// Version 1 of four blocks, then block 2 anew as version 2.
fn in_place() -> Log {
    Log::new().replace(10, 20, 1, How::Truncate, Done).overwrite(30, 40, 2, 2, Done)
}

fn whole(version: u64) -> [(u32, u32, Block); 1] {
    [(0, 4, Version(version, 4))]
}

#[test]
fn what_is_right_passes() {
    // Each version as long as the next is not acknowledged before the reader begins.
    replaced().read(35, 50, &whole(1)).read(36, 37, &whole(2)).read(HEALED, 1001, &whole(2)).has(&[]);
    let new = [(0, 2, Version(1, 4)), (2, 1, Version(2, 0)), (3, 1, Version(1, 4))];
    in_place().read(15, 16, &[]).read(25, 39, &whole(1)).read(HEALED, 1001, &new).has(&[]);
    Log::new()
        .append(10, 20, 0, 3, Done)
        .records(15, &[(0, 1)], None)
        .records(HEALED, &[(0, 3)], None)
        .has(&[]);
}

#[test]
fn a_lost_write_is_caught() {
    replaced().read(HEALED, 1001, &whole(1)).has(&[Kind::Lost]);
    in_place().read(HEALED, 1001, &whole(1)).has(&[Kind::Lost]);
    // The file is gone.
    let gone = Outcome::Is(Ok(Value::Absent));
    replaced().at(HEALED, 1001, Action::Read { path: "f".into() }, gone).has(&[Kind::Lost]);
    // Its end is missing.
    in_place().read(HEALED, 1001, &[(0, 2, Version(1, 4))]).has(&[Kind::Lost]);
}

#[test]
fn a_stale_read_is_caught() {
    replaced().read(41, 42, &whole(1)).read(HEALED, 1001, &whole(2)).has(&[Kind::Stale]);
    let new = [(0, 2, Version(1, 4)), (2, 1, Version(2, 0)), (3, 1, Version(1, 4))];
    in_place().read(41, 42, &whole(1)).read(HEALED, 1001, &new).has(&[Kind::Stale]);
    // The truncation, long after the version was whole.
    in_place().read(25, 26, &whole(1)[..0]).read(HEALED, 1001, &new).has(&[Kind::Stale]);
}

#[test]
fn a_stale_read_of_a_mount_that_stood_still_passes() {
    let mut log = replaced().read(41, 42, &whole(1)).read(HEALED, 1001, &whole(2));
    log.0.pauses.push(Pause { mount: 0, from_ns: 25, to_ns: 45 });
    // It is two seconds more before it counts as awake: the last reader here comes much later than that.
    log.0.operations.last_mut().unwrap().begin_ns = 5_000_000_000;
    log.has(&[]);
}

#[test]
fn foreign_bytes_are_caught() {
    let end = [(0, 4, Version(2, 4))];
    let zeroes = [(0, 1, Version(1, 4)), (1, 3, Block::Zeroes)];
    replaced().read(15, 16, &zeroes).read(HEALED, 1001, &end).has(&[Kind::Foreign]);
    let foreign = [(0, 3, Version(1, 4)), (3, 1, Block::Foreign("block 3 of another file".into()))];
    replaced().read(15, 16, &foreign).read(HEALED, 1001, &end).has(&[Kind::Foreign]);
    replaced().read(15, 16, &whole(7)).read(HEALED, 1001, &end).has(&[Kind::Foreign]);
    // Before it was written.
    replaced().read(25, 26, &whole(2)).read(HEALED, 1001, &end).has(&[Kind::Foreign]);
    let new = [(0, 2, Version(1, 4)), (2, 1, Version(2, 0)), (3, 1, Version(1, 4))];
    let in_file = [(0, 2, Version(1, 4)), (2, 1, Block::Zeroes), (3, 1, Version(1, 4))];
    in_place().read(35, 36, &in_file).read(HEALED, 1001, &new).has(&[Kind::Foreign]);
}

#[test]
fn zeroes_pass_while_the_file_is_truncated_and_only_then() {
    let zeroes = [(0, 4, Block::Zeroes)];
    let log = || Log::new().replace(10, 20, 1, How::Truncate, Done).replace(30, 40, 2, How::Truncate, Done);
    log().read(35, 36, &zeroes).read(HEALED, 1001, &whole(2)).has(&[]);
    log().read(25, 26, &zeroes).read(HEALED, 1001, &whole(2)).has(&[Kind::Foreign]);
    log().read(45, 46, &zeroes).read(HEALED, 1001, &whole(2)).has(&[Kind::Foreign]);
}

#[test]
fn half_of_one_version_and_half_of_another_is_caught() {
    let torn = [(0, 2, Version(2, 4)), (2, 2, Version(1, 4))];
    replaced().read(35, 36, &torn).read(HEALED, 1001, &whole(2)).has(&[Kind::Torn]);
    let short = [(0, 2, Version(2, 4))];
    replaced().read(35, 36, &short).read(HEALED, 1001, &whole(2)).has(&[Kind::Torn]);
}

#[test]
fn a_write_that_failed_may_have_happened_or_not() {
    let log = || Log::new().replace(10, 20, 1, How::Rename, Done).replace(30, 40, 2, How::Rename, failed());
    log().read(50, 51, &whole(1)).read(HEALED, 1001, &whole(1)).has(&[]);
    log().read(50, 51, &whole(2)).read(HEALED, 1001, &whole(2)).has(&[]);
    // But one that was acknowledged after it stays.
    log().replace(60, 70, 3, How::Rename, Done).read(HEALED, 1001, &whole(1)).has(&[Kind::Lost]);
    let half = [(0, 2, Version(2, 4))];
    let log = Log::new().replace(10, 20, 1, How::Truncate, Done).replace(30, 40, 2, How::Truncate, failed());
    log.read(HEALED, 1001, &half).has(&[]);
}

#[test]
fn a_lost_append_is_caught() {
    Log::new().append(10, 20, 0, 3, Done).records(HEALED, &[(0, 1), (2, 1)], None).has(&[Kind::Lost]);
    let log = Log::new().append(10, 20, 0, 3, Done).records(30, &[(0, 2)], None);
    log.records(HEALED, &[(0, 3)], None).has(&[Kind::Stale]);
    // One that failed may be there or not.
    let log = || Log::new().append(10, 20, 0, 2, Done).append(30, 40, 2, 1, failed());
    log().records(HEALED, &[(0, 2)], None).has(&[]);
    log().records(HEALED, &[(0, 3)], None).has(&[]);
}

#[test]
fn a_duplicate_append_is_caught() {
    let log = || Log::new().append(10, 20, 0, 2, Done).append(30, 40, 2, 1, failed());
    log().records(HEALED, &[(0, 2), (1, 1)], None).has(&[Kind::Duplicate]);
    // Also one that failed.
    log().records(HEALED, &[(0, 3), (2, 1)], None).has(&[Kind::Duplicate]);
}

#[test]
fn an_early_end_passes_while_the_same_mount_appends_and_only_then() {
    let log =
        || Log::new().append(10, 20, 0, 2, Done).append(30, 40, 2, 1, Done).records(HEALED, &[(0, 3)], None);
    log().records(35, &[(0, 2)], Some("record 2 is cut short")).has(&[]);
    log().records(50, &[(0, 2)], Some("record 2 is cut short")).has(&[Kind::Torn]);
}

#[test]
fn records_that_are_torn_foreign_or_in_disorder_are_caught() {
    let log = || Log::new().append(10, 20, 0, 3, Done);
    log().records(HEALED, &[(0, 1), (2, 1), (1, 1)], None).has(&[Kind::Disorder]);
    log().records(HEALED, &[(0, 3)], Some("record 3 is cut short")).has(&[Kind::Torn]);
    log().records(HEALED, &[(0, 4)], None).has(&[Kind::Foreign]);
}

/// `a` is made with content 5 and then renamed to `b`.
fn renamed(outcome: Outcome) -> Log {
    let (absent, file) = (Value::Absent, Value::File(5));
    Log::new().names(10, 20, &[("d/a", absent.clone(), file.clone())], Done).names(
        30,
        40,
        &[("d/a", file.clone(), absent.clone()), ("d/b", absent, file)],
        outcome,
    )
}

#[test]
fn a_lost_rename_is_caught() {
    let (absent, file) = (Value::Absent, Value::File(5));
    // Long after the rename: until then the mount that did it may show the names as they were.
    let at = u64::MAX - 1;
    renamed(Done).look(at, "d/a", absent.clone()).look(at, "d/b", file.clone()).has(&[]);
    renamed(Done)
        .look(at, "d/a", file.clone())
        .look(at, "d/b", absent.clone())
        .has(&[Kind::Lost, Kind::Lost]);
    renamed(Done).look(at, "d/a", file.clone()).look(at, "d/b", file.clone()).has(&[Kind::Lost]);
    let list = |names: &[&str]| Outcome::Names(names.iter().map(|name| (*name).to_owned()).collect());
    let listed = |names: &[&str]| {
        let log = renamed(Done).look(at, "d/a", Value::Absent).look(at, "d/b", Value::File(5));
        let mut log = log.at(50, 51, Action::List { path: "d".into() }, list(names));
        // On another mount than the rename.
        log.0.operations.last_mut().unwrap().mount = 1;
        log
    };
    listed(&["b"]).has(&[]);
    listed(&["a", "b"]).has(&[Kind::Stale]);
    listed(&[]).has(&[Kind::Stale]);
    listed(&["b", "c"]).has(&[Kind::Foreign]);
    listed(&["b", "b"]).has(&[Kind::Foreign]);
}

#[test]
fn a_name_may_be_old_while_the_same_mount_changes_another_one_there_and_only_then() {
    let (absent, file) = (Value::Absent, Value::File(5));
    let log = |own: u64| {
        let own_change = [("d/own", Value::Absent, Value::Directory)];
        let log = renamed(Done).names(35, own, &own_change, Done).look(200_000_000, "d/a", file.clone());
        let mut log = log.look(u64::MAX - 1, "d/a", absent.clone()).look(u64::MAX - 1, "d/b", file.clone());
        log = log.look(u64::MAX - 1, "d/own", Value::Directory);
        log.0.healed_ns = 1_000_000_000;
        log
    };
    log(150_000_000).has(&[]);
    log(60_000_000).has(&[Kind::Stale]);
}

#[test]
fn a_file_may_be_old_while_the_same_mount_replaces_another_one_there_and_only_then() {
    let log = |own: u64| {
        let log = Log::new().replace(10, 20, 1, How::Rename, Done).replace(30, 40, 2, How::Rename, Done);
        let other = Action::Replace { path: "g".into(), version: 3, blocks: 4, how: How::Rename };
        let log = log.at(35, own, other, Done).read(200_000_000, 200_000_001, &[(0, 4, Version(1, 4))]);
        let end_ns = u64::MAX - 1;
        let mut log = log.read(end_ns, end_ns + 1, &[(0, 4, Version(2, 4))]);
        let g = vec![Run { first: 0, count: 4, block: Version(3, 4) }];
        log = log.at(end_ns, end_ns + 1, Action::Read { path: "g".into() }, Outcome::Blocks(g));
        log.0.healed_ns = 1_000_000_000;
        log
    };
    log(150_000_000).has(&[]);
    log(60_000_000).has(&[Kind::Stale]);
}

#[test]
fn a_rename_that_failed_is_done_or_not_done() {
    let (absent, file) = (Value::Absent, Value::File(5));
    let at = HEALED;
    renamed(failed()).look(at, "d/a", file.clone()).look(at, "d/b", absent.clone()).has(&[]);
    renamed(failed()).look(at, "d/a", absent.clone()).look(at, "d/b", file.clone()).has(&[]);
    renamed(failed()).look(at, "d/a", absent.clone()).look(at, "d/b", absent).has(&[Kind::Torn]);
    renamed(failed()).look(at, "d/a", file.clone()).look(at, "d/b", file).has(&[Kind::Torn]);
}

#[test]
fn a_name_refused_as_it_cannot_be_is_caught() {
    let exists = Outcome::Failed(17, "rename".into());
    let log = renamed(exists).look(HEALED, "d/a", Value::Absent).look(HEALED, "d/b", Value::File(5));
    log.has(&[Kind::Refused]);
}

#[test]
fn what_cannot_be_read_at_the_end_and_mounts_that_differ_are_caught() {
    replaced().has(&[Kind::Unreadable]);
    let io_error = Outcome::Failed(5, "read".into());
    replaced().at(HEALED, 1001, Action::Read { path: "f".into() }, io_error).has(&[Kind::Unreadable]);
    renamed(Done).look(HEALED, "d/a", Value::Absent).has(&[Kind::Unreadable]);
    let (absent, file) = (Value::Absent, Value::File(5));
    let mut log = renamed(failed()).look(HEALED, "d/a", file.clone()).look(HEALED, "d/b", absent.clone());
    log = log.look(HEALED, "d/a", absent).look(HEALED, "d/b", file);
    log.0.mounts = 2;
    log.0.operations.iter_mut().rev().take(2).for_each(|operation| operation.mount = 1);
    log.has(&[Kind::Differs, Kind::Differs]);
}
