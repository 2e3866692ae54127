//! Reads.

use fuser::{Errno, FileHandle, ReplyData};

use super::adapter::Adapter;
use super::requester::Call;
use crate::client::lanes::Lane;

impl Adapter {
    /// Answers a read.
    pub(super) fn read_data(&self, call: Call, fh: FileHandle, offset: u64, length: usize, reply: ReplyData) {
        if self.fs.lost_lock(fh.0) {
            return reply.error(call.counted(Errno::EIO));
        }
        if let Some(data) = self.fs.try_read(fh.0, offset, length) {
            call.has_read(data.len());
            reply.data(&data);
            return self.fs.answered(data);
        }
        let (fs, then, metrics) = (self.fs.clone(), self.fs.clone(), self.metrics.clone());
        let work = async move { fs.read(fh.0, offset, length).await };
        self.answer(Lane::carrying(length), call, reply, work, move |reply: ReplyData, data| {
            metrics.bytes_read.add(data.len() as u64);
            reply.data(&data);
            then.answered(data);
        });
    }
}
