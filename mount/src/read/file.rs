//! The reader of one file: layout, plan, blocks, and their assembly.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dfs_proto::MAX_FILE_SIZE;
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::{ChunkId, InodeNo};
use dfs_proto::pb;
use tokio::sync::watch;

use super::ahead::{Answered, LayoutAhead, ask_layout};
use super::fetch::{Fetcher, Wanted};
use super::layout::{Layout, Page, Source};
use super::lock;
use super::parts::Parts;
use super::planner::{Piece, RANGE_SIZE, plan};
use super::prefetch::{Prefetcher, ReadStream};
use crate::client::lanes::Lane;
use crate::client::operation;

/// For one read, everything included; longer where calls to the master may take longer.
const READ_DEADLINE: Duration = Duration::from_secs(30);
/// How long a read waits for a keeper that has the bytes while none is live. A master that was just started knows of
/// its keepers when they have called again.
const KEEPERS_RETURN_WITHIN: Duration = Duration::from_secs(5);
/// Between two questions for one.
const ASK_AGAIN_EVERY: Duration = Duration::from_millis(100);
/// Layouts that one read asks for anew when chunks of the last one are gone.
const FRESH_LAYOUTS: usize = 5;
/// Ranges that one read has on their way at once.
const RANGES_AT_ONCE: usize = 16;

type Asked = watch::Receiver<Option<Result<Arc<Page>, DfsError>>>;

/// A question to the master that is not answered yet.
struct Asking {
    generation: u64,
    start: u64,
    answer: Asked,
}

#[derive(Default)]
struct State {
    layout: Layout,
    asking: Option<Asking>,
}

/// What reads and prefetches of one file share.
pub(super) struct Shared {
    pub(super) inode: InodeNo,
    pub(super) fetcher: Arc<Fetcher>,
    state: Mutex<State>,
}

/// Reads the committed content of one file.
pub struct FileReader {
    shared: Arc<Shared>,
    prefetcher: Arc<Prefetcher>,
}

/// What a read found.
pub struct Content {
    /// From the offset that was asked for on; fewer than were asked for when the file ends before.
    pub bytes: Bytes,
    /// The file of which these bytes are.
    pub attr: pb::Attr,
}

/// How a reader reads.
#[derive(Clone, Copy)]
struct Manner {
    in_sequence: bool,
    /// It will not ask for the same bytes again.
    once: bool,
}

/// Why a read failed: only what the keepers did may be cured by a new layout.
enum Failure {
    Layout(DfsError),
    Copies(DfsError),
    /// Every keeper that the layout names says that it has no such chunk.
    Gone(ChunkId, DfsError),
    /// The content changed between two pages of the layout.
    Mixed,
}

impl FileReader {
    pub(super) fn new(inode: InodeNo, fetcher: Arc<Fetcher>, prefetcher: Arc<Prefetcher>) -> Self {
        Self { shared: Arc::new(Shared { inode, fetcher, state: Mutex::default() }), prefetcher }
    }

    /// Takes in a layout that was asked for before this reader was told of changes, if `is_right` by now: nothing can have
    /// changed since it was asked for. Whoever reads meanwhile waits for it. With `begin`, the first range is
    /// fetched as soon as it is there: whoever opens a file to read it mostly begins there, and has yet to ask.
    pub fn adopt(&self, ahead: LayoutAhead, begin: bool, is_right: impl FnOnce() -> bool) {
        let generation = lock(&self.shared.state).layout.generation();
        if is_right() {
            self.shared.adopt(generation, ahead, begin);
        }
    }

    /// Forgets where the file's bytes lie: the content changed. A read that starts after this returned uses a
    /// layout that was asked for after it.
    pub fn invalidate(&self) {
        lock(&self.shared.state).layout.invalidate();
    }

    /// Forgets of where the bytes lie what is older than this content.
    pub fn outdate(&self, content_version: u64) {
        lock(&self.shared.state).layout.outdate(content_version);
    }

    /// At most `length` bytes of committed content from `offset`, all of one content, and fewer only where that ends:
    /// what is known of a file's size may be older, or newer, than where its bytes lie. Holes read as zeroes. `length`
    /// is not 0.
    ///
    /// # Errors
    /// `Unavailable` when no keeper that has a chunk is live nor comes back within 5 s, `Lost` when none of those
    /// that should have it has it, `Io` when they do not give it, `TimedOut` after
    /// 30 s, and what the master refuses the layout with (`Stale`, ...).
    pub async fn read(&self, stream: &ReadStream, offset: u64, length: usize) -> Result<Content, DfsError> {
        let in_sequence = self.prefetcher.note(stream, &self.shared, offset, length as u64);
        let manner = Manner { in_sequence, once: in_sequence && stream.reads_once };
        let read = self.shared.read(offset, length, manner);
        // The master alone may take so long for the layout.
        let deadline = READ_DEADLINE.max(self.shared.fetcher.client.op_timeout());
        tokio::time::timeout(deadline, read).await.unwrap_or_else(|_| {
            let (inode, waited) = (self.shared.inode, deadline.as_secs());
            let message =
                format!("inode {inode}: {length} bytes at {offset} could not be read within {waited} s");
            Err(DfsError::new(ErrorCode::TimedOut, message))
        })
    }

    /// All `length` bytes, only when they can be had at once from memory.
    pub fn try_cached(&self, stream: &ReadStream, offset: u64, length: usize) -> Option<Bytes> {
        let end = offset.checked_add(length as u64)?;
        let now = self.shared.fetcher.client.tickets_now();
        let mut pieces = Vec::new();
        let mut at = offset;
        let mut version = None;
        while at < end {
            let page = lock(&self.shared.state).layout.find(at, now)?;
            if end > page.attr.size || *version.get_or_insert(page.version()) != page.version() {
                return None;
            }
            let stop = end.min(page.end);
            pieces.extend(plan(&page.extents, at, stop - at, |_| 1));
            at = stop;
        }
        let mut parts = Parts::new(length, &self.shared.fetcher.buffers);
        for piece in &pieces {
            match piece {
                Piece::Hole { length } => parts.add_hole(*length),
                Piece::Data(piece) => parts.add(piece, &self.shared.fetcher.cached(piece)?),
            }
        }
        if self.prefetcher.note(stream, &self.shared, offset, length as u64) && stream.reads_once {
            self.shared.pass(&pieces);
        }
        Some(parts.finish())
    }

    /// Where data lies: (offset, length) in bytes, in order, neighbours joined. What is between is a hole.
    ///
    /// # Errors
    /// What the master refuses the layout with.
    pub async fn extents(&self) -> Result<Vec<(u64, u64)>, DfsError> {
        let mut out: Vec<(u64, u64)> = Vec::new();
        let mut at = 0;
        while at < MAX_FILE_SIZE {
            let page = self.shared.page(at).await?;
            for extent in &page.extents {
                let (start, end) =
                    (extent.file_offset.max(at), (extent.file_offset + extent.length).min(page.end));
                match out.last_mut() {
                    Some((offset, length)) if *offset + *length >= start => {
                        *length = end.max(*offset + *length) - *offset
                    }
                    _ if start < end => out.push((start, end - start)),
                    _ => {}
                }
            }
            at = page.end;
        }
        Ok(out)
    }
}

impl Shared {
    /// The page of the layout that covers `offset`: a cached one, or one that is asked for now.
    pub(super) async fn page(self: &Arc<Self>, offset: u64) -> Result<Arc<Page>, DfsError> {
        // Most files fit one page, so that the first question is for all of it.
        let mut from_start = true;
        loop {
            let mut answer = match self.find_or_ask(offset, from_start) {
                Ok(page) => return Ok(page),
                Err(answer) => answer,
            };
            let lost = |_| DfsError::new(ErrorCode::Io, "a question for a layout was lost; see the log");
            let answered = answer.wait_for(Option::is_some).await.map_err(lost)?.clone();
            match answered {
                // Used although it may not have been installed: it was asked for after this read began.
                Some(Ok(page)) if page.covers(offset) => return Ok(page),
                Some(Ok(_)) | None => from_start = false,
                Some(Err(error)) => return Err(error),
            }
        }
    }

    fn find_or_ask(self: &Arc<Self>, offset: u64, from_start: bool) -> Result<Arc<Page>, Asked> {
        let mut state = lock(&self.state);
        if let Some(page) = state.layout.find(offset, self.fetcher.client.tickets_now()) {
            return Ok(page);
        }
        let generation = state.layout.generation();
        let start = if from_start && state.layout.is_empty() { 0 } else { offset };
        // Not one that was asked before an invalidation, and not one whose task was lost.
        if let Some(asking) = &state.asking
            && asking.generation == generation
            && asking.start == start
            && asking.answer.has_changed().is_ok()
        {
            return Err(asking.answer.clone());
        }
        let asked = ask_layout(&self.fetcher.client, self.inode, start);
        Err(self.answered_by(&mut state, (generation, start), asked, false))
    }

    fn adopt(self: &Arc<Self>, generation: u64, ahead: LayoutAhead, begin: bool) {
        let mut state = lock(&self.state);
        if state.layout.generation() == generation && state.layout.is_empty() && state.asking.is_none() {
            self.answered_by(&mut state, (generation, 0), ahead.0, begin);
        }
    }

    /// Whoever asks from now on waits for `asked`, which a task takes in.
    fn answered_by(
        self: &Arc<Self>,
        state: &mut State,
        (generation, start): (u64, u64),
        asked: impl Future<Output = Answered> + Send + 'static,
        begin: bool,
    ) -> Asked {
        let (sender, answer) = watch::channel(None);
        state.asking = Some(Asking { generation, start, answer: answer.clone() });
        let shared = self.clone();
        let take_in = async move {
            let (asked_at, reply) = asked.await;
            let page = shared.take_in(generation, start, asked_at, reply);
            if begin && let Ok(page) = &page {
                shared.begin(page);
            }
            sender.send_replace(Some(page));
        };
        let take_in = operation::within(operation::current(), take_in);
        self.fetcher.client.lanes().of(Lane::Control).spawn(take_in);
        answer
    }

    /// Begins to fetch the first range of the file.
    fn begin(&self, page: &Page) {
        let length = page.attr.size.min(u64::from(RANGE_SIZE));
        let pieces = plan(&page.extents, 0, length, |chunk| page.copies(chunk));
        for piece in pieces.into_iter().take(RANGES_AT_ONCE) {
            if let Piece::Data(piece) = piece
                && let Some(source) = page.sources.get(&piece.chunk)
            {
                // It goes to the cache; whoever reads meanwhile joins it.
                self.fetcher.get(self.inode, source, &piece, false);
            }
        }
    }

    fn take_in(
        &self,
        generation: u64,
        start: u64,
        asked_at: Instant,
        reply: Result<pb::FileLayout, DfsError>,
    ) -> Result<Arc<Page>, DfsError> {
        let page = reply.and_then(|reply| Page::new(self.inode, start, reply, asked_at)).map(Arc::new);
        let mut state = lock(&self.state);
        if let Ok(page) = &page {
            state.layout.install(generation, page.clone());
        }
        if state
            .asking
            .as_ref()
            .is_some_and(|asking| asking.generation == generation && asking.start == start)
        {
            state.asking = None;
        }
        page
    }

    async fn read(self: &Arc<Self>, offset: u64, length: usize, manner: Manner) -> Result<Content, DfsError> {
        let began = Instant::now();
        let (mut asked_again, mut gone) = (false, Vec::new());
        loop {
            let error = match self.assemble(offset, length, manner).await {
                Ok(content) => return Ok(content),
                Err(Failure::Layout(error)) => return Err(error),
                // The older page is not kept any more. It ends: each time a newer content was seen.
                Err(Failure::Mixed) => continue,
                // Another chunk each time: the file is changed, or compacted, while it is read.
                Err(Failure::Gone(chunk, error)) if gone.len() < FRESH_LAYOUTS && !gone.contains(&chunk) => {
                    gone.push(chunk);
                    error
                }
                Err(Failure::Gone(_, error)) => return Err(DfsError { code: ErrorCode::Lost, ..error }),
                // What is known has to do.
                Err(Failure::Copies(error))
                    if self.fetcher.client.is_master_down() && began.elapsed() < KEEPERS_RETURN_WITHIN =>
                {
                    tracing::debug!(inode = %self.inode, %error, "the master is down; trying once more");
                    tokio::time::sleep(ASK_AGAIN_EVERY).await;
                    continue;
                }
                // Tickets may have expired, copies may have moved; but once is enough.
                Err(Failure::Copies(error)) if !asked_again => error,
                Err(Failure::Copies(error))
                    if error.code == ErrorCode::Unavailable && began.elapsed() < KEEPERS_RETURN_WITHIN =>
                {
                    tokio::time::sleep(ASK_AGAIN_EVERY).await;
                    error
                }
                Err(Failure::Copies(error)) => return Err(error),
            };
            asked_again = true;
            tracing::debug!(inode = %self.inode, %error, "asking for a new layout");
            lock(&self.state).layout.invalidate();
        }
    }

    async fn assemble(
        self: &Arc<Self>,
        offset: u64,
        length: usize,
        manner: Manner,
    ) -> Result<Content, Failure> {
        let too_far = || Failure::Layout(DfsError::new(ErrorCode::Invalid, "a read beyond the largest file"));
        let wanted_end =
            offset.checked_add(length as u64).filter(|end| *end <= MAX_FILE_SIZE).ok_or_else(too_far)?;
        assert!(length > 0, "a read of nothing");
        let mut pieces: Vec<(Piece, Option<Arc<Source>>)> = Vec::new();
        let first = self.page(offset).await.map_err(Failure::Layout)?;
        let attr = first.attr;
        let end = wanted_end.min(attr.size.max(offset));
        let mut next = Some(first);
        let mut at = offset;
        while at < end {
            let page = match next.take() {
                Some(first) => first,
                None => self.page(at).await.map_err(Failure::Layout)?,
            };
            if page.version() != attr.content_version {
                lock(&self.state).layout.outdate(page.version().max(attr.content_version));
                return Err(Failure::Mixed);
            }
            let stop = end.min(page.end);
            for piece in plan(&page.extents, at, stop - at, |chunk| page.copies(chunk)) {
                let source = match &piece {
                    Piece::Data(data) => page.sources.get(&data.chunk).cloned(),
                    Piece::Hole { .. } => None,
                };
                pieces.push((piece, source));
            }
            at = stop;
        }
        // No longer than `length`.
        let mut parts = Parts::new((end - offset) as usize, &self.fetcher.buffers);
        for group in pieces.chunks(RANGES_AT_ONCE) {
            self.add_group(group, &mut parts, manner.in_sequence).await?;
        }
        if manner.once {
            self.pass(pieces.iter().map(|(piece, _)| piece));
        }
        Ok(Content { bytes: parts.finish(), attr })
    }

    /// Whoever read these pieces keeps them, or needs them no more.
    fn pass<'a>(&self, pieces: impl IntoIterator<Item = &'a Piece>) {
        for piece in pieces {
            if let Piece::Data(piece) = piece {
                self.fetcher.cache.pass(piece.chunk, piece.blocks_ended());
            }
        }
    }

    /// Begins all fetches of the group, then takes them in order.
    async fn add_group(
        self: &Arc<Self>,
        group: &[(Piece, Option<Arc<Source>>)],
        parts: &mut Parts<'_>,
        in_sequence: bool,
    ) -> Result<(), Failure> {
        let begun: Vec<_> = group
            .iter()
            .map(|(piece, source)| match (piece, source) {
                (Piece::Data(piece), Some(source)) => {
                    Some(self.fetcher.get(self.inode, source, piece, in_sequence))
                }
                _ => None,
            })
            .collect();
        for ((piece, _), wanted) in group.iter().zip(begun) {
            let blocks = match wanted {
                Some(Wanted::Here(blocks)) => blocks,
                Some(Wanted::Coming(seat)) => seat.arrive().await.map_err(|error| not_read(piece, error))?,
                None => Vec::new(),
            };
            match piece {
                Piece::Hole { length } => parts.add_hole(*length),
                Piece::Data(piece) => parts.add(piece, &blocks),
            }
        }
        Ok(())
    }
}

fn not_read(piece: &Piece, error: DfsError) -> Failure {
    match piece {
        Piece::Data(data) if error.code == ErrorCode::NotFound => Failure::Gone(data.chunk, error),
        _ => Failure::Copies(error),
    }
}
