//! Append leases over their life: asked for, recalled, given back, lost; and flock(2)'s ways, where they differ from
//! fcntl(2)'s.

use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{InodeNo, SessionId};
use dfs_proto::pb::{
    self, LockKind as Kind, LockMode as Mode, mount_down, mount_reply::Result as Reply, mount_request::Op,
};

use super::testkit::{Kit, SESSION};
use super::{Command, Effect};

const OTHER: SessionId = SessionId(78);
const THIRD: SessionId = SessionId(79);

fn lock(inode: InodeNo, owner: u64, kind: Kind, mode: Mode) -> pb::FileLock {
    let (kind, mode) = (kind as i32, mode as i32);
    pb::FileLock { inode: inode.0, owner, kind, start: 0, end: u64::MAX, mode, pid: 0 }
}

fn lease(inode: InodeNo, mode: Mode) -> pb::FileLock {
    lock(inode, inode.0, Kind::Append, mode)
}

fn set(lock: pb::FileLock, wait: bool) -> Op {
    Op::SetLock(pb::SetLock { lock: Some(lock), wait })
}

fn granted(kit: &Kit, request: u64) -> bool {
    matches!(kit.reply_to(request), Some(Reply::Lock(_)))
}

/// How often this session was asked for its lease since `sent` was last cleared.
fn recalls(kit: &Kit, of: SessionId) -> usize {
    let recall =
        |effect: &&Effect| matches!(effect, Effect::ToMount(to, mount_down::Msg::Recall(_)) if *to == of);
    kit.sent.iter().filter(recall).count()
}

fn resume(kit: &mut Kit, session: SessionId, held: &[pb::FileLock]) {
    let hello = pb::MountHello {
        protocol_version: dfs_proto::PROTOCOL_VERSION,
        session: session.0,
        held_locks: held.to_vec(),
        ..pb::MountHello::default()
    };
    kit.apply(Command::MountHello {
        fresh: SessionId(1),
        root: InodeNo::ROOT,
        ids: Default::default(),
        hello,
    });
}

/// One file, three mounts.
fn setup() -> (Kit, InodeNo) {
    let mut kit = Kit::with_keepers(2);
    let file = kit.create(InodeNo::ROOT, "f");
    kit.hello(OTHER, &[]);
    kit.hello(THIRD, &[]);
    (kit, file)
}

fn append(kit: &mut Kit, by: SessionId, file: InodeNo, offset: u64) -> Result<pb::Placed, ErrorCode> {
    let runs = vec![pb::Run { file_offset: offset, length: 10 }];
    let alloc = pb::Alloc { inode: file.0, runs, append: true, ..pb::Alloc::default() };
    match kit.call_as(by, Op::Alloc(alloc)) {
        Ok(Reply::Placed(placed)) => Ok(placed),
        Ok(other) => panic!("not placed: {other:?}"),
        Err(error) => Err(error.code),
    }
}

#[test]
fn a_lease_goes_round_in_the_order_of_asking_and_each_holder_is_asked_for_it() {
    let (mut kit, file) = setup();
    let first = kit.request_as(SESSION, set(lease(file, Mode::Exclusive), true));
    assert!(granted(&kit, first));
    assert_eq!(recalls(&kit, SESSION), 0, "nobody else wants it");
    let second = kit.request_as(OTHER, set(lease(file, Mode::Exclusive), true));
    let third = kit.request_as(THIRD, set(lease(file, Mode::Exclusive), true));
    assert!(!granted(&kit, second) && recalls(&kit, SESSION) >= 1);
    kit.ok(set(lease(file, Mode::Unlock), false));
    let again = kit.request_as(SESSION, set(lease(file, Mode::Exclusive), true));
    assert!(granted(&kit, second) && !granted(&kit, third) && recalls(&kit, OTHER) >= 1);
    kit.ok_as(OTHER, set(lease(file, Mode::Unlock), false));
    assert!(granted(&kit, third) && !granted(&kit, again) && recalls(&kit, THIRD) >= 1);
}

#[test]
fn a_grant_says_how_long_the_file_is() {
    let (mut kit, file) = setup();
    kit.upload(file, 0, 123);
    let request = kit.request_as(OTHER, set(lease(file, Mode::Exclusive), true));
    let Some(Reply::Lock(info)) = kit.reply_to(request) else { panic!("not granted") };
    assert_eq!(info.attr.map(|attr| attr.size), Some(123));
}

#[test]
fn the_lease_of_a_mount_that_is_gone_goes_after_the_grace_and_its_bytes_in_flight_with_it() {
    let (mut kit, file) = setup();
    kit.ok(set(lease(file, Mode::Exclusive), true));
    let on_its_way = append(&mut kit, SESSION, file, 0).unwrap();
    kit.gone(SESSION);
    let waits = kit.request_as(OTHER, set(lease(file, Mode::Exclusive), true));
    kit.pass_ms(9_000);
    assert!(!granted(&kit, waits));
    kit.pass_ms(2_000);
    assert!(granted(&kit, waits));
    // The keeper has it only now: too late, for the other appends at the same place.
    kit.store(&on_its_way);
    assert_eq!(kit.attr(file).size, 0);
    kit.sent.clear();
    resume(&mut kit, SESSION, &[lease(file, Mode::Exclusive)]);
    let told = kit.sent.iter().any(|effect| match effect {
        Effect::ToMount(SESSION, mount_down::Msg::UploadDone(done)) => {
            done.chunk == on_its_way.chunk && done.error.is_some()
        }
        _ => false,
    });
    assert!(told, "the mount was not told that its chunk is lost");
    assert_eq!(append(&mut kit, SESSION, file, 0), Err(ErrorCode::WouldBlock));
    assert!(append(&mut kit, OTHER, file, 0).is_ok());
}

#[test]
fn a_holder_that_comes_back_in_time_keeps_the_lease_and_hears_that_others_wait() {
    let (mut kit, file) = setup();
    kit.ok(set(lease(file, Mode::Exclusive), true));
    kit.gone(SESSION);
    kit.sent.clear();
    let waits = kit.request_as(OTHER, set(lease(file, Mode::Exclusive), true));
    assert_eq!(recalls(&kit, SESSION), 0, "it cannot hear it");
    kit.pass_ms(5_000);
    resume(&mut kit, SESSION, &[lease(file, Mode::Exclusive)]);
    assert!(!granted(&kit, waits) && recalls(&kit, SESSION) == 1);
    assert!(append(&mut kit, SESSION, file, 0).is_ok());
}

#[test]
fn after_a_restart_the_holder_keeps_the_lease_and_is_asked_for_it() {
    let (mut kit, file) = setup();
    kit.ok(set(lease(file, Mode::Exclusive), true));
    kit.restart();
    kit.hello(OTHER, &[]);
    let early = kit.request_as(OTHER, set(lease(file, Mode::Exclusive), true));
    resume(&mut kit, SESSION, &[lease(file, Mode::Exclusive)]);
    kit.sent.clear();
    kit.pass_ms(11_000);
    assert!(!granted(&kit, early) && recalls(&kit, SESSION) >= 1);
    kit.ok(set(lease(file, Mode::Unlock), false));
    assert!(granted(&kit, early));
}

#[test]
fn a_mount_that_lost_the_lease_does_not_get_it_back_by_a_restart() {
    let (mut kit, file) = setup();
    kit.ok(set(lease(file, Mode::Exclusive), true));
    kit.gone(SESSION);
    kit.pass_ms(11_000);
    kit.ok_as(OTHER, set(lease(file, Mode::Exclusive), true));
    kit.restart();
    for keeper in 1..=2 {
        kit.keeper_hello(dfs_proto::ids::KeeperId(keeper), "h");
    }
    // The one that lost it comes back first, and does not know.
    kit.sent.clear();
    resume(&mut kit, SESSION, &[lease(file, Mode::Exclusive)]);
    let lost = kit.sent.iter().any(|effect| match effect {
        Effect::MountAnswer(mount_down::Msg::Welcome(welcome)) => welcome.lost_locks.len() == 1,
        _ => false,
    });
    assert!(lost, "it was not told");
    assert_eq!(append(&mut kit, SESSION, file, 0), Err(ErrorCode::WouldBlock));
    resume(&mut kit, OTHER, &[lease(file, Mode::Exclusive)]);
    assert!(append(&mut kit, OTHER, file, 0).is_ok());
    // Nobody sees how that is remembered.
    let names = kit.ok(Op::Listxattr(pb::Listxattr { inode: file.0 }));
    assert_eq!(names, Reply::Names(pb::Names { names: Vec::new() }));
    assert!(kit.attr(file).no_xattrs);
    kit.compare_with_stored();
}

#[test]
fn leases_are_no_locks_and_waiting_for_two_is_no_deadlock() {
    let (mut kit, file) = setup();
    let other_file = kit.create(InodeNo::ROOT, "g");
    kit.ok(set(lease(file, Mode::Exclusive), true));
    kit.ok_as(OTHER, set(lease(other_file, Mode::Exclusive), true));
    for kind in [Kind::Fcntl, Kind::Flock] {
        kit.ok_as(OTHER, set(lock(file, 5, kind, Mode::Exclusive), false));
    }
    let (a, b) = (set(lease(other_file, Mode::Exclusive), true), set(lease(file, Mode::Exclusive), true));
    let (a, b) = (kit.request_as(SESSION, a), kit.request_as(OTHER, b));
    assert_eq!((kit.reply_to(a), kit.reply_to(b)), (None, None));
    kit.ok(set(lease(file, Mode::Unlock), false));
    kit.ok_as(OTHER, set(lease(other_file, Mode::Unlock), false));
    assert!(granted(&kit, a) && granted(&kit, b));
}

#[test]
fn two_who_make_a_shared_flock_exclusive_do_not_wait_for_ever() {
    let (mut kit, file) = setup();
    let flock = |mode| lock(file, 5, Kind::Flock, mode);
    kit.ok(set(flock(Mode::Shared), false));
    kit.ok_as(OTHER, set(flock(Mode::Shared), false));
    let first = kit.request(set(flock(Mode::Exclusive), true));
    assert!(!granted(&kit, first));
    // The first has given its own up to ask, so nobody is in the way of the second.
    let second = kit.request_as(OTHER, set(flock(Mode::Exclusive), true));
    assert!(!granted(&kit, first) && granted(&kit, second));
    kit.ok_as(OTHER, set(flock(Mode::Unlock), false));
    assert!(granted(&kit, first));
}

#[test]
fn a_flock_that_cannot_become_exclusive_is_gone_and_one_made_shared_never_waits() {
    let (mut kit, file) = setup();
    let flock = |mode| lock(file, 5, Kind::Flock, mode);
    let code = |kit: &mut Kit, by, op| kit.call_as(by, op).map_err(|error| error.code).err();
    kit.ok(set(flock(Mode::Shared), false));
    kit.ok_as(OTHER, set(flock(Mode::Shared), false));
    assert_eq!(code(&mut kit, SESSION, set(flock(Mode::Exclusive), false)), Some(ErrorCode::WouldBlock));
    // flock(2): the original lock is lost.
    assert_eq!(code(&mut kit, OTHER, set(flock(Mode::Exclusive), false)), None);
    let waits = kit.request(set(flock(Mode::Exclusive), true));
    assert_eq!(code(&mut kit, OTHER, set(flock(Mode::Shared), true)), None);
    assert!(!granted(&kit, waits));
    assert_eq!(code(&mut kit, OTHER, set(flock(Mode::Unlock), false)), None);
    assert!(granted(&kit, waits));
}

#[test]
fn a_ring_of_flocks_is_no_error() {
    let (mut kit, file) = setup();
    let other_file = kit.create(InodeNo::ROOT, "g");
    let flock = |inode| set(lock(inode, 5, Kind::Flock, Mode::Exclusive), true);
    kit.ok(flock(file));
    kit.ok_as(OTHER, flock(other_file));
    let a = kit.request(flock(other_file));
    let b = kit.request_as(OTHER, flock(file));
    assert_eq!((kit.reply_to(a), kit.reply_to(b)), (None, None));
}
