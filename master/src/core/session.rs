//! Mounts' sessions: what each holds open, its uploads in order, and inodes without a name.
//!
//! What must hold: `opens` is the sum over all sessions. An inode without a name and without an open is
//! in `orphans`, or gone. In the first minute after a restart mounts that held files open have yet to come
//! back, so nothing without a name goes before that minute is over.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use dfs_proto::PROTOCOL_VERSION;
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::{ChunkId, InodeNo, SessionId};
use dfs_proto::pb::{self, mount_down, mount_reply::Result as Reply};

use super::State;
use super::acks::{ACK_DEADLINE_MS, Ack};
use super::command::Effect;
use super::id_map::IdMap;
use super::interest::{INTEREST_MS, Interest};
use super::out::{Out, Res, fail};
use super::row::RowKey;

/// A session whose stream is gone is dropped after this.
const SESSION_GRACE_MS: i64 = 60_000;

/// And what it had under way is given up after this: it begins all of that anew when it comes back.
const UPLOADS_GRACE_MS: i64 = 10_000;

/// After a restart, inodes without a name are kept this long.
pub(super) const ORPHAN_GRACE_MS: i64 = 60_000;

/// Success messages that are kept to be said again on a resumed stream.
const DONE_KEPT: usize = 512;

/// One mount.
pub(super) struct Session {
    pub connected: bool,
    /// The directory that its user is bound to (`bound.rs`), or the cluster's root.
    pub root: InodeNo,
    /// How its user's ids are mapped.
    pub ids: Arc<IdMap>,
    gone_at_ms: i64,
    /// It was away for so long that others may have had its locks.
    pub locks_lost: bool,
    /// How often it holds each inode open.
    pub opens: BTreeMap<InodeNo, u32>,
    /// Where ids are mapped: for what each of them was opened, when that was checked.
    pub granted: BTreeMap<InodeNo, u32>,
    /// Its uploads, per inode in the order of their Alloc.
    pub pending: BTreeMap<InodeNo, VecDeque<ChunkId>>,
    /// The last ends of uploads: a stream that broke may have lost them.
    done: VecDeque<pb::UploadDone>,
    /// What it may have cached.
    pub interest: Interest,
    /// It has forgotten all that it had cached, or cannot be waited for any longer.
    pub trusts_nothing: bool,
}

impl Session {
    fn new(root: InodeNo, ids: Arc<IdMap>) -> Session {
        Session {
            connected: false,
            root,
            ids,
            gone_at_ms: 0,
            locks_lost: false,
            opens: BTreeMap::new(),
            granted: BTreeMap::new(),
            pending: BTreeMap::new(),
            done: VecDeque::new(),
            interest: Interest::default(),
            trusts_nothing: false,
        }
    }

    /// How long its stream has been gone; 0: it is there.
    pub fn gone_for_ms(&self, now_ms: i64) -> i64 {
        if self.connected { 0 } else { now_ms.saturating_sub(self.gone_at_ms) }
    }

    /// May it still use what it has cached? One whose stream has just gone may not know that yet.
    pub fn may_trust(&self, now_ms: i64) -> bool {
        self.connected || !self.trusts_nothing && self.gone_for_ms(now_ms) < ACK_DEADLINE_MS
    }

    /// Was it told of this inode of late, for certain?
    fn was_told(&self, inode: InodeNo) -> bool {
        self.interest.has_noted(inode) || self.opens.contains_key(&inode)
    }

    /// Uploads under way.
    pub fn pending_count(&self) -> usize {
        self.pending.values().map(VecDeque::len).sum()
    }

    /// Was this chunk's upload a success of late?
    pub fn committed(&self, chunk: ChunkId) -> bool {
        self.done.iter().any(|done| done.chunk == chunk.0 && done.error.is_none())
    }
}

impl State {
    pub(super) fn mount_hello(
        &mut self,
        fresh: SessionId,
        (root, ids): (InodeNo, Arc<IdMap>),
        mut hello: pb::MountHello,
        out: &mut Out,
    ) {
        if hello.protocol_version != PROTOCOL_VERSION {
            let message = format!(
                "this master speaks protocol version {PROTOCOL_VERSION}, mount '{}' version {}: use the same release on both",
                hello.client, hello.protocol_version
            );
            let error = DfsError::new(ErrorCode::Version, message).to_wire();
            return out.answer(Effect::MountAnswer(mount_down::Msg::Refused(error)));
        }
        let id = if hello.session == 0 { fresh } else { SessionId(hello.session) };
        self.roll.is_back(id);
        if self.sessions.get(&id).is_some_and(|session| session.root != root || session.ids != ids) {
            self.session_forgot(id, out);
            self.drop_session(id, out);
        }
        let mut not_its_own = self.take_in_hello(id, root, &mut hello);
        not_its_own.extend(self.not_to_be_locked(&ids, &mut hello));
        let (maps_ids, all_are_one) = (!ids.is_none(), ids.everybody().is_some());
        let resumed = self.sessions.contains_key(&id);
        let session = self.sessions.entry(id).or_insert_with(|| Session::new(root, ids));
        session.connected = true;
        session.interest = Interest::default();
        session.trusts_nothing = false;
        let keeps_locks = resumed && !std::mem::take(&mut session.locks_lost);
        self.syncs.drop_waits_of(id);
        self.drop_lock_waits(id, out);
        let mut lost_locks = self.take_locks(id, &hello.held_locks, keeps_locks, out);
        lost_locks.extend(not_its_own);
        out.answer(Effect::MountAnswer(mount_down::Msg::Welcome(pb::MountWelcome {
            cluster: bytes::Bytes::copy_from_slice(&self.settings.cluster.0),
            session: id.0,
            master_epoch: self.settings.master_epoch,
            chunk_size: self.settings.chunk_size,
            copies: self.settings.copies,
            min_copies: self.settings.min_copies,
            now: Some(out.now),
            resumed,
            lost_locks,
            interest_ms: INTEREST_MS as u32,
            maps_ids,
            all_are_one,
        })));
        // A mount says hello again only when it has forgotten everything.
        self.session_forgot(id, out);
        self.take_opens(id, &hello.open_inodes, out);
        self.repeat_done(id, out);
        self.end_uploads_of_broken_stream(id, out);
    }

    /// What a mount says that it holds open is so: requests of the broken stream may have been lost on
    /// the way, or their replies. Inodes that are gone it will find out about.
    fn take_opens(&mut self, id: SessionId, open: &[u64], out: &mut Out) {
        for inode in open.iter().map(|raw| InodeNo(*raw)) {
            if self.inodes.contains_key(&inode) {
                self.count_open(inode);
            }
        }
        let mut opens: BTreeMap<InodeNo, u32> = BTreeMap::new();
        for inode in open.iter().map(|raw| InodeNo(*raw)).filter(|inode| self.inodes.contains_key(inode)) {
            *opens.entry(inode).or_default() += 1;
        }
        let old = match self.sessions.get_mut(&id) {
            Some(session) => {
                session.granted.retain(|inode, _| opens.contains_key(inode));
                std::mem::replace(&mut session.opens, opens)
            }
            None => return,
        };
        self.release_all(old, out);
    }

    /// Answers to Allocs may have been lost with the stream, and nobody would ever store those chunks, or take
    /// them back, while later ones wait behind them. So the mount begins anew, in order, with all that is not in
    /// its file yet.
    fn end_uploads_of_broken_stream(&mut self, id: SessionId, out: &mut Out) {
        let pending = self.sessions.get(&id).map(|session| session.pending.clone()).unwrap_or_default();
        self.drop_uploads_of_session(id, out);
        let error =
            DfsError::new(ErrorCode::Session, "the stream broke while this was on its way; begin anew");
        for (inode, chunk) in
            pending.into_iter().flat_map(|(inode, queue)| queue.into_iter().map(move |c| (inode, c)))
        {
            self.say_failed(id, inode, chunk, &error, out);
        }
    }

    fn repeat_done(&mut self, id: SessionId, out: &mut Out) {
        let Some(session) = self.sessions.get(&id) else { return };
        for done in &session.done {
            let inode = InodeNo(done.inode);
            let mut done = done.clone();
            if done.attr.is_some() {
                done.attr = self.attr(inode).ok();
            }
            out.show(inode);
            out.for_mount(id, mount_down::Msg::UploadDone(done));
        }
    }

    /// Upload step 6, or the failure of an upload.
    pub(super) fn upload_done(&mut self, id: SessionId, done: pb::UploadDone, out: &mut Out) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if session.done.len() >= DONE_KEPT {
            session.done.pop_front();
        }
        session.done.push_back(done.clone());
        out.show(InodeNo(done.inode));
        if session.connected {
            out.for_mount(id, mount_down::Msg::UploadDone(done));
        }
    }

    /// `clean`: the mount closed the stream itself, which it does when it has forgotten all that it had cached.
    pub(super) fn mount_gone(&mut self, id: SessionId, clean: bool, out: &mut Out) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.connected = false;
            session.gone_at_ms = out.now_ms;
            session.trusts_nothing |= clean;
            if clean {
                self.session_forgot(id, out);
            }
            self.syncs.drop_waits_of(id);
            self.drop_lock_waits(id, out);
        }
    }

    /// Takes back from keepers what mounts that are away had under way. It keeps its place in the order: a mount that
    /// comes back is told that it failed.
    fn give_up_uploads_of_those_away(&mut self, out: &mut Out) {
        let away =
            self.sessions.values().filter(|session| session.gone_for_ms(out.now_ms) > UPLOADS_GRACE_MS);
        let chunks: Vec<ChunkId> =
            away.flat_map(|session| session.pending.values().flatten().copied()).collect();
        for chunk in chunks {
            self.give_up_upload(chunk, out);
        }
    }

    /// Drops sessions that did not come back.
    pub(super) fn expire_sessions(&mut self, out: &mut Out) {
        self.give_up_uploads_of_those_away(out);
        let over = |session: &Session| {
            !session.connected && out.now_ms.saturating_sub(session.gone_at_ms) > SESSION_GRACE_MS
        };
        let gone: Vec<SessionId> =
            self.sessions.iter().filter(|(_, session)| over(session)).map(|(id, _)| *id).collect();
        for id in gone {
            self.drop_session(id, out);
        }
    }

    fn drop_session(&mut self, id: SessionId, out: &mut Out) {
        self.forget_replies(id, |_| true, out);
        self.drop_uploads_of_session(id, out);
        self.drop_locks_of_session(id, out);
        if let Some(session) = self.sessions.remove(&id) {
            self.release_all(session.opens, out);
        }
    }

    /// Tells every other mount that may have cached it, and notes whose answers are to be waited for.
    pub(super) fn invalidate(&mut self, by: SessionId, change: pb::Invalidate, out: &mut Out) {
        let (inode, parent) = (InodeNo(change.inode), InodeNo(change.parent));
        for (&id, session) in &self.sessions {
            let interested = session.interest.has(inode)
                || change.parent != 0 && session.interest.has(parent)
                || session.opens.contains_key(&inode);
            if id == by || !session.may_trust(out.now_ms) || !interested {
                continue;
            }
            let told = if session.root == InodeNo::ROOT {
                Some(change.clone())
            } else {
                let changed = if change.parent == 0 { inode } else { parent };
                self.noticed(session.root, session.was_told(changed), &change)
            };
            let Some(told) = told else { continue };
            let seq = self.acks.next_seq();
            out.acks.push(Ack { session: id, seq });
            if session.connected {
                out.for_mount(id, mount_down::Msg::Invalidate(pb::Invalidate { seq, ..told }));
            }
        }
    }

    /// Lets go what mounts have not asked about for long.
    pub(super) fn rotate_interests(&mut self, out: &Out) {
        for session in self.sessions.values_mut() {
            session.interest.rotate(out.now_ms);
        }
    }

    fn count_open(&mut self, inode: InodeNo) {
        *self.opens.entry(inode).or_default() += 1;
        self.orphans.remove(&inode);
    }

    /// One open more.
    pub(super) fn hold_open(&mut self, id: SessionId, inode: InodeNo) {
        if let Some(session) = self.sessions.get_mut(&id) {
            *session.opens.entry(inode).or_default() += 1;
            self.count_open(inode);
        }
    }

    pub(super) fn open(&mut self, by: SessionId, op: pb::Open, out: &mut Out) -> Res<Reply> {
        let inode = InodeNo(op.inode);
        out.show(inode);
        let attr = self.attr(inode)?;
        self.hold_open(by, inode);
        Ok(Reply::Attr(attr))
    }

    pub(super) fn release(&mut self, by: SessionId, op: pb::Release, out: &mut Out) -> Res<Reply> {
        let inode = InodeNo(op.inode);
        let held = self.sessions.get_mut(&by).and_then(|session| session.opens.get_mut(&inode));
        let Some(count) = held else {
            return fail(ErrorCode::Invalid, format!("inode {inode} is not open in this session"));
        };
        *count -= 1;
        if *count == 0
            && let Some(session) = self.sessions.get_mut(&by)
        {
            session.opens.remove(&inode);
            session.granted.remove(&inode);
        }
        self.release_all(BTreeMap::from([(inode, 1)]), out);
        Ok(Reply::Empty(pb::Empty {}))
    }

    fn release_all(&mut self, opens: BTreeMap<InodeNo, u32>, out: &mut Out) {
        for (inode, count) in opens {
            let Some(held) = self.opens.get_mut(&inode) else { continue };
            *held = held.saturating_sub(count);
            if *held == 0 {
                self.opens.remove(&inode);
                self.reap_if_unused(inode, out);
            }
        }
    }

    /// An inode that has no name and that nobody holds goes, with all that it has.
    pub(super) fn reap_if_unused(&mut self, inode: InodeNo, out: &mut Out) {
        let nameless = self.inodes.get(&inode).is_some_and(|node| node.nlink == 0);
        if !nameless || self.opens.contains_key(&inode) || self.trash.has(inode) {
            return;
        }
        if out.now_ms < self.grace_until_ms {
            self.orphans.insert(inode);
            return;
        }
        self.orphans.remove(&inode);
        self.drop_uploads_of_inode(inode, out);
        self.cut(inode, 0, u64::MAX, out);
        self.drop_locks_of_inode(inode, out);
        self.drop_xattrs(inode, out);
        self.remove_inode(inode);
        out.touch(RowKey::Inode(inode));
    }

    pub(super) fn reap_after_grace(&mut self, out: &mut Out) {
        if out.now_ms >= self.grace_until_ms {
            for inode in std::mem::take(&mut self.orphans) {
                self.reap_if_unused(inode, out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testkit::{Kit, SESSION};
    use super::*;

    use dfs_proto::ids::KeeperId;

    const OTHER: SessionId = SessionId(78);

    #[test]
    fn who_waits_for_a_lock_of_a_file_that_goes_is_told_so() {
        let mut kit = Kit::new();
        let file = kit.create(InodeNo::ROOT, "f");
        kit.hello(OTHER, &[]);
        let lock = pb::FileLock {
            inode: file.0,
            owner: 1,
            kind: pb::LockKind::Fcntl as i32,
            start: 0,
            end: u64::MAX,
            mode: pb::LockMode::Exclusive as i32,
            ..pb::FileLock::default()
        };
        for by in [SESSION, OTHER] {
            let op = pb::SetLock { lock: Some(lock), wait: true };
            kit.request_as(by, pb::mount_request::Op::SetLock(op));
        }
        kit.unlink(InodeNo::ROOT, "f");
        kit.sent.clear();
        kit.release(file);
        let told = kit.sent.iter().any(|effect| match effect {
            Effect::ToMount(OTHER, pb::mount_down::Msg::Reply(reply)) => match &reply.result {
                Some(Reply::Error(error)) => error.code == pb::Code::Stale as i32,
                _ => false,
            },
            _ => false,
        });
        assert!(told, "{:?}", kit.sent);
    }

    #[test]
    fn an_unlinked_file_lives_until_its_last_release() {
        let mut kit = Kit::with_keepers(2);
        let file = kit.create(InodeNo::ROOT, "f");
        kit.hello(OTHER, &[]);
        kit.ok_as(OTHER, pb::mount_request::Op::Open(pb::Open { inode: file.0, access: 0 }));
        let chunk = kit.upload(file, 0, 10);
        kit.unlink(InodeNo::ROOT, "f");
        assert_eq!(kit.attr(file).nlink, 0);
        kit.release(file);
        assert_eq!(kit.attr(file).size, 10);
        kit.ok_as(OTHER, pb::mount_request::Op::Release(pb::Release { inode: file.0 }));
        assert_eq!(kit.getattr_code(file), Some(ErrorCode::Stale));
        assert!(kit.state.chunks.get(chunk).is_none());
    }

    #[test]
    fn a_session_that_stays_away_loses_its_opens() {
        let mut kit = Kit::with_keepers(1);
        let file = kit.create(InodeNo::ROOT, "f");
        kit.unlink(InodeNo::ROOT, "f");
        kit.gone(SESSION);
        kit.pass_ms(59_000);
        assert!(kit.state.inodes.contains_key(&file));
        kit.pass_ms(2_000);
        assert!(!kit.state.inodes.contains_key(&file));
    }

    #[test]
    fn what_a_mount_had_under_way_is_taken_back_soon_and_begun_anew_when_it_returns() {
        let mut kit = Kit::with_keepers(2);
        let file = kit.create(InodeNo::ROOT, "f");
        let ticketed = ChunkId(kit.alloc(file, 0, 10).chunk);
        let stored = kit.alloc(file, 10, 10);
        kit.store(&stored);
        kit.gone(SESSION);
        kit.pass_ms(9_000);
        assert!(!kit.was_deleted(KeeperId(1), ticketed));
        kit.pass_ms(3_000);
        for (keeper, chunk) in [(1, ticketed.0), (2, ticketed.0), (1, stored.chunk), (2, stored.chunk)] {
            assert!(kit.was_deleted(KeeperId(keeper), ChunkId(chunk)), "{keeper} {chunk}");
        }
        // What comes in late is not kept either.
        kit.sent.clear();
        let arrived = pb::Arrived { chunks: vec![ticketed.0] };
        kit.keeper_says(KeeperId(2), pb::keeper_up::Msg::Arrived(arrived));
        assert!(kit.was_deleted(KeeperId(2), ticketed));
        kit.pass_ms(20_000);
        kit.sent.clear();
        kit.hello(SESSION, &[file]);
        let failed: Vec<u64> = kit.done().iter().map(|done| done.chunk).collect();
        assert_eq!(failed, [ticketed.0, stored.chunk]);
        let again = kit.upload(file, 0, 20);
        assert_eq!(kit.state.chunks.len(), 1, "{again}");
    }

    #[test]
    fn a_mount_that_resumes_in_time_keeps_its_files() {
        let mut kit = Kit::with_keepers(1);
        let file = kit.create(InodeNo::ROOT, "f");
        kit.unlink(InodeNo::ROOT, "f");
        kit.gone(SESSION);
        kit.pass_ms(50_000);
        kit.hello(SESSION, &[file]);
        kit.pass_ms(70_000);
        assert_eq!(kit.attr(file).nlink, 0);
    }

    #[test]
    fn after_a_restart_nameless_files_wait_for_their_mounts() {
        let mut kit = Kit::with_keepers(1);
        let kept = kit.create(InodeNo::ROOT, "kept");
        let lost = kit.create(InodeNo::ROOT, "lost");
        let named = kit.create(InodeNo::ROOT, "named");
        kit.unlink(InodeNo::ROOT, "kept");
        kit.unlink(InodeNo::ROOT, "lost");
        kit.restart();
        kit.hello(OTHER, &[]);
        // Its holder may still come back, though nobody known to the new master holds it.
        kit.ok_as(OTHER, kit.unlink_op(InodeNo::ROOT, "named"));
        kit.pass_ms(30_000);
        kit.hello(SESSION, &[kept]);
        kit.pass_ms(29_000);
        assert!(kit.state.inodes.contains_key(&lost) && kit.state.inodes.contains_key(&named));
        kit.pass_ms(2_000);
        assert!(!kit.state.inodes.contains_key(&lost) && !kit.state.inodes.contains_key(&named));
        assert!(kit.state.inodes.contains_key(&kept));
    }
}
