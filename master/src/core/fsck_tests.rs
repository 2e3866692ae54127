//! Tests of `fsck.rs`.

use dfs_proto::error::DfsError;
use dfs_proto::ids::InodeNo;
use pb::FsckKind::{Missing, Orphan, Unrecorded, Wrong};

use super::super::operator::{Operation, OperatorReply};
use super::super::testkit::Kit;
use super::*;

fn fsck(kit: &mut Kit, repair: bool) -> Result<u64, DfsError> {
    match kit.operate(Operation::Fsck { repair })? {
        OperatorReply::Fsck(started) => Ok(started.number),
        other => panic!("{other:?}"),
    }
}

fn report(kit: &Kit, number: u64) -> pb::FsckReport {
    kit.state.fsck_report(number, kit.now()).unwrap()
}

fn findings(report: &pb::FsckReport) -> Vec<(pb::FsckKind, u64, u64)> {
    report.findings.iter().map(|f| (f.kind(), f.keeper, f.chunk)).collect()
}

/// Two chunks in three copies each; what each keeper has then.
fn two_chunks() -> (Kit, ChunkId, ChunkId) {
    let mut kit = Kit::with_keepers(3);
    let file = kit.create(InodeNo::ROOT, "f");
    let (a, b) = (kit.upload(file, 0, 10), kit.upload(file, 10, 10));
    kit.copy_all();
    (kit, a, b)
}

fn spoiled_inventories(kit: &mut Kit, number: u64, a: ChunkId, b: ChunkId) {
    let (a, b) = (kit.info(a), kit.info(b));
    let wrong = pb::ChunkInfo { checksum: a.checksum ^ 1, ..a };
    kit.numbered_inventory(KeeperId(1), number, vec![a, b]);
    kit.numbered_inventory(KeeperId(2), number, vec![wrong, b]);
    kit.numbered_inventory(
        KeeperId(3),
        number,
        vec![a, pb::ChunkInfo { chunk: 999, length: 1, checksum: 1 }],
    );
}

#[test]
fn it_counts_what_differs_and_changes_nothing() {
    let (mut kit, a, b) = two_chunks();
    let number = fsck(&mut kit, false).unwrap();
    assert_eq!(fsck(&mut kit, false).unwrap_err().code, ErrorCode::Busy);
    assert!(!report(&kit, number).done);
    let before = kit.stored_rows();
    kit.sent.clear();
    spoiled_inventories(&mut kit, number, a, b);
    let report = report(&kit, number);
    assert!(report.done && report.keepers_checked == 3 && report.keepers_unchecked.is_empty());
    assert_eq!(findings(&report), [(Wrong, 2, a.0), (Missing, 3, b.0), (Orphan, 3, 999)]);
    assert_eq!((report.orphans, report.missing, report.wrong, report.lost), (1, 1, 1, 0));
    // But for the counter of chunk ids, which an id that somebody has must not come out of again.
    let rows = |rows: Vec<super::super::Row>| -> Vec<_> {
        rows.into_iter().filter(|row| !matches!(row, super::super::Row::Counters(_))).collect()
    };
    assert_eq!(rows(kit.stored_rows()), rows(before));
    assert!(!kit.was_deleted(KeeperId(3), ChunkId(999)) && !kit.was_verified(KeeperId(2), a));
}

#[test]
fn with_repair_it_mends_what_it_found() {
    let (mut kit, a, b) = two_chunks();
    let number = fsck(&mut kit, true).unwrap();
    spoiled_inventories(&mut kit, number, a, b);
    assert_eq!(findings(&report(&kit, number)).len(), 3);
    assert!(kit.was_deleted(KeeperId(3), ChunkId(999)) && kit.was_verified(KeeperId(2), a));
    assert_eq!(report(&kit, number).under_replicated, 2);
    kit.copy_all();
    assert_eq!(report(&kit, number).under_replicated, 0);
}

#[test]
fn a_copy_that_the_table_lacks_is_no_orphan() {
    let (mut kit, a, b) = two_chunks();
    kit.bad_copy(KeeperId(1), a);
    let (info_a, info_b) = (kit.info(a), kit.info(b));
    let number = fsck(&mut kit, false).unwrap();
    kit.numbered_inventory(KeeperId(1), number, vec![info_a, info_b]);
    assert_eq!(findings(&report(&kit, number)), [(Unrecorded, 1, a.0)]);
}

#[test]
fn what_an_upload_under_way_needs_is_no_orphan_and_is_never_deleted() {
    let mut kit = Kit::with_keepers(2);
    let file = kit.create(InodeNo::ROOT, "f");
    let placed = kit.alloc(file, 0, 10);
    let on_its_way = pb::ChunkInfo { chunk: placed.chunk, length: 10, checksum: 1 };
    let number = fsck(&mut kit, true).unwrap();
    kit.numbered_inventory(KeeperId(1), number, vec![on_its_way]);
    kit.numbered_inventory(KeeperId(2), number, vec![on_its_way]);
    assert_eq!(findings(&report(&kit, number)), []);
    assert!(!kit.was_deleted(KeeperId(1), ChunkId(placed.chunk)));
    // What was recorded meanwhile is not missing, either.
    let number = fsck(&mut kit, true).unwrap();
    kit.store(&placed);
    kit.numbered_inventory(KeeperId(1), number, Vec::new());
    assert_eq!(findings(&report(&kit, number)), []);
}

#[test]
fn a_keeper_that_goes_is_named_and_not_waited_for() {
    let (mut kit, a, b) = two_chunks();
    let number = fsck(&mut kit, false).unwrap();
    let all = vec![kit.info(a), kit.info(b)];
    kit.numbered_inventory(KeeperId(1), number, all.clone());
    // A page of an inventory that was not asked for in this fsck does not count.
    kit.numbered_inventory(KeeperId(2), number - 1, Vec::new());
    assert!(!report(&kit, number).done);
    kit.kill(KeeperId(3));
    kit.numbered_inventory(KeeperId(2), number, all);
    let report = report(&kit, number);
    assert!(report.done);
    assert_eq!((report.keepers_checked, report.keepers_unchecked), (2, vec![3]));
    assert_eq!(kit.state.fsck_report(number + 1, kit.now()).unwrap_err().code, ErrorCode::NotFound);
}

#[test]
fn a_keeper_that_never_answers_does_not_hold_it_up_for_ever() {
    let (mut kit, ..) = two_chunks();
    let number = fsck(&mut kit, false).unwrap();
    kit.pass_ms(DEADLINE_MS);
    let report = report(&kit, number);
    assert!(report.done);
    assert_eq!(report.keepers_unchecked, [1, 2, 3]);
}
