//! Which extents of a file are packed into new chunks. Pure: looks, and changes nothing.
//!
//! A *fragment* is a sequence of extents, with or without holes between them, that refers to one run of bytes
//! of one chunk: it is read in one go. A fragment that is a whole chunk of full size cannot be bettered and
//! stays. So does what lies in a chunk that other files keep on the disks anyway (a copy made by
//! copy_file_range), since packing it would only take more room; and what has no live copy. What is left is
//! packed in the order of the file, `chunk_size` bytes at a time.
//!
//! What must hold: each window that is carried out, whatever else happens, leaves fewer fragments that are not
//! full, or fewer chunks that are mostly waste; so packing a file again and again comes to an end.

use std::collections::BTreeMap;

use dfs_proto::ids::{ChunkId, InodeNo};

use super::State;
use super::chunks::Chunk;
use super::content::Span;

/// Fragments that a file may have beyond what its size asks for.
const SPARE_FRAGMENTS: usize = 2;
/// Most fragments in one window: the order to build a chunk of them has to stay far below the largest message.
const MAX_FRAGMENTS: usize = 4096;
/// Most extents in one window: they are swapped in one command, which holds up everybody.
const MAX_EXTENTS: usize = 16_384;
/// Most extents that one plan looks at; the next plan of a longer file goes on from there.
const MAX_PLANNED: usize = 1 << 18;
/// A chunk of which less than half is in use is mostly waste, if that is at least this part of a full one.
const WASTE_PART: u64 = 16;

/// Extents that will be one new chunk, one after the other.
#[derive(Default, Debug)]
pub(super) struct Window {
    /// (file offset, what is there), by file offset; they do not overlap.
    pub items: Vec<(u64, Span)>,
    /// Bytes.
    pub length: u32,
    fragments: usize,
    has_waste: bool,
}

/// What is to be done about one part of a file.
#[derive(Default, Debug)]
pub(super) struct Plan {
    pub windows: Vec<Window>,
    /// Where the next part begins, if there is one.
    pub next: Option<u64>,
}

/// See the module.
struct Fragment {
    chunk: ChunkId,
    chunk_offset: u32,
    length: u32,
    items: Vec<(u64, Span)>,
}

impl Fragment {
    fn follows(&self, span: &Span) -> bool {
        self.chunk == span.chunk && self.chunk_offset + self.length == span.chunk_offset
    }
}

/// Joins those that follow each other in one chunk.
fn join(parts: impl IntoIterator<Item = Fragment>) -> Vec<Fragment> {
    let mut joined: Vec<Fragment> = Vec::new();
    for mut part in parts {
        match joined.last_mut() {
            Some(last) if part.items.first().is_some_and(|(_, span)| last.follows(span)) => {
                last.length += part.length;
                last.items.append(&mut part.items);
            }
            _ => joined.push(part),
        }
    }
    joined
}

impl State {
    fn is_waste(&self, chunk: &Chunk) -> bool {
        let unused = u64::from(chunk.length).saturating_sub(chunk.used);
        chunk.used * 2 < u64::from(chunk.length) && unused >= u64::from(self.settings.chunk_size) / WASTE_PART
    }

    /// Could the file gain by being packed? Quick, and says yes too often.
    pub(super) fn may_be_loose(&self, inode: InodeNo) -> bool {
        let mut extents = self.extents_from(inode, 0);
        let few = extents.by_ref().take(1 + SPARE_FRAGMENTS);
        let waste = few.filter_map(|(_, span)| self.chunks.get(span.chunk)).any(|chunk| self.is_waste(chunk));
        waste || extents.next().is_some()
    }

    /// Looks at the extents of a file from a file offset on.
    pub(super) fn plan_compaction(&self, inode: InodeNo, from: u64) -> Plan {
        let mut extents = self.extents_from(inode, from);
        let part: Vec<(u64, Span)> = extents.by_ref().take(MAX_PLANNED).collect();
        let next = extents.next().map(|(start, _)| start);
        let loose = self.not_full(part);
        let bytes: u64 = loose.iter().map(|fragment| u64::from(fragment.length)).sum();
        let asked_for = usize::try_from(bytes.div_ceil(u64::from(self.settings.chunk_size)));
        let too_many = loose.len() > asked_for.unwrap_or(usize::MAX).saturating_add(SPARE_FRAGMENTS);
        let mut windows = self.windows(loose);
        windows.retain(|window| window.has_waste || too_many && window.fragments > 1);
        Plan { windows, next }
    }

    /// The fragments that could be packed.
    fn not_full(&self, part: Vec<(u64, Span)>) -> Vec<Fragment> {
        let mut own: BTreeMap<ChunkId, u64> = BTreeMap::new();
        for (_, span) in &part {
            *own.entry(span.chunk).or_default() += u64::from(span.length);
        }
        let single = |(start, span): (u64, Span)| Fragment {
            chunk: span.chunk,
            chunk_offset: span.chunk_offset,
            length: span.length,
            items: vec![(start, span)],
        };
        let mut fragments = join(part.into_iter().map(single));
        fragments.retain(|fragment| {
            self.chunks.get(fragment.chunk).is_some_and(|chunk| {
                let others = chunk.used.saturating_sub(own.get(&fragment.chunk).copied().unwrap_or(0));
                let stays_anyway = others * 2 >= u64::from(chunk.length);
                chunk.live > 0 && !stays_anyway && !self.is_full(fragment, chunk)
            })
        });
        // Without what lay between them, some may follow each other: a chunk packed around full ones.
        let mut fragments = join(fragments);
        fragments.retain(|fragment| {
            self.chunks.get(fragment.chunk).is_some_and(|chunk| !self.is_full(fragment, chunk))
        });
        fragments
    }

    fn is_full(&self, fragment: &Fragment, chunk: &Chunk) -> bool {
        fragment.length == chunk.length && chunk.length >= self.settings.chunk_size
    }

    fn windows(&self, fragments: Vec<Fragment>) -> Vec<Window> {
        let mut windows = Vec::new();
        let mut window = Window::default();
        for fragment in fragments {
            let has_waste = self.chunks.get(fragment.chunk).is_some_and(|chunk| self.is_waste(chunk));
            let mut is_new = true;
            for (mut start, mut span) in fragment.items {
                while span.length > 0 {
                    if window.length >= self.settings.chunk_size
                        || window.items.len() >= MAX_EXTENTS
                        || window.fragments >= MAX_FRAGMENTS && is_new
                    {
                        windows.push(std::mem::take(&mut window));
                        is_new = true;
                    }
                    let take = span.length.min(self.settings.chunk_size - window.length);
                    window.items.push((start, Span { length: take, ..span }));
                    window.length += take;
                    window.fragments += usize::from(is_new);
                    window.has_waste |= has_waste;
                    is_new = false;
                    start += u64::from(take);
                    span.length -= take;
                    span.chunk_offset += take;
                }
            }
        }
        if window.length > 0 {
            windows.push(window);
        }
        windows
    }
}
