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
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyLock, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow, WriteFlags,
};
use tokio::runtime::Handle;

use super::ServeOptions;
use super::answers::{GENERATION, open_flags, opendir_flags};
use super::convert::{errno, file_attr, file_type, given};
use super::signals;
use crate::fs::extent_ops::Allocate;
use crate::fs::{Caller, Fs, Seek};

/// Largest write request that we ask the kernel for, in bytes. It sends at most 1 MiB.
const MAX_WRITE: u32 = 1 << 20;

/// Requests that the kernel may have under way by itself (readahead), at once.
const MAX_BACKGROUND: u16 = 64;

/// Wanted of the kernel where it has it. None of those with which fuser 0.18.0 has trouble
/// (FUSE_SETXATTR_EXT, FUSE_HANDLE_KILLPRIV_V2).
const CAPABILITIES: [InitFlags; 6] = [
    // Not FUSE_FLOCK_LOCKS: fuser 0.18.0 does not say which of the two a request is for.
    InitFlags::FUSE_POSIX_LOCKS,
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
    pub(super) runtime: Handle,
    /// There as soon as the kernel was greeted.
    notifier: Arc<OnceLock<fuser::Notifier>>,
}

impl Adapter {
    /// Answers for `fs`, with what takes time on `runtime`.
    pub fn new(
        fs: Arc<Fs>,
        options: ServeOptions,
        runtime: Handle,
        notifier: Arc<OnceLock<fuser::Notifier>>,
    ) -> Adapter {
        Adapter { fs, options, runtime, notifier }
    }
}

fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid() }
}

fn lock_mode(typ: i32) -> Option<pb::LockMode> {
    match typ {
        libc::F_RDLCK => Some(pb::LockMode::Shared),
        libc::F_WRLCK => Some(pb::LockMode::Exclusive),
        libc::F_UNLCK => Some(pb::LockMode::Unlock),
        _ => None,
    }
}

fn lock_type(mode: i32) -> i32 {
    if mode == pb::LockMode::Shared as i32 { libc::F_RDLCK } else { libc::F_WRLCK }
}

fn file_lock(
    ino: INodeNo,
    owner: LockOwner,
    (start, end, mode): (u64, u64, pb::LockMode),
    pid: u32,
) -> pb::FileLock {
    pb::FileLock { inode: ino.0, owner: owner.0, flock: false, start, end, mode: mode as i32, pid }
}

/// fcntl(2) has a word of its own for too many locks.
fn lock_errno(operation: &str, ino: INodeNo, error: &DfsError) -> Errno {
    match error.code {
        ErrorCode::Busy => Errno::from_i32(libc::ENOLCK),
        _ => errno(operation, ino.0, error),
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

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (fs, name) = (self.fs.clone(), name.as_bytes().to_vec());
        let asked = name.clone();
        self.entry("lookup", parent, name, reply, async move { fs.lookup(InodeNo(parent.0), &asked).await });
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let fs = self.fs.clone();
        self.attr("getattr", ino, reply, async move { fs.getattr(InodeNo(ino.0)).await });
    }

    fn setattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (atime, atime_now) = given(atime);
        let (mtime, mtime_now) = given(mtime);
        let mode = mode.map(|mode| mode & 0o7777);
        let setattr = pb::Setattr { inode: ino.0, mode, uid, gid, size, atime, mtime, atime_now, mtime_now };
        let fs = self.fs.clone();
        self.attr("setattr", ino, reply, async move { fs.setattr(setattr).await });
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        let fs = self.fs.clone();
        let work = async move { fs.readlink(InodeNo(ino.0)).await };
        self.answer("readlink", ino, reply, work, |reply, target| reply.data(&target));
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let (fs, caller, name) = (self.fs.clone(), caller(request), name.as_bytes().to_vec());
        let given = name.clone();
        self.entry("mknod", parent, given, reply, async move {
            fs.mknod(caller, InodeNo(parent.0), &name, mode, rdev).await
        });
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let (fs, caller, name) = (self.fs.clone(), caller(request), name.as_bytes().to_vec());
        let given = name.clone();
        self.entry("mkdir", parent, given, reply, async move {
            fs.mkdir(caller, InodeNo(parent.0), &name, mode).await
        });
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, name) = (self.fs.clone(), name.as_bytes().to_vec());
        self.done("unlink", parent, reply, async move { fs.unlink(InodeNo(parent.0), &name).await });
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, name) = (self.fs.clone(), name.as_bytes().to_vec());
        self.done("rmdir", parent, reply, async move { fs.rmdir(InodeNo(parent.0), &name).await });
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let (fs, caller, name) = (self.fs.clone(), caller(request), name.as_bytes().to_vec());
        let target = target.as_os_str().as_bytes().to_vec();
        let given = name.clone();
        self.entry("symlink", parent, given, reply, async move {
            fs.symlink(caller, InodeNo(parent.0), &name, &target).await
        });
    }

    fn rename(
        &self,
        _request: &Request,
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
            parent: parent.0,
            name: name.as_bytes().to_vec().into(),
            new_parent: newparent.0,
            new_name: newname.as_bytes().to_vec().into(),
            no_replace: flags.contains(RenameFlags::RENAME_NOREPLACE),
            exchange: flags.contains(RenameFlags::RENAME_EXCHANGE),
        };
        let fs = self.fs.clone();
        self.done("rename", parent, reply, async move { fs.rename(rename).await });
    }

    fn link(&self, _request: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let (fs, name) = (self.fs.clone(), newname.as_bytes().to_vec());
        let given = name.clone();
        self.entry("link", newparent, given, reply, async move {
            fs.link(InodeNo(ino.0), InodeNo(newparent.0), &name).await
        });
    }

    fn open(&self, _request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let fs = self.fs.clone();
        let work = async move { fs.open(InodeNo(ino.0), flags.0).await };
        self.answer("open", ino, reply, work, |reply, opened| {
            reply.opened(FileHandle(opened.handle), open_flags(opened));
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (fs, caller, name) = (self.fs.clone(), caller(request), name.as_bytes().to_vec());
        let longest = self.options.entry_timeout.min(self.options.attr_timeout);
        let asked = fs.ask();
        self.runtime.spawn(async move {
            match fs.create(caller, InodeNo(parent.0), &name, mode, flags).await {
                Ok((attr, opened)) => {
                    let ttl = fs.may_cache_entry(asked, InodeNo(parent.0), &name, Some(&attr));
                    let ttl = ttl.entry.min(ttl.attr).min(longest);
                    let handle = FileHandle(opened.handle);
                    reply.created(&ttl, &file_attr(&attr), GENERATION, handle, open_flags(opened));
                }
                Err(error) => reply.error(errno("create", parent.0, &error)),
            }
        });
    }

    fn read(
        &self,
        _request: &Request,
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
        self.answer("read", ino, reply, work, |reply, data| reply.data(&data));
    }

    fn write(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        if self.fs.lost_lock(fh.0) {
            return reply.error(Errno::EIO);
        }
        // The kernel never sends more than MAX_WRITE.
        let length = data.len() as u32;
        match self.fs.try_write(fh.0, offset, data) {
            Some(Ok(())) => reply.written(length),
            Some(Err(error)) => reply.error(errno("write", ino.0, &error)),
            None => {
                let (fs, data) = (self.fs.clone(), data.to_vec());
                let work = async move { fs.write(fh.0, offset, &data).await };
                self.answer("write", ino, reply, work, move |reply, ()| reply.written(length));
            }
        }
    }

    fn flush(&self, _request: &Request, ino: INodeNo, fh: FileHandle, owner: LockOwner, reply: ReplyEmpty) {
        let fs = self.fs.clone();
        self.done(
            "flush",
            ino,
            reply,
            async move { fs.close_and_unlock(fh.0, InodeNo(ino.0), owner.0).await },
        );
    }

    fn fsync(&self, _request: &Request, ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let fs = self.fs.clone();
        self.done("fsync", ino, reply, async move { fs.fsync(fh.0).await });
    }

    fn release(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let fs = self.fs.clone();
        self.done("release", ino, reply, async move {
            fs.unlock_handle(InodeNo(ino.0), fh.0).await;
            fs.release(fh.0).await;
            Ok(())
        });
    }

    fn getlk(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        lock_owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        reply: ReplyLock,
    ) {
        let Some(mode) = lock_mode(typ) else { return reply.error(Errno::EINVAL) };
        let lock = file_lock(ino, lock_owner, (start, end, mode), pid);
        let fs = self.fs.clone();
        self.runtime.spawn(async move {
            match fs.get_lock(lock).await {
                Ok(Some(held)) => reply.locked(held.start, held.end, lock_type(held.mode), held.pid),
                Ok(None) => reply.locked(start, end, libc::F_UNLCK, 0),
                Err(error) => reply.error(lock_errno("getlk", ino, &error)),
            }
        });
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
        let Some(mode) = lock_mode(typ) else { return reply.error(Errno::EINVAL) };
        let lock = file_lock(ino, lock_owner, (start, end, mode), pid);
        let signal = signals::wait_for_signal(request.pid());
        let (fs, notifier) = (self.fs.clone(), self.notifier.clone());
        self.runtime.spawn(async move {
            match fs.set_lock(fh.0, lock, sleep, signal).await {
                Ok(fresh) => {
                    if let Some(notifier) = notifier.get().filter(|_| !fresh).cloned() {
                        // What others wrote before they unlocked must be seen by who has the lock now. The
                        // kernel may make the notice wait, so not on this thread.
                        let told = move || notifier.inval_inode(ino, 0, 0);
                        let _ = tokio::task::spawn_blocking(told).await;
                    }
                    reply.ok();
                }
                Err(error) => reply.error(lock_errno("setlk", ino, &error)),
            }
        });
    }

    fn lseek(
        &self,
        _request: &Request,
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
        let fs = self.fs.clone();
        self.runtime.spawn(async move {
            match fs.seek(fh.0, offset, what).await {
                Ok(found) => reply.offset(i64::try_from(found).unwrap_or(i64::MAX)),
                // The one place where the kernel wants ENXIO (lseek(2)).
                Err(error) if error.code == dfs_proto::error::ErrorCode::Invalid => reply.error(Errno::ENXIO),
                Err(error) => reply.error(errno("lseek", ino.0, &error)),
            }
        });
    }

    fn fallocate(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let Some(how) = Allocate::from_mode(mode) else { return reply.error(Errno::EOPNOTSUPP) };
        let fs = self.fs.clone();
        self.done("fallocate", ino, reply, async move { fs.fallocate(fh.0, offset, length, how).await });
    }

    fn copy_file_range(
        &self,
        _request: &Request,
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
        self.answer("copy_file_range", ino_out, reply, work, |reply, copied| reply.written(copied));
    }

    fn opendir(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let (handle, is_list_right) = self.fs.opendir(InodeNo(ino.0));
        reply.opened(FileHandle(handle), opendir_flags(is_list_right));
    }

    fn readdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let fs = self.fs.clone();
        self.runtime.spawn(async move {
            let listed = fs.readdir(fh.0, offset, |entry| {
                let mode = entry.attr.map_or(libc::S_IFDIR, |attr| attr.mode);
                reply.add(
                    INodeNo(entry.inode.0),
                    entry.cookie,
                    file_type(mode),
                    OsStr::from_bytes(entry.name),
                )
            });
            match listed.await {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno("readdir", ino.0, &error)),
            }
        });
    }

    fn readdirplus(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let (fs, longest) = (self.fs.clone(), self.options.entry_timeout.min(self.options.attr_timeout));
        self.runtime.spawn(async move {
            let listed = fs.readdir(fh.0, offset, |entry| {
                // "." and ".." are not looked up: the kernel takes nothing of them but number and type.
                let dots = pb::Attr { inode: entry.inode.0, mode: libc::S_IFDIR, ..Default::default() };
                let attr = file_attr(&entry.attr.unwrap_or(dots));
                let ttl = entry.ttl.entry.min(entry.ttl.attr).min(longest);
                reply.add(
                    INodeNo(entry.inode.0),
                    entry.cookie,
                    OsStr::from_bytes(entry.name),
                    &ttl,
                    &attr,
                    GENERATION,
                )
            });
            match listed.await {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno("readdirplus", ino.0, &error)),
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

    fn statfs(&self, _request: &Request, ino: INodeNo, reply: ReplyStatfs) {
        const BLOCK: u32 = 4096;
        // As many as there may ever be; statfs has no word for "no limit".
        const FREE_INODES: u64 = 1 << 40;
        let fs = self.fs.clone();
        self.runtime.spawn(async move {
            match fs.statfs().await {
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
                Err(error) => reply.error(errno("statfs", ino.0, &error)),
            }
        });
    }

    fn setxattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let setxattr = pb::Setxattr {
            inode: ino.0,
            name: name.as_bytes().to_vec().into(),
            value: value.to_vec().into(),
            create_only: flags & libc::XATTR_CREATE != 0,
            replace_only: flags & libc::XATTR_REPLACE != 0,
        };
        let fs = self.fs.clone();
        self.done("setxattr", ino, reply, async move { fs.setxattr(setxattr).await });
    }

    fn getxattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let (fs, name) = (self.fs.clone(), name.as_bytes().to_vec());
        let work = async move { fs.getxattr(InodeNo(ino.0), &name).await };
        self.answer("getxattr", ino, reply, work, move |reply, value| reply_value(reply, size, &value));
    }

    fn listxattr(&self, _request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let fs = self.fs.clone();
        let work = async move { fs.listxattr(InodeNo(ino.0)).await };
        self.answer("listxattr", ino, reply, work, move |reply, names| reply_value(reply, size, &names));
    }

    fn removexattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, name) = (self.fs.clone(), name.as_bytes().to_vec());
        self.done("removexattr", ino, reply, async move { fs.removexattr(InodeNo(ino.0), &name).await });
    }
}
