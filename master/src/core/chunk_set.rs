//! Sets of chunks that take about two bytes for each, or a bit where they lie close together.
//!
//! Ids are handed out one after the other, so a set is cut into blocks of 65,536 ids. A block with few of them is a sorted
//! list of what the ids differ by; one with many is a bit for each.
//!
//! What must hold: no block is empty; `len` is the sum of all; a list has at most [`MAX_LISTED`].

use std::collections::BTreeMap;

use dfs_proto::ids::ChunkId;

const BLOCK_BITS: u32 = 16;
const WORDS: usize = (1 << BLOCK_BITS) / u64::BITS as usize;
/// A list as long as that takes as much memory as the bits.
const MAX_LISTED: usize = 4096;
/// With so few left, bits become a list again.
const FEW: usize = MAX_LISTED / 2;
/// Ids for which a list takes room at once.
const STEP: usize = 16;

/// Some chunks, in the order of their ids.
#[derive(Default)]
pub(super) struct ChunkSet {
    blocks: BTreeMap<u64, Block>,
    len: usize,
}

enum Block {
    List(Vec<u16>),
    Bits(Box<[u64; WORDS]>, usize),
}

impl Block {
    fn contains(&self, low: u16) -> bool {
        match self {
            Block::List(list) => list.binary_search(&low).is_ok(),
            Block::Bits(bits, _) => bits[word(low)] & bit(low) != 0,
        }
    }

    /// Was it new?
    fn insert(&mut self, low: u16) -> bool {
        match self {
            Block::List(list) => {
                let Err(at) = list.binary_search(&low) else { return false };
                if list.len() == MAX_LISTED {
                    let mut bits = Box::new([0; WORDS]);
                    list.iter().chain([&low]).for_each(|low| bits[word(*low)] |= bit(*low));
                    *self = Block::Bits(bits, MAX_LISTED + 1);
                    return true;
                }
                if list.len() == list.capacity() {
                    list.reserve_exact(STEP.max(list.len() / 8));
                }
                list.insert(at, low);
                true
            }
            Block::Bits(bits, count) => {
                let is_new = bits[word(low)] & bit(low) == 0;
                bits[word(low)] |= bit(low);
                *count += usize::from(is_new);
                is_new
            }
        }
    }

    /// Was it there?
    fn remove(&mut self, low: u16) -> bool {
        match self {
            Block::List(list) => {
                let Ok(at) = list.binary_search(&low) else { return false };
                list.remove(at);
                true
            }
            Block::Bits(bits, count) => {
                let was = bits[word(low)] & bit(low) != 0;
                bits[word(low)] &= !bit(low);
                *count -= usize::from(was);
                if *count == FEW {
                    let list = self.from(0).collect();
                    *self = Block::List(list);
                }
                was
            }
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Block::List(list) => list.is_empty(),
            Block::Bits(_, count) => *count == 0,
        }
    }

    fn from(&self, low: u16) -> impl Iterator<Item = u16> {
        let (list, bits) = match self {
            Block::List(list) => (&list[list.partition_point(|have| *have < low)..], None),
            Block::Bits(bits, _) => (&[][..], Some(bits)),
        };
        let first = word(low);
        let in_words = bits.into_iter().flat_map(move |bits| {
            bits.iter().enumerate().skip(first).flat_map(move |(at, set)| {
                let mut left = if at == first { set & (u64::MAX << (low % 64)) } else { *set };
                std::iter::from_fn(move || {
                    let next = (left != 0).then(|| left.trailing_zeros())?;
                    left &= left - 1;
                    // A block has 65,536 bits.
                    Some((at * 64) as u16 + next as u16)
                })
            })
        });
        list.iter().copied().chain(in_words)
    }
}

fn word(low: u16) -> usize {
    usize::from(low) / 64
}

fn bit(low: u16) -> u64 {
    1 << (low % 64)
}

fn split(chunk: ChunkId) -> (u64, u16) {
    // The lowest bits.
    (chunk.0 >> BLOCK_BITS, chunk.0 as u16)
}

impl ChunkSet {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn contains(&self, chunk: ChunkId) -> bool {
        let (block, low) = split(chunk);
        self.blocks.get(&block).is_some_and(|block| block.contains(low))
    }

    /// Was it new?
    pub fn insert(&mut self, chunk: ChunkId) -> bool {
        let (block, low) = split(chunk);
        let is_new = self.blocks.entry(block).or_insert_with(|| Block::List(Vec::new())).insert(low);
        self.len += usize::from(is_new);
        is_new
    }

    /// Was it there?
    pub fn remove(&mut self, chunk: ChunkId) -> bool {
        let (number, low) = split(chunk);
        let Some(block) = self.blocks.get_mut(&number) else { return false };
        let was = block.remove(low);
        if block.is_empty() {
            self.blocks.remove(&number);
        }
        self.len -= usize::from(was);
        was
    }

    pub fn iter(&self) -> impl Iterator<Item = ChunkId> {
        self.from(ChunkId(0))
    }

    /// Those from this one on.
    pub fn from(&self, chunk: ChunkId) -> impl Iterator<Item = ChunkId> {
        let (first, low) = split(chunk);
        self.blocks.range(first..).flat_map(move |(number, block)| {
            let from = if *number == first { low } else { 0 };
            block.from(from).map(move |low| ChunkId(number << BLOCK_BITS | u64::from(low)))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// A run of chunks that come or go.
    fn runs() -> impl Strategy<Value = (bool, u64, u64)> {
        let from = prop_oneof![0..20_000u64, (1 << 50) - 5000..(1u64 << 50) + 5000, Just(u64::MAX - 6000)];
        (any::<bool>(), from, prop_oneof![1..3u64, 1..6000u64])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn it_is_a_set(runs in prop::collection::vec(runs(), 0..20), from in 0..20_000u64) {
            let (mut chunks, mut set) = (ChunkSet::default(), BTreeSet::new());
            for (comes, first, count) in runs {
                for id in (first..first + count).map(ChunkId) {
                    if comes {
                        prop_assert_eq!(chunks.insert(id), set.insert(id));
                    } else {
                        prop_assert_eq!(chunks.remove(id), set.remove(&id));
                    }
                    prop_assert_eq!(chunks.contains(id), comes);
                }
                prop_assert_eq!((chunks.len(), chunks.is_empty()), (set.len(), set.is_empty()));
            }
            prop_assert!(chunks.iter().eq(set.iter().copied()));
            prop_assert!(chunks.from(ChunkId(from)).eq(set.range(ChunkId(from)..).copied()));
            prop_assert!(chunks.blocks.values().all(|block| !block.is_empty()));
        }
    }
}
