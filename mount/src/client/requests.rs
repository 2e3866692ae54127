//! What was asked of the master and not answered yet. Pure: no I/O, no clock.
//!
//! What must hold: requests go out in the order of their ids, which is the order of asking; at most
//! [`MAX_IN_FLIGHT`] are out at once; after a break everything that can be asked again is asked again, in the same
//! order; and the count of opens is what the master must have, so that a resumed session can say it.
//!
//! A change that was sent and not answered is sent again under its old id, by which the master knows it: it is
//! not done twice.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::{InodeNo, OperationNo};
use dfs_proto::pb;
use dfs_proto::request_kind::{RequestKind, request_kind};

use super::held_locks::HeldLocks;
use super::operation;
use tokio::sync::oneshot;

pub(super) use pb::mount_reply::Result as Reply;
pub(super) use pb::mount_request::Op;

/// Requests that may be out on the stream, unanswered.
pub(super) const MAX_IN_FLIGHT: usize = 512;

/// Reports of bad copies that may wait to be sent; more are dropped, since they will be seen again.
const MAX_REPORTS: usize = 64;

/// What the master answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub reply: Reply,
    /// Those in which names changed, as they are then, if it told.
    pub directories: Vec<pb::Attr>,
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Answer {
        Answer { reply, directories: Vec::new() }
    }
}

/// Where a request's answer goes.
pub(super) type ReplyTo = oneshot::Sender<Result<Answer, DfsError>>;

/// The id of a request that was queued.
pub(super) type Asked = Result<u64, DfsError>;

struct Pending {
    op: Op,
    /// On whose behalf.
    by: Option<Arc<pb::Caller>>,
    operation: OperationNo,
    /// `None`: nobody waits any more, or ever did.
    reply: Option<ReplyTo>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Requests {
    last_id: u64,
    pending: BTreeMap<u64, Pending>,
    /// The smallest id that is not on the stream.
    unsent_from: u64,
    in_flight: usize,
    reports: usize,
    /// Streams that broke.
    breaks: u64,
    /// Opens that the master counts for this session, as of the last release sent.
    opens: HashMap<InodeNo, u64>,
    /// Locks that programs of this mount hold.
    pub(super) locks: HeldLocks,
    /// Changes that were done after their caller had gone away: the master tells everybody else of them, and what is cached
    /// here is old as well.
    pub(super) unheard: Vec<pb::Invalidate>,
}

/// The order of places is that of asking over one stream.
fn place_of_another_stream() -> DfsError {
    let message = "the session with the master broke before a chunk had its place; ask again, in order";
    DfsError::new(ErrorCode::Session, message)
}

/// Does it take a place among those that are out? A wait for a lock may be long, and so may one for others to forget
/// what was changed: programs that wait bound them.
fn counts(op: &Op) -> bool {
    matches!(request_kind(op), RequestKind::Question | RequestKind::Repeatable)
}

/// Such a wait may be long.
fn waits_for_lock(op: &Op) -> bool {
    matches!(op, Op::SetLock(set) if set.wait)
}

/// What a change makes old in this mount's caches, too.
fn changed_by(op: &Op, reply: &Reply) -> Vec<pb::Invalidate> {
    let name = |parent: u64, name: &bytes::Bytes| pb::Invalidate {
        inode: parent,
        parent,
        name: name.clone(),
        ..Default::default()
    };
    let inode = |inode: u64, content: bool| pb::Invalidate { inode, content, ..Default::default() };
    let mut old = match op {
        Op::Setattr(op) => vec![inode(op.inode, op.size.is_some())],
        Op::Setxattr(op) => vec![inode(op.inode, false)],
        Op::Removexattr(op) => vec![inode(op.inode, false)],
        Op::Fallocate(op) => vec![inode(op.inode, true)],
        Op::CopyRange(op) => vec![inode(op.target, true)],
        Op::Create(op) => vec![name(op.parent, &op.name)],
        Op::Mknod(op) => vec![name(op.parent, &op.name)],
        Op::Mkdir(op) => vec![name(op.parent, &op.name)],
        Op::Symlink(op) => vec![name(op.parent, &op.name)],
        Op::Link(op) => vec![name(op.parent, &op.name), inode(op.inode, false)],
        Op::Unlink(op) => vec![name(op.parent, &op.name)],
        Op::Rmdir(op) => vec![name(op.parent, &op.name)],
        Op::Rename(op) => vec![name(op.parent, &op.name), name(op.new_parent, &op.new_name)],
        _ => return Vec::new(),
    };
    if let Reply::Gone(gone) = reply {
        old.extend(
            [gone.moved, gone.removed, gone.exchanged]
                .into_iter()
                .flatten()
                .map(|attr| inode(attr.inode, false)),
        );
    }
    old
}

impl Requests {
    /// Queues a request that is answered.
    pub(super) fn ask(&mut self, op: Op, by: Option<Arc<pb::Caller>>, reply: ReplyTo) -> u64 {
        self.push(op, by, Some(reply))
    }

    /// The stream that requests go over, or will when there is one again.
    pub(super) fn stream(&self) -> u64 {
        self.breaks
    }

    /// Queues a request for a place, which counts on this stream alone.
    pub(super) fn ask_place(&mut self, alloc: pb::Alloc, stream: u64, reply: ReplyTo) -> Asked {
        if stream != self.breaks {
            return Err(place_of_another_stream());
        }
        Ok(self.push(Op::Alloc(alloc), None, Some(reply)))
    }

    /// Queues a release. As many may be queued as there were opens.
    pub(super) fn release(&mut self, inode: InodeNo) {
        self.push(Op::Release(pb::Release { inode: inode.0 }), None, None);
    }

    /// Queues a report, if there is room.
    pub(super) fn report(&mut self, report: pb::ReportBad) {
        if self.reports < MAX_REPORTS {
            self.reports += 1;
            self.push(Op::ReportBad(report), None, None);
        }
    }

    fn push(&mut self, op: Op, by: Option<Arc<pb::Caller>>, reply: Option<ReplyTo>) -> u64 {
        if let Op::SetLock(pb::SetLock { lock: Some(lock), .. }) = &op {
            self.locks.asked(lock);
        }
        self.last_id += 1;
        self.pending.insert(self.last_id, Pending { op, by, operation: operation::current(), reply });
        self.last_id
    }

    /// The next request for the stream, if one may go out now.
    pub(super) fn next_to_send(&mut self) -> Option<pb::MountRequest> {
        let (&id, pending) = self.pending.range(self.unsent_from..).next()?;
        let op = pending.op.clone();
        let (caller, operation) = (pending.by.as_deref().cloned(), pending.operation.0);
        if request_kind(&op) == RequestKind::Notice {
            self.pending.remove(&id);
        } else if !counts(&op) {
            // It always may go.
        } else if self.in_flight < MAX_IN_FLIGHT {
            self.in_flight += 1;
        } else {
            return None;
        }
        self.unsent_from = id + 1;
        match &op {
            Op::Release(release) => self.count_release(InodeNo(release.inode)),
            Op::ReportBad(_) => self.reports -= 1,
            _ => {}
        }
        // Waits for locks may be long, and are not repeated under their id alone.
        let answered_below =
            self.pending.iter().find(|(_, p)| !waits_for_lock(&p.op)).map_or(id, |(&oldest, _)| oldest);
        Some(pb::MountRequest { id, caller, op: Some(op), answered_below: answered_below.min(id), operation })
    }

    fn count_release(&mut self, inode: InodeNo) {
        if let Some(count) = self.opens.get_mut(&inode) {
            *count -= 1;
            if *count == 0 {
                self.opens.remove(&inode);
            }
        }
    }

    /// Hands an answer to whoever waits for it. Answers that nobody asked for are ignored. Returns true when
    /// there may be something new to send.
    pub(super) fn answer(&mut self, id: u64, result: Result<Answer, DfsError>) -> bool {
        if id >= self.unsent_from {
            return false;
        }
        let Some(pending) = self.pending.remove(&id) else {
            return false;
        };
        if counts(&pending.op) {
            self.in_flight -= 1;
        }
        let locked = match (&pending.op, &result) {
            (Op::SetLock(pb::SetLock { lock: Some(lock), .. }), Ok(_)) => Some(*lock),
            _ => None,
        };
        let opened = match (&pending.op, &result) {
            (Op::Open(_) | Op::Create(_), Ok(Answer { reply: Reply::Attr(attr), .. })) => {
                Some(InodeNo(attr.inode))
            }
            _ => None,
        };
        if let Some(inode) = opened {
            *self.opens.entry(inode).or_default() += 1;
        }
        if let Some(lock) = &locked {
            self.locks.granted(lock);
        }
        let done = result.as_ref().map(|answer| changed_by(&pending.op, &answer.reply)).unwrap_or_default();
        let taken = pending.reply.is_some_and(|reply| reply.send(result).is_ok());
        if !taken {
            self.unheard.extend(done);
        }
        if let Some(lock) = locked.filter(|lock| !taken && lock.mode != pb::LockMode::Unlock as i32) {
            // Whoever wanted it is gone.
            let lock = pb::FileLock { mode: pb::LockMode::Unlock as i32, ..lock };
            self.push(Op::SetLock(pb::SetLock { lock: Some(lock), wait: false }), None, None);
        }
        if let Some(inode) = opened.filter(|_| !taken) {
            self.release(inode);
        }
        true
    }

    /// The caller went away. What is on the stream will still be answered.
    pub(super) fn abandon(&mut self, id: u64) {
        if id >= self.unsent_from {
            self.pending.remove(&id);
        } else if let Some(pending) = self.pending.get_mut(&id) {
            pending.reply = None;
        }
    }

    /// The stream broke: what was out has to go out again, unless nobody waits for it. A request for a place, also one that
    /// was not out, ends with code `Session`: the uploads before it may be lost, so its writer has to ask anew, in order.
    pub(super) fn stream_broke(&mut self) {
        self.breaks += 1;
        let sent = self.unsent_from;
        let over = |(&id, p): (&u64, &Pending)| {
            (matches!(p.op, Op::Alloc(_)) || id < sent && p.reply.is_none()).then_some(id)
        };
        let over: Vec<u64> = self.pending.iter().filter_map(over).collect();
        for id in over {
            if let Some(reply) = self.pending.remove(&id).and_then(|p| p.reply) {
                // The receiver may be gone meanwhile, which is as good.
                let _ = reply.send(Err(place_of_another_stream()));
            }
        }
        self.unsent_from = 0;
        self.in_flight = 0;
    }

    /// Whoever waits gets `error`. What nobody waits for goes out when the master lets us in again: it counts what we have open.
    pub(super) fn fail_waiting(&mut self, error: &DfsError) {
        for (_, pending) in self.pending.extract_if(.., |_, pending| pending.reply.is_some()) {
            if let Some(reply) = pending.reply {
                let _ = reply.send(Err(error.clone()));
            }
        }
    }

    /// The session is over: everybody gets `error`.
    pub(super) fn fail_all(&mut self, error: &DfsError) {
        for pending in std::mem::take(&mut self.pending).into_values() {
            if let Some(reply) = pending.reply {
                let _ = reply.send(Err(error.clone()));
            }
        }
        self.in_flight = 0;
        self.reports = 0;
    }

    /// Inodes held open, once per open, for the hello of a resumed session.
    pub(super) fn open_inodes(&self) -> Vec<u64> {
        self.opens.iter().flat_map(|(inode, count)| (0..*count).map(|_| inode.0)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Receiver = oneshot::Receiver<Result<Answer, DfsError>>;

    fn ask(requests: &mut Requests, op: Op) -> (u64, Receiver) {
        let (reply, answer) = oneshot::channel();
        (requests.ask(op, None, reply), answer)
    }

    fn getattr(inode: u64) -> Op {
        Op::Getattr(pb::Getattr { inode })
    }

    fn attr(inode: u64) -> Answer {
        Reply::Attr(pb::Attr { inode, ..Default::default() }).into()
    }

    fn sent(requests: &mut Requests) -> Vec<u64> {
        std::iter::from_fn(|| requests.next_to_send()).map(|r| r.id).collect()
    }

    #[test]
    fn requests_go_out_in_order_and_not_too_many_at_once() {
        let mut requests = Requests::default();
        let answers: Vec<_> = (0..MAX_IN_FLIGHT as u64 + 3).map(|n| ask(&mut requests, getattr(n))).collect();
        let out = sent(&mut requests);
        assert_eq!(out, answers[..MAX_IN_FLIGHT].iter().map(|(id, _)| *id).collect::<Vec<_>>());
        assert!(requests.answer(out[5], Ok(attr(5))));
        assert_eq!(sent(&mut requests), [answers[MAX_IN_FLIGHT].0]);
    }

    #[test]
    fn who_waits_can_be_told_that_it_is_in_vain_and_releases_are_kept() {
        let mut requests = Requests::default();
        let (opened, _answer) = ask(&mut requests, Op::Open(pb::Open { inode: 5, access: 0 }));
        sent(&mut requests);
        requests.answer(opened, Ok(attr(5)));
        requests.stream_broke();
        let (_, mut answer) = ask(&mut requests, getattr(5));
        requests.release(InodeNo(5));
        requests.fail_waiting(&DfsError::new(ErrorCode::Unauthenticated, "no"));
        assert_eq!(answer.try_recv().unwrap().unwrap_err().code, ErrorCode::Unauthenticated);
        assert_eq!(sent(&mut requests).len(), 1, "the release");
    }

    #[test]
    fn after_a_break_all_is_asked_again_in_order_but_for_places() {
        let mut requests = Requests::default();
        let (first, mut first_answer) = ask(&mut requests, getattr(1));
        let (reply, mut place) = oneshot::channel();
        requests.ask_place(pb::Alloc::default(), 0, reply).unwrap();
        let (gone, gone_answer) = ask(&mut requests, getattr(3));
        sent(&mut requests);
        let (late, _late_answer) = ask(&mut requests, getattr(4));
        drop(gone_answer);
        requests.abandon(gone);
        let (reply, mut unsent_place) = oneshot::channel();
        requests.ask_place(pb::Alloc::default(), 0, reply).unwrap();
        requests.stream_broke();
        for place in [&mut place, &mut unsent_place] {
            assert_eq!(place.try_recv().unwrap().unwrap_err().code, ErrorCode::Session);
        }
        let (reply, _place) = oneshot::channel();
        assert!(
            requests.ask_place(pb::Alloc::default(), 0, reply).is_err(),
            "its order is that of the stream that broke"
        );
        assert_eq!(sent(&mut requests), [first, late]);
        requests.answer(first, Ok(attr(1)));
        assert_eq!(first_answer.try_recv().unwrap().unwrap().reply, attr(1).reply);
    }

    #[test]
    fn a_request_says_on_whose_behalf_it_is_also_when_it_is_sent_again() {
        let mut requests = Requests::default();
        let caller = pb::Caller { uid: 5, check: true, ..Default::default() };
        let (reply, _answer) = oneshot::channel();
        requests.ask(getattr(1), Some(Arc::new(caller.clone())), reply);
        for _ in 0..2 {
            assert_eq!(requests.next_to_send().and_then(|r| r.caller), Some(caller.clone()));
            requests.stream_broke();
        }
    }

    #[test]
    fn no_change_that_is_not_answered_is_said_to_be() {
        let mut requests = Requests::default();
        let mkdir = || Op::Mkdir(pb::Mkdir::default());
        let wait = Op::SetLock(pb::SetLock { lock: None, wait: true });
        let answers = [wait, mkdir(), mkdir()].map(|op| ask(&mut requests, op));
        let below: Vec<u64> =
            std::iter::from_fn(|| requests.next_to_send()).map(|request| request.answered_below).collect();
        let first_change = answers[1].0;
        assert_eq!(below, [answers[0].0, first_change, first_change]);
    }

    #[test]
    fn opens_are_counted_until_their_release_is_sent() {
        let mut requests = Requests::default();
        for _ in 0..2 {
            let (id, _answer) = ask(&mut requests, Op::Open(pb::Open { inode: 7, access: 0 }));
            sent(&mut requests);
            requests.answer(id, Ok(attr(7)));
        }
        requests.release(InodeNo(7));
        assert_eq!(requests.open_inodes(), [7, 7]);
        sent(&mut requests);
        assert_eq!(requests.open_inodes(), [7]);
    }

    #[test]
    fn an_open_that_nobody_waits_for_is_released() {
        let mut requests = Requests::default();
        let (id, answer) = ask(&mut requests, Op::Open(pb::Open { inode: 7, access: 0 }));
        sent(&mut requests);
        drop(answer);
        requests.abandon(id);
        requests.answer(id, Ok(attr(7)));
        let release = requests.next_to_send().and_then(|r| r.op);
        assert_eq!(release, Some(Op::Release(pb::Release { inode: 7 })));
        assert!(requests.open_inodes().is_empty());
    }

    #[test]
    fn a_change_that_is_done_after_its_caller_left_makes_old_what_is_cached_here() {
        let mut requests = Requests::default();
        let rename = Op::Rename(pb::Rename {
            parent: 1,
            name: "a".into(),
            new_parent: 2,
            new_name: "b".into(),
            ..Default::default()
        });
        let gone = |inode| {
            let attr = Some(pb::Attr { inode, ..Default::default() });
            Ok(Reply::Gone(pb::Gone { moved: attr, ..Default::default() }).into())
        };
        let (heard, _answer) = ask(&mut requests, rename.clone());
        let (unheard, answer) = ask(&mut requests, rename.clone());
        let (failed, _) = ask(&mut requests, rename);
        sent(&mut requests);
        drop(answer);
        [unheard, failed].into_iter().for_each(|id| requests.abandon(id));
        requests.answer(heard, gone(5));
        requests.answer(failed, Err(DfsError::new(ErrorCode::NotFound, "no")));
        assert!(requests.unheard.is_empty());
        requests.answer(unheard, gone(5));
        let told: Vec<_> =
            requests.unheard.iter().map(|old| (old.inode, old.parent, &old.name[..])).collect();
        assert_eq!(told, [(1, 1, &b"a"[..]), (2, 2, &b"b"[..]), (5, 0, &b""[..])]);
    }

    #[test]
    fn a_release_that_was_sent_is_not_sent_again() {
        let mut requests = Requests::default();
        requests.release(InodeNo(7));
        assert_eq!(sent(&mut requests).len(), 1);
        requests.stream_broke();
        assert!(sent(&mut requests).is_empty());
    }

    #[test]
    fn answers_to_nothing_are_ignored() {
        let mut requests = Requests::default();
        let (id, mut answer) = ask(&mut requests, getattr(1));
        assert!(!requests.answer(id, Ok(attr(1))), "it was not sent yet");
        assert!(!requests.answer(99, Ok(attr(1))));
        assert!(answer.try_recv().is_err());
        assert_eq!(sent(&mut requests), [id]);
    }

    #[test]
    fn reports_are_bounded() {
        let mut requests = Requests::default();
        for chunk in 0..1000 {
            requests.report(pb::ReportBad { chunk, keeper: 1, error: None });
        }
        assert_eq!(sent(&mut requests).len(), MAX_REPORTS);
    }
}
