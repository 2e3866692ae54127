//! Tests of `acl_ops.rs`: access lists on inodes, and what new inodes inherit.

use dfs_proto::error::ErrorCode;
use dfs_proto::ids::InodeNo;
use dfs_proto::pb::{self, mount_down, mount_reply::Result as Reply, mount_request::Op};

use super::Effect;
use super::acl::tests::bytes_of;
use super::acl::{ACCESS, DEFAULT};
use super::testkit::Kit;

const ROOT: InodeNo = InodeNo::ROOT;
const N: u32 = u32::MAX;

/// Owner rwx, user 5 rwx, group r-x, mask rwx, others nothing.
const LIST: [(u16, u16, u32); 5] = [(1, 7, N), (2, 7, 5), (4, 5, N), (0x10, 7, N), (0x20, 0, N)];

fn set(inode: InodeNo, name: &'static [u8], list: &[(u16, u16, u32)]) -> Op {
    let value = bytes_of(list).into();
    Op::Setxattr(pb::Setxattr { inode: inode.0, name: name.into(), value, ..Default::default() })
}

fn get(kit: &mut Kit, inode: InodeNo, name: &'static [u8]) -> Option<Vec<u8>> {
    match kit.call(Op::Getxattr(pb::Getxattr { inode: inode.0, name: name.into() })) {
        Ok(Reply::Value(value)) => Some(value.value.to_vec()),
        Ok(other) => panic!("{other:?}"),
        Err(error) => {
            assert_eq!(error.code, ErrorCode::NoData);
            None
        }
    }
}

fn remove(inode: InodeNo, name: &'static [u8]) -> Op {
    Op::Removexattr(pb::Removexattr { inode: inode.0, name: name.into() })
}

fn chmod(inode: InodeNo, mode: u32) -> Op {
    Op::Setattr(pb::Setattr { inode: inode.0, mode: Some(mode), ..Default::default() })
}

fn made(kit: &mut Kit, parent: InodeNo, name: &str, mode: u32) -> pb::Attr {
    let op =
        pb::Create { parent: parent.0, name: name.to_owned().into(), mode, uid: 10, gid: 20, umask: 0o027 };
    Kit::attr_of(&kit.ok(Op::Create(op)))
}

#[test]
fn a_list_and_the_mode_follow_each_other() {
    let mut kit = Kit::new();
    let file = kit.create(ROOT, "f");
    let before = kit.attr(file).ctime;
    kit.pass_ms(1_000);
    kit.ok(set(file, ACCESS, &LIST));
    let attr = kit.attr(file);
    assert_eq!((attr.mode & 0o777, attr.has_security), (0o770, true));
    assert_ne!(attr.ctime, before);
    assert_eq!(get(&mut kit, file, ACCESS), Some(bytes_of(&LIST)));
    kit.ok(chmod(file, 0o4641));
    let mut cut = LIST;
    (cut[0].1, cut[3].1, cut[4].1) = (6, 4, 1);
    assert_eq!(get(&mut kit, file, ACCESS), Some(bytes_of(&cut)));
    assert_eq!(kit.attr(file).mode & 0o7777, 0o4641);
    // What a mode can say is not kept.
    kit.ok(set(file, ACCESS, &[(1, 6, N), (4, 4, N), (0x20, 4, N)]));
    let attr = kit.attr(file);
    assert_eq!((attr.mode & 0o7777, attr.has_security), (0o4644, false));
    assert_eq!(get(&mut kit, file, ACCESS), None);
    kit.compare_with_stored();
}

#[test]
fn lists_are_listed_and_removed_and_survive_a_restart() {
    let mut kit = Kit::new();
    let dir = kit.mkdir(ROOT, "d");
    kit.ok(set(dir, ACCESS, &LIST));
    kit.ok(set(dir, DEFAULT, &LIST));
    let names = match kit.ok(Op::Listxattr(pb::Listxattr { inode: dir.0 })) {
        Reply::Names(names) => names.names,
        other => panic!("{other:?}"),
    };
    assert_eq!(names, [ACCESS, DEFAULT]);
    kit.restart();
    kit.hello(super::testkit::SESSION, &[]);
    assert!(kit.attr(dir).has_security);
    kit.ok(remove(dir, ACCESS));
    assert!(kit.attr(dir).has_security);
    assert_eq!(kit.attr(dir).mode & 0o777, 0o770, "the mask stays as the group's bits");
    kit.ok(set(dir, DEFAULT, &[]));
    assert!(!kit.attr(dir).has_security);
    kit.ok(remove(dir, DEFAULT));
    kit.compare_with_stored();
}

#[test]
fn bad_lists_and_wrong_places_are_refused() {
    let mut kit = Kit::new();
    let file = kit.create(ROOT, "f");
    assert_eq!(kit.code(set(file, ACCESS, &LIST[..3])), Some(ErrorCode::Invalid));
    assert_eq!(kit.code(set(file, DEFAULT, &LIST)), Some(ErrorCode::Access));
    let link = pb::Symlink { parent: ROOT.0, name: "l".into(), target: "f".into(), ..Default::default() };
    let link = InodeNo(Kit::attr_of(&kit.ok(Op::Symlink(link))).inode);
    assert_eq!(kit.code(set(link, ACCESS, &LIST)), Some(ErrorCode::NotSupported));
    assert_eq!(kit.attr(file).mode & 0o777, 0o644);
}

#[test]
fn without_a_default_list_the_umask_counts() {
    let mut kit = Kit::new();
    assert_eq!(made(&mut kit, ROOT, "f", 0o4777).mode & 0o7777, 0o4750);
    let mkdir =
        pb::Mkdir { parent: ROOT.0, name: "d".into(), mode: 0o1777, umask: 0o022, ..Default::default() };
    assert_eq!(Kit::attr_of(&kit.ok(Op::Mkdir(mkdir))).mode & 0o7777, 0o1755);
    let fifo =
        pb::Mknod { parent: ROOT.0, name: "p".into(), mode: 0o010_666, umask: 0o022, ..Default::default() };
    assert_eq!(Kit::attr_of(&kit.ok(Op::Mknod(fifo))).mode & 0o7777, 0o644);
    let link = pb::Symlink { parent: ROOT.0, name: "l".into(), target: "f".into(), ..Default::default() };
    assert_eq!(Kit::attr_of(&kit.ok(Op::Symlink(link))).mode & 0o7777, 0o777);
}

#[test]
fn files_and_directories_inherit_and_the_umask_does_not_count_then() {
    let mut kit = Kit::new();
    let dir = kit.mkdir(ROOT, "d");
    kit.ok(set(dir, DEFAULT, &LIST));
    let file = made(&mut kit, dir, "f", 0o664);
    assert_eq!((file.mode & 0o7777, file.has_security), (0o660, true));
    let mut cut = LIST;
    (cut[0].1, cut[3].1) = (6, 6);
    assert_eq!(get(&mut kit, InodeNo(file.inode), ACCESS), Some(bytes_of(&cut)));
    assert_eq!(get(&mut kit, InodeNo(file.inode), DEFAULT), None);
    let below = kit.mkdir(dir, "below");
    assert_eq!(get(&mut kit, below, DEFAULT), Some(bytes_of(&LIST)));
    assert_eq!(kit.attr(below).mode & 0o777, 0o750);
    // A default list that says what a mode can say makes the mode alone.
    kit.ok(set(dir, DEFAULT, &[(1, 7, N), (4, 7, N), (0x20, 1, N)]));
    let file = made(&mut kit, dir, "g", 0o666);
    assert_eq!((file.mode & 0o7777, file.has_security), (0o660, false));
    let link = pb::Symlink { parent: dir.0, name: "l".into(), target: "f".into(), ..Default::default() };
    let link = Kit::attr_of(&kit.ok(Op::Symlink(link)));
    assert_eq!((link.mode & 0o777, link.has_security), (0o777, false));
    kit.compare_with_stored();
}

#[test]
fn who_is_not_in_the_group_takes_the_set_group_id_bit_away() {
    let mut kit = Kit::new();
    let file = kit.create(ROOT, "f");
    let caller = |uid, gid, groups: &[u32]| pb::Caller { uid, gid, groups: groups.into(), check: false };
    for (who, keeps) in [
        (caller(10, 30, &[]), false),
        (caller(10, 20, &[]), true),
        (caller(10, 30, &[5, 20]), true),
        (caller(0, 0, &[]), true),
    ] {
        kit.ok(chmod(file, 0o2755));
        kit.call_for(who.clone(), set(file, ACCESS, &LIST)).unwrap();
        assert_eq!(kit.attr(file).mode & 0o2000 != 0, keeps, "{who:?}");
    }
}

#[test]
fn other_mounts_are_told_of_a_changed_list() {
    let mut kit = Kit::new();
    let file = kit.create(ROOT, "f");
    let other = dfs_proto::ids::SessionId(78);
    kit.hello(other, &[]);
    kit.ok_as(other, Op::Getattr(pb::Getattr { inode: file.0 }));
    for op in [set(file, ACCESS, &LIST), chmod(file, 0o700), remove(file, ACCESS)] {
        kit.sent.clear();
        kit.ok(op.clone());
        let told = kit.sent.iter().any(|effect| {
            matches!(effect, Effect::ToMount(id, mount_down::Msg::Invalidate(change))
                if *id == other && change.inode == file.0)
        });
        assert!(told, "{op:?}");
    }
}
