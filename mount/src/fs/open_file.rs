//! Files that are open on this mount, and the handles on them. All handles of one inode share one
//! [`OpenFile`]: one writer, one reader, one newest known state.
//!
//! What must hold: there is at most one `OpenFile` of an inode, and it lives at least as long as a handle on
//! it or a byte of it that is not committed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::InodeNo;
use dfs_proto::pb;

use super::append::AppendLease;
use super::away::Away;
use super::cached::PageCacheLedger;
use super::known;
use super::trust::{Asked, Trust};
use crate::client::Client;
use crate::lock::lock;
use crate::read::{FileReader, ReadStream, Readers};
use crate::write::{FileWriter, Outcome, WriteHandle, Writers};

/// One inode that is open here.
pub struct OpenFile {
    /// Which.
    pub inode: InodeNo,
    /// Reads what is committed.
    pub reader: Arc<FileReader>,
    /// Holds what is not.
    pub writer: Arc<FileWriter>,
    /// The right to append.
    pub lease: AppendLease,
    known: Arc<Known>,
}

/// The newest that was heard from the master of a file's content.
struct Known {
    attr: Mutex<pb::Attr>,
    /// How often the content changed, or may have, without saying to what.
    changes: AtomicU64,
    /// How many of these an answer of the master was asked for after; while it is fewer, ask before a read.
    answered: AtomicU64,
    /// The newest attributes that were asked for, and when.
    told: Mutex<Option<(Asked, pb::Attr)>>,
    away: Arc<Away>,
    reader: Arc<FileReader>,
}

impl Known {
    /// Answers come from several tasks and so in any order: the newer content wins. The reader forgets an older
    /// layout before a newer size is known.
    fn take(&self, attr: &pb::Attr) {
        let newer = attr.content_version > lock(&self.attr).content_version;
        if newer {
            self.reader.outdate(attr.content_version);
        }
        let mut known = lock(&self.attr);
        if attr.content_version >= known.content_version {
            *known = *attr;
        }
    }

    /// This mount's own writing came to this. As of when the attributes count, if nothing else changed them since they were
    /// last asked for.
    fn own_change(&self, trust: &Trust, attr: &pb::Attr) -> Option<Asked> {
        let mut told = lock(&self.told);
        let (before, _) = (*told)?;
        let asked = trust.own_change(InodeNo(attr.inode), before)?;
        *told = Some((asked, *attr));
        Some(asked)
    }

    /// What is known is old; what is new is not known.
    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.reader.invalidate();
    }
}

impl OpenFile {
    fn new(
        attr: pb::Attr,
        readers: &Arc<Readers>,
        writers: &Arc<Writers>,
        ledger: &Arc<PageCacheLedger>,
        trust: &Arc<Trust>,
        attrs: &Arc<known::Known>,
        away: &Arc<Away>,
    ) -> Arc<OpenFile> {
        let inode = InodeNo(attr.inode);
        let reader = readers.file(inode);
        // It may have been kept by something of an earlier open, with a layout older than `attr`.
        reader.invalidate();
        let known = Arc::new(Known {
            attr: Mutex::new(attr),
            changes: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            told: Mutex::new(None),
            away: away.clone(),
            reader: reader.clone(),
        });
        let on_outcome = {
            let (known, ledger, trust, attrs) = (known.clone(), ledger.clone(), trust.clone(), attrs.clone());
            move |outcome: Outcome<'_>| match outcome {
                Outcome::Committed(attr) => {
                    known.reader.invalidate();
                    known.take(attr);
                    ledger.own_change(attr);
                    match known.own_change(&trust, attr) {
                        Some(asked) => attrs.put(asked, attr),
                        None => trust.attrs_changed(inode),
                    }
                }
                Outcome::Lost => {
                    known.changed();
                    // The kernel's pages have what the file never got.
                    ledger.changed(inode);
                    trust.attrs_changed(inode);
                }
            }
        };
        let writer = writers.file_with(inode, Box::new(on_outcome));
        Arc::new(OpenFile { inode, reader, writer, lease: AppendLease::default(), known })
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

    /// What the master said last, without what is not committed.
    pub fn committed_attr(&self) -> pb::Attr {
        *lock(&self.known.attr)
    }

    /// How many of `length` bytes at `offset` lie before the end of the file.
    pub fn clip(&self, offset: u64, length: usize) -> usize {
        let pending_end = self.writer.pending_attr().map_or(0, |pending| pending.end);
        let size = lock(&self.known.attr).size.max(pending_end);
        usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX).min(length)
    }

    /// The newest known size, without what this mount has yet to commit.
    pub fn committed_size(&self) -> u64 {
        lock(&self.known.attr).size
    }

    /// The master said something of the file.
    pub fn learn(&self, attr: &pb::Attr) {
        self.known.take(attr);
    }

    /// The content is another than what is known: somebody else changed it, or it is not sure what became of
    /// a change of ours.
    pub fn changed_elsewhere(&self) {
        self.known.changed();
    }

    /// Nothing that was known may be shown any more: the session is broken, and the master may be back.
    pub fn forget_known(&self) {
        self.known.changed();
    }

    /// The master said this of the file when it was asked at `asked`.
    pub fn told(&self, asked: Asked, attr: &pb::Attr) {
        let mut told = lock(&self.known.told);
        if told.is_none_or(|(before, _)| before.is_before(asked)) {
            *told = Some((asked, *attr));
        }
    }

    /// The attributes, when the master is down and they are known all the same.
    pub fn attr_without_master(&self, trust: &Trust) -> Option<pb::Attr> {
        let (asked, attr) = (*lock(&self.known.told))?;
        let is_known = self.known.away.knows_without_master()
            && !self.is_changed()
            && !trust.changed_since(asked, self.inode);
        is_known.then(|| self.adjust(attr))
    }

    /// Is the session broken, so that nothing can be asked? What is appended under the lease goes on: if the lease is lost,
    /// the master refuses it.
    pub fn is_cut_off(&self) -> bool {
        self.known.away.is_cut_off()
    }

    /// Has the content changed to what is not known?
    pub fn is_changed(&self) -> bool {
        self.known.answered.load(Ordering::Acquire) < self.known.changes.load(Ordering::Acquire)
    }

    /// Has to ask the master before it answers a read?
    pub fn is_stale(&self) -> bool {
        self.is_changed() || self.known.away.is_in_doubt()
    }

    /// Asks the master, if that has to be done before a read.
    ///
    /// # Errors
    /// The master's.
    pub async fn refresh(&self, client: &Client) -> Result<(), DfsError> {
        while self.is_stale() {
            if self.is_changed() {
                return self.ask(client).await;
            }
            tokio::select! {
                asked = self.ask(client) => return asked,
                // It may be over by now.
                () = self.known.away.until_known_without_master() => {}
            }
        }
        Ok(())
    }

    /// The same before something is appended.
    ///
    /// # Errors
    /// The master's.
    pub async fn refresh_changed(&self, client: &Client) -> Result<(), DfsError> {
        if self.is_changed() { self.ask(client).await } else { Ok(()) }
    }

    async fn ask(&self, client: &Client) -> Result<(), DfsError> {
        // Changes that come after the question are not answered by it.
        let changes = self.known.changes.load(Ordering::Acquire);
        let attr = client.getattr(self.inode).await?;
        self.known.take(&attr);
        self.known.answered.fetch_max(changes, Ordering::AcqRel);
        Ok(())
    }
}

/// All open files.
pub struct OpenFiles {
    readers: Arc<Readers>,
    writers: Arc<Writers>,
    ledger: Arc<PageCacheLedger>,
    trust: Arc<Trust>,
    attrs: Arc<known::Known>,
    away: Arc<Away>,
    /// With the number of handles.
    table: Mutex<HashMap<InodeNo, (Arc<OpenFile>, u64)>>,
}

impl OpenFiles {
    /// None yet.
    pub fn new(
        readers: Arc<Readers>,
        writers: Arc<Writers>,
        ledger: Arc<PageCacheLedger>,
        trust: Arc<Trust>,
        attrs: Arc<known::Known>,
        away: Arc<Away>,
    ) -> OpenFiles {
        OpenFiles { readers, writers, ledger, trust, attrs, away, table: Mutex::default() }
    }

    /// One more handle on an inode, of which the master just said `attr`.
    pub fn open(&self, attr: pb::Attr) -> Arc<OpenFile> {
        let mut table = lock(&self.table);
        let inode = InodeNo(attr.inode);
        let (file, handles) = table.entry(inode).or_insert_with(|| {
            let OpenFiles { readers, writers, ledger, trust, attrs, away, .. } = self;
            (OpenFile::new(attr, readers, writers, ledger, trust, attrs, away), 0)
        });
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

    /// What all files read through.
    pub fn readers(&self) -> &Readers {
        &self.readers
    }

    /// A read was answered with these bytes.
    pub fn answered(&self, bytes: Bytes) {
        self.readers.buffers().give_back(bytes);
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
    /// Writes it.
    pub writer: WriteHandle,
    /// How it is being read.
    pub stream: ReadStream,
    /// Opened for reading alone.
    pub read_only: bool,
    /// Reading through it changes no atime (O_NOATIME).
    pub no_atime: bool,
    /// Something was appended through it.
    appended: AtomicBool,
}

impl Handle {
    /// A new one.
    pub fn new(file: Arc<OpenFile>, stream: ReadStream, read_only: bool, no_atime: bool) -> Handle {
        Handle {
            writer: file.writer.handle(),
            file,
            stream,
            read_only,
            no_atime,
            appended: AtomicBool::new(false),
        }
    }

    /// Something is appended through it.
    pub fn appends(&self) {
        if !self.appended.load(Ordering::Relaxed) && !self.appended.swap(true, Ordering::Relaxed) {
            self.file.lease.join();
        }
    }

    /// Was anything appended through it?
    pub fn has_appended(&self) -> bool {
        self.appended.load(Ordering::Relaxed)
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

    /// The first that `look` finds something in, in no order.
    pub fn find<R>(&self, look: impl Fn(&T) -> Option<R>) -> Option<R> {
        lock(&self.table).values().find_map(|handle| look(handle))
    }

    /// Takes one out.
    pub fn remove(&self, number: u64) -> Option<Arc<T>> {
        lock(&self.table).remove(&number)
    }
}
