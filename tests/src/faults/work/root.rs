//! The directory of the round on a mount.
//!
//! All paths are looked up from a descriptor of it, never from the mount point: while the mount is dead and not yet
//! replaced, the mount point is an empty directory, and a file that is not found there says nothing.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::Shared;

/// `statfs` of a FUSE file system.
const FUSE_SUPER_MAGIC: u64 = 0x6573_5546;

pub(super) struct Root<'a> {
    shared: &'a Shared,
    fd: Option<OwnedFd>,
}

impl<'a> Root<'a> {
    pub(super) fn new(shared: &'a Shared) -> Root<'a> {
        Root { shared, fd: None }
    }

    /// Waits until the directory is there, or the work is over. Call before an operation begins.
    pub(super) fn find(&mut self) -> bool {
        while self.fd.is_none() {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let found = rustix::fs::open(&self.shared.orders.dir, flags, Mode::empty());
            self.fd = found.ok().filter(|fd| {
                rustix::fs::fstatfs(fd).is_ok_and(|stat| stat.f_type as u64 == FUSE_SUPER_MAGIC)
            });
            if self.fd.is_none() {
                if !self.shared.going() {
                    return false;
                }
                std::thread::sleep(Duration::from_millis(30));
            }
        }
        true
    }

    /// Something failed: perhaps this is a directory of a mount that is dead.
    pub(super) fn lost(&mut self) {
        self.fd = None;
    }

    fn fd(&self) -> Result<BorrowedFd<'_>, Errno> {
        Ok(self.fd.as_ref().ok_or(Errno::NOTCONN)?.as_fd())
    }

    pub(super) fn open(&self, path: &str, flags: OFlags) -> io::Result<File> {
        let mode = Mode::from_raw_mode(0o644);
        Ok(rustix::fs::openat(self.fd()?, path, flags | OFlags::CLOEXEC, mode)?.into())
    }

    pub(super) fn mkdir(&self, path: &str) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(self.fd()?, path, Mode::from_raw_mode(0o755))?)
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(self.fd()?, from, self.fd()?, to)?)
    }

    pub(super) fn link(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::linkat(self.fd()?, from, self.fd()?, to, AtFlags::empty())?)
    }

    pub(super) fn unlink(&self, path: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(self.fd()?, path, AtFlags::empty())?)
    }

    pub(super) fn rmdir(&self, path: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(self.fd()?, path, AtFlags::REMOVEDIR)?)
    }

    pub(super) fn is_dir(&self, path: &str) -> io::Result<bool> {
        let stat = rustix::fs::statat(self.fd()?, path, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
    }

    pub(super) fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        let dir = self.open(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        for entry in rustix::fs::Dir::new(dir)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        Ok(names)
    }
}

/// close(2), whose error counts.
pub(super) fn close(file: File) -> io::Result<()> {
    Ok(nix::unistd::close(OwnedFd::from(file))?)
}
