//! A mapped part of a file. The one place of this workspace that touches memory by hand: there is no other way to test mmap.
//!
//! What must hold: the address and the length are those that mmap gave, and are unmapped once, when dropped; a copy in or out
//! stays inside, and inside the file as it is at that moment (beyond it the kernel sends SIGBUS). Only this thread, and no
//! reference of Rust, ever touches the memory; the bytes are of a type for which every value is right.

#![allow(unsafe_code)]

use std::ffi::c_void;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync, munmap};

pub const PAGE: u64 = 4096;

pub struct Mapping {
    start: *mut c_void,
    length: usize,
    offset: u64,
    writes: bool,
    /// To ask for the file's size.
    fd: OwnedFd,
}

impl Mapping {
    /// Maps `length` bytes of a file from `offset`, a multiple of a page.
    pub fn new(
        fd: BorrowedFd<'_>,
        offset: u64,
        length: usize,
        shared: bool,
        writes: bool,
    ) -> Result<Mapping, Errno> {
        let copy = rustix::io::dup(fd)?;
        let protection = if writes { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        let flags = if shared { MapFlags::SHARED } else { MapFlags::PRIVATE };
        // SAFETY: the kernel chooses a free place for it: no memory that is in use is touched.
        let start = unsafe { mmap(std::ptr::null_mut(), length, protection, flags, fd, offset) }?;
        Ok(Mapping { start, length, offset, writes, fd: copy })
    }

    /// How much of `length` bytes at `offset` of the mapping lies in it and in the file.
    fn within(&self, offset: usize, length: usize) -> usize {
        let size = rustix::fs::fstat(self.fd.as_fd()).map_or(0, |stat| stat.st_size as u64);
        let mapped = usize::try_from(size.saturating_sub(self.offset)).unwrap_or(usize::MAX).min(self.length);
        mapped.saturating_sub(offset).min(length)
    }

    /// Bytes from `offset` of the mapping; fewer at its end and the file's.
    pub fn read(&self, offset: usize, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; self.within(offset, length)];
        if !bytes.is_empty() {
            // SAFETY: `within` saw that [offset, offset + len) lies in the mapping and in the file; `bytes` is our own.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    self.start.cast::<u8>().add(offset),
                    bytes.as_mut_ptr(),
                    bytes.len(),
                );
            }
        }
        bytes
    }

    /// Puts bytes at `offset` of the mapping, as far as it and the file reach. Returns how many.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) -> usize {
        let length = if self.writes { self.within(offset, bytes.len()) } else { 0 };
        if length > 0 {
            // SAFETY: as for `read`; and the mapping is for writing.
            unsafe {
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.cast::<u8>().add(offset), length);
            }
        }
        length
    }

    /// msync(2), and waits for it.
    pub fn sync(&self) -> Result<(), Errno> {
        // SAFETY: the range is the mapping.
        unsafe { msync(self.start, self.length, MsyncFlags::SYNC) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is the mapping, and nothing points into it.
        let unmapped = unsafe { munmap(self.start, self.length) };
        assert_eq!(unmapped, Ok(()));
    }
}
