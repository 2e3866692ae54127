//! Replies that wait until other mounts have forgotten what was changed.
//!
//! A change tells every mount that may have cached what it changed (`Invalidate`), and the reply to whoever made the
//! change leaves when each of them has said that it forgot (`InvalidateDone`), has lost its session, or did not
//! answer within [`ACK_DEADLINE_MS`]: then its stream is closed, and it trusts nothing until it is whole again.
//! Where no other mount has cached anything, nothing waits.
//!
//! Only replies to changes wait. Answers to reads and the success messages of uploads never do: the kernels of mounts
//! hold locks on pages until they come, and without those locks nobody can forget.
//!
//! A reply that was held back shows attributes as they are when it leaves: its mount may have said hello anew since, and
//! would not be told of changes of before that.
//!
//! What must hold: each answer that is awaited belongs to one wait, and each wait has as many as it counts.

use std::collections::{BTreeMap, BTreeSet};

use dfs_proto::ids::{InodeNo, SessionId};
use dfs_proto::pb::{self, mount_reply::Result as Reply};

use super::State;
use super::out::{Out, Res};
use super::request::{reply, reply_with};

/// A mount that hears nothing of the master for 3 s trusts nothing from then on; this is a little more, so
/// that one that cannot be reached has forgotten before anybody goes on without its answer.
pub(super) const ACK_DEADLINE_MS: i64 = 4_000;

/// What a mount has to answer to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Ack {
    pub session: SessionId,
    pub seq: u64,
}

/// A reply that is held back.
struct Held {
    request: u64,
    reply: Reply,
    /// What it shows.
    shows: Vec<InodeNo>,
}

struct Wait {
    /// Who made the change.
    by: SessionId,
    held: Option<Held>,
    /// Answers that are missing.
    missing: usize,
    deadline_ms: i64,
}

struct BarrierWait {
    by: SessionId,
    request: u64,
    /// Waits of the session with lower numbers have to be over.
    before: u64,
}

/// All of it.
#[derive(Default)]
pub(super) struct Acks {
    last_seq: u64,
    next_wait: u64,
    /// By number, which is the order of beginning, and so of deadlines.
    waits: BTreeMap<u64, Wait>,
    /// Whose wait each awaited answer is.
    awaited: BTreeMap<Ack, u64>,
    /// The waits of each session that made changes.
    of_session: BTreeMap<SessionId, BTreeSet<u64>>,
    barriers: Vec<BarrierWait>,
}

impl Acks {
    /// Replies that are held back.
    pub fn waiting(&self) -> usize {
        self.waits.len()
    }

    /// For one more invalidation.
    pub fn next_seq(&mut self) -> u64 {
        self.last_seq += 1;
        self.last_seq
    }

    /// A change of `by` waits for these answers. False if there are none to wait for.
    pub fn begin(
        &mut self,
        by: SessionId,
        held: Option<(u64, Reply, Vec<InodeNo>)>,
        acks: Vec<Ack>,
        now_ms: i64,
    ) -> bool {
        if acks.is_empty() {
            return false;
        }
        let number = self.next_wait;
        self.next_wait += 1;
        let held = held.map(|(request, reply, shows)| Held { request, reply, shows });
        let deadline_ms = now_ms.saturating_add(ACK_DEADLINE_MS);
        self.waits.insert(number, Wait { by, held, missing: acks.len(), deadline_ms });
        self.of_session.entry(by).or_default().insert(number);
        self.awaited.extend(acks.into_iter().map(|ack| (ack, number)));
        true
    }

    /// Is the reply to this request held back?
    pub fn is_held(&self, by: SessionId, request: u64) -> bool {
        self.held(by, request).is_some()
            || self.barriers.iter().any(|barrier| barrier.by == by && barrier.request == request)
    }

    /// A session asks to be told when its changes until now are forgotten. False: they are.
    pub fn barrier(&mut self, by: SessionId, request: u64) -> bool {
        let waits = self.of_session.contains_key(&by);
        if waits {
            self.barriers.push(BarrierWait { by, request, before: self.next_wait });
        }
        waits
    }

    /// The reply to this request, if it is held back.
    pub fn held(&self, by: SessionId, request: u64) -> Option<&Reply> {
        let numbers = self.of_session.get(&by).into_iter().flatten();
        let mut held = numbers.filter_map(|number| self.waits.get(number)?.held.as_ref());
        held.find(|held| held.request == request).map(|held| &held.reply)
    }

    /// This answer need not be waited for any more. Returns the wait that it ended.
    fn take(&mut self, ack: Ack) -> Option<(u64, Wait)> {
        let number = self.awaited.remove(&ack)?;
        let wait = self.waits.get_mut(&number)?;
        wait.missing -= 1;
        if wait.missing > 0 {
            return None;
        }
        self.waits.remove(&number).map(|wait| (number, wait))
    }

    /// A wait is over: barriers that waited for nothing else are, too.
    fn end_barriers(&mut self, by: SessionId, number: u64, out: &mut Out) {
        let open = self.of_session.entry(by).or_default();
        open.remove(&number);
        let first = open.first().copied().unwrap_or(u64::MAX);
        if open.is_empty() {
            self.of_session.remove(&by);
        }
        self.barriers.retain(|barrier| {
            let over = barrier.by == by && barrier.before <= first;
            if over {
                out.send(reply(by, barrier.request, Ok(Reply::Empty(pb::Empty {}))));
            }
            !over
        });
    }

    fn awaited_of(&self, session: SessionId) -> Vec<Ack> {
        let all = Ack { session, seq: 0 }..=Ack { session, seq: u64::MAX };
        self.awaited.range(all).map(|(ack, _)| *ack).collect()
    }

    /// Sessions that did not answer in time.
    fn late(&self, now_ms: i64) -> BTreeSet<SessionId> {
        let over: BTreeSet<u64> =
            self.waits.iter().take_while(|(_, wait)| now_ms >= wait.deadline_ms).map(|(n, _)| *n).collect();
        if over.is_empty() {
            return BTreeSet::new();
        }
        self.awaited.iter().filter(|(_, number)| over.contains(number)).map(|(ack, _)| ack.session).collect()
    }

    /// See `invariants`.
    ///
    /// # Errors
    /// The rule that does not hold.
    pub fn check(&self) -> Result<(), String> {
        for (number, wait) in &self.waits {
            let missing = self.awaited.values().filter(|of| *of == number).count();
            if missing != wait.missing || missing == 0 {
                return Err(format!("wait {number} counts {} answers, and has {missing}", wait.missing));
            }
            if !self.of_session.get(&wait.by).is_some_and(|open| open.contains(number)) {
                return Err(format!("wait {number} is not among those of session {}", wait.by));
            }
        }
        let open: usize = self.of_session.values().map(BTreeSet::len).sum();
        match self.awaited.values().find(|number| !self.waits.contains_key(number)) {
            Some(number) => Err(format!("an answer is awaited for wait {number}, which is over")),
            None if open != self.waits.len() => Err("a session has a wait that is over".to_owned()),
            None if self.barriers.iter().any(|b| !self.of_session.contains_key(&b.by)) => {
                Err("a barrier waits for nothing".to_owned())
            }
            None => Ok(()),
        }
    }
}

impl State {
    /// Answers a request: when other mounts have forgotten what it changed. `directories` are told if that is at once: later
    /// they may be others.
    pub(super) fn answer_when_forgotten(
        &mut self,
        by: SessionId,
        request: u64,
        result: Res<Reply>,
        directories: Vec<pb::Attr>,
        out: &mut Out,
    ) {
        let acks = std::mem::take(&mut out.acks);
        match result {
            Ok(result) if !acks.is_empty() => {
                let shows = out.shown();
                self.acks.begin(by, Some((request, result, shows)), acks, out.now_ms);
            }
            result => {
                self.acks.begin(by, None, acks, out.now_ms);
                out.answer(reply_with(by, request, result, directories));
            }
        }
    }

    pub(super) fn mount_acks(&mut self, session: SessionId, seqs: &[u64], out: &mut Out) {
        self.take_acks(seqs.iter().map(|seq| Ack { session, seq: *seq }).collect(), out);
    }

    /// These answers need not be waited for any more.
    fn take_acks(&mut self, acks: Vec<Ack>, out: &mut Out) {
        for ack in acks {
            let Some((number, Wait { by, held, .. })) = self.acks.take(ack) else { continue };
            if let Some(Held { request, reply: mut result, shows }) = held {
                shows.into_iter().for_each(|inode| out.show(inode));
                self.renew_reply(&mut result, out);
                out.send(reply(by, request, Ok(result)));
            }
            self.acks.end_barriers(by, number, out);
        }
    }

    /// A mount has forgotten all that it had cached.
    pub(super) fn session_forgot(&mut self, session: SessionId, out: &mut Out) {
        self.take_acks(self.acks.awaited_of(session), out);
    }

    /// Goes on without those that do not answer.
    pub(super) fn expire_acks(&mut self, out: &mut Out) {
        for id in self.acks.late(out.now_ms) {
            let connected = self.sessions.get(&id).is_some_and(|session| session.connected);
            if connected {
                self.mount_gone(id, true, out);
                out.close_mount(id);
            } else {
                if let Some(session) = self.sessions.get_mut(&id) {
                    session.trusts_nothing = true;
                }
                self.session_forgot(id, out);
            }
        }
    }
}
