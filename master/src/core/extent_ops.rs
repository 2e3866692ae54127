//! Operations on extents alone: fallocate and copy_file_range. No byte is moved.
//!
//! A copied range refers to the chunks of its source, cut to the range; chunks are immutable and counted by
//! reference, so that either file can be changed or removed and the other one does not notice. What must hold:
//! the source's extents are read before the target's range is cut, and the two ranges do not overlap; so no
//! chunk loses its last reference on the way.

use dfs_proto::MAX_FILE_SIZE;
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{ChunkId, InodeNo, SessionId};
use dfs_proto::pb::{self, mount_reply::Result as Reply};

use super::State;
use super::content::Span;
use super::out::{Out, Res, fail};

/// Most extents of the source, and of the target, that one command moves or replaces: a longer command would
/// hold up everybody.
const MAX_EXTENTS: usize = 4096;

impl State {
    pub(super) fn fallocate(&mut self, by: SessionId, op: pb::Fallocate, out: &mut Out) -> Res<Reply> {
        let inode = InodeNo(op.inode);
        out.show(inode);
        self.check_is_file(inode)?;
        let end = checked_end(op.offset, op.length)?;
        if op.length == 0 {
            return fail(ErrorCode::Invalid, format!("inode {inode}: nothing is to be allocated"));
        }
        let size = self.inode(inode)?.size;
        let new_size = if op.keep_size { size } else { size.max(end) };
        let has_data = op.make_hole && self.extents_within(inode, op.offset, end).next().is_some();
        if has_data {
            self.cut(inode, op.offset, end, out);
        }
        let changed = has_data || new_size != size;
        self.changed_by_extents(by, inode, new_size, changed, out).map(Reply::Attr)
    }

    pub(super) fn copy_range(&mut self, by: SessionId, op: pb::CopyRange, out: &mut Out) -> Res<Reply> {
        let (source, target) = (InodeNo(op.source), InodeNo(op.target));
        out.show(source);
        out.show(target);
        self.check_is_file(source)?;
        self.check_is_file(target)?;
        let left = self.inode(source)?.size.saturating_sub(op.source_offset);
        let length = op.length.min(left);
        if length == 0 {
            let attr = Some(self.attr(target)?);
            return Ok(Reply::Copied(pb::RangeCopied { length, attr }));
        }
        checked_end(op.target_offset, length)?;
        if source == target && op.source_offset.abs_diff(op.target_offset) < length {
            return fail(
                ErrorCode::Invalid,
                format!("inode {source}: the range to copy and the range to copy it to overlap"),
            );
        }
        let length = self.one_command(source, op.source_offset, length);
        let length = self.one_command(target, op.target_offset, length);
        let taken: Vec<(u64, Span)> =
            self.extents_within(source, op.source_offset, op.source_offset + length).collect();
        let run = |(start, span): &(u64, Span)| pb::Run {
            file_offset: op.target_offset + (start - op.source_offset),
            length: u64::from(span.length),
        };
        let runs: Vec<pb::Run> = taken.iter().map(run).collect();
        self.check_quota_for_bytes(target, &runs, ChunkId(0))?;
        let target_end = op.target_offset + length;
        self.cut(target, op.target_offset, target_end, out);
        for (start, span) in taken {
            self.put_extent(target, op.target_offset + (start - op.source_offset), span, out);
        }
        let size = self.inode(target)?.size.max(target_end);
        let attr = Some(self.changed_by_extents(by, target, size, true, out)?);
        Ok(Reply::Copied(pb::RangeCopied { length, attr }))
    }

    /// The rest of what both do to the inode. `changed`: also its content.
    fn changed_by_extents(
        &mut self,
        by: SessionId,
        inode: InodeNo,
        size: u64,
        changed: bool,
        out: &mut Out,
    ) -> Res<pb::Attr> {
        let now = out.now;
        let node = self.inode_mut(inode, out)?;
        let before = std::mem::replace(&mut node.size, size);
        node.mtime = now.into();
        node.ctime = now.into();
        node.content_version += u64::from(changed);
        self.census.resized(before, size);
        self.inode_changed(by, inode, changed, out);
        self.attr(inode)
    }

    /// How much of `length` bytes at `offset` one command may take or replace.
    fn one_command(&self, inode: InodeNo, offset: u64, length: u64) -> u64 {
        let next = self.extents_within(inode, offset, offset + length).nth(MAX_EXTENTS);
        next.map_or(length, |(start, _)| start - offset)
    }

    /// What lies in [from, to), cut to it, by file offset.
    pub(super) fn extents_within(
        &self,
        inode: InodeNo,
        from: u64,
        to: u64,
    ) -> impl Iterator<Item = (u64, Span)> {
        let hit = self.extents_from(inode, from).take_while(move |(start, _)| *start < to);
        hit.map(move |(start, span)| {
            let first = start.max(from);
            let end = (start + u64::from(span.length)).min(to);
            // Parts of a u32 length: they fit.
            let chunk_offset = span.chunk_offset + (first - start) as u32;
            (first, Span { length: (end - first) as u32, chunk_offset, chunk: span.chunk })
        })
    }

    fn check_is_file(&self, inode: InodeNo) -> Res<()> {
        let node = self.inode(inode)?;
        if node.is_file() {
            return Ok(());
        }
        let code = if node.is_dir() { ErrorCode::IsDirectory } else { ErrorCode::Invalid };
        fail(code, format!("inode {inode} is not a regular file"))
    }
}

fn checked_end(offset: u64, length: u64) -> Res<u64> {
    offset
        .checked_add(length)
        .filter(|end| *end <= MAX_FILE_SIZE)
        .map_or_else(|| fail(ErrorCode::TooLarge, format!("a file ends at byte {MAX_FILE_SIZE} at most")), Ok)
}

#[cfg(test)]
mod tests {
    use super::super::testkit::Kit;
    use super::*;
    use dfs_proto::error::DfsError;
    use dfs_proto::pb::mount_request::Op;
    use proptest::prelude::*;

    fn spans(kit: &Kit, inode: InodeNo) -> Vec<(u64, u32, u32, u64)> {
        let all = kit.state.extents_from(inode, 0);
        all.map(|(at, span)| (at, span.length, span.chunk_offset, span.chunk.0)).collect()
    }

    fn fallocate(inode: InodeNo, offset: u64, length: u64, keep_size: bool, make_hole: bool) -> Op {
        Op::Fallocate(pb::Fallocate { inode: inode.0, offset, length, keep_size, make_hole })
    }

    fn copy_op(from: (InodeNo, u64), to: (InodeNo, u64), length: u64) -> Op {
        let (source, source_offset, target, target_offset) = (from.0.0, from.1, to.0.0, to.1);
        Op::CopyRange(pb::CopyRange { source, source_offset, target, target_offset, length })
    }

    fn copy(kit: &mut Kit, from: (InodeNo, u64), to: (InodeNo, u64), length: u64) -> Result<u64, DfsError> {
        match kit.call(copy_op(from, to, length))? {
            Reply::Copied(copied) => Ok(copied.length),
            other => panic!("not copied: {other:?}"),
        }
    }

    fn two_files(kit: &mut Kit) -> (InodeNo, InodeNo) {
        (kit.create(InodeNo::ROOT, "a"), kit.create(InodeNo::ROOT, "b"))
    }

    #[test]
    fn a_hole_is_made_and_the_size_stays_or_grows() {
        let mut kit = Kit::with_keepers(3);
        let file = kit.create(InodeNo::ROOT, "f");
        let chunk = kit.upload(file, 0, 100).0;
        let before = kit.attr(file);
        kit.ok(fallocate(file, 20, 30, true, true));
        assert_eq!(spans(&kit, file), [(0, 20, 0, chunk), (50, 50, 50, chunk)]);
        let attr = kit.attr(file);
        assert_eq!((attr.size, attr.allocated), (100, 70));
        assert_eq!(attr.content_version, before.content_version + 1);
        kit.ok(fallocate(file, 90, 30, false, true));
        assert_eq!((kit.attr(file).size, kit.attr(file).allocated), (120, 60));
        kit.ok(fallocate(file, 0, 200, true, true));
        assert_eq!((kit.attr(file).size, kit.attr(file).allocated), (120, 0));
        assert_eq!(kit.state.chunks.len(), 0, "nothing refers to the chunk any more");
        kit.compare_with_stored();
    }

    #[test]
    fn allocating_extends_or_changes_nothing_but_times() {
        let mut kit = Kit::with_keepers(2);
        let file = kit.create(InodeNo::ROOT, "f");
        kit.upload(file, 0, 100);
        let before = kit.attr(file);
        kit.pass_ms(10);
        kit.ok(fallocate(file, 0, 200, true, false));
        let kept = kit.attr(file);
        assert_eq!(kept.content_version, before.content_version, "cached content stays right");
        assert_eq!((kept.size, kept.allocated), (100, 100));
        assert_ne!(kept.mtime, before.mtime);
        kit.ok(fallocate(file, 150, 50, false, false));
        assert_eq!((kit.attr(file).size, kit.attr(file).allocated), (200, 100));
        let code = |kit: &mut Kit, offset, length| kit.code(fallocate(file, offset, length, false, false));
        assert_eq!(code(&mut kit, 5, 0), Some(ErrorCode::Invalid));
        assert_eq!(code(&mut kit, MAX_FILE_SIZE, 1), Some(ErrorCode::TooLarge));
        assert_eq!(code(&mut kit, u64::MAX, 1), Some(ErrorCode::TooLarge));
        assert_eq!(kit.code(fallocate(InodeNo::ROOT, 0, 1, false, false)), Some(ErrorCode::IsDirectory));
        assert_eq!(kit.code(fallocate(InodeNo(99), 0, 1, false, false)), Some(ErrorCode::Stale));
    }

    #[test]
    fn a_copy_shares_the_chunks_and_outlives_its_source() {
        let mut kit = Kit::with_keepers(3);
        let (a, b) = two_files(&mut kit);
        let (first, second) = (kit.upload(a, 0, 100).0, kit.upload(a, 150, 100).0);
        let target = kit.upload(b, 0, 50);
        kit.sent.clear();
        assert_eq!(copy(&mut kit, (a, 30), (b, 10), 1000).unwrap(), 220, "it ends where the source ends");
        let expected = [(0, 10, 0, target.0), (10, 70, 30, first), (130, 100, 0, second)];
        assert_eq!(spans(&kit, b), expected);
        assert_eq!((kit.attr(b).size, kit.attr(b).allocated), (230, 180));
        kit.unlink(InodeNo::ROOT, "a");
        kit.release(a);
        assert_eq!(spans(&kit, b), expected);
        kit.truncate(b, 0);
        assert_eq!(kit.state.chunks.len(), 0);
        kit.compare_with_stored();
    }

    #[test]
    fn a_hole_at_the_end_is_copied_too() {
        let mut kit = Kit::with_keepers(2);
        let (a, b) = two_files(&mut kit);
        kit.upload(b, 0, 100);
        kit.truncate(a, 40);
        assert_eq!(copy(&mut kit, (a, 0), (b, 80), 40).unwrap(), 40);
        assert_eq!((kit.attr(b).size, kit.attr(b).allocated), (120, 80));
        assert_eq!(copy(&mut kit, (a, 40), (b, 0), 40).unwrap(), 0, "nothing is beyond the end");
        assert_eq!((kit.attr(b).size, kit.attr(b).allocated), (120, 80));
    }

    #[test]
    fn a_copy_within_one_file_may_not_overlap_itself() {
        let mut kit = Kit::with_keepers(2);
        let file = kit.create(InodeNo::ROOT, "f");
        let chunk = kit.upload(file, 0, 100).0;
        for to in [0, 1, 39] {
            assert_eq!(copy(&mut kit, (file, 0), (file, to), 40).unwrap_err().code, ErrorCode::Invalid);
            assert_eq!(copy(&mut kit, (file, to), (file, 0), 40).unwrap_err().code, ErrorCode::Invalid);
        }
        // One extent is source, target and neither.
        assert_eq!(copy(&mut kit, (file, 0), (file, 40), 40).unwrap(), 40);
        assert_eq!(spans(&kit, file), [(0, 40, 0, chunk), (40, 40, 0, chunk), (80, 20, 80, chunk)]);
    }

    #[test]
    fn what_cannot_be_copied_is_refused() {
        let mut kit = Kit::with_keepers(2);
        let (a, b) = two_files(&mut kit);
        kit.upload(a, 0, 100);
        let mut code = |from, to| copy(&mut kit, from, to, 50).map_err(|e| e.code).err();
        assert_eq!(code((InodeNo::ROOT, 0), (b, 0)), Some(ErrorCode::IsDirectory));
        assert_eq!(code((a, 0), (InodeNo::ROOT, 0)), Some(ErrorCode::IsDirectory));
        assert_eq!(code((a, 0), (InodeNo(99), 0)), Some(ErrorCode::Stale));
        assert_eq!(code((a, 0), (b, MAX_FILE_SIZE - 49)), Some(ErrorCode::TooLarge));
        assert_eq!(code((a, 0), (b, u64::MAX)), Some(ErrorCode::TooLarge));
        assert_eq!(code((a, u64::MAX), (b, 0)), None);
    }

    #[test]
    fn one_command_moves_a_bounded_number_of_extents() {
        let mut kit = Kit::with_keepers(2);
        let (a, b) = two_files(&mut kit);
        // Every second byte, so that nothing is joined.
        for chunk in 0..2u64 {
            let runs: Vec<(u64, u64)> = (0..4096).map(|n| (chunk * 8192 + n * 2, 1)).collect();
            let placed = kit.alloc_runs(a, &runs).unwrap();
            kit.store(&placed);
        }
        let size = kit.attr(a).size;
        let first = copy(&mut kit, (a, 0), (b, 0), size).unwrap();
        assert_eq!((first, spans(&kit, b).len()), (8192, 4096));
        assert_eq!(copy(&mut kit, (a, first), (b, first), size - first).unwrap(), size - first);
        assert_eq!(spans(&kit, a), spans(&kit, b));
        // The target's extents count as well.
        let one = kit.create(InodeNo::ROOT, "one");
        kit.upload(one, 0, 16_000);
        assert_eq!(copy(&mut kit, (one, 0), (b, 0), 16_000).unwrap(), 8192);
    }

    /// Per byte: the chunk and the place in it, or a hole.
    type Model = Vec<Option<(u64, u64)>>;

    fn bytes_of(kit: &mut Kit, inode: InodeNo) -> Model {
        let mut bytes = vec![None; kit.attr(inode).size as usize];
        for (at, length, chunk_offset, chunk) in spans(kit, inode) {
            for n in 0..u64::from(length) {
                bytes[(at + n) as usize] = Some((chunk, u64::from(chunk_offset) + n));
            }
        }
        bytes
    }

    fn grow(model: &mut Model, end: usize) {
        model.resize(model.len().max(end), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, rng_seed: proptest::test_runner::RngSeed::Fixed(9), failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_is_done_to_extents_each_byte_is_where_a_naive_model_has_it(
            steps in prop::collection::vec((0u8..10, any::<bool>(), any::<bool>(), 0u64..120, 0u64..120, 1u64..60), 1..60),
        ) {
            let mut kit = Kit::with_keepers(2);
            let (a, b) = two_files(&mut kit);
            let files = [a, b];
            let mut models: [Model; 2] = [Vec::new(), Vec::new()];
            for (what, x, y, at, to, length) in steps {
                let (i, j) = (usize::from(x), usize::from(y));
                let (start, end) = (at as usize, (at + length) as usize);
                match what {
                    0..=2 => {
                        let chunk = kit.upload(files[i], at, length).0;
                        grow(&mut models[i], end);
                        (0..length).for_each(|n| models[i][start + n as usize] = Some((chunk, n)));
                    }
                    3 => {
                        kit.truncate(files[i], at);
                        models[i].resize(start, None);
                    }
                    4..=5 => {
                        kit.ok(fallocate(files[i], at, length, y, what == 4));
                        if !y {
                            grow(&mut models[i], end);
                        }
                        if what == 4 {
                            let size = models[i].len();
                            models[i][start.min(size)..end.min(size)].fill(None);
                        }
                    }
                    _ => {
                        let clipped = end.min(models[i].len()).saturating_sub(start);
                        let overlaps = i == j && clipped > 0 && at.abs_diff(to) < clipped as u64;
                        let copied = copy(&mut kit, (files[i], at), (files[j], to), length);
                        prop_assert_eq!(copied.map_err(|e| e.code), if overlaps { Err(ErrorCode::Invalid) } else { Ok(clipped as u64) });
                        if !overlaps && clipped > 0 {
                            let taken = models[i][start..start + clipped].to_vec();
                            grow(&mut models[j], to as usize + clipped);
                            models[j][to as usize..to as usize + clipped].copy_from_slice(&taken);
                        }
                    }
                }
                prop_assert_eq!(&bytes_of(&mut kit, a), &models[0]);
                prop_assert_eq!(&bytes_of(&mut kit, b), &models[1]);
            }
            kit.compare_with_stored();
        }
    }
}
