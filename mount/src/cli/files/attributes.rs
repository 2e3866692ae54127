//! What a copy keeps of what it is a copy of: mode and times, and for root the owner.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use dfs_proto::pb;
use rustix::fs::{AtFlags, CWD, Mode, Timespec, Timestamps};

/// Permission bits that set an identity.
const SET_ID: u32 = 0o6000;

/// A mode for something that need not have the same owner.
pub(super) fn without_set_id(mode: u32) -> u32 {
    mode & 0o7777 & !SET_ID
}

/// Does whoever runs this keep owners, as cp -p has it?
pub(super) fn keeps_owners() -> bool {
    rustix::process::geteuid().is_root()
}

/// Who owns what is made for `attr`.
pub(super) fn owner(attr: &pb::Attr, keep: bool) -> (u32, u32) {
    match keep && keeps_owners() {
        true => (attr.uid, attr.gid),
        false => (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
    }
}

/// The change that gives `inode` mode and times of `attr`.
pub(super) fn kept(inode: u64, attr: &pb::Attr) -> pb::Setattr {
    let mode = if keeps_owners() { attr.mode & 0o7777 } else { without_set_id(attr.mode) };
    let is_link = attr.mode & libc::S_IFMT == libc::S_IFLNK;
    pb::Setattr {
        inode,
        // A link's mode is always the same.
        mode: (!is_link).then_some(mode),
        atime: attr.atime,
        mtime: attr.mtime,
        ..pb::Setattr::default()
    }
}

/// Of something local, as the cluster has them.
pub(super) fn of_local(meta: &Metadata) -> pb::Attr {
    // Nanoseconds are below 1e9, and device numbers of Linux have 32 bits.
    let time = |sec, nsec: i64| Some(pb::Time { sec, nsec: u32::try_from(nsec).unwrap_or(0) });
    pb::Attr {
        mode: meta.mode(),
        size: meta.size(),
        uid: meta.uid(),
        gid: meta.gid(),
        rdev: u32::try_from(meta.rdev()).unwrap_or(0),
        atime: time(meta.atime(), meta.atime_nsec()),
        mtime: time(meta.mtime(), meta.mtime_nsec()),
        ..pb::Attr::default()
    }
}

/// Is what is there most likely the same, without a look at its content?
pub(super) fn looks_same(there: &pb::Attr, like: &pb::Attr) -> bool {
    let kind = |attr: &pb::Attr| attr.mode & libc::S_IFMT;
    kind(there) == kind(like) && there.size == like.size && there.mtime == like.mtime
}

/// Gives something local mode and times of `attr`, and for root the owner.
pub(super) fn give_local(path: &Path, attr: &pb::Attr) -> io::Result<()> {
    let keep = keeps_owners();
    if keep {
        std::os::unix::fs::lchown(path, Some(attr.uid), Some(attr.gid))?;
    }
    if attr.mode & libc::S_IFMT != libc::S_IFLNK {
        let mode = if keep { attr.mode & 0o7777 } else { without_set_id(attr.mode) };
        rustix::fs::chmod(path, Mode::from_raw_mode(mode))?;
    }
    let time = |time: Option<pb::Time>| {
        let time = time.unwrap_or_default();
        Timespec { tv_sec: time.sec, tv_nsec: time.nsec.into() }
    };
    let times = Timestamps { last_access: time(attr.atime), last_modification: time(attr.mtime) };
    Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}
