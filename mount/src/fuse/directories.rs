//! Lists of directories for the kernel. What is known is answered at once; the rest on the runtime.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use dfs_proto::ids::InodeNo;
use dfs_proto::pb;
use fuser::{FileAttr, FileHandle, FopenFlags, ReplyDirectory, ReplyDirectoryPlus, ReplyOpen};

use super::adapter::Adapter;
use super::answers::GENERATION;
use super::convert::file_type;
use super::requester::Call;
use super::root::Root;
use crate::client::lanes::Lane;
use crate::fs::Caller;
use crate::fs::dir::{Entry, Wanted};

impl Adapter {
    /// Opens a directory; `flags` as open(2) has them.
    pub(super) fn open_directory(&self, call: Call, caller: Caller, flags: i32, reply: ReplyOpen) {
        let (fs, inode) = (self.fs.clone(), self.root.inward(call.inode));
        let opened = fs.clone();
        let open = move |reply: ReplyOpen| {
            // Without FOPEN_CACHE_DIR: the kernel keeps no list (`fs::lists`).
            reply.opened(FileHandle(opened.opendir(inode, flags)), FopenFlags::empty());
        };
        if !caller.checked {
            return open(reply);
        }
        let allowed = async move { fs.check_opendir(caller, inode).await };
        self.answer(Lane::Control, call, reply, allowed, move |reply, ()| open(reply));
    }

    /// Lists names from `offset` on.
    pub(super) fn list(&self, call: Call, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let (fs, root, directory) = (self.fs.clone(), self.root, self.root.inward(call.inode));
        let add = move |reply: &mut ReplyDirectory, entry: &Entry<'_>| {
            let name = OsStr::from_bytes(entry.name);
            reply.add(root.entry(directory, entry), entry.cookie, file_type(entry.mode), name)
        };
        if fs.try_readdir(handle.0, offset, Wanted::Names, |entry| add(&mut reply, &entry)) {
            return reply.ok();
        }
        self.work_for(Lane::Control, call.number, async move {
            let listed = fs.readdir(handle.0, offset, Wanted::Names, |entry| add(&mut reply, &entry));
            match call.unless_ended(&fs, listed).await {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(call.errno(&error)),
            }
        });
    }

    /// The same with attributes.
    pub(super) fn list_plus(
        &self,
        call: Call,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let longest = self.options.entry_timeout.min(self.options.attr_timeout);
        let (fs, root, directory) = (self.fs.clone(), self.root, self.root.inward(call.inode));
        let add = move |reply: &mut ReplyDirectoryPlus, entry: &Entry<'_>| {
            let (number, attr) = plus(root, directory, entry);
            let (name, ttl) =
                (OsStr::from_bytes(entry.name), entry.ttl.entry.min(entry.ttl.attr).min(longest));
            reply.add(number, entry.cookie, name, &ttl, &attr, GENERATION)
        };
        if fs.try_readdir(handle.0, offset, Wanted::Attributes, |entry| add(&mut reply, &entry)) {
            return reply.ok();
        }
        self.work_for(Lane::Control, call.number, async move {
            let listed = fs.readdir(handle.0, offset, Wanted::Attributes, |entry| add(&mut reply, &entry));
            match call.unless_ended(&fs, listed).await {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(call.errno(&error)),
            }
        });
    }
}

/// An entry's number and attributes.
fn plus(root: Root, directory: InodeNo, entry: &Entry<'_>) -> (fuser::INodeNo, FileAttr) {
    // "." and ".." are not looked up: the kernel takes nothing of them but number and type.
    let dots = pb::Attr { inode: entry.inode.0, mode: libc::S_IFDIR, ..Default::default() };
    let number = root.entry(directory, entry);
    (number, FileAttr { ino: number, ..root.attr(&entry.attr.unwrap_or(dots)) })
}
