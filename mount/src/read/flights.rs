//! One fetch for all who want the same blocks at the same time.
//!
//! What must hold: a fetch that ended, in whatever way, is not joined any more; those who joined it learn how it
//! ended, also when its task was lost.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::ChunkId;
use tokio::sync::watch;

use super::layout::Source;
use super::lock;

/// Verified blocks in order, or why there are none.
pub(super) type Outcome = Result<Arc<[Bytes]>, DfsError>;

struct Flight {
    id: u64,
    /// What is fetched from: who has a newer layout does not want what an older one brings.
    source: Arc<Source>,
    blocks: Range<u32>,
    outcome: watch::Receiver<Option<Outcome>>,
}

#[derive(Default)]
struct Board {
    by_range: HashMap<(ChunkId, u32), Vec<Flight>>,
    last_id: u64,
}

/// The fetches under way.
#[derive(Default)]
pub(super) struct Flights {
    board: Arc<Mutex<Board>>,
}

/// A place in a fetch: waits for its end.
pub(super) struct Seat {
    outcome: watch::Receiver<Option<Outcome>>,
    skip: usize,
    take: usize,
}

/// For whoever has to do the fetch: say how it ended with [`Pilot::land`].
pub(super) struct Pilot {
    board: Arc<Mutex<Board>>,
    range: (ChunkId, u32),
    id: u64,
    outcome: watch::Sender<Option<Outcome>>,
}

impl Flights {
    /// Takes a seat in a fetch of `range` of the source's chunk that brings all of `wanted`; when there is none,
    /// begins one for `blocks`, which contain `wanted`, and the caller has to do it.
    pub(super) fn board(
        &self,
        source: &Arc<Source>,
        range: u32,
        wanted: &Range<u32>,
        blocks: Range<u32>,
    ) -> (Seat, Option<Pilot>) {
        let chunk = source.chunk;
        let mut board = lock(&self.board);
        let take = wanted.len();
        let under_way = board.by_range.get(&(chunk, range)).and_then(|flights| {
            let brings = |f: &Flight| f.blocks.start <= wanted.start && wanted.end <= f.blocks.end;
            flights.iter().find(|f| Arc::ptr_eq(&f.source, source) && brings(f))
        });
        if let Some(flight) = under_way {
            let skip = (wanted.start - flight.blocks.start) as usize;
            return (Seat { outcome: flight.outcome.clone(), skip, take }, None);
        }
        board.last_id += 1;
        let id = board.last_id;
        let skip = (wanted.start - blocks.start) as usize;
        let (sender, outcome) = watch::channel(None);
        let flight = Flight { id, source: source.clone(), blocks, outcome: outcome.clone() };
        board.by_range.entry((chunk, range)).or_default().push(flight);
        let pilot = Pilot { board: self.board.clone(), range: (chunk, range), id, outcome: sender };
        (Seat { outcome, skip, take }, Some(pilot))
    }
}

impl Pilot {
    /// The fetch is over.
    pub(super) fn land(self, outcome: Outcome) {
        // First off the board: who is told of a failure may board anew at once.
        self.leave_board();
        self.outcome.send_replace(Some(outcome));
    }

    fn leave_board(&self) {
        let mut board = lock(&self.board);
        if let Some(flights) = board.by_range.get_mut(&self.range) {
            flights.retain(|flight| flight.id != self.id);
            if flights.is_empty() {
                board.by_range.remove(&self.range);
            }
        }
    }
}

impl Drop for Pilot {
    fn drop(&mut self) {
        self.leave_board();
    }
}

impl Seat {
    /// The wanted blocks.
    pub(super) async fn arrive(mut self) -> Result<Vec<Bytes>, DfsError> {
        let lost = || DfsError::new(ErrorCode::Io, "a fetch ended without a result; see the log");
        let outcome = self.outcome.wait_for(Option::is_some).await.map_err(|_| lost())?;
        match outcome.as_ref() {
            Some(Ok(blocks)) => {
                let mine = blocks.get(self.skip..self.skip + self.take);
                mine.map(<[Bytes]>::to_vec).ok_or_else(lost)
            }
            Some(Err(error)) => Err(error.clone()),
            None => Err(lost()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(chunk: u64) -> Arc<Source> {
        let (ticket, keepers) = (Bytes::new(), Vec::new());
        Arc::new(Source {
            chunk: ChunkId(chunk),
            length: 1 << 20,
            checksum: 0,
            ticket,
            keepers,
            outdated: Default::default(),
        })
    }

    fn blocks(from: u8, to: u8) -> Arc<[Bytes]> {
        (from..to).map(|n| Bytes::from(vec![n])).collect()
    }

    #[tokio::test]
    async fn those_who_want_part_of_it_share_one_fetch() {
        let (flights, source) = (Flights::default(), source(1));
        let (all, pilot) = flights.board(&source, 0, &(0..4), 0..4);
        let (some, no_pilot) = flights.board(&source, 0, &(1..3), 0..4);
        assert!(no_pilot.is_none());
        pilot.unwrap().land(Ok(blocks(0, 4)));
        assert_eq!(all.arrive().await.unwrap(), blocks(0, 4).to_vec());
        assert_eq!(some.arrive().await.unwrap(), blocks(1, 3).to_vec());
    }

    #[tokio::test]
    async fn a_fetch_that_does_not_bring_all_is_not_joined() {
        let (flights, source) = (Flights::default(), source(1));
        let (_seat, _pilot) = flights.board(&source, 0, &(1..2), 1..2);
        assert!(flights.board(&source, 0, &(1..3), 1..3).1.is_some());
        assert!(flights.board(&self::source(2), 0, &(1..2), 1..2).1.is_some());
    }

    #[tokio::test]
    async fn a_fetch_by_an_older_layout_is_not_joined() {
        let (flights, source) = (Flights::default(), source(1));
        let (_seat, _pilot) = flights.board(&source, 0, &(0..4), 0..4);
        let newer = self::source(1);
        assert!(flights.board(&newer, 0, &(0..4), 0..4).1.is_some());
    }

    #[tokio::test]
    async fn a_fetch_that_ended_is_not_joined() {
        let (flights, source) = (Flights::default(), source(1));
        let (seat, pilot) = flights.board(&source, 0, &(0..4), 0..4);
        pilot.unwrap().land(Err(DfsError::new(ErrorCode::Io, "broken")));
        assert!(flights.board(&source, 0, &(0..4), 0..4).1.is_some());
        assert_eq!(seat.arrive().await.unwrap_err().message, "broken");
        assert!(lock(&flights.board).by_range.is_empty());
    }

    #[tokio::test]
    async fn a_fetch_that_was_lost_is_an_error() {
        let (flights, source) = (Flights::default(), source(1));
        let (seat, pilot) = flights.board(&source, 0, &(0..4), 0..4);
        drop(pilot);
        assert_eq!(seat.arrive().await.unwrap_err().code, ErrorCode::Io);
    }
}
