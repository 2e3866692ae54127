//! Tests of `quota.rs`: what counts, what is refused, and what a move does. After each command the kit recounts
//! every quota (`check_quotas`).

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::{ChunkId, InodeNo, KeeperId};
use dfs_proto::pb::{self, mount_reply::Result as Reply, mount_request::Op};

use super::Command;
use super::operator::{Operation, OperatorReply};
use super::row::QuotaRow;
use super::testkit::{Kit, SESSION};

const ROOT: InodeNo = InodeNo::ROOT;

fn change(kit: &mut Kit, path: &str, limits: Option<(u64, u64)>) -> Result<pb::QuotaList, DfsError> {
    let some = |limit: u64| (limit != 0).then_some(limit);
    let limits = limits.map(|(bytes, inodes)| QuotaRow { max_bytes: some(bytes), max_inodes: some(inodes) });
    kit.sent.clear();
    match kit.operate(Operation::Quota { path: path.to_owned().into(), limits })? {
        OperatorReply::Quotas(quotas) => Ok(quotas),
        other => panic!("no answer: {other:?}"),
    }
}

/// 0: no limit.
fn set(kit: &mut Kit, path: &str, bytes: u64, inodes: u64) {
    change(kit, path, Some((bytes, inodes))).unwrap();
}

/// (bytes, inodes)
fn used(kit: &Kit, path: &str) -> (u64, u64) {
    let list = kit.state.quotas(path.as_bytes()).unwrap();
    (list.quotas[0].used_bytes, list.quotas[0].used_inodes)
}

fn rename(from: (InodeNo, &str), to: (InodeNo, &str), exchange: bool) -> Op {
    Op::Rename(pb::Rename {
        parent: from.0.0,
        name: from.1.to_owned().into(),
        new_parent: to.0.0,
        new_name: to.1.to_owned().into(),
        no_replace: false,
        exchange,
    })
}

/// Why that many bytes may not be stored; the place is given back.
fn refused(kit: &mut Kit, inode: InodeNo, offset: u64, length: u64) -> Option<ErrorCode> {
    match kit.alloc_runs(inode, &[(offset, length)]) {
        Ok(placed) => {
            kit.ok(Op::AbortUpload(pb::AbortUpload { chunk: placed.chunk, ..Default::default() }));
            None
        }
        Err(error) => Some(error.code),
    }
}

fn link(inode: InodeNo, parent: InodeNo, name: &str) -> Op {
    Op::Link(pb::Link { inode: inode.0, parent: parent.0, name: name.to_owned().into() })
}

fn copy(source: InodeNo, target: InodeNo, length: u64) -> Op {
    let (source, target) = (source.0, target.0);
    Op::CopyRange(pb::CopyRange { source, source_offset: 0, target, target_offset: 0, length })
}

#[test]
fn every_way_to_make_an_inode_is_refused_when_there_are_too_many() {
    let mut kit = Kit::with_keepers(2);
    let dir = kit.mkdir(ROOT, "q");
    let outside = kit.create(ROOT, "outside");
    set(&mut kit, "/q", 0, 2);
    let sub = kit.mkdir(dir, "sub");
    let file = kit.create(sub, "f");
    assert_eq!(used(&kit, "/q"), (0, 2), "the directory itself does not count");
    let name = || bytes::Bytes::from_static(b"new");
    for parent in [dir, sub] {
        let parent = parent.0;
        let ops = [
            Op::Create(pb::Create { parent, name: name(), mode: 0o644, ..Default::default() }),
            Op::Mkdir(pb::Mkdir { parent, name: name(), mode: 0o755, ..Default::default() }),
            Op::Mknod(pb::Mknod { parent, name: name(), mode: 0o10_644, ..Default::default() }),
            Op::Symlink(pb::Symlink { parent, name: name(), target: name(), ..Default::default() }),
            link(outside, InodeNo(parent), "new"),
        ];
        for op in ops {
            assert_eq!(kit.code(op.clone()), Some(ErrorCode::QuotaExceeded), "{op:?}");
        }
    }
    assert_eq!(kit.code(link(file, dir, "again")), None, "one inode counts once");
    assert_eq!(used(&kit, "/q"), (0, 2));
    kit.unlink(sub, "f");
    assert_eq!(used(&kit, "/q"), (0, 2));
    kit.unlink(dir, "again");
    assert_eq!(used(&kit, "/q"), (0, 1), "what has no name does not count, though it is open");
    kit.create(dir, "new");
    kit.create(ROOT, "elsewhere");
    kit.compare_with_stored();
}

#[test]
fn bytes_count_in_blocks_and_what_is_overwritten_counts_once() {
    let mut kit = Kit::with_keepers(2);
    let dir = kit.mkdir(ROOT, "q");
    let file = kit.create(dir, "f");
    kit.upload(file, 0, 1000);
    set(&mut kit, "/q", 4096, 0);
    assert_eq!(used(&kit, "/q"), (1024, 1), "what was there before counts");
    kit.upload(file, 100_000, 3000);
    assert_eq!(used(&kit, "/q"), (4096, 1), "4000 bytes are 8 blocks, a hole none");
    assert_eq!(refused(&mut kit, file, 50_000, 97), Some(ErrorCode::QuotaExceeded));
    assert_eq!(refused(&mut kit, file, 50_000, 1), None, "the last block has room");
    kit.upload(file, 100_500, 1000);
    kit.upload(file, 0, 1000);
    assert_eq!(used(&kit, "/q"), (4096, 1), "in the place of what was there");
    let other = kit.create(ROOT, "other");
    assert_eq!(refused(&mut kit, other, 0, 1 << 20), None);
    kit.truncate(file, 1_000_000);
    let hole =
        Op::Fallocate(pb::Fallocate { inode: file.0, offset: 0, length: 2_000_000, ..Default::default() });
    kit.ok(hole);
    assert_eq!(used(&kit, "/q"), (4096, 1), "holes take no room");
    kit.truncate(file, 1000);
    assert_eq!(used(&kit, "/q"), (1024, 1));
    kit.unlink(dir, "f");
    assert_eq!(used(&kit, "/q"), (0, 0));
    assert_eq!(refused(&mut kit, file, 0, 1 << 20), None, "without a name nobody counts it");
}

#[test]
fn uploads_that_are_under_way_count() {
    let mut kit = Kit::with_keepers(2);
    let dir = kit.mkdir(ROOT, "q");
    set(&mut kit, "/q", 10_240, 0);
    let (a, b) = (kit.create(dir, "a"), kit.create(dir, "b"));
    let placed = kit.alloc(a, 0, 6000);
    assert_eq!(refused(&mut kit, b, 0, 6000), Some(ErrorCode::QuotaExceeded));
    assert_eq!(refused(&mut kit, a, 6000, 6000), Some(ErrorCode::QuotaExceeded));
    let again = kit.alloc_replacing(a, 0, 6000, placed.chunk);
    kit.store(&again);
    assert_eq!(used(&kit, "/q"), (6144, 2));
    // Two that each rewrite all of it, at once.
    let rewrites = [kit.alloc(a, 0, 6000), kit.alloc(a, 0, 6000)];
    kit.ok(Op::AbortUpload(pb::AbortUpload { chunk: rewrites[0].chunk, ..Default::default() }));
    kit.store(&rewrites[1]);
    let last = kit.alloc(b, 0, 4096);
    kit.store(&last);
    assert_eq!(used(&kit, "/q"), (10_240, 2), "full to the last byte");
}

#[test]
fn uploads_to_one_file_share_its_blocks() {
    let mut kit = Kit::with_keepers(2);
    let dir = kit.mkdir(ROOT, "q");
    set(&mut kit, "/q", 512, 0);
    let file = kit.create(dir, "f");
    let placed = [kit.alloc(file, 0, 300), kit.alloc(file, 300, 200), kit.alloc(file, 500, 10)];
    // By itself it would fit, beside the others it does not.
    assert_eq!(refused(&mut kit, file, 510, 10), Some(ErrorCode::QuotaExceeded));
    placed.iter().for_each(|placed| kit.store(placed));
    assert_eq!(used(&kit, "/q"), (512, 1));
    let last = kit.alloc(file, 510, 2);
    assert_eq!(refused(&mut kit, file, 512, 1), Some(ErrorCode::QuotaExceeded));
    kit.store(&last);
    assert_eq!(used(&kit, "/q"), (512, 1));
}

#[test]
fn what_takes_the_room_of_an_upload_that_was_there_before_the_quota_is_refused() {
    let mut kit = Kit::with_keepers(2);
    let dir = kit.mkdir(ROOT, "q");
    let file = kit.create(dir, "f");
    let placed = kit.alloc(file, 0, 10);
    set(&mut kit, "/q", 100, 0);
    assert_eq!(refused(&mut kit, file, 0, 10), Some(ErrorCode::QuotaExceeded), "the other one may fail");
    kit.store(&placed);
    assert_eq!(used(&kit, "/q"), (512, 1));
}

#[test]
fn a_file_takes_its_uploads_along_and_no_room_that_was_promised_to_others() {
    let mut kit = Kit::with_keepers(2);
    let (q, free) = (kit.mkdir(ROOT, "q"), kit.mkdir(ROOT, "free"));
    set(&mut kit, "/q", 4096, 0);
    let file = kit.create(free, "f");
    let placed = kit.alloc(file, 0, 5000);
    let into = rename((free, "f"), (q, "f"), false);
    assert_eq!(kit.code(into.clone()), Some(ErrorCode::QuotaExceeded), "5000 bytes are on their way into it");
    assert_eq!(kit.code(link(file, q, "f")), Some(ErrorCode::QuotaExceeded));
    kit.ok(Op::AbortUpload(pb::AbortUpload { chunk: placed.chunk, ..Default::default() }));
    kit.upload(file, 0, 1000);
    let other = kit.create(q, "other");
    let placed = kit.alloc(other, 0, 3500);
    assert_eq!(kit.code(into.clone()), Some(ErrorCode::QuotaExceeded), "3584 bytes are promised");
    let small = kit.alloc_replacing(other, 0, 3072, placed.chunk);
    kit.ok(into);
    kit.store(&small);
    assert_eq!(used(&kit, "/q"), (4096, 2));
}

#[test]
fn a_copy_of_a_range_counts_though_it_stores_nothing() {
    let mut kit = Kit::with_keepers(2);
    let dir = kit.mkdir(ROOT, "q");
    let (source, target) = (kit.create(ROOT, "source"), kit.create(dir, "target"));
    kit.upload(source, 0, 5000);
    set(&mut kit, "/q", 4096, 0);
    assert_eq!(kit.code(copy(source, target, 5000)), Some(ErrorCode::QuotaExceeded));
    assert_eq!(kit.attr(target).size, 0, "nothing was copied");
    kit.ok(copy(source, target, 4096));
    kit.ok(copy(source, target, 4096));
    assert_eq!(used(&kit, "/q"), (4096, 1));
}

#[test]
fn nested_quotas_all_apply_and_one_may_go_without_the_other() {
    let mut kit = Kit::with_keepers(2);
    let outer = kit.mkdir(ROOT, "outer");
    let inner = kit.mkdir(outer, "inner");
    let (near, deep) = (kit.create(outer, "near"), kit.create(inner, "deep"));
    set(&mut kit, "/outer/inner", 8192, 0);
    set(&mut kit, "/outer", 10_240, 0);
    kit.upload(deep, 0, 6000);
    assert_eq!((used(&kit, "/outer"), used(&kit, "/outer/inner")), ((6144, 3), (6144, 1)));
    assert_eq!(refused(&mut kit, deep, 6000, 3000), Some(ErrorCode::QuotaExceeded), "the inner one");
    kit.upload(near, 0, 4000);
    assert_eq!(refused(&mut kit, deep, 6000, 1000), Some(ErrorCode::QuotaExceeded), "the outer one");
    let all = kit.state.quotas(b"").unwrap().quotas;
    let paths: Vec<&[u8]> = all.iter().map(|quota| &quota.path[..]).collect();
    assert_eq!(paths, [&b"/outer"[..], b"/outer/inner"]);
    kit.restart();
    assert_eq!((used(&kit, "/outer"), used(&kit, "/outer/inner")), ((10_240, 3), (6144, 1)));
    assert_eq!(change(&mut kit, "/outer", None).unwrap().quotas.len(), 1);
    assert_eq!(used(&kit, "/outer/inner"), (6144, 1));
    set(&mut kit, "/outer", 0, 50);
    assert_eq!(change(&mut kit, "/outer/inner", None).unwrap().quotas.len(), 1);
    assert_eq!(change(&mut kit, "/outer/inner", None).unwrap().quotas, [], "there was none");
    assert_eq!(used(&kit, "/outer"), (10_240, 3));
    kit.compare_with_stored();
}

#[test]
fn a_file_that_moves_takes_its_usage_along_and_a_directory_stays() {
    let mut kit = Kit::with_keepers(2);
    let (q, r, free) = (kit.mkdir(ROOT, "q"), kit.mkdir(ROOT, "r"), kit.mkdir(ROOT, "free"));
    set(&mut kit, "/q", 10_000, 3);
    set(&mut kit, "/r", 3000, 3);
    let file = kit.create(q, "f");
    kit.upload(file, 0, 5000);
    assert_eq!(kit.code(rename((q, "f"), (r, "f"), false)), Some(ErrorCode::QuotaExceeded));
    assert_eq!(used(&kit, "/q"), (5120, 1));
    kit.ok(rename((q, "f"), (free, "f"), false));
    assert_eq!(used(&kit, "/q"), (0, 0));
    kit.ok(rename((free, "f"), (q, "g"), false));
    assert_eq!(used(&kit, "/q"), (5120, 1));
    // Over another: that one goes.
    let old = kit.create(q, "old");
    kit.upload(old, 0, 2000);
    kit.ok(rename((q, "g"), (q, "old"), false));
    assert_eq!(used(&kit, "/q"), (5120, 1));

    let sub = kit.mkdir(q, "sub");
    kit.create(sub, "x");
    kit.mkdir(free, "dir");
    for (from, to) in [((q, "sub"), (free, "sub")), ((free, "dir"), (q, "dir")), ((q, "sub"), (r, "sub"))] {
        assert_eq!(kit.code(rename(from, to, false)), Some(ErrorCode::CrossesQuota), "{from:?}");
    }
    kit.create(free, "y");
    assert_eq!(kit.code(rename((q, "old"), (free, "y"), true)), Some(ErrorCode::CrossesQuota));
    assert_eq!(used(&kit, "/q"), (5120, 3));
    kit.ok(rename((q, "sub"), (q, "moved"), false));
    kit.ok(rename((sub, "x"), (q, "x"), false));
    assert_eq!(used(&kit, "/q"), (5120, 3));
    // With its own quota, where nobody else counts.
    kit.ok(rename((ROOT, "q"), (free, "q"), false));
    assert_eq!(used(&kit, "/free/q"), (5120, 3));
    kit.compare_with_stored();
}

#[test]
fn a_file_with_names_in_two_quotas_counts_once_in_each() {
    let mut kit = Kit::with_keepers(2);
    let (q, r) = (kit.mkdir(ROOT, "q"), kit.mkdir(ROOT, "r"));
    let file = kit.create(q, "a");
    kit.ok(link(file, q, "b"));
    kit.ok(link(file, r, "c"));
    kit.upload(file, 0, 1024);
    set(&mut kit, "/q", 4096, 9);
    set(&mut kit, "/r", 2048, 9);
    assert_eq!((used(&kit, "/q"), used(&kit, "/r")), ((1024, 1), (1024, 1)));
    assert_eq!(refused(&mut kit, file, 1024, 2048), Some(ErrorCode::QuotaExceeded), "both need room");
    kit.upload(file, 1024, 1024);
    kit.unlink(q, "a");
    assert_eq!((used(&kit, "/q"), used(&kit, "/r")), ((2048, 1), (2048, 1)));
    kit.unlink(r, "c");
    assert_eq!((used(&kit, "/q"), used(&kit, "/r")), ((2048, 1), (0, 0)));
    kit.upload(file, 2048, 2048);
    assert_eq!(kit.code(link(file, r, "c")), Some(ErrorCode::QuotaExceeded));
    kit.compare_with_stored();
}

#[test]
fn a_quota_goes_with_its_directory_and_a_lower_limit_takes_nothing_away() {
    let mut kit = Kit::with_keepers(2);
    let dir = kit.mkdir(ROOT, "q");
    let file = kit.create(dir, "f");
    kit.upload(file, 0, 5000);
    set(&mut kit, "/q", 1000, 1);
    assert_eq!(used(&kit, "/q"), (5120, 1));
    assert_eq!(refused(&mut kit, file, 0, 5000), None, "what takes no more room");
    assert_eq!(refused(&mut kit, file, 5000, 1000), Some(ErrorCode::QuotaExceeded));
    set(&mut kit, "/q", 9000, 0);
    let limits = kit.state.quotas(b"/q").unwrap().quotas[0].clone();
    assert_eq!((limits.max_bytes, limits.max_inodes), (Some(9000), Some(1)), "the other limit stays");
    kit.unlink(dir, "f");
    kit.ok(Op::Rmdir(pb::Rmdir { parent: ROOT.0, name: bytes::Bytes::from_static(b"q") }));
    assert!(kit.state.quotas(b"").unwrap().quotas.is_empty());
    kit.compare_with_stored();
}

/// The kit would check the whole state after each command.
#[test]
fn a_quota_over_a_large_tree_is_counted_in_one_go() {
    const FILES: u64 = 30_000;
    /// Ids that the kit does not use.
    const FIRST: u64 = 1 << 32;
    let mut kit = Kit::with_keepers(1);
    let dir = kit.mkdir(ROOT, "q");
    let (now, session) = (kit.now(), SESSION);
    let create = |id: u64| {
        Op::Mknod(pb::Mknod { parent: dir.0, name: format!("file {id}").into(), ..Default::default() })
    };
    for id in 0..FILES {
        let request = pb::MountRequest {
            id: FIRST + id,
            op: Some(create(id)),
            answered_below: FIRST + id,
            ..Default::default()
        };
        kit.state.apply(Command::Mount { session, request }, now);
    }
    let limits = Some(QuotaRow { max_bytes: None, max_inodes: Some(FILES) });
    let begun = std::time::Instant::now();
    kit.state.apply(Command::Operator(Operation::Quota { path: "/q".into(), limits }), now);
    println!("a quota over {FILES} files took {:?}", begun.elapsed());
    assert_eq!(used(&kit, "/q"), (0, FILES));
    let request = pb::MountRequest {
        id: FIRST + FILES,
        op: Some(create(FILES)),
        answered_below: 0,
        ..Default::default()
    };
    kit.apply(Command::Mount { session, request });
    assert_eq!(used(&kit, "/q"), (0, FILES), "one more was made");
}

#[test]
fn what_can_have_no_quota_is_refused() {
    let mut kit = Kit::with_keepers(2);
    kit.create(ROOT, "f");
    let mut code = |path: &str, limits| change(&mut kit, path, limits).map_err(|error| error.code).err();
    assert_eq!(code("/f", Some((1, 0))), Some(ErrorCode::NotDirectory));
    assert_eq!(code("/none", Some((1, 0))), Some(ErrorCode::NotFound));
    assert_eq!(code("/", Some((0, 0))), Some(ErrorCode::Invalid));
    assert_eq!(code("/none", None), Some(ErrorCode::NotFound));
    assert_eq!(code("", None), Some(ErrorCode::Invalid));
    assert_eq!(code("/", Some((1 << 20, 0))), None);
    assert_eq!(used(&kit, "/"), (0, 1));
}

#[test]
fn statfs_below_a_quota_shows_what_it_leaves() {
    let mut kit = Kit::with_keepers(2);
    let dir = kit.mkdir(ROOT, "q");
    let sub = kit.mkdir(dir, "sub");
    let file = kit.create(sub, "f");
    kit.upload(file, 0, 1024);
    let statfs = |kit: &mut Kit, inode: InodeNo| match kit.ok(Op::Statfs(pb::Statfs { inode: inode.0 })) {
        Reply::Statfs(info) => (info.total, info.free),
        other => panic!("{other:?}"),
    };
    let whole = statfs(&mut kit, ROOT);
    assert_eq!(statfs(&mut kit, dir), whole);
    set(&mut kit, "/q", 10_240, 0);
    for inode in [dir, sub, file] {
        assert_eq!(statfs(&mut kit, inode), (10_240, 9216));
    }
    assert_eq!(statfs(&mut kit, ROOT), whole);
    set(&mut kit, "/q", u64::MAX, 0);
    assert_eq!(statfs(&mut kit, dir), whole, "no more than there is");
    assert!(kit.state.is_alive(KeeperId(1)) && kit.state.chunks.get(ChunkId(1)).is_some());
}
