//! What a power cut leaves of a keeper's directory, after every operation of its first start and of a day's work:
//! it opens, has everything that was said to be synced, serves nothing wrong, and says the truth of what it has.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dfs_proto::block_sum::BlockSums;
use dfs_proto::ids::{ChunkId, ClusterId, KeeperId};

use super::ChunkStore;
use super::tests::{read, scratch};
use crate::files::crash::{Forgotten, Op, Recorder, Unsynced};
use crate::identity::{DataDir, Identity};

const IDENTITY: Identity = Identity { cluster: ClusterId([7; 16]), keeper: KeeperId(3) };
/// What may be left after each operation is tried this many times.
const SEEDS: u64 = 2;

#[derive(Clone, Debug)]
enum Claim {
    Joined,
    Synced(ChunkId),
    /// Is being deleted or quarantined.
    Going(ChunkId),
}

/// The bytes of a chunk: which, and how many, follows from its id.
fn bytes_of(chunk: ChunkId) -> Vec<u8> {
    let length = [1, 700, 5000, 70_000, 140_000][(chunk.0 % 5) as usize];
    (0..length).map(|n| (n as u64 * 31 + n as u64 / 251 + chunk.0 * 17) as u8).collect()
}

fn upload(store: &Arc<ChunkStore>, chunk: ChunkId) {
    let bytes = bytes_of(chunk);
    let mut incoming = store.receive(chunk, bytes.len(), false).unwrap();
    bytes.chunks(64 * 1024).for_each(|piece| incoming.append(piece).unwrap());
    incoming.commit(BlockSums::of(&bytes).encoded().clone()).unwrap();
}

fn sync(store: &ChunkStore, recorder: &Recorder<Claim>, chunks: &[ChunkId]) {
    let report = store.sync(chunks);
    assert!(report.failed.is_empty(), "{report:?}");
    report.synced.into_iter().for_each(|chunk| recorder.say(Claim::Synced(chunk)));
}

fn settle(store: &ChunkStore, recorder: &Recorder<Claim>, chunks: &[ChunkId]) {
    let report = store.settle(chunks);
    assert!(report.failed.is_empty(), "{report:?}");
    report.synced.into_iter().for_each(|chunk| recorder.say(Claim::Synced(chunk)));
}

/// The first start, and then uploads, copies and builds (to the store they are the same), syncs alone and together, the journal turned and settled,
/// a restart, deletions, a quarantine, a chunk that comes again, and an upload that ends half-way.
fn work(recorder: &Arc<Recorder<Claim>>, root: &Path) {
    let open = || {
        let dir = DataDir::open_through(&root.join("data/keeper"), recorder.clone()).unwrap();
        // Files of deleted chunks are written again at once.
        ChunkStore::open_with(dir, Some(0), Duration::ZERO).unwrap().0
    };
    let mut store = open();
    store.dir().set_identity(IDENTITY).unwrap();
    recorder.say(Claim::Joined);
    let few: Vec<ChunkId> = (1..=6).map(|n| ChunkId(0x100 * n + n % 2)).collect();
    few.iter().for_each(|&chunk| upload(&store, chunk));
    sync(&store, recorder, &few[..4]);
    let mut half = store.receive(ChunkId(0x999), 10, false).unwrap();
    half.append(b"12345").unwrap();
    drop(half);
    upload(&store, few[0]);
    recorder.say(Claim::Going(few[0]));
    store.doom(few[0]);
    store.delete_doomed(few[0]).unwrap();
    for bad in [few[1], few[4]] {
        recorder.say(Claim::Going(bad));
        store.quarantine(bad, None, "as a test has it");
        upload(&store, bad);
    }
    sync(&store, recorder, &few[1..]);
    settle(&store, recorder, &few[1..]);
    // The journal is in its other half, and comes back to the first.
    for round in 0..3u64 {
        let next: Vec<ChunkId> = (0..3).map(|n| ChunkId(0x5_0000 + 0x100 * round + 5 * n)).collect();
        next.iter().for_each(|&chunk| upload(&store, chunk));
        sync(&store, recorder, &next[..2]);
        recorder.say(Claim::Going(next[0]));
        store.doom(next[0]);
        store.delete_doomed(next[0]).unwrap();
        sync(&store, recorder, &next[1..]);
        if round == 1 {
            drop(store);
            store = open();
        }
        settle(&store, recorder, &next[1..]);
    }
    let many: Vec<ChunkId> = (1..=33).map(|n| ChunkId(0x10_000 + 5 * n)).collect();
    many.iter().for_each(|&chunk| upload(&store, chunk));
    sync(&store, recorder, &many);
    recorder.say(Claim::Going(many[0]));
    store.doom(many[0]);
    store.delete_doomed(many[0]).unwrap();
    upload(&store, ChunkId(0x20_004));
    // Files that were longer, shorter and as long, for chunks that are synced alone, and together.
    for &chunk in &many[1..=4] {
        recorder.say(Claim::Going(chunk));
        store.doom(chunk);
        store.delete_doomed(chunk).unwrap();
    }
    let last: Vec<ChunkId> = (1..=4).map(|n| ChunkId(0x30_000 + 0x101 * n)).collect();
    last.iter().for_each(|&chunk| upload(&store, chunk));
    sync(&store, recorder, &last[..2]);
    settle(&store, recorder, &last[2..]);
}

/// What was said before the power went.
#[derive(Default)]
struct Said {
    joined: bool,
    synced: BTreeSet<ChunkId>,
}

impl Said {
    fn add(&mut self, claim: &Claim) {
        match claim {
            Claim::Joined => self.joined = true,
            Claim::Synced(chunk) => drop(self.synced.insert(*chunk)),
            Claim::Going(chunk) => drop(self.synced.remove(chunk)),
        }
    }
}

/// Opens what a cut left, and says what is wrong with it.
fn check(root: &Path, said: &Said) -> Result<(), String> {
    let synced = &said.synced;
    let dir =
        DataDir::open_through(&root.join("data/keeper"), Arc::new(Unsynced)).map_err(|e| e.to_string())?;
    match dir.identity().map_err(|e| e.to_string())? {
        Some(IDENTITY) => {}
        None if !said.joined => {}
        other => return Err(format!("it is {other:?}")),
    }
    let (store, _) = ChunkStore::open(dir, Some(0)).map_err(|e| e.to_string())?;
    let listed: BTreeMap<ChunkId, _> = store.inventory().iter().map(|i| (ChunkId(i.chunk), *i)).collect();
    if let Some(lost) = synced.iter().find(|chunk| !listed.contains_key(chunk)) {
        return Err(format!("chunk {lost} was synced and is gone"));
    }
    for (&chunk, info) in &listed {
        let bytes = bytes_of(chunk);
        if (info.length as usize, info.checksum) != (bytes.len(), BlockSums::of(&bytes).checksum()) {
            return Err(format!("the inventory says of chunk {chunk} what it is not"));
        }
        match read(&store, chunk) {
            Ok(found) if found == bytes => {}
            Ok(_) => return Err(format!("chunk {chunk} has wrong bytes")),
            Err(error) if synced.contains(&chunk) => {
                return Err(format!("chunk {chunk} was synced: {error}"));
            }
            Err(error) if store.index().get(chunk).is_some() => {
                return Err(format!("chunk {chunk} is bad and still listed: {error}"));
            }
            Err(_) => {}
        }
    }
    Ok(())
}

/// Cuts the power after each operation; or, where something is forgotten and is to be found soon, after each that
/// something was said of. The first thing that is wrong is the error.
fn cut_everywhere(forgotten: Forgotten) -> Result<usize, String> {
    let (live, images) = (scratch(), scratch());
    let recorder = Arc::new(Recorder::new(live.path(), forgotten));
    work(&recorder, live.path());
    let tries = |op: &Op<Claim>| match op {
        Op::Said(_) => SEEDS,
        _ if forgotten != Forgotten::Nothing => 0,
        // The first start makes 256 directories, one as good as another.
        Op::CreateDir(_) => 1,
        _ => SEEDS,
    };
    Ok(recorder.cut_everywhere(images.path(), Said::default(), Said::add, tries, check)?.1)
}

#[test]
fn a_power_cut_after_any_operation_loses_and_falsifies_nothing() {
    let images = cut_everywhere(Forgotten::Nothing).unwrap();
    assert!(images > 700, "{images}");
}

#[test]
fn a_forgotten_sync_of_any_kind_is_found() {
    for forgotten in [Forgotten::FileSyncs, Forgotten::DirSyncs, Forgotten::WholeSyncs] {
        let wrong = cut_everywhere(forgotten).expect_err("nothing was found");
        assert!(wrong.contains("cut after"), "{forgotten:?}: {wrong}");
    }
}
