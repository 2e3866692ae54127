//! Tests of `trash.rs`. After each command the kit checks that the trash adds up.

use dfs_proto::ids::KeeperId;
use dfs_proto::pb::mount_request::Op;

use super::super::operator::{Operation, OperatorReply};
use super::super::row::QuotaRow;
use super::super::testkit::{Kit, SESSION};
use super::*;

const ROOT: InodeNo = InodeNo::ROOT;
const DAY_MS: i64 = 86_400_000;

fn kit() -> Kit {
    let mut kit = Kit::with_keepers(2);
    kit.settings.trash_ms = DAY_MS as u64;
    kit.state.settings.trash_ms = DAY_MS as u64;
    kit
}

/// A file of ten bytes that nobody holds open.
fn file(kit: &mut Kit, parent: InodeNo, name: &str) -> InodeNo {
    let file = kit.create(parent, name);
    kit.upload(file, 0, 10);
    kit.release(file);
    file
}

fn operate(kit: &mut Kit, operation: TrashOperation) -> Result<pb::TrashList, DfsError> {
    match kit.operate(Operation::Trash(operation))? {
        OperatorReply::Trash(list) => Ok(list),
        other => panic!("{other:?}"),
    }
}

fn restore(kit: &mut Kit, entry: InodeNo, to: &str) -> Result<pb::TrashList, DfsError> {
    operate(kit, TrashOperation::Restore { entry, to: to.to_owned().into() })
}

fn paths(kit: &Kit, below: &str) -> Vec<String> {
    let list = kit.state.list_trash(below.as_bytes(), None);
    list.entries.iter().map(|entry| String::from_utf8_lossy(&entry.path).into_owned()).collect()
}

fn rename(kit: &mut Kit, from: &str, to: &str) {
    let op = pb::Rename {
        parent: ROOT.0,
        name: from.to_owned().into(),
        new_parent: ROOT.0,
        new_name: to.to_owned().into(),
        ..pb::Rename::default()
    };
    kit.ok(Op::Rename(op));
}

#[test]
fn a_file_is_kept_for_the_period_and_not_longer() {
    let mut kit = kit();
    let (kept, chunks) = (file(&mut kit, ROOT, "f"), 1);
    kit.unlink(ROOT, "f");
    assert_eq!((paths(&kit, ""), kit.state.trash.size()), (vec!["/f".to_owned()], (1, 10)));
    assert_eq!(kit.state.chunks.len(), chunks);
    kit.pass_silently_ms(DAY_MS - 1);
    assert!(kit.state.trash.has(kept));
    kit.pass_silently_ms(1);
    assert_eq!((kit.state.trash.size(), kit.state.chunks.len()), ((0, 0), 0));
    assert!(!kit.state.inodes.contains_key(&kept));
}

#[test]
fn without_a_period_nothing_is_kept_and_what_was_goes() {
    let mut kit = kit();
    file(&mut kit, ROOT, "f");
    kit.unlink(ROOT, "f");
    kit.settings.trash_ms = 0;
    kit.restart();
    kit.hello(SESSION, &[]);
    for keeper in [1, 2] {
        kit.keeper_hello(KeeperId(keeper), "h");
    }
    let other = file(&mut kit, ROOT, "g");
    kit.unlink(ROOT, "g");
    assert!(!kit.state.trash.has(other));
    kit.pass_ms(61_000);
    assert_eq!((kit.state.trash.size().0, kit.state.chunks.len()), (0, 0));
}

#[test]
fn the_last_of_several_names_counts_and_so_does_a_rename_over_it() {
    let mut kit = kit();
    let linked = file(&mut kit, ROOT, "f");
    kit.ok(Op::Link(pb::Link { inode: linked.0, parent: ROOT.0, name: "g".into() }));
    kit.unlink(ROOT, "f");
    assert!(paths(&kit, "").is_empty());
    kit.unlink(ROOT, "g");
    let (_old, _new) = (file(&mut kit, ROOT, "old"), file(&mut kit, ROOT, "new"));
    rename(&mut kit, "new", "old");
    assert_eq!(paths(&kit, ""), ["/g", "/old"]);
    // What has no bytes is not kept.
    kit.mkdir(ROOT, "d");
    kit.ok(Op::Rmdir(pb::Rmdir { parent: ROOT.0, name: "d".into() }));
    assert_eq!(kit.state.trash.size().0, 2);
}

#[test]
fn paths_are_those_of_the_moment_also_in_directories_that_are_gone() {
    let mut kit = kit();
    let a = kit.mkdir(ROOT, "a");
    let deep = kit.mkdir(a, "deep");
    file(&mut kit, deep, "f");
    file(&mut kit, a, "g");
    rename(&mut kit, "a", "b");
    kit.unlink(deep, "f");
    kit.ok(Op::Rmdir(pb::Rmdir { parent: a.0, name: "deep".into() }));
    kit.unlink(a, "g");
    kit.compare_with_stored();
    kit.restart();
    assert_eq!(paths(&kit, "/b"), ["/b/deep/f", "/b/g"]);
    assert_eq!(paths(&kit, "/b/deep/"), ["/b/deep/f"]);
    assert!(paths(&kit, "/b/dee").is_empty());
}

#[test]
fn a_file_is_restored_with_all_it_had_where_there_is_room() {
    let mut kit = kit();
    let d = kit.mkdir(ROOT, "d");
    let kept = file(&mut kit, d, "f");
    kit.unlink(d, "f");
    file(&mut kit, d, "f");
    assert_eq!(restore(&mut kit, kept, "").unwrap_err().code, ErrorCode::Exists);
    assert_eq!(restore(&mut kit, kept, "/no/f").unwrap_err().code, ErrorCode::NotFound);
    assert_eq!(restore(&mut kit, InodeNo(999), "").unwrap_err().code, ErrorCode::NotFound);
    let list = restore(&mut kit, kept, "/back").unwrap();
    assert_eq!((list.entries[0].entry, &list.entries[0].path[..]), (kept.0, &b"/back"[..]));
    assert_eq!((kit.attr(kept).nlink, kit.attr(kept).size, kit.state.trash.size()), (1, 10, (0, 0)));
    kit.compare_with_stored();
    kit.restart();
    kit.pass_ms(DAY_MS / 100);
    assert!(kit.state.inodes.contains_key(&kept));
}

#[test]
fn quotas_do_not_count_it_and_decide_whether_it_may_come_back() {
    let mut kit = kit();
    let d = kit.mkdir(ROOT, "d");
    let kept = file(&mut kit, d, "f");
    let limits = Some(QuotaRow { max_bytes: None, max_inodes: Some(1) });
    kit.operate(Operation::Quota { path: "/d".into(), limits }).unwrap();
    kit.unlink(d, "f");
    let other = file(&mut kit, d, "g");
    assert_eq!(restore(&mut kit, kept, "").unwrap_err().code, ErrorCode::QuotaExceeded);
    kit.unlink(d, "g");
    restore(&mut kit, kept, "").unwrap();
    assert!(kit.state.trash.has(other));
}

#[test]
fn an_open_file_outlives_its_purge_and_a_purge_of_all_goes_in_steps() {
    let mut kit = kit();
    let open = kit.create(ROOT, "open");
    kit.upload(open, 0, 10);
    kit.unlink(ROOT, "open");
    operate(&mut kit, TrashOperation::Purge(Some(open))).unwrap();
    assert!(kit.state.inodes.contains_key(&open) && !kit.state.trash.has(open));
    kit.release(open);
    assert!(!kit.state.inodes.contains_key(&open));

    let many = 2 * STEP + 1;
    for n in 0..many {
        let name = format!("f{n}");
        let file = kit.create(ROOT, &name);
        kit.release(file);
        kit.unlink(ROOT, &name);
    }
    assert_eq!(operate(&mut kit, TrashOperation::Purge(None)).unwrap().files, many as u64);
    for left in [STEP + 1, 1, 0] {
        kit.tick();
        assert_eq!(kit.state.trash.size().0, left as u64);
    }
    // What comes in later stays.
    kit.pass_ms(1_000);
    file(&mut kit, ROOT, "later");
    kit.unlink(ROOT, "later");
    kit.pass_ms(5_000);
    assert_eq!(kit.state.trash.size().0, 1);
}

#[test]
fn a_listing_comes_in_pages() {
    let mut kit = kit();
    for n in 0..PAGE + 5 {
        kit.state.trash.insert(
            InodeNo(1_000_000 + n as u64),
            TrashRow { path: format!("/f{n}").into_bytes().into(), deleted: kit.now(), bytes: 0 },
        );
    }
    let first = kit.state.list_trash(b"", None);
    let next = first.next.unwrap();
    let second = kit.state.list_trash(b"/", Some((next.deleted_ms, InodeNo(next.entry))));
    assert_eq!((first.entries.len(), second.entries.len(), second.next), (PAGE, 5, None));
}
