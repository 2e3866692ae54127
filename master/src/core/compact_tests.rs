//! Tests of `compact.rs`, `compact_jobs.rs` and `compact_plan.rs`.

use dfs_proto::ids::{ChunkId, InodeNo, KeeperId};
use dfs_proto::pb::{self, keeper_up, mount_request::Op};

use super::Effect;
use super::testkit::{CHUNK_SIZE, Kit};

const QUIET_MS: i64 = 10_000;
const PIECE: u64 = 100_000;

/// A file written in 40 pieces out of order, a chunk each; its size asks for 4 chunks.
fn in_pieces(kit: &mut Kit, name: &str) -> InodeNo {
    let file = kit.create(InodeNo::ROOT, name);
    for i in 0..40 {
        kit.upload(file, i * 7 % 40 * PIECE, PIECE);
    }
    kit.copy_all();
    file
}

fn setup() -> (Kit, InodeNo) {
    let mut kit = Kit::with_keepers(3);
    kit.watches_content = true;
    let file = in_pieces(&mut kit, "f");
    kit.sent.clear();
    (kit, file)
}

fn chunks(kit: &Kit, file: InodeNo) -> usize {
    kit.state.chunks_of(file).len()
}

fn copy_range(kit: &mut Kit, source: InodeNo, target: InodeNo, length: u64) {
    let (source, target) = (source.0, target.0);
    let op = pb::CopyRange { source, source_offset: 0, target, target_offset: 0, length };
    kit.ok(Op::CopyRange(op));
}

#[test]
fn a_file_of_small_pieces_is_packed_when_it_is_quiet_and_nobody_notices() {
    let (mut kit, file) = setup();
    let (attr, content, old) = (kit.attr(file), kit.content(file), kit.state.chunks_of(file));
    kit.pass_ms(QUIET_MS - 1_000);
    assert!(kit.builds().is_empty(), "it is not quiet yet");
    kit.pass_ms(2_000);
    assert_eq!(kit.builds().len(), 3, "one at a time on each keeper");
    assert_eq!(kit.state.status(kit.now()).compactions_under_way, 3);
    kit.sent.clear();
    kit.compact_all();
    assert_eq!(chunks(&kit, file), 4);
    assert_eq!(kit.state.extents_from(file, 0).count(), 4, "what touches is joined");
    assert_eq!((kit.attr(file), kit.content(file)), (attr, content));
    assert!(old.iter().all(|chunk| kit.state.chunks.get(*chunk).is_none()));
    assert!((1..=3).all(|keeper| old.iter().all(|chunk| kit.was_deleted(KeeperId(keeper), *chunk))));
    let told = |effect: &Effect| matches!(effect, Effect::ToMount(_, pb::mount_down::Msg::Invalidate(_)));
    assert!(!kit.sent.iter().any(told), "no mount is told");
    assert_eq!(kit.state.status(kit.now()).compacted_bytes, 40 * PIECE);
    kit.compare_with_stored();
    // And that is all.
    kit.pass_ms(700_000);
    assert_eq!(kit.state.status(kit.now()).compacted_bytes, 40 * PIECE);
}

#[test]
fn what_is_as_it_should_be_is_left_alone() {
    let mut kit = Kit::with_keepers(3);
    let size = u64::from(CHUNK_SIZE);
    let file = kit.create(InodeNo::ROOT, "f");
    // In one go; small at its end; and one write into the middle.
    (0..5).for_each(|i| {
        kit.upload(file, i * size, size);
    });
    kit.upload(file, 5 * size, 10);
    kit.upload(file, 2 * size + 5, 10);
    kit.copy_all();
    kit.pass_ms(100_000);
    assert!(kit.builds().is_empty());
    // A second one breaks another chunk. Only what is broken is rewritten.
    kit.upload(file, 3 * size + 5, 10);
    kit.copy_all();
    kit.pass_ms(QUIET_MS + 1_000);
    kit.compact_all();
    assert_eq!(kit.state.status(kit.now()).compacted_bytes, 2 * size);
    assert_eq!(chunks(&kit, file), 6);
}

#[test]
fn the_old_chunks_go_only_when_the_new_one_has_as_many_synced_copies() {
    let (mut kit, file) = setup();
    kit.pass_ms(QUIET_MS + 1_000);
    let (chunk, builder) = kit.builds()[0];
    kit.say_built(chunk, CHUNK_SIZE, builder);
    kit.pass_ms(1_000);
    assert!(!kit.state.chunks_of(file).contains(&chunk), "one copy");
    kit.copy_all();
    kit.pass_ms(1_000);
    assert!(!kit.state.chunks_of(file).contains(&chunk), "three, of which one is synced");
    let others: Vec<KeeperId> = (1..=3).map(KeeperId).filter(|keeper| *keeper != builder).collect();
    assert!(others.iter().all(|keeper| kit.was_asked_to_sync(*keeper, chunk)));
    kit.synced(others[0], chunk);
    kit.pass_ms(1_000);
    assert!(!kit.state.chunks_of(file).contains(&chunk), "three, of which two are synced");
    kit.synced(others[1], chunk);
    kit.tick();
    assert!(kit.state.chunks_of(file).contains(&chunk));
    let row = kit.state.chunks.get(chunk).unwrap();
    assert!(row.keepers.iter().all(|keeper| kit.state.syncs.is_synced(chunk, *keeper)));
    // fsync has nothing to wait for.
    let request = kit.request(Op::Fsync(pb::Fsync { inode: file.0 }));
    kit.compact_all();
    assert!(kit.reply_to(request).is_some());
}

#[test]
fn with_too_few_keepers_for_safety_nothing_is_done() {
    let (mut kit, _) = setup();
    kit.kill(KeeperId(2));
    kit.kill(KeeperId(3));
    kit.pass_ms(100_000);
    assert!(kit.builds().is_empty());
    for keeper in [2, 3] {
        kit.keeper_hello(KeeperId(keeper), &format!("h{keeper}"));
    }
    kit.pass_ms(2_000);
    assert!(!kit.builds().is_empty());
}

#[test]
fn what_is_overwritten_meanwhile_stays_overwritten() {
    let (mut kit, file) = setup();
    kit.pass_ms(QUIET_MS + 1_000);
    let (chunk, builder) = kit.builds()[0];
    let newer = kit.upload(file, 150_000, 10_000);
    kit.truncate(file, 39 * PIECE + 5);
    let content = kit.content(file);
    kit.say_built(chunk, CHUNK_SIZE, builder);
    kit.copy_all();
    (1..=3).for_each(|keeper| kit.synced(KeeperId(keeper), chunk));
    kit.tick();
    assert_eq!(kit.state.chunks.get(chunk).unwrap().used, u64::from(CHUNK_SIZE) - 10_000);
    assert_eq!(kit.content(file), content);
    kit.compact_all();
    assert_eq!(kit.content(file), content);
    assert!(content.contains(&(150_000, (newer, 0, 10_000))));
    assert!(chunks(&kit, file) <= 4 + 2);
    kit.compare_with_stored();
}

#[test]
fn a_chunk_of_which_most_was_overwritten_meanwhile_is_dropped() {
    let (mut kit, file) = setup();
    kit.pass_ms(QUIET_MS + 1_000);
    let (chunk, builder) = kit.builds()[0];
    kit.upload(file, 0, 600_000);
    kit.say_built(chunk, CHUNK_SIZE, builder);
    kit.copy_all();
    (1..=3).for_each(|keeper| kit.synced(KeeperId(keeper), chunk));
    kit.sent.clear();
    kit.tick();
    assert!(kit.state.chunks.get(chunk).is_none() && !kit.state.compaction.jobs.contains_key(&chunk));
    assert!(kit.was_deleted(builder, chunk));
    kit.compact_all();
    assert!(chunks(&kit, file) <= 4 + 2);
}

#[test]
fn a_file_that_goes_takes_its_jobs_with_it() {
    let (mut kit, file) = setup();
    kit.pass_ms(QUIET_MS + 1_000);
    let builds = kit.builds();
    kit.unlink(InodeNo::ROOT, "f");
    kit.release(file);
    kit.sent.clear();
    kit.compact_all();
    assert_eq!((kit.state.chunks.len(), kit.state.compaction.jobs.len()), (0, 0));
    for (chunk, builder) in builds {
        assert!(kit.was_deleted(builder, chunk));
    }
}

#[test]
fn holes_stay_holes_and_take_no_room() {
    let mut kit = Kit::with_keepers(3);
    kit.watches_content = true;
    let file = kit.create(InodeNo::ROOT, "f");
    (0..30).for_each(|i| {
        kit.upload(file, (29 - i) << 30, 10);
    });
    kit.copy_all();
    let before = kit.attr(file);
    kit.pass_ms(QUIET_MS + 1_000);
    kit.compact_all();
    assert_eq!((chunks(&kit, file), kit.state.extents_from(file, 0).count()), (1, 30));
    assert_eq!(kit.attr(file), before);
    assert_eq!(before.allocated, 300);
}

#[test]
fn a_chunk_that_is_mostly_waste_is_replaced_by_what_is_used_of_it() {
    let mut kit = Kit::with_keepers(3);
    let file = kit.create(InodeNo::ROOT, "f");
    let old = kit.upload(file, 0, u64::from(CHUNK_SIZE));
    kit.copy_all();
    kit.truncate(file, 4096);
    kit.pass_ms(QUIET_MS + 1_000);
    kit.compact_all();
    let kept = kit.state.chunks_of(file).into_iter().next().unwrap();
    assert_eq!((kit.length_of(kept), kit.attr(file).allocated), (4096, 4096));
    assert!(kit.state.chunks.get(old).is_none());
}

#[test]
fn what_another_file_keeps_anyway_is_not_stored_twice_until_that_file_is_gone() {
    let mut kit = Kit::with_keepers(3);
    let size = u64::from(CHUNK_SIZE);
    let first = kit.create(InodeNo::ROOT, "first");
    let second = kit.create(InodeNo::ROOT, "second");
    (0..3).for_each(|i| {
        kit.upload(first, i * size, size);
    });
    copy_range(&mut kit, first, second, 3 * size);
    (0..10).for_each(|i| {
        kit.upload(second, size + i * 50_000, 100);
    });
    kit.copy_all();
    kit.pass_ms(QUIET_MS + 1_000);
    kit.compact_all();
    assert_eq!(kit.state.status(kit.now()).compacted_bytes, 10 * 100, "the writes alone, in one chunk");
    assert_eq!((chunks(&kit, first), chunks(&kit, second)), (3, 4));
    // Nothing happens to the second file, and still it is found.
    kit.unlink(InodeNo::ROOT, "first");
    kit.release(first);
    kit.pass_ms(700_000);
    kit.compact_all();
    assert_eq!((chunks(&kit, second), kit.state.extents_from(second, 0).count()), (3, 3));
}

#[test]
fn a_file_that_is_never_quiet_waits_but_not_for_ever() {
    let (mut kit, file) = setup();
    for i in 0..32 {
        assert!(kit.builds().is_empty(), "after {} s", i * 9);
        kit.upload(file, i % 40 * PIECE, 10);
        kit.copy_all();
        kit.pass_ms(9_000);
    }
    kit.pass_ms(9_000);
    kit.upload(file, 5, 10);
    kit.pass_ms(9_000);
    assert!(!kit.builds().is_empty());
}

#[test]
fn after_a_round_the_file_rests_for_as_long_as_it_was_big() {
    let mut kit = Kit::with_keepers(3);
    let file = kit.create(InodeNo::ROOT, "f");
    for i in 0..80 {
        kit.upload(file, i * 7 % 80 * 500_000, 500_000);
    }
    kit.copy_all();
    kit.pass_ms(QUIET_MS + 1_000);
    kit.compact_all();
    let moved = |kit: &Kit| kit.state.status(kit.now()).compacted_bytes;
    let before = moved(&kit);
    kit.settings.compact_after_ms = 100;
    kit.state.settings.compact_after_ms = 100;
    (0..10).for_each(|i| {
        kit.upload(file, i * 300_000, 10);
    });
    kit.copy_all();
    kit.pass_silently_ms(200);
    assert!(kit.builds().is_empty(), "40 MB take 10 s at the rate of compaction");
    kit.pass_ms(11_000);
    kit.compact_all();
    assert!(moved(&kit) > before);
}

#[test]
fn a_keeper_that_goes_while_it_builds_and_a_failed_build_are_made_up_for() {
    let (mut kit, file) = setup();
    kit.pass_ms(QUIET_MS + 1_000);
    let builds = kit.builds();
    kit.kill(builds[0].1);
    assert!(!kit.builds().iter().any(|(chunk, _)| *chunk == builds[0].0));
    let failed = pb::BuildFailed { chunk: builds[1].0.0, error: None, bad: Vec::new() };
    kit.keeper_says(builds[1].1, keeper_up::Msg::BuildFailed(failed));
    kit.pass_ms(1_000);
    kit.compact_all();
    assert_eq!(chunks(&kit, file), 4);
}

#[test]
fn a_build_that_takes_too_long_is_given_up_and_comes_too_late() {
    let (mut kit, file) = setup();
    kit.pass_ms(QUIET_MS + 1_000);
    let (chunk, builder) = kit.builds()[0];
    kit.pass_ms(61_000);
    assert!(!kit.state.compaction.jobs.contains_key(&chunk));
    kit.sent.clear();
    kit.say_built(chunk, CHUNK_SIZE, builder);
    assert!(kit.was_deleted(builder, chunk));
    kit.pass_ms(31_000);
    kit.compact_all();
    assert_eq!(chunks(&kit, file), 4);
}

#[test]
fn a_restarted_master_throws_away_what_was_under_way_and_begins_again() {
    let (mut kit, file) = setup();
    kit.pass_ms(QUIET_MS + 1_000);
    let builds = kit.builds();
    kit.restart();
    kit.hello(super::testkit::SESSION, &[file]);
    let had: Vec<ChunkId> = kit.state.chunks_of(file).into_iter().collect();
    for keeper in (1..=3).map(KeeperId) {
        kit.keeper_hello(keeper, &format!("h{keeper}"));
        let mut infos: Vec<pb::ChunkInfo> = had.iter().map(|chunk| kit.info(*chunk)).collect();
        // One was built and its notice lost, of another the notice is on its way.
        infos.push(pb::ChunkInfo { chunk: builds[0].0.0, length: CHUNK_SIZE, checksum: 1 });
        kit.inventory(keeper, infos);
        assert!(kit.was_deleted(keeper, builds[0].0));
    }
    let (late, builder) = builds[1];
    kit.say_built(late, CHUNK_SIZE, builder);
    assert!(kit.was_deleted(builder, late));
    kit.pass_ms(QUIET_MS + 10_000);
    kit.compact_all();
    assert_eq!(chunks(&kit, file), 4);
}

#[test]
fn an_inventory_does_not_take_a_built_chunk_for_garbage() {
    let (mut kit, file) = setup();
    kit.pass_ms(QUIET_MS + 1_000);
    let (chunk, builder) = kit.builds()[0];
    kit.say_built(chunk, CHUNK_SIZE, builder);
    let had: Vec<ChunkId> = kit.state.chunks.iter().map(|(chunk, _)| chunk).collect();
    kit.reconnect(builder);
    let mut infos: Vec<pb::ChunkInfo> = had.iter().map(|chunk| kit.info(*chunk)).collect();
    infos.push(pb::ChunkInfo {
        chunk: chunk.0,
        length: CHUNK_SIZE,
        checksum: super::testkit::checksum(chunk.0),
    });
    kit.sent.clear();
    kit.inventory(builder, infos);
    assert!(!kit.was_deleted(builder, chunk));
    kit.compact_all();
    assert!(kit.state.chunks_of(file).contains(&chunk));
    // And one that turns out bad is not used.
    let (mut kit, file) = setup();
    kit.pass_ms(QUIET_MS + 1_000);
    let (chunk, builder) = kit.builds()[0];
    kit.say_built(chunk, CHUNK_SIZE, builder);
    kit.bad_copy(builder, chunk);
    kit.compact_all();
    assert!(!kit.state.chunks_of(file).contains(&chunk));
    assert_eq!(chunks(&kit, file), 4);
}

#[test]
fn it_can_be_switched_off() {
    let mut kit = Kit::with_keepers(3);
    kit.state.settings.compact_after_ms = 0;
    in_pieces(&mut kit, "f");
    kit.pass_ms(1_000_000);
    assert!(kit.builds().is_empty() && kit.state.compaction.waiting() == 0);
}

#[test]
fn ten_thousand_small_random_writes_end_in_no_more_chunks_than_the_size_asks_for_plus_two() {
    let mut kit = Kit::with_keepers(3);
    kit.settings.chunk_size = 256 << 10;
    kit.state.settings = kit.settings.clone();
    let file = kit.create(InodeNo::ROOT, "f");
    let mut random = 1u64;
    for _ in 0..500 {
        // As a mount packs them: 20 in one chunk, in the order of the file.
        let mut blocks: Vec<u64> = (0..20)
            .map(|_| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (random >> 33) % 2_560
            })
            .collect();
        blocks.sort_unstable();
        blocks.dedup();
        let runs: Vec<(u64, u64)> = blocks.into_iter().map(|block| (block * 1024, 1024)).collect();
        let placed = kit.alloc_runs(file, &runs).unwrap();
        kit.store(&placed);
    }
    kit.copy_all();
    let content = kit.content(file);
    assert!(chunks(&kit, file) > 100);
    kit.pass_ms(QUIET_MS + 1_000);
    kit.compact_all();
    let asked_for = (2_560 * 1024usize).div_ceil(256 << 10);
    assert!(chunks(&kit, file) <= asked_for + 2, "{} for {asked_for}", chunks(&kit, file));
    assert_eq!(kit.content(file), content);
    let extents: Vec<_> = kit.state.extents_from(file, 0).collect();
    let jumps = extents.windows(2).filter(|two| {
        let (before, after) = (two[0].1, two[1].1);
        (before.chunk, before.chunk_offset + before.length) != (after.chunk, after.chunk_offset)
    });
    assert!(jumps.count() <= asked_for, "it is read in order");
}
