//! Builds a new chunk of parts of other chunks, as compaction wants it: parts that are here are read here, others
//! from keepers that have them, and every block is verified before a byte of it is used.
//!
//! What must hold: the chunk is in its place only when all its bytes came from verified blocks, and the
//! master hears of it only when it is on stable storage. A build that fails leaves nothing.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dfs_proto::block_sum::{BLOCK_SIZE, BlockSummer};
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::{ChunkId, KeeperId};
use dfs_proto::pb;
use dfs_proto::pb::keeper_up::Msg;

use crate::fetch::RemoteChunk;
use crate::node::Node;
use crate::orders::{NOTICE_PATIENCE, build_failed};
use crate::store::ChunkFile;

/// One build takes no longer; the master gives it up a little later.
const BUILD_WITHIN: Duration = Duration::from_secs(50);
/// Blocks that are kept of those read last: parts of one chunk often lie in one block.
const KEPT_BLOCKS: usize = 128;
/// Chunk files that are kept open.
const KEPT_FILES: usize = 64;

/// A thread that builds chunks, until the orders are closed.
pub(crate) fn run_builds(node: &Node) {
    while let Some(order) = node.orders.builds.pop() {
        let chunk = ChunkId(order.chunk);
        let mut build = Build::new(node, &order);
        let result = build.run();
        let bad = std::mem::take(&mut build.bad);
        let notice = match result {
            Ok(info) => {
                tracing::debug!(%chunk, pieces = order.pieces.len(), "chunk built");
                Msg::Built(pb::ChunkBuilt { info: Some(info), bad })
            }
            Err(_) if node.stop.is_set() => return,
            Err(error) => {
                tracing::warn!(%chunk, %error, "chunk could not be built");
                build_failed(order.chunk, &error, bad)
            }
        };
        if node.outbox.post(notice, NOTICE_PATIENCE).is_err() {
            tracing::warn!(%chunk, "the master does not know how this build ended; it gives it up");
        }
    }
}

/// One build.
struct Build<'a> {
    node: &'a Node,
    order: &'a pb::BuildChunk,
    by: Instant,
    files: BTreeMap<usize, ChunkFile>,
    remote: BTreeMap<usize, RemoteChunk>,
    blocks: BTreeMap<(usize, usize), Bytes>,
    /// Of `blocks`, the oldest first.
    ages: VecDeque<(usize, usize)>,
    bad: Vec<pb::BadSource>,
}

impl<'a> Build<'a> {
    fn new(node: &'a Node, order: &'a pb::BuildChunk) -> Build<'a> {
        Build {
            node,
            order,
            by: Instant::now() + BUILD_WITHIN,
            files: BTreeMap::new(),
            remote: BTreeMap::new(),
            blocks: BTreeMap::new(),
            ages: VecDeque::new(),
            bad: Vec::new(),
        }
    }

    fn run(&mut self) -> Result<pb::ChunkInfo, DfsError> {
        let chunk = ChunkId(self.order.chunk);
        let length = self.check()?;
        let mut incoming = self.node.store.receive(chunk, length, false).map_err(|e| DfsError::from(&e))?;
        let mut summer = BlockSummer::new();
        for piece in &self.order.pieces {
            let (source, end) = (piece.source as usize, piece.offset as usize + piece.length as usize);
            let mut at = piece.offset as usize;
            while at < end {
                self.check_time()?;
                let index = at / BLOCK_SIZE;
                let block = self.block(source, index)?;
                let from = at - index * BLOCK_SIZE;
                let part = block.slice(from..block.len().min(from + end - at));
                self.node.spend(part.len(), false);
                summer.update(&part);
                incoming.append(&part).map_err(|error| DfsError::from(&error))?;
                self.node.load.add_written(part.len());
                at += part.len();
            }
        }
        let sums = summer.finish().encoded().clone();
        let info = incoming.commit(sums).map_err(|error| DfsError::from(&error))?;
        match self.node.sync(&[chunk]).failed.into_iter().next() {
            None => Ok(info),
            Some((_, error)) => Err(DfsError::from(&error)),
        }
    }

    /// Does the order make sense? Returns the new chunk's length in bytes.
    fn check(&self) -> Result<usize, DfsError> {
        let chunk = self.order.chunk;
        let longest = self.node.member()?.chunk_size as u64;
        let mut length = 0u64;
        for piece in &self.order.pieces {
            let source = self.order.sources.get(piece.source as usize).and_then(|source| source.info);
            let end = u64::from(piece.offset) + u64::from(piece.length);
            if piece.length == 0 || source.is_none_or(|info| end > u64::from(info.length)) {
                length = 0;
                break;
            }
            length += u64::from(piece.length);
        }
        if chunk == 0 || length == 0 || length > longest {
            let message = format!("the order to build chunk {} makes no sense", ChunkId(chunk));
            return Err(DfsError::new(ErrorCode::Invalid, message));
        }
        Ok(length as usize)
    }

    fn check_time(&self) -> Result<(), DfsError> {
        if self.node.stop.is_set() {
            return Err(DfsError::new(ErrorCode::Unavailable, "this keeper is shutting down"));
        }
        if Instant::now() < self.by {
            return Ok(());
        }
        let (chunk, within_s) = (ChunkId(self.order.chunk), BUILD_WITHIN.as_secs());
        let message = format!("chunk {chunk} could not be built within {within_s} s");
        Err(DfsError::new(ErrorCode::TimedOut, message))
    }

    /// A verified block of a source.
    fn block(&mut self, source: usize, index: usize) -> Result<Bytes, DfsError> {
        if let Some(block) = self.blocks.get(&(source, index)) {
            return Ok(block.clone());
        }
        let block = match self.local_block(source, index) {
            Some(block) => block,
            None => self.remote_block(source, index)?,
        };
        if self.ages.len() >= KEPT_BLOCKS
            && let Some(oldest) = self.ages.pop_front()
        {
            self.blocks.remove(&oldest);
        }
        self.ages.push_back((source, index));
        self.blocks.insert((source, index), block.clone());
        Ok(block)
    }

    /// `None`: it is not here, or bad here, and the master knows.
    fn local_block(&mut self, source: usize, index: usize) -> Option<Bytes> {
        let info = self.order.sources.get(source)?.info?;
        let chunk = ChunkId(info.chunk);
        if !self.files.contains_key(&source) {
            if self.remote.contains_key(&source) {
                return None;
            }
            // Not having it is no news to the master: it chose us for most of the sources, not all.
            let open = self.node.store.open_chunk(chunk);
            let open = open.inspect_err(|error| self.report_unless_missing(chunk, error)).ok()?;
            if open.header.length != info.length as usize || open.header.sums.checksum() != info.checksum {
                return None;
            }
            if self.files.len() >= KEPT_FILES {
                self.files.clear();
            }
            self.files.insert(source, open);
        }
        let read = self.node.store.read_block(self.files.get(&source)?, index);
        match read {
            Ok(block) => Some(block.into()),
            Err(error) => {
                tracing::warn!(%chunk, %error, "a part to build with is bad here; asking other keepers");
                self.node.report_bad(chunk, &error);
                self.files.remove(&source);
                None
            }
        }
    }

    fn report_unless_missing(&self, chunk: ChunkId, error: &crate::store::error::StoreError) {
        if !matches!(error, crate::store::error::StoreError::NotFound(_)) {
            self.node.report_bad(chunk, error);
        }
    }

    fn remote_block(&mut self, source: usize, index: usize) -> Result<Bytes, DfsError> {
        if !self.remote.contains_key(&source) {
            let wanted = self.order.sources.get(source).cloned().unwrap_or_default();
            self.remote.insert(source, RemoteChunk::new(wanted, self.node.id()));
        }
        let remote = self.remote.get_mut(&source);
        let gone = || DfsError::new(ErrorCode::Invalid, "an order to build names a source that it has not");
        let remote = remote.ok_or_else(gone)?;
        let (result, bad) = remote.block(index, self.node);
        let chunk = remote.chunk().0;
        self.bad.extend(bad.into_iter().map(|KeeperId(keeper)| pb::BadSource { chunk, keeper }));
        result
    }
}
