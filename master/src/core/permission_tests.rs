//! Tests of `permission.rs`: what a caller who is to be checked may do.

use dfs_proto::error::ErrorCode;
use dfs_proto::ids::InodeNo;
use dfs_proto::pb::{self, mount_reply::Result as Reply, mount_request::Op};

use super::acl::tests::bytes_of;
use super::permission::{EXECUTE, READ, WRITE};
use super::testkit::Kit;

const ROOT: InodeNo = InodeNo::ROOT;
const ACCESS: Option<ErrorCode> = Some(ErrorCode::Access);
const PERMISSION: Option<ErrorCode> = Some(ErrorCode::Permission);

/// The files of the kit belong to user 10 and group 20.
const OWNER: u32 = 10;
const STRANGER: u32 = 65_534;

struct As {
    kit: Kit,
}

impl As {
    fn new() -> As {
        As { kit: Kit::new() }
    }

    /// The code that user `uid` of group `uid`, and of `groups`, gets.
    fn code_in(&mut self, uid: u32, groups: &[u32], op: Op) -> Option<ErrorCode> {
        let caller = pb::Caller { uid, gid: uid, groups: groups.into(), check: true };
        self.kit.call_for(caller, op).err().map(|error| error.code)
    }

    fn code(&mut self, uid: u32, op: Op) -> Option<ErrorCode> {
        self.code_in(uid, &[], op)
    }

    fn chmod(&mut self, inode: InodeNo, mode: u32) {
        self.kit.ok(chmod(inode, mode));
    }

    fn chown(&mut self, inode: InodeNo, uid: u32) {
        let op = pb::Setattr { inode: inode.0, uid: Some(uid), ..Default::default() };
        self.kit.ok(Op::Setattr(op));
    }
}

fn chmod(inode: InodeNo, mode: u32) -> Op {
    Op::Setattr(pb::Setattr { inode: inode.0, mode: Some(mode), ..Default::default() })
}

fn open(inode: InodeNo, access: u32) -> Op {
    Op::Open(pb::Open { inode: inode.0, access })
}

fn lookup(parent: InodeNo, name: &str) -> Op {
    Op::Lookup(pb::Lookup { parent: parent.0, name: name.to_owned().into() })
}

fn create(parent: InodeNo, name: &str, mode: u32) -> Op {
    let name = name.to_owned().into();
    Op::Create(pb::Create { parent: parent.0, name, mode, uid: STRANGER, gid: STRANGER, umask: 0 })
}

fn unlink(parent: InodeNo, name: &str) -> Op {
    Op::Unlink(pb::Unlink { parent: parent.0, name: name.to_owned().into() })
}

fn rename(parent: InodeNo, name: &str, new_parent: InodeNo, new_name: &str) -> Op {
    Op::Rename(pb::Rename {
        parent: parent.0,
        name: name.to_owned().into(),
        new_parent: new_parent.0,
        new_name: new_name.to_owned().into(),
        ..Default::default()
    })
}

fn link(inode: InodeNo, parent: InodeNo, name: &str) -> Op {
    Op::Link(pb::Link { inode: inode.0, parent: parent.0, name: name.to_owned().into() })
}

#[test]
fn opens_are_let_in_by_owner_group_and_others() {
    let mut world = As::new();
    let file = world.kit.create(ROOT, "f");
    world.chmod(file, 0o421);
    let all = [READ, WRITE, EXECUTE];
    let mut let_in = |uid: u32, groups: &[u32]| -> Vec<u32> {
        all.into_iter().filter(|want| world.code_in(uid, groups, open(file, *want)).is_none()).collect()
    };
    assert_eq!(let_in(OWNER, &[20]), [READ]);
    assert_eq!(let_in(11, &[20]), [WRITE]);
    assert_eq!(let_in(11, &[21]), [EXECUTE]);
    assert_eq!(let_in(0, &[]), all);
    world.chmod(file, 0o600);
    assert_eq!(world.code(STRANGER, open(file, READ)), ACCESS);
    assert_eq!(world.code(0, open(file, READ | WRITE)), None);
    assert_eq!(world.code(0, open(file, EXECUTE)), ACCESS, "nobody may execute it");
    // The kernel looked after the others.
    world.kit.ok(open(file, READ | WRITE));
}

#[test]
fn access_lists_count() {
    let mut world = As::new();
    let file = world.kit.create(ROOT, "f");
    let n = u32::MAX;
    let list = bytes_of(&[(1, 6, n), (2, 6, STRANGER), (4, 0, n), (0x10, 4, n), (0x20, 0, n)]);
    world.kit.ok(Op::Setxattr(pb::Setxattr {
        inode: file.0,
        name: "system.posix_acl_access".into(),
        value: list.into(),
        ..Default::default()
    }));
    assert_eq!(world.code(STRANGER, open(file, READ)), None);
    assert_eq!(world.code(STRANGER, open(file, WRITE)), ACCESS, "the mask");
    assert_eq!(world.code(11, open(file, READ)), ACCESS);
    assert_eq!(world.code(OWNER, open(file, READ | WRITE)), None);
}

#[test]
fn names_need_their_directories() {
    let mut world = As::new();
    let dir = world.kit.mkdir(ROOT, "d");
    world.kit.create(dir, "f");
    for (mode, search, write, list) in [
        (0o770, false, false, false),
        (0o771, true, false, false),
        (0o775, true, false, true),
        (0o773, true, true, false),
        (0o777, true, true, true),
    ] {
        world.chmod(dir, mode);
        let allowed = |yes: bool| if yes { None } else { ACCESS };
        let name = format!("{mode:o}");
        assert_eq!(world.code(STRANGER, lookup(dir, "f")), allowed(search), "lookup {mode:o}");
        assert_eq!(world.code(STRANGER, create(dir, &name, 0o600)), allowed(write), "create {mode:o}");
        let readdir = Op::Readdir(pb::Readdir { inode: dir.0, limit: 1, ..Default::default() });
        assert_eq!(world.code(STRANGER, readdir), allowed(list), "readdir {mode:o}");
        let mkdir = pb::Mkdir { parent: dir.0, name: format!("d{mode:o}").into(), ..Default::default() };
        assert_eq!(world.code(STRANGER, Op::Mkdir(mkdir)), allowed(write), "mkdir {mode:o}");
        let moved = format!("m{mode:o}");
        world.kit.create(dir, &moved);
        assert_eq!(world.code(STRANGER, rename(dir, &moved, dir, "to")), allowed(write), "rename {mode:o}");
        let gone = format!("g{mode:o}");
        world.kit.create(dir, &gone);
        assert_eq!(world.code(STRANGER, unlink(dir, &gone)), allowed(write), "unlink {mode:o}");
        if search {
            assert_eq!(world.code(STRANGER, create(dir, "f", 0o600)), Some(ErrorCode::Exists));
            assert_eq!(world.code(STRANGER, unlink(dir, "none")), Some(ErrorCode::NotFound));
        }
    }
}

#[test]
fn in_a_sticky_directory_each_removes_his_own() {
    let mut world = As::new();
    let dir = world.kit.mkdir(ROOT, "d");
    world.chmod(dir, 0o1777);
    world.kit.create(dir, "theirs");
    let mine = world.kit.create(dir, "mine");
    world.chown(mine, STRANGER);
    assert_eq!(world.code(STRANGER, unlink(dir, "theirs")), PERMISSION);
    assert_eq!(world.code(STRANGER, rename(dir, "theirs", dir, "x")), PERMISSION);
    assert_eq!(world.code(STRANGER, rename(dir, "mine", dir, "theirs")), PERMISSION, "it would go");
    assert_eq!(world.code(STRANGER, rename(dir, "mine", dir, "other")), None);
    assert_eq!(world.code(STRANGER, unlink(dir, "other")), None);
    world.chown(dir, STRANGER);
    assert_eq!(world.code(STRANGER, unlink(dir, "theirs")), None);
}

#[test]
fn a_directory_that_moves_elsewhere_must_be_writable() {
    let mut world = As::new();
    let (from, to) = (world.kit.mkdir(ROOT, "from"), world.kit.mkdir(ROOT, "to"));
    world.chmod(from, 0o777);
    world.chmod(to, 0o777);
    let moved = world.kit.mkdir(from, "moved");
    assert_eq!(world.code(STRANGER, rename(from, "moved", from, "again")), None);
    assert_eq!(world.code(STRANGER, rename(from, "again", to, "there")), ACCESS);
    world.chmod(moved, 0o777);
    assert_eq!(world.code(STRANGER, rename(from, "again", to, "there")), None);
}

#[test]
fn attributes_are_the_owners() {
    let mut world = As::new();
    let file = world.kit.create(ROOT, "f");
    world.chmod(file, 0o666);
    let set = |change: pb::Setattr| Op::Setattr(pb::Setattr { inode: file.0, ..change });
    let time = Some(pb::Time { sec: 1, nsec: 0 });
    assert_eq!(world.code(STRANGER, chmod(file, 0o777)), PERMISSION);
    assert_eq!(
        world.code(STRANGER, set(pb::Setattr { uid: Some(STRANGER), ..Default::default() })),
        PERMISSION
    );
    assert_eq!(world.code(STRANGER, set(pb::Setattr { mtime: time, ..Default::default() })), PERMISSION);
    assert_eq!(world.code(STRANGER, set(pb::Setattr { mtime_now: true, ..Default::default() })), PERMISSION);
    let touch = pb::Setattr { atime_now: true, mtime_now: true, ..Default::default() };
    assert_eq!(world.code(STRANGER, set(touch)), None, "whoever may write may touch");
    assert_eq!(world.code(STRANGER, set(pb::Setattr { size: Some(0), ..Default::default() })), None);
    world.chmod(file, 0o644);
    assert_eq!(world.code(STRANGER, set(touch)), ACCESS);
    assert_eq!(world.code(STRANGER, set(pb::Setattr { size: Some(0), ..Default::default() })), ACCESS);
    assert_eq!(world.code(OWNER, set(pb::Setattr { mtime: time, ..Default::default() })), None);
    assert_eq!(world.code(OWNER, set(pb::Setattr { uid: Some(11), ..Default::default() })), PERMISSION);
    let to_group = set(pb::Setattr { gid: Some(30), ..Default::default() });
    assert_eq!(world.code(OWNER, to_group.clone()), PERMISSION);
    assert_eq!(world.code_in(OWNER, &[30], to_group), None);
    // chmod by who is not in the group takes the set-group-id bit.
    assert_eq!(world.code_in(OWNER, &[30], chmod(file, 0o2755)), None);
    assert_eq!(world.kit.attr(file).mode & 0o7777, 0o2755);
    assert_eq!(world.code(OWNER, chmod(file, 0o2755)), None);
    assert_eq!(world.kit.attr(file).mode & 0o7777, 0o755);
    assert_eq!(world.code(0, set(pb::Setattr { uid: Some(0), ..Default::default() })), None);
}

#[test]
fn links_are_made_to_what_one_has() {
    let mut world = As::new();
    let dir = world.kit.mkdir(ROOT, "d");
    world.chmod(dir, 0o777);
    let file = world.kit.create(ROOT, "f");
    assert_eq!(world.code(STRANGER, link(file, dir, "a")), PERMISSION);
    world.chmod(file, 0o666);
    assert_eq!(world.code(STRANGER, link(file, dir, "a")), None);
    world.chmod(file, 0o4666);
    assert_eq!(world.code(STRANGER, link(file, dir, "b")), PERMISSION, "it runs as its owner");
    world.chown(file, STRANGER);
    assert_eq!(world.code(STRANGER, link(file, dir, "b")), None);
    assert_eq!(world.code(STRANGER, link(file, ROOT, "c")), ACCESS);
}

#[test]
fn attributes_by_name_follow_xattr_7() {
    let mut world = As::new();
    let file = world.kit.create(ROOT, "f");
    let set = |name: &'static str| {
        let value = bytes_of(&[(1, 6, u32::MAX), (4, 4, u32::MAX), (0x20, 4, u32::MAX)]).into();
        Op::Setxattr(pb::Setxattr { inode: file.0, name: name.into(), value, ..Default::default() })
    };
    let get = |name: &'static str| Op::Getxattr(pb::Getxattr { inode: file.0, name: name.into() });
    let remove = |name: &'static str| Op::Removexattr(pb::Removexattr { inode: file.0, name: name.into() });
    world.kit.ok(set("user.a"));
    world.kit.ok(set("trusted.a"));
    world.chmod(file, 0o600);
    assert_eq!(world.code(STRANGER, get("user.a")), ACCESS);
    assert_eq!(world.code(STRANGER, set("user.a")), ACCESS);
    assert_eq!(world.code(STRANGER, remove("user.a")), ACCESS);
    world.chmod(file, 0o666);
    assert_eq!(world.code(STRANGER, get("user.a")), None);
    assert_eq!(world.code(STRANGER, set("user.a")), None);
    assert_eq!(world.code(STRANGER, set("system.posix_acl_access")), PERMISSION);
    assert_eq!(world.code(OWNER, set("system.posix_acl_access")), None);
    for name in ["trusted.a", "security.a"] {
        assert_eq!(world.code(OWNER, set(name)), PERMISSION);
        assert_eq!(world.code(OWNER, remove(name)), PERMISSION);
        assert_eq!(world.code(0, set(name)), None);
    }
    assert_eq!(world.code(OWNER, get("trusted.a")), Some(ErrorCode::NoData));
}

#[test]
fn writing_as_a_squashed_root_clears_the_set_id_bits() {
    let mut world = As::new();
    let file = world.kit.create(ROOT, "f");
    world.chmod(file, 0o6777);
    assert_eq!(world.code(STRANGER, open(file, READ)), None);
    assert_eq!(world.kit.attr(file).mode & 0o7777, 0o6777);
    assert_eq!(world.code(STRANGER, open(file, WRITE)), None);
    assert_eq!(world.kit.attr(file).mode & 0o7777, 0o777);
    world.chmod(file, 0o4666);
    let cut = pb::Setattr { inode: file.0, size: Some(0), ..Default::default() };
    assert_eq!(world.code(STRANGER, Op::Setattr(cut)), None);
    assert_eq!(world.kit.attr(file).mode & 0o7777, 0o666);
}

#[test]
fn devices_and_set_group_id_programs_are_not_everybodys_to_make() {
    let mut world = As::new();
    let dir = world.kit.mkdir(ROOT, "d");
    world.chmod(dir, 0o2777);
    let node = |mode: u32, name: &'static str| {
        Op::Mknod(pb::Mknod { parent: dir.0, name: name.into(), mode, ..Default::default() })
    };
    assert_eq!(world.code(STRANGER, node(0o020_666, "c")), PERMISSION);
    assert_eq!(world.code(STRANGER, node(0o010_666, "p")), None);
    assert_eq!(world.code(0, node(0o020_666, "c")), None);
    let caller = pb::Caller { uid: STRANGER, gid: STRANGER, groups: Vec::new(), check: true };
    match world.kit.call_for(caller, create(dir, "program", 0o2777)) {
        Ok(Reply::Attr(attr)) => assert_eq!((attr.mode & 0o7777, attr.gid), (0o777, 20)),
        other => panic!("{other:?}"),
    }
}
