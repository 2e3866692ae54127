//! Tests of `replicate.rs`.

use super::super::testkit::{Kit, checksum};
use super::*;
use dfs_proto::ids::InodeNo;
use dfs_proto::pb::keeper_up;

fn holders(kit: &Kit, chunk: ChunkId) -> Vec<u64> {
    kit.state.chunks.get(chunk).unwrap().keepers.iter().map(|k| k.0).collect()
}

#[test]
fn a_recorded_chunk_is_copied_up_to_copies_at_once() {
    let mut kit = Kit::with_keepers(4);
    let file = kit.create(InodeNo::ROOT, "f");
    kit.sent.clear();
    let chunk = kit.upload(file, 0, 10);
    assert_eq!(kit.pushes().len(), 1);
    let told: Vec<(KeeperId, bool)> = kit
        .sent
        .iter()
        .filter_map(|effect| match effect {
            super::super::Effect::ToKeeper(to, keeper_down::Msg::Push(_)) => Some((*to, true)),
            super::super::Effect::ToKeeper(to, keeper_down::Msg::Expect(_)) => Some((*to, false)),
            _ => None,
        })
        .collect();
    let (_, _, source, destination) = kit.pushes()[0];
    assert_eq!(told, [(destination, false), (source, true)], "the destination is told first");
    kit.copy_all();
    assert_eq!(holders(&kit, chunk).len(), 3);
    assert_eq!(kit.state.status(kit.now()).under_replicated, 0);
}

#[test]
fn a_death_is_repaired_at_once_and_on_another_host() {
    let mut kit = Kit::new();
    for (id, host) in [(1, "a"), (2, "b"), (3, "c"), (4, "a"), (5, "d")] {
        kit.keeper_hello(KeeperId(id), host);
    }
    let file = kit.create(InodeNo::ROOT, "f");
    let chunk = kit.upload(file, 0, 10);
    kit.copy_all();
    let victim = holders(&kit, chunk)[0];
    kit.kill(KeeperId(victim));
    let pushes = kit.pushes();
    assert_eq!(pushes.len(), 1);
    kit.copy_all();
    let live: Vec<u64> = holders(&kit, chunk).into_iter().filter(|id| *id != victim).collect();
    let hosts: BTreeSet<&String> = live
        .iter()
        .filter_map(|id| kit.state.keepers.get(&KeeperId(*id)).map(|keeper| &keeper.row.host))
        .collect();
    assert_eq!((live.len(), hosts.len()), (3, 3), "{live:?}");
}

#[test]
fn the_most_endangered_are_copied_first() {
    let mut kit = Kit::with_keepers(3);
    let file = kit.create(InodeNo::ROOT, "f");
    let chunks: Vec<ChunkId> = (0..20).map(|i| kit.upload(file, i * 10, 10)).collect();
    kit.copy_all();
    // One copy of all chunks goes, and a second one of the last.
    kit.kill(KeeperId(3));
    let endangered = chunks[19];
    kit.bad_copy(KeeperId(2), endangered);
    let order = kit.pushes().into_iter().find(|(_, chunk, _, _)| *chunk == endangered);
    assert_eq!(order.map(|(_, _, source, to)| (source.0, to.0)), Some((1, 2)), "repaired at once");
    kit.state.cancel_orders_of(endangered);
    kit.keeper_hello(KeeperId(4), "h4");
    assert_eq!(kit.pushes()[0].1, endangered, "first in the pass, though last in number");
}

#[test]
fn a_keeper_has_few_orders_at_once_and_all_get_done() {
    let mut kit = Kit::with_keepers(3);
    let file = kit.create(InodeNo::ROOT, "f");
    for i in 0..100 {
        kit.upload(file, i * 10, 10);
    }
    kit.copy_all();
    kit.kill(KeeperId(1));
    kit.keeper_hello(KeeperId(4), "h4");
    let mut rounds = 0;
    while !kit.pushes().is_empty() {
        for keeper in kit.state.keepers.values() {
            assert!(keeper.orders_in <= MAX_ORDERS && keeper.orders_out <= MAX_ORDERS);
        }
        let (order, chunk, source, destination) = kit.pushes()[0];
        assert_ne!(source, destination);
        kit.say_copied(order, chunk, kit.length_of(chunk), destination);
        rounds += 1;
    }
    assert_eq!(rounds, 100, "without a tick: each end of an order makes room for the next");
    assert_eq!(kit.state.status(kit.now()).under_replicated, 0);
}

#[test]
fn a_failed_copy_is_tried_by_another_pair_and_an_order_does_not_wait_for_ever() {
    let mut kit = Kit::with_keepers(3);
    let file = kit.create(InodeNo::ROOT, "f");
    let chunk = kit.upload(file, 0, 10);
    let (order, _, source, destination) = kit.pushes()[0];
    let failed = pb::CopyFailed { order, chunk: chunk.0, error: None };
    kit.keeper_says(destination, keeper_up::Msg::CopyFailed(failed));
    let (second, _, other, same) = kit.pushes()[0];
    assert_ne!(source, other);
    assert_eq!(destination, same);
    let failed = pb::CopyFailed { order: second, chunk: chunk.0, error: None };
    kit.keeper_says(other, keeper_up::Msg::CopyFailed(failed));
    assert!(kit.pushes().is_empty(), "no hot loop");
    kit.pass_ms(21_000);
    let (third, ..) = kit.pushes()[0];
    kit.pass_ms(61_000);
    let (fourth, ..) = kit.pushes()[0];
    assert_ne!(third, fourth);
}

#[test]
fn after_a_restart_keepers_have_time_to_come_back() {
    let mut kit = Kit::with_keepers(4);
    let file = kit.create(InodeNo::ROOT, "f");
    let chunk = kit.upload(file, 0, 10);
    kit.copy_all();
    let holders = holders(&kit, chunk);
    let spare = (1..=4).find(|id| !holders.contains(id)).unwrap();
    kit.restart();
    for id in [holders[0], holders[1], spare] {
        kit.keeper_hello(KeeperId(id), &format!("h{id}"));
    }
    kit.pass_ms(5_000);
    assert!(kit.pushes().is_empty());
    kit.pass_ms(2_000);
    assert_eq!(kit.pushes().len(), 1);
}

#[test]
fn while_keepers_come_back_after_a_restart_nothing_is_copied_for_a_minute_at_most() {
    let mut kit = Kit::with_keepers(4);
    let file = kit.create(InodeNo::ROOT, "f");
    let chunk = kit.upload(file, 0, 10);
    kit.copy_all();
    let holders = holders(&kit, chunk);
    let spare = (1..=4).find(|id| !holders.contains(id)).unwrap();
    kit.restart();
    for id in [holders[0], holders[1]] {
        kit.keeper_hello(KeeperId(id), &format!("h{id}"));
    }
    kit.pass_ms(5_000);
    kit.keeper_hello(KeeperId(spare), &format!("h{spare}"));
    kit.pass_ms(2_500);
    assert!(kit.pushes().is_empty(), "others may be coming");
    kit.pass_ms(1_000);
    assert_eq!(kit.pushes().len(), 1);
    kit.restart();
    for _ in 0..70 {
        for id in [holders[0], holders[1], spare] {
            kit.keeper_hello(KeeperId(id), &format!("h{id}"));
        }
        kit.pass_ms(1_000);
    }
    assert_eq!(kit.pushes().len(), 1, "keepers that come again and again do not hold up repair");
}

#[test]
fn a_copy_that_nobody_wants_any_more_is_deleted() {
    let mut kit = Kit::with_keepers(3);
    let file = kit.create(InodeNo::ROOT, "f");
    let chunk = kit.upload(file, 0, 10);
    let (order, _, _, destination) = kit.pushes()[0];
    kit.truncate(file, 0);
    assert!(kit.pushes().is_empty());
    kit.sent.clear();
    kit.say_copied(order, chunk, 10, destination);
    assert!(kit.was_deleted(destination, chunk));
}

#[test]
fn surplus_copies_are_trimmed_from_the_fullest_when_synced() {
    let mut kit = Kit::with_keepers(4);
    let file = kit.create(InodeNo::ROOT, "f");
    let chunk = kit.upload(file, 0, 10);
    kit.copy_all();
    let away = KeeperId(holders(&kit, chunk)[0]);
    kit.kill(away);
    kit.copy_all();
    kit.keeper_hello(away, &format!("h{away}"));
    kit.inventory(away, vec![kit.info(chunk)]);
    kit.pass_ms(11_000);
    assert_eq!(holders(&kit, chunk).len(), 4, "not on stable storage yet");
    for id in 1..=4 {
        kit.synced(KeeperId(id), chunk);
    }
    kit.state.keepers.get_mut(&KeeperId(2)).unwrap().load.free = 1 << 30;
    kit.sent.clear();
    kit.pass_ms(11_000);
    assert_eq!(holders(&kit, chunk), [1, 3, 4]);
    assert!(kit.was_deleted(KeeperId(2), chunk));
}

#[test]
fn an_order_ends_when_its_source_turns_out_to_have_lost_the_chunk() {
    let mut kit = Kit::with_keepers(4);
    let file = kit.create(InodeNo::ROOT, "f");
    let (first, second) = (kit.alloc(file, 0, 10), kit.alloc(file, 10, 10));
    kit.store(&second);
    let source = Kit::placed_on(&second).into_iter().min().unwrap();
    let other = Kit::placed_on(&first).into_iter().find(|keeper| *keeper != source).unwrap();
    kit.store_on(&first, &[other]);
    assert_eq!(kit.attr(file).size, 0, "it waits for a second copy");
    // The second copy of the first would let both become visible, but that the second chunk is missing there.
    kit.reconnect(source);
    let info = pb::ChunkInfo { chunk: first.chunk, length: 10, checksum: checksum(first.chunk) };
    kit.inventory(source, vec![info]);
    assert_eq!(kit.attr(file).size, 10);
    let second = ChunkId(second.chunk);
    assert!(kit.pushes().iter().all(|(_, chunk, from, _)| (*chunk, *from) != (second, source)));
    kit.copy_all();
    assert_eq!(kit.attr(file).size, 20);
}
