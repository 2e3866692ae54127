//! The newest bytes of one file, which no chunk holds yet. Pure: no I/O, no locks.
//!
//! What must hold: runs never overlap nor touch; a byte written later replaces one written earlier; and the
//! buffer is always frozen whole, into one chunk, so that what becomes visible of a file is at every moment
//! all that was written up to some point in time.

use std::collections::BTreeMap;

use bytes::Bytes;
use dfs_proto::pb;

/// Runs that one chunk may be made of; the master takes at most 4096 in an `Alloc`.
const MAX_RUNS: usize = 4000;

/// Written and not yet frozen.
#[derive(Debug, Default)]
pub struct DirtyBuffer {
    runs: BTreeMap<u64, Vec<u8>>,
    bytes: usize,
}

/// A dirty buffer that will not change any more: the content of one chunk to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frozen {
    /// By file offset; (offset, bytes).
    pub runs: Vec<(u64, Bytes)>,
}

impl DirtyBuffer {
    /// Bytes held.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Holds nothing?
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The offset after the last dirty byte; 0 when there is none.
    pub fn end(&self) -> u64 {
        self.runs.last_key_value().map_or(0, |(offset, run)| offset + run.len() as u64)
    }

    /// How many of the next bytes it can take before it has to be frozen; it never holds more than
    /// `limit` bytes, nor more runs than one chunk may have.
    pub fn room(&self, limit: usize) -> usize {
        if self.runs.len() >= MAX_RUNS { 0 } else { limit.saturating_sub(self.bytes) }
    }

    /// Takes in `data` at `offset`. Returns by how many bytes it has grown.
    pub fn write(&mut self, offset: u64, data: &[u8], limit: usize) -> usize {
        if data.is_empty() {
            return 0;
        }
        let before = self.bytes;
        let start = self.place(offset, data, limit);
        self.absorb_followers(start);
        self.bytes - before
    }

    /// Writes into the run that `offset` lies in or touches, or into a new one; returns that run's start.
    fn place(&mut self, offset: u64, data: &[u8], limit: usize) -> u64 {
        let touching = self
            .runs
            .range_mut(..=offset)
            .next_back()
            .filter(|(start, run)| **start + run.len() as u64 >= offset);
        let Some((&start, run)) = touching else {
            self.runs.insert(offset, data.to_vec());
            self.bytes += data.len();
            return offset;
        };
        let at = (offset - start) as usize;
        let over = data.len().min(run.len() - at);
        run[at..at + over].copy_from_slice(&data[..over]);
        let rest = &data[over..];
        if run.len() + rest.len() > run.capacity() {
            // A run that grows is a file being written in order: it will most likely fill the buffer.
            let wanted = (run.len() + rest.len()).saturating_mul(2).min(limit.max(run.len() + rest.len()));
            run.reserve_exact(wanted - run.len());
        }
        run.extend_from_slice(rest);
        self.bytes += rest.len();
        start
    }

    /// Merges the runs that the one at `start` now overlaps or touches into it; its bytes are the newer.
    fn absorb_followers(&mut self, start: u64) {
        let Some(run) = self.runs.get(&start) else { return };
        let mut end = start + run.len() as u64;
        while let Some((&next, follower)) = self.runs.range(start + 1..=end).next() {
            let follower_len = follower.len();
            let overlap = ((end - next) as usize).min(follower_len);
            let Some(follower) = self.runs.remove(&next) else { return };
            let Some(run) = self.runs.get_mut(&start) else { return };
            run.extend_from_slice(&follower[overlap..]);
            self.bytes -= overlap;
            end = start + run.len() as u64;
        }
    }

    /// Forgets everything. Returns how many bytes it was.
    pub fn clear(&mut self) -> usize {
        self.runs.clear();
        std::mem::take(&mut self.bytes)
    }

    /// Takes everything out.
    pub fn freeze(&mut self) -> Frozen {
        self.bytes = 0;
        let runs = std::mem::take(&mut self.runs);
        let freeze = |(offset, mut run): (u64, Vec<u8>)| {
            run.shrink_to_fit();
            (offset, Bytes::from(run))
        };
        Frozen { runs: runs.into_iter().map(freeze).collect() }
    }

    /// Copies of what is dirty in `[offset, offset + length)`.
    pub fn overlapping(&self, offset: u64, length: usize) -> Vec<(u64, Bytes)> {
        let end = offset.saturating_add(length as u64);
        let first = self.runs.range(..=offset).next_back().map_or(offset, |(start, _)| *start);
        let cut = |(&start, run): (&u64, &Vec<u8>)| {
            let (from, to) = cut(start, run.len(), offset, end)?;
            Some((start + from as u64, Bytes::copy_from_slice(&run[from..to])))
        };
        self.runs.range(first..end).filter_map(cut).collect()
    }
}

impl Frozen {
    /// Bytes of the chunk.
    pub fn len(&self) -> usize {
        self.runs.iter().map(|(_, run)| run.len()).sum()
    }

    /// Holds nothing?
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The offset after the last byte.
    pub fn end(&self) -> u64 {
        self.runs.last().map_or(0, |(offset, run)| offset + run.len() as u64)
    }

    /// As an `Alloc` names them.
    pub fn wire_runs(&self) -> Vec<pb::Run> {
        self.runs
            .iter()
            .map(|(file_offset, run)| pb::Run { file_offset: *file_offset, length: run.len() as u64 })
            .collect()
    }

    /// What it has of `[offset, offset + length)`, without copying.
    pub fn overlapping(&self, offset: u64, length: usize) -> impl Iterator<Item = (u64, Bytes)> {
        let end = offset.saturating_add(length as u64);
        let first = self.runs.partition_point(|(start, run)| start + run.len() as u64 <= offset);
        self.runs[first..].iter().take_while(move |(start, _)| *start < end).filter_map(
            move |(start, run)| {
                let (from, to) = cut(*start, run.len(), offset, end)?;
                Some((start + from as u64, run.slice(from..to)))
            },
        )
    }
}

/// Which part of a run of `length` bytes at `start` lies in `[offset, end)`.
fn cut(start: u64, length: usize, offset: u64, end: u64) -> Option<(usize, usize)> {
    let from = offset.saturating_sub(start).min(length as u64) as usize;
    let to = end.saturating_sub(start).min(length as u64) as usize;
    (from < to).then_some((from, to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: usize = 1 << 20;

    fn show(buffer: &DirtyBuffer) -> Vec<(u64, Vec<u8>)> {
        buffer.runs.iter().map(|(offset, run)| (*offset, run.clone())).collect()
    }

    #[test]
    fn a_write_in_order_is_one_run() {
        let mut buffer = DirtyBuffer::default();
        assert_eq!(buffer.write(0, b"abc", LIMIT), 3);
        assert_eq!(buffer.write(3, b"def", LIMIT), 3);
        assert_eq!(show(&buffer), [(0, b"abcdef".to_vec())]);
        assert_eq!((buffer.len(), buffer.end()), (6, 6));
    }

    #[test]
    fn a_later_write_replaces_and_joins() {
        let mut buffer = DirtyBuffer::default();
        buffer.write(0, b"aaaa", LIMIT);
        buffer.write(8, b"bbbb", LIMIT);
        assert_eq!(buffer.write(2, b"XXXXXXXX", LIMIT), 4);
        assert_eq!(show(&buffer), [(0, b"aaXXXXXXXXbb".to_vec())]);
    }

    #[test]
    fn a_long_write_swallows_short_runs() {
        let mut buffer = DirtyBuffer::default();
        buffer.write(2, b"a", LIMIT);
        buffer.write(5, b"b", LIMIT);
        assert_eq!(buffer.write(0, b"0123456789", LIMIT), 8);
        assert_eq!(show(&buffer), [(0, b"0123456789".to_vec())]);
    }

    #[test]
    fn cleared_it_is_empty() {
        let mut buffer = DirtyBuffer::default();
        buffer.write(0, b"abcdef", LIMIT);
        buffer.write(10, b"xyz", LIMIT);
        assert_eq!(buffer.clear(), 9);
        assert_eq!((buffer.is_empty(), buffer.len()), (true, 0));
    }

    #[test]
    fn room_ends_with_bytes_and_with_runs() {
        let mut buffer = DirtyBuffer::default();
        buffer.write(0, b"abc", LIMIT);
        assert_eq!(buffer.room(10), 7);
        for n in 0..MAX_RUNS as u64 {
            buffer.write(100 + 2 * n, b"x", LIMIT);
        }
        assert_eq!(buffer.room(LIMIT), 0);
    }

    proptest! {
        /// Against a plain array: content, length, runs apart, and what `overlapping` and `freeze` give.
        #[test]
        fn behaves_like_an_array(ops in proptest::collection::vec((0u64..60, 0usize..20, any::<u8>(), 0u8..12), 1..60), at in 0u64..70, len in 0usize..70) {
            let mut buffer = DirtyBuffer::default();
            let mut model: Vec<Option<u8>> = vec![None; 100];
            for (offset, length, byte, what) in ops {
                if what == 0 {
                    buffer.clear();
                    model.fill(None);
                } else {
                    let before = buffer.len();
                    let grown = buffer.write(offset, &vec![byte; length], LIMIT);
                    model[offset as usize..offset as usize + length].fill(Some(byte));
                    prop_assert_eq!(buffer.len(), before + grown);
                }
                prop_assert_eq!(buffer.len(), model.iter().flatten().count());
                let mut end = None;
                for (offset, run) in &buffer.runs {
                    prop_assert!(!run.is_empty() && end.is_none_or(|e| *offset > e));
                    end = Some(offset + run.len() as u64);
                }
            }
            let expected: Vec<(u64, u8)> = (0..100u64).filter_map(|i| Some((i, model[i as usize]?))).filter(|(i, _)| *i >= at && *i < at + len as u64).collect();
            let spread = |pieces: Vec<(u64, Bytes)>| -> Vec<(u64, u8)> {
                pieces.into_iter().flat_map(|(o, b)| b.iter().copied().collect::<Vec<u8>>().into_iter().enumerate().map(move |(i, v)| (o + i as u64, v))).collect()
            };
            prop_assert_eq!(spread(buffer.overlapping(at, len)), expected.clone());
            let frozen = buffer.freeze();
            prop_assert_eq!(spread(frozen.overlapping(at, len).collect()), expected);
            prop_assert!(buffer.is_empty() && buffer.end() == 0);
        }
    }
}
