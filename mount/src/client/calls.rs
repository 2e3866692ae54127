//! One method per operation of the protocol, with typed results.
//!
//! A request takes its place in the order when its call is first polled. A call ends within `op_timeout`; a
//! call that is dropped leaves nothing behind, but what it asked for may have been done.

use std::time::Instant;

use bytes::Bytes;
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::{ChunkId, InodeNo, KeeperId};
use dfs_proto::pb;
use tokio::sync::oneshot;

use super::Client;
use super::requests::{Answer, Op, Reply};
use super::session::Shared;

/// Takes the request back when its caller goes away.
pub(super) struct Abandon<'a> {
    pub(super) shared: &'a Shared,
    pub(super) id: u64,
}

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        self.shared.requests().abandon(self.id);
    }
}

/// Unpacks the one kind of reply that an operation has.
macro_rules! expect {
    ($reply:expr, $what:expr, $kind:path) => {
        match $reply {
            $kind(inner) => Ok(inner),
            other => Err(unexpected($what, &other)),
        }
    };
}

pub(super) fn unexpected(what: &str, reply: &Reply) -> DfsError {
    let kind = format!("{reply:?}");
    let kind = kind.split('(').next().unwrap_or("another");
    DfsError::new(
        ErrorCode::Protocol,
        format!(
            "the master answered {what} with a reply of kind {kind}; see that both are of the same version"
        ),
    )
}

/// What a change of names came to.
#[derive(Clone, Debug)]
pub struct Changed<T> {
    /// The answer itself.
    pub what: T,
    /// The directories in which names changed, as they are then; none when the master did not say.
    pub directories: Vec<pb::Attr>,
}

impl Client {
    async fn ask(&self, what: &str, op: Op) -> Result<Answer, DfsError> {
        let (reply, answer) = oneshot::channel();
        tracing::trace!(target: "dfs::requests", "{what}");
        let id = self.inner.shared.ask(op, self.caller.clone(), reply)?;
        self.answered(what, id, answer).await
    }

    pub(super) async fn call(&self, what: &str, op: Op) -> Result<Reply, DfsError> {
        Ok(self.ask(what, op).await?.reply)
    }

    /// Waits for the answer to what was asked under `id`.
    async fn answered(
        &self,
        what: &str,
        id: u64,
        answer: oneshot::Receiver<Result<Answer, DfsError>>,
    ) -> Result<Answer, DfsError> {
        let shared = &*self.inner.shared;
        let _abandon = Abandon { shared, id };
        let began = Instant::now();
        let answered = tokio::time::timeout(shared.op_timeout(), answer).await;
        self.inner.master_calls.observe(began.elapsed());
        match answered {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(shared.closed_error()),
            Err(_) => Err(shared.timed_out(what)),
        }
    }

    async fn attr(&self, what: &str, op: Op) -> Result<pb::Attr, DfsError> {
        expect!(self.call(what, op).await?, what, Reply::Attr)
    }

    async fn made(&self, what: &str, op: Op) -> Result<Changed<pb::Attr>, DfsError> {
        let Answer { reply, directories } = self.ask(what, op).await?;
        Ok(Changed { what: expect!(reply, what, Reply::Attr)?, directories })
    }

    async fn gone(&self, what: &str, op: Op) -> Result<Changed<pb::Gone>, DfsError> {
        let Answer { reply, directories } = self.ask(what, op).await?;
        Ok(Changed { what: expect!(reply, what, Reply::Gone)?, directories })
    }

    async fn done(&self, what: &str, op: Op) -> Result<(), DfsError> {
        expect!(self.call(what, op).await?, what, Reply::Empty).map(|_| ())
    }

    /// The inode that has `name` in the directory `parent`.
    ///
    /// # Errors
    /// `NotFound`, `NotDirectory`, `Stale`, `TimedOut`, ...: like all below, whatever the master says.
    pub async fn lookup(&self, parent: InodeNo, name: &[u8]) -> Result<pb::Attr, DfsError> {
        let op = pb::Lookup { parent: parent.0, name: Bytes::copy_from_slice(name) };
        self.attr("lookup", Op::Lookup(op)).await
    }

    /// An inode's attributes.
    ///
    /// # Errors
    /// `Stale` when there is no such inode.
    pub async fn getattr(&self, inode: InodeNo) -> Result<pb::Attr, DfsError> {
        self.attr("getattr", Op::Getattr(pb::Getattr { inode: inode.0 })).await
    }

    /// Changes attributes, the size among them; returns them all as they are then.
    ///
    /// # Errors
    /// `Stale`, `IsDirectory`, `TooLarge`, ...
    pub async fn setattr(&self, change: pb::Setattr) -> Result<pb::Attr, DfsError> {
        self.attr("setattr", Op::Setattr(change)).await
    }

    /// Makes a regular file and opens it; it must be released.
    ///
    /// # Errors
    /// `Exists` when the name is taken, ...
    pub async fn create(&self, create: pb::Create) -> Result<Changed<pb::Attr>, DfsError> {
        self.made("create", Op::Create(create)).await
    }

    /// Makes a node of any kind but directory and symbolic link.
    ///
    /// # Errors
    /// `Exists`, ...
    pub async fn mknod(&self, mknod: pb::Mknod) -> Result<Changed<pb::Attr>, DfsError> {
        self.made("mknod", Op::Mknod(mknod)).await
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// `Exists`, ...
    pub async fn mkdir(&self, mkdir: pb::Mkdir) -> Result<Changed<pb::Attr>, DfsError> {
        self.made("mkdir", Op::Mkdir(mkdir)).await
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// `Exists`, `NameTooLong`, ...
    pub async fn symlink(&self, symlink: pb::Symlink) -> Result<Changed<pb::Attr>, DfsError> {
        self.made("symlink", Op::Symlink(symlink)).await
    }

    /// Gives an inode one more name.
    ///
    /// # Errors
    /// `Exists`, `TooManyLinks`, `Permission` for a directory, ...
    pub async fn link(&self, link: pb::Link) -> Result<Changed<pb::Attr>, DfsError> {
        self.made("link", Op::Link(link)).await
    }

    /// Takes a name away from what is no directory.
    ///
    /// # Errors
    /// `NotFound`, `IsDirectory`, ...
    pub async fn unlink(&self, parent: InodeNo, name: &[u8]) -> Result<Changed<pb::Gone>, DfsError> {
        let op = pb::Unlink { parent: parent.0, name: Bytes::copy_from_slice(name) };
        self.gone("unlink", Op::Unlink(op)).await
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// `NotFound`, `NotDirectory`, `NotEmpty`, ...
    pub async fn rmdir(&self, parent: InodeNo, name: &[u8]) -> Result<Changed<pb::Gone>, DfsError> {
        let op = pb::Rmdir { parent: parent.0, name: Bytes::copy_from_slice(name) };
        self.gone("rmdir", Op::Rmdir(op)).await
    }

    /// Moves a name, atomically.
    ///
    /// # Errors
    /// `NotFound`, `Exists` with `no_replace`, `Invalid` for a directory into itself, ...
    pub async fn rename(&self, rename: pb::Rename) -> Result<Changed<pb::Gone>, DfsError> {
        self.gone("rename", Op::Rename(rename)).await
    }

    /// A symbolic link's target.
    ///
    /// # Errors
    /// `Invalid` when the inode is no symbolic link, ...
    pub async fn readlink(&self, inode: InodeNo) -> Result<Bytes, DfsError> {
        let reply = self.call("readlink", Op::Readlink(pb::Readlink { inode: inode.0 })).await?;
        expect!(reply, "readlink", Reply::Target).map(|target| target.target)
    }

    /// The entries of a directory after the name `after` (empty: from the start), at most about `limit`.
    ///
    /// # Errors
    /// `NotDirectory`, `Stale`, ...
    pub async fn readdir(
        &self,
        inode: InodeNo,
        after: &[u8],
        limit: u32,
    ) -> Result<pb::DirEntries, DfsError> {
        let op = pb::Readdir { inode: inode.0, after: Bytes::copy_from_slice(after), limit };
        let reply = self.call("readdir", Op::Readdir(op)).await?;
        expect!(reply, "readdir", Reply::Entries)
    }

    /// Holds an inode open for this session; it must be released, once per open. `access` is for a client that
    /// asks on behalf of a caller: what he will do with it, as three bits of a mode have it.
    ///
    /// # Errors
    /// `Stale`, `Access`, ...
    pub async fn open(&self, inode: InodeNo, access: u32) -> Result<pb::Attr, DfsError> {
        self.attr("open", Op::Open(pb::Open { inode: inode.0, access })).await
    }

    /// Gives back one open. Never waits.
    pub fn release(&self, inode: InodeNo) {
        // It goes out with the next request, as `ask_by_the_way` has it.
        self.inner.shared.requests().release(inode);
    }

    /// The extents that overlap `length` bytes from `offset`, and what is needed to read their chunks.
    /// Download step 1.
    ///
    /// # Errors
    /// `Stale`, ...
    pub async fn layout(&self, inode: InodeNo, offset: u64, length: u64) -> Result<pb::FileLayout, DfsError> {
        let op = pb::Layout { inode: inode.0, offset, length };
        let reply = self.call("layout", Op::Layout(op)).await?;
        expect!(reply, "layout", Reply::Layout)
    }

    /// A place for the next bytes of a file, behind those that were asked for over the same `stream` ([`Client::stream`]).
    /// Upload step 1.
    ///
    /// # Errors
    /// `NoKeeper`, `NoSpace`, `Stale`, ...; `Session` when that stream broke before the answer came: the
    /// uploads before this one may be lost too, so the writer has to ask anew, in order.
    pub async fn alloc(&self, alloc: pb::Alloc, stream: u64) -> Result<pb::Placed, DfsError> {
        let (reply, answer) = oneshot::channel();
        let id = self.inner.shared.queue(|requests| requests.ask_place(alloc, stream, reply))?;
        let placed = expect!(self.answered("alloc", id, answer).await?.reply, "alloc", Reply::Placed)?;
        if placed.grant.as_ref().is_none_or(|grant| grant.keepers.is_empty()) {
            return Err(DfsError::new(
                ErrorCode::NoKeeper,
                "the master named no keeper for the next bytes; start a keeper (dfs keepers shows who is alive)",
            ));
        }
        Ok(placed)
    }

    /// Gives up an upload that was allowed and did not succeed.
    ///
    /// # Errors
    /// `TimedOut`, ...
    pub async fn abort_upload(&self, inode: InodeNo, chunk: ChunkId) -> Result<(), DfsError> {
        let abort = pb::AbortUpload { chunk: chunk.0, inode: inode.0 };
        self.done("abort_upload", Op::AbortUpload(abort)).await
    }

    /// Returns when every committed chunk of the file, and the record of it, is on stable storage.
    ///
    /// # Errors
    /// `TimedOut`, `Stale`, ...
    pub async fn fsync(&self, inode: InodeNo) -> Result<(), DfsError> {
        self.done("fsync", Op::Fsync(pb::Fsync { inode: inode.0 })).await
    }

    /// Returns when every other mount has forgotten what the uploads changed whose success was told before.
    ///
    /// # Errors
    /// `TimedOut`, ...
    pub async fn barrier(&self) -> Result<(), DfsError> {
        self.done("barrier", Op::Barrier(pb::Barrier {})).await
    }

    /// What users can still store.
    ///
    /// # Errors
    /// `TimedOut`, ...
    pub async fn statfs(&self, inode: InodeNo) -> Result<pb::StatfsInfo, DfsError> {
        let reply = self.call("statfs", Op::Statfs(pb::Statfs { inode: inode.0 })).await?;
        expect!(reply, "statfs", Reply::Statfs)
    }

    /// One extended attribute.
    ///
    /// # Errors
    /// `NoData` when the inode has none of that name, ...
    pub async fn getxattr(&self, inode: InodeNo, name: &[u8]) -> Result<Bytes, DfsError> {
        let op = pb::Getxattr { inode: inode.0, name: Bytes::copy_from_slice(name) };
        let reply = self.call("getxattr", Op::Getxattr(op)).await?;
        expect!(reply, "getxattr", Reply::Value).map(|value| value.value)
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// `Exists` and `NoData` for the two flags, `TooBig`, ...
    pub async fn setxattr(&self, setxattr: pb::Setxattr) -> Result<(), DfsError> {
        self.done("setxattr", Op::Setxattr(setxattr)).await
    }

    /// The names of an inode's extended attributes.
    ///
    /// # Errors
    /// `Stale`, ...
    pub async fn listxattr(&self, inode: InodeNo) -> Result<Vec<Bytes>, DfsError> {
        let reply = self.call("listxattr", Op::Listxattr(pb::Listxattr { inode: inode.0 })).await?;
        expect!(reply, "listxattr", Reply::Names).map(|names| names.names)
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// `NoData` when there is none of that name, ...
    pub async fn removexattr(&self, inode: InodeNo, name: &[u8]) -> Result<(), DfsError> {
        let op = pb::Removexattr { inode: inode.0, name: Bytes::copy_from_slice(name) };
        self.done("removexattr", Op::Removexattr(op)).await
    }

    /// Makes holes or a longer file. Returns the attributes as they are then.
    ///
    /// # Errors
    /// `Stale`, `IsDirectory`, `Invalid`, `TooLarge`, ...
    pub async fn fallocate(&self, fallocate: pb::Fallocate) -> Result<pb::Attr, DfsError> {
        self.attr("fallocate", Op::Fallocate(fallocate)).await
    }

    /// Lets a range of one file have the content of a range of another, or its beginning at least.
    ///
    /// # Errors
    /// `Stale`, `IsDirectory`, `Invalid`, `TooLarge`, ...
    pub async fn copy_range(&self, copy: pb::CopyRange) -> Result<pb::RangeCopied, DfsError> {
        let reply = self.call("copy_range", Op::CopyRange(copy)).await?;
        expect!(reply, "copy_range", Reply::Copied)
    }

    /// Says that an inode was read just now; `always` as strictatime has it. The request takes its place in the
    /// order here, before the answer is waited for: what is asked after this call sees the new atime.
    ///
    /// # Errors
    /// `Stale`, `TimedOut`, ...
    pub fn touch_atime(
        &self,
        inode: InodeNo,
        always: bool,
    ) -> impl Future<Output = Result<pb::Attr, DfsError>> + Send + use<> {
        let (reply, answer) = oneshot::channel();
        let op = Op::TouchAtime(pb::TouchAtime { inode: inode.0, always });
        let asked = self.inner.shared.ask_by_the_way(op, self.caller.clone(), reply);
        let client = self.clone();
        async move {
            let reply = client.answered("touch_atime", asked?, answer).await?.reply;
            expect!(reply, "touch_atime", Reply::Attr)
        }
    }

    /// The extents of a file from `offset` on, and every copy of their chunks, on live keepers or not.
    ///
    /// # Errors
    /// `Stale`, `Invalid` for what is no regular file, ...
    pub async fn locate(&self, inode: InodeNo, offset: u64, length: u64) -> Result<pb::Located, DfsError> {
        let op = pb::Locate { inode: inode.0, offset, length };
        let reply = self.call("locate", Op::Locate(op)).await?;
        expect!(reply, "locate", Reply::Located)
    }

    /// Has the MD5 of a file's content remembered, if the content is still of this version.
    ///
    /// # Errors
    /// `Busy` when it is not; `Stale`, ...
    pub async fn set_digest(
        &self,
        inode: InodeNo,
        content_version: u64,
        md5: [u8; 16],
    ) -> Result<(), DfsError> {
        let md5 = Bytes::copy_from_slice(&md5);
        self.done("set_digest", Op::SetDigest(pb::SetDigest { inode: inode.0, content_version, md5 })).await
    }

    /// Tells the master of a copy that did not verify or could not be had. Never waits; may be dropped when too
    /// many are queued.
    pub fn report_bad(&self, chunk: ChunkId, keeper: KeeperId, error: &DfsError) {
        let report = pb::ReportBad { chunk: chunk.0, keeper: keeper.0, error: Some(error.to_wire()) };
        self.inner.shared.report(report);
    }
}
