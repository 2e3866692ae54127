//! One method per kernel request: decode it, hand it to [`Fs`], reply.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::InodeNo;
use dfs_proto::pb;
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, Filesystem, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLock, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::ServeOptions;
use super::answers::{GENERATION, open_flags, opendir_flags};
use super::convert::{file_type, given};
use super::lock_requests::{self, LockRequest};
use super::requester::{self, Call};
use super::root::Root;
use super::signals;
use super::writes::forget_pages;
use crate::client::lanes::{Lane, Lanes};
use crate::fs::extent_ops::Allocate;
use crate::fs::virtual_xattr::is_virtual;
use crate::fs::xattrs::is_access_list;
use crate::fs::{Caller, Fs, Seek};

/// Largest write request that we ask the kernel for, in bytes. It sends at most 1 MiB.
const MAX_WRITE: u32 = 1 << 20;

/// Requests that the kernel may have under way by itself (readahead), at once.
const MAX_BACKGROUND: u16 = 64;

/// Wanted of the kernel where it has it. None of those with which fuser 0.18.0 has trouble
/// (FUSE_SETXATTR_EXT, FUSE_HANDLE_KILLPRIV_V2).
const CAPABILITIES: [InitFlags; 8] = [
    // The master applies the umask, or a default access list in its place.
    InitFlags::FUSE_DONT_MASK,
    InitFlags::FUSE_POSIX_LOCKS,
    InitFlags::FUSE_FLOCK_LOCKS,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_ASYNC_DIO,
];

/// What fuser calls.
pub struct Adapter {
    pub(super) fs: Arc<Fs>,
    pub(super) options: ServeOptions,
    pub(super) root: Root,
    pub(super) lanes: Lanes,
    /// There as soon as the kernel was greeted.
    pub(super) notifier: Arc<OnceLock<fuser::Notifier>>,
    /// The kernel enforces access lists.
    access_lists: bool,
    /// The kernel's pages stay out of files opened to append, and of what another mount is changing. From Linux 6.6 on, which keeps
    /// them right for others who have the file open, and allows mmap(2) all the same.
    pub(super) has_uncached: bool,
}

impl Adapter {
    /// Answers for `fs`, with what takes time on `lanes`.
    pub fn new(
        fs: Arc<Fs>,
        options: ServeOptions,
        lanes: Lanes,
        notifier: Arc<OnceLock<fuser::Notifier>>,
    ) -> Adapter {
        let root = Root::new(options.root);
        Adapter { fs, options, root, lanes, notifier, access_lists: false, has_uncached: false }
    }

    fn caller(&self, request: &Request) -> Caller {
        requester::caller(request, self.options.squash)
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

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for capability in CAPABILITIES {
            if config.add_capabilities(capability).is_err() {
                tracing::info!(?capability, "this kernel does not have it");
            }
        }
        self.access_lists = config.add_capabilities(InitFlags::FUSE_POSIX_ACL).is_ok();
        self.has_uncached = config.add_capabilities(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP).is_ok();
        // Each of these answers with the nearest that the kernel takes.
        if let Err(nearest) = config.set_max_write(MAX_WRITE) {
            let _ = config.set_max_write(nearest);
        }
        if let Err(nearest) = config.set_max_readahead(MAX_WRITE) {
            let _ = config.set_max_readahead(nearest);
        }
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (fs, caller, parent_inode, name) =
            (self.fs.clone(), self.caller(request), self.root.inward(parent), name.as_bytes().to_vec());
        let asked = name.clone();
        self.entry(Call::new(request, "lookup", parent), name, reply, async move {
            fs.lookup(caller, parent_inode, &asked).await
        });
    }

    fn getattr(&self, request: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let (fs, inode) = (self.fs.clone(), self.root.inward(ino));
        self.attr(Call::new(request, "getattr", ino), reply, async move { fs.getattr(inode).await });
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (atime, atime_now) = given(atime);
        let (mtime, mtime_now) = given(mtime);
        let mode = mode.map(|mode| mode & 0o7777);
        let setattr = pb::Setattr {
            inode: self.root.inward(ino).0,
            mode,
            uid,
            gid,
            size,
            atime,
            mtime,
            atime_now,
            mtime_now,
        };
        let caller = requester::setattr_caller(self.caller(request), &setattr, fh);
        let fs = self.fs.clone();
        self.attr(
            Call::new(request, "setattr", ino),
            reply,
            async move { fs.setattr(caller, setattr).await },
        );
    }

    fn readlink(&self, request: &Request, ino: INodeNo, reply: ReplyData) {
        let fs = self.fs.clone();
        let work = async move { fs.readlink(InodeNo(ino.0)).await };
        self.answer(Lane::Control, Call::new(request, "readlink", ino), reply, work, |reply, target| {
            reply.data(&target)
        });
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let (fs, parent_inode, caller, name) =
            (self.fs.clone(), self.root.inward(parent), self.caller(request), name.as_bytes().to_vec());
        let given = name.clone();
        self.entry(Call::new(request, "mknod", parent), given, reply, async move {
            fs.mknod(caller, parent_inode, &name, mode, umask, rdev).await
        });
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let (fs, parent_inode, caller, name) =
            (self.fs.clone(), self.root.inward(parent), self.caller(request), name.as_bytes().to_vec());
        let given = name.clone();
        self.entry(Call::new(request, "mkdir", parent), given, reply, async move {
            fs.mkdir(caller, parent_inode, &name, mode, umask).await
        });
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, caller, parent_inode, name) =
            (self.fs.clone(), self.caller(request), self.root.inward(parent), name.as_bytes().to_vec());
        self.done(Call::new(request, "unlink", parent), reply, async move {
            fs.unlink(caller, parent_inode, &name).await
        });
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, caller, parent_inode, name) =
            (self.fs.clone(), self.caller(request), self.root.inward(parent), name.as_bytes().to_vec());
        self.done(Call::new(request, "rmdir", parent), reply, async move {
            fs.rmdir(caller, parent_inode, &name).await
        });
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let (fs, parent_inode, caller, name) =
            (self.fs.clone(), self.root.inward(parent), self.caller(request), name.as_bytes().to_vec());
        let target = target.as_os_str().as_bytes().to_vec();
        let given = name.clone();
        self.entry(Call::new(request, "symlink", parent), given, reply, async move {
            fs.symlink(caller, parent_inode, &name, &target).await
        });
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let known = RenameFlags::RENAME_NOREPLACE | RenameFlags::RENAME_EXCHANGE;
        if !known.contains(flags) {
            return reply.error(Errno::EINVAL);
        }
        let rename = pb::Rename {
            parent: self.root.inward(parent).0,
            name: name.as_bytes().to_vec().into(),
            new_parent: self.root.inward(newparent).0,
            new_name: newname.as_bytes().to_vec().into(),
            no_replace: flags.contains(RenameFlags::RENAME_NOREPLACE),
            exchange: flags.contains(RenameFlags::RENAME_EXCHANGE),
        };
        let (fs, caller) = (self.fs.clone(), self.caller(request));
        self.done(
            Call::new(request, "rename", parent),
            reply,
            async move { fs.rename(caller, rename).await },
        );
    }

    fn link(&self, request: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let (fs, caller, new_parent, name) =
            (self.fs.clone(), self.caller(request), self.root.inward(newparent), newname.as_bytes().to_vec());
        let given = name.clone();
        self.entry(Call::new(request, "link", newparent), given, reply, async move {
            fs.link(caller, InodeNo(ino.0), new_parent, &name).await
        });
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (fs, caller) = (self.fs.clone(), self.caller(request));
        let work = async move { fs.open(caller, InodeNo(ino.0), flags.0).await };
        let uncached = self.has_uncached;
        self.answer(Lane::Control, Call::new(request, "open", ino), reply, work, move |reply, opened| {
            reply.opened(FileHandle(opened.handle), open_flags(opened, uncached));
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (fs, parent_inode, caller, name) =
            (self.fs.clone(), self.root.inward(parent), self.caller(request), name.as_bytes().to_vec());
        let given = name.clone();
        self.created(Call::new(request, "create", parent), given, reply, async move {
            fs.create(caller, parent_inode, &name, mode, umask, flags).await
        });
    }

    fn read(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if self.fs.lost_lock(fh.0) {
            return reply.error(Errno::EIO);
        }
        if let Some(data) = self.fs.try_read(fh.0, offset, size as usize) {
            return reply.data(&data);
        }
        let fs = self.fs.clone();
        let work = async move { fs.read(fh.0, offset, size as usize).await };
        let lane = Lane::carrying(size as usize);
        self.answer(lane, Call::new(request, "read", ino), reply, work, |reply, data| reply.data(&data));
    }

    fn write(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let call = Call::new(request, "write", ino);
        if self.fs.lost_lock(fh.0) {
            return reply.error(Errno::EIO);
        }
        // Not of the kernel's pages: what mmap wrote has its place.
        let appends = flags.0 & libc::O_APPEND != 0 && !write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let keeps_set_ids = !write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        if (appends || !keeps_set_ids) && self.fs.may_be_privileged(fh.0, keeps_set_ids) {
            let offset = (!appends).then_some(offset);
            return self.write_and_clear(call, fh, offset, keeps_set_ids, data, reply);
        }
        if appends {
            return self.append(call, fh, offset, data, reply);
        }
        // The kernel never sends more than MAX_WRITE.
        let length = data.len() as u32;
        match self.fs.try_write(fh.0, offset, data) {
            Some(Ok(())) => reply.written(length),
            Some(Err(error)) => reply.error(call.errno(&error)),
            None => {
                let (fs, data) = (self.fs.clone(), data.to_vec());
                let work = async move { fs.write(fh.0, offset, &data).await };
                let lane = Lane::carrying(length as usize);
                self.answer(lane, call, reply, work, move |reply, ()| reply.written(length));
            }
        }
    }

    fn flush(&self, request: &Request, ino: INodeNo, fh: FileHandle, owner: LockOwner, reply: ReplyEmpty) {
        let fs = self.fs.clone();
        self.done(Call::new(request, "flush", ino), reply, async move {
            fs.close_and_unlock(fh.0, InodeNo(ino.0), owner.0).await
        });
    }

    fn fsync(&self, request: &Request, ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let fs = self.fs.clone();
        self.done(Call::new(request, "fsync", ino), reply, async move { fs.fsync(fh.0).await });
    }

    fn release(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let fs = self.fs.clone();
        let unlocked = fs.unlock_handle(InodeNo(ino.0), fh.0);
        self.done(Call::new(request, "release", ino), reply, async move {
            unlocked.await;
            fs.release(fh.0).await;
            Ok(())
        });
    }

    fn getlk(
        &self,
        request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        lock_owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        reply: ReplyLock,
    ) {
        let Some(wanted) = LockRequest::decode(ino, lock_owner, (start, end), typ, pid) else {
            return reply.error(Errno::EINVAL);
        };
        let (fs, call) = (self.fs.clone(), Call::new(request, "getlk", ino));
        self.control().spawn(async move { lock_requests::get(&fs, call, wanted, reply).await });
    }

    fn setlk(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        lock_owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        sleep: bool,
        reply: ReplyEmpty,
    ) {
        let Some(wanted) = LockRequest::decode(ino, lock_owner, (start, end), typ, pid) else {
            return reply.error(Errno::EINVAL);
        };
        let fs = self.fs.clone();
        let (notifier, call) = (self.notifier.clone(), Call::new(request, "setlk", ino));
        self.control().spawn(async move {
            match lock_requests::set(&fs, fh.0, wanted, call, sleep).await {
                Ok(fresh) => {
                    if !fresh {
                        // What others wrote before they unlocked must be seen by who has the lock now.
                        forget_pages(&notifier, ino).await;
                    }
                    reply.ok();
                }
                Err(errno) => reply.error(errno),
            }
        });
    }

    fn lseek(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let what = match whence {
            libc::SEEK_DATA => Seek::Data,
            libc::SEEK_HOLE => Seek::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        let (fs, call) = (self.fs.clone(), Call::new(request, "lseek", ino));
        self.control().spawn(async move {
            match call.unless_ended(&fs, fs.seek(fh.0, offset, what)).await {
                Ok(found) => reply.offset(i64::try_from(found).unwrap_or(i64::MAX)),
                // The one place where the kernel wants ENXIO (lseek(2)).
                Err(error) if error.code == dfs_proto::error::ErrorCode::Invalid => reply.error(Errno::ENXIO),
                Err(error) => reply.error(call.errno(&error)),
            }
        });
    }

    fn fallocate(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let Some(how) = Allocate::from_mode(mode) else { return reply.error(Errno::EOPNOTSUPP) };
        let fs = self.fs.clone();
        self.done(Call::new(request, "fallocate", ino), reply, async move {
            fs.fallocate(fh.0, offset, length, how).await
        });
    }

    fn copy_file_range(
        &self,
        request: &Request,
        _ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        // There are no flags yet (copy_file_range(2)).
        if flags.bits() != 0 {
            return reply.error(Errno::EINVAL);
        }
        let fs = self.fs.clone();
        let work = async move { fs.copy_file_range((fh_in.0, offset_in), (fh_out.0, offset_out), len).await };
        self.answer_change(
            Call::new(request, "copy_file_range", ino_out),
            reply,
            work,
            |reply: ReplyWrite, copied| reply.written(copied),
        );
    }

    fn opendir(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (fs, caller, inode) = (self.fs.clone(), self.caller(request), self.root.inward(ino));
        let open = move |reply: ReplyOpen| {
            let (handle, is_list_right) = fs.opendir(inode, flags.0);
            reply.opened(FileHandle(handle), opendir_flags(is_list_right));
        };
        if !caller.squashed {
            return open(reply);
        }
        let fs = self.fs.clone();
        let allowed = async move { fs.check_opendir(caller, inode).await };
        self.answer(Lane::Control, Call::new(request, "opendir", ino), reply, allowed, move |reply, ()| {
            open(reply)
        });
    }

    fn readdir(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let (fs, root, call) = (self.fs.clone(), self.root, Call::new(request, "readdir", ino));
        let directory = root.inward(ino);
        self.control().spawn(async move {
            let listed = fs.readdir(fh.0, offset, |entry| {
                let mode = entry.attr.map_or(libc::S_IFDIR, |attr| attr.mode);
                reply.add(
                    root.entry(directory, &entry),
                    entry.cookie,
                    file_type(mode),
                    OsStr::from_bytes(entry.name),
                )
            });
            match call.unless_ended(&fs, listed).await {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(call.errno(&error)),
            }
        });
    }

    fn readdirplus(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let (fs, root, longest) =
            (self.fs.clone(), self.root, self.options.entry_timeout.min(self.options.attr_timeout));
        let (directory, call) = (root.inward(ino), Call::new(request, "readdirplus", ino));
        self.control().spawn(async move {
            let listed = fs.readdir(fh.0, offset, |entry| {
                // "." and ".." are not looked up: the kernel takes nothing of them but number and type.
                let dots = pb::Attr { inode: entry.inode.0, mode: libc::S_IFDIR, ..Default::default() };
                let number = root.entry(directory, &entry);
                let attr = FileAttr { ino: number, ..root.attr(&entry.attr.unwrap_or(dots)) };
                let ttl = entry.ttl.entry.min(entry.ttl.attr).min(longest);
                reply.add(number, entry.cookie, OsStr::from_bytes(entry.name), &ttl, &attr, GENERATION)
            });
            match call.unless_ended(&fs, listed).await {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(call.errno(&error)),
            }
        });
    }

    fn releasedir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.fs.releasedir(fh.0);
        reply.ok();
    }

    /// The master's record of names was durable before it was told.
    fn fsyncdir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn statfs(&self, request: &Request, ino: INodeNo, reply: ReplyStatfs) {
        const BLOCK: u32 = 4096;
        // As many as there may ever be; statfs has no word for "no limit".
        const FREE_INODES: u64 = 1 << 40;
        let (fs, call) = (self.fs.clone(), Call::new(request, "statfs", ino));
        self.control().spawn(async move {
            match call.unless_ended(&fs, fs.statfs(InodeNo(ino.0))).await {
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

    fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        // Nobody may rely on a list that the kernel does not look at.
        if !self.access_lists && is_access_list(name.as_bytes()) {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let setxattr = pb::Setxattr {
            inode: self.root.inward(ino).0,
            name: name.as_bytes().to_vec().into(),
            value: value.to_vec().into(),
            create_only: flags & libc::XATTR_CREATE != 0,
            replace_only: flags & libc::XATTR_REPLACE != 0,
        };
        let (fs, caller) = (self.fs.clone(), self.caller(request));
        self.done(
            Call::new(request, "setxattr", ino),
            reply,
            async move { fs.setxattr(caller, setxattr).await },
        );
    }

    fn getxattr(&self, request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let (fs, caller, inode, name) =
            (self.fs.clone(), self.caller(request), self.root.inward(ino), name.as_bytes().to_vec());
        // Computing one can take long, and whoever waits must be able to give up.
        let thread = if is_virtual(&name) { request.pid() } else { 0 };
        let work = async move {
            tokio::select! {
                value = fs.getxattr(caller, inode, &name) => value,
                () = signals::wait_for_signal(thread) => {
                    Err(DfsError::new(ErrorCode::Interrupted, "a signal ended the wait"))
                }
            }
        };
        self.answer(Lane::Control, Call::new(request, "getxattr", ino), reply, work, move |reply, value| {
            reply_value(reply, size, &value)
        });
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let (fs, caller, inode) = (self.fs.clone(), self.caller(request), self.root.inward(ino));
        let work = async move { fs.listxattr(caller, inode).await };
        self.answer(Lane::Control, Call::new(request, "listxattr", ino), reply, work, move |reply, names| {
            reply_value(reply, size, &names)
        });
    }

    fn removexattr(&self, request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, caller, inode, name) =
            (self.fs.clone(), self.caller(request), self.root.inward(ino), name.as_bytes().to_vec());
        self.done(Call::new(request, "removexattr", ino), reply, async move {
            fs.removexattr(caller, inode, &name).await
        });
    }
}
