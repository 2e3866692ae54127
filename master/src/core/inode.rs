//! Inodes in memory: attributes, and what only one kind of inode has.
//!
//! Extents and extended attributes are in tables of their own (`content.rs`, `xattr.rs`); the entries of a
//! directory are here.

use dfs_proto::ids::InodeNo;
use dfs_proto::pb;

use super::names::Names;
use super::row::{InodeRow, Name};

/// The bits of a mode that say the file type, as stat(2) has them.
pub(super) const S_IFMT: u32 = 0o170_000;
pub(super) const S_IFSOCK: u32 = 0o140_000;
pub(super) const S_IFLNK: u32 = 0o120_000;
pub(super) const S_IFREG: u32 = 0o100_000;
pub(super) const S_IFBLK: u32 = 0o060_000;
pub(super) const S_IFDIR: u32 = 0o040_000;
pub(super) const S_IFCHR: u32 = 0o020_000;
pub(super) const S_IFIFO: u32 = 0o010_000;
pub(super) const S_ISUID: u32 = 0o4_000;
pub(super) const S_ISGID: u32 = 0o2_000;
pub(super) const S_ISVTX: u32 = 0o1_000;
pub(super) const S_IXGRP: u32 = 0o010;
/// What chmod(2) may change.
pub(super) const PERMISSIONS: u32 = 0o7_777;

/// Most names of an inode, and subdirectories of a directory.
pub(super) const MAX_LINKS: u32 = 65_000;

/// What a directory's size is shown as.
const DIRECTORY_SIZE: u64 = 4096;

/// A time in 12 bytes, where a `pb::Time` has 16.
#[derive(Clone, Copy)]
pub(super) struct Stamp {
    /// The halves of its seconds, the upper one first.
    sec: [u32; 2],
    nsec: u32,
}

impl From<pb::Time> for Stamp {
    fn from(time: pb::Time) -> Stamp {
        let bits = time.sec as u64;
        Stamp { sec: [(bits >> 32) as u32, bits as u32], nsec: time.nsec }
    }
}

impl From<Stamp> for pb::Time {
    fn from(stamp: Stamp) -> pb::Time {
        let [upper, lower] = stamp.sec.map(u64::from);
        pb::Time { sec: (upper << 32 | lower) as i64, nsec: stamp.nsec }
    }
}

/// One inode. There are many: what a field more costs, it costs for each file.
pub(super) struct Inode {
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    /// See `Attr.has_security` (derived).
    pub has_security: bool,
    pub size: u64,
    pub atime: Stamp,
    pub mtime: Stamp,
    pub ctime: Stamp,
    pub content_version: u64,
    pub body: Body,
}

/// What only one kind of inode has.
pub(super) enum Body {
    /// `allocated`: bytes that extents cover (derived). `home`: see `homes.rs` (derived).
    File {
        allocated: u64,
        home: InodeNo,
    },
    Dir(Box<Dir>),
    /// Boxed, so that others do not pay for it.
    Symlink(Box<Symlink>),
    /// FIFO, socket, device; with the device's number.
    Special {
        rdev: u32,
        home: InodeNo,
    },
}

/// A symbolic link.
pub(super) struct Symlink {
    pub home: InodeNo,
    pub target: Box<[u8]>,
}

/// The entries of a directory.
pub(super) struct Dir {
    pub entries: Names,
    /// Of the root: the root. Of a removed directory: where it was.
    pub parent: InodeNo,
    /// Its name there (derived).
    pub name: Name,
}

impl Inode {
    /// A new inode without a name. `mode` with its file type; all times are `now`.
    pub fn new(mode: u32, uid: u32, gid: u32, now: pb::Time, body: Body) -> Inode {
        Inode {
            mode,
            nlink: 0,
            uid,
            gid,
            has_security: false,
            size: 0,
            atime: now.into(),
            mtime: now.into(),
            ctime: now.into(),
            content_version: 0,
            body,
        }
    }

    pub fn is_dir(&self) -> bool {
        matches!(self.body, Body::Dir(_))
    }

    pub fn is_file(&self) -> bool {
        matches!(self.body, Body::File { .. })
    }

    /// Of a device, its number.
    fn rdev(&self) -> u32 {
        match self.body {
            Body::Special { rdev, .. } => rdev,
            Body::File { .. } | Body::Dir(_) | Body::Symlink(_) => 0,
        }
    }

    /// For a body of `Dir`.
    pub fn empty_dir(parent: InodeNo) -> Body {
        Body::Dir(Box::new(Dir { entries: Names::default(), parent, name: Name::default() }))
    }

    /// For a body of `File`.
    pub fn empty_file() -> Body {
        Body::File { allocated: 0, home: InodeNo(0) }
    }

    /// For a body of `Symlink`.
    pub fn symlink(target: Box<[u8]>) -> Body {
        Body::Symlink(Box::new(Symlink { home: InodeNo(0), target }))
    }

    /// For a body of `Special`.
    pub fn special(rdev: u32) -> Body {
        Body::Special { rdev, home: InodeNo(0) }
    }

    /// As it is shown.
    pub fn attr(&self, inode: InodeNo) -> pb::Attr {
        let (size, allocated) = match &self.body {
            Body::File { allocated, .. } => (self.size, *allocated),
            Body::Dir(_) => (DIRECTORY_SIZE, 0),
            Body::Symlink(_) | Body::Special { .. } => (self.size, 0),
        };
        pb::Attr {
            inode: inode.0,
            size,
            allocated,
            mode: self.mode,
            nlink: self.nlink,
            uid: self.uid,
            gid: self.gid,
            rdev: self.rdev(),
            atime: Some(self.atime.into()),
            mtime: Some(self.mtime.into()),
            ctime: Some(self.ctime.into()),
            content_version: self.content_version,
            has_security: self.has_security,
            // Its attributes are kept elsewhere.
            no_xattrs: false,
        }
    }

    /// As it is stored.
    pub fn to_row(&self) -> InodeRow {
        InodeRow {
            mode: self.mode,
            nlink: self.nlink,
            uid: self.uid,
            gid: self.gid,
            rdev: self.rdev(),
            size: self.size,
            atime: self.atime.into(),
            mtime: self.mtime.into(),
            ctime: self.ctime.into(),
            content_version: self.content_version,
            target: match &self.body {
                Body::Symlink(link) => Some(link.target.clone()),
                Body::File { .. } | Body::Dir(_) | Body::Special { .. } => None,
            },
        }
    }

    /// From its row; entries, the parent and allocated bytes are derived later.
    ///
    /// # Errors
    /// What does not fit.
    pub fn from_row(row: InodeRow) -> Result<Inode, String> {
        if row.rdev != 0 && !matches!(row.mode & S_IFMT, S_IFCHR | S_IFBLK) {
            return Err(format!("file type {:o} with device number {}", row.mode & S_IFMT, row.rdev));
        }
        let body = match (row.mode & S_IFMT, row.target) {
            (S_IFREG, None) => Inode::empty_file(),
            (S_IFDIR, None) => Inode::empty_dir(InodeNo(0)),
            (S_IFLNK, Some(target)) if target.len() as u64 == row.size => Inode::symlink(target),
            (S_IFIFO | S_IFSOCK | S_IFCHR | S_IFBLK, None) => Inode::special(row.rdev),
            (kind, target) => {
                let target = if target.is_some() { "a" } else { "no" };
                return Err(format!("file type {kind:o} with {target} link target, size {}", row.size));
            }
        };
        Ok(Inode {
            mode: row.mode,
            nlink: row.nlink,
            uid: row.uid,
            gid: row.gid,
            has_security: false,
            size: row.size,
            atime: row.atime.into(),
            mtime: row.mtime.into(),
            ctime: row.ctime.into(),
            content_version: row.content_version,
            body,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_small_and_times_are_whole() {
        assert_eq!(size_of::<Inode>(), 96);
        for (sec, nsec) in [(0, 0), (-1, 999_999_999), (i64::MAX, 1), (i64::MIN, 0), (1 << 33, 5)] {
            let time = pb::Time { sec, nsec };
            assert_eq!(pb::Time::from(Stamp::from(time)), time);
        }
    }
}
