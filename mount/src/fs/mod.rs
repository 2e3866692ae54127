//! The file system's logic, in its own types and without the kernel's: what lookup, open, read, write, rename
//! and the rest mean here. `fuse` calls it; it calls `read`, `write` and `client`.
//!
//! - [`open_file`]: the files that handles hold open, their newest known attributes, and how unfinished writes
//!   change what the master says of them.
//! - [`dir`]: directory handles, and how a listing goes on where it left off.
//! - [`cached`]: what the kernel may still have in its page cache.
//! - `names`: changes of names.
//! - `locks`: locks of programs, against those of other mounts.
//! - `caching`: for how long the kernel may use each answer.
//! - [`trust`]: what the kernel was told, and how long it may believe it.
//! - [`board`]: notices for the kernel, and when the master hears that they were delivered.
//! - [`events`]: what the master pushes, and what the kernel is told of it.
//! - [`extent_ops`]: fallocate and copy_file_range.
//! - here: the operations.
//!
//! What must hold: an answer never shows less than what this mount wrote and the master has not yet taken;
//! close and fsync return only when every byte written is safe (`write`).

pub mod board;
pub mod cached;
mod caching;
pub mod dir;
pub mod events;
pub mod extent_ops;
mod locks;
mod names;
pub mod open_file;
pub mod trust;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::InodeNo;
use dfs_proto::{MAX_FILE_SIZE, pb};

use crate::client::Client;
use crate::read::Readers;
use crate::write::Writers;
use board::Board;
use cached::PageCacheLedger;
use dir::{DirHandle, DirHandles};
use open_file::{FileHandles, Handle, OpenFiles};
use trust::{Asked, Trust};

/// How a file was opened, for whoever answers the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Names the handle in later calls.
    pub handle: u64,
    /// The kernel's pages of the file are still right.
    pub keep_cache: bool,
    /// Nothing can be written through it, so a close has nothing to flush.
    pub read_only: bool,
}

/// Whose call it is.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What a data or hole search looks for (lseek(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// SEEK_DATA
    Data,
    /// SEEK_HOLE
    Hole,
}

/// The longest that the kernel may use what it was told without asking. What a process that is stopped cannot take
/// back ends with it.
const LONGEST_CACHED: Duration = Duration::from_secs(30);

/// One mounted cluster.
pub struct Fs {
    client: Client,
    writers: Arc<Writers>,
    files: OpenFiles,
    handles: FileHandles,
    dirs: DirHandles,
    ledger: Arc<PageCacheLedger>,
    trust: Arc<Trust>,
    board: Arc<Board>,
}

type Result<T> = std::result::Result<T, DfsError>;

impl Fs {
    /// Over a connected client; `cache_bytes` and `write_buffer_bytes` bound its memory. Must be called
    /// inside a tokio runtime.
    pub fn new(client: Client, cache_bytes: u64, write_buffer_bytes: u64) -> Arc<Fs> {
        let readers = Readers::new(client.clone(), cache_bytes);
        let writers = Writers::new(client.clone(), write_buffer_bytes);
        let ledger = Arc::new(PageCacheLedger::default());
        let trust = Arc::new(Trust::new(LONGEST_CACHED.min(client.info().interest)));
        let files = OpenFiles::new(readers, writers.clone(), ledger.clone(), trust.clone());
        let forgot = client.clone();
        Arc::new(Fs {
            board: Board::new(move |seq| forgot.forgot(seq)),
            trust,
            client,
            writers,
            files,
            handles: FileHandles::default(),
            dirs: DirHandles::default(),
            ledger,
        })
    }

    /// Uploads all that is dirty.
    ///
    /// # Errors
    /// The first error of an upload, or `TimedOut` after `deadline`.
    pub async fn drain(&self, deadline: Duration) -> Result<()> {
        self.writers.drain(deadline).await
    }

    /// Ends the session with the master.
    pub async fn close(&self) {
        self.client.close().await;
    }

    // Names.

    /// The inode that `name` in `parent` leads to.
    pub async fn lookup(&self, parent: InodeNo, name: &[u8]) -> Result<pb::Attr> {
        Ok(self.files.adjust(self.client.lookup(parent, name).await?))
    }

    /// Where a symbolic link leads.
    pub async fn readlink(&self, inode: InodeNo) -> Result<Bytes> {
        self.client.readlink(inode).await
    }

    // Attributes.

    /// stat(2), with what this mount wrote.
    pub async fn getattr(&self, inode: InodeNo) -> Result<pb::Attr> {
        Ok(self.files.adjust(self.client.getattr(inode).await?))
    }

    /// Changes attributes. A new size, and times given by hand, come after all that was written before.
    pub async fn setattr(&self, setattr: pb::Setattr) -> Result<pb::Attr> {
        let file = self.files.get(InodeNo(setattr.inode));
        if setattr.size.is_some_and(|size| size > MAX_FILE_SIZE) {
            return Err(DfsError::new(
                ErrorCode::TooLarge,
                format!("inode {}: no file can be larger than {MAX_FILE_SIZE} bytes", setattr.inode),
            ));
        }
        if let Some(file) = &file {
            if let Some(size) = setattr.size {
                file.writer.truncate(size).await?;
            } else if setattr.mtime.is_some()
                || setattr.mtime_now
                || setattr.atime.is_some()
                || setattr.atime_now
            {
                file.writer.settle().await?;
            }
        }
        let resized = setattr.size.is_some();
        let _changing = self.board.begin(&[]);
        let changed = self.client.setattr(setattr).await;
        self.trust.attrs_changed(InodeNo(setattr.inode));
        if resized
            && changed.is_err()
            && let Some(file) = &file
        {
            // It may have been done all the same.
            file.changed_elsewhere();
        }
        let attr = changed?;
        if resized {
            self.ledger.own_change(&attr);
            if let Some(file) = &file {
                file.reader.invalidate();
            }
        }
        Ok(self.files.adjust(attr))
    }

    /// Value of an extended attribute.
    pub async fn getxattr(&self, inode: InodeNo, name: &[u8]) -> Result<Bytes> {
        xattr_namespace(name)?;
        if self.trust.has_no_xattrs(inode) {
            return Err(DfsError::new(
                ErrorCode::NoData,
                format!("inode {inode} has no extended attributes"),
            ));
        }
        self.client.getxattr(inode, name).await
    }

    /// Sets an extended attribute.
    pub async fn setxattr(&self, setxattr: pb::Setxattr) -> Result<()> {
        xattr_namespace(&setxattr.name)?;
        let _changing = self.board.begin(&[]);
        let inode = InodeNo(setxattr.inode);
        let done = self.client.setxattr(setxattr).await;
        self.trust.attrs_changed(inode);
        done
    }

    /// Names of the extended attributes, each with a NUL behind it (listxattr(2)).
    pub async fn listxattr(&self, inode: InodeNo) -> Result<Vec<u8>> {
        if self.trust.has_no_xattrs(inode) {
            return Ok(Vec::new());
        }
        let names = self.client.listxattr(inode).await?;
        Ok(names.iter().flat_map(|name| name.iter().copied().chain([0])).collect())
    }

    /// Takes an extended attribute away.
    pub async fn removexattr(&self, inode: InodeNo, name: &[u8]) -> Result<()> {
        xattr_namespace(name)?;
        let _changing = self.board.begin(&[]);
        let done = self.client.removexattr(inode, name).await;
        self.trust.attrs_changed(inode);
        done
    }

    /// Space, as users have it.
    pub async fn statfs(&self) -> Result<pb::StatfsInfo> {
        self.client.statfs().await
    }

    // Files.

    /// Opens a file; `flags` as open(2) has them.
    pub async fn open(&self, inode: InodeNo, flags: i32) -> Result<Opened> {
        let asked = self.trust.ask();
        let attr = self.client.open(inode).await?;
        Ok(self.opened(asked, attr, flags))
    }

    /// Creates a file and opens it. Without `O_EXCL`, one that is there already is opened.
    pub async fn create(
        &self,
        caller: Caller,
        parent: InodeNo,
        name: &[u8],
        mode: u32,
        flags: i32,
    ) -> Result<(pb::Attr, Opened)> {
        let create = pb::Create {
            parent: parent.0,
            name: name.to_vec().into(),
            mode,
            uid: caller.uid,
            gid: caller.gid,
        };
        let asked = self.trust.ask();
        let _changing = self.board.begin(&[parent]);
        let attr = match self.client.create(create).await {
            Err(error) if error.code == ErrorCode::Exists && flags & libc::O_EXCL == 0 => {
                self.open_existing(parent, name, flags).await?
            }
            created => created?,
        };
        self.changed_names(&[parent]);
        Ok((self.files.adjust(attr), self.opened(asked, attr, flags)))
    }

    /// Somebody else created the file first: the kernel thought that it was not there.
    async fn open_existing(&self, parent: InodeNo, name: &[u8], flags: i32) -> Result<pb::Attr> {
        let attr = self.client.lookup(parent, name).await?;
        let inode = InodeNo(attr.inode);
        match attr.mode & libc::S_IFMT {
            libc::S_IFDIR => {
                return Err(DfsError::new(ErrorCode::IsDirectory, format!("inode {inode} is a directory")));
            }
            libc::S_IFREG => {}
            _ => {
                return Err(DfsError::new(
                    ErrorCode::Exists,
                    format!("inode {inode} is there and is no regular file"),
                ));
            }
        }
        let attr = self.client.open(inode).await?;
        if flags & libc::O_TRUNC == 0 {
            return Ok(attr);
        }
        let emptied = self.setattr(pb::Setattr { inode: inode.0, size: Some(0), ..Default::default() }).await;
        // Without a handle nobody else would give it back.
        emptied.inspect_err(|_| self.client.release(inode))
    }

    fn opened(&self, asked: Asked, attr: pb::Attr, flags: i32) -> Opened {
        let read_only = flags & libc::O_ACCMODE == libc::O_RDONLY;
        let keep_cache = self.ledger.opened(&attr);
        let file = self.files.open(attr);
        if self.trust.attr(asked, file.inode, attr.no_xattrs).is_zero() {
            // It may have changed since, when the file was not known to be open.
            file.changed_elsewhere();
        }
        let handle = self.handles.insert(Handle::new(file, read_only));
        Opened { handle, keep_cache, read_only }
    }

    /// At most `length` bytes at `offset`; fewer only at the end of the file.
    pub async fn read(&self, handle: u64, offset: u64, length: usize) -> Result<Bytes> {
        let handle = self.handles.get(handle)?;
        let file = &handle.file;
        file.refresh(&self.client).await?;
        let length = file.clip(offset, length);
        if length == 0 {
            return Ok(Bytes::new());
        }
        // First what is here alone, then what is committed: a commit in between is then seen twice, not never.
        let pending = file.writer.pending(offset, length);
        if let Some(whole) = pending.whole(offset, length) {
            return Ok(whole);
        }
        let base = file.reader.read(&handle.stream, offset, length).await?;
        Ok(pending.lay_over(offset, base))
    }

    /// The same, when it can be answered at once from memory.
    pub fn try_read(&self, handle: u64, offset: u64, length: usize) -> Option<Bytes> {
        let handle = self.handles.get(handle).ok()?;
        let file = &handle.file;
        if file.is_stale() || file.writer.has_pending() {
            return None;
        }
        match file.clip(offset, length) {
            0 => Some(Bytes::new()),
            length => file.reader.try_cached(&handle.stream, offset, length),
        }
    }

    /// Writes all of `data`; waits for memory.
    pub async fn write(&self, handle: u64, offset: u64, data: &[u8]) -> Result<()> {
        let handle = self.writable(handle, offset, data.len())?;
        handle.writer.write(offset, data).await
    }

    /// The same without waiting; `None` when there is no memory now.
    pub fn try_write(&self, handle: u64, offset: u64, data: &[u8]) -> Option<Result<()>> {
        match self.writable(handle, offset, data.len()) {
            Ok(handle) => handle.writer.try_write(offset, data),
            Err(error) => Some(Err(error)),
        }
    }

    fn writable(&self, handle: u64, offset: u64, length: usize) -> Result<Arc<Handle>> {
        if offset.checked_add(length as u64).is_none_or(|end| end > MAX_FILE_SIZE) {
            return Err(DfsError::new(
                ErrorCode::TooLarge,
                format!("write at {offset}: no file can be larger than {MAX_FILE_SIZE} bytes"),
            ));
        }
        self.handles.get(handle)
    }

    /// close(2): everything written is safe, or here is the error.
    pub async fn flush(&self, handle: u64) -> Result<()> {
        let handle = self.handles.get(handle)?;
        if handle.read_only {
            return Ok(());
        }
        handle.writer.flush(false).await
    }

    /// fsync(2): the same, and on stable storage.
    pub async fn fsync(&self, handle: u64) -> Result<()> {
        self.handles.get(handle)?.writer.flush(true).await
    }

    /// The last use of a handle is over. What an mmap wrote after close is uploaded before the inode is let go.
    pub async fn release(&self, handle: u64) {
        let Some(handle) = self.handles.remove(handle) else { return };
        let file = handle.file.clone();
        if file.writer.has_pending()
            && let Err(error) = file.writer.settle().await
        {
            tracing::error!(inode = %file.inode, "bytes written after the last close could not be uploaded: {error}");
        }
        self.files.release(&file);
        self.client.release(file.inode);
    }

    /// lseek(2) for data or holes; everything beyond the last extent is a hole.
    pub async fn seek(&self, handle: u64, offset: u64, what: Seek) -> Result<u64> {
        let handle = self.handles.get(handle)?;
        handle.file.writer.settle().await?;
        handle.file.refresh(&self.client).await?;
        let size = handle.file.clip(0, usize::MAX) as u64;
        let beyond = || DfsError::new(ErrorCode::Invalid, format!("no data at or after offset {offset}"));
        if offset >= size {
            return Err(beyond());
        }
        let extents = handle.file.reader.extents().await?;
        next_in_extents(&extents, offset, size, what).ok_or_else(beyond)
    }

    // Directories.

    /// Opens a directory for listing.
    /// True: the kernel's list of it is still right.
    pub fn opendir(&self, inode: InodeNo) -> (u64, bool) {
        (self.dirs.insert(DirHandle::new(inode)), self.trust.is_list_right(inode))
    }

    /// The entries from `cookie` on, which is 0 or one that an entry came with, until `take` says that it is full.
    pub async fn readdir(
        &self,
        handle: u64,
        cookie: u64,
        take: impl FnMut(dir::Entry<'_>) -> bool + Send,
    ) -> Result<()> {
        self.dirs.get(handle)?.list(self, cookie, take).await
    }

    /// Ends a listing.
    pub fn releasedir(&self, handle: u64) {
        self.dirs.remove(handle);
    }
}

/// Attributes that mean something to us or to nobody but their owners. Access lists (`system.posix_acl_*`) must
/// be refused while they are not enforced: a program that could set one would rely on it.
fn xattr_namespace(name: &[u8]) -> Result<()> {
    if [&b"user."[..], b"trusted.", b"security."].iter().any(|known| name.starts_with(known)) {
        return Ok(());
    }
    let name = String::from_utf8_lossy(name);
    Err(DfsError::new(
        ErrorCode::NotSupported,
        format!("extended attribute '{name}': only user.*, trusted.* and security.* are kept"),
    ))
}

/// The next data or hole in extents by offset.
fn next_in_extents(extents: &[(u64, u64)], offset: u64, size: u64, what: Seek) -> Option<u64> {
    let mut at = offset;
    for &(start, length) in extents.iter().filter(|(start, length)| start + length > offset) {
        match what {
            Seek::Data => return Some(start.max(offset)).filter(|found| *found < size),
            Seek::Hole if start > at => return Some(at),
            Seek::Hole => at = at.max(start + length),
        }
    }
    match what {
        Seek::Data => None,
        Seek::Hole => Some(at.min(size)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_and_holes_are_found() {
        let extents = [(10, 10), (20, 5), (40, 10)];
        let find = |offset, what| next_in_extents(&extents, offset, 60, what);
        assert_eq!(find(0, Seek::Data), Some(10));
        assert_eq!(find(12, Seek::Data), Some(12));
        assert_eq!(find(25, Seek::Data), Some(40));
        assert_eq!(find(50, Seek::Data), None);
        assert_eq!(find(0, Seek::Hole), Some(0));
        assert_eq!(find(12, Seek::Hole), Some(25));
        assert_eq!(find(45, Seek::Hole), Some(50));
        assert_eq!(next_in_extents(&[(0, 60)], 5, 60, Seek::Hole), Some(60), "the end of the file is a hole");
        assert_eq!(next_in_extents(&[], 5, 60, Seek::Data), None);
    }
}
