//! What a power cut leaves of the master's data directory, after every operation of its first start, of commits of
//! every size, of folds between them and beside them, and of a restart: it opens, holds each batch whose commit returned,
//! and the one that was under way whole or not at all.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use dfs_files::Files;
use dfs_files::crash::{Forgotten, Recorder, Unsynced, scratch_parent};
use dfs_proto::ids::{ChunkId, ClusterId, InodeNo};
use dfs_proto::pb;

use super::*;
use crate::core::row::ExtentRow;
use crate::core::{RowKey, Spared};
use crate::store::codec::tests::samples;

/// Bytes of a file of the journal: most batches fit, and it is written again and again.
const FILE: u64 = 6 * 1024;
/// What may be left after each operation is tried this many times.
const SEEDS: u64 = 2;

type State = BTreeMap<RowKey, Row>;

/// When what was committed is folded.
#[derive(Clone, Copy, Debug)]
enum Folds {
    /// After so many commits, and when the journal is full.
    After(usize),
    /// As soon as it is committed, on its thread: so each run has another order of operations.
    Beside,
}

#[derive(Clone, Debug)]
enum Claim {
    /// The identity is stored.
    Named,
    /// One more commit returned.
    Committed,
}

pub(super) fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(scratch_parent()).unwrap()
}

pub(super) fn identity(byte: u8) -> Identity {
    let spared = Some(Spared { below: ChunkId(9), until_ms: 10 });
    let created = pb::Time { sec: 5, nsec: 6 };
    Identity { cluster: ClusterId([byte; 16]), secret: [byte; 32], created, spared }
}

pub(super) fn extent(n: u64) -> Row {
    let row = ExtentRow { file_offset: n * 10, length: 10, chunk: ChunkId(n + 1), chunk_offset: 0 };
    Row::Extent(InodeNo(n % 7 + 1), row)
}

/// A row that is as large as one can be, so that a few make the file grow.
pub(super) fn large(n: u64) -> Row {
    let name = n.to_string().into_bytes().into();
    Row::Xattr { inode: InodeNo(n), name, value: Bytes::from(vec![n as u8; 60_000]) }
}

pub(super) fn puts(rows: impl IntoIterator<Item = Row>) -> Vec<RowChange> {
    rows.into_iter().map(RowChange::Put).collect()
}

pub(super) fn deletes(rows: impl IntoIterator<Item = Row>) -> Vec<RowChange> {
    rows.into_iter().map(|row| RowChange::Delete(codec::key_of(&row))).collect()
}

/// The batches in their order: small ones, one that makes the tables' file grow, one that makes room, small ones that
/// reuse it, and some that fill the journal. The store is closed and opened again in between.
fn batches() -> [Vec<Vec<RowChange>>; 2] {
    let small = |from: u64| (from..from + 6).map(|n| [puts([extent(n)]), deletes([extent(n - 1)])].concat());
    let mut first = vec![puts(samples()), puts((100..140).map(extent))];
    first.extend(small(200));
    first.extend([puts((0..30).map(large)), deletes((0..29).map(large))]);
    first.extend(small(300));
    first.extend((0..8).map(|n| puts((1000 + 40 * n..1040 + 40 * n).map(extent))));
    let mut second: Vec<_> = small(400).collect();
    second.push(deletes(samples().into_iter().skip(2)));
    [first, second]
}

fn open(root: &Path, files: Arc<dyn Files>, fold_after: Option<Duration>) -> Result<JournaledStore, String> {
    let dir = DataDir::open_through(&root.join("data/master"), files).map_err(|e| e.to_string())?;
    JournaledStore::open_small(dir, FILE, fold_after).map_err(|e| e.to_string())
}

fn work(recorder: &Arc<Recorder<Claim>>, root: &Path, folds: Folds) {
    for batches in batches() {
        let (every, fold_after) = match folds {
            Folds::After(commits) => (commits, None),
            Folds::Beside => (usize::MAX, Some(Duration::ZERO)),
        };
        let mut store = open(root, recorder.clone(), fold_after).unwrap();
        assert_eq!(store.identity(identity(1)).unwrap(), identity(1));
        recorder.say(Claim::Named);
        for (n, batch) in batches.into_iter().enumerate() {
            store.commit(&batch).unwrap();
            recorder.say(Claim::Committed);
            if n % every == every - 1 {
                store.fold_now().unwrap();
            }
        }
    }
}

/// What is stored after none, one, two... of the batches.
fn states() -> Vec<State> {
    let mut states = vec![State::new()];
    for batch in batches().concat() {
        let mut state = states.last().unwrap().clone();
        for change in batch {
            match change {
                RowChange::Put(row) => drop(state.insert(codec::key_of(&row), row)),
                RowChange::Delete(key) => drop(state.remove(&key)),
            }
        }
        states.push(state);
    }
    states
}

/// What was said before the power went.
#[derive(Default)]
struct Said {
    named: bool,
    committed: usize,
}

impl Said {
    fn add(&mut self, claim: &Claim) {
        match claim {
            Claim::Named => self.named = true,
            Claim::Committed => self.committed += 1,
        }
    }
}

/// Opens what a cut left, and says what is wrong with it. `states`: what is stored after none, one, two... of the batches.
fn check(root: &Path, said: &Said, states: &[State]) -> Result<(), String> {
    let open = || open(root, Arc::new(Unsynced), None);
    let mut store = open()?;
    let found = store.identity(identity(2)).map_err(|e| e.to_string())?;
    if found != identity(1) && (said.named || found != identity(2)) {
        return Err(format!("it is {found:?}"));
    }
    let load = |store: &mut JournaledStore| {
        let mut state = State::new();
        let each = &mut |row| match state.insert(codec::key_of(&row), row) {
            None => Ok(()),
            Some(twice) => Err(StoreError::Rows(format!("{twice:?} is there twice"))),
        };
        store.load(each).map_err(|e| e.to_string())?;
        Ok::<_, String>(state)
    };
    let mut state = load(&mut store)?;
    // What was stored, or what was about to be.
    if !states.iter().skip(said.committed).take(2).any(|may_be| *may_be == state) {
        return Err(format!("{} rows are neither what was stored nor what was about to be", state.len()));
    }
    // It goes on from there.
    store.commit(&puts([extent(1)])).map_err(|e| e.to_string())?;
    drop(store);
    state.insert(codec::key_of(&extent(1)), extent(1));
    if load(&mut open()?)? == state { Ok(()) } else { Err("it does not go on".to_owned()) }
}

/// Cuts the power after each operation. The first thing that is wrong is the error.
fn cut_everywhere(forgotten: Forgotten, folds: Folds) -> Result<usize, String> {
    let (live, images) = (scratch(), scratch());
    let recorder = Arc::new(Recorder::new(live.path(), forgotten));
    work(&recorder, live.path(), folds);
    let states = states();
    let check = |image: &Path, said: &Said| check(image, said, &states);
    let (said, count) =
        recorder.cut_everywhere(images.path(), Said::default(), Said::add, |_| SEEDS, check)?;
    assert_eq!(said.committed + 1, states.len());
    Ok(count)
}

fn assert_all_is_there(folds: Folds) {
    let images = cut_everywhere(Forgotten::Nothing, folds).unwrap();
    println!("{folds:?}: {images} images");
    assert!(images > 400, "{images}");
}

#[test]
fn a_power_cut_after_any_operation_leaves_every_batch_that_was_committed() {
    assert_all_is_there(Folds::After(3));
}

#[test]
fn a_power_cut_leaves_every_batch_when_each_is_folded_at_once() {
    assert_all_is_there(Folds::After(1));
}

#[test]
fn a_power_cut_leaves_every_batch_when_they_are_folded_only_where_the_journal_is_full() {
    assert_all_is_there(Folds::After(usize::MAX));
}

#[test]
fn a_power_cut_leaves_every_batch_while_others_are_folded() {
    assert_all_is_there(Folds::Beside);
}

#[test]
fn a_forgotten_sync_of_any_kind_is_found() {
    for forgotten in [Forgotten::FileSyncs, Forgotten::DirSyncs] {
        let wrong = cut_everywhere(forgotten, Folds::After(3)).expect_err("nothing was found");
        assert!(wrong.contains("cut after"), "{forgotten:?}: {wrong}");
    }
}
