use dfs_proto::pb::mount_down;

use super::super::acl::tests::bytes_of;
use super::super::id_map::{IdRange, IdRanges, NOBODY, Owner};
use super::super::testkit::{Kit, SESSION};
use super::super::{Command, Effect};
use super::*;

const ROOT: InodeNo = InodeNo::ROOT;
/// The session of a user whose ids are mapped.
const MAPPED: SessionId = SessionId(91);
/// Files of the kit belong to this user and group.
const OWNER: (u32, u32) = (10, 20);
const DENIED: Option<ErrorCode> = Some(ErrorCode::Access);
const FORBIDDEN: Option<ErrorCode> = Some(ErrorCode::Permission);

use dfs_proto::error::ErrorCode;

/// One such session, and one of nobody's map, which does as it likes.
struct World {
    kit: Kit,
    map: IdMap,
}

fn root_is(uid: u32, gid: u32) -> IdMap {
    IdMap::Root(Owner { uid, gid })
}

fn all_are(uid: u32, gid: u32) -> IdMap {
    IdMap::All(Owner { uid, gid })
}

fn ranges(uids: &[(u32, u32, u32)], gids: &[(u32, u32, u32)]) -> IdMap {
    let ranges = |of: &[(u32, u32, u32)]| {
        IdRanges::new(of.iter().map(|&(from, to, count)| IdRange { from, to, count }).collect()).unwrap()
    };
    IdMap::Ranges { uids: ranges(uids), gids: ranges(gids) }
}

impl World {
    fn new(map: IdMap) -> World {
        let mut world = World { kit: Kit::with_keepers(2), map };
        world.kit.ok(chmod(ROOT, 0o777));
        world.hello(&[], Vec::new());
        world
    }

    fn hello(&mut self, open: &[InodeNo], locks: Vec<pb::FileLock>) -> pb::MountWelcome {
        let hello = pb::MountHello {
            protocol_version: dfs_proto::PROTOCOL_VERSION,
            session: MAPPED.0,
            open_inodes: open.iter().map(|inode| inode.0).collect(),
            held_locks: locks,
            ..pb::MountHello::default()
        };
        self.kit.sent.clear();
        let ids = self.map.clone().into();
        self.kit.apply(Command::MountHello { fresh: SessionId(1), root: ROOT, ids, hello });
        let welcome = self.kit.sent.iter().find_map(|effect| match effect {
            Effect::MountAnswer(mount_down::Msg::Welcome(welcome)) => Some(welcome.clone()),
            _ => None,
        });
        welcome.unwrap()
    }

    /// `None`: the mount itself asks.
    fn ask(&mut self, uid: Option<u32>, op: Op) -> Result<Reply, ErrorCode> {
        let caller = uid.map(|uid| pb::Caller { uid, gid: uid, groups: vec![uid], check: false });
        self.kit.call_by(MAPPED, caller, op).map_err(|error| error.code)
    }

    fn code(&mut self, uid: impl Into<Option<u32>>, op: Op) -> Option<ErrorCode> {
        self.ask(uid.into(), op).err()
    }

    /// What it made belongs to.
    fn made(&mut self, uid: u32, op: Op) -> (u32, u32) {
        let attr = Kit::attr_of(&self.ask(Some(uid), op).unwrap());
        (attr.uid, attr.gid)
    }

    /// A file of the kit's user, of this mode, with bytes in it.
    fn file(&mut self, name: &str, mode: u32) -> InodeNo {
        let file = self.kit.create(ROOT, name);
        self.kit.upload(file, 0, 10);
        self.kit.ok(chmod(file, mode));
        file
    }

    fn shown(&mut self, inode: InodeNo) -> pb::Attr {
        let reply = self.kit.call_by(MAPPED, None, Op::Getattr(pb::Getattr { inode: inode.0 })).unwrap();
        let mut message =
            mount_down::Msg::Reply(pb::MountReply { result: Some(reply), ..Default::default() });
        super::super::bound::outward(&mut message, ROOT, &self.map);
        let mount_down::Msg::Reply(pb::MountReply { result: Some(reply), .. }) = message else { panic!() };
        Kit::attr_of(&reply)
    }
}

fn setattr(inode: InodeNo) -> pb::Setattr {
    pb::Setattr { inode: inode.0, ..Default::default() }
}

fn chmod(inode: InodeNo, mode: u32) -> Op {
    Op::Setattr(pb::Setattr { mode: Some(mode), ..setattr(inode) })
}

fn chown(inode: InodeNo, uid: u32) -> Op {
    Op::Setattr(pb::Setattr { uid: Some(uid), ..setattr(inode) })
}

fn cut(inode: InodeNo) -> Op {
    Op::Setattr(pb::Setattr { size: Some(1), ..setattr(inode) })
}

fn open(inode: InodeNo, access: u32) -> Op {
    Op::Open(pb::Open { inode: inode.0, access })
}

fn layout(inode: InodeNo) -> Op {
    Op::Layout(pb::Layout { inode: inode.0, offset: 0, length: 10 })
}

fn alloc(inode: InodeNo) -> Op {
    let runs = vec![pb::Run { file_offset: 0, length: 10 }];
    Op::Alloc(pb::Alloc { inode: inode.0, runs, ..Default::default() })
}

/// Of whatever the mount says that it belongs to.
fn create(name: &'static str) -> Op {
    Op::Create(pb::Create { parent: 1, name: name.into(), mode: 0o644, uid: 77, gid: 78, umask: 0 })
}

fn list_for(uid: u32) -> Op {
    let value =
        bytes_of(&[(1, 6, u32::MAX), (2, 4, uid), (4, 0, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)]);
    let name = acl::ACCESS.to_vec().into();
    Op::Setxattr(pb::Setxattr {
        inode: 0,
        name,
        value: value.into(),
        create_only: false,
        replace_only: false,
    })
}

fn set_list(inode: InodeNo, uid: u32) -> Op {
    let Op::Setxattr(op) = list_for(uid) else { panic!() };
    Op::Setxattr(pb::Setxattr { inode: inode.0, ..op })
}

fn get_list(inode: InodeNo) -> Op {
    Op::Getxattr(pb::Getxattr { inode: inode.0, name: acl::ACCESS.to_vec().into() })
}

fn lock(inode: InodeNo) -> pb::FileLock {
    pb::FileLock { inode: inode.0, owner: 1, end: 9, mode: pb::LockMode::Shared as i32, ..Default::default() }
}

#[test]
fn what_is_made_belongs_to_whom_the_map_says() {
    let mut world = World::new(root_is(1000, 2000));
    assert_eq!(world.made(0, create("by root")), (1000, 2000));
    assert_eq!(world.made(5, create("by 5")), (5, 5));
    let (parent, name) = (1, |name: &'static str| name.into());
    let (mode, uid, gid, umask) = (0o700, 0, 0, 0);
    assert_eq!(
        world.made(0, Op::Mkdir(pb::Mkdir { parent, name: name("d"), mode, uid, gid, umask })),
        (1000, 2000)
    );
    let node = pb::Mknod { parent, name: name("n"), mode: 0o100_600, uid, gid, rdev: 0, umask };
    assert_eq!(world.made(0, Op::Mknod(node)), (1000, 2000));
    let link = pb::Symlink { parent, name: name("l"), target: "x".into(), uid, gid };
    assert_eq!(world.made(0, Op::Symlink(link)), (1000, 2000));
    // The mount itself is the machine's root.
    let attr = Kit::attr_of(&world.ask(None, create("by nobody")).unwrap());
    assert_eq!((attr.uid, attr.gid), (1000, 2000));
    let mut world = World::new(all_are(5, 6));
    assert_eq!((world.made(0, create("a")), world.made(77, create("b"))), ((5, 6), (5, 6)));
    let mut world = World::new(ranges(&[(1000, 5000, 10)], &[(1000, 6000, 10)]));
    assert_eq!(world.made(1003, create("a")), (5003, 6003));
    assert_eq!(world.made(0, create("b")), (NOBODY, NOBODY));
}

#[test]
fn a_mapped_root_is_no_root() {
    let mut world = World::new(root_is(1000, 2000));
    let secret = world.file("secret", 0o600);
    for access in [READ, WRITE, READ | WRITE] {
        assert_eq!(world.code(0, open(secret, access)), DENIED);
    }
    assert_eq!(world.code(0, chmod(secret, 0o644)), FORBIDDEN);
    assert_eq!(world.code(0, chown(secret, 0)), FORBIDDEN);
    let device = pb::Mknod { parent: 1, name: "sda".into(), mode: 0o060_600, ..Default::default() };
    assert_eq!(world.code(0, Op::Mknod(device)), FORBIDDEN);
    let reply = world.ask(Some(0), create("own")).unwrap();
    let own = InodeNo(Kit::attr_of(&reply).inode);
    assert_eq!(world.code(0, chown(own, 7)), FORBIDDEN, "it cannot be given away");
    assert_eq!(world.code(0, chown(own, 0)), None, "root is who he is: tar and cp -a say that");
    assert_eq!(world.code(0, chown(own, 1000)), None);
    assert_eq!(world.kit.attr(own).uid, 1000);
    // The owner is who he says, and may.
    assert_eq!(world.code(OWNER.0, open(secret, READ)), None);
    assert_eq!(world.code(11, open(secret, READ)), DENIED);
}

#[test]
fn a_session_reads_and_writes_what_it_opened_or_somebody_of_its_map_may() {
    let mut world = World::new(all_are(5, 6));
    let secret = world.file("secret", 0o600);
    let readable = world.file("readable", 0o644);
    let copy = |source: InodeNo, target: InodeNo| {
        Op::CopyRange(pb::CopyRange { source: source.0, target: target.0, length: 5, ..Default::default() })
    };
    assert_eq!(
        world.code(9, open(secret, 0)),
        None,
        "as to look at its attributes, which gives nothing else"
    );
    for uid in [None, Some(0), Some(OWNER.0)] {
        for op in [
            layout(secret),
            alloc(secret),
            cut(secret),
            alloc(readable),
            copy(readable, secret),
            copy(secret, readable),
        ] {
            assert!(world.code(uid, op.clone()).is_some(), "{uid:?} {op:?}");
        }
        let hole = pb::Fallocate {
            inode: readable.0,
            length: 5,
            make_hole: true,
            keep_size: true,
            ..Default::default()
        };
        assert_eq!(world.code(uid, Op::Fallocate(hole)), DENIED);
        let digest = pb::SetDigest { inode: readable.0, content_version: 0, md5: vec![0; 16].into() };
        assert_eq!(world.code(uid, Op::SetDigest(digest)), DENIED);
        assert_eq!(world.code(uid, Op::Locate(pb::Locate { inode: secret.0, offset: 0, length: 1 })), DENIED);
        assert_eq!(world.code(uid, Op::TouchAtime(pb::TouchAtime { inode: secret.0, always: true })), DENIED);
        assert_eq!(world.code(uid, Op::GetLock(pb::GetLock { lock: Some(lock(secret)) })), DENIED);
        assert_eq!(
            world.code(uid, Op::SetLock(pb::SetLock { lock: Some(lock(secret)), wait: false })),
            DENIED
        );
    }
    assert_eq!(world.code(None, layout(readable)), None, "before the open is answered");
    // What was open when its owner took the permission away.
    assert_eq!(world.code(9, open(readable, READ)), None);
    world.kit.ok(chmod(readable, 0o600));
    assert_eq!(world.code(None, layout(readable)), None);
    assert_eq!(world.code(None, alloc(readable)), DENIED);
    // Still after the stream broke, and no more when it is closed.
    world.hello(&[readable], Vec::new());
    assert_eq!(world.code(None, layout(readable)), None);
    assert_eq!(world.code(None, Op::Release(pb::Release { inode: readable.0 })), None);
    assert_eq!(world.code(None, layout(readable)), DENIED);
    // To say that it is open does not open it.
    world.hello(&[secret], Vec::new());
    assert_eq!(world.code(None, layout(secret)), DENIED);
}

#[test]
fn what_is_made_unwritable_is_written_by_who_made_it() {
    let mut world = World::new(all_are(5, 6));
    let unwritable =
        Op::Create(pb::Create { parent: 1, name: "f".into(), mode: 0o444, ..Default::default() });
    let made = InodeNo(Kit::attr_of(&world.ask(Some(0), unwritable).unwrap()).inode);
    assert_eq!(world.code(None, alloc(made)), None);
    // Somebody takes it, and it is still open.
    world.kit.ok(chown(made, 99));
    assert_eq!(world.code(None, alloc(made)), None);
    world.kit.restart();
    world.kit.hello(SESSION, &[]);
    world.hello(&[made], Vec::new());
    assert_eq!(world.code(None, alloc(made)), DENIED, "a new master knows of no open");
    world.kit.ok(chown(made, 5));
    assert_ne!(world.code(None, alloc(made)), DENIED, "its owner could open it");
}

#[test]
fn somebody_of_the_map_is_who_counts() {
    // Group 20 may read; who is neither owner nor of the group may not.
    for (map, may) in [
        (all_are(5, 20), true),
        (all_are(5, 6), false),
        (all_are(10, 6), true),
        (root_is(5, 6), true),
        (ranges(&[(0, 100, 9)], &[(0, 20, 1)]), true),
        (ranges(&[(0, 100, 9)], &[(0, 21, 9)]), false),
        (ranges(&[(0, 10, 1)], &[(0, 21, 9)]), true),
        (ranges(&[(0, 0, 1)], &[(0, 21, 9)]), true),
    ] {
        let mut world = World::new(map.clone());
        let file = world.file("f", 0o640);
        assert_eq!(world.code(None, layout(file)).is_none(), may, "{map:?}");
        // A list says the same of others.
        world.kit.ok(set_list(file, 100));
        let named = map.reaches_uid(100) || map.reaches_uid(10) || map.reaches_uid(0);
        assert_eq!(world.code(None, layout(file)).is_none(), named, "{map:?} with a list");
    }
    // Root of the cluster's own file.
    let mut world = World::new(root_is(5, 6));
    let file = world.file("f", 0o600);
    world.kit.ok(chown(file, 0));
    world.kit.ok(Op::Setattr(pb::Setattr { gid: Some(0), ..setattr(file) }));
    world.kit.ok(chmod(file, 0o660));
    assert_eq!(world.code(None, layout(file)), DENIED);
    assert_eq!(world.code(None, alloc(file)), DENIED);
}

#[test]
fn the_mount_itself_lists_cuts_and_clears_and_no_more() {
    let mut world = World::new(all_are(5, 6));
    let file = world.file("f", 0o4666);
    let readdir = |inode: u64| Op::Readdir(pb::Readdir { inode, after: Default::default(), limit: 0 });
    let dir = world.kit.mkdir(ROOT, "d");
    assert_eq!(world.code(None, readdir(dir.0)), None);
    world.kit.ok(chmod(dir, 0o700));
    assert_eq!(world.code(None, readdir(dir.0)), DENIED);
    assert_eq!(world.code(None, Op::Lookup(pb::Lookup { parent: dir.0, name: "x".into() })), DENIED);
    assert_eq!(world.code(None, chmod(file, 0o666)), None, "as a write takes it");
    assert_eq!(world.code(None, chmod(file, 0o777)), FORBIDDEN);
    assert_eq!(world.code(None, chmod(file, 0o600)), FORBIDDEN);
    assert_eq!(world.code(None, cut(file)), None);
    let cut_and_given = pb::Setattr { size: Some(0), uid: Some(5), ..setattr(file) };
    assert_eq!(world.code(None, Op::Setattr(cut_and_given)), FORBIDDEN);
    let times = pb::Setattr { mtime: Some(pb::Time { sec: 5, nsec: 0 }), ..setattr(file) };
    assert_eq!(world.code(None, Op::Setattr(times)), FORBIDDEN);
}

#[test]
fn who_writes_a_program_of_another_takes_its_set_id_bits() {
    let mut world = World::new(all_are(5, 6));
    let file = world.file("f", 0o4777);
    assert_eq!(world.code(None, alloc(file)), None);
    assert_eq!(world.kit.attr(file).mode & 0o7777, 0o777, "though it was not opened");
    world.kit.ok(chmod(file, 0o4777));
    assert_eq!(world.code(0, open(file, WRITE)), None);
    assert_eq!(world.kit.attr(file).mode & 0o7777, 0o777);
}

#[test]
fn ids_are_shown_as_the_machine_has_them() {
    let mut world = World::new(ranges(&[(1000, 10, 1)], &[(1000, 20, 1)]));
    let file = world.file("f", 0o644);
    let shown = world.shown(file);
    assert_eq!((shown.uid, shown.gid), (1000, 1000));
    world.kit.ok(chown(file, 999));
    assert_eq!(world.shown(file).uid, NOBODY);
    world.kit.ok(chown(file, 10));
    assert_eq!(world.code(1000, chown(file, 5)), Some(ErrorCode::Invalid), "5 is nobody at the cluster");
    assert_eq!(world.code(1000, chown(file, 1000)), None);
    // Lists, both ways.
    let list = |world: &mut World, by| match world.kit.call_by(by, None, get_list(file)).unwrap() {
        Reply::Value(value) => value.value,
        other => panic!("{other:?}"),
    };
    let value_of = |uid| match list_for(uid) {
        Op::Setxattr(op) => op.value,
        other => panic!("{other:?}"),
    };
    assert_eq!(world.code(1000, set_list(file, 1000)), None);
    assert_eq!(list(&mut world, SESSION), value_of(10));
    assert_eq!(list(&mut world, MAPPED), value_of(1000));
    assert_eq!(world.code(1000, set_list(file, 10)), Some(ErrorCode::Invalid));
    world.kit.ok(set_list(file, 77));
    assert_eq!(list(&mut world, MAPPED), value_of(NOBODY));
}

#[test]
fn another_map_is_another_session_and_locks_of_nobody_are_lost() {
    let mut world = World::new(all_are(OWNER.0, 6));
    let secret = world.file("secret", 0o600);
    assert_eq!(world.code(0, open(secret, READ)), None);
    let welcome = world.hello(&[secret], vec![lock(secret)]);
    assert!(welcome.resumed && welcome.maps_ids && welcome.all_are_one && welcome.lost_locks.is_empty());
    world.map = root_is(5, 6);
    assert!(!world.hello(&[], Vec::new()).all_are_one);
    world.map = all_are(5, 6);
    let welcome = world.hello(&[secret], vec![lock(secret)]);
    assert!(!welcome.resumed);
    assert_eq!(welcome.lost_locks, [lock(secret)]);
    assert_eq!(world.code(None, layout(secret)), DENIED);
    // A new master believes what mounts say that they have locked, of what they could lock.
    for (map, lost) in [(all_are(OWNER.0, 6), vec![]), (all_are(5, 6), vec![lock(secret)])] {
        world.kit.restart();
        world.map = map;
        assert_eq!(world.hello(&[secret], vec![lock(secret)]).lost_locks, lost);
    }
}
