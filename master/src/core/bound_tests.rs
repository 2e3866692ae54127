use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};

use super::super::interest::Interest;
use super::super::testkit::{Kit, SESSION};
use super::super::{Command, Effect};
use super::*;

/// The session of a user who is bound to a directory.
const BOUND: SessionId = SessionId(90);

fn hello_bound(kit: &mut Kit, root: InodeNo, open: &[InodeNo], locks: Vec<pb::FileLock>) -> pb::MountWelcome {
    let hello = pb::MountHello {
        protocol_version: dfs_proto::PROTOCOL_VERSION,
        session: BOUND.0,
        open_inodes: open.iter().map(|inode| inode.0).collect(),
        held_locks: locks,
        ..pb::MountHello::default()
    };
    kit.sent.clear();
    kit.apply(Command::MountHello { fresh: SessionId(1), root, ids: Default::default(), hello });
    let welcome = kit.sent.iter().find_map(|effect| match effect {
        Effect::MountAnswer(mount_down::Msg::Welcome(welcome)) => Some(welcome.clone()),
        _ => None,
    });
    welcome.unwrap()
}

/// /x with /x/d and /x/d/f, /y with /y/f and /y/d, and a session that sees /x alone.
struct World {
    kit: Kit,
    x: InodeNo,
    d: InodeNo,
    f: InodeNo,
    y: InodeNo,
    secret: InodeNo,
    below_y: InodeNo,
}

fn world() -> World {
    let mut kit = Kit::with_keepers(2);
    let x = kit.mkdir(InodeNo::ROOT, "x");
    let d = kit.mkdir(x, "d");
    let f = kit.create(d, "f");
    kit.upload(f, 0, 10);
    let y = kit.mkdir(InodeNo::ROOT, "y");
    let secret = kit.create(y, "f");
    kit.upload(secret, 0, 10);
    let below_y = kit.mkdir(y, "d");
    hello_bound(&mut kit, x, &[], Vec::new());
    World { kit, x, d, f, y, secret, below_y }
}

impl World {
    fn call(&mut self, op: Op) -> Result<Reply, ErrorCode> {
        self.kit.call_as(BOUND, op).map_err(|error| error.code)
    }

    fn sees(&mut self, inode: InodeNo) -> bool {
        let seen = self.call(Op::Getattr(pb::Getattr { inode: inode.0 }));
        assert!(seen.is_ok() || seen == Err(ErrorCode::Stale), "{seen:?}");
        seen.is_ok()
    }

    /// Was the bound session's stream closed? It is there again.
    fn rename(
        &mut self,
        (parent, name): (InodeNo, &'static str),
        (to, new): (InodeNo, &'static str),
    ) -> bool {
        let op = pb::Rename {
            parent: parent.0,
            name: name.into(),
            new_parent: to.0,
            new_name: new.into(),
            ..pb::Rename::default()
        };
        self.kit.sent.clear();
        self.kit.ok(Op::Rename(op));
        let closed = self.kit.sent.contains(&Effect::CloseMount(BOUND));
        if closed {
            hello_bound(&mut self.kit, self.x, &[], Vec::new());
        }
        closed
    }

    fn link(&mut self, inode: InodeNo, parent: InodeNo, name: &'static str) {
        self.kit.ok(Op::Link(pb::Link { inode: inode.0, parent: parent.0, name: name.into() }));
    }
}

// Every request there is

const PROTO: &str = include_str!("../../../proto/proto/dfs/v1/mount.proto");
/// Fields that name an inode, and numbers that do not. A new name has to be put into one of these lists.
const INODES: [&str; 5] = ["inode", "parent", "new_parent", "source", "target"];
const NUMBERS: [&str; 13] = [
    "size",
    "offset",
    "length",
    "replaces",
    "avoid",
    "chunk",
    "keeper",
    "source_offset",
    "target_offset",
    "owner",
    "start",
    "end",
    "content_version",
];

#[derive(Debug, Clone)]
struct Field {
    kind: String,
    name: String,
    number: u32,
}

fn fields(message: &str, opening: &str) -> Vec<Field> {
    let plain: String =
        PROTO.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join(" ");
    let (_, rest) =
        plain.split_once(&format!("message {message} {{")).unwrap_or_else(|| panic!("no {message}"));
    let (_, rest) = if opening.is_empty() { ("", rest) } else { rest.split_once(opening).unwrap() };
    let body = rest.split('}').next().unwrap();
    let fields = body.split(';').filter(|field| !field.trim().is_empty());
    fields
        .map(|field| {
            let words: Vec<&str> = field.split_whitespace().collect();
            let at = words.len() - 4;
            Field {
                kind: words[at].to_owned(),
                name: words[at + 1].to_owned(),
                number: words[at + 3].parse().unwrap(),
            }
        })
        .collect()
}

/// The inodes that a message names, with those of a lock in it.
fn named(message: &str) -> Vec<String> {
    let mut found = Vec::new();
    for field in fields(message, "") {
        match field.kind.as_str() {
            "uint64" | "fixed64" if INODES.contains(&&*field.name) => found.push(field.name),
            "uint64" | "fixed64" => {
                let known =
                    NUMBERS.contains(&&*field.name) || message == "CancelLock" && field.name == "request";
                assert!(known, "{message}.{}: is it an inode? Say so here", field.name);
            }
            "FileLock" => found.push("lock".to_owned()),
            _ => {}
        }
    }
    found
}

/// A message of this kind that names these inodes.
fn encoded(message: &str, inodes: &BTreeMap<String, u64>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut put = |number: u32, value: u64| {
        encode_key(number, WireType::Varint, &mut bytes);
        encode_varint(value, &mut bytes);
    };
    let mut texts = Vec::new();
    for field in fields(message, "") {
        match (field.kind.as_str(), inodes.get(&field.name)) {
            ("FileLock", Some(inode)) => {
                let mode = pb::LockMode::Exclusive as i32;
                let lock = pb::FileLock { inode: *inode, mode, end: u64::MAX, ..pb::FileLock::default() };
                texts.push((field.number, lock.encode_to_vec()));
            }
            (_, Some(inode)) => put(field.number, *inode),
            ("bytes", _) => {
                let value = if field.name == "target" { "t" } else { "new" };
                texts.push((field.number, value.as_bytes().to_vec()));
            }
            ("uint64", _) if field.name == "length" => put(field.number, 1),
            _ => {}
        }
    }
    for (number, text) in texts {
        encode_key(number, WireType::LengthDelimited, &mut bytes);
        encode_varint(text.len() as u64, &mut bytes);
        bytes.extend(text);
    }
    bytes
}

fn op_of(field: &Field, inodes: &BTreeMap<String, u64>) -> Op {
    let body = encoded(&field.kind, inodes);
    let mut bytes = Vec::new();
    encode_key(field.number, WireType::LengthDelimited, &mut bytes);
    encode_varint(body.len() as u64, &mut bytes);
    bytes.extend(body);
    pb::MountRequest::decode(Bytes::from(bytes)).unwrap().op.unwrap_or_else(|| panic!("no {field:?}"))
}

/// Whoever adds a request, or an inode to one, and forgets to have it checked, sees this fail.
#[test]
fn no_request_reaches_an_inode_outside() {
    let free = ["release", "abort_upload"];
    let none = ["cancel_lock", "barrier", "report_bad"];
    let requests = fields("MountRequest", "oneof op {");
    assert!(requests.len() > 30, "{requests:?}");
    for field in &requests {
        let names = named(&field.kind);
        assert_eq!(names.is_empty(), none.contains(&&*field.name), "{field:?}");
        let mut world = world();
        let inside = |name: &str| match name {
            "parent" | "new_parent" => world.d.0,
            _ => world.f.0,
        };
        let good: BTreeMap<String, u64> = names.iter().map(|name| (name.clone(), inside(name))).collect();
        let outside = [world.y, world.secret, world.below_y, InodeNo(1 << 40)];
        for name in &names {
            for out in outside {
                let mut bad = good.clone();
                bad.insert(name.clone(), out.0);
                let op = op_of(field, &bad);
                let before = world.kit.stored_rows();
                let answer = world.kit.call_as(BOUND, op);
                if free.contains(&&*field.name) {
                    continue;
                }
                let error = answer.expect_err(&format!("{} with {name} outside was done", field.name));
                assert_eq!(error, outside_error(out), "{}", field.name);
                assert_eq!(world.kit.stored_rows(), before, "{} changed something", field.name);
            }
        }
        if !names.is_empty() {
            // What is inside is not refused for that.
            let request = world.kit.request_as(BOUND, op_of(field, &good));
            if let Some(Reply::Error(error)) = world.kit.reply_to(request) {
                assert_ne!(error.code, pb::Code::Stale as i32, "{}: {}", field.name, error.message);
            }
        }
    }
}

fn outside_error(inode: InodeNo) -> DfsError {
    super::outside(inode)
}

#[test]
fn what_is_outside_is_answered_as_what_is_gone() {
    let mut world = world();
    let gone = world.kit.create(world.x, "gone");
    world.kit.unlink(world.x, "gone");
    world.kit.release(gone);
    let getattr = |inode: InodeNo| Op::Getattr(pb::Getattr { inode: inode.0 });
    let really = world.kit.call_as(BOUND, getattr(gone)).unwrap_err();
    let outside = world.kit.call_as(BOUND, getattr(world.secret)).unwrap_err();
    assert_eq!(
        really.message.replace(&gone.to_string(), "N"),
        outside.message.replace(&world.secret.to_string(), "N")
    );
}

// The root

#[test]
fn the_directory_is_number_1_and_nothing_is_above_it() {
    let mut world = world();
    // Where what is above it is not number 1.
    let below_y = world.below_y;
    world.rename((InodeNo::ROOT, "x"), (below_y, "x"));
    let mut list = |inode: u64| {
        let op = Op::Readdir(pb::Readdir { inode, after: Bytes::new(), limit: 0 });
        let mut message = mount_down::Msg::Reply(pb::MountReply {
            id: 1,
            directories: Vec::new(),
            result: Some(world.kit.call_as(BOUND, op).unwrap()),
        });
        outward(&mut message, world.x, &IdMap::None);
        match message {
            mount_down::Msg::Reply(pb::MountReply { result: Some(Reply::Entries(list)), .. }) => list,
            other => panic!("{other:?}"),
        }
    };
    let root = list(1);
    assert_eq!(root.parent, 1);
    assert_eq!(root.entries.iter().map(|entry| &entry.name[..]).collect::<Vec<_>>(), [b"d"]);
    let d = root.entries[0].attr.unwrap().inode;
    assert_eq!(list(d).parent, 1, "'..' of what is in it");
    let up = Op::Lookup(pb::Lookup { parent: 1, name: Bytes::from_static(b"..") });
    assert_eq!(world.call(up), Err(ErrorCode::Invalid));
    let statfs = Op::Statfs(pb::Statfs { inode: 0 });
    assert!(world.call(statfs).is_ok());
    // By its own number it is the same.
    let x = world.x;
    assert!(world.sees(x) && world.sees(InodeNo::ROOT));
}

#[test]
fn every_number_of_the_directory_that_goes_out_is_1() {
    let root = InodeNo(7);
    let attr = || Some(pb::Attr { inode: 7, ..pb::Attr::default() });
    let lock = || pb::FileLock { inode: 7, ..pb::FileLock::default() };
    let entry = pb::DirEntry { name: Bytes::from_static(b"e"), attr: attr() };
    let replies = [
        Reply::Attr(attr().unwrap()),
        Reply::Entries(pb::DirEntries { entries: vec![entry], end: true, parent: 7 }),
        Reply::Layout(pb::FileLayout { attr: attr(), ..pb::FileLayout::default() }),
        Reply::Gone(pb::Gone { moved: attr(), removed: attr(), exchanged: attr() }),
        Reply::Copied(pb::RangeCopied { length: 1, attr: attr() }),
        Reply::Lock(pb::LockInfo { conflict: Some(lock()), attr: attr() }),
        Reply::Located(pb::Located { attr: attr(), ..pb::Located::default() }),
    ];
    let replies = replies.map(|result| {
        mount_down::Msg::Reply(pb::MountReply {
            id: 5,
            result: Some(result),
            directories: vec![attr().unwrap()],
        })
    });
    let others = [
        mount_down::Msg::Welcome(pb::MountWelcome {
            lost_locks: vec![lock()],
            ..pb::MountWelcome::default()
        }),
        mount_down::Msg::UploadDone(pb::UploadDone { inode: 7, attr: attr(), ..pb::UploadDone::default() }),
        mount_down::Msg::Invalidate(pb::Invalidate { inode: 7, parent: 7, ..pb::Invalidate::default() }),
        mount_down::Msg::Recall(pb::Recall { inode: 7 }),
    ];
    for mut message in replies.into_iter().chain(others) {
        let before = format!("{message:?}");
        outward(&mut message, root, &IdMap::None);
        let after = format!("{message:?}");
        assert!(
            before.matches(": 7").count() > 0 && after.matches(": 7").count() == 0,
            "{before} became {after}"
        );
        assert_eq!(before.replace(": 7", ": 1"), after);
        outward(&mut message, InodeNo::ROOT, &IdMap::None);
    }
}

// What moves

#[test]
fn what_is_moved_out_is_gone_and_what_is_moved_in_is_there() {
    let mut world = world();
    let World { x, d, f, y, secret, below_y, .. } = world;
    assert!(world.sees(f) && !world.sees(secret));
    world.rename((y, "f"), (d, "secret"));
    assert!(world.sees(secret));
    world.rename((d, "secret"), (y, "f"));
    assert!(!world.sees(secret));
    // One that is held open and locked.
    world.call(Op::Open(pb::Open { inode: f.0, access: 0 })).unwrap();
    let lock = |mode: pb::LockMode| {
        let lock =
            pb::FileLock { inode: f.0, owner: 1, mode: mode as i32, end: 9, ..pb::FileLock::default() };
        Op::SetLock(pb::SetLock { lock: Some(lock), wait: false })
    };
    world.call(lock(pb::LockMode::Exclusive)).unwrap();
    world.rename((d, "f"), (y, "away"));
    assert!(!world.sees(f));
    let layout = Op::Layout(pb::Layout { inode: f.0, offset: 0, length: 10 });
    assert_eq!(world.call(layout.clone()), Err(ErrorCode::Stale), "held open or not");
    // But what it holds it gives back.
    world.call(lock(pb::LockMode::Unlock)).unwrap();
    world.call(Op::Release(pb::Release { inode: f.0 })).unwrap();
    world.rename((y, "away"), (d, "f"));
    assert!(world.sees(f) && world.call(layout).is_ok());
    // A whole tree: who saw it forgets everything.
    assert!(world.rename((x, "d"), (below_y, "d")), "its stream is closed");
    assert!(!world.sees(d) && !world.sees(f));
    assert!(!world.rename((below_y, "d"), (x, "d")));
    assert!(world.sees(f));
    // The directory itself may be moved: it is the directory that the user is bound to.
    world.rename((InodeNo::ROOT, "x"), (below_y, "moved"));
    assert!(world.sees(f) && !world.sees(below_y));
    assert_eq!(world.kit.state.dir_path(x).unwrap(), b"/y/d/moved");
}

#[test]
fn a_file_of_many_names_is_inside_while_one_of_them_is() {
    let mut world = world();
    let World { x, d, f, y, secret, .. } = world;
    world.link(secret, x, "shared");
    assert!(world.sees(secret));
    world.link(secret, x, "again");
    world.link(secret, y, "other");
    world.kit.unlink(x, "shared");
    assert!(world.sees(secret));
    world.kit.unlink(y, "f");
    world.kit.unlink(y, "other");
    assert!(world.sees(secret));
    world.link(secret, y, "back");
    world.kit.unlink(x, "again");
    assert!(!world.sees(secret));
    // One of its own with names outside, too.
    world.link(f, y, "outside");
    assert!(world.sees(f));
    world.kit.unlink(d, "f");
    assert!(!world.sees(f));
}

#[test]
fn a_file_without_a_name_is_for_those_who_hold_it() {
    let mut world = world();
    let World { d, f, secret, y, .. } = world;
    // That of somebody else, who holds it open.
    world.kit.ok(Op::Open(pb::Open { inode: secret.0, access: 0 }));
    world.kit.unlink(y, "f");
    assert!(!world.sees(secret));
    world.call(Op::Open(pb::Open { inode: f.0, access: 0 })).unwrap();
    world.kit.unlink(d, "f");
    assert!(world.sees(f));
    // A hello opens nothing that is not the session's.
    let lock = pb::FileLock { inode: secret.0, owner: 1, mode: 2, ..pb::FileLock::default() };
    let x = world.x;
    let welcome = hello_bound(&mut world.kit, x, &[f, secret, y], vec![lock]);
    assert!(welcome.resumed);
    assert_eq!(welcome.lost_locks, [lock]);
    assert!(world.sees(f) && !world.sees(secret) && !world.sees(y));
}

#[test]
fn a_session_that_is_bound_elsewhere_is_another_one() {
    let mut world = world();
    let World { d, f, y, secret, below_y, .. } = world;
    world.call(Op::Open(pb::Open { inode: f.0, access: 0 })).unwrap();
    world.kit.unlink(d, "f");
    let mkdir = |name: &'static str| {
        Op::Mkdir(pb::Mkdir { parent: 1, name: name.into(), mode: 0o755, uid: 0, gid: 0, umask: 0 })
    };
    let asked = world.kit.request_as(BOUND, mkdir("new"));
    let welcome = hello_bound(&mut world.kit, y, &[f], Vec::new());
    assert!(!welcome.resumed);
    assert!(world.sees(secret) && world.sees(below_y) && !world.sees(f) && !world.sees(d));
    // What was done in the other directory is not said again of this one.
    world.kit.request_numbered(BOUND, asked, mkdir("new"));
    let x = world.x;
    assert!(world.kit.state.entry(x, b"new").is_ok() && world.kit.state.entry(y, b"new").is_ok());
}

#[test]
fn no_name_from_outside_is_told() {
    let mut world = world();
    let World { x, d, f, y, below_y, .. } = world;
    let told = |kit: &Kit| -> Vec<pb::Invalidate> {
        let told = kit.sent.iter().filter_map(|effect| match effect {
            Effect::ToMount(BOUND, mount_down::Msg::Invalidate(change)) => Some(change.clone()),
            _ => None,
        });
        told.collect()
    };
    // It saw the file, and it was moved away: what it knows of it is worth nothing, and it hears of no name.
    assert!(world.sees(f));
    world.rename((d, "f"), (y, "moved"));
    let moved = told(&world.kit);
    assert!(moved.iter().any(|change| change.inode == f.0 && change.content), "{moved:?}");
    assert!(
        moved.iter().all(|change| [f, d].contains(&InodeNo(change.inode)) && change.name != "moved"),
        "{moved:?}"
    );
    // Nor when so much was told that nobody knows what.
    let list = Op::Readdir(pb::Readdir { inode: d.0, after: Bytes::new(), limit: 0 });
    world.call(list).unwrap();
    world.rename((x, "d"), (y, "moved-too"));
    world.kit.state.sessions.get_mut(&BOUND).unwrap().interest = Interest::of_everything();
    world.kit.sent.clear();
    world.kit.create(d, "private");
    world.kit.create(below_y, "private");
    assert_eq!(told(&world.kit), []);
    world.kit.create(x, "public");
    assert_eq!(told(&world.kit).len(), 1);
}

// Users

#[test]
fn a_user_is_bound_to_a_directory_and_not_to_a_path() {
    use super::super::operator::{Operation, OperatorReply};
    use super::super::row::UserRow;
    use super::super::users::UserChange;
    use dfs_proto::token::Role;

    let mut world = world();
    let World { x, .. } = world;
    let change = |kit: &mut Kit, change: UserChange| match kit
        .operate(Operation::User { name: "anna".to_owned(), change })
    {
        Ok(OperatorReply::User(row)) => Ok(row.dir),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error.code),
    };
    let row = |role: Role| UserRow { roles: [role].into_iter().collect(), ..UserRow::default() };
    let add = |role: Role, dir: &'static str| UserChange::Add { row: row(role), dir: dir.into() };
    let grant = |dir: &'static str| UserChange::Grant {
        roles: None,
        disabled: None,
        dir: Some(dir.into()),
        ids: None,
    };
    let kit = &mut world.kit;
    for (dir, code) in [
        ("/none", ErrorCode::NotFound),
        ("/y/f", ErrorCode::NotDirectory),
        ("/", ErrorCode::Invalid),
        ("x", ErrorCode::Invalid),
    ] {
        assert_eq!(change(kit, add(Role::Rw, dir)), Err(code), "{dir}");
    }
    for role in [Role::Admin, Role::Keeper] {
        assert_eq!(change(kit, add(role, "/x")), Err(ErrorCode::Invalid), "{role:?}");
    }
    assert_eq!(change(kit, add(Role::Rw, "/x/")), Ok(Some(x)));
    kit.restart();
    kit.hello(SESSION, &[]);
    assert_eq!(kit.state.user("anna").unwrap().dir, Some(x));
    let admin = UserChange::Grant {
        roles: Some([Role::Admin].into_iter().collect()),
        disabled: None,
        dir: None,
        ids: None,
    };
    assert_eq!(change(kit, admin), Err(ErrorCode::Invalid));
    let disable = UserChange::Grant { roles: None, disabled: Some(true), dir: None, ids: None };
    assert_eq!(change(kit, disable), Ok(Some(x)), "it stays");
    assert_eq!(change(kit, grant("")), Ok(None));
    assert_eq!(change(kit, grant("/x/d")), Ok(Some(world.d)));
}
