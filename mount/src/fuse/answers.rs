//! How requests are answered: on the runtime, with how long the kernel may believe the answer.

use std::time::Duration;

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::pb;
use fuser::{
    Errno, FopenFlags, Generation, INodeNo, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyWrite, ReplyXattr,
};

use super::adapter::Adapter;
use super::convert::{errno, file_attr};
use crate::fs::Opened;

/// Inodes never get the number of an earlier one.
pub(super) const GENERATION: Generation = Generation(0);

impl Adapter {
    /// Does `work` on the runtime, then replies: by `say` with what came of it, or with the errno of its error.
    pub(super) fn answer<T, R: Refuse>(
        &self,
        operation: &'static str,
        inode: INodeNo,
        reply: R,
        work: impl Future<Output = Result<T, DfsError>> + Send + 'static,
        say: impl FnOnce(R, T) + Send + 'static,
    ) {
        self.runtime.spawn(async move {
            match work.await {
                Ok(done) => say(reply, done),
                Err(error) => reply.refuse(errno(operation, inode.0, &error)),
            }
        });
    }

    /// Answers a request for the entry `name` of `parent`.
    pub(super) fn entry(
        &self,
        operation: &'static str,
        parent: INodeNo,
        name: Vec<u8>,
        reply: ReplyEntry,
        work: impl Future<Output = Result<pb::Attr, DfsError>> + Send + 'static,
    ) {
        let (entry_ttl, attr_ttl) = (self.options.entry_timeout, self.options.attr_timeout);
        let (fs, asked, root) = (self.fs.clone(), self.fs.ask(), self.root);
        let directory = root.inward(parent);
        let finds_nothing = operation == "lookup";
        self.runtime.spawn(async move {
            match work.await {
                Ok(attr) => {
                    let ttl = fs.may_cache_entry(asked, directory, &name, Some(&attr));
                    let (attr_ttl, entry_ttl) = (ttl.attr.min(attr_ttl), ttl.entry.min(entry_ttl));
                    reply.entry_with_ttls(&attr_ttl, &entry_ttl, &root.attr(&attr), GENERATION);
                }
                // Inode 0: there is no such entry, and that may be cached.
                Err(error) if finds_nothing && error.code == ErrorCode::NotFound => {
                    let ttl = fs.may_cache_entry(asked, directory, &name, None).entry.min(entry_ttl);
                    if ttl.is_zero() {
                        return reply.error(Errno::ENOENT);
                    }
                    let nothing = file_attr(&pb::Attr::default());
                    reply.entry_with_ttls(&Duration::ZERO, &ttl, &nothing, GENERATION);
                }
                Err(error) => reply.error(errno(operation, parent.0, &error)),
            }
        });
    }

    /// Answers a request for attributes.
    pub(super) fn attr(
        &self,
        operation: &'static str,
        inode: INodeNo,
        reply: ReplyAttr,
        work: impl Future<Output = Result<pb::Attr, DfsError>> + Send + 'static,
    ) {
        let longest = self.options.attr_timeout;
        let (fs, asked, root) = (self.fs.clone(), self.fs.ask(), self.root);
        // The kernel takes in the answer to a change even if a notice came before it. So it asks again.
        let asks = operation == "getattr";
        self.answer(operation, inode, reply, work, move |reply, attr| {
            let ttl = if asks { fs.may_cache_attr(asked, &attr).min(longest) } else { Duration::ZERO };
            reply.attr(&ttl, &root.attr(&attr));
        });
    }

    /// Answers a request that has nothing to say but that it is done.
    pub(super) fn done(
        &self,
        operation: &'static str,
        inode: INodeNo,
        reply: ReplyEmpty,
        work: impl Future<Output = Result<(), DfsError>> + Send + 'static,
    ) {
        self.answer(operation, inode, reply, work, |reply, ()| reply.ok());
    }
}

/// How the kernel may use its pages of a file that was opened.
pub(super) fn open_flags(opened: Opened, uncached_appends: bool) -> FopenFlags {
    let mut flags = FopenFlags::empty();
    if opened.keep_cache {
        flags |= FopenFlags::FOPEN_KEEP_CACHE;
    }
    if opened.appends && uncached_appends {
        flags |= FopenFlags::FOPEN_DIRECT_IO;
    }
    flags
}

/// The same for a directory's list.
pub(super) fn opendir_flags(is_list_right: bool) -> FopenFlags {
    let keep = if is_list_right { FopenFlags::FOPEN_KEEP_CACHE } else { FopenFlags::empty() };
    keep | FopenFlags::FOPEN_CACHE_DIR
}

/// What all of fuser's replies can do.
pub(super) trait Refuse: Send + 'static {
    /// Replies with an error.
    fn refuse(self, errno: Errno);
}

macro_rules! refuse {
    ($($reply:ty),*) => {
        $(impl Refuse for $reply {
            fn refuse(self, errno: Errno) {
                self.error(errno);
            }
        })*
    };
}

refuse!(ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, ReplyXattr);
