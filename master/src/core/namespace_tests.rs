//! Tests of `namespace.rs`, `rename.rs`, `attr.rs` and `xattr.rs`: errors, times and counts as POSIX has them.

use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{InodeNo, SessionId};
use dfs_proto::pb::{self, mount_down, mount_reply::Result as Reply, mount_request::Op};

use super::Effect;
use super::inode::MAX_LINKS;
use super::testkit::Kit;

const ROOT: InodeNo = InodeNo::ROOT;

fn rename(from: (InodeNo, &str), to: (InodeNo, &str)) -> pb::Rename {
    pb::Rename {
        parent: from.0.0,
        name: from.1.to_owned().into(),
        new_parent: to.0.0,
        new_name: to.1.to_owned().into(),
        no_replace: false,
        exchange: false,
    }
}

fn moved(kit: &mut Kit, from: (InodeNo, &str), to: (InodeNo, &str)) -> Result<pb::Gone, ErrorCode> {
    match kit.call(Op::Rename(rename(from, to))) {
        Ok(Reply::Gone(gone)) => Ok(gone),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error.code),
    }
}

fn find(kit: &mut Kit, parent: InodeNo, name: &str) -> Option<InodeNo> {
    let op = Op::Lookup(pb::Lookup { parent: parent.0, name: name.to_owned().into() });
    kit.call(op).ok().map(|reply| InodeNo(Kit::attr_of(&reply).inode))
}

fn rmdir(parent: InodeNo, name: &str) -> Op {
    Op::Rmdir(pb::Rmdir { parent: parent.0, name: name.to_owned().into() })
}

fn link(inode: InodeNo, parent: InodeNo, name: &str) -> Op {
    Op::Link(pb::Link { inode: inode.0, parent: parent.0, name: name.to_owned().into() })
}

fn create(parent: InodeNo, name: &[u8]) -> Op {
    let name = bytes::Bytes::copy_from_slice(name);
    Op::Create(pb::Create { parent: parent.0, name, mode: 0o644, uid: 1, gid: 1, umask: 0 })
}

#[test]
fn names_are_bytes_with_limits() {
    let mut kit = Kit::new();
    assert_eq!(kit.code(create(ROOT, &[0xff; 255])), None);
    assert_eq!(kit.code(create(ROOT, &[b'a'; 256])), Some(ErrorCode::NameTooLong));
    for bad in [&b""[..], b".", b"..", b"a/b", b"a\0b"] {
        assert_eq!(kit.code(create(ROOT, bad)), Some(ErrorCode::Invalid), "{bad:?}");
    }
}

#[test]
fn adding_and_removing_fail_as_posix_says() {
    let mut kit = Kit::new();
    let dir = kit.mkdir(ROOT, "d");
    let file = kit.create(dir, "f");
    assert_eq!(kit.code(create(dir, b"f")), Some(ErrorCode::Exists));
    assert_eq!(kit.code(create(file, b"x")), Some(ErrorCode::NotDirectory));
    assert_eq!(kit.code(create(InodeNo(999), b"x")), Some(ErrorCode::Stale));
    assert_eq!(kit.code(rmdir(ROOT, "d")), Some(ErrorCode::NotEmpty));
    assert_eq!(kit.code(rmdir(dir, "f")), Some(ErrorCode::NotDirectory));
    assert_eq!(kit.code(rmdir(dir, "none")), Some(ErrorCode::NotFound));
    assert_eq!(kit.code(kit.unlink_op(ROOT, "d")), Some(ErrorCode::IsDirectory));
    assert_eq!(kit.code(link(dir, ROOT, "e")), Some(ErrorCode::Permission));
    assert_eq!(kit.code(link(file, dir, "f")), Some(ErrorCode::Exists));
    kit.unlink(dir, "f");
    assert_eq!(kit.code(link(file, dir, "again")), Some(ErrorCode::NotFound));
    // A removed directory that is held open takes no entries.
    kit.ok(Op::Open(pb::Open { inode: dir.0, access: 0 }));
    kit.ok(rmdir(ROOT, "d"));
    assert_eq!(kit.code(create(dir, b"x")), Some(ErrorCode::NotFound));
    assert_eq!(kit.attr(dir).nlink, 0);
}

#[test]
fn links_are_counted_and_limited() {
    let mut kit = Kit::new();
    let dir = kit.mkdir(ROOT, "d");
    kit.mkdir(dir, "sub");
    assert_eq!((kit.attr(ROOT).nlink, kit.attr(dir).nlink), (3, 3));
    moved(&mut kit, (dir, "sub"), (ROOT, "sub")).unwrap();
    assert_eq!((kit.attr(ROOT).nlink, kit.attr(dir).nlink), (4, 2));
    kit.ok(rmdir(ROOT, "sub"));
    assert_eq!(kit.attr(ROOT).nlink, 3);
    let file = kit.create(dir, "f");
    kit.ok(link(file, ROOT, "g"));
    assert_eq!(kit.attr(file).nlink, 2);
    for inode in [file, ROOT] {
        kit.state.inodes.get_mut(&inode).unwrap().nlink = MAX_LINKS;
    }
    let name: bytes::Bytes = "x".into();
    let by = super::testkit::SESSION;
    let mut out = super::Out::new(kit.now());
    let op = pb::Link { inode: file.0, parent: ROOT.0, name: name.clone() };
    assert_eq!(kit.state.link(by, &op, &mut out).map_err(|e| e.code).err(), Some(ErrorCode::TooManyLinks));
    let op = pb::Mkdir { parent: ROOT.0, name, mode: 0, uid: 0, gid: 0, umask: 0 };
    assert_eq!(kit.state.mkdir(by, &op, &mut out).map_err(|e| e.code).err(), Some(ErrorCode::TooManyLinks));
}

#[test]
fn a_set_group_id_directory_hands_on_its_group() {
    let mut kit = Kit::new();
    let dir = kit.mkdir(ROOT, "d");
    let set = pb::Setattr { inode: dir.0, mode: Some(0o2775), gid: Some(55), ..pb::Setattr::default() };
    kit.ok(Op::Setattr(set));
    let (sub, file) = (kit.mkdir(dir, "s"), kit.create(dir, "f"));
    let (sub, file) = (kit.attr(sub), kit.attr(file));
    assert_eq!((sub.gid, sub.mode & 0o7777), (55, 0o2755));
    assert_eq!((file.gid, file.mode & 0o7777), (55, 0o644));
}

#[test]
fn rename_replaces_as_posix_says() {
    let mut kit = Kit::new();
    let (a, b) = (kit.mkdir(ROOT, "a"), kit.mkdir(ROOT, "b"));
    let (f, g) = (kit.create(a, "f"), kit.create(b, "g"));
    assert_eq!(moved(&mut kit, (a, "none"), (b, "x")), Err(ErrorCode::NotFound));
    assert_eq!(moved(&mut kit, (ROOT, "a"), (b, "g")), Err(ErrorCode::NotDirectory));
    assert_eq!(moved(&mut kit, (a, "f"), (ROOT, "b")), Err(ErrorCode::IsDirectory));
    assert_eq!(moved(&mut kit, (ROOT, "a"), (ROOT, "b")), Err(ErrorCode::NotEmpty));
    assert_eq!(moved(&mut kit, (ROOT, "a"), (a, "x")), Err(ErrorCode::Invalid));
    let gone = moved(&mut kit, (a, "f"), (b, "g")).unwrap();
    assert_eq!(gone.moved.map(|m| m.inode), Some(f.0));
    assert_eq!(gone.removed.map(|r| (r.inode, r.nlink)), Some((g.0, 0)));
    assert_eq!((find(&mut kit, a, "f"), find(&mut kit, b, "g")), (None, Some(f)));
    // An empty directory is replaced; the moved one knows its new parent.
    let (inner, empty) = (kit.mkdir(a, "inner"), kit.mkdir(b, "empty"));
    let gone = moved(&mut kit, (a, "inner"), (b, "empty")).unwrap();
    assert_eq!(gone.removed.map(|r| r.inode), Some(empty.0));
    assert_eq!((kit.attr(a).nlink, kit.attr(b).nlink), (2, 3));
    assert_eq!(moved(&mut kit, (ROOT, "b"), (inner, "x")), Err(ErrorCode::Invalid));
}

#[test]
fn rename_between_names_of_one_inode_does_nothing() {
    let mut kit = Kit::new();
    let file = kit.create(ROOT, "f");
    kit.ok(link(file, ROOT, "g"));
    let gone = moved(&mut kit, (ROOT, "f"), (ROOT, "g")).unwrap();
    assert_eq!(gone.removed, None);
    assert_eq!((find(&mut kit, ROOT, "f"), find(&mut kit, ROOT, "g")), (Some(file), Some(file)));
}

#[test]
fn rename_without_replacing_and_exchange() {
    let mut kit = Kit::new();
    let (a, b) = (kit.mkdir(ROOT, "a"), kit.mkdir(ROOT, "b"));
    let (dir, file) = (kit.mkdir(a, "x"), kit.create(b, "y"));
    let with =
        |no_replace, exchange, from, to| Op::Rename(pb::Rename { no_replace, exchange, ..rename(from, to) });
    assert_eq!(kit.code(with(true, true, (a, "x"), (b, "y"))), Some(ErrorCode::Invalid));
    assert_eq!(kit.code(with(true, false, (a, "x"), (b, "y"))), Some(ErrorCode::Exists));
    assert_eq!(kit.code(with(false, true, (a, "x"), (b, "none"))), Some(ErrorCode::NotFound));
    assert_eq!(kit.code(with(false, true, (ROOT, "a"), (a, "x"))), Some(ErrorCode::Invalid));
    assert_eq!(kit.code(with(false, true, (a, "x"), (ROOT, "a"))), Some(ErrorCode::Invalid));
    assert_eq!(kit.code(with(false, true, (a, "x"), (b, "y"))), None);
    assert_eq!((find(&mut kit, a, "x"), find(&mut kit, b, "y")), (Some(file), Some(dir)));
    assert_eq!((kit.attr(a).nlink, kit.attr(b).nlink), (2, 3));
    assert_eq!(kit.code(with(true, false, (b, "y"), (a, "z"))), None);
}

#[test]
fn times_change_as_posix_says() {
    let mut kit = Kit::new();
    let dir = kit.mkdir(ROOT, "d");
    let file = kit.create(dir, "f");
    let mut last = kit.now();
    // What changes with an operation: the directory's mtime and ctime, the file's ctime.
    let mut check = |kit: &mut Kit, op: Op, dir_changes: bool, file_changes: bool| {
        kit.pass_ms(10);
        kit.ok(op.clone());
        let now = kit.now();
        let (d, f) = (kit.attr(dir), kit.attr(file));
        assert_eq!(d.mtime == Some(now) && d.ctime == Some(now), dir_changes, "{op:?}");
        assert_eq!(f.ctime == Some(now), file_changes, "{op:?}");
        assert_ne!(f.mtime, Some(now), "{op:?}");
        last = now;
    };
    check(&mut kit, link(file, dir, "g"), true, true);
    check(&mut kit, Op::Rename(rename((dir, "g"), (dir, "h"))), true, true);
    let unlink = kit.unlink_op(dir, "h");
    check(&mut kit, unlink, true, true);
    let chmod = pb::Setattr { inode: file.0, mode: Some(0o600), ..pb::Setattr::default() };
    check(&mut kit, Op::Setattr(chmod), false, true);
    check(&mut kit, Op::Getattr(pb::Getattr { inode: file.0 }), false, false);
    let value = "v".into();
    let name = "user.x".into();
    let set = pb::Setxattr { inode: file.0, name, value, create_only: false, replace_only: false };
    check(&mut kit, Op::Setxattr(set), false, true);
    // Truncation also changes the file's mtime; a set time is kept to the nanosecond.
    kit.pass_ms(10);
    kit.truncate(file, 5);
    assert_eq!(kit.attr(file).mtime, Some(kit.now()));
    let exact = Some(pb::Time { sec: -5, nsec: 123_456_789 });
    let set = pb::Setattr { inode: file.0, atime: exact, mtime_now: true, ..pb::Setattr::default() };
    kit.ok(Op::Setattr(set));
    assert_eq!(kit.attr(file).atime, exact);
}

#[test]
fn chown_takes_set_id_bits_away() {
    let mut kit = Kit::new();
    let file = kit.create(ROOT, "f");
    let mut after = |mode: u32| {
        kit.ok(Op::Setattr(pb::Setattr { inode: file.0, mode: Some(mode), ..pb::Setattr::default() }));
        kit.ok(Op::Setattr(pb::Setattr { inode: file.0, uid: Some(3), ..pb::Setattr::default() }));
        kit.attr(file).mode & 0o7777
    };
    assert_eq!(after(0o6755), 0o755);
    assert_eq!(after(0o6745), 0o2745, "without group execution it is no set-group-id");
}

#[test]
fn only_files_have_a_size_to_set() {
    let mut kit = Kit::new();
    let dir = kit.mkdir(ROOT, "d");
    let fifo =
        pb::Mknod { parent: ROOT.0, name: "p".into(), mode: 0o010_644, uid: 0, gid: 0, rdev: 7, umask: 0 };
    let fifo = Kit::attr_of(&kit.ok(Op::Mknod(fifo)));
    assert_eq!((fifo.mode, fifo.rdev), (0o010_644, 0));
    let resize = |inode, size| Op::Setattr(pb::Setattr { inode, size: Some(size), ..pb::Setattr::default() });
    assert_eq!(kit.code(resize(dir.0, 0)), Some(ErrorCode::IsDirectory));
    assert_eq!(kit.code(resize(fifo.inode, 0)), Some(ErrorCode::Invalid));
    let file = kit.create(ROOT, "f");
    assert_eq!(kit.code(resize(file.0, u64::MAX)), Some(ErrorCode::TooLarge));
    assert_eq!(kit.code(resize(file.0, i64::MAX as u64)), None);
}

#[test]
fn symbolic_links_keep_their_target() {
    let mut kit = Kit::new();
    let make = |name: &'static str, target: Vec<u8>| {
        let (name, target) = (name.into(), target.into());
        Op::Symlink(pb::Symlink { parent: ROOT.0, name, target, uid: 0, gid: 0 })
    };
    let attr = Kit::attr_of(&kit.ok(make("l", vec![0xfe; 4095])));
    assert_eq!((attr.size, attr.mode), (4095, 0o120_777));
    let read = |inode| Op::Readlink(pb::Readlink { inode });
    assert_eq!(kit.ok(read(attr.inode)), Reply::Target(pb::LinkTarget { target: vec![0xfe; 4095].into() }));
    assert_eq!(kit.code(read(1)), Some(ErrorCode::Invalid));
    assert_eq!(kit.code(make("m", vec![b'x'; 4096])), Some(ErrorCode::NameTooLong));
    assert_eq!(kit.code(make("m", vec![])), Some(ErrorCode::NotFound));
}

#[test]
fn a_listing_goes_on_behind_the_last_name_whatever_comes_and_goes() {
    let mut kit = Kit::new();
    for i in 0..50 {
        kit.create(ROOT, &format!("f{i:02}"));
    }
    let (mut names, mut after) = (Vec::new(), bytes::Bytes::new());
    loop {
        let Reply::Entries(page) = kit.ok(Op::Readdir(pb::Readdir { inode: 1, after, limit: 7 })) else {
            panic!("no entries");
        };
        names.extend(page.entries.iter().map(|e| String::from_utf8_lossy(&e.name).into_owned()));
        after = page.entries.last().map(|e| e.name.clone()).unwrap_or_default();
        if page.end {
            break;
        }
        kit.unlink(ROOT, names.last().unwrap());
    }
    assert_eq!(names, (0..50).map(|i| format!("f{i:02}")).collect::<Vec<_>>());
}

#[test]
fn extended_attributes_obey_their_flags_and_limits() {
    let mut kit = Kit::new();
    let file = kit.create(ROOT, "f");
    let set = |value: usize, create_only, replace_only| {
        let (name, value) = ("user.a".into(), vec![7; value].into());
        Op::Setxattr(pb::Setxattr { inode: file.0, name, value, create_only, replace_only })
    };
    let get = || Op::Getxattr(pb::Getxattr { inode: file.0, name: "user.a".into() });
    assert_eq!(kit.code(get()), Some(ErrorCode::NoData));
    assert_eq!(kit.code(set(1, false, true)), Some(ErrorCode::NoData));
    assert_eq!(kit.code(set(65_536, true, false)), None);
    assert_eq!(kit.code(set(1, true, false)), Some(ErrorCode::Exists));
    assert_eq!(kit.code(set(65_537, false, false)), Some(ErrorCode::TooBig));
    assert_eq!(kit.code(set(2, false, true)), None);
    assert_eq!(kit.ok(get()), Reply::Value(pb::Value { value: vec![7, 7].into() }));
    let names = Reply::Names(pb::Names { names: vec!["user.a".into()] });
    assert_eq!(kit.ok(Op::Listxattr(pb::Listxattr { inode: file.0 })), names);
    let remove = Op::Removexattr(pb::Removexattr { inode: file.0, name: "user.a".into() });
    assert_eq!(kit.code(remove.clone()), None);
    assert_eq!(kit.code(remove), Some(ErrorCode::NoData));
    let long = pb::Getxattr { inode: file.0, name: vec![b'x'; 256].into() };
    assert_eq!(kit.code(Op::Getxattr(long)), Some(ErrorCode::Range));
}

#[test]
fn others_hear_of_a_change_and_the_one_that_made_it_does_not() {
    let mut kit = Kit::with_keepers(2);
    let other = SessionId(78);
    kit.hello(other, &[]);
    kit.ok_as(other, Op::Getattr(pb::Getattr { inode: 1 }));
    let file = kit.create(ROOT, "f");
    kit.ok_as(other, Op::Getattr(pb::Getattr { inode: file.0 }));
    kit.upload(file, 0, 10);
    let heard: Vec<(SessionId, u64, bool, Vec<u8>)> = kit
        .sent
        .iter()
        .filter_map(|effect| match effect {
            Effect::ToMount(to, mount_down::Msg::Invalidate(i)) => {
                Some((*to, i.inode, i.content, i.name.to_vec()))
            }
            _ => None,
        })
        .collect();
    assert_eq!(heard, [(other, 1, false, b"f".to_vec()), (other, file.0, true, vec![])]);
}

#[test]
fn reads_say_what_they_show_and_the_answer_comes_first() {
    let mut kit = Kit::with_keepers(1);
    let file = kit.create(ROOT, "f");
    let applied = |kit: &mut Kit, op: Op| {
        let request = pb::MountRequest { id: 5, op: Some(op), answered_below: 0, ..Default::default() };
        kit.state.apply(super::Command::Mount { session: super::testkit::SESSION, request }, kit.now())
    };
    let lookup = applied(&mut kit, Op::Lookup(pb::Lookup { parent: 1, name: "f".into() }));
    assert_eq!(lookup.shows, [ROOT, file]);
    let missing = applied(&mut kit, Op::Lookup(pb::Lookup { parent: 1, name: "x".into() }));
    assert_eq!(missing.shows, [ROOT], "that a name is not there can be taken back too");
    let layout = applied(&mut kit, Op::Layout(pb::Layout { inode: file.0, offset: 0, length: 9 }));
    assert_eq!(layout.shows, [file]);
    kit.hello(SessionId(78), &[]);
    kit.ok_as(SessionId(78), Op::Getattr(pb::Getattr { inode: 1 }));
    let unlink = kit.unlink_op(ROOT, "f");
    let unlinked = applied(&mut kit, unlink);
    let told = |effect: &Effect| matches!(effect, Effect::ToMount(_, mount_down::Msg::Invalidate(_)));
    assert!(unlinked.effects.iter().all(told), "the answer waits until the other mount has forgotten");
}

#[test]
fn an_unknown_session_is_told_to_say_hello() {
    let mut kit = Kit::new();
    let op = Op::Getattr(pb::Getattr { inode: 1 });
    assert_eq!(kit.call_as(SessionId(5), op).map_err(|e| e.code).err(), Some(ErrorCode::Session));
}
