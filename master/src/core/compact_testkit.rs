//! What the kit knows of compaction: scripted keepers that build, and where each byte of a file came from, which
//! compaction must never change.

use std::collections::BTreeMap;

use dfs_proto::ids::{ChunkId, InodeNo, KeeperId};
use dfs_proto::pb::{self, keeper_up};

use super::testkit::{Kit, checksum};

/// A part of a chunk that a mount wrote: (chunk, offset, length).
pub(super) type Part = (ChunkId, u32, u32);

impl Kit {
    /// An order to build was given.
    pub fn note_build(&mut self, order: &pb::BuildChunk) {
        let mut parts = Vec::new();
        for piece in &order.pieces {
            let source = order.sources[piece.source as usize].info.unwrap();
            parts.extend(self.parts(ChunkId(source.chunk), piece.offset, piece.length));
        }
        self.made_of.insert(ChunkId(order.chunk), parts);
    }

    /// What a mount wrote there.
    fn parts(&self, chunk: ChunkId, offset: u32, length: u32) -> Vec<Part> {
        let Some(made_of) = self.made_of.get(&chunk) else { return vec![(chunk, offset, length)] };
        let (mut found, mut at) = (Vec::new(), 0);
        for (origin, start, part) in made_of {
            let (from, to) = (offset.max(at), (offset + length).min(at + part));
            if from < to {
                found.push((*origin, start + (from - at), to - from));
            }
            at += part;
        }
        found
    }

    /// Of a file, where each byte came from: (file offset, part), joined as far as possible.
    pub fn content(&self, inode: InodeNo) -> Vec<(u64, Part)> {
        let mut content: Vec<(u64, Part)> = Vec::new();
        for (start, span) in self.state.extents_from(inode, 0) {
            let mut at = start;
            for (chunk, offset, length) in self.parts(span.chunk, span.chunk_offset, span.length) {
                match content.last_mut() {
                    Some((begin, last))
                        if *begin + u64::from(last.2) == at
                            && (last.0, last.1 + last.2) == (chunk, offset) =>
                    {
                        last.2 += length;
                    }
                    _ => content.push((at, (chunk, offset, length))),
                }
                at += u64::from(length);
            }
        }
        content
    }

    /// Of every file: its content version, and its content.
    pub fn contents(&self) -> BTreeMap<InodeNo, (u64, Vec<(u64, Part)>)> {
        let files = self.state.inodes.iter().filter(|(_, node)| node.is_file());
        files.map(|(inode, node)| (inode, (node.content_version, self.content(inode)))).collect()
    }

    /// Chunks that keepers were ordered to build, and have not: (chunk, keeper).
    pub fn builds(&self) -> Vec<(ChunkId, KeeperId)> {
        let jobs = self.state.compaction.jobs.iter().filter(|(_, job)| job.checksum.is_none());
        jobs.map(|(chunk, job)| (*chunk, job.builder)).collect()
    }

    /// Says that a chunk is built.
    pub fn say_built(&mut self, chunk: ChunkId, length: u32, builder: KeeperId) {
        let info = Some(pb::ChunkInfo { chunk: chunk.0, length, checksum: checksum(chunk.0) });
        self.keeper_says(builder, keeper_up::Msg::Built(pb::ChunkBuilt { info, bad: Vec::new() }));
    }

    /// Every chunk that is ordered is built, copied and synced, and every one that follows.
    pub fn compact_all(&mut self) {
        for _ in 0..1000 {
            for (chunk, builder) in self.builds() {
                self.say_built(chunk, self.length_of(chunk), builder);
            }
            self.copy_all();
            for keeper in self.beating.clone() {
                let chunks: Vec<u64> = self.state.syncs.unsynced().map(|(chunk, _)| chunk.0).collect();
                self.keeper_says(keeper, keeper_up::Msg::Synced(pb::Synced { chunks }));
            }
            self.pass_ms(1_000);
            if self.state.compaction.waiting() == 0 {
                return;
            }
        }
        panic!("compaction has no end");
    }
}
