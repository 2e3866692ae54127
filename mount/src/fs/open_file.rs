//! Files that are open on this mount, and the handles on them. All handles of one inode share one
//! [`OpenFile`]: one writer, one reader, one newest known state.
//!
//! What must hold: there is at most one `OpenFile` of an inode, and it lives at least as long as a handle on
//! it or a byte of it that is not committed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::InodeNo;
use dfs_proto::pb;

use super::cached::PageCacheLedger;
use crate::read::{FileReader, ReadStream, Readers};
use crate::write::{FileWriter, Writers};

/// One inode that is open here.
pub struct OpenFile {
    /// Which.
    pub inode: InodeNo,
    /// Reads what is committed.
    pub reader: Arc<FileReader>,
    /// Holds what is not.
    pub writer: Arc<FileWriter>,
    known: Arc<Known>,
}

/// The newest that was heard from the master of a file's content.
struct Known {
    attr: Mutex<pb::Attr>,
    /// Somebody else changed the content; ask before the next read.
    stale: AtomicBool,
    reader: Arc<FileReader>,
}

impl Known {
    /// Answers come from several tasks and so in any order: the newer content wins. The reader forgets its
    /// layout before a newer size is known: a read up to that size through an older layout would see a hole
    /// where there are bytes.
    fn take(&self, attr: &pb::Attr) {
        let newer = attr.content_version > lock(&self.attr).content_version;
        if newer {
            self.reader.invalidate();
        }
        let mut known = lock(&self.attr);
        if attr.content_version >= known.content_version {
            *known = *attr;
        }
    }
}

impl OpenFile {
    fn new(
        attr: pb::Attr,
        readers: &Arc<Readers>,
        writers: &Arc<Writers>,
        ledger: &Arc<PageCacheLedger>,
    ) -> Arc<OpenFile> {
        let inode = InodeNo(attr.inode);
        let reader = readers.file(inode);
        let known =
            Arc::new(Known { attr: Mutex::new(attr), stale: AtomicBool::new(false), reader: reader.clone() });
        let on_commit = {
            let (known, ledger) = (known.clone(), ledger.clone());
            move |attr: &pb::Attr| {
                known.reader.invalidate();
                known.take(attr);
                ledger.own_change(attr);
            }
        };
        let writer = writers.file_with(inode, Box::new(on_commit));
        Arc::new(OpenFile { inode, reader, writer, known })
    }

    /// What the master said, as this mount's programs must see it.
    pub fn adjust(&self, mut attr: pb::Attr) -> pb::Attr {
        // Pending first: what it no longer has, `known` has by then.
        let pending = self.writer.pending_attr();
        self.known.take(&attr);
        let known = *lock(&self.known.attr);
        if known.content_version > attr.content_version {
            attr.size = known.size;
            attr.allocated = known.allocated;
            attr.mtime = known.mtime;
            attr.content_version = known.content_version;
        }
        if let Some(pending) = pending {
            attr.size = attr.size.max(pending.end);
            attr.allocated += pending.bytes;
            attr.mtime = Some(pending.mtime);
            if attr
                .ctime
                .is_none_or(|ctime| (ctime.sec, ctime.nsec) < (pending.mtime.sec, pending.mtime.nsec))
            {
                attr.ctime = Some(pending.mtime);
            }
        }
        attr
    }

    /// How many of `length` bytes at `offset` lie before the end of the file.
    pub fn clip(&self, offset: u64, length: usize) -> usize {
        let pending_end = self.writer.pending_attr().map_or(0, |pending| pending.end);
        let size = lock(&self.known.attr).size.max(pending_end);
        usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX).min(length)
    }

    /// Somebody else changed the content.
    pub fn changed_elsewhere(&self) {
        self.known.stale.store(true, Ordering::Release);
        self.reader.invalidate();
    }

    /// Has to ask the master before it answers.
    pub fn is_stale(&self) -> bool {
        self.known.stale.load(Ordering::Acquire)
    }

    /// The answer.
    pub fn refresh(&self, attr: pb::Attr) {
        self.known.stale.store(false, Ordering::Release);
        self.known.take(&attr);
    }
}

/// All open files.
pub struct OpenFiles {
    readers: Arc<Readers>,
    writers: Arc<Writers>,
    ledger: Arc<PageCacheLedger>,
    /// With the number of handles.
    table: Mutex<HashMap<InodeNo, (Arc<OpenFile>, u64)>>,
}

impl OpenFiles {
    /// None yet.
    pub fn new(readers: Arc<Readers>, writers: Arc<Writers>, ledger: Arc<PageCacheLedger>) -> OpenFiles {
        OpenFiles { readers, writers, ledger, table: Mutex::default() }
    }

    /// One more handle on an inode, of which the master just said `attr`.
    pub fn open(&self, attr: pb::Attr) -> Arc<OpenFile> {
        let mut table = lock(&self.table);
        let inode = InodeNo(attr.inode);
        let (file, handles) = table
            .entry(inode)
            .or_insert_with(|| (OpenFile::new(attr, &self.readers, &self.writers, &self.ledger), 0));
        *handles += 1;
        let file = file.clone();
        drop(table);
        file.known.take(&attr);
        file
    }

    /// One handle less.
    pub fn release(&self, file: &OpenFile) {
        let mut table = lock(&self.table);
        if let Some((_, handles)) = table.get_mut(&file.inode) {
            *handles -= 1;
            if *handles == 0 {
                table.remove(&file.inode);
            }
        }
    }

    /// The open file of an inode, if it is open.
    pub fn get(&self, inode: InodeNo) -> Option<Arc<OpenFile>> {
        lock(&self.table).get(&inode).map(|(file, _)| file.clone())
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<OpenFile>> {
        lock(&self.table).values().map(|(file, _)| file.clone()).collect()
    }

    /// What the master said of any inode, as this mount's programs must see it.
    pub fn adjust(&self, attr: pb::Attr) -> pb::Attr {
        match self.get(InodeNo(attr.inode)) {
            Some(file) => file.adjust(attr),
            None => attr,
        }
    }
}

/// What an open returned to the kernel.
pub struct Handle {
    /// On which file.
    pub file: Arc<OpenFile>,
    /// How it is being read.
    pub stream: ReadStream,
    /// Opened for reading alone.
    pub read_only: bool,
}

impl Handle {
    /// A new one.
    pub fn new(file: Arc<OpenFile>, read_only: bool) -> Handle {
        Handle { file, stream: ReadStream::new(), read_only }
    }
}

/// Handles by number.
pub type FileHandles = Handles<Handle>;

/// A table of handles; numbers are never used again.
pub struct Handles<T> {
    table: Mutex<HashMap<u64, Arc<T>>>,
    next: AtomicU64,
}

impl<T> Default for Handles<T> {
    fn default() -> Self {
        Self { table: Mutex::default(), next: AtomicU64::new(1) }
    }
}

impl<T> Handles<T> {
    /// Takes one in.
    pub fn insert(&self, handle: T) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.table).insert(number, Arc::new(handle));
        number
    }

    /// Finds one.
    ///
    /// # Errors
    /// `Stale` when there is none of that number.
    pub fn get(&self, number: u64) -> Result<Arc<T>, DfsError> {
        let found = lock(&self.table).get(&number).cloned();
        found.ok_or_else(|| DfsError::new(ErrorCode::Stale, format!("handle {number} is not open")))
    }

    /// Takes one out.
    pub fn remove(&self, number: u64) -> Option<Arc<T>> {
        lock(&self.table).remove(&number)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
