//! What the master said of one file: where its bytes lie, and tickets to read them. Pure.
//!
//! A layout comes in pages, each of which is complete from its start to its end. What must hold: a page that was
//! asked for before the last `invalidate` is never found; all pages that are kept are of one content; a page is not
//! used once its tickets are about to expire, or once a keeper did not have what it names; and what the master sent is
//! checked before it is believed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::{ChunkId, InodeNo};
use dfs_proto::pb;

/// Half of a read ticket's life.
const MAX_AGE: Duration = Duration::from_secs(300);
/// Pages that are kept of one file; each has thousands of extents.
const MAX_PAGES: usize = 64;

/// What is needed to read one chunk.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) chunk: ChunkId,
    /// Bytes.
    pub(super) length: u32,
    /// The master's record: over the list of block checksums.
    pub(super) checksum: u32,
    pub(super) ticket: Bytes,
    /// Live ones with a copy, in the order of their ids.
    pub(super) keepers: Vec<pb::KeeperGrant>,
    /// Of the page: something that it names is not there any more.
    pub(super) outdated: Arc<AtomicBool>,
}

/// A part of a file's layout.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) start: u64,
    /// Complete up to here.
    pub(super) end: u64,
    /// Sorted, not overlapping, each inside its chunk, which is in `sources`.
    pub(super) extents: Vec<pb::Extent>,
    pub(super) sources: HashMap<ChunkId, Arc<Source>>,
    /// The file as it was then.
    pub(super) attr: pb::Attr,
    outdated: Arc<AtomicBool>,
    asked_at: Instant,
}

impl Page {
    /// From the master's answer to a question asked at `asked_at`, for what lies from `start` on.
    ///
    /// # Errors
    /// `Protocol` when it makes no sense.
    pub(super) fn new(
        inode: InodeNo,
        start: u64,
        reply: pb::FileLayout,
        asked_at: Instant,
    ) -> Result<Page, DfsError> {
        let wrong = |why: &str| {
            let message =
                format!("the master's layout of inode {inode} from offset {start} makes no sense: {why}");
            DfsError::new(ErrorCode::Protocol, message)
        };
        let attr = reply.attr.ok_or_else(|| wrong("it does not say of which content it is"))?;
        let outdated = Arc::new(AtomicBool::new(false));
        let sources: Option<HashMap<_, _>> =
            reply.chunks.into_iter().map(|chunk| source(chunk, &outdated)).collect();
        let sources = sources.ok_or_else(|| wrong("a chunk without its record"))?;
        let mut extents = reply.extents;
        extents.sort_unstable_by_key(|extent| extent.file_offset);
        let mut free_from = 0;
        for extent in &extents {
            let end = extent
                .file_offset
                .checked_add(extent.length)
                .ok_or_else(|| wrong("an extent without end"))?;
            let source = sources.get(&ChunkId(extent.chunk)).ok_or_else(|| wrong("an extent of no chunk"))?;
            if u64::from(extent.chunk_offset).saturating_add(extent.length) > u64::from(source.length) {
                return Err(wrong("an extent beyond the end of its chunk"));
            }
            if extent.file_offset < free_from {
                return Err(wrong("extents overlap"));
            }
            free_from = end;
        }
        if reply.covered_to <= start {
            return Err(wrong("it covers nothing"));
        }
        Ok(Page { start, end: reply.covered_to, extents, sources, attr, outdated, asked_at })
    }

    /// Grows with each change of the file's content.
    pub(super) fn version(&self) -> u64 {
        self.attr.content_version
    }

    pub(super) fn covers(&self, offset: u64) -> bool {
        self.start <= offset && offset < self.end
    }

    /// How many live copies a chunk has.
    pub(super) fn copies(&self, chunk: ChunkId) -> usize {
        self.sources.get(&chunk).map_or(0, |source| source.keepers.len())
    }
}

fn source(chunk: pb::ChunkSource, outdated: &Arc<AtomicBool>) -> Option<(ChunkId, Arc<Source>)> {
    let info = chunk.info?;
    let grant = chunk.grant.unwrap_or_default();
    let mut keepers = grant.keepers;
    keepers.sort_unstable_by_key(|keeper| keeper.keeper);
    let chunk = ChunkId(info.chunk);
    let (length, checksum, outdated) = (info.length, info.checksum, outdated.clone());
    let source = Source { chunk, length, checksum, ticket: grant.ticket, keepers, outdated };
    Some((chunk, Arc::new(source)))
}

/// The pages of one file that may be used.
#[derive(Default)]
pub(super) struct Layout {
    generation: u64,
    pages: BTreeMap<u64, Arc<Page>>,
}

impl Layout {
    /// Grows with each [`Layout::invalidate`].
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Forgets all, also what is on its way.
    pub(super) fn invalidate(&mut self) {
        self.generation += 1;
        self.pages.clear();
    }

    /// Forgets what is older than this content, and what is on its way.
    pub(super) fn outdate(&mut self, version: u64) {
        self.generation += 1;
        self.pages.retain(|_, page| page.version() >= version);
    }

    /// Knows nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// The page that covers `offset`, if there is one that may still be used.
    pub(super) fn find(&self, offset: u64, now: Instant) -> Option<Arc<Page>> {
        let (_, page) = self.pages.range(..=offset).next_back()?;
        let usable = page.covers(offset)
            && !page.outdated.load(Ordering::Relaxed)
            && now.saturating_duration_since(page.asked_at) < MAX_AGE;
        usable.then(|| page.clone())
    }

    /// Takes in a page that was asked for in `generation`; not, when everything was invalidated since, or a page of a
    /// newer content is here. Pages of an older one go.
    pub(super) fn install(&mut self, generation: u64, page: Arc<Page>) {
        if generation != self.generation || self.pages.values().any(|known| known.version() > page.version())
        {
            return;
        }
        self.pages.retain(|_, known| known.version() == page.version());
        if self.pages.len() >= MAX_PAGES {
            self.pages.clear();
        }
        self.pages.insert(page.start, page);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(extents: &[(u64, u64, u32)]) -> pb::FileLayout {
        let extents = extents.iter().map(|&(file_offset, length, chunk_offset)| pb::Extent {
            file_offset,
            length,
            chunk: 1,
            chunk_offset,
        });
        let info = pb::ChunkInfo { chunk: 1, length: 100, checksum: 0 };
        pb::FileLayout {
            extents: extents.collect(),
            chunks: vec![pb::ChunkSource { info: Some(info), grant: None }],
            covered_to: 1000,
            attr: Some(pb::Attr { size: 1000, ..Default::default() }),
        }
    }

    fn page(start: u64) -> Arc<Page> {
        Arc::new(Page::new(InodeNo(1), start, reply(&[]), Instant::now()).unwrap())
    }

    #[test]
    fn sense_is_taken_in() {
        let page = Page::new(InodeNo(1), 0, reply(&[(50, 50, 50), (0, 50, 0)]), Instant::now()).unwrap();
        assert_eq!(page.extents.iter().map(|e| e.file_offset).collect::<Vec<_>>(), [0, 50]);
    }

    #[test]
    fn nonsense_is_refused() {
        let mut foreign = reply(&[(0, 10, 0)]);
        foreign.extents[0].chunk = 2;
        let mut nothing = reply(&[]);
        nothing.covered_to = 0;
        let mut no_record = reply(&[]);
        no_record.chunks[0].info = None;
        let no_attr = pb::FileLayout { attr: None, ..reply(&[]) };
        let bad = [
            foreign,
            nothing,
            no_record,
            no_attr,
            reply(&[(0, 101, 0)]),
            reply(&[(0, 60, 50)]),
            reply(&[(0, 10, 0), (9, 10, 0)]),
            reply(&[(u64::MAX, 10, 0)]),
        ];
        for reply in bad {
            let result = Page::new(InodeNo(1), 0, reply, Instant::now());
            assert_eq!(result.map(|_| ()).unwrap_err().code, ErrorCode::Protocol);
        }
    }

    #[test]
    fn what_was_asked_for_before_an_invalidation_is_not_installed() {
        let mut layout = Layout::default();
        let generation = layout.generation();
        layout.invalidate();
        layout.install(generation, page(0));
        assert!(layout.find(0, Instant::now()).is_none());
        layout.install(layout.generation(), page(0));
        assert!(layout.find(999, Instant::now()).is_some());
        layout.invalidate();
        assert!(layout.find(0, Instant::now()).is_none());
    }

    #[test]
    fn a_page_is_found_by_what_it_covers_while_its_tickets_last() {
        let mut layout = Layout::default();
        layout.install(0, page(500));
        let now = Instant::now();
        assert!(layout.find(499, now).is_none());
        assert!(layout.find(500, now).is_some());
        assert!(layout.find(1000, now).is_none());
        assert!(layout.find(500, now + MAX_AGE).is_none());
    }

    #[test]
    fn pages_of_two_contents_are_never_kept_together() {
        let of = |start: u64, version: u64| {
            let attr = pb::Attr { content_version: version, ..Default::default() };
            let reply = pb::FileLayout { attr: Some(attr), covered_to: start + 10, ..Default::default() };
            Arc::new(Page::new(InodeNo(1), start, reply, Instant::now()).unwrap())
        };
        let now = Instant::now();
        let mut layout = Layout::default();
        layout.install(0, of(0, 5));
        layout.install(0, of(10, 5));
        layout.install(0, of(20, 6));
        assert!(layout.find(0, now).is_none() && layout.find(20, now).is_some());
        layout.install(0, of(0, 5));
        assert!(layout.find(0, now).is_none(), "older than what is known");
        layout.outdate(6);
        assert!(layout.find(20, now).is_some());
        layout.install(0, of(30, 6));
        assert!(layout.find(30, now).is_none(), "asked for before");
        layout.outdate(7);
        assert!(layout.find(20, now).is_none());
    }

    #[test]
    fn pages_are_bounded() {
        let mut layout = Layout::default();
        for start in 0..500 {
            layout.install(0, page(start));
            assert!(layout.pages.len() <= MAX_PAGES);
        }
    }
}
