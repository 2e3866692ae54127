//! How requests are answered: on their lane, with how long the kernel may believe the answer.
//!
//! Who is ended by a signal while it waits is answered at once. What it asked for is dropped, unless it changes
//! something: then it is brought to its end, with all that has to be noted here when it is done.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::{InodeNo, OperationNo};
use dfs_proto::pb;
use fuser::{
    Errno, FileHandle, FopenFlags, Generation, INodeNo, ReplyAttr, ReplyCreate, ReplyData, ReplyEmpty,
    ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
};

use super::adapter::Adapter;

use super::convert::file_attr;
use super::metrics::FuseOp;
use super::requester::Call;
use crate::client::lanes::Lane;
use crate::client::operation;
use crate::fs::caching::KnownEntry;
use crate::fs::{Fs, Opened, Seek};

/// Inodes never get the number of an earlier one.
pub(super) const GENERATION: Generation = Generation(0);

impl Adapter {
    /// Does `work` on `lane`, for the operation of this number.
    pub(super) fn work_for(
        &self,
        lane: Lane,
        number: OperationNo,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        self.lanes.of(lane).spawn(operation::within(number, work));
    }

    /// Does `work` on `lane`, then replies: by `say` with what came of it, or with the errno of its error.
    pub(super) fn answer<T, R: Refuse>(
        &self,
        lane: Lane,
        call: Call,
        reply: R,
        work: impl Future<Output = Result<T, DfsError>> + Send + 'static,
        say: impl FnOnce(R, T) + Send + 'static,
    ) {
        let fs = self.fs.clone();
        self.work_for(lane, call.number, async move {
            match call.unless_ended(&fs, work).await {
                Ok(done) => say(reply, done),
                Err(error) => reply.refuse(call.errno(&error)),
            }
        });
    }

    /// The same for a change, which is brought to its end in any case.
    pub(super) fn answer_change<T: Send, R: Refuse>(
        &self,
        call: Call,
        reply: R,
        work: impl Future<Output = Result<T, DfsError>> + Send + 'static,
        say: impl FnOnce(R, T) + Send + 'static,
    ) {
        let fs = self.fs.clone();
        self.work_for(Lane::Control, call.number, async move {
            let mut work = pin!(work);
            tokio::select! {
                biased;
                done = &mut work => match done {
                    Ok(done) => say(reply, done),
                    Err(error) => reply.refuse(call.errno(&error)),
                },
                () = call.ended(&fs) => {
                    reply.refuse(call.counted(Errno::EINTR));
                    // Nobody is left to hear of an error.
                    let _ = work.await;
                }
            }
        });
    }

    /// Answers a request for the entry `name` of the call's inode.
    pub(super) fn entry(
        &self,
        call: Call,
        name: Vec<u8>,
        reply: ReplyEntry,
        work: impl Future<Output = Result<pb::Attr, DfsError>> + Send + 'static,
    ) {
        let (entry_ttl, attr_ttl) = (self.options.entry_timeout, self.options.attr_timeout);
        let (fs, asked, root) = (self.fs.clone(), self.fs.ask(), self.root);
        let (parent, notifier) = (call.inode, self.notifier.clone());
        let directory = root.inward(parent);
        let finds_nothing = call.operation == FuseOp::Lookup;
        self.work_for(Lane::Control, call.number, async move {
            let mut work = pin!(counted(fs.clone(), call.thread, work));
            let done = tokio::select! {
                biased;
                done = &mut work => done,
                () = call.ended(&fs) => {
                    reply.error(call.counted(Errno::EINTR));
                    if !finds_nothing {
                        let _ = work.await;
                        forget_entry(&notifier, parent, name).await;
                    }
                    return;
                }
            };
            match done {
                Ok(attr) => {
                    let ttl = fs.may_cache_entry(asked, directory, &name, Some(&attr));
                    let (attr_ttl, entry_ttl) = (ttl.attr.min(attr_ttl), ttl.entry.min(entry_ttl));
                    reply.entry_with_ttls(&attr_ttl, &entry_ttl, &root.attr(&attr), GENERATION);
                }
                Err(error) if finds_nothing && error.code == ErrorCode::NotFound => {
                    nothing(reply, fs.may_cache_entry(asked, directory, &name, None).entry.min(entry_ttl));
                }
                Err(error) => reply.error(call.errno(&error)),
            }
        });
    }

    /// Answers a look-up with what is known here.
    pub(super) fn known_entry(&self, known: KnownEntry, reply: ReplyEntry) {
        let entry_ttl = known.ttl.entry.min(self.options.entry_timeout);
        let Some(attr) = known.attr else { return nothing(reply, entry_ttl) };
        let attr_ttl = known.ttl.attr.min(self.options.attr_timeout);
        reply.entry_with_ttls(&attr_ttl, &entry_ttl, &self.root.attr(&attr), GENERATION);
        self.fs.told_known(InodeNo(attr.inode), known.asked);
    }

    /// Answers a request for a file that is made if need be, and opened.
    pub(super) fn created(
        &self,
        call: Call,
        name: Vec<u8>,
        reply: ReplyCreate,
        work: impl Future<Output = Result<(pb::Attr, Opened), DfsError>> + Send + 'static,
    ) {
        let longest = self.options.entry_timeout.min(self.options.attr_timeout);
        let (fs, asked, root, notifier) = (self.fs.clone(), self.fs.ask(), self.root, self.notifier.clone());
        let (directory, uncached) = (root.inward(call.inode), self.greeted.uncached);
        self.work_for(Lane::Control, call.number, async move {
            let mut work = pin!(work);
            let done = tokio::select! {
                biased;
                done = &mut work => done,
                () = call.ended(&fs) => {
                    reply.error(call.counted(Errno::EINTR));
                    if let Ok((_, opened)) = work.await {
                        fs.release(opened.handle).await;
                    }
                    return forget_entry(&notifier, call.inode, name).await;
                }
            };
            match done {
                Ok((attr, opened)) => {
                    let ttl = fs.may_cache_entry(asked, directory, &name, Some(&attr));
                    let ttl = ttl.entry.min(ttl.attr).min(longest);
                    let (handle, flags) = (FileHandle(opened.handle), open_flags(opened, uncached));
                    reply.created(&ttl, &root.attr(&attr), GENERATION, handle, flags);
                }
                Err(error) => reply.error(call.errno(&error)),
            }
        });
    }

    /// Answers a request for attributes.
    pub(super) fn attr(
        &self,
        call: Call,
        reply: ReplyAttr,
        work: impl Future<Output = Result<pb::Attr, DfsError>> + Send + 'static,
    ) {
        let longest = self.options.attr_timeout;
        let (fs, asked, root) = (self.fs.clone(), self.fs.ask(), self.root);
        // The kernel takes in the answer to a change even if a notice came before it. So it asks again.
        let asks = call.operation == FuseOp::Getattr;
        let work = counted(self.fs.clone(), call.thread, work);
        self.answer_change(call, reply, work, move |reply: ReplyAttr, attr| {
            let ttl = if asks { fs.may_cache_attr(asked, &attr).min(longest) } else { Duration::ZERO };
            reply.attr(&ttl, &root.attr(&attr));
        });
    }

    /// Answers a request that has nothing to say but that it is done.
    pub(super) fn done(
        &self,
        call: Call,
        reply: ReplyEmpty,
        work: impl Future<Output = Result<(), DfsError>> + Send + 'static,
    ) {
        self.answer_change(call, reply, work, |reply: ReplyEmpty, ()| reply.ok());
    }

    /// The same for one that may take a file's name away.
    pub(super) fn removed(
        &self,
        call: Call,
        reply: ReplyEmpty,
        work: impl Future<Output = Result<(), DfsError>> + Send + 'static,
    ) {
        let removal = self.fs.removal(call.thread);
        self.answer_change(call, reply, work, move |reply: ReplyEmpty, ()| {
            reply.ok();
            drop(removal);
        });
    }
}

impl Adapter {
    /// Answers how much room there is.
    pub(super) fn space(&self, call: Call, reply: ReplyStatfs) {
        const BLOCK: u32 = 4096;
        // As many as there may ever be; statfs has no word for "no limit".
        const FREE_INODES: u64 = 1 << 40;
        let (fs, inode) = (self.fs.clone(), InodeNo(call.inode.0));
        self.work_for(Lane::Control, call.number, async move {
            match call.unless_ended(&fs, fs.statfs(inode)).await {
                Ok(info) => {
                    let (blocks, free) = (info.total / u64::from(BLOCK), info.free / u64::from(BLOCK));
                    let name_len = dfs_proto::MAX_NAME_LEN as u32;
                    reply.statfs(
                        blocks,
                        free,
                        free,
                        info.inodes + FREE_INODES,
                        FREE_INODES,
                        BLOCK,
                        name_len,
                        BLOCK,
                    );
                }
                Err(error) => reply.error(call.errno(&error)),
            }
        });
    }

    /// Answers where data, or a hole, begins; `whence` as lseek(2) has it.
    pub(super) fn find_data(&self, call: Call, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let what = match whence {
            libc::SEEK_DATA => Seek::Data,
            libc::SEEK_HOLE => Seek::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        let fs = self.fs.clone();
        self.work_for(Lane::Control, call.number, async move {
            match call.unless_ended(&fs, fs.seek(fh.0, offset, what)).await {
                Ok(found) => reply.offset(i64::try_from(found).unwrap_or(i64::MAX)),
                // The one place where the kernel wants ENXIO (lseek(2)).
                Err(error) if error.code == ErrorCode::Invalid => reply.error(Errno::ENXIO),
                Err(error) => reply.error(call.errno(&error)),
            }
        });
    }
}

/// There is no such entry, which the kernel may believe for so long.
pub(super) fn nothing(reply: ReplyEntry, ttl: Duration) {
    if ttl.is_zero() {
        return reply.error(Errno::ENOENT);
    }
    // Inode 0 says that.
    let nothing = file_attr(&pb::Attr::default());
    reply.entry_with_ttls(&Duration::ZERO, &ttl, &nothing, GENERATION);
}

/// Attributes that may be told.
async fn counted(
    fs: Arc<Fs>,
    thread: u32,
    work: impl Future<Output = Result<pb::Attr, DfsError>>,
) -> Result<pb::Attr, DfsError> {
    let attr = work.await?;
    fs.until_counted(thread, std::iter::once(&attr)).await;
    Ok(attr)
}

/// Has the kernel forget an entry of a directory that it holds no lock of.
async fn forget_entry(notifier: &OnceLock<fuser::Notifier>, parent: INodeNo, name: Vec<u8>) {
    if let Some(notifier) = notifier.get().cloned() {
        let told = move || notifier.inval_entry(parent, OsStr::from_bytes(&name));
        // That the kernel has nothing cached is as good.
        let _ = tokio::task::spawn_blocking(told).await;
    }
}

/// How the kernel may use its pages of a file that was opened.
pub(super) fn open_flags(opened: Opened, has_uncached: bool) -> FopenFlags {
    let mut flags = FopenFlags::empty();
    if opened.keep_cache {
        flags |= FopenFlags::FOPEN_KEEP_CACHE;
    }
    if (opened.appends || opened.changes_elsewhere) && has_uncached {
        flags |= FopenFlags::FOPEN_DIRECT_IO;
    }
    flags
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
