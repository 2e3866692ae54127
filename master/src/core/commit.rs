//! Uploads from the keeper's notice into the file: steps 5, 6 and 7.
//!
//! A stored upload is *ready* when enough live keepers hold it: `min_copies`, or all that could, if those are
//! fewer. The ready ones of one session to one inode become visible in the order of their Alloc: one that
//! is not ready holds back those behind it.

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::{ChunkId, InodeNo, SessionId};
use dfs_proto::pb;
use dfs_proto::upload_step;

use super::State;
use super::chunks::Chunk;
use super::content::Span;
use super::holders::Holders;
use super::out::Out;
use super::upload::{Phase, Upload};

impl State {
    /// How many live copies an upload needs: `min_copies`, or as many as there are live keepers that have
    /// it or could take it, as far as others reach them; one at least.
    pub(super) fn copies_needed(&self, upload: &Upload) -> u32 {
        let able = self
            .keepers
            .iter()
            .filter(|(id, keeper)| {
                keeper.takes(upload.length) && !self.troubles.is_unreachable(**id)
                    || keeper.alive && upload.holders.contains(id)
            })
            .count();
        u32::try_from(able).unwrap_or(u32::MAX).min(self.settings.min_copies).max(1)
    }

    fn is_ready(&self, upload: &Upload) -> bool {
        matches!(upload.phase, Phase::Stored { .. })
            && self.count_live(&upload.holders) >= self.copies_needed(upload)
    }

    /// Something about a stored upload changed: it fails, or waits for copies, or is committed if it is its
    /// turn.
    pub(super) fn advance(&mut self, chunk: ChunkId, out: &mut Out) {
        let Some(upload) = self.uploads.get(&chunk) else { return };
        let (session, inode) = (upload.session, upload.inode);
        if matches!(upload.phase, Phase::Stored { .. }) {
            if self.count_live(&upload.holders) == 0 {
                let message =
                    format!("chunk {chunk} was lost with its keeper before it was recorded; send it again");
                self.fail_upload(chunk, &DfsError::new(ErrorCode::Lost, message), out);
            } else if !self.is_ready(upload) {
                self.replicate_now(chunk, out);
            }
        }
        self.commit_ready(session, inode, out);
    }

    /// Keepers came, went or changed.
    pub(super) fn recheck_uploads(&mut self, out: &mut Out) {
        let stored: Vec<ChunkId> = self
            .uploads
            .iter()
            .filter(|(_, upload)| matches!(upload.phase, Phase::Stored { .. }))
            .map(|(chunk, _)| *chunk)
            .collect();
        for chunk in stored {
            self.advance(chunk, out);
        }
    }

    /// Commits from the head of the order on.
    pub(super) fn commit_ready(&mut self, session: SessionId, inode: InodeNo, out: &mut Out) {
        while let Some(chunk) = self.next_ready(session, inode) {
            let Some(upload) = self.uploads.remove(&chunk) else { return };
            self.leave_queue(&upload, chunk);
            self.commit(chunk, upload, out);
        }
    }

    fn next_ready(&self, session: SessionId, inode: InodeNo) -> Option<ChunkId> {
        let chunk = *self.sessions.get(&session)?.pending.get(&inode)?.front()?;
        self.uploads.get(&chunk).filter(|upload| self.is_ready(upload)).map(|_| chunk)
    }

    fn commit(&mut self, chunk: ChunkId, upload: Upload, out: &mut Out) {
        let Phase::Stored { checksum } = upload.phase else { return };
        let Upload { inode, session, runs, length, mtime, holders, .. } = upload;
        let copies = self.count_live(&holders);
        // Step 5: chunk, extents and attributes, in one transaction.
        self.chunks.insert(
            chunk,
            Chunk { length, checksum, refs: 0, used: 0, live: copies, keepers: Holders::of(holders) },
        );
        self.reindex(chunk);
        out.touch(super::row::RowKey::Chunk(chunk));
        let mut end = 0;
        for (start, span) in spans(&runs, chunk) {
            end = end.max(start + u64::from(span.length));
            self.put_extent(inode, start, span, out);
        }
        let now = out.now;
        if let Ok(node) = self.inode_mut(inode, out) {
            let before = node.size;
            node.size = before.max(end);
            node.mtime = mtime.map_or(node.mtime, Into::into);
            node.ctime = now.into();
            node.content_version += 1;
            self.census.resized(before, before.max(end));
        }
        upload_step!(5, chunk, "inode {inode}: recorded with {copies} copies");
        // Step 6.
        let attr = self.attr(inode).ok();
        upload_step!(6, chunk, "session {session}: success");
        let sent_before = std::mem::take(&mut out.acks);
        self.inode_changed(session, inode, true, out);
        let acks = std::mem::replace(&mut out.acks, sent_before);
        // The success frees memory that writers wait for, and so waits for nobody; close() asks with a Barrier.
        let acks_pending = self.acks.begin(session, None, acks, out.now_ms);
        // First of this chunk alone, which takes no walk through the file.
        let synced = self.is_durable(chunk) && self.not_durable(inode).is_empty();
        let done = pb::UploadDone {
            chunk: chunk.0,
            inode: inode.0,
            error: None,
            attr,
            copies,
            acks_pending,
            synced,
        };
        self.upload_done(session, done, out);
        // Step 7.
        upload_step!(7, chunk, "up to {} copies are made", self.settings.copies);
        self.replicate_now(chunk, out);
    }
}

/// The runs of a chunk as extents, those that touch joined.
fn spans(runs: &[pb::Run], chunk: ChunkId) -> Vec<(u64, Span)> {
    let mut spans: Vec<(u64, Span)> = Vec::with_capacity(runs.len().min(1));
    let mut chunk_offset = 0u32;
    for run in runs {
        // Their sum was checked to be a chunk's length.
        let length = run.length as u32;
        match spans.last_mut() {
            Some((start, last)) if *start + u64::from(last.length) == run.file_offset => {
                last.length += length
            }
            _ => spans.push((run.file_offset, Span { length, chunk_offset, chunk })),
        }
        chunk_offset += length;
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::super::testkit::{Kit, SESSION};
    use super::*;
    use dfs_proto::ids::KeeperId;
    use dfs_proto::pb::mount_reply::Result as Reply;

    fn file(kit: &mut Kit) -> InodeNo {
        kit.create(InodeNo::ROOT, "f")
    }

    #[test]
    fn uploads_become_visible_in_the_order_of_their_alloc_whatever_the_order_of_stored() {
        let mut kit = Kit::with_keepers(3);
        let file = file(&mut kit);
        let placed: Vec<pb::Placed> = (0..4).map(|_| kit.alloc(file, 0, 10)).collect();
        for at in [2, 3, 1] {
            kit.store(&placed[at]);
            assert_eq!(kit.attr(file).size, 0, "nothing is visible before the first");
        }
        kit.sent.clear();
        kit.store(&placed[0]);
        let order: Vec<u64> = kit.done().iter().map(|done| done.chunk).collect();
        assert_eq!(order, placed.iter().map(|p| p.chunk).collect::<Vec<_>>());
        // All wrote the same bytes: the last Alloc won.
        assert_eq!(kit.state.chunks_of(file).into_iter().map(|c| c.0).collect::<Vec<_>>(), [placed[3].chunk]);
    }

    #[test]
    fn success_comes_only_with_min_copies() {
        let mut kit = Kit::with_keepers(3);
        let file = file(&mut kit);
        let placed = kit.alloc(file, 0, 10);
        let primary = KeeperId(placed.grant.as_ref().unwrap().keepers[0].keeper);
        kit.sent.clear();
        kit.store_on(&placed, &[primary]);
        assert!(kit.done().is_empty());
        assert_eq!(kit.attr(file).size, 0);
        let pushes = kit.pushes();
        assert_eq!(pushes.len(), 1, "a copy is ordered at once");
        kit.copy_all();
        assert_eq!(kit.done()[0].copies, 2);
        assert_eq!(kit.attr(file).size, 10);
    }

    #[test]
    fn with_one_live_keeper_one_copy_is_enough() {
        let mut kit = Kit::with_keepers(2);
        let file = file(&mut kit);
        kit.kill(KeeperId(2));
        kit.sent.clear();
        kit.upload(file, 0, 10);
        assert_eq!(kit.done()[0].copies, 1);
        assert_eq!(kit.state.status(kit.now()).endangered, 1);
    }

    #[test]
    fn a_death_lets_a_waiting_upload_go_on_with_fewer() {
        let mut kit = Kit::with_keepers(2);
        let file = file(&mut kit);
        let placed = kit.alloc(file, 0, 10);
        kit.store_on(&placed, &[KeeperId(1)]);
        assert_eq!(kit.attr(file).size, 0);
        kit.kill(KeeperId(2));
        assert_eq!(kit.attr(file).size, 10);
    }

    #[test]
    fn a_chunk_lost_before_it_was_recorded_can_be_sent_again_in_its_place() {
        let mut kit = Kit::with_keepers(3);
        let file = file(&mut kit);
        let first = kit.alloc(file, 0, 10);
        let second = kit.alloc(file, 0, 10);
        let third = kit.alloc(file, 5, 10);
        kit.store_on(&second, &[KeeperId(second.grant.as_ref().unwrap().keepers[0].keeper)]);
        kit.sent.clear();
        kit.kill(KeeperId(second.grant.as_ref().unwrap().keepers[0].keeper));
        assert_eq!(kit.done()[0].error.as_ref().map(|e| e.code), Some(pb::Code::Lost as i32));
        let again = kit.alloc_replacing(file, 0, 10, second.chunk);
        for placed in [&third, &again, &first] {
            let up = |keeper: &KeeperId| kit.state.is_alive(*keeper);
            let live: Vec<KeeperId> = Kit::placed_on(placed).into_iter().filter(up).collect();
            kit.store_on(placed, &live);
        }
        kit.copy_all();
        let spans: Vec<(u64, u64)> =
            kit.state.extents_from(file, 0).map(|(at, span)| (at, span.chunk.0)).collect();
        assert_eq!(spans, [(0, again.chunk), (5, third.chunk)]);
    }

    #[test]
    fn an_abort_lets_those_behind_go_on_and_a_lost_place_takes_them_along() {
        let mut kit = Kit::with_keepers(2);
        let file = file(&mut kit);
        let (first, second) = (kit.alloc(file, 0, 10), kit.alloc(file, 10, 10));
        kit.store(&second);
        kit.ok(pb::mount_request::Op::AbortUpload(pb::AbortUpload {
            chunk: first.chunk,
            ..Default::default()
        }));
        assert_eq!(kit.attr(file).size, 20);
        assert_eq!(kit.attr(file).allocated, 10);
        let late = kit.alloc(file, 20, 10);
        let behind = kit.alloc(file, 30, 10);
        kit.store(&behind);
        kit.sent.clear();
        kit.pass_ms(121_000);
        assert_eq!(kit.attr(file).size, 20, "later bytes without the earlier ones");
        let session = Some(pb::Code::Session as i32);
        let codes: Vec<Option<i32>> = kit.done().iter().map(|d| d.error.as_ref().map(|e| e.code)).collect();
        assert_eq!(codes, [session, session], "both are to be asked for anew");
        assert!(kit.was_deleted(KeeperId(1), ChunkId(behind.chunk)));
        // Its notice comes too late: keepers are told to delete it.
        kit.sent.clear();
        kit.store(&late);
        assert!(kit.was_deleted(KeeperId(1), ChunkId(late.chunk)));
        assert_eq!(kit.attr(file).allocated, 10);
    }

    #[test]
    fn a_failed_upload_keeps_its_place_while_its_client_may_still_try() {
        let mut kit = Kit::with_keepers(2);
        let file = file(&mut kit);
        let mut first = kit.alloc(file, 0, 10);
        let second = kit.alloc(file, 10, 10);
        kit.store_as(&mut first, 11);
        kit.store(&second);
        kit.pass_ms(110_000);
        assert_eq!(kit.attr(file).size, 0, "later bytes without the earlier ones");
        let again = kit.alloc_replacing(file, 0, 10, first.chunk);
        kit.store(&again);
        assert_eq!((kit.attr(file).size, kit.attr(file).allocated), (20, 20));
    }

    #[test]
    fn a_chunk_of_another_length_is_never_visible() {
        let mut kit = Kit::with_keepers(2);
        let file = file(&mut kit);
        let mut placed = kit.alloc(file, 0, 10);
        kit.sent.clear();
        kit.store_as(&mut placed, 11);
        assert_eq!(kit.done()[0].error.as_ref().map(|e| e.code), Some(pb::Code::Corrupt as i32));
        assert_eq!(kit.attr(file).size, 0);
    }

    #[test]
    fn uploads_to_an_inode_that_is_gone_end_as_stale() {
        let mut kit = Kit::with_keepers(2);
        let file = file(&mut kit);
        let placed = kit.alloc(file, 0, 10);
        kit.unlink(InodeNo::ROOT, "f");
        kit.sent.clear();
        kit.release(file);
        assert_eq!(kit.done()[0].error.as_ref().map(|e| e.code), Some(pb::Code::Stale as i32));
        kit.store(&placed);
        assert!(kit.was_deleted(KeeperId(1), ChunkId(placed.chunk)));
        assert_eq!(kit.state.chunks.len(), 0);
    }

    #[test]
    fn many_runs_make_extents_in_their_places() {
        let mut kit = Kit::with_keepers(2);
        let file = file(&mut kit);
        let runs = [(100, 10), (0, 5), (5, 5), (50, 10)];
        let placed = kit.alloc_runs(file, &runs).unwrap();
        kit.store(&placed);
        let spans: Vec<(u64, u32, u32)> =
            kit.state.extents_from(file, 0).map(|(at, s)| (at, s.length, s.chunk_offset)).collect();
        assert_eq!(spans, [(0, 10, 10), (50, 10, 20), (100, 10, 0)]);
        assert_eq!(kit.attr(file).size, 110);
        for bad in [&[(0, 5), (4, 5)][..], &[(0, 0)], &[], &[(0, 1 << 30)], &[(u64::MAX - 1, 5)]] {
            assert!(kit.alloc_runs(file, bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_set_mtime_is_not_undone_by_writes_before_it() {
        let mut kit = Kit::with_keepers(2);
        let file = file(&mut kit);
        let placed = kit.alloc(file, 0, 10);
        let set = pb::Time { sec: 5, nsec: 6 };
        let op = pb::Setattr { inode: file.0, mtime: Some(set), ..pb::Setattr::default() };
        kit.ok(pb::mount_request::Op::Setattr(op));
        kit.store(&placed);
        assert_eq!(kit.attr(file).mtime, Some(set));
        kit.upload(file, 0, 10);
        assert_ne!(kit.attr(file).mtime, Some(set));
    }

    #[test]
    fn a_restarted_master_knows_what_is_in_the_file() {
        let mut kit = Kit::with_keepers(2);
        let file = file(&mut kit);
        let (first, second) = (kit.alloc(file, 0, 10), kit.alloc(file, 10, 10));
        kit.store(&first);
        kit.restart();
        kit.pass_ms(1_000);
        for keeper in [1, 2] {
            kit.keeper_hello(KeeperId(keeper), &format!("h{keeper}"));
        }
        kit.hello(SESSION, &[file]);
        let mut abort = |chunk| {
            let request = kit
                .request(pb::mount_request::Op::AbortUpload(pb::AbortUpload { chunk, ..Default::default() }));
            kit.reply_to(request).unwrap()
        };
        let is_error =
            |reply, code| matches!(reply, Reply::Error(pb::Error { code: got, .. }) if got == code as i32);
        assert!(is_error(abort(first.chunk), pb::Code::Exists));
        assert_eq!(abort(second.chunk), Reply::Empty(pb::Empty {}));
        let refused =
            |kit: &mut Kit, chunk| kit.try_alloc(file, &[(0, 10)], chunk, &[]).map_err(|e| e.code).err();
        assert_eq!(refused(&mut kit, first.chunk), Some(ErrorCode::Exists));
        assert_eq!(refused(&mut kit, second.chunk), Some(ErrorCode::TimedOut));
    }

    #[test]
    fn a_resumed_session_hears_again_how_its_uploads_ended() {
        let mut kit = Kit::with_keepers(2);
        let file = file(&mut kit);
        let placed = kit.alloc(file, 0, 10);
        kit.gone(SESSION);
        kit.sent.clear();
        kit.store(&placed);
        assert!(kit.done().is_empty());
        kit.hello(SESSION, &[file]);
        assert_eq!(kit.done()[0].chunk, placed.chunk);
        // And what is in the file cannot be replaced.
        let refused = kit.try_alloc(file, &[(0, 10)], placed.chunk, &[]);
        assert_eq!(refused.map_err(|e| e.code).err(), Some(ErrorCode::Exists));
    }
}
