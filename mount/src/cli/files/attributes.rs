//! What a copy keeps of what it is a copy of: mode and times, and for root the owner.

use dfs_proto::pb;

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
