//! Who is told of a change, and whose answer the reply waits for.

use dfs_proto::ids::{InodeNo, SessionId};
use dfs_proto::pb::{self, mount_down, mount_reply::Result as Reply, mount_request::Op};

use super::testkit::{Kit, SESSION};
use super::{Command, Effect};

const ROOT: InodeNo = InodeNo::ROOT;
const OTHER: SessionId = SessionId(78);
const THIRD: SessionId = SessionId(79);

/// A kit with another mount, which does not answer by itself, and a file that it has looked up.
fn two() -> (Kit, InodeNo) {
    let mut kit = Kit::with_keepers(2);
    let file = kit.create(ROOT, "f");
    kit.hello(OTHER, &[]);
    kit.silent.push(OTHER);
    lookup(&mut kit, OTHER, "f");
    kit.sent.clear();
    (kit, file)
}

fn lookup(kit: &mut Kit, by: SessionId, name: &str) -> Option<Reply> {
    let id = kit.request_as(by, Op::Lookup(pb::Lookup { parent: 1, name: name.to_owned().into() }));
    kit.reply_to(id)
}

fn chmod(inode: InodeNo) -> Op {
    Op::Setattr(pb::Setattr { inode: inode.0, mode: Some(0o600), ..Default::default() })
}

fn mkdir(name: &str) -> Op {
    Op::Mkdir(pb::Mkdir { parent: 1, name: name.to_owned().into(), mode: 0o755, uid: 0, gid: 0, umask: 0 })
}

fn told(kit: &Kit, to: SessionId) -> Vec<u64> {
    let told = kit.sent.iter().filter_map(|effect| match effect {
        Effect::ToMount(session, mount_down::Msg::Invalidate(what)) if *session == to => Some(what.seq),
        _ => None,
    });
    told.collect()
}

fn answer(kit: &mut Kit, session: SessionId) {
    let seqs = told(kit, session);
    kit.apply(Command::MountAcks { session, seqs });
}

#[test]
fn only_mounts_that_may_have_cached_it_are_told() {
    let (mut kit, file) = two();
    kit.hello(THIRD, &[]);
    kit.silent.push(THIRD);
    assert!(kit.request(chmod(file)) > 0);
    assert_eq!((told(&kit, OTHER).len(), told(&kit, THIRD).len()), (1, 0));
    kit.sent.clear();
    let dir = kit.mkdir_silently("d");
    assert_eq!(told(&kit, OTHER).len(), 1, "it asked for a name in that directory");
    kit.sent.clear();
    let inside =
        Op::Mkdir(pb::Mkdir { parent: dir.0, name: "e".into(), mode: 0o755, uid: 0, gid: 0, umask: 0 });
    kit.ok(inside);
    assert_eq!(told(&kit, OTHER).len(), 0, "it knows nothing of the new directory");
}

#[test]
fn a_name_that_was_not_there_is_of_interest_too() {
    let mut kit = Kit::new();
    kit.hello(OTHER, &[]);
    kit.silent.push(OTHER);
    lookup(&mut kit, OTHER, "missing");
    let request = kit.request(mkdir("missing"));
    assert_eq!(told(&kit, OTHER).len(), 1);
    assert_eq!(kit.reply_to(request), None);
}

#[test]
fn an_interest_lives_as_long_as_promised_and_then_ends() {
    let (mut kit, file) = two();
    kit.pass_ms(39_000);
    kit.request(chmod(file));
    assert_eq!(told(&kit, OTHER).len(), 1);
    answer(&mut kit, OTHER);
    kit.pass_ms(81_000);
    kit.sent.clear();
    kit.ok(chmod(file));
    assert!(told(&kit, OTHER).is_empty());
}

#[test]
fn what_a_mount_holds_open_is_of_interest_as_long_as_it_is_open() {
    let (mut kit, file) = two();
    kit.ok_as(OTHER, Op::Open(pb::Open { inode: file.0, access: 0 }));
    kit.pass_ms(200_000);
    kit.request(chmod(file));
    assert_eq!(told(&kit, OTHER).len(), 1);
}

#[test]
fn a_reply_leaves_when_every_interested_mount_has_forgotten() {
    let (mut kit, file) = two();
    kit.hello(THIRD, &[]);
    kit.silent.push(THIRD);
    lookup(&mut kit, THIRD, "f");
    let request = kit.request(chmod(file));
    assert_eq!(kit.reply_to(request), None);
    answer(&mut kit, OTHER);
    assert_eq!(kit.reply_to(request), None, "one has not answered");
    answer(&mut kit, OTHER);
    assert_eq!(kit.reply_to(request), None, "the same answer again counts once");
    answer(&mut kit, THIRD);
    assert!(matches!(kit.reply_to(request), Some(Reply::Attr(attr)) if attr.mode & 0o777 == 0o600));
}

#[test]
fn reads_and_errors_never_wait() {
    let (mut kit, file) = two();
    let change = kit.request(chmod(file));
    assert!(lookup(&mut kit, SESSION, "f").is_some(), "although the change of it is still waited for");
    let request = kit.request(mkdir("f"));
    assert!(matches!(kit.reply_to(request), Some(Reply::Error(_))));
    assert_eq!(kit.reply_to(change), None);
}

#[test]
fn one_mount_alone_waits_for_nobody() {
    let mut kit = Kit::with_keepers(2);
    let file = kit.create(ROOT, "f");
    kit.upload(file, 0, 10);
    kit.ok(chmod(file));
    assert!(kit.done().iter().all(|done| !done.acks_pending));
    kit.ok(Op::Barrier(pb::Barrier {}));
}

#[test]
fn a_mount_that_does_not_answer_loses_its_stream_and_holds_up_nobody_else() {
    let (mut kit, file) = two();
    let request = kit.request(chmod(file));
    kit.pass_ms(3_000);
    assert_eq!(kit.reply_to(request), None);
    kit.pass_ms(1_000);
    assert!(kit.reply_to(request).is_some());
    assert!(kit.sent.contains(&Effect::CloseMount(OTHER)));
    kit.ok(chmod(file));
    assert!(kit.state.sessions.contains_key(&OTHER), "it may come back");
}

#[test]
fn a_mount_whose_stream_broke_is_waited_for_until_it_must_have_noticed() {
    let (mut kit, file) = two();
    kit.gone(OTHER);
    let request = kit.request(chmod(file));
    assert_eq!(kit.reply_to(request), None, "it may not know yet");
    kit.hello(OTHER, &[]);
    assert!(kit.reply_to(request).is_some(), "who says hello again trusts nothing");
    lookup(&mut kit, OTHER, "f");
    kit.gone(OTHER);
    kit.pass_ms(5_000);
    kit.ok(chmod(file));
}

#[test]
fn a_mount_that_said_goodbye_is_not_waited_for() {
    let (mut kit, file) = two();
    let waiting = kit.request(chmod(file));
    kit.apply(Command::MountGone { session: OTHER, clean: true });
    assert!(kit.reply_to(waiting).is_some());
    kit.ok(chmod(file));
}

#[test]
fn the_success_of_an_upload_does_not_wait_and_a_barrier_does() {
    let (mut kit, file) = two();
    let placed = kit.alloc(file, 0, 10);
    kit.store(&placed);
    let done = kit.done();
    assert!(done[0].error.is_none() && done[0].acks_pending);
    let barrier = kit.request(Op::Barrier(pb::Barrier {}));
    assert_eq!(kit.reply_to(barrier), None);
    let later = kit.request(chmod(file));
    answer_first(&mut kit);
    assert!(kit.reply_to(barrier).is_some(), "it waits for what was before it alone");
    assert_eq!(kit.reply_to(later), None);
    kit.request_as(OTHER, Op::Barrier(pb::Barrier {}));
}

fn answer_first(kit: &mut Kit) {
    let seqs = told(kit, OTHER)[..1].to_vec();
    kit.apply(Command::MountAcks { session: OTHER, seqs });
}

#[test]
fn a_change_that_is_asked_for_again_while_its_reply_is_held_is_done_once() {
    let (mut kit, _) = two();
    let id = kit.request(mkdir("d"));
    kit.gone(SESSION);
    kit.hello(SESSION, &[]);
    let request = pb::MountRequest { id, op: Some(mkdir("d")), answered_below: 0, ..Default::default() };
    kit.apply(Command::Mount { session: SESSION, request });
    answer(&mut kit, OTHER);
    assert!(matches!(kit.reply_to(id), Some(Reply::Attr(_))));
}

impl Kit {
    /// Makes a directory whose reply may be held.
    fn mkdir_silently(&mut self, name: &str) -> InodeNo {
        self.request(mkdir(name));
        match lookup(self, SESSION, name) {
            Some(Reply::Attr(attr)) => InodeNo(attr.inode),
            other => panic!("{other:?}"),
        }
    }
}

/// SESSION's change of `file` waits for OTHER, and SESSION asks for it again on a new stream.
fn held_and_asked_again(kit: &mut Kit, op: Op) -> u64 {
    let request = kit.request(op.clone());
    assert_eq!(kit.reply_to(request), None, "it waits for the other mount");
    kit.gone(SESSION);
    kit.hello(SESSION, &[]);
    kit.request_numbered(SESSION, request, op);
    assert_eq!(kit.reply_to(request), None, "it still waits");
    request
}

#[test]
fn a_create_that_is_held_back_over_a_break_holds_its_file_open() {
    let (mut kit, _) = two();
    let create =
        Op::Create(pb::Create { parent: 1, name: "new".into(), mode: 0o644, uid: 0, gid: 0, umask: 0 });
    let request = held_and_asked_again(&mut kit, create);
    answer(&mut kit, OTHER);
    let Some(Reply::Attr(attr)) = kit.reply_to(request) else { panic!("not answered") };
    kit.request_as(OTHER, kit.unlink_op(ROOT, "new"));
    answer(&mut kit, OTHER);
    assert_eq!(kit.attr(InodeNo(attr.inode)).nlink, 0, "the file that SESSION holds open is gone");
}

#[test]
fn a_reply_that_is_held_back_over_a_break_shows_nothing_old_and_is_of_interest() {
    let (mut kit, file) = two();
    kit.hello(THIRD, &[]);
    let request = kit.request(chmod(file));
    kit.gone(SESSION);
    let chown = |uid| Op::Setattr(pb::Setattr { inode: file.0, uid: Some(uid), ..Default::default() });
    // Between the break and the hello nobody is told.
    kit.request_as(THIRD, chown(7));
    kit.hello(SESSION, &[]);
    kit.request_numbered(SESSION, request, chmod(file));
    kit.sent.clear();
    kit.request_as(THIRD, chown(8));
    assert_eq!(told(&kit, SESSION).len(), 1, "what it is about to be told has changed");
    let seqs = (0..100).collect();
    kit.apply(Command::MountAcks { session: OTHER, seqs });
    let Some(Reply::Attr(attr)) = kit.reply_to(request) else { panic!("not answered") };
    assert_eq!((attr.mode & 0o777, attr.uid), (0o600, 8));
}

/// The directories that came with the reply to what `by` asked.
fn directories(kit: &mut Kit, by: SessionId, op: Op) -> Vec<pb::Attr> {
    kit.sent.clear();
    let request = kit.request_as(by, op);
    let told = kit.sent.iter().find_map(|effect| match effect {
        Effect::ToMount(session, mount_down::Msg::Reply(reply)) if *session == by && reply.id == request => {
            Some(reply.directories.clone())
        }
        _ => None,
    });
    told.unwrap_or_default()
}

#[test]
fn the_reply_to_a_change_of_names_tells_of_the_directories_and_of_their_changes_from_then_on() {
    let mut kit = Kit::new();
    let (from, to) = (kit.mkdir(ROOT, "from"), kit.mkdir(ROOT, "to"));
    let make = Op::Mkdir(pb::Mkdir { parent: from.0, name: "d".into(), mode: 0o755, ..Default::default() });
    let shown = directories(&mut kit, SESSION, make);
    assert_eq!(shown, [kit.attr(from)]);
    assert_eq!(shown[0].nlink, 3);
    let rename = |name: &str, to: InodeNo, new: &str| {
        Op::Rename(pb::Rename {
            parent: from.0,
            name: name.to_owned().into(),
            new_parent: to.0,
            new_name: new.to_owned().into(),
            ..Default::default()
        })
    };
    let shown = directories(&mut kit, SESSION, rename("d", from, "e"));
    assert_eq!(shown, [kit.attr(from)]);
    let shown = directories(&mut kit, SESSION, rename("e", to, "e"));
    assert_eq!(shown, [kit.attr(from), kit.attr(to)]);
    assert!(directories(&mut kit, SESSION, rename("missing", to, "x")).is_empty());
    // Whoever was told hears of the next change, whose reply waits: it tells of none.
    kit.silent.push(SESSION);
    kit.hello(OTHER, &[]);
    let remove = Op::Rmdir(pb::Rmdir { parent: to.0, name: "e".into() });
    assert!(directories(&mut kit, OTHER, remove).is_empty());
    assert!(!told(&kit, SESSION).is_empty());
}
