//! The names of files with lost or endangered chunks.
//!
//! No chunk knows its file's name, so the look-up table has to be gone through. That is done as `dfs lookup` does it, a page at
//! a time, by one task at most, which rests longer than it works; and not again before it has rested so from the whole.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dfs_proto::pb;
use serde::Serialize;

use crate::core::LookupCursor;
use crate::runtime::Engine;

/// Rows that are looked at under the engine's lock.
const PAGE_ROWS: usize = 1000;
/// For each part of the time that it works it rests so many.
const REST: u32 = 4;
/// What was found is good for so long at least.
const GOOD_FOR: Duration = Duration::from_secs(3);
/// Files that are named.
const MOST: usize = 200;

/// One file, and how many of its chunks have no live copy, and how many too few.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub(super) struct InDanger {
    pub file: String,
    pub lost: u64,
    pub endangered: u64,
}

/// For the page.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub(super) struct Found {
    pub files: Vec<InDanger>,
    /// There are more files.
    pub more: bool,
    /// It was never gone through to the end, and somebody is at it.
    pub scanning: bool,
}

#[derive(Default)]
struct State {
    found: Option<Found>,
    running: bool,
    next: Option<Instant>,
}

/// What is known of them.
#[derive(Default)]
pub(super) struct Danger(Mutex<State>);

impl Danger {
    /// What is known now. Has a task look anew if that may have changed; `any`: there is something to be found.
    pub fn found(self: &Arc<Self>, engine: &Engine, any: bool) -> Found {
        let mut state = self.lock();
        if !any {
            state.found = None;
            return Found::default();
        }
        let due = state.next.is_none_or(|next| next <= Instant::now());
        if due && !state.running {
            state.running = true;
            tokio::spawn(look(engine.clone(), Running(self.clone())));
        }
        state.found.clone().unwrap_or(Found { scanning: true, ..Found::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// However the task ends, another may begin.
struct Running(Arc<Danger>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.lock().running = false;
    }
}

async fn look(engine: Engine, running: Running) {
    let (began, mut counts) = (Instant::now(), Counts::default());
    let mut after: Option<LookupCursor> = None;
    loop {
        let page_began = Instant::now();
        let page =
            engine.read(|state, _| (state.lookup_rows(b"", after.take(), PAGE_ROWS), state.min_copies()));
        let Ok((Ok((rows, next)), min_copies)) = page.await else { return };
        counts.add(&rows, min_copies);
        if next.is_none() || counts.files.len() > MOST {
            break;
        }
        after = next;
        tokio::time::sleep(REST * page_began.elapsed()).await;
    }
    let mut state = running.0.lock();
    state.found = Some(counts.found());
    state.next = Some(Instant::now() + GOOD_FOR.max(began.elapsed()));
}

#[derive(Default)]
struct Counts {
    files: BTreeMap<Vec<u8>, InDanger>,
}

impl Counts {
    /// The copies of one extent are in one page.
    fn add(&mut self, rows: &[pb::LookupRow], min_copies: u32) {
        let key = |row: &pb::LookupRow| (row.offset, row.chunk);
        for extent in rows.chunk_by(|a, b| a.file == b.file && key(a) == key(b)) {
            let keepers: BTreeSet<u64> =
                extent.iter().filter(|row| row.keeper != 0 && row.alive).map(|row| row.keeper).collect();
            let live = keepers.len() as u64;
            if live >= u64::from(min_copies) {
                continue;
            }
            let Some(row) = extent.first() else { continue };
            let name = || String::from_utf8_lossy(&row.file).into_owned();
            let file = self
                .files
                .entry(row.file.to_vec())
                .or_insert_with(|| InDanger { file: name(), ..InDanger::default() });
            match live {
                0 => file.lost += 1,
                _ => file.endangered += 1,
            }
        }
    }

    /// Lost ones first.
    fn found(self) -> Found {
        let more = self.files.len() > MOST;
        let mut files: Vec<InDanger> = self.files.into_values().collect();
        files.sort_by_key(|file| file.lost == 0);
        files.truncate(MOST);
        Found { files, more, scanning: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(file: &'static str, chunk: u64, keeper: u64, alive: bool) -> pb::LookupRow {
        pb::LookupRow { file: file.into(), chunk, offset: chunk * 10, keeper, alive, ..Default::default() }
    }

    #[test]
    fn chunks_with_too_few_live_copies_are_counted_by_file() {
        let mut counts = Counts::default();
        let rows = [
            row("/a", 1, 1, true),
            row("/a", 1, 2, true),
            row("/b", 2, 1, true),
            row("/b", 2, 2, false),
            row("/c", 3, 0, false),
            row("/c", 4, 2, false),
        ];
        counts.add(&rows, 2);
        let found = counts.found();
        assert_eq!(
            found.files,
            [
                InDanger { file: "/c".into(), lost: 2, endangered: 0 },
                InDanger { file: "/b".into(), lost: 0, endangered: 1 }
            ]
        );
        assert!(!found.more);
    }
}
