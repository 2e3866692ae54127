//! Between the wire's attributes and errors and the kernel's.

use std::time::SystemTime;

use dfs_proto::error::DfsError;
use dfs_proto::pb;
use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};

/// What stat(2) says is a good size for reads and writes, in bytes.
const BLOCK_SIZE: u32 = 128 * 1024;

/// Shown as the size of a directory, in bytes.
const DIRECTORY_SIZE: u64 = 4096;

/// The type in an st_mode.
pub fn file_type(mode: u32) -> FileType {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFSOCK => FileType::Socket,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFBLK => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}

/// For the kernel.
pub fn file_attr(attr: &pb::Attr) -> FileAttr {
    let kind = file_type(attr.mode);
    let time = |time: Option<pb::Time>| SystemTime::from(time.unwrap_or_default());
    let (size, allocated) = match kind {
        FileType::Directory => (DIRECTORY_SIZE, 0),
        FileType::RegularFile
        | FileType::Symlink
        | FileType::NamedPipe
        | FileType::Socket
        | FileType::CharDevice
        | FileType::BlockDevice => (attr.size, attr.allocated),
    };
    FileAttr {
        ino: INodeNo(attr.inode),
        size,
        blocks: allocated.div_ceil(512),
        atime: time(attr.atime),
        mtime: time(attr.mtime),
        ctime: time(attr.ctime),
        crtime: time(attr.ctime),
        kind,
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

/// The errno that the program gets.
pub fn errno(error: &DfsError) -> fuser::Errno {
    fuser::Errno::from_i32(error.code.errno() as i32)
}

/// A time to set: one that is given, or true for now.
pub fn given(time: Option<TimeOrNow>) -> (Option<pb::Time>, bool) {
    match time {
        Some(TimeOrNow::SpecificTime(time)) => (Some(as_sent(time)), false),
        Some(TimeOrNow::Now) => (None, true),
        None => (None, false),
    }
}

/// The time that the kernel sent. fuser 0.18.0 decodes a time before 1970 by subtracting the nanoseconds, which
/// the kernel counts forward; seconds and nanoseconds are still to be had from what it makes.
fn as_sent(decoded: SystemTime) -> pb::Time {
    match SystemTime::UNIX_EPOCH.duration_since(decoded) {
        Ok(before) if !before.is_zero() => {
            let sec = i64::try_from(before.as_secs()).map_or(i64::MIN, |sec| -sec);
            pb::Time { sec, nsec: before.subsec_nanos() }
        }
        Ok(_) | Err(_) => decoded.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn attributes_are_told_as_stat_has_them() {
        let attr = pb::Attr {
            inode: 9,
            size: 1000,
            allocated: 513,
            mode: libc::S_IFREG | 0o4755,
            nlink: 2,
            ..Default::default()
        };
        let told = file_attr(&attr);
        assert_eq!((told.size, told.blocks, told.perm, told.kind), (1000, 2, 0o4755, FileType::RegularFile));
        let told = file_attr(&pb::Attr { mode: libc::S_IFDIR | 0o755, ..Default::default() });
        assert_eq!((told.size, told.kind), (4096, FileType::Directory));
    }

    #[test]
    fn every_error_has_its_errno() {
        for &code in dfs_proto::error::ErrorCode::ALL {
            let told = errno(&DfsError::new(code, "for a test"));
            assert_eq!(told.code(), code.errno() as i32);
        }
    }

    #[test]
    fn times_before_1970_are_what_the_kernel_sent() {
        // As fuser decodes -5 s and 999 999 999 ns.
        let decoded = SystemTime::UNIX_EPOCH - Duration::new(5, 999_999_999);
        assert_eq!(as_sent(decoded), pb::Time { sec: -5, nsec: 999_999_999 });
        let after = SystemTime::UNIX_EPOCH + Duration::new(5, 7);
        assert_eq!(as_sent(after), pb::Time { sec: 5, nsec: 7 });
        assert_eq!(as_sent(SystemTime::UNIX_EPOCH), pb::Time { sec: 0, nsec: 0 });
    }
}
