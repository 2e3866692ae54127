//! Requests of mounts: to whom they go, and the reply.

use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{InodeNo, SessionId};
use dfs_proto::pb::{self, mount_down, mount_reply::Result as Reply, mount_request::Op};

use super::State;
use super::command::Effect;
use super::out::{Out, Res, fail};

/// A reply as an effect.
pub(super) fn reply(session: SessionId, id: u64, result: Res<Reply>) -> Effect {
    reply_with(session, id, result, Vec::new())
}

/// The same, with the directories in which names changed.
pub(super) fn reply_with(
    session: SessionId,
    id: u64,
    result: Res<Reply>,
    directories: Vec<pb::Attr>,
) -> Effect {
    let result = Some(match result {
        Ok(result) => result,
        Err(error) => Reply::Error(error.to_wire()),
    });
    Effect::ToMount(session, mount_down::Msg::Reply(pb::MountReply { id, result, directories }))
}

/// The directories in which a request changes names.
fn changed_directories(op: &Op) -> [Option<u64>; 2] {
    match op {
        Op::Create(op) => [Some(op.parent), None],
        Op::Mknod(op) => [Some(op.parent), None],
        Op::Mkdir(op) => [Some(op.parent), None],
        Op::Symlink(op) => [Some(op.parent), None],
        Op::Link(op) => [Some(op.parent), None],
        Op::Unlink(op) => [Some(op.parent), None],
        Op::Rmdir(op) => [Some(op.parent), None],
        Op::Rename(op) => [Some(op.parent), Some(op.new_parent).filter(|to| *to != op.parent)],
        _ => [None, None],
    }
}

impl State {
    pub(super) fn mount_request(&mut self, by: SessionId, mut request: pb::MountRequest, out: &mut Out) {
        let id = request.id;
        self.requests += 1;
        if let Some(op) = &mut request.op
            && let Err(error) = self.take_in(by, op)
        {
            return out.answer(reply(by, id, Err(error)));
        }
        if let Err(error) = self.map_in(by, &mut request, out) {
            return out.answer(reply(by, id, Err(error)));
        }
        if self.acks.is_held(by, id) {
            return self.asked_again(by, id, request.op.as_ref());
        }
        let result = if !self.sessions.contains_key(&by) {
            fail(ErrorCode::Session, format!("session {by} is unknown: say hello again"))
        } else {
            match request.op {
                // The reply may have to wait.
                Some(Op::Fsync(op)) => match self.fsync(by, id, InodeNo(op.inode), out) {
                    Ok(None) => return,
                    Ok(Some(result)) => Ok(result),
                    Err(error) => Err(error),
                },
                Some(Op::SetLock(op)) => match self.set_lock(by, id, &op, out) {
                    Ok(None) => return,
                    Ok(Some(result)) => Ok(result),
                    Err(error) => Err(error),
                },
                Some(Op::GetLock(op)) => match self.get_lock(by, id, &op, out) {
                    Ok(None) => return,
                    Ok(Some(result)) => Ok(result),
                    Err(error) => Err(error),
                },
                Some(Op::Barrier(_)) => match self.acks.barrier(by, id) {
                    true => return,
                    false => Ok(Reply::Empty(pb::Empty {})),
                },
                Some(op) => {
                    let mut result =
                        self.do_once(by, (id, request.answered_below), request.caller.as_ref(), &op, out);
                    self.seal(by, &op, &mut result);
                    self.map_list_out(by, &op, &mut result);
                    self.note_interest(by, &op, &result);
                    let directories = self.tell_directories(&op, &result, out);
                    return self.answer_when_forgotten(by, id, result, directories, out);
                }
                None => fail(ErrorCode::NotSupported, "this master does not know that request"),
            }
        };
        out.answer(reply(by, id, result));
    }

    /// The directories that a reply tells of. Their mount is told of changes of them from now on: they are named by the request.
    fn tell_directories(&self, op: &Op, result: &Res<Reply>, out: &mut Out) -> Vec<pb::Attr> {
        let changed = changed_directories(op).into_iter().flatten().filter(|_| result.is_ok());
        let mut told = |inode| {
            out.show(inode);
            self.attr(inode).ok()
        };
        changed.filter_map(|inode| told(InodeNo(inode))).collect()
    }

    /// On a new stream, what is done and will be answered when others have forgotten. What the hello could not name, and
    /// so made us forget, is noted once more.
    fn asked_again(&mut self, by: SessionId, id: u64, op: Option<&Op>) {
        let (Some(op), Some(reply)) = (op, self.acks.held(by, id).cloned()) else { return };
        // One that is gone its mount will find out about.
        let _ = self.hold_created(by, op, &reply);
        self.note_interest(by, op, &Ok(reply));
    }

    pub(super) fn checked_op(
        &mut self,
        by: SessionId,
        caller: Option<&pb::Caller>,
        op: &Op,
        out: &mut Out,
    ) -> Res<Reply> {
        let Some(checked) = caller.filter(|caller| caller.check) else {
            return self.do_op(by, caller, op, out);
        };
        let mut op = op.clone();
        self.check_permission(checked, &mut op)?;
        let reply = self.do_op(by, caller, &op, out)?;
        if checked.uid != 0 {
            self.clear_set_ids(&op, out);
        }
        self.note_grant(by, &op, &reply);
        Ok(reply)
    }

    fn do_op(&mut self, by: SessionId, caller: Option<&pb::Caller>, op: &Op, out: &mut Out) -> Res<Reply> {
        match op {
            Op::Lookup(op) => self.lookup(op, out),
            Op::Getattr(op) => self.getattr(*op, out),
            Op::Setattr(op) => self.setattr(by, op, out),
            Op::Create(op) => self.create(by, op, out),
            Op::Mknod(op) => self.mknod(by, op, out),
            Op::Mkdir(op) => self.mkdir(by, op, out),
            Op::Symlink(op) => self.symlink(by, op, out),
            Op::Link(op) => self.link(by, op, out),
            Op::Unlink(op) => self.unlink(by, op, out),
            Op::Rmdir(op) => self.rmdir(by, op, out),
            Op::Rename(op) => self.rename(by, op, out),
            Op::Readlink(op) => self.readlink(op, out),
            Op::Readdir(op) => self.readdir(op, out),
            Op::Open(op) => self.open(by, *op, out),
            Op::Release(op) => self.release(by, *op, out),
            Op::Layout(op) => self.layout(*op, out),
            Op::Alloc(op) => self.alloc(by, op, out),
            Op::AbortUpload(op) => self.abort_upload(by, *op, out),
            Op::Statfs(op) => Ok(self.statfs(*op)),
            Op::Getxattr(op) => self.getxattr(op, out),
            Op::Setxattr(op) => self.setxattr(by, caller, op, out),
            Op::Listxattr(op) => self.listxattr(*op, out),
            Op::Removexattr(op) => self.removexattr(by, op, out),
            Op::Fallocate(op) => self.fallocate(by, *op, out),
            Op::CopyRange(op) => self.copy_range(by, *op, out),
            Op::ReportBad(op) => Ok(self.report_bad(op, out)),
            Op::CancelLock(op) => self.cancel_lock(by, *op, out),
            Op::TouchAtime(op) => self.touch_atime(by, *op, out),
            Op::Locate(op) => self.locate(*op, out),
            Op::SetDigest(op) => self.set_digest(op, out),
            Op::GetLock(_) => fail(ErrorCode::Invalid, "get_lock is answered elsewhere"),
            Op::SetLock(_) => fail(ErrorCode::Invalid, "set_lock is answered elsewhere"),
            Op::Barrier(_) => fail(ErrorCode::Invalid, "barrier is answered elsewhere"),
            Op::Fsync(_) => fail(ErrorCode::Invalid, "fsync is answered elsewhere"),
        }
    }
}
