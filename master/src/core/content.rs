//! What a file's bytes are: extents over immutable chunks.
//!
//! What must hold: the extents of one inode never overlap, none is empty, none reaches past the file's size
//! or its chunk's end, and each refers to a chunk in the table. A gap is a hole. Each extent is one reference
//! to its chunk; a chunk without references is freed in the same command.

use std::collections::BTreeSet;

use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{ChunkId, InodeNo, KeeperId};
use dfs_proto::pb::{self, mount_reply::Result as Reply};

use super::State;
use super::grant::READ_LIFETIME_MS;
use super::inode::Body;
use super::out::{Out, Res, fail};
use super::row::RowKey;

/// Most extents of one layout's page.
const LAYOUT_PAGE: usize = 1024;

/// Most keepers that one READ ticket names: it has to stay below its size limit.
const MAX_SOURCES: usize = 16;

/// An extent without its file offset. In bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Span {
    pub length: u32,
    pub chunk_offset: u32,
    pub chunk: ChunkId,
}

impl Span {
    /// As mounts are told of it.
    pub fn to_wire(self, file_offset: u64) -> pb::Extent {
        pb::Extent {
            file_offset,
            length: u64::from(self.length),
            chunk: self.chunk.0,
            chunk_offset: self.chunk_offset,
        }
    }
}

impl State {
    /// The extents that overlap [from, to), by file offset.
    pub(super) fn overlapping(
        &self,
        inode: InodeNo,
        from: u64,
        to: u64,
    ) -> impl Iterator<Item = (u64, Span)> {
        let before = self.extents.last_before(inode, from);
        let before = before.filter(|(start, span)| start + u64::from(span.length) > from);
        before.into_iter().chain(self.extents.beginning_in(inode, from, to.max(from)))
    }

    /// Makes a hole of [from, to).
    pub(super) fn cut(&mut self, inode: InodeNo, from: u64, to: u64, out: &mut Out) {
        let hit: Vec<(u64, Span)> = self.overlapping(inode, from, to).collect();
        for (start, span) in hit {
            let end = start + u64::from(span.length);
            self.extents.remove(inode, start);
            out.touch(RowKey::Extent { inode, file_offset: start });
            let kept_left = from.saturating_sub(start);
            let kept_right = end.saturating_sub(to);
            self.add_allocated(inode, kept_left + kept_right, u64::from(span.length));
            // Parts of a u32 length: they fit.
            if kept_left > 0 {
                self.extents.insert(inode, start, Span { length: kept_left as u32, ..span });
                self.chunks.add_ref(span.chunk, kept_left as u32);
            }
            if kept_right > 0 {
                let right = Span {
                    length: kept_right as u32,
                    chunk_offset: span.chunk_offset + (to - start) as u32,
                    chunk: span.chunk,
                };
                self.extents.insert(inode, to, right);
                self.chunks.add_ref(span.chunk, right.length);
                out.touch(RowKey::Extent { inode, file_offset: to });
            }
            self.drop_ref(span.chunk, span.length, out);
        }
    }

    /// Puts an extent in the place of whatever was there. Its chunk is in the table.
    pub(super) fn put_extent(&mut self, inode: InodeNo, start: u64, span: Span, out: &mut Out) {
        self.cut(inode, start, start + u64::from(span.length), out);
        self.extents.insert(inode, start, span);
        self.chunks.add_ref(span.chunk, span.length);
        self.add_allocated(inode, u64::from(span.length), 0);
        out.touch(RowKey::Extent { inode, file_offset: start });
    }

    /// Derived, so no row is touched.
    fn add_allocated(&mut self, inode: InodeNo, more: u64, less: u64) {
        if let Some(Body::File { allocated, .. }) = self.inodes.get_mut(&inode).map(|node| &mut node.body) {
            let before = *allocated;
            *allocated = (before + more).saturating_sub(less);
            let after = *allocated;
            self.quotas_note_bytes(inode, before, after);
        }
    }

    /// The chunks of a file, each once.
    pub(super) fn chunks_of(&self, inode: InodeNo) -> BTreeSet<ChunkId> {
        self.overlapping(inode, 0, u64::MAX).map(|(_, span)| span.chunk).collect()
    }

    /// Extents of a file from an offset on, as they are shown.
    pub(super) fn extents_from(&self, inode: InodeNo, from: u64) -> impl Iterator<Item = (u64, Span)> {
        self.overlapping(inode, from, u64::MAX)
    }

    /// Download step 2.
    pub(super) fn layout(&mut self, op: pb::Layout, out: &mut Out) -> Res<Reply> {
        out.show(InodeNo(op.inode));
        self.layout_of(op, out.now_ms).map(Reply::Layout)
    }

    pub(super) fn layout_of(&mut self, op: pb::Layout, now_ms: i64) -> Res<pb::FileLayout> {
        let inode = InodeNo(op.inode);
        let attr = self.attr(inode)?;
        match self.inode(inode)?.body {
            Body::File { .. } => {}
            Body::Dir(_) => return fail(ErrorCode::IsDirectory, format!("inode {inode} is a directory")),
            _ => return fail(ErrorCode::Invalid, format!("inode {inode} is not a regular file")),
        }
        let end = op.offset.saturating_add(op.length);
        let mut hit = self.overlapping(inode, op.offset, end);
        let page: Vec<(u64, Span)> = hit.by_ref().take(LAYOUT_PAGE).collect();
        let covered_to = hit.next().map_or(end, |(start, _)| start);
        drop(hit);
        let ids: BTreeSet<ChunkId> = page.iter().map(|(_, span)| span.chunk).collect();
        let chunks = ids.into_iter().filter_map(|chunk| self.source_of(chunk, MAX_SOURCES, now_ms)).collect();
        let extents = page.into_iter().map(|(file_offset, span)| span.to_wire(file_offset)).collect();
        Ok(pb::FileLayout { attr: Some(attr), extents, chunks, covered_to })
    }

    /// Where a chunk can be read: `most` of the live keepers that have it.
    pub(super) fn source_of(&mut self, chunk: ChunkId, most: usize, now_ms: i64) -> Option<pb::ChunkSource> {
        let row = self.chunks.get(chunk)?;
        let info = row.info(chunk);
        let live: Vec<KeeperId> =
            row.keepers.iter().copied().filter(|k| self.is_alive(*k)).take(most).collect();
        let grant = if live.is_empty() {
            pb::Grant::default()
        } else {
            self.grant(chunk, pb::TicketOp::Read, &live, info.length, now_ms + READ_LIFETIME_MS)
        };
        Some(pb::ChunkSource { info: Some(info), grant: Some(grant) })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testkit::Kit;
    use super::*;

    fn spans(kit: &Kit, inode: InodeNo) -> Vec<(u64, u32, u32)> {
        kit.state.extents_from(inode, 0).map(|(at, span)| (at, span.length, span.chunk_offset)).collect()
    }

    #[test]
    fn a_write_into_the_middle_splits_what_was_there() {
        let mut kit = Kit::with_keepers(3);
        let file = kit.create(InodeNo::ROOT, "f");
        let first = kit.upload(file, 0, 100);
        let second = kit.upload(file, 40, 20);
        assert_eq!(spans(&kit, file), [(0, 40, 0), (40, 20, 0), (60, 40, 60)]);
        assert_eq!(kit.state.chunks.get(first).map(|c| c.refs), Some(2));
        assert_eq!(kit.attr(file).allocated, 100);
        assert!(kit.state.chunks_of(file).contains(&second));
    }

    #[test]
    fn a_chunk_that_nothing_refers_to_is_deleted_everywhere() {
        let mut kit = Kit::with_keepers(3);
        let file = kit.create(InodeNo::ROOT, "f");
        let first = kit.upload(file, 0, 100);
        let holders = kit.state.chunks.get(first).map(|c| c.keepers.to_vec()).unwrap();
        kit.upload(file, 0, 200);
        assert!(kit.state.chunks.get(first).is_none());
        for keeper in holders {
            assert!(kit.was_deleted(keeper, first), "keeper {keeper}");
        }
    }

    #[test]
    fn truncating_clips_and_extending_leaves_a_hole() {
        let mut kit = Kit::with_keepers(3);
        let file = kit.create(InodeNo::ROOT, "f");
        kit.upload(file, 0, 100);
        kit.truncate(file, 30);
        kit.truncate(file, 80);
        assert_eq!(spans(&kit, file), [(0, 30, 0)]);
        let attr = kit.attr(file);
        assert_eq!((attr.size, attr.allocated), (80, 30));
        kit.truncate(file, 0);
        assert_eq!(spans(&kit, file), []);
        assert_eq!(kit.state.chunks.len(), 0);
    }

    #[test]
    fn a_layout_is_cut_into_pages_that_join() {
        let mut kit = Kit::with_keepers(3);
        let file = kit.create(InodeNo::ROOT, "f");
        for i in 0..1100u64 {
            kit.upload(file, i * 10, 10);
        }
        let whole = 11_000;
        let page = kit.layout(file, 0, whole);
        assert_eq!((page.extents.len(), page.covered_to), (1024, 10_240));
        let rest = kit.layout(file, page.covered_to, whole - page.covered_to);
        assert_eq!((rest.extents.len(), rest.covered_to), (76, whole));
        assert_eq!(rest.chunks.len(), 76);
    }

    #[test]
    fn a_layout_names_live_keepers_only() {
        let mut kit = Kit::with_keepers(3);
        let file = kit.create(InodeNo::ROOT, "f");
        let chunk = kit.upload(file, 0, 100);
        kit.copy_all();
        let named = |kit: &mut Kit| -> Vec<u64> {
            let layout = kit.layout(file, 0, 100);
            assert_eq!(layout.chunks[0].info.map(|i| i.chunk), Some(chunk.0));
            layout.chunks[0].grant.as_ref().unwrap().keepers.iter().map(|k| k.keeper).collect()
        };
        assert_eq!(named(&mut kit), [1, 2, 3]);
        kit.kill(KeeperId(2));
        assert_eq!(named(&mut kit), [1, 3]);
        kit.kill(KeeperId(1));
        kit.kill(KeeperId(3));
        assert!(named(&mut kit).is_empty());
    }
}
