//! Tests of `placement.rs`.

use super::super::testkit::Kit;
use super::*;
use dfs_proto::ids::{ChunkId, InodeNo};

/// Keepers 1, 2, ... with these (rack, host).
fn kit(domains: &[(&str, &str)]) -> Kit {
    let mut kit = Kit::new();
    for (id, (rack, host)) in (1..).zip(domains) {
        kit.keeper_joins(KeeperId(id), host, &[("rack", rack)]);
        kit.inventory(KeeperId(id), Vec::new());
    }
    kit
}

fn racks(kit: &Kit, chunk: ChunkId) -> Vec<String> {
    let holders = kit.state.chunks.get(chunk).unwrap().keepers.iter();
    let live = holders.filter(|id| kit.state.is_alive(**id));
    let rack = |id| kit.state.keepers[id].row.labels.get("rack").cloned().unwrap_or_default();
    let mut racks: Vec<String> = live.map(rack).collect();
    racks.sort();
    racks
}

fn full(kit: &mut Kit, keeper: u64, free: u64) {
    kit.state.keepers.get_mut(&KeeperId(keeper)).unwrap().load.free = FREE_RESERVE_BYTES + free;
}

#[test]
fn uploads_spread_and_companions_are_on_other_hosts() {
    let mut kit = Kit::new();
    for (id, host) in [(1, "a"), (2, "a"), (3, "b"), (4, "b")] {
        kit.keeper_hello(KeeperId(id), host);
    }
    let file = kit.create(InodeNo::ROOT, "f");
    let mut primaries = [0; 5];
    for i in 0..40 {
        let placed = kit.alloc(file, i * 10, 10);
        let keepers: Vec<u64> = placed.grant.unwrap().keepers.iter().map(|k| k.keeper).collect();
        assert_eq!(keepers.len(), 2);
        assert_ne!(keepers[0] <= 2, keepers[1] <= 2, "{keepers:?} share a host");
        primaries[keepers[0] as usize] += 1;
    }
    assert!(primaries[1..].iter().all(|n| (5..=15).contains(n)), "{primaries:?}");
}

#[test]
fn companions_and_copies_are_in_other_racks_and_then_on_other_hosts() {
    // Each rack has two hosts with two keepers each.
    let domains =
        [("1", "a"), ("1", "a"), ("1", "b"), ("1", "b"), ("2", "c"), ("2", "c"), ("2", "d"), ("2", "d")];
    let mut kit = kit(&domains);
    let file = kit.create(InodeNo::ROOT, "f");
    for i in 0..20 {
        let placed = kit.alloc(file, i * 10, 10);
        let keepers = Kit::placed_on(&placed);
        assert_ne!(keepers[0].0 <= 4, keepers[1].0 <= 4, "{keepers:?} share a rack");
        kit.store(&placed);
        kit.copy_all();
        let chunk = ChunkId(placed.chunk);
        let holders = kit.state.chunks.get(chunk).unwrap().keepers.to_vec();
        let hosts: std::collections::BTreeSet<&String> =
            holders.iter().map(|id| &kit.state.keepers[id].row.host).collect();
        assert_eq!((holders.len(), hosts.len()), (3, 3), "{holders:?} share a host");
    }
}

#[test]
fn labels_come_with_the_hello_and_change_with_it() {
    let mut kit = kit(&[("1", "a"), ("1", "b")]);
    kit.keeper_joins(KeeperId(2), "b", &[("rack", "2"), ("disk", "ssd")]);
    let row = &kit.state.keepers[&KeeperId(2)].row;
    let labels: Vec<(&str, &str)> = row.labels.iter().map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!(labels, [("disk", "ssd"), ("rack", "2")]);
    kit.compare_with_stored();
    for labels in [&[("Rack", "1")][..], &[("rack", "")], &[("rack", "1"); 17]] {
        let error = kit.try_keeper_joins(KeeperId(3), "c", labels).unwrap_err();
        assert_eq!(error.code, ErrorCode::Invalid, "{labels:?}");
    }
}

#[test]
fn full_and_missing_keepers_are_told_apart() {
    let mut kit = Kit::new();
    let file = kit.create(InodeNo::ROOT, "f");
    assert_eq!(kit.alloc_code(file, 0, 10, &[]), Some(ErrorCode::NoKeeper));
    kit.keeper_hello(KeeperId(1), "h1");
    assert_eq!(kit.alloc_code(file, 0, 10, &[]), None);
    // Nobody else is there, so even one to be avoided is used.
    assert_eq!(kit.alloc_code(file, 0, 10, &[1]), None);
    kit.state.keepers.get_mut(&KeeperId(1)).unwrap().load.read_only = true;
    assert_eq!(kit.alloc_code(file, 0, 10, &[]), Some(ErrorCode::NoSpace));
    kit.keeper_hello(KeeperId(2), "h2");
    full(&mut kit, 2, 5);
    assert_eq!(kit.alloc_code(file, 0, 10, &[]), Some(ErrorCode::NoSpace));
    assert_eq!(kit.alloc_code(file, 0, 5, &[]), None);
}

#[test]
fn the_copy_that_helps_spread_least_is_trimmed() {
    let mut kit = kit(&[("1", "a"), ("1", "b"), ("1", "b"), ("2", "c")]);
    let file = kit.create(InodeNo::ROOT, "f");
    let chunk = kit.upload(file, 0, 10);
    kit.copy_all();
    for id in (1..=4).map(KeeperId) {
        if !kit.state.chunks.has_copy(chunk, id) {
            kit.keeper_joins(
                id,
                &kit.state.keepers[&id].row.host.clone(),
                &[("rack", ["1", "1", "1", "2"][id.0 as usize - 1])],
            );
            kit.inventory(id, vec![kit.info(chunk)]);
        }
    }
    assert_eq!(kit.state.chunks.get(chunk).unwrap().keepers.len(), 4);
    // The other rack's keeper is the fullest, and its copy is the one that is needed most.
    full(&mut kit, 4, 1);
    (1..=4).for_each(|id| kit.synced(KeeperId(id), chunk));
    kit.pass_ms(11_000);
    let holders: Vec<u64> = kit.state.chunks.get(chunk).unwrap().keepers.iter().map(|id| id.0).collect();
    assert_eq!((holders.len(), holders[0], holders[2]), (3, 1, 4), "{holders:?}: one of host b goes");
}

#[test]
fn a_dead_rack_is_made_up_for_where_there_is_room() {
    let mut kit = kit(&[("1", "a"), ("1", "b"), ("2", "c"), ("2", "d"), ("3", "e")]);
    let file = kit.create(InodeNo::ROOT, "f");
    let chunk = kit.upload(file, 0, 10);
    kit.copy_all();
    assert_eq!(racks(&kit, chunk), ["1", "2", "3"]);
    kit.kill(KeeperId(5));
    kit.copy_all();
    let racks = racks(&kit, chunk);
    assert_eq!(racks.len(), 3, "{racks:?}");
}
