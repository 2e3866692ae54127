//! Tests of `duty.rs`.

use super::super::Command;
use super::super::command::Effect;
use super::super::operator::{Operation, OperatorReply};
use super::super::testkit::Kit;
use super::*;
use dfs_proto::ids::{ChunkId, InodeNo};

fn order(kit: &mut Kit, keeper: &str, duty: Duty) -> Result<pb::KeeperRow, DfsError> {
    match kit.operate(Operation::Duty { keeper: keeper.to_owned(), duty })? {
        OperatorReply::Keeper(row) => Ok(*row),
        other => panic!("{other:?}"),
    }
}

fn row(kit: &Kit, keeper: u64) -> pb::KeeperRow {
    kit.state.keepers(kit.now()).into_iter().find(|row| row.keeper == keeper).unwrap()
}

fn holders(kit: &Kit, chunk: ChunkId) -> Vec<u64> {
    kit.state.chunks.get(chunk).unwrap().keepers.iter().map(|k| k.0).collect()
}

fn sync_all(kit: &mut Kit) {
    let unsynced: Vec<(ChunkId, KeeperId)> = kit.state.syncs.unsynced().collect();
    unsynced.into_iter().for_each(|(chunk, keeper)| kit.synced(keeper, chunk));
}

/// Ten chunks with three synced copies each.
fn filled(keepers: u64) -> (Kit, InodeNo, Vec<ChunkId>) {
    let mut kit = Kit::with_keepers(keepers);
    let file = kit.create(InodeNo::ROOT, "f");
    let chunks = (0..10).map(|i| kit.upload(file, i * 10, 10)).collect();
    kit.copy_all();
    sync_all(&mut kit);
    (kit, file, chunks)
}

#[test]
fn a_drained_keeper_ends_up_empty_with_all_copies_elsewhere() {
    let (mut kit, file, chunks) = filled(4);
    order(&mut kit, "1", Duty::Drain).unwrap();
    assert!(row(&kit, 1).draining && !row(&kit, 1).drained);
    // It is a source, and no destination of anything.
    assert!(kit.pushes().iter().all(|(_, _, _, to)| *to != KeeperId(1)));
    assert!(!kit.pushes().is_empty());
    for i in 0..10 {
        let placed = kit.alloc(file, 1000 + i * 10, 10);
        assert!(!Kit::placed_on(&placed).contains(&KeeperId(1)));
        kit.store(&placed);
    }
    kit.copy_all();
    kit.pass_ms(11_000);
    assert!(!row(&kit, 1).drained, "nothing is taken off it before the new copies are on stable storage");
    sync_all(&mut kit);
    kit.pass_ms(11_000);
    let row = row(&kit, 1);
    assert!(row.drained && row.chunks == 0 && row.stuck.is_empty(), "{row:?}");
    for chunk in chunks {
        assert_eq!(holders(&kit, chunk), [2, 3, 4]);
        assert!(kit.state.syncs.is_synced(chunk, KeeperId(2)));
    }
    kit.compare_with_stored();
}

#[test]
fn a_drain_outlives_a_restart_and_can_be_cancelled() {
    let (mut kit, ..) = filled(4);
    order(&mut kit, "h1:1", Duty::Drain).unwrap();
    kit.restart();
    for id in 1..=4 {
        kit.keeper_hello(KeeperId(id), &format!("h{id}"));
    }
    assert!(row(&kit, 1).draining, "the row says so");
    kit.pass_ms(11_000);
    assert!(!kit.pushes().is_empty());
    order(&mut kit, "1", Duty::CancelDrain).unwrap();
    assert!(!row(&kit, 1).draining);
    kit.copy_all();
    assert_eq!(kit.state.status(kit.now()).under_replicated, 0);
    kit.restart();
    kit.keeper_hello(KeeperId(1), "h1");
    assert!(!row(&kit, 1).draining);
}

#[test]
fn a_drain_that_cannot_end_says_why() {
    let (mut kit, ..) = filled(3);
    order(&mut kit, "1", Duty::Drain).unwrap();
    kit.pass_ms(30_000);
    assert!(row(&kit, 1).stuck.contains("add a keeper"), "{:?}", row(&kit, 1));
    kit.keeper_hello(KeeperId(4), "h4");
    assert!(row(&kit, 1).stuck.is_empty());
    kit.copy_all();
    sync_all(&mut kit);
    kit.pass_ms(11_000);
    assert!(row(&kit, 1).drained);
}

#[test]
fn who_is_in_maintenance_is_not_missed_until_its_end() {
    let (mut kit, ..) = filled(4);
    order(&mut kit, "1", Duty::Maintenance { for_ms: 600_000 }).unwrap();
    kit.kill(KeeperId(1));
    kit.pass_ms(60_000);
    assert!(kit.pushes().is_empty(), "no repair storm");
    assert_eq!(kit.state.status(kit.now()).under_replicated, 0);
    // The master's restart changes nothing of it.
    kit.restart();
    for id in 2..=4 {
        kit.keeper_hello(KeeperId(id), &format!("h{id}"));
    }
    kit.pass_ms(60_000);
    assert!(kit.pushes().is_empty());
    kit.pass_ms(600_000);
    assert!(!row(&kit, 1).alive && row(&kit, 1).maintenance_left_ms == 0);
    assert!(!kit.pushes().is_empty(), "it did not come back in time");
    kit.compare_with_stored();
}

#[test]
fn endangered_chunks_are_repaired_in_spite_of_maintenance_up_to_min_copies() {
    let (mut kit, _, chunks) = filled(4);
    let chunk = chunks[0];
    let had = holders(&kit, chunk);
    order(&mut kit, &had[0].to_string(), Duty::Maintenance { for_ms: 600_000 }).unwrap();
    kit.kill(KeeperId(had[0]));
    assert!(kit.pushes().is_empty());
    kit.bad_copy(KeeperId(had[1]), chunk);
    let pushes = kit.pushes();
    assert_eq!(pushes.iter().map(|(_, chunk, ..)| *chunk).collect::<Vec<_>>(), [chunk]);
    kit.copy_all();
    assert_eq!(kit.state.chunks.get(chunk).unwrap().live, 2);
    // Off: what is missing is made up for.
    order(&mut kit, &had[0].to_string(), Duty::Maintenance { for_ms: 0 }).unwrap();
    kit.copy_all();
    assert_eq!(kit.state.status(kit.now()).under_replicated, 0);
}

#[test]
fn only_who_has_nothing_that_is_needed_can_be_forgotten() {
    let (mut kit, _, chunks) = filled(4);
    let error = order(&mut kit, "1", Duty::Forget).unwrap_err();
    assert!(error.message.contains("live and not drained"), "{error}");
    kit.apply(Command::KeeperGone(KeeperId(1)));
    kit.kill(KeeperId(1));
    let error = order(&mut kit, "1", Duty::Forget).unwrap_err();
    assert!(error.message.contains("needed") || error.message.contains("copies of"), "{error}");
    kit.copy_all();
    let was = order(&mut kit, "1", Duty::Forget).unwrap();
    assert_eq!(was.keeper, 1);
    assert!(kit.state.keepers.len() == 3 && chunks.iter().all(|chunk| !holders(&kit, *chunk).contains(&1)));
    assert_eq!(order(&mut kit, "1", Duty::Forget).unwrap_err().code, ErrorCode::NotFound);
    kit.compare_with_stored();
    // Should it come back, it joins anew, and what it has is sorted out.
    kit.keeper_hello(KeeperId(1), "h1");
    kit.inventory(KeeperId(1), chunks.iter().map(|chunk| kit.info(*chunk)).collect());
    sync_all(&mut kit);
    for _ in 0..2 {
        kit.pass_ms(11_000);
    }
    assert!(chunks.iter().all(|chunk| holders(&kit, *chunk).len() == 3));
}

#[test]
fn one_that_comes_back_is_counted_what_is_yet_on_its_way_to_it() {
    let mut kit = Kit::with_keepers(4);
    let file = kit.create(InodeNo::ROOT, "f");
    let placed = kit.alloc(file, 0, 10);
    let second = Kit::placed_on(&placed)[1];
    kit.kill(second);
    order(&mut kit, &second.to_string(), Duty::Forget).unwrap();
    kit.keeper_hello(second, "h");
    assert_eq!(kit.state.keepers[&second].pending_bytes, 10);
    kit.store_on(&placed, &Kit::placed_on(&placed));
    assert_eq!(kit.state.keepers[&second].pending_bytes, 0);
}

#[test]
fn a_live_keeper_that_was_drained_is_told_that_it_was_forgotten() {
    let (mut kit, ..) = filled(4);
    order(&mut kit, "2", Duty::Drain).unwrap();
    kit.copy_all();
    sync_all(&mut kit);
    kit.pass_ms(11_000);
    assert!(row(&kit, 2).drained);
    kit.sent.clear();
    order(&mut kit, "2", Duty::Forget).unwrap();
    let refused = kit
        .sent
        .iter()
        .any(|effect| matches!(effect, Effect::ToKeeper(KeeperId(2), keeper_down::Msg::Refused(_))));
    assert!(refused);
    kit.heartbeat(KeeperId(2));
    assert_eq!(kit.state.keepers.len(), 3);
}

#[test]
fn a_keeper_is_named_by_its_id_or_its_address() {
    let mut kit = Kit::with_keepers(2);
    kit.keeper_joins(KeeperId(9), "h1", &[]);
    assert_eq!(order(&mut kit, "h2:1", Duty::Drain).unwrap().keeper, 2);
    assert_eq!(order(&mut kit, "h1:1", Duty::Drain).unwrap_err().code, ErrorCode::Invalid);
    assert_eq!(order(&mut kit, "7", Duty::Drain).unwrap_err().code, ErrorCode::NotFound);
    let too_long = Duty::Maintenance { for_ms: u64::MAX };
    assert_eq!(order(&mut kit, "1", too_long).unwrap_err().code, ErrorCode::Invalid);
}
