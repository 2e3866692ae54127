//! Tests of `moves.rs`.

use super::super::Command;
use super::super::duty::Duty;
use super::super::operator::Operation;
use super::super::placement::Crowding;
use super::super::testkit::Kit;
use super::*;
use dfs_proto::ids::InodeNo;

fn sync_all(kit: &mut Kit) {
    let unsynced: Vec<(ChunkId, KeeperId)> = kit.state.syncs.unsynced().collect();
    unsynced.into_iter().for_each(|(chunk, keeper)| kit.synced(keeper, chunk));
}

/// Time passes, and keepers do what they are told, until nothing moves any more. Returns how many copies were made.
fn settle(kit: &mut Kit) -> usize {
    let mut copies = 0;
    let mut quiet = 0;
    while quiet < 5 {
        kit.pass_ms(1_000);
        quiet += 1;
        while let Some((order, chunk, _, destination)) = kit.pushes().first().copied() {
            kit.say_copied(order, chunk, kit.length_of(chunk), destination);
            (copies, quiet) = (copies + 1, 0);
        }
        sync_all(kit);
        assert!(copies < 10_000, "moves never end");
    }
    copies
}

fn crowding(kit: &Kit, chunk: ChunkId) -> Crowding {
    kit.state.crowding(&kit.state.chunks.get(chunk).unwrap().keepers)
}

fn joins(kit: &mut Kit, keeper: u64, host: &str, rack: &str) {
    kit.keeper_joins(KeeperId(keeper), host, &[("rack", rack)]);
    kit.inventory(KeeperId(keeper), Vec::new());
}

/// `count` chunks of 1 MiB, settled.
fn fill(kit: &mut Kit, count: u64) -> Vec<ChunkId> {
    let file = kit.create(InodeNo::ROOT, "f");
    let chunks = (0..count).map(|i| kit.upload(file, i << 20, 1 << 20)).collect();
    settle(kit);
    chunks
}

#[test]
fn chunks_move_into_a_rack_that_came_later_and_only_once() {
    let mut kit = Kit::new();
    for (id, host) in [(1, "a"), (2, "b"), (3, "c"), (4, "d")] {
        joins(&mut kit, id, host, "1");
    }
    let chunks = fill(&mut kit, 20);
    joins(&mut kit, 5, "e", "2");
    joins(&mut kit, 6, "f", "2");
    assert_eq!(settle(&mut kit), 20, "one copy of each");
    for chunk in &chunks {
        let holders = &kit.state.chunks.get(*chunk).unwrap().keepers;
        assert_eq!(holders.iter().filter(|id| id.0 >= 5).count(), 1, "{holders:?}");
        assert_eq!(holders.len(), 3);
    }
    joins(&mut kit, 7, "g", "3");
    assert_eq!(settle(&mut kit), 20);
    assert!(chunks.iter().all(|chunk| crowding(&kit, *chunk) == Crowding::default()));
    kit.pass_ms(SPREAD_EVERY_MS);
    assert_eq!(settle(&mut kit), 0, "there is nothing better");
}

#[test]
fn nothing_moves_while_copies_are_missing() {
    let mut kit = Kit::new();
    for (id, host) in [(1, "a"), (2, "b"), (3, "c"), (4, "d")] {
        joins(&mut kit, id, host, "1");
    }
    let chunks = fill(&mut kit, 30);
    joins(&mut kit, 5, "e", "2");
    kit.kill(KeeperId(1));
    let missing = |kit: &Kit| kit.state.chunks.wanting().len();
    let had = missing(&kit);
    assert!(had > 8);
    // All that is ordered is of chunks that want copies.
    while missing(&kit) > 0 {
        let (order, chunk, _, destination) = kit.pushes()[0];
        assert!(kit.state.chunks.get(chunk).unwrap().live < 3, "chunk {chunk} moves");
        kit.say_copied(order, chunk, kit.length_of(chunk), destination);
        kit.pass_ms(200);
    }
    settle(&mut kit);
    for chunk in chunks {
        assert!(kit.state.chunks.has_copy(chunk, KeeperId(5)));
    }
}

#[test]
fn moves_of_one_keeper_are_few_at_once() {
    let mut kit = Kit::new();
    for (id, host) in [(1, "a"), (2, "b"), (3, "c")] {
        joins(&mut kit, id, host, "1");
    }
    fill(&mut kit, 30);
    joins(&mut kit, 4, "d", "2");
    kit.pass_ms(1_000);
    assert_eq!(kit.pushes().len(), MAX_MOVES as usize);
}

fn used(kit: &Kit) -> Vec<u64> {
    kit.state.keepers.values().map(|keeper| keeper.load.used >> 20).collect()
}

#[test]
fn rebalancing_evens_out_and_ends() {
    let mut kit = Kit::with_keepers(3);
    let chunks = fill(&mut kit, 100);
    for id in [4, 5] {
        kit.keeper_hello(KeeperId(id), &format!("h{id}"));
        kit.inventory(KeeperId(id), Vec::new());
    }
    assert_eq!(settle(&mut kit), 0, "joining alone moves nothing");
    assert_eq!(used(&kit), [100, 100, 100, 0, 0]);
    kit.apply(Command::Operator(Operation::Rebalance { run: true }));
    assert!(kit.state.rebalance_status().running);
    let copies = settle(&mut kit);
    let (used, status) = (used(&kit), kit.state.rebalance_status());
    assert!(used.iter().all(|mib| (57..=63).contains(mib)), "{used:?}");
    assert!(!status.running && status.ended.starts_with("done: "), "{status:?}");
    assert_eq!((status.moved_chunks, status.moved_bytes), (copies as u64, (copies as u64) << 20));
    assert!((110..=125).contains(&copies), "{copies}");
    for chunk in chunks {
        assert_eq!(kit.state.chunks.get(chunk).unwrap().keepers.len(), 3);
    }
}

#[test]
fn rebalancing_keeps_the_spread_and_says_when_it_cannot_go_on() {
    let mut kit = Kit::new();
    for (id, rack) in [(1, "1"), (2, "2"), (3, "3")] {
        joins(&mut kit, id, &format!("h{id}"), rack);
    }
    let chunks = fill(&mut kit, 50);
    joins(&mut kit, 4, "h4", "1");
    kit.apply(Command::Operator(Operation::Rebalance { run: true }));
    settle(&mut kit);
    let used = used(&kit);
    assert_eq!((used[1], used[2], used[0] + used[3]), (50, 50, 50), "{used:?}");
    // The mean is 37.5: the first is near it, and from the others nothing can go to the fourth.
    assert!((36..=40).contains(&used[0]), "{used:?}");
    assert!(chunks.iter().all(|chunk| crowding(&kit, *chunk) == Crowding::default()));
    let status = kit.state.rebalance_status();
    assert!(!status.running && status.ended.contains("failure domains"), "{status:?}");
}

#[test]
fn rebalancing_can_be_stopped_and_skips_who_is_on_the_way_out() {
    let mut kit = Kit::with_keepers(4);
    fill(&mut kit, 100);
    kit.keeper_hello(KeeperId(5), "h5");
    kit.inventory(KeeperId(5), Vec::new());
    let duty = Duty::Maintenance { for_ms: 3_600_000 };
    kit.apply(Command::Operator(Operation::Duty { keeper: "5".to_owned(), duty }));
    kit.apply(Command::Operator(Operation::Rebalance { run: true }));
    settle(&mut kit);
    assert_eq!(used(&kit)[4], 0, "nothing goes to who may be gone in a moment");
    kit.apply(Command::Operator(Operation::Duty {
        keeper: "5".to_owned(),
        duty: Duty::Maintenance { for_ms: 0 },
    }));
    kit.apply(Command::Operator(Operation::Rebalance { run: true }));
    kit.pass_ms(1_000);
    assert!(!kit.pushes().is_empty());
    kit.apply(Command::Operator(Operation::Rebalance { run: false }));
    let begun = kit.pushes().len();
    assert_eq!(settle(&mut kit), begun, "what had begun ends");
    assert!(kit.state.rebalance_status().ended.contains("stopped"));
}
