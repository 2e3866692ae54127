//! Writes, also those whose place, or whose side effects, the kernel does not know.

use std::sync::OnceLock;

use fuser::{Errno, FileHandle, INodeNo, OpenFlags, ReplyWrite, WriteFlags};

use super::adapter::Adapter;
use super::requester::Call;
use crate::client::lanes::Lane;
use crate::client::operation;

impl Adapter {
    /// Answers a write.
    pub(super) fn write_data(
        &self,
        call: Call,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        (write_flags, flags): (WriteFlags, OpenFlags),
        reply: ReplyWrite,
    ) {
        if self.fs.lost_lock(fh.0) {
            return reply.error(call.counted(Errno::EIO));
        }
        // Not of the kernel's pages: what mmap wrote has its place.
        let appends = flags.0 & libc::O_APPEND != 0 && !write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let keeps_set_ids = !write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        if (appends || !keeps_set_ids) && self.fs.may_be_privileged(fh.0, keeps_set_ids) {
            let offset = (!appends).then_some(offset);
            return self.write_and_clear(call, fh, offset, keeps_set_ids, data, reply);
        }
        if appends {
            return self.append(call, fh, offset, data, reply);
        }
        // The kernel never sends more than MAX_WRITE.
        let length = data.len() as u32;
        match operation::during(call.number, || self.fs.try_write(fh.0, offset, data)) {
            Some(Ok(())) => {
                call.has_written(length);
                reply.written(length);
            }
            Some(Err(error)) => reply.error(call.errno(&error)),
            None => {
                let (fs, data, metrics) = (self.fs.clone(), data.to_vec(), self.metrics.clone());
                let work = async move { fs.write(fh.0, offset, &data).await };
                self.answer(Lane::carrying(length as usize), call, reply, work, move |reply, ()| {
                    metrics.bytes_written.add(u64::from(length));
                    reply.written(length);
                });
            }
        }
    }

    /// Answers a write to the end of the file, which the kernel believes to be at `offset`.
    fn append(&self, call: Call, fh: FileHandle, offset: u64, data: &[u8], reply: ReplyWrite) {
        let ino = call.inode;
        // The kernel never sends more than MAX_WRITE.
        let length = data.len() as u32;
        match self.fs.try_append(fh.0, data) {
            Some(Ok(at)) if at == offset => {
                call.has_written(length);
                return reply.written(length);
            }
            Some(Ok(_)) => {
                call.has_written(length);
                reply.written(length);
                let notifier = self.notifier.clone();
                self.work_for(Lane::Control, call.number, async move { forget_pages(&notifier, ino).await });
                return;
            }
            Some(Err(error)) => return reply.error(call.errno(&error)),
            None => {}
        }
        let (fs, notifier, data) = (self.fs.clone(), self.notifier.clone(), data.to_vec());
        self.work_for(Lane::Control, call.number, async move {
            match call.unless_ended(&fs, fs.append(fh.0, &data)).await {
                Ok(at) => {
                    call.has_written(length);
                    reply.written(length);
                    if at != offset {
                        forget_pages(&notifier, ino).await;
                    }
                }
                Err(error) => reply.error(call.errno(&error)),
            }
        });
    }

    /// Answers a write, at `offset` or to the end, past the kernel's pages, of a file that may have what a write takes
    /// away: there the kernel leaves that to us.
    fn write_and_clear(
        &self,
        call: Call,
        fh: FileHandle,
        offset: Option<u64>,
        keeps_set_ids: bool,
        data: &[u8],
        reply: ReplyWrite,
    ) {
        let ino = call.inode;
        // The kernel never sends more than MAX_WRITE.
        let length = data.len() as u32;
        let (fs, notifier, data) = (self.fs.clone(), self.notifier.clone(), data.to_vec());
        self.work_for(Lane::Control, call.number, async move {
            let written = async {
                if fs.clear_privileges(fh.0, keeps_set_ids).await? {
                    forget_attributes(&notifier, ino).await;
                }
                match offset {
                    Some(offset) => fs.write(fh.0, offset, &data).await.map(|()| None),
                    None => fs.append(fh.0, &data).await.map(Some),
                }
            };
            match call.unless_ended(&fs, written).await {
                Ok(at) => {
                    call.has_written(length);
                    reply.written(length);
                    if at.is_some() {
                        forget_pages(&notifier, ino).await;
                    }
                }
                Err(error) => reply.error(call.errno(&error)),
            }
        });
    }
}

/// Has the kernel forget what it knows of a file, before this returns. Not to be waited for by a request that holds
/// the file's pages, such as a write. The kernel may make it wait, so not on this thread.
pub(super) async fn forget_pages(notifier: &OnceLock<fuser::Notifier>, ino: INodeNo) {
    forget(notifier, ino, 0).await;
}

/// The same of a file's attributes alone, which holds up nobody.
async fn forget_attributes(notifier: &OnceLock<fuser::Notifier>, ino: INodeNo) {
    forget(notifier, ino, -1).await;
}

/// Attributes, and pages from offset `from` on; none if it is negative.
async fn forget(notifier: &OnceLock<fuser::Notifier>, ino: INodeNo, from: i64) {
    if let Some(notifier) = notifier.get().cloned() {
        let told = move || notifier.inval_inode(ino, from, 0);
        // That the kernel has nothing cached is as good.
        let _ = tokio::task::spawn_blocking(told).await;
    }
}
