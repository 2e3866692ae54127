//! A file's frozen buffers on their way to be chunks, in the order in which they were frozen. Pure: no I/O, no clock.
//!
//! What must hold: places that the master gave have an order only among those that were asked for over one stream. When that
//! breaks, the master drops what is not in the file yet, and whatever is asked for next comes first. So nothing is asked for
//! over another stream while older ones have places of the one before: first it has to be known how those ended, and if one of them
//! is not in the file, all are asked for anew, from the oldest on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use dfs_proto::ids::{ChunkId, OperationNo};
use dfs_proto::pb;

use super::dirty::Frozen;
use crate::client::lanes::Lane;

/// See the module.
#[derive(Default)]
pub(super) struct Queue {
    /// Oldest first; their numbers follow each other.
    uploads: VecDeque<Upload>,
    /// The number that the next frozen buffer gets.
    next_number: u64,
    /// Grows when the places that the master gave are given back: one that comes later is not for us.
    round: u64,
    /// The stream over which all places that are there were asked for.
    stream: u64,
}

/// A frozen buffer on its way to be a chunk.
#[derive(Clone)]
pub(super) struct Upload {
    pub number: u64,
    /// That froze it; none, when it was its age.
    pub operation: OperationNo,
    pub frozen: Arc<Frozen>,
    pub mtime: pb::Time,
    pub sync: bool,
    /// Some of its bytes are where they are by the append lease.
    pub append: bool,
    /// Over which its first place is asked for.
    pub stream: u64,
    /// When a place was first asked for.
    pub begun: Option<Instant>,
    /// That the master last gave it.
    chunk: Option<ChunkId>,
    /// Of places; see the queue.
    round: u64,
    /// Success was heard, but an older upload's was not yet.
    done: Option<pb::Attr>,
}

impl Upload {
    /// Where its bytes are moved.
    pub fn lane(&self) -> Lane {
        Lane::carrying(self.frozen.len())
    }
}

impl Queue {
    pub fn push(
        &mut self,
        frozen: Arc<Frozen>,
        mtime: pb::Time,
        operation: OperationNo,
        sync: bool,
        append: bool,
    ) {
        self.uploads.push_back(Upload {
            number: self.next_number,
            operation,
            frozen,
            mtime,
            sync,
            append,
            stream: 0,
            begun: None,
            chunk: None,
            round: 0,
            done: None,
        });
        self.next_number += 1;
    }

    pub fn is_empty(&self) -> bool {
        self.uploads.is_empty()
    }

    /// The number that the next frozen buffer gets.
    pub fn next_number(&self) -> u64 {
        self.next_number
    }

    /// Are all below this number committed, or dropped?
    pub fn are_over(&self, number: u64) -> bool {
        self.uploads.front().is_none_or(|upload| upload.number >= number)
    }

    pub fn sync_all(&mut self) {
        self.uploads.iter_mut().for_each(|upload| upload.sync = true);
    }

    /// Oldest first.
    pub fn frozen(&self) -> impl Iterator<Item = &Frozen> {
        self.uploads.iter().map(|upload| &*upload.frozen)
    }

    pub fn bytes(&self) -> usize {
        self.frozen().map(Frozen::len).sum()
    }

    /// The offset after the last byte.
    pub fn end(&self) -> u64 {
        self.frozen().map(Frozen::end).max().unwrap_or(0)
    }

    /// The upload with this number, or the next that is there; `stream` is the one that requests go over now. `None` also while
    /// older ones have places of another stream.
    pub fn next(&mut self, number: u64, stream: u64, now: Instant) -> Option<Upload> {
        if self.uploads.iter().all(|upload| upload.chunk.is_none()) {
            self.stream = stream;
        } else if self.stream != stream {
            return None;
        }
        let round = self.round;
        let next = self.uploads.iter_mut().find(|upload| upload.number >= number && upload.done.is_none())?;
        (next.round, next.stream) = (round, stream);
        next.begun.get_or_insert(now);
        Some(next.clone())
    }

    /// The master gave this upload a chunk. False when it is not wanted any more.
    pub fn take_place(&mut self, upload: &Upload, chunk: ChunkId) -> bool {
        if self.round != upload.round {
            return false;
        }
        let known = self.uploads.iter_mut().find(|known| known.number == upload.number);
        known.is_some_and(|known| {
            known.chunk = Some(chunk);
            true
        })
    }

    /// All that is unfinished has to be asked for again, from the oldest on, also what became visible ahead of an older one,
    /// which would else cover it. Returns the chunks that the master must forget, newest first.
    pub fn begin_anew(&mut self) -> Vec<ChunkId> {
        self.round += 1;
        let given = |upload: &mut Upload| {
            let chunk = upload.chunk.take();
            chunk.filter(|_| upload.done.take().is_none())
        };
        self.uploads.iter_mut().rev().filter_map(given).collect()
    }

    /// Since when the oldest has been under way.
    pub fn under_way_since(&self) -> Option<Instant> {
        self.uploads.front().and_then(|upload| upload.begun)
    }

    /// Uploads with a place and unknown end, as numbers and chunks, newest first.
    pub fn unknown(&self) -> Vec<(u64, ChunkId)> {
        let unknown = self.uploads.iter().rev().filter(|upload| upload.done.is_none());
        unknown.filter_map(|upload| Some((upload.number, upload.chunk?))).collect()
    }

    pub fn succeeded(&mut self, number: u64, attr: pb::Attr) {
        if let Some(upload) = self.uploads.iter_mut().find(|upload| upload.number == number) {
            upload.done = Some(attr);
        }
    }

    /// Takes out the oldest, if it has succeeded. Returns the file's attributes then, and how many bytes it had.
    pub fn pop_done(&mut self) -> Option<(pb::Attr, usize)> {
        let upload = self.uploads.pop_front_if(|upload| upload.done.is_some())?;
        Some((upload.done?, upload.frozen.len()))
    }

    /// Drops all. Returns how many bytes that were, and the chunks that the master must forget, newest first.
    pub fn drop_all(&mut self) -> (usize, Vec<ChunkId>) {
        let bytes = self.bytes();
        let chunks = self.begin_anew();
        self.uploads.clear();
        (bytes, chunks)
    }
}

#[cfg(test)]
mod tests {
    use super::super::dirty::DirtyBuffer;
    use super::*;

    fn queue(uploads: u64) -> Queue {
        let mut queue = Queue::default();
        for number in 0..uploads {
            let mut dirty = DirtyBuffer::default();
            dirty.write(number * 10, &[1; 10], 100);
            queue.push(Arc::new(dirty.freeze()), pb::Time::default(), OperationNo::default(), false, false);
        }
        queue
    }

    /// Gives the upload with this number a place that was asked for over this stream. False: none may be asked for.
    fn place(queue: &mut Queue, number: u64, stream: u64) -> bool {
        let Some(upload) = queue.next(number, stream, Instant::now()) else { return false };
        assert_eq!((upload.number, upload.stream), (number, stream));
        queue.take_place(&upload, ChunkId(100 * stream + number))
    }

    #[test]
    fn nothing_is_asked_for_over_a_new_stream_while_older_ones_have_places_of_the_one_before() {
        let mut queue = queue(3);
        assert!(place(&mut queue, 0, 1) && place(&mut queue, 1, 1));
        assert!(!place(&mut queue, 2, 2), "it would come first");
        queue.succeeded(1, pb::Attr::default());
        assert!(!place(&mut queue, 2, 2), "the oldest is not in the file");
        assert_eq!(queue.begin_anew(), [ChunkId(100)], "what is in the file is not to be forgotten");
        assert!(
            (0..3).all(|number| place(&mut queue, number, 2)),
            "and is written again behind the older one"
        );
    }

    #[test]
    fn when_all_that_have_places_are_in_the_file_the_next_one_is_asked_for_over_any_stream() {
        let mut queue = queue(3);
        assert!(place(&mut queue, 0, 1) && place(&mut queue, 1, 1));
        queue.succeeded(0, pb::Attr::default());
        queue.succeeded(1, pb::Attr::default());
        while queue.pop_done().is_some() {}
        assert!(place(&mut queue, 2, 2));
    }

    #[test]
    fn a_place_of_an_earlier_round_is_not_wanted() {
        let mut queue = queue(1);
        let upload = queue.next(0, 1, Instant::now()).unwrap();
        queue.begin_anew();
        assert!(!queue.take_place(&upload, ChunkId(7)));
        assert_eq!(queue.drop_all(), (10, vec![]));
    }
}
