//! One method per kernel request: decode it, hand it to [`Fs`], reply.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use dfs_proto::ids::InodeNo;
use dfs_proto::pb;
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, INodeNo, KernelConfig, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyLock, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow, WriteFlags,
};

use super::ServeOptions;
use super::answers::open_flags;
use super::convert::given;
use super::greeting::{Greeted, greet};
use super::lock_requests::{self, LockRequest};
use super::metrics::{FuseOp, Metrics};
use super::requester;
use super::root::Root;
use crate::client::lanes::{Lane, Lanes};
use crate::fs::extent_ops::Allocate;
use crate::fs::{Caller, Fs};

/// What fuser calls.
pub struct Adapter {
    pub(super) fs: Arc<Fs>,
    pub(super) options: ServeOptions,
    pub(super) root: Root,
    pub(super) lanes: Lanes,
    /// There as soon as the kernel was greeted.
    pub(super) notifier: Arc<OnceLock<fuser::Notifier>>,
    pub(super) metrics: Arc<Metrics>,
    /// What the kernel can do.
    pub(super) greeted: Greeted,
}

impl Adapter {
    /// Answers for `fs`, with what takes time on `lanes`.
    pub fn new(
        fs: Arc<Fs>,
        options: ServeOptions,
        lanes: Lanes,
        notifier: Arc<OnceLock<fuser::Notifier>>,
        metrics: Arc<Metrics>,
    ) -> Adapter {
        let root = Root::new(options.root);
        Adapter { fs, options, root, lanes, notifier, metrics, greeted: Greeted::default() }
    }

    fn caller(&self, request: &Request) -> Caller {
        let checked = self.options.master_checks || self.fs.maps_ids();
        requester::caller(request, self.options.squash, checked)
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        self.greeted = greet(config, self.options.master_checks);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (fs, caller, parent_inode, name) =
            (self.fs.clone(), self.caller(request), self.root.inward(parent), name.as_bytes().to_vec());
        let call = self.call(request, FuseOp::Lookup, parent);
        if let Some(known) = fs.known_entry(&caller, parent_inode, &name) {
            return self.known_entry(known, reply);
        }
        let asked = name.clone();
        self.entry(call, name, reply, async move { fs.lookup(caller, parent_inode, &asked).await });
    }

    fn getattr(&self, request: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let (fs, inode) = (self.fs.clone(), self.root.inward(ino));
        let call = self.call(request, FuseOp::Getattr, ino);
        if let Some((attr, ttl, asked)) = fs.known_attr(inode) {
            reply.attr(&ttl.min(self.options.attr_timeout), &self.root.attr(&attr));
            return fs.told_known(inode, asked);
        }
        self.attr(call, reply, async move { fs.getattr(inode).await });
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
        self.attr(self.call(request, FuseOp::Setattr, ino), reply, async move {
            fs.setattr(caller, setattr).await
        });
    }

    fn readlink(&self, request: &Request, ino: INodeNo, reply: ReplyData) {
        let fs = self.fs.clone();
        let work = async move { fs.readlink(InodeNo(ino.0)).await };
        self.answer(
            Lane::Control,
            self.call(request, FuseOp::Readlink, ino),
            reply,
            work,
            |reply, target| reply.data(&target),
        );
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
        self.entry(self.call(request, FuseOp::Mknod, parent), given, reply, async move {
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
        self.entry(self.call(request, FuseOp::Mkdir, parent), given, reply, async move {
            fs.mkdir(caller, parent_inode, &name, mode, umask).await
        });
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, caller, parent_inode, name) =
            (self.fs.clone(), self.caller(request), self.root.inward(parent), name.as_bytes().to_vec());
        self.removed(self.call(request, FuseOp::Unlink, parent), reply, async move {
            fs.unlink(caller, parent_inode, &name).await
        });
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, caller, parent_inode, name) =
            (self.fs.clone(), self.caller(request), self.root.inward(parent), name.as_bytes().to_vec());
        self.done(self.call(request, FuseOp::Rmdir, parent), reply, async move {
            fs.rmdir(caller, parent_inode, &name).await
        });
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let (fs, parent_inode, caller, name) =
            (self.fs.clone(), self.root.inward(parent), self.caller(request), name.as_bytes().to_vec());
        let target = target.as_os_str().as_bytes().to_vec();
        let given = name.clone();
        self.entry(self.call(request, FuseOp::Symlink, parent), given, reply, async move {
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
        self.removed(self.call(request, FuseOp::Rename, parent), reply, async move {
            fs.rename(caller, rename).await
        });
    }

    fn link(&self, request: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let (fs, caller, new_parent, name) =
            (self.fs.clone(), self.caller(request), self.root.inward(newparent), newname.as_bytes().to_vec());
        let given = name.clone();
        self.entry(self.call(request, FuseOp::Link, newparent), given, reply, async move {
            fs.link(caller, InodeNo(ino.0), new_parent, &name).await
        });
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (fs, caller) = (self.fs.clone(), self.caller(request));
        let work = async move { fs.open(caller, InodeNo(ino.0), flags.0).await };
        let uncached = self.greeted.uncached;
        self.answer(
            Lane::Control,
            self.call(request, FuseOp::Open, ino),
            reply,
            work,
            move |reply, opened| {
                reply.opened(FileHandle(opened.handle), open_flags(opened, uncached));
            },
        );
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
        self.created(self.call(request, FuseOp::Create, parent), given, reply, async move {
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
        self.read_data(self.call(request, FuseOp::Read, ino), fh, offset, size as usize, reply);
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
        self.write_data(
            self.call(request, FuseOp::Write, ino),
            fh,
            offset,
            data,
            (write_flags, flags),
            reply,
        );
    }

    fn flush(&self, request: &Request, ino: INodeNo, fh: FileHandle, owner: LockOwner, reply: ReplyEmpty) {
        let call = self.call(request, FuseOp::Flush, ino);
        if self.fs.closes_at_once(fh.0, InodeNo(ino.0)) {
            return reply.ok();
        }
        let fs = self.fs.clone();
        self.done(call, reply, async move { fs.close_and_unlock(fh.0, InodeNo(ino.0), owner.0).await });
    }

    fn fsync(&self, request: &Request, ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let fs = self.fs.clone();
        self.done(self.call(request, FuseOp::Fsync, ino), reply, async move { fs.fsync(fh.0).await });
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
        let call = self.call(request, FuseOp::Release, ino);
        if self.fs.try_release(fh.0) {
            return reply.ok();
        }
        let (fs, unlocked) = (self.fs.clone(), self.fs.unlock_handle(InodeNo(ino.0), fh.0));
        self.done(call, reply, async move {
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
        let (fs, call) = (self.fs.clone(), self.call(request, FuseOp::Getlk, ino));
        self.work_for(Lane::Control, call.number, async move {
            lock_requests::get(&fs, call, wanted, reply).await
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
        let Some(wanted) = LockRequest::decode(ino, lock_owner, (start, end), typ, pid) else {
            return reply.error(Errno::EINVAL);
        };
        self.lock(self.call(request, FuseOp::Setlk, ino), fh, wanted, sleep, reply);
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
        self.find_data(self.call(request, FuseOp::Lseek, ino), fh, offset, whence, reply);
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
        self.done(self.call(request, FuseOp::Fallocate, ino), reply, async move {
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
            self.call(request, FuseOp::CopyFileRange, ino_out),
            reply,
            work,
            |reply: ReplyWrite, copied| reply.written(copied),
        );
    }

    fn opendir(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.open_directory(self.call(request, FuseOp::Opendir, ino), self.caller(request), flags.0, reply);
    }

    fn readdir(&self, request: &Request, ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectory) {
        self.list(self.call(request, FuseOp::Readdir, ino), fh, offset, reply);
    }

    fn readdirplus(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.list_plus(self.call(request, FuseOp::Readdirplus, ino), fh, offset, reply);
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
        self.space(self.call(request, FuseOp::Statfs, ino), reply);
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
        let (call, named) = (self.call(request, FuseOp::Setxattr, ino), (name.as_bytes(), value));
        self.set_value(call, self.caller(request), named, flags, reply);
    }

    fn getxattr(&self, request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let call = self.call(request, FuseOp::Getxattr, ino);
        self.value(call, self.caller(request), name.as_bytes(), size, reply);
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.value_names(self.call(request, FuseOp::Listxattr, ino), self.caller(request), size, reply);
    }

    fn removexattr(&self, request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let call = self.call(request, FuseOp::Removexattr, ino);
        self.remove_value(call, self.caller(request), name.as_bytes(), reply);
    }
}
