//! When a directory is listed ahead: programs look up one name after the other in it, and each time the master has to be asked.
//! One list, with attributes, then answers the look-ups to come (`known_names`).
//!
//! What must hold: at most one list of a directory is under way, and a list is of a bounded number of entries. Where lists do not pay,
//! since others keep changing names there, the next one comes later and later.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dfs_proto::ids::InodeNo;
use lru::LruCache;

use super::known_names::KnownNames;
use super::trust::Trust;
use crate::client::Client;
use crate::lock::lock;

/// Look-ups that have to be asked before a directory is listed the first time, none longer after the one before than
const FIRST_AFTER: u32 = 8;
/// this; and so many times as many each time it is listed again.
const TOGETHER: Duration = Duration::from_secs(1);
const FACTOR: u32 = 4;
/// Entries of one question, and questions of one list.
const PAGE: u32 = 1024;
const PAGES: usize = 4;
/// Directories that are looked at.
const WATCHED: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1_023);

#[derive(Clone, Copy)]
struct Watched {
    asked: u32,
    last: Instant,
    /// So many make a list worth while.
    after: u32,
    under_way: bool,
}

/// See the module.
pub struct NamesAhead {
    directories: Mutex<LruCache<InodeNo, Watched>>,
}

impl Default for NamesAhead {
    fn default() -> Self {
        NamesAhead { directories: Mutex::new(LruCache::new(WATCHED)) }
    }
}

impl NamesAhead {
    /// The master had to be asked for a name in this directory. Is it to be listed now? Then `listed` has to be said.
    fn is_due(&self, directory: InodeNo, now: Instant) -> bool {
        let mut directories = lock(&self.directories);
        let new = || Watched { asked: 0, last: now, after: FIRST_AFTER, under_way: false };
        let watched = directories.get_or_insert_mut(directory, new);
        if now.saturating_duration_since(watched.last) > TOGETHER {
            watched.asked = 0;
        }
        watched.last = now;
        watched.asked = watched.asked.saturating_add(1);
        let due = !watched.under_way && watched.asked >= watched.after;
        if due {
            watched.under_way = true;
            watched.asked = 0;
            watched.after = watched.after.saturating_mul(FACTOR);
        }
        due
    }

    fn listed(&self, directory: InodeNo) {
        if let Some(watched) = lock(&self.directories).peek_mut(&directory) {
            watched.under_way = false;
        }
    }

    /// The master had to be asked for a name in this directory. Begins a list, if that is due; waits for nothing.
    pub fn asked(
        self: &Arc<Self>,
        client: &Client,
        trust: &Arc<Trust>,
        names: &Arc<KnownNames>,
        directory: InodeNo,
    ) {
        if !self.is_due(directory, Instant::now()) {
            return;
        }
        let (ahead, client, trust, names) = (self.clone(), client.clone(), trust.clone(), names.clone());
        tokio::spawn(async move {
            list(&client, &trust, &names, directory).await;
            ahead.listed(directory);
        });
    }
}

async fn list(client: &Client, trust: &Trust, names: &KnownNames, directory: InodeNo) {
    let asked = trust.ask();
    let (mut entries, mut whole) = (Vec::new(), false);
    for _ in 0..PAGES {
        let after = entries
            .last()
            .map_or_else(Default::default, |entry: &dfs_proto::pb::DirEntry| entry.name.clone());
        // Whoever looks names up asks for himself, and hears of the error.
        let Ok(page) = client.readdir(directory, &after, PAGE).await else { return };
        whole = page.end;
        entries.extend(page.entries);
        if whole {
            break;
        }
    }
    names.listed(trust, asked, directory, entries, whole);
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIR: InodeNo = InodeNo(7);

    fn due(ahead: &NamesAhead, times: u32, now: Instant) -> u32 {
        (0..times).map(|_| u32::from(ahead.is_due(DIR, now))).sum()
    }

    #[test]
    fn a_directory_is_listed_when_enough_was_asked_and_the_next_time_later() {
        let (ahead, now) = (NamesAhead::default(), Instant::now());
        assert_eq!(due(&ahead, FIRST_AFTER - 1, now), 0);
        assert!(!ahead.is_due(InodeNo(8), now));
        assert_eq!(due(&ahead, 1, now), 1);
        assert_eq!(due(&ahead, 100, now), 0, "one is under way");
        ahead.listed(DIR);
        assert_eq!(due(&ahead, 1, now), 1);
        ahead.listed(DIR);
        assert_eq!(due(&ahead, FIRST_AFTER * FACTOR * FACTOR - 1, now), 0);
    }

    #[test]
    fn look_ups_that_are_far_apart_do_not_count_together() {
        let ahead = NamesAhead::default();
        let mut now = Instant::now();
        for _ in 0..10 * FIRST_AFTER {
            assert!(!ahead.is_due(DIR, now));
            now += TOGETHER * 2;
        }
    }
}
