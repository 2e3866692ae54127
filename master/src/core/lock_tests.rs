//! The lock table against a naive model with one entry per byte, and locks over breaks and restarts.

use std::collections::{BTreeMap, BTreeSet};

use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{InodeNo, SessionId};
use dfs_proto::lock_ranges::{LockMode, LockRange};
use dfs_proto::pb::{self, LockMode as Mode, mount_down, mount_reply::Result as Reply, mount_request::Op};
use proptest::prelude::*;

use super::lock_table::{Asked, Granted, LockFile, LockKind, LockTable, Owner};
use super::testkit::{Kit, SESSION};
use super::{Command, Effect};

const BYTES: u64 = 12;
const OTHER: SessionId = SessionId(78);

type Key = (LockFile, u64);

#[derive(Default)]
struct Model {
    bytes: BTreeMap<Key, BTreeMap<Owner, LockMode>>,
    waits: Vec<(LockFile, Owner, LockRange)>,
}

impl Model {
    fn holders(&self, file: LockFile, owner: Owner, range: &LockRange) -> BTreeSet<Owner> {
        let held = (range.start..=range.end).filter_map(|byte| self.bytes.get(&(file, byte))).flatten();
        let conflict = |mode: LockMode| mode == LockMode::Exclusive || range.mode == LockMode::Exclusive;
        held.filter(|(o, mode)| **o != owner && conflict(**mode)).map(|(o, _)| *o).collect()
    }

    fn set(&mut self, file: LockFile, owner: Owner, start: u64, end: u64, mode: Option<LockMode>) {
        for byte in start..=end {
            let held = self.bytes.entry((file, byte)).or_default();
            match mode {
                Some(mode) => drop(held.insert(owner, mode)),
                None => drop(held.remove(&owner)),
            }
        }
    }

    fn would_deadlock(&self, file: LockFile, owner: Owner, range: &LockRange) -> bool {
        let mut next: Vec<Owner> = self.holders(file, owner, range).into_iter().collect();
        let mut seen = BTreeSet::new();
        while let Some(at) = next.pop() {
            if at == owner {
                return true;
            }
            if seen.insert(at) {
                for (file, _, range) in self.waits.iter().filter(|(_, waiter, _)| *waiter == at) {
                    next.extend(self.holders(*file, at, range));
                }
            }
        }
        false
    }

    /// Only one wait of an owner at a time here.
    fn grant(&mut self, granted: &[Granted]) {
        for grant in granted {
            let at = self.waits.iter().position(|(_, owner, _)| *owner == grant.owner).expect("it waited");
            let (file, owner, range) = self.waits.remove(at);
            assert!(self.holders(file, owner, &range).is_empty(), "granted against another's lock");
            self.set(file, owner, range.start, range.end, Some(range.mode));
        }
    }

    fn waits(&self, owner: Owner) -> bool {
        self.waits.iter().any(|(_, waiter, _)| *waiter == owner)
    }
}

fn compare(table: &LockTable, model: &Model) {
    table.check().unwrap();
    let nobody = Owner { session: SessionId(9), number: 99 };
    for inode in 1..=2 {
        let file = LockFile { inode: InodeNo(inode), kind: LockKind::Fcntl };
        for byte in 0..BYTES {
            for mode in [LockMode::Shared, LockMode::Exclusive] {
                let range = LockRange { start: byte, end: byte, mode };
                let (told, want) = (
                    table.conflict(file, nobody, &range).is_some(),
                    !model.holders(file, nobody, &range).is_empty(),
                );
                assert_eq!(told, want, "byte {byte} of {file:?}, {mode:?}");
            }
        }
    }
    assert_eq!(table.waiting(), model.waits.len());
    // The oldest wait of all that conflict never waits for its turn alone.
    if let Some((file, owner, range)) = model.waits.first() {
        assert!(!model.holders(*file, *owner, range).is_empty(), "the first in line waits for nobody");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, rng_seed: proptest::test_runner::RngSeed::Fixed(3), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_table_does_what_a_table_of_bytes_does(
        steps in prop::collection::vec((0u8..10, 0u64..5, 1u64..3, 0..BYTES, 0..BYTES, any::<bool>()), 1..80),
    ) {
        let (mut table, mut model) = (LockTable::default(), Model::default());
        for (number, (what, who, inode, a, b, exclusive)) in steps.into_iter().enumerate() {
            let request = number as u64;
            let owner = Owner { session: SessionId(1 + who % 2), number: who };
            let file = LockFile { inode: InodeNo(inode), kind: LockKind::Fcntl };
            let (start, end) = (a.min(b), a.max(b));
            let mode = if exclusive { LockMode::Exclusive } else { LockMode::Shared };
            let range = LockRange { start, end, mode };
            match what {
                0..=5 if !model.waits(owner) => {
                    let free = model.holders(file, owner, &range).is_empty();
                    let deadlock = model.would_deadlock(file, owner, &range);
                    let (asked, mut granted) = table.ask(file, owner, range, request, 1);
                    prop_assert_eq!(asked == Asked::Deadlock, deadlock);
                    match asked {
                        Asked::Granted => {
                            // A wait that had to be let past may have weakened its lock, and so let us in.
                            if !free {
                                model.grant(&std::mem::take(&mut granted));
                            }
                            prop_assert!(model.holders(file, owner, &range).is_empty());
                            model.set(file, owner, start, end, Some(mode));
                        }
                        Asked::Waits => model.waits.push((file, owner, range)),
                        Asked::Deadlock => {}
                    }
                    model.grant(&granted);
                }
                6 if !model.waits(owner) => {
                    let free = table.conflict(file, owner, &range).is_none();
                    prop_assert_eq!(free, model.holders(file, owner, &range).is_empty());
                    if free {
                        let granted = table.set(file, owner, (start, end, Some(mode)), 1);
                        model.set(file, owner, start, end, Some(mode));
                        model.grant(&granted);
                    }
                }
                7 | 8 => {
                    let granted = table.set(file, owner, (start, end, None), 1);
                    model.set(file, owner, start, end, None);
                    model.grant(&granted);
                }
                9 => {
                    let (gone, granted) = table.cancel(|_, by, _| by == owner);
                    prop_assert_eq!(gone.len(), usize::from(model.waits(owner)));
                    model.waits.retain(|(_, waiter, _)| *waiter != owner);
                    model.grant(&granted);
                }
                _ => {}
            }
            compare(&table, &model);
        }
        // When everybody who can goes on to its end, nobody waits for ever.
        while !model.waits.is_empty() {
            let before = model.waits.len();
            for who in 0..5 {
                let owner = Owner { session: SessionId(1 + who % 2), number: who };
                if !model.waits(owner) {
                    let (_, granted) = table.drop_held(|_, by| by == owner);
                    for inode in 1..=2 {
                        let file = LockFile { inode: InodeNo(inode), kind: LockKind::Fcntl };
                        model.set(file, owner, 0, BYTES - 1, None);
                    }
                    model.grant(&granted);
                    compare(&table, &model);
                }
            }
            prop_assert!(model.waits.len() < before, "a deadlock was let in: {:?}", model.waits);
        }
    }
}

fn lock(file: InodeNo, owner: u64, mode: Mode, start: u64, end: u64) -> pb::FileLock {
    pb::FileLock { inode: file.0, owner, kind: 0, start, end, mode: mode as i32, pid: 5 }
}

fn set(lock: pb::FileLock, wait: bool) -> Op {
    Op::SetLock(pb::SetLock { lock: Some(lock), wait })
}

fn code(kit: &mut Kit, by: SessionId, op: Op) -> Option<ErrorCode> {
    kit.call_as(by, op).map_err(|error| error.code).err()
}

fn resume(kit: &mut Kit, session: SessionId, held: &[pb::FileLock]) -> Vec<pb::FileLock> {
    let hello = pb::MountHello {
        protocol_version: dfs_proto::PROTOCOL_VERSION,
        session: session.0,
        held_locks: held.to_vec(),
        ..pb::MountHello::default()
    };
    kit.sent.clear();
    kit.apply(Command::MountHello {
        fresh: SessionId(1),
        root: InodeNo::ROOT,
        ids: Default::default(),
        hello,
    });
    let welcome = kit.sent.iter().find_map(|effect| match effect {
        Effect::MountAnswer(mount_down::Msg::Welcome(welcome)) => Some(welcome.lost_locks.clone()),
        _ => None,
    });
    welcome.expect("no welcome")
}

fn setup() -> (Kit, InodeNo) {
    let mut kit = Kit::new();
    let file = kit.create(InodeNo::ROOT, "f");
    kit.hello(OTHER, &[]);
    (kit, file)
}

#[test]
fn a_wait_is_answered_when_the_lock_is_free_and_a_cancelled_one_is_interrupted() {
    let (mut kit, file) = setup();
    let (mine, theirs) = (lock(file, 1, Mode::Exclusive, 0, 9), lock(file, 1, Mode::Shared, 5, 20));
    kit.ok(set(mine, false));
    assert_eq!(code(&mut kit, OTHER, set(theirs, false)), Some(ErrorCode::WouldBlock));
    let waits = kit.request_as(OTHER, set(theirs, true));
    let given_up = kit.request_as(OTHER, set(lock(file, 2, Mode::Exclusive, 0, 0), true));
    kit.ok_as(OTHER, Op::CancelLock(pb::CancelLock { request: given_up }));
    let Some(Reply::Error(error)) = kit.reply_to(given_up) else { panic!("no error") };
    assert_eq!(error.code, pb::Code::Interrupted as i32);
    assert_eq!(kit.reply_to(waits), None);
    kit.ok(set(lock(file, 1, Mode::Unlock, 5, 9), false));
    assert!(matches!(kit.reply_to(waits), Some(Reply::Lock(_))));
    let Reply::Lock(info) =
        kit.ok(Op::GetLock(pb::GetLock { lock: Some(lock(file, 1, Mode::Exclusive, 0, 30)) }))
    else {
        panic!("no lock")
    };
    assert_eq!(info.conflict, Some(pb::FileLock { pid: 0, ..theirs }));
}

#[test]
fn a_ring_of_two_mounts_is_a_deadlock() {
    let (mut kit, file) = setup();
    kit.ok(set(lock(file, 1, Mode::Exclusive, 0, 0), false));
    kit.ok_as(OTHER, set(lock(file, 1, Mode::Exclusive, 1, 1), false));
    let waits = kit.request(set(lock(file, 1, Mode::Exclusive, 1, 1), true));
    let ring = set(lock(file, 1, Mode::Exclusive, 0, 0), true);
    assert_eq!(code(&mut kit, OTHER, ring), Some(ErrorCode::Deadlock));
    kit.ok_as(OTHER, set(lock(file, 1, Mode::Unlock, 0, u64::MAX), false));
    assert!(matches!(kit.reply_to(waits), Some(Reply::Lock(_))));
}

#[test]
fn a_session_that_stays_away_loses_its_locks_and_is_told() {
    let (mut kit, file) = setup();
    let mine = lock(file, 1, Mode::Exclusive, 0, 9);
    kit.ok(set(mine, false));
    let waits = kit.request_as(OTHER, set(mine, true));
    kit.gone(SESSION);
    kit.pass_ms(9_000);
    assert_eq!(kit.reply_to(waits), None);
    kit.pass_ms(2_000);
    assert!(matches!(kit.reply_to(waits), Some(Reply::Lock(_))));
    kit.ok_as(OTHER, set(lock(file, 1, Mode::Unlock, 0, 9), false));
    // Free again, but somebody else had it.
    assert_eq!(resume(&mut kit, SESSION, &[mine]), [mine]);
    assert_eq!(code(&mut kit, OTHER, set(mine, false)), None);
}

#[test]
fn a_session_that_resumes_in_time_has_the_locks_that_it_says() {
    let (mut kit, file) = setup();
    let (kept, dropped) = (lock(file, 1, Mode::Exclusive, 0, 9), lock(file, 2, Mode::Exclusive, 20, 29));
    kit.ok(set(kept, false));
    kit.ok(set(dropped, false));
    kit.gone(SESSION);
    kit.pass_ms(5_000);
    assert!(resume(&mut kit, SESSION, &[kept]).is_empty());
    assert_eq!(code(&mut kit, OTHER, set(kept, false)), Some(ErrorCode::WouldBlock));
    assert_eq!(code(&mut kit, OTHER, set(dropped, false)), None);
}

#[test]
fn after_a_restart_locks_are_declared_again_before_anybody_gets_a_new_one() {
    let (mut kit, file) = setup();
    let mine = lock(file, 1, Mode::Exclusive, 0, 9);
    kit.ok(set(mine, false));
    kit.restart();
    kit.hello(OTHER, &[]);
    let early = kit.request_as(OTHER, set(mine, false));
    let elsewhere = kit.request_as(OTHER, set(lock(file, 1, Mode::Shared, 50, 60), false));
    kit.pass_ms(5_000);
    assert_eq!((kit.reply_to(early), kit.reply_to(elsewhere)), (None, None));
    let hello = pb::MountHello {
        protocol_version: dfs_proto::PROTOCOL_VERSION,
        session: SESSION.0,
        held_locks: vec![mine],
        ..pb::MountHello::default()
    };
    kit.apply(Command::MountHello {
        fresh: SessionId(1),
        root: InodeNo::ROOT,
        ids: Default::default(),
        hello,
    });
    kit.pass_ms(6_000);
    let Some(Reply::Error(error)) = kit.reply_to(early) else { panic!("not refused") };
    assert_eq!(error.code, pb::Code::WouldBlock as i32);
    assert!(matches!(kit.reply_to(elsewhere), Some(Reply::Lock(_))));
}

#[test]
fn after_a_restart_nobody_is_told_that_a_range_is_free_before_all_could_declare() {
    let (mut kit, file) = setup();
    let mine = lock(file, 1, Mode::Exclusive, 0, 9);
    kit.ok(set(mine, false));
    kit.restart();
    kit.hello(OTHER, &[]);
    let test = |start, end| Op::GetLock(pb::GetLock { lock: Some(lock(file, 1, Mode::Shared, start, end)) });
    let asked = [kit.request_as(OTHER, test(5, 5)), kit.request_as(OTHER, test(50, 60))];
    kit.pass_ms(5_000);
    assert_eq!(asked.map(|id| kit.reply_to(id)), [None, None]);
    assert!(resume(&mut kit, SESSION, &[mine]).is_empty());
    let conflict = |kit: &Kit, id| match kit.reply_to(id) {
        Some(Reply::Lock(info)) => info.conflict.map(|lock| (lock.start, lock.end)),
        other => panic!("not answered: {other:?}"),
    };
    // What is known to be held is said at once.
    let known = kit.request_as(OTHER, test(9, 20));
    assert_eq!(conflict(&kit, known), Some((0, 9)));
    kit.pass_ms(6_000);
    assert_eq!(asked.map(|id| conflict(&kit, id)), [Some((0, 9)), None]);
}
