//! File locks of mounts: their requests, and what becomes of locks when a session or the master goes.
//!
//! Not stored. A session whose stream has been gone for [`LOCK_GRACE_MS`] loses its locks; if it resumes after
//! that, it is told so, since somebody else may have had them. After a restart of the master mounts declare
//! their locks again in their hello; until that grace is over nobody gets a new one or is told that a range is free, and
//! requests wait for its end.

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::{InodeNo, SessionId};
use dfs_proto::lock_ranges::{LockMode, LockRange};
use dfs_proto::pb::{self, mount_reply::Result as Reply};

use super::State;
use super::command::Effect;
use super::lock_table::{Asked, Granted, LockFile, LockKind, LockTable, Owner};
use super::out::{Out, Res, fail};
use super::request::reply;

/// A session whose stream is gone loses its locks after this; and so long after a restart locks are declared again.
pub(super) const LOCK_GRACE_MS: i64 = 10_000;
/// Most ranges that one session may hold.
const MAX_RANGES: usize = 65_536;
/// Most requests of all sessions that wait.
const MAX_WAITS: usize = 4096;

struct Deferred {
    session: SessionId,
    request: u64,
    op: LockOp,
}

#[derive(Clone, Copy)]
enum LockOp {
    Set(pb::SetLock),
    Test(pb::GetLock),
}

/// All of it.
pub(super) struct Locks {
    pub table: LockTable,
    /// Asked for while locks are still being declared again.
    deferred: Vec<Deferred>,
    declare_until_ms: i64,
}

impl Default for Locks {
    fn default() -> Self {
        Locks { table: LockTable::default(), deferred: Vec::new(), declare_until_ms: i64::MIN }
    }
}

impl Locks {
    /// The master was restarted.
    pub fn begin_grace(&mut self, now_ms: i64) {
        self.declare_until_ms = now_ms.saturating_add(LOCK_GRACE_MS);
    }
}

struct Wanted {
    file: LockFile,
    owner: Owner,
    start: u64,
    end: u64,
    mode: Option<LockMode>,
    pid: u32,
}

fn wanted(by: SessionId, lock: Option<&pb::FileLock>) -> Res<Wanted> {
    let Some(lock) = lock else { return fail(ErrorCode::Invalid, "a lock request without a lock") };
    let mode = match pb::LockMode::try_from(lock.mode) {
        Ok(pb::LockMode::Unlock) => None,
        Ok(pb::LockMode::Shared) => Some(LockMode::Shared),
        Ok(pb::LockMode::Exclusive) => Some(LockMode::Exclusive),
        Err(_) => return fail(ErrorCode::Invalid, format!("inode {}: no such mode of lock", lock.inode)),
    };
    let kind = match pb::LockKind::try_from(lock.kind) {
        Ok(pb::LockKind::Fcntl) => LockKind::Fcntl,
        Ok(pb::LockKind::Flock) => LockKind::Flock,
        Ok(pb::LockKind::Append) => LockKind::Append,
        Err(_) => return fail(ErrorCode::Invalid, format!("inode {}: no such kind of lock", lock.inode)),
    };
    if lock.start > lock.end {
        return fail(ErrorCode::Invalid, format!("inode {}: a lock that ends before it begins", lock.inode));
    }
    Ok(Wanted {
        file: LockFile { inode: InodeNo(lock.inode), kind },
        owner: Owner { session: by, number: lock.owner },
        start: lock.start,
        end: lock.end,
        mode,
        pid: lock.pid,
    })
}

fn nothing() -> Reply {
    Reply::Lock(pb::LockInfo::default())
}

impl State {
    /// `None`: the reply follows.
    pub(super) fn get_lock(
        &mut self,
        by: SessionId,
        request: u64,
        op: &pb::GetLock,
        out: &mut Out,
    ) -> Res<Option<Reply>> {
        let want = wanted(by, op.lock.as_ref())?;
        out.show(want.file.inode);
        self.inode(want.file.inode)?;
        let Some(mode) = want.mode else {
            return fail(ErrorCode::Invalid, format!("inode {}: a test for no lock", want.file.inode));
        };
        let range = LockRange { start: want.start, end: want.end, mode };
        let conflict = self.locks.table.conflict(want.file, want.owner, &range).map(|(owner, held, pid)| {
            let mode = match held.mode {
                LockMode::Shared => pb::LockMode::Shared,
                LockMode::Exclusive => pb::LockMode::Exclusive,
            };
            pb::FileLock {
                inode: want.file.inode.0,
                owner: owner.number,
                kind: op.lock.as_ref().map_or(0, |lock| lock.kind),
                start: held.start,
                end: held.end,
                mode: mode as i32,
                // A process of another machine has a number that means nothing here.
                pid: if owner.session == by { pid } else { 0 },
            }
        });
        if conflict.is_none() && out.now_ms < self.locks.declare_until_ms {
            // Whoever has it may not have said so yet.
            self.defer(by, request, LockOp::Test(*op))?;
            return Ok(None);
        }
        Ok(Some(Reply::Lock(pb::LockInfo { conflict, attr: None })))
    }

    fn defer(&mut self, session: SessionId, request: u64, op: LockOp) -> Res<()> {
        if self.locks.table.waiting() + self.locks.deferred.len() >= MAX_WAITS {
            return fail(ErrorCode::Busy, "too many requests for locks wait; try again");
        }
        self.locks.deferred.push(Deferred { session, request, op });
        Ok(())
    }

    /// `None`: the reply follows.
    pub(super) fn set_lock(
        &mut self,
        by: SessionId,
        request: u64,
        op: &pb::SetLock,
        out: &mut Out,
    ) -> Res<Option<Reply>> {
        let want = wanted(by, op.lock.as_ref())?;
        let inode = want.file.inode;
        out.show(inode);
        let Some(mode) = want.mode else {
            let granted = self.locks.table.set(want.file, want.owner, (want.start, want.end, None), want.pid);
            self.say_granted(granted, out);
            return Ok(Some(nothing()));
        };
        self.inode(inode)?;
        let waiting = self.locks.table.waiting() + self.locks.deferred.len();
        if self.locks.table.held_by(by) + 2 > MAX_RANGES || waiting >= MAX_WAITS {
            return fail(ErrorCode::Busy, format!("lock on inode {inode}: too many locks; unlock some"));
        }
        if out.now_ms < self.locks.declare_until_ms {
            self.defer(by, request, LockOp::Set(*op))?;
            return Ok(None);
        }
        let range = LockRange { start: want.start, end: want.end, mode };
        if want.file.kind == LockKind::Flock
            && self.locks.table.conflict(want.file, want.owner, &range).is_some()
        {
            let granted = self.locks.table.give_up_for(want.file, want.owner, mode);
            self.say_granted(granted, out);
        }
        let (asked, granted) = if op.wait {
            self.locks.table.ask(want.file, want.owner, range, request, want.pid)
        } else if self.locks.table.conflict(want.file, want.owner, &range).is_some() {
            return fail(ErrorCode::WouldBlock, format!("lock on inode {inode}: somebody else has it"));
        } else {
            let what = (want.start, want.end, Some(mode));
            (Asked::Granted, self.locks.table.set(want.file, want.owner, what, want.pid))
        };
        self.say_granted(granted, out);
        match asked {
            Asked::Granted => {
                self.note_lease(want.file, by, out);
                Ok(Some(self.granted(inode)))
            }
            Asked::Waits => {
                self.recall(want.file, out);
                Ok(None)
            }
            Asked::Deadlock => {
                fail(ErrorCode::Deadlock, format!("lock on inode {inode}: its holder waits for the asker"))
            }
        }
    }

    fn granted(&self, inode: InodeNo) -> Reply {
        Reply::Lock(pb::LockInfo { conflict: None, attr: self.attr(inode).ok() })
    }

    fn say_granted(&mut self, granted: Vec<Granted>, out: &mut Out) {
        for grant in granted {
            self.note_lease(grant.file, grant.owner.session, out);
            out.show(grant.file.inode);
            push(reply(grant.owner.session, grant.request, Ok(self.granted(grant.file.inode))), out);
            // Others wait behind it.
            self.recall(grant.file, out);
        }
    }

    pub(super) fn cancel_lock(&mut self, by: SessionId, op: pb::CancelLock, out: &mut Out) -> Res<Reply> {
        let of = |session: SessionId, request: u64| (session, request) == (by, op.request);
        let before = self.locks.deferred.len();
        self.locks.deferred.retain(|wait| !of(wait.session, wait.request));
        let deferred = self.locks.deferred.len() < before;
        let (cancelled, granted) = self.locks.table.cancel(|_, owner, request| of(owner.session, request));
        if deferred || !cancelled.is_empty() {
            let error = fail(ErrorCode::Interrupted, "the wait for the lock was given up");
            push(reply(by, op.request, error), out);
        }
        self.say_granted(granted, out);
        Ok(Reply::Empty(pb::Empty {}))
    }

    /// Nobody is left to be answered on that stream.
    pub(super) fn drop_lock_waits(&mut self, session: SessionId, out: &mut Out) {
        self.locks.deferred.retain(|wait| wait.session != session);
        let (_, granted) = self.locks.table.cancel(|_, owner, _| owner.session == session);
        self.say_granted(granted, out);
    }

    /// All locks of a session. Were there any?
    pub(super) fn drop_locks_of_session(&mut self, session: SessionId, out: &mut Out) -> bool {
        let (any, granted) = self.locks.table.drop_held(|_, owner| owner.session == session);
        self.say_granted(granted, out);
        any
    }

    /// The inode goes, with all locks. Who waits for one is told so.
    pub(super) fn drop_locks_of_inode(&mut self, inode: InodeNo, out: &mut Out) {
        if !self.locks.table.named().0.contains(&inode) {
            return;
        }
        let (waited, _) = self.locks.table.cancel(|file, _, _| file.inode == inode);
        for (owner, request) in waited {
            let error = fail(ErrorCode::Stale, format!("inode {inode} is gone: nobody held it any more"));
            push(reply(owner.session, request, error), out);
        }
        self.locks.table.drop_held(|file, _| file.inode == inode);
    }

    /// What a mount says that it holds is so, if nobody else can have had it. Returns what is lost.
    /// `trusted`: the session has not lost its locks.
    pub(super) fn take_locks(
        &mut self,
        id: SessionId,
        held: &[pb::FileLock],
        trusted: bool,
        out: &mut Out,
    ) -> Vec<pb::FileLock> {
        let trusted = trusted || out.now_ms < self.locks.declare_until_ms;
        let mut kept = Vec::new();
        let mut lost = Vec::new();
        for lock in held {
            match wanted(id, Some(lock)) {
                Ok(Wanted { mode: Some(mode), file, owner, start, end, pid })
                    if trusted
                        && kept.len() < MAX_RANGES
                        && self.inodes.contains_key(&file.inode)
                        && self.may_still_have(file, id) =>
                {
                    let range = LockRange { start, end, mode };
                    match self.locks.table.conflict(file, owner, &range) {
                        // One of its own, which the hello replaces.
                        Some((other, ..)) if other.session != id => lost.push(*lock),
                        _ => kept.push((file, owner, range, pid)),
                    }
                }
                Ok(_) | Err(_) => lost.push(*lock),
            }
        }
        // First the new, then what is not among it: nobody may get in between.
        let (_, granted) = self.replace_locks(id, kept);
        self.say_granted(granted, out);
        self.recall_all_of(id, out);
        lost
    }

    fn replace_locks(
        &mut self,
        id: SessionId,
        kept: Vec<(LockFile, Owner, LockRange, u32)>,
    ) -> (usize, Vec<Granted>) {
        let mut gone = self.locks.table.take_all_of(id);
        let count = kept.len();
        for (file, owner, range, pid) in kept {
            // Two owners of one mount cannot both hold it; the first is as good as the second.
            if self.locks.table.conflict(file, owner, &range).is_none() {
                self.locks.table.put_silently(file, owner, range, pid);
                gone.insert(file);
            }
        }
        (count, self.locks.table.advance(gone))
    }

    /// Takes the locks of sessions that stay away, and goes on after a restart.
    pub(super) fn expire_locks(&mut self, out: &mut Out) {
        let gone: Vec<SessionId> = self
            .sessions
            .iter()
            .filter(|(_, session)| session.gone_for_ms(out.now_ms) > LOCK_GRACE_MS && !session.locks_lost)
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            self.drop_appends_of_session(id, out);
            self.drop_locks_of_session(id, out);
            if let Some(session) = self.sessions.get_mut(&id) {
                session.locks_lost = true;
            }
        }
        if out.now_ms < self.locks.declare_until_ms {
            return;
        }
        for Deferred { session, request, op } in std::mem::take(&mut self.locks.deferred) {
            let result = match op {
                LockOp::Set(op) => self.set_lock(session, request, &op, out),
                LockOp::Test(op) => self.get_lock(session, request, &op, out),
            };
            match result {
                Ok(None) => {}
                Ok(Some(result)) => push(reply(session, request, Ok(result)), out),
                Err(error) => push(reply(session, request, Err::<Reply, DfsError>(error)), out),
            }
        }
    }

    /// See `invariants`.
    pub(super) fn check_locks(&self) -> Result<(), String> {
        self.locks.table.check()?;
        let (inodes, sessions) = self.locks.table.named();
        if let Some(inode) = inodes.iter().find(|inode| !self.inodes.contains_key(inode)) {
            return Err(format!("inode {inode} is gone and locked"));
        }
        match sessions.iter().find(|id| self.sessions.get(id).is_none_or(|session| session.locks_lost)) {
            Some(id) => Err(format!("session {id} has locks and is gone, or has lost them")),
            None => Ok(()),
        }
    }
}

fn push(effect: Effect, out: &mut Out) {
    if let Effect::ToMount(session, msg) = effect {
        out.for_mount(session, msg);
    }
}
