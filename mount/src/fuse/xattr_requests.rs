//! Requests for extended attributes.

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::pb;
use fuser::{Errno, INodeNo, ReplyEmpty, ReplyXattr};

use super::adapter::Adapter;
use super::requester::Call;
use super::{metrics, signals};
use crate::client::lanes::Lane;
use crate::fs::Caller;
use crate::fs::virtual_xattr::is_virtual;
use crate::fs::xattrs::is_access_list;

/// Bytes by which the figures of a mount may become longer in a moment.
const ROOM_TO_GROW: u32 = 4096;

impl Adapter {
    /// Sets one; `flags` as setxattr(2) has them.
    pub(super) fn set_value(
        &self,
        call: Call,
        caller: Caller,
        (name, value): (&[u8], &[u8]),
        flags: i32,
        reply: ReplyEmpty,
    ) {
        // Nobody may rely on a list that the kernel does not look at.
        if !self.greeted.access_lists && is_access_list(name) {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let setxattr = pb::Setxattr {
            inode: self.root.inward(call.inode).0,
            name: name.to_vec().into(),
            value: value.to_vec().into(),
            create_only: flags & libc::XATTR_CREATE != 0,
            replace_only: flags & libc::XATTR_REPLACE != 0,
        };
        let fs = self.fs.clone();
        self.done(call, reply, async move { fs.setxattr(caller, setxattr).await });
    }

    /// Answers with one.
    pub(super) fn value(&self, call: Call, caller: Caller, name: &[u8], size: u32, reply: ReplyXattr) {
        if name == metrics::ATTRIBUTE && call.inode == INodeNo::ROOT {
            let value = metrics::as_attribute(&self.metrics, &self.fs);
            // It may have grown when whoever asks for its length comes back.
            return match size {
                0 => reply.size(u32::try_from(value.len()).unwrap_or(0) + ROOM_TO_GROW),
                _ => reply_value(reply, size, value.as_bytes()),
            };
        }
        let (fs, inode, name) = (self.fs.clone(), self.root.inward(call.inode), name.to_vec());
        // Computing one can take long, and whoever waits must be able to give up.
        let thread = if is_virtual(&name) { call.thread } else { 0 };
        let work = async move {
            tokio::select! {
                value = fs.getxattr(caller, inode, &name) => value,
                () = signals::wait_for_signal(thread) => {
                    Err(DfsError::new(ErrorCode::Interrupted, "a signal ended the wait"))
                }
            }
        };
        self.answer(Lane::Control, call, reply, work, move |reply, value| reply_value(reply, size, &value));
    }

    /// Answers with the names of all.
    pub(super) fn value_names(&self, call: Call, caller: Caller, size: u32, reply: ReplyXattr) {
        let (fs, inode) = (self.fs.clone(), self.root.inward(call.inode));
        let work = async move { fs.listxattr(caller, inode).await };
        self.answer(Lane::Control, call, reply, work, move |reply, names| reply_value(reply, size, &names));
    }

    /// Removes one.
    pub(super) fn remove_value(&self, call: Call, caller: Caller, name: &[u8], reply: ReplyEmpty) {
        let (fs, inode, name) = (self.fs.clone(), self.root.inward(call.inode), name.to_vec());
        self.done(call, reply, async move { fs.removexattr(caller, inode, &name).await });
    }
}

/// A value of any length, or its length alone when the caller's buffer is of no bytes.
fn reply_value(reply: ReplyXattr, size: u32, value: &[u8]) {
    match u32::try_from(value.len()) {
        Ok(length) if size == 0 => reply.size(length),
        Ok(length) if length <= size => reply.data(value),
        Ok(_) | Err(_) => reply.error(Errno::ERANGE),
    }
}
