//! Where the bytes of one file lie: its extents and every copy of their chunks, for people and scripts. The same as
//! the look-up table, by inode, and with no tickets.

use std::collections::BTreeSet;

use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{ChunkId, InodeNo};
use dfs_proto::pb::{self, mount_reply::Result as Reply};

use super::State;
use super::out::{Out, Res, fail};

/// Most extents of one answer.
const PAGE: usize = 1024;

impl State {
    pub(super) fn locate(&self, op: pb::Locate, out: &mut Out) -> Res<Reply> {
        let inode = InodeNo(op.inode);
        out.show(inode);
        if !self.inode(inode)?.is_file() {
            return fail(ErrorCode::Invalid, format!("inode {inode} is not a regular file"));
        }
        let end = op.offset.saturating_add(op.length);
        let mut hit = self.extents_from(inode, op.offset).take_while(|(start, _)| *start < end);
        let extents: Vec<pb::Extent> =
            hit.by_ref().take(PAGE).map(|(file_offset, span)| span.to_wire(file_offset)).collect();
        let covered_to = hit.next().map_or(end, |(start, _)| start);
        let ids: BTreeSet<u64> = extents.iter().map(|extent| extent.chunk).collect();
        let chunks = ids.into_iter().map(|chunk| self.holders_of(ChunkId(chunk))).collect();
        Ok(Reply::Located(pb::Located { attr: Some(self.attr(inode)?), extents, chunks, covered_to }))
    }

    fn holders_of(&self, chunk: ChunkId) -> pb::ChunkHolders {
        let copies = self.chunks.get(chunk).map_or(&[][..], |row| &row.keepers);
        let holders = copies.iter().filter_map(|id| {
            let keeper = self.keepers.get(id)?;
            Some(pb::Holder { keeper: id.0, address: keeper.row.address.clone(), live: keeper.alive })
        });
        pb::ChunkHolders { chunk: chunk.0, holders: holders.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testkit::Kit;
    use super::*;
    use dfs_proto::ids::KeeperId;
    use dfs_proto::pb::mount_request::Op;

    fn locate(kit: &mut Kit, inode: InodeNo, offset: u64) -> pb::Located {
        let op = Op::Locate(pb::Locate { inode: inode.0, offset, length: u64::MAX - offset });
        match kit.ok(op) {
            Reply::Located(located) => located,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_copy_is_told_with_whether_it_lives() {
        let mut kit = Kit::with_keepers(3);
        let file = kit.create(InodeNo::ROOT, "f");
        let chunk = kit.upload(file, 0, 100);
        kit.copy_all();
        kit.kill(KeeperId(2));
        let located = locate(&mut kit, file, 0);
        assert_eq!(located.chunks.len(), 1);
        assert_eq!(located.chunks[0].chunk, chunk.0);
        let live: Vec<(u64, bool)> =
            located.chunks[0].holders.iter().map(|holder| (holder.keeper, holder.live)).collect();
        assert_eq!(live, [(1, true), (2, false), (3, true)]);
        assert_eq!(located.covered_to, u64::MAX);
        let root = Op::Locate(pb::Locate { inode: 1, offset: 0, length: 1 });
        assert_eq!(kit.code(root), Some(ErrorCode::Invalid));
    }

    #[test]
    fn answers_are_pages_that_join() {
        let mut kit = Kit::with_keepers(3);
        let file = kit.create(InodeNo::ROOT, "f");
        for i in 0..1030u64 {
            kit.upload(file, i * 10, 10);
        }
        let page = locate(&mut kit, file, 0);
        assert_eq!((page.extents.len(), page.chunks.len(), page.covered_to), (1024, 1024, 10_240));
        let rest = locate(&mut kit, file, page.covered_to);
        assert_eq!((rest.extents.len(), rest.covered_to), (6, u64::MAX));
    }
}
