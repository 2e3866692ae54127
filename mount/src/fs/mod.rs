//! The file system's logic, in its own types and without the kernel's: what lookup, open, read, write, rename
//! and the rest mean here. `fuse` calls it; it calls `read`, `write` and `client`.
//!
//! - [`open_file`]: the files that handles hold open, their newest known attributes, and how unfinished writes
//!   change what the master says of them.
//! - [`dir`]: directory handles, and how a listing goes on where it left off; `places`: what the kernel's numbers mean.
//! - [`caller`]: whose call it is.
//! - `xattrs`: extended attributes. `lacking`: which inodes are known to have none, or nothing that a write takes away;
//!   `privileges`: taking that away.
//! - [`cached`]: what the kernel may still have in its page cache.
//! - `names`: changes of names. `reading`: read(2).
//! - `locks`: locks of programs, against those of other mounts. [`append`]: O_APPEND, together with other mounts.
//! - `caching`: for how long the kernel may use each answer. [`away`]: what may be shown while the master is away.
//! - [`removals`]: link counts that are told while names are taken away.
//! - `known`: attributes that came with replies to changes. `known_names`: directories of
//!   which names are known. `names_ahead`: when they are listed for that.
//! - [`trust`]: what the kernel was told, and how long it may believe it.
//! - [`board`]: notices for the kernel, and when the master hears that they were delivered.
//! - [`events`]: what the master pushes, and what the kernel is told of it.
//! - [`lists`]: whole lists of directories, while they are right.
//! - `seek`: where data and holes begin.
//! - [`extent_ops`]: fallocate and copy_file_range.
//! - [`atime`]: which reads change an atime, and telling the master.
//! - [`virtual_xattr`]: attributes that are computed when they are asked for. `digest`: the one that is an MD5.
//! - `paths`: names for the log.
//! - `gauges`: how full and how well all of it is.
//! - here: the operations.
//!
//! What must hold: an answer never shows less than what this mount wrote and the master has not yet taken;
//! close and fsync return only when every byte written is safe (`write`).

pub mod append;
pub mod atime;
pub mod away;
pub mod board;
pub mod cached;
pub mod caching;
pub mod caller;
mod digest;
pub mod dir;
pub mod events;
pub mod extent_ops;
pub mod gauges;
mod known;
mod known_names;
mod lacking;
pub mod lists;
mod locks;
mod names;
mod names_ahead;
pub mod open_file;
mod paths;
mod places;
mod privileges;
mod reading;
pub mod removals;
mod seek;
pub mod trust;
pub mod virtual_xattr;
pub mod xattrs;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::InodeNo;
use dfs_proto::{MAX_FILE_SIZE, pb};

use crate::client::Client;
use crate::read::{LayoutAhead, ReadStream, Readers};
use crate::write::{Writers, too_large};
use atime::{AtimeOptions, Atimes};
use away::Away;
use board::Board;
use cached::PageCacheLedger;
pub use caller::Caller;
use digest::Digests;
use dir::{DirHandles, Wanted};
use known::Known;
use known_names::KnownNames;
use lacking::Lacking;
use lists::Lists;
use names_ahead::NamesAhead;
use open_file::{FileHandles, Handle, OpenFiles};
use paths::Paths;
use removals::Removals;
pub use seek::Seek;
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
    /// Opened for appending: the kernel does not know where its bytes go, so its pages must stay out of it.
    pub appends: bool,
    /// Opened for reading alone, and another mount is changing it: the kernel's pages should stay out of it.
    pub changes_elsewhere: bool,
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
    atimes: Arc<Atimes>,
    digests: Digests,
    lacking: Lacking,
    trust: Arc<Trust>,
    away: Arc<Away>,
    lists: Arc<Lists>,
    board: Arc<Board>,
    removals: Removals,
    known: Arc<Known>,
    known_names: Arc<KnownNames>,
    names_ahead: Arc<NamesAhead>,
    paths: Paths,
}

type Result<T> = std::result::Result<T, DfsError>;

/// A file of which the kernel may have so many pages that dropping them takes long, in bytes.
const LARGE: u64 = 32 << 20;

impl Fs {
    /// Over a connected client; `cache_bytes` and `write_buffer_bytes` bound its memory. Must be called
    /// inside a tokio runtime.
    pub fn new(client: Client, cache_bytes: u64, write_buffer_bytes: u64, atime: AtimeOptions) -> Arc<Fs> {
        let readers = Readers::new(client.clone(), cache_bytes);
        let writers = Writers::new(client.clone(), write_buffer_bytes);
        let ledger = Arc::new(PageCacheLedger::default());
        let longest = LONGEST_CACHED.min(client.info().interest);
        let trust = Arc::new(Trust::new(longest));
        let away = Arc::new(Away::new(client.clone()));
        let known = Arc::new(Known::default());
        let files = OpenFiles::new(
            readers,
            writers.clone(),
            ledger.clone(),
            trust.clone(),
            known.clone(),
            away.clone(),
        );
        let lists = Arc::new(Lists::default());
        let forgot = client.clone();
        let board = Board::new(move |seq| forgot.forgot(seq));
        Arc::new(Fs {
            atimes: Atimes::new(
                client.clone(),
                atime,
                board.clone(),
                lists.clone(),
                known.clone(),
                trust.clone(),
            ),
            digests: Digests::default(),
            board,
            trust,
            away,
            lists,
            client,
            writers,
            files,
            handles: FileHandles::default(),
            removals: Removals::default(),
            known,
            known_names: Arc::default(),
            names_ahead: Arc::default(),
            paths: Paths::default(),
            dirs: DirHandles::default(),
            ledger,
            lacking: Lacking::new(longest),
        })
    }

    /// Uploads all that is dirty.
    ///
    /// # Errors
    /// The first error of an upload, or `TimedOut` after `deadline`.
    pub async fn drain(&self, deadline: Duration) -> Result<()> {
        self.writers.drain(deadline).await
    }

    /// Logs which files have bytes that were not uploaded.
    pub fn log_lost(&self) {
        self.writers.log_lost();
    }

    /// The master cannot be reached, as far as is known.
    pub fn is_cut_off(&self) -> bool {
        !self.client.is_up()
    }

    /// The master cannot be reached, and nothing waits to be sent to it but questions.
    pub fn is_cut_off_and_clean(&self) -> bool {
        self.is_cut_off() && !self.writers.has_pending()
    }

    /// Are users and groups others at the cluster, so that the master checks what each may do?
    pub fn maps_ids(&self) -> bool {
        self.client.info().maps_ids
    }

    /// Ends the session with the master.
    pub async fn close(&self) {
        self.client.close().await;
    }

    // Names.

    /// Notes what an answer of the master says of an inode.
    async fn seen(&self, ask: impl Future<Output = Result<pb::Attr>>) -> Result<pb::Attr> {
        let mark = self.lacking.mark();
        let attr = ask.await?;
        self.lacking.learn(mark, &attr);
        Ok(attr)
    }

    /// The inode that `name` in `parent` leads to.
    pub async fn lookup(&self, caller: Caller, parent: InodeNo, name: &[u8]) -> Result<pb::Attr> {
        let found = self.seen(caller.client(&self.client).await.lookup(parent, name)).await;
        if !caller.checked {
            self.names_ahead.asked(&self.client, &self.trust, &self.known_names, parent);
        }
        Ok(self.files.adjust(found?))
    }

    /// Where a symbolic link leads.
    pub async fn readlink(&self, inode: InodeNo) -> Result<Bytes> {
        let target = self.client.readlink(inode).await?;
        self.atimes.read_node(inode);
        Ok(target)
    }

    // Attributes.

    /// stat(2), with what this mount wrote.
    pub async fn getattr(&self, inode: InodeNo) -> Result<pb::Attr> {
        let asked = self.trust.ask();
        let answer = tokio::select! {
            answer = self.seen(self.client.getattr(inode)) => answer,
            attr = self.attr_without_master(inode) => return Ok(attr),
        };
        match answer {
            Err(error) if error.code == ErrorCode::Stale => self.dirs.attr_of_removed(inode).ok_or(error),
            Err(error) => Err(error),
            Ok(attr) => {
                if let Some(file) = self.files.get(inode) {
                    file.told(asked, &attr);
                }
                self.lists.note_attr(asked, &attr);
                Ok(self.files.adjust(attr))
            }
        }
    }

    /// Waits, maybe for ever, until the attributes are known though the master is down. A read to the end of a file asks for
    /// them.
    async fn attr_without_master(&self, inode: InodeNo) -> pb::Attr {
        self.away.until_known_without_master().await;
        match self.files.get(inode).and_then(|file| file.attr_without_master(&self.trust)) {
            Some(attr) => attr,
            None => std::future::pending().await,
        }
    }

    /// Changes attributes. A new size, and times given by hand, come after all that was written before. `caller`:
    /// `None` where the mount itself asks, or who could open the file for that.
    pub async fn setattr(&self, caller: Option<Caller>, setattr: pb::Setattr) -> Result<pb::Attr> {
        let client = match caller {
            Some(caller) => caller.client(&self.client).await,
            None => self.client.clone(),
        };
        let file = self.files.get(InodeNo(setattr.inode));
        if setattr.size.is_some_and(|size| size > MAX_FILE_SIZE) {
            return Err(DfsError::new(
                ErrorCode::TooLarge,
                format!("inode {}: no file can be larger than {MAX_FILE_SIZE} bytes", setattr.inode),
            ));
        }
        if let Some(file) = &file {
            if setattr.size.is_some() {
                // All of it, also what will be cut off: that may be refused, and those bytes may be another writer's.
                // What cannot be uploaded its writers hear of; a file can be cut all the same, if there is no room, say.
                let _ = file.writer.settle().await;
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
        let changed = client.setattr(setattr).await;
        self.trust.attrs_changed(InodeNo(setattr.inode));
        if setattr.mode.is_some() {
            self.lacking.forget(InodeNo(setattr.inode));
        }
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

    /// Space, as users have it.
    pub async fn statfs(&self, inode: InodeNo) -> Result<pb::StatfsInfo> {
        self.client.statfs(inode).await
    }

    // Files.

    /// Opens a file; `flags` as open(2) has them.
    pub async fn open(&self, caller: Caller, inode: InodeNo, flags: i32) -> Result<Opened> {
        let client = caller.client(&self.client).await;
        let asked = self.trust.ask();
        let ahead = self.will_ask_layout(inode, flags).then(|| LayoutAhead::ask(&self.client, inode));
        let attr = self.seen(client.open(inode, caller::access(flags))).await?;
        let opened = self.opened(asked, attr, flags);
        if let (Some(ahead), Some(file)) = (ahead, self.files.get(inode)) {
            // Of the open file any change is told; those before are noted here.
            file.reader.adopt(ahead, opened.read_only, || !self.trust.changed_since(asked, inode));
        }
        Ok(opened)
    }

    /// Will a file that is opened like this be asked for its layout? As a rule, unless it is known, or the kernel has the
    /// file's pages.
    fn will_ask_layout(&self, inode: InodeNo, flags: i32) -> bool {
        let reads = flags & libc::O_ACCMODE != libc::O_WRONLY && flags & libc::O_TRUNC == 0;
        reads && self.client.is_up() && !self.ledger.has_pages(inode) && self.files.get(inode).is_none()
    }

    /// Creates a file and opens it. Without `O_EXCL`, one that is there already is opened.
    pub async fn create(
        &self,
        caller: Caller,
        parent: InodeNo,
        name: &[u8],
        mode: u32,
        umask: u32,
        flags: i32,
    ) -> Result<(pb::Attr, Opened)> {
        let (uid, gid) = (caller.uid, caller.gid);
        let create = pb::Create { parent: parent.0, name: name.to_vec().into(), mode, umask, uid, gid };
        let asked = self.trust.ask();
        let attr = match self.make(parent, name, caller.client(&self.client).await.create(create)).await {
            Err(error) if error.code == ErrorCode::Exists && flags & libc::O_EXCL == 0 => {
                let _changing = self.board.begin(&[parent]);
                self.open_existing(caller, parent, name, flags).await?
            }
            created => created?.1,
        };
        Ok((self.files.adjust(attr), self.opened(asked, attr, flags)))
    }

    /// Somebody else created the file first: the kernel thought that it was not there, and so looked at no
    /// permission of it. The master does.
    async fn open_existing(
        &self,
        caller: Caller,
        parent: InodeNo,
        name: &[u8],
        flags: i32,
    ) -> Result<pb::Attr> {
        let client = caller.checked_client(&self.client).await;
        let attr = client.lookup(parent, name).await?;
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
        let attr = self.seen(client.open(inode, caller::access(flags))).await?;
        if flags & libc::O_TRUNC == 0 {
            return Ok(attr);
        }
        let setattr = pb::Setattr { inode: inode.0, size: Some(0), ..Default::default() };
        let emptied = self.setattr(None, setattr).await;
        // Without a handle nobody else would give it back.
        emptied.inspect_err(|_| self.client.release(inode))
    }

    fn opened(&self, asked: Asked, attr: pb::Attr, flags: i32) -> Opened {
        let read_only = flags & libc::O_ACCMODE == libc::O_RDONLY;
        let reads = flags & libc::O_ACCMODE != libc::O_WRONLY;
        let no_atime = flags & libc::O_NOATIME != 0;
        // Reads from the kernel's pages are never heard of: the first one after a change must not come from there.
        let atime_due = reads && !no_atime && self.atimes.file_is_due(&attr);
        let known = self.ledger.opened(&attr);
        // A large one is hardly written anew by the second, and is worth the page cache.
        if !known && attr.size < LARGE {
            self.ledger.opened_unknown(&attr, self.client.now());
        }
        // To give up the pages of a large file takes the kernel seconds, which cp of it must not: there the open counts as
        // the read.
        let counts_as_read = known && atime_due && attr.size >= LARGE;
        let keep_cache = known && (!atime_due || counts_as_read);
        let file = self.files.open(attr);
        file.told(asked, &attr);
        if counts_as_read {
            self.atimes.read_file(&file);
            // After a read the kernel asks for times by itself.
            let notices = vec![events::Notice::Attributes(file.inode)];
            self.board.put(board::Job { key: file.inode, notices, ..board::Job::default() });
        }
        if self.trust.has_told_newer(&attr) || self.trust.attr(asked, &attr).is_zero() {
            // It changed since, or may have, when the file was not known to be open.
            file.changed_elsewhere();
        }
        let appends = !read_only && flags & libc::O_APPEND != 0;
        let changes_elsewhere = read_only && self.ledger.changes_elsewhere(InodeNo(attr.inode));
        let is_cached = !changes_elsewhere && flags & libc::O_DIRECT == 0;
        let stream = if is_cached { ReadStream::new() } else { ReadStream::uncached() };
        let handle = self.handles.insert(Handle::new(file, stream, read_only, no_atime));
        Opened { handle, keep_cache, read_only, appends, changes_elsewhere }
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
            return Err(too_large(offset));
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
            && let Err(error) = file.writer.settle_in_the_end().await
        {
            tracing::error!(inode = %file.inode, "bytes written after the last close could not be uploaded: {error}");
        }
        if handle.has_appended() {
            // Before the file may be opened anew, with a lease of its own.
            file.lease.leave().await;
        }
        self.files.release(&file);
        self.client.release(file.inode);
    }

    /// The same, when there is nothing to wait for; false: there is, and nothing was done.
    pub fn try_release(&self, handle: u64) -> bool {
        let Ok(open) = self.handles.get(handle) else { return true };
        let file = &open.file;
        if file.writer.has_pending() || open.has_appended() || self.client.has_locks(file.inode) {
            return false;
        }
        if self.handles.remove(handle).is_some() {
            self.files.release(file);
            self.client.release(file.inode);
        }
        true
    }

    // Directories.

    /// Opens a directory for listing; `flags` as open(2) has them.
    pub fn opendir(&self, inode: InodeNo, flags: i32) -> u64 {
        self.dirs.open(inode, flags & libc::O_NOATIME != 0)
    }

    /// May a caller whom the master checks list the directory? All others the kernel has asked that.
    pub async fn check_opendir(&self, caller: Caller, inode: InodeNo) -> Result<()> {
        match caller.checked {
            true => caller.client(&self.client).await.readdir(inode, b"", 1).await.map(|_| ()),
            false => Ok(()),
        }
    }

    /// The entries from `cookie` on, which is 0 or one that an entry came with, until `take` says that it is full.
    pub async fn readdir(
        &self,
        handle: u64,
        cookie: u64,
        wanted: Wanted,
        take: impl FnMut(dir::Entry<'_>) -> bool + Send,
    ) -> Result<()> {
        self.dirs.get(handle)?.list(self, cookie, wanted, take).await
    }

    /// The same without waiting; false, and nothing taken, when something has to be asked for.
    pub fn try_readdir(
        &self,
        handle: u64,
        cookie: u64,
        wanted: Wanted,
        take: impl FnMut(dir::Entry<'_>) -> bool,
    ) -> bool {
        self.dirs.get(handle).is_ok_and(|directory| directory.list_known(self, cookie, wanted, take))
    }

    /// Ends a listing.
    pub fn releasedir(&self, handle: u64) {
        self.dirs.close(handle);
    }
}
