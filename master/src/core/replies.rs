//! Replies to changes, kept until their mount has them. A mount that lost its stream asks again what was not
//! answered, under the same number; a change that was already done is then answered, and not done twice.
//!
//! What must hold: a reply is stored in the same batch as its change, so that there is never one without the
//! other, not even after a crash of the master. What a mount says that it has (`answered_below`), and what belongs
//! to a session that is gone, is forgotten.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{InodeNo, SessionId};
use dfs_proto::pb::{self, mount_reply::Result as Reply, mount_request::Op};
use dfs_proto::request_kind::{RequestKind, request_kind};
use prost::Message;

use super::State;
use super::out::{Out, Res, fail};
use super::row::RowKey;

/// Most replies that are kept of one session; a mount never has so many changes under way.
const KEPT: usize = 4096;

/// The stored replies, encoded.
#[derive(Default)]
pub(super) struct Replies {
    kept: BTreeMap<(SessionId, u64), Bytes>,
}

impl Replies {
    /// The encoded reply to a request.
    pub fn get(&self, session: SessionId, request: u64) -> Option<&Bytes> {
        self.kept.get(&(session, request))
    }

    /// Takes in a stored one; false: it was there.
    pub fn load(&mut self, session: SessionId, request: u64, reply: Bytes) -> bool {
        self.kept.insert((session, request), reply).is_none()
    }

    /// What there is.
    #[cfg(test)]
    pub fn keys(&self) -> impl Iterator<Item = (SessionId, u64)> {
        self.kept.keys().copied()
    }

    fn of(&self, session: SessionId) -> impl Iterator<Item = u64> {
        self.kept.range((session, 0)..=(session, u64::MAX)).map(|((_, request), _)| *request)
    }
}

impl State {
    /// Does a request, or says again what came of it.
    pub(super) fn do_once(
        &mut self,
        by: SessionId,
        (request, answered_below): (u64, u64),
        caller: Option<&pb::Caller>,
        op: &Op,
        out: &mut Out,
    ) -> Res<Reply> {
        if request_kind(op) != RequestKind::Change {
            return self.checked_op(by, caller, op, out);
        }
        if let Some(kept) = self.replies.get(by, request).cloned() {
            return self.say_again(by, request, &kept, op, out);
        }
        let reply = self.checked_op(by, caller, op, out)?;
        if out.has_changes() {
            self.keep_reply(by, request, &reply, out);
            self.forget_replies(by, |kept| kept < answered_below, out);
        }
        Ok(reply)
    }

    fn keep_reply(&mut self, by: SessionId, request: u64, reply: &Reply, out: &mut Out) {
        let reply = pb::MountReply { id: request, result: Some(reply.clone()), ..Default::default() };
        self.replies.kept.insert((by, request), reply.encode_to_vec().into());
        out.touch(RowKey::Reply { session: by, request });
        let oldest = self.replies.of(by).nth(KEPT).and(self.replies.of(by).next());
        if let Some(oldest) = oldest {
            self.forget_replies(by, |kept| kept == oldest, out);
        }
    }

    /// Attributes are those of now: what the first reply said may be long past.
    fn say_again(&mut self, by: SessionId, request: u64, kept: &Bytes, op: &Op, out: &mut Out) -> Res<Reply> {
        // The answer waits for the newest batch, and so for the change, wherever that is on its way.
        out.touch(RowKey::Reply { session: by, request });
        let Some(mut reply) = pb::MountReply::decode(kept.clone()).ok().and_then(|reply| reply.result) else {
            return fail(ErrorCode::Io, format!("the stored reply to request {request} cannot be read"));
        };
        self.renew_reply(&mut reply, out);
        self.hold_created(by, op, &reply)?;
        Ok(reply)
    }

    /// A create is asked for again: the hello could not name what its mount had not heard of.
    ///
    /// # Errors
    /// `Stale`: it is gone.
    pub(super) fn hold_created(&mut self, by: SessionId, op: &Op, reply: &Reply) -> Res<()> {
        if let (Op::Create(_), Reply::Attr(attr)) = (op, reply) {
            let inode = InodeNo(attr.inode);
            self.inode(inode)?;
            self.hold_open(by, inode);
            self.note_grant(by, op, reply);
        }
        Ok(())
    }

    /// Makes a reply that was given or held back show attributes as they are now.
    pub(super) fn renew_reply(&self, reply: &mut Reply, out: &mut Out) {
        match reply {
            Reply::Attr(attr) => self.renew(attr, out),
            Reply::Gone(gone) => {
                let told = [&mut gone.moved, &mut gone.removed, &mut gone.exchanged].into_iter().flatten();
                told.for_each(|attr| self.renew(attr, out));
            }
            Reply::Copied(copied) => copied.attr.iter_mut().for_each(|attr| self.renew(attr, out)),
            _ => {}
        }
    }

    fn renew(&self, attr: &mut pb::Attr, out: &mut Out) {
        let inode = InodeNo(attr.inode);
        out.show(inode);
        if let Ok(now) = self.attr(inode) {
            *attr = now;
        }
    }

    /// Forgets those of a session that are `done`.
    pub(super) fn forget_replies(&mut self, session: SessionId, done: impl Fn(u64) -> bool, out: &mut Out) {
        let forgotten: Vec<u64> = self.replies.of(session).filter(|request| done(*request)).collect();
        for request in forgotten {
            self.replies.kept.remove(&(session, request));
            out.touch(RowKey::Reply { session, request });
        }
    }

    /// Sessions of before a restart that did not come back in time.
    pub(super) fn forget_replies_after_grace(&mut self, out: &mut Out) {
        if out.now_ms < self.grace_until_ms {
            return;
        }
        let sessions: BTreeSet<SessionId> = self.replies.kept.keys().map(|(session, _)| *session).collect();
        for session in sessions {
            if self.sessions.contains_key(&session) {
                continue;
            }
            self.forget_replies(session, |_| true, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testkit::{Kit, SESSION};
    use super::*;

    const OTHER: SessionId = SessionId(78);

    fn mkdir(name: &'static str) -> Op {
        let name = Bytes::from_static(name.as_bytes());
        Op::Mkdir(pb::Mkdir { parent: 1, name, mode: 0o755, uid: 1, gid: 1, umask: 0 })
    }

    fn create_f() -> Op {
        let name = Bytes::from_static(b"f");
        Op::Create(pb::Create { parent: 1, name, mode: 0o644, uid: 1, gid: 1, umask: 0 })
    }

    /// The same request again, on a new stream.
    fn again(kit: &mut Kit, request: u64, op: Op) -> Reply {
        kit.gone(SESSION);
        kit.hello(SESSION, &[]);
        kit.sent.clear();
        kit.request_numbered(SESSION, request, op);
        kit.reply_to(request).unwrap()
    }

    #[test]
    fn a_change_that_was_done_is_answered_again_and_not_done_again() {
        for restarted in [false, true] {
            let mut kit = Kit::new();
            let request = kit.request(mkdir("d"));
            let Some(Reply::Attr(first)) = kit.reply_to(request) else { panic!("mkdir failed") };
            if restarted {
                kit.restart();
            }
            let Reply::Attr(second) = again(&mut kit, request, mkdir("d")) else { panic!("done twice") };
            assert_eq!(first, second);
        }
    }

    #[test]
    fn what_was_removed_is_not_removed_again_when_somebody_made_it_anew() {
        let mut kit = Kit::new();
        kit.create(InodeNo::ROOT, "f");
        let op = kit.unlink_op(InodeNo::ROOT, "f");
        let request = kit.request(op.clone());
        kit.hello(OTHER, &[]);
        kit.ok_as(OTHER, create_f());
        assert!(matches!(again(&mut kit, request, op), Reply::Gone(_)));
        assert!(kit.state.entry(InodeNo::ROOT, b"f").is_ok());
    }

    #[test]
    fn a_create_that_is_answered_again_holds_the_file_open() {
        let mut kit = Kit::new();
        let request = kit.request(create_f());
        let Reply::Attr(attr) = again(&mut kit, request, create_f()) else { panic!("done twice") };
        let op = kit.unlink_op(InodeNo::ROOT, "f");
        kit.hello(OTHER, &[]);
        kit.ok_as(OTHER, op);
        kit.pass_ms(120_000);
        assert_eq!(kit.attr(InodeNo(attr.inode)).nlink, 0);
    }

    #[test]
    fn what_failed_is_tried_again() {
        let mut kit = Kit::new();
        let dir = kit.mkdir(InodeNo::ROOT, "d");
        let request = kit.request(mkdir("d"));
        assert!(matches!(kit.reply_to(request), Some(Reply::Error(_))));
        kit.request(Op::Rmdir(pb::Rmdir { parent: 1, name: Bytes::from_static(b"d") }));
        let Reply::Attr(attr) = again(&mut kit, request, mkdir("d")) else { panic!("not tried again") };
        assert_ne!(attr.inode, dir.0);
    }

    #[test]
    fn replies_are_forgotten_when_they_arrived_and_when_their_session_is_gone() {
        let mut kit = Kit::new();
        let first = kit.request(mkdir("a"));
        let second = kit.request(mkdir("b"));
        let kept: Vec<u64> = kit.state.replies.of(SESSION).collect();
        assert_eq!(kept, [second], "{first} is answered when {second} is asked");
        kit.gone(SESSION);
        kit.pass_ms(61_000);
        assert_eq!(kit.state.replies.kept.len(), 0);
        kit.hello(OTHER, &[]);
        let other = kit.request_as(OTHER, mkdir("c"));
        kit.restart();
        kit.pass_ms(50_000);
        assert!(kit.state.replies.get(OTHER, other).is_some());
        kit.pass_ms(12_000);
        assert_eq!(kit.state.replies.kept.len(), 0);
    }

    #[test]
    fn one_session_keeps_no_more_than_so_many() {
        let mut kit = Kit::new();
        for n in 0..KEPT as u64 + 10 {
            let name = Bytes::from(format!("{n}"));
            let op = Op::Symlink(pb::Symlink {
                parent: 1,
                name,
                target: Bytes::from_static(b"t"),
                uid: 1,
                gid: 1,
            });
            kit.state.apply(
                super::super::Command::Mount {
                    session: SESSION,
                    request: pb::MountRequest {
                        id: 1000 + n,
                        op: Some(op),
                        answered_below: 0,
                        ..Default::default()
                    },
                },
                kit.now(),
            );
        }
        assert_eq!(kit.state.replies.kept.len(), KEPT);
    }
}
