//! Uploads from the ticket to the keeper's notice: steps 1, 2 and 4. What happens then is in `commit.rs`.
//!
//! What must hold: an upload is in `uploads` and, once, in its session's queue for its inode, from its Alloc
//! until it is committed, aborted, or dropped. One that failed keeps its place in the queue, so that the client
//! can put another chunk there (`Alloc.replaces`) before later ones become visible. A place that is lost takes all
//! behind it along: later bytes never appear without the earlier ones, unless the client itself gives those up.

use dfs_proto::MAX_FILE_SIZE;
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::{ChunkId, InodeNo, KeeperId, SessionId};
use dfs_proto::pb::{self, mount_reply::Result as Reply};
use dfs_proto::upload_step;

use super::State;
use super::grant::WRITE_LIFETIME_MS;
use super::out::{Out, Res, fail};

/// An upload whose chunk is not stored after this is dropped.
const UPLOAD_LIFETIME_MS: i64 = 2 * WRITE_LIFETIME_MS;
/// How long a failed upload keeps its place in the order: longer than a client tries, which gives the place back
/// when it has given up.
const FAILED_HOLD_MS: i64 = UPLOAD_LIFETIME_MS;
/// Most runs of one chunk.
const MAX_RUNS: usize = 4096;
/// Most uploads under way in one session.
const MAX_PENDING: usize = 4096;

/// How far an upload is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// Placed; bytes may be on their way.
    Ticketed,
    /// Step 4 was said: `holders` have it.
    Stored { checksum: u32 },
    /// Will not be in the file; holds its place for a successor.
    Failed,
}

/// One chunk on its way into a file.
#[derive(Debug)]
pub(super) struct Upload {
    pub inode: InodeNo,
    pub session: SessionId,
    pub runs: Vec<pb::Run>,
    /// Bytes of the chunk.
    pub length: u32,
    /// Of the last write in it. `None`: somebody set the file's mtime since.
    pub mtime: Option<pb::Time>,
    /// That its ticket names.
    pub placed: Vec<KeeperId>,
    /// That have it: sorted, each once.
    pub holders: Vec<KeeperId>,
    pub phase: Phase,
    /// That came anew or spoke of a bad copy since it was placed: word that they have it may be older than that.
    pub doubted: Vec<KeeperId>,
    drop_at_ms: i64,
}

impl Upload {
    /// Adds a holder. Was it new?
    pub fn add_holder(&mut self, keeper: KeeperId) -> bool {
        match self.holders.binary_search(&keeper) {
            Ok(_) => false,
            Err(at) => {
                self.holders.insert(at, keeper);
                true
            }
        }
    }
}

/// The length of the chunk that holds these runs.
fn check_runs(runs: &[pb::Run], chunk_size: u32) -> Res<u32> {
    if runs.is_empty() || runs.len() > MAX_RUNS {
        return fail(ErrorCode::Invalid, format!("a chunk holds 1 to {MAX_RUNS} runs, not {}", runs.len()));
    }
    let mut sorted: Vec<(u64, u64)> = Vec::with_capacity(runs.len());
    let mut sum = 0u64;
    for run in runs {
        let end = run.file_offset.checked_add(run.length).filter(|end| *end <= MAX_FILE_SIZE);
        let Some(end) = end else {
            return fail(ErrorCode::TooLarge, format!("a file ends at byte {MAX_FILE_SIZE} at most"));
        };
        sum = sum.saturating_add(run.length);
        if run.length == 0 || sum > u64::from(chunk_size) {
            let message = format!("a run is empty, or all together are over {chunk_size} bytes");
            return fail(ErrorCode::Invalid, message);
        }
        sorted.push((run.file_offset, end));
    }
    sorted.sort_unstable();
    if sorted.windows(2).any(|pair| pair[0].1 > pair[1].0) {
        return fail(ErrorCode::Invalid, "runs of one chunk overlap");
    }
    u32::try_from(sum).map_or_else(|_| fail(ErrorCode::Invalid, "a chunk is too long"), Ok)
}

impl State {
    /// Steps 1 and 2.
    pub(super) fn alloc(&mut self, by: SessionId, op: &pb::Alloc, out: &mut Out) -> Res<Reply> {
        let inode = InodeNo(op.inode);
        out.show(inode);
        let node = self.inode(inode)?;
        if !node.is_file() {
            let code = if node.is_dir() { ErrorCode::IsDirectory } else { ErrorCode::Invalid };
            return fail(code, format!("inode {inode} is not a regular file"));
        }
        let length = check_runs(&op.runs, self.settings.chunk_size)?;
        if op.append {
            self.check_append(by, inode)?;
        }
        let replaced = ChunkId(op.replaces);
        if op.replaces != 0 {
            self.check_replaceable(by, inode, replaced)?;
        } else if self.sessions.get(&by).is_some_and(|session| session.pending_count() >= MAX_PENDING) {
            return fail(ErrorCode::Busy, format!("{MAX_PENDING} uploads are under way; wait for some"));
        }
        self.check_quota_for_bytes(inode, &op.runs, replaced)?;
        if op.replaces != 0 {
            op.avoid.iter().for_each(|keeper| self.troubles.mount_failed(KeeperId(*keeper), out.now_ms));
        }
        let placed = self.place(length, self.settings.min_copies, &op.avoid)?;
        let chunk = self.ids.chunk(out);
        let latest = pb::Time { sec: out.now.sec.saturating_add(1), nsec: out.now.nsec };
        let mtime = op.mtime.map_or(out.now, pb::Time::normalized);
        let mtime = if (mtime.sec, mtime.nsec) > (latest.sec, latest.nsec) { latest } else { mtime };
        if let Some(session) = self.sessions.get_mut(&by) {
            let queue = session.pending.entry(inode).or_default();
            match queue.iter_mut().find(|queued| **queued == replaced) {
                Some(place) => *place = chunk,
                None => queue.push_back(chunk),
            }
        }
        let upload = Upload {
            inode,
            session: by,
            runs: op.runs.clone(),
            length,
            mtime: Some(mtime),
            placed,
            holders: Vec::new(),
            phase: Phase::Ticketed,
            doubted: Vec::new(),
            drop_at_ms: out.now_ms + UPLOAD_LIFETIME_MS,
        };
        let grant =
            self.grant(chunk, pb::TicketOp::Write, &upload.placed, length, out.now_ms + WRITE_LIFETIME_MS);
        upload_step!(2, chunk, "inode {inode}: {length} bytes placed on keepers {:?}", upload.placed);
        self.uploads.insert(chunk, upload);
        if let Some(old) = self.uploads.remove(&replaced) {
            self.discard(replaced, &old, out);
        }
        Ok(Reply::Placed(pb::Placed { chunk: chunk.0, grant: Some(grant) }))
    }

    fn check_replaceable(&self, by: SessionId, inode: InodeNo, chunk: ChunkId) -> Res<()> {
        if self.uploads.get(&chunk).is_some_and(|old| old.session == by && old.inode == inode) {
            return Ok(());
        }
        self.check_not_recorded(by, chunk)?;
        fail(ErrorCode::TimedOut, format!("chunk {chunk} has lost its place in the file's order"))
    }

    /// Code `Exists`: it is in the file. The table knows that also when the session is of before a restart.
    fn check_not_recorded(&self, by: SessionId, chunk: ChunkId) -> Res<()> {
        let was_told = self.sessions.get(&by).is_some_and(|session| session.committed(chunk));
        if was_told || self.chunks.get(chunk).is_some() {
            return fail(ErrorCode::Exists, format!("chunk {chunk} is in the file already"));
        }
        Ok(())
    }

    /// Step 4, said by a keeper.
    pub(super) fn stored(&mut self, by: KeeperId, stored: &pb::Stored, out: &mut Out) {
        let Some(info) = stored.info else { return };
        let chunk = ChunkId(info.chunk);
        let Some(upload) = self.uploads.get_mut(&chunk).filter(|upload| upload.phase != Phase::Failed) else {
            // Said again after it was recorded; or nobody wants it any more.
            if self.chunks.get(chunk).is_none() {
                for keeper in stored.keepers.iter().map(|raw| KeeperId(*raw)).chain([by]) {
                    self.delete_unneeded(keeper, chunk, out);
                }
            }
            return;
        };
        if !upload.placed.contains(&by) {
            return self.delete_at(by, chunk, out);
        }
        for keeper in upload.placed.iter().filter(|keeper| stored.failed.contains(&keeper.0)) {
            self.troubles.keeper_failed(*keeper, out.now_ms);
        }
        let fits = match upload.phase {
            Phase::Stored { checksum } => checksum == info.checksum,
            _ => true,
        };
        if !fits || info.length != upload.length {
            let message = format!(
                "chunk {chunk}: keeper {by} stored {} bytes where {} were to be, or others than another keeper",
                info.length, upload.length
            );
            return self.fail_upload(chunk, &DfsError::new(ErrorCode::Corrupt, message), out);
        }
        let was_ticketed = upload.phase == Phase::Ticketed;
        upload.phase = Phase::Stored { checksum: info.checksum };
        let (length, placed) = (upload.length, upload.placed.clone());
        let told: Vec<KeeperId> = placed
            .iter()
            .copied()
            .filter(|keeper| stored.keepers.contains(&keeper.0) || *keeper == by)
            .collect();
        let doubted = std::mem::take(&mut upload.doubted);
        for keeper in told {
            self.troubles.served(keeper);
            self.upload_gained_copy(chunk, keeper, stored.synced);
            if doubted.contains(&keeper) {
                self.ask_to_verify(chunk, keeper, out);
            }
        }
        if was_ticketed {
            placed.iter().for_each(|keeper| self.not_pending(*keeper, length));
        }
        self.advance(chunk, out);
    }

    /// What this keeper is yet said to have of these uploads, it may have had before.
    pub(super) fn doubt_uploads_at(&mut self, keeper: KeeperId, is_it: impl Fn(ChunkId) -> bool) {
        for (_, upload) in self.uploads.iter_mut().filter(|(chunk, _)| is_it(**chunk)) {
            let waits = upload.phase == Phase::Ticketed && upload.placed.contains(&keeper);
            if waits && !upload.doubted.contains(&keeper) {
                upload.doubted.push(keeper);
            }
        }
    }

    /// A keeper has a chunk that is not in the table yet.
    pub(super) fn upload_gained_copy(&mut self, chunk: ChunkId, keeper: KeeperId, synced: bool) {
        // One that was forgotten meanwhile has nothing.
        let Some(upload) = self.uploads.get_mut(&chunk).filter(|_| self.keepers.contains_key(&keeper)) else {
            return;
        };
        if upload.add_holder(keeper) {
            if let Some(keeper) = self.keepers.get_mut(&keeper) {
                keeper.took(upload.length);
                keeper.inventory_recorded(chunk);
            }
            if !synced {
                self.syncs.add(chunk, keeper);
            }
        } else if synced {
            self.syncs.forget(chunk, keeper);
        }
    }

    /// And now it has not.
    pub(super) fn upload_lost_copy(&mut self, chunk: ChunkId, keeper: KeeperId) {
        if let Some(upload) = self.uploads.get_mut(&chunk) {
            upload.holders.retain(|holder| *holder != keeper);
            self.syncs.forget(chunk, keeper);
            self.cancel_orders_with(chunk, keeper);
        }
    }

    /// The client is told that the chunk will not be in the file; its place is held for a while.
    pub(super) fn fail_upload(&mut self, chunk: ChunkId, error: &DfsError, out: &mut Out) {
        let Some(mut upload) = self.uploads.remove(&chunk) else { return };
        self.discard(chunk, &upload, out);
        upload.phase = Phase::Failed;
        upload.holders.clear();
        upload.drop_at_ms = out.now_ms + FAILED_HOLD_MS;
        let (session, inode) = (upload.session, upload.inode);
        self.uploads.insert(chunk, upload);
        self.say_failed(session, inode, chunk, error, out);
    }

    /// Keepers died that were to say that they have a chunk: its client may believe that they have, and would wait.
    pub(super) fn fail_uploads_at(&mut self, dead: &[KeeperId], out: &mut Out) {
        let lost: Vec<(ChunkId, KeeperId)> = self
            .uploads
            .iter()
            .filter(|(_, upload)| upload.phase == Phase::Ticketed)
            .filter_map(|(chunk, upload)| Some((*chunk, *upload.placed.first()?)))
            .filter(|(_, primary)| dead.contains(primary))
            .collect();
        for (chunk, keeper) in lost {
            let message =
                format!("keeper {keeper} died before it said that it has chunk {chunk}; send it again");
            self.fail_upload(chunk, &DfsError::new(ErrorCode::Lost, message), out);
        }
    }

    /// Bytes of uploads that are on their way to a keeper.
    pub(super) fn uploading_to(&self, keeper: KeeperId) -> u64 {
        let waits = |upload: &&Upload| upload.phase == Phase::Ticketed && upload.placed.contains(&keeper);
        self.uploads.values().filter(waits).map(|upload| u64::from(upload.length)).sum()
    }

    /// Its client is away. It is in nobody's file, and keeps its place until its session ends or begins anew.
    pub(super) fn give_up_upload(&mut self, chunk: ChunkId, out: &mut Out) {
        let Some(mut upload) = self.uploads.remove(&chunk) else { return };
        if upload.phase != Phase::Failed {
            self.discard(chunk, &upload, out);
            upload.phase = Phase::Failed;
            upload.holders.clear();
        }
        upload.drop_at_ms = i64::MAX;
        self.uploads.insert(chunk, upload);
    }

    pub(super) fn say_failed(
        &mut self,
        to: SessionId,
        inode: InodeNo,
        chunk: ChunkId,
        error: &DfsError,
        out: &mut Out,
    ) {
        let error = Some(error.to_wire());
        let done = pb::UploadDone { chunk: chunk.0, inode: inode.0, error, ..Default::default() };
        self.upload_done(to, done, out);
    }

    /// Takes back all that an upload has at keepers.
    fn discard(&mut self, chunk: ChunkId, upload: &Upload, out: &mut Out) {
        if upload.phase == Phase::Ticketed {
            upload.placed.iter().for_each(|keeper| self.not_pending(*keeper, upload.length));
        }
        self.cancel_orders_of(chunk);
        for keeper in &upload.holders {
            self.syncs.forget(chunk, *keeper);
        }
        if upload.phase != Phase::Failed {
            for keeper in upload.placed.iter().chain(&upload.holders) {
                self.delete_at(*keeper, chunk, out);
            }
        }
    }

    /// Out of the order, for good. Those behind it do not wait for it any more.
    pub(super) fn drop_upload(&mut self, chunk: ChunkId, out: &mut Out) -> Option<Upload> {
        let upload = self.uploads.remove(&chunk)?;
        self.discard(chunk, &upload, out);
        self.leave_queue(&upload, chunk);
        Some(upload)
    }

    /// Takes a chunk out of its session's order.
    pub(super) fn leave_queue(&mut self, upload: &Upload, chunk: ChunkId) {
        let Some(session) = self.sessions.get_mut(&upload.session) else { return };
        if let Some(queue) = session.pending.get_mut(&upload.inode) {
            queue.retain(|queued| *queued != chunk);
            if queue.is_empty() {
                session.pending.remove(&upload.inode);
            }
        }
    }

    pub(super) fn abort_upload(&mut self, by: SessionId, op: pb::AbortUpload, out: &mut Out) -> Res<Reply> {
        let chunk = ChunkId(op.chunk);
        out.show(InodeNo(op.inode));
        // One that is not there any more has ended before, and the client was or will be told how; but that it is in the
        // file, the client of before a restart hears only now.
        self.check_not_recorded(by, chunk)?;
        if let Some(upload) = self.uploads.get(&chunk) {
            if upload.session != by {
                return fail(ErrorCode::Invalid, format!("chunk {chunk} is not of this session"));
            }
            if let Some(upload) = self.drop_upload(chunk, out) {
                self.commit_ready(upload.session, upload.inode, out);
            }
        }
        Ok(Reply::Empty(pb::Empty {}))
    }

    pub(super) fn expire_uploads(&mut self, out: &mut Out) {
        let late: Vec<ChunkId> = self
            .uploads
            .iter()
            .filter(|(_, upload)| !matches!(upload.phase, Phase::Stored { .. }))
            .filter(|(_, upload)| out.now_ms >= upload.drop_at_ms)
            .map(|(chunk, _)| *chunk)
            .collect();
        for chunk in late {
            // It may have gone with one before it.
            let Some(upload) = self.uploads.get(&chunk) else { continue };
            let (session, inode) = (upload.session, upload.inode);
            let message = format!(
                "chunk {chunk} was not stored within {UPLOAD_LIFETIME_MS} ms, or lost its place; begin anew"
            );
            self.lose_places_from(session, inode, chunk, &DfsError::new(ErrorCode::Session, message), out);
        }
    }

    /// Takes an upload, and those behind it, out of the order of its file, and says so.
    fn lose_places_from(
        &mut self,
        session: SessionId,
        inode: InodeNo,
        first: ChunkId,
        error: &DfsError,
        out: &mut Out,
    ) {
        let queue = self.sessions.get(&session).and_then(|session| session.pending.get(&inode));
        let lost: Vec<ChunkId> =
            queue.into_iter().flatten().copied().skip_while(|queued| *queued != first).collect();
        for chunk in lost {
            if self.drop_upload(chunk, out).is_some_and(|upload| upload.phase != Phase::Failed) {
                self.say_failed(session, inode, chunk, error, out);
            }
        }
    }

    pub(super) fn drop_uploads_of_session(&mut self, session: SessionId, out: &mut Out) {
        let pending = self.sessions.get_mut(&session).map(|session| std::mem::take(&mut session.pending));
        for chunk in pending.into_iter().flatten().flat_map(|(_, queue)| queue) {
            self.drop_upload(chunk, out);
        }
    }

    /// The inode is going.
    pub(super) fn drop_uploads_of_inode(&mut self, inode: InodeNo, out: &mut Out) {
        let doomed: Vec<ChunkId> = self
            .sessions
            .values()
            .filter_map(|session| session.pending.get(&inode))
            .flat_map(|queue| queue.iter().copied())
            .collect();
        let error =
            DfsError::new(ErrorCode::Stale, format!("inode {inode} is gone: its last name was removed"));
        for chunk in doomed {
            let Some(upload) = self.drop_upload(chunk, out) else { continue };
            if upload.phase != Phase::Failed {
                self.say_failed(upload.session, inode, chunk, &error, out);
            }
        }
    }

    /// Somebody set the mtime after these writes: they do not change it when they become visible.
    pub(super) fn keep_mtime_from_uploads(&mut self, by: SessionId, inode: InodeNo) {
        let Some(queue) = self.sessions.get(&by).and_then(|session| session.pending.get(&inode)) else {
            return;
        };
        for chunk in queue {
            if let Some(upload) = self.uploads.get_mut(chunk) {
                upload.mtime = None;
            }
        }
    }
}
