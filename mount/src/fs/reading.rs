//! read(2): what is committed, with what was written here laid over it.
//!
//! What must hold: the bytes of an answer, and where it ends, are those of one content of the file. What is known of the
//! size and where the bytes lie are asked for at different times, and others cut and lengthen the file in between: a
//! size that is newer than the bytes would show holes where nobody made any, one that is older would show later
//! bytes without earlier ones.

use bytes::Bytes;

use super::open_file::Handle;
use super::{Fs, Result};

/// How often a read begins anew because the content changed meanwhile. After that it shows what it found last.
const ATTEMPTS: u32 = 10;

/// One try of a read.
struct Found {
    bytes: Bytes,
    /// They are all that was to be found, of the content that was known before.
    is_whole: bool,
}

impl Fs {
    /// At most `length` bytes at `offset`; fewer only at the end of the file.
    ///
    /// # Errors
    /// The master's; see [`crate::read::FileReader::read`].
    pub async fn read(&self, handle: u64, offset: u64, length: usize) -> Result<Bytes> {
        let handle = self.handles.get(handle)?;
        let mut tries = 0;
        loop {
            handle.file.refresh(&self.client).await?;
            let found = self.find(&handle, offset, length).await?;
            tries += 1;
            if found.is_whole || tries == ATTEMPTS {
                self.was_read(&handle);
                return Ok(found.bytes);
            }
        }
    }

    async fn find(&self, handle: &Handle, offset: u64, length: usize) -> Result<Found> {
        let file = &handle.file;
        let known = file.committed_attr();
        let length = file.clip(offset, length);
        if length == 0 {
            return Ok(Found { bytes: Bytes::new(), is_whole: true });
        }
        // First what is here alone, then what is committed: a commit in between is then seen twice, not never.
        let pending_end = file.writer.pending_attr().map_or(0, |pending| pending.end);
        let pending = file.writer.pending(offset, length);
        if let Some(bytes) = pending.whole(offset, length) {
            return Ok(Found { bytes, is_whole: true });
        }
        let committed = file.reader.read(&handle.stream, offset, length).await?;
        file.learn(&committed.attr);
        let pending_length = usize::try_from(pending_end.saturating_sub(offset)).unwrap_or(usize::MAX);
        let end = committed.bytes.len().max(pending_length).min(length);
        let is_whole = end == length && committed.attr.content_version <= known.content_version;
        let mut base = committed.bytes;
        if base.len() < length {
            // Between the end of what is committed and what was written here behind it is a hole.
            let mut longer = Vec::from(base);
            longer.resize(length, 0);
            base = longer.into();
        }
        let mut bytes = pending.lay_over(offset, base);
        bytes.truncate(end);
        Ok(Found { bytes, is_whole })
    }

    /// The same, when it can be answered at once from memory.
    pub fn try_read(&self, handle: u64, offset: u64, length: usize) -> Option<Bytes> {
        let handle = self.handles.get(handle).ok()?;
        let file = &handle.file;
        if file.is_stale() || file.writer.has_pending() {
            return None;
        }
        let bytes = match file.clip(offset, length) {
            0 => Bytes::new(),
            length => file.reader.try_cached(&handle.stream, offset, length)?,
        };
        self.was_read(&handle);
        Some(bytes)
    }

    /// The kernel has the bytes of a read: their memory may be used again.
    pub fn answered(&self, bytes: Bytes) {
        self.files.answered(bytes);
    }

    fn was_read(&self, handle: &Handle) {
        if !handle.no_atime {
            self.atimes.read_file(&handle.file);
        }
    }
}
