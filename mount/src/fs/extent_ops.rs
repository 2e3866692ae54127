//! fallocate and copy_file_range: changes of extents, done by the master alone.
//!
//! What must hold: all that this mount wrote to the files before is uploaded first, so that the master has it in
//! the order in which it was written; and when the call returns, what is known here of the target (size, times,
//! where its bytes lie) is newer than the change. The kernel lets no write to the target pass meanwhile, and
//! drops its pages of the changed range by itself when the answer is there.

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::{MAX_FILE_SIZE, pb};

use super::Fs;
use super::open_file::OpenFile;

/// The most that the answer to the kernel can say (a u32), in whole pages.
const MAX_COPY: u64 = 0xffff_f000;

/// What fallocate(2) is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocate {
    /// The file does not grow.
    pub keep_size: bool,
    /// The range reads as zeroes afterwards.
    pub make_hole: bool,
}

impl Allocate {
    /// From fallocate(2)'s mode; `None` for what we do not have.
    pub fn from_mode(mode: i32) -> Option<Allocate> {
        const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        const ZERO_AND_KEEP: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
        let (keep_size, make_hole) = match mode {
            0 => (false, false),
            libc::FALLOC_FL_KEEP_SIZE => (true, false),
            PUNCH | ZERO_AND_KEEP => (true, true),
            libc::FALLOC_FL_ZERO_RANGE => (false, true),
            _ => return None,
        };
        Some(Allocate { keep_size, make_hole })
    }
}

impl Fs {
    /// fallocate(2). Room is not reserved: a later write can still find none.
    ///
    /// # Errors
    /// An earlier write's; the master's.
    pub async fn fallocate(
        &self,
        handle: u64,
        offset: u64,
        length: u64,
        how: Allocate,
    ) -> Result<(), DfsError> {
        let handle = self.handles.get(handle)?;
        check_end(offset, length)?;
        let file = &handle.file;
        file.writer.settle().await?;
        let Allocate { keep_size, make_hole } = how;
        let op = pb::Fallocate { inode: file.inode.0, offset, length, keep_size, make_hole };
        let _changing = self.board.begin(&[]);
        let attr = self.client.fallocate(op).await.inspect_err(|_| file.changed_elsewhere())?;
        self.changed_here(file, &attr);
        Ok(())
    }

    /// copy_file_range(2), from (handle, offset) to (handle, offset). Returns how much was copied: less than
    /// `length` at the end of the source, within one file with very many extents, or when there is more than the kernel's answer can say.
    ///
    /// # Errors
    /// An earlier write's; the master's, when nothing was copied.
    pub async fn copy_file_range(
        &self,
        from: (u64, u64),
        to: (u64, u64),
        length: u64,
    ) -> Result<u32, DfsError> {
        let (source, target) = (self.handles.get(from.0)?, self.handles.get(to.0)?);
        let (source, target) = (&source.file, &target.file);
        let length = length.min(MAX_COPY);
        source.writer.settle().await?;
        target.writer.settle().await?;
        let _changing = self.board.begin(&[]);
        let mut copied = 0;
        // Within one file the copy may make the source longer: going on would copy the copy.
        let once = source.inode == target.inode;
        while copied < length && !(once && copied > 0) {
            let op = pb::CopyRange {
                source: source.inode.0,
                source_offset: from.1.saturating_add(copied),
                target: target.inode.0,
                target_offset: to.1.saturating_add(copied),
                length: length - copied,
            };
            // What failed may have been done all the same: it is asked again before the next read.
            match self.client.copy_range(op).await.inspect_err(|_| target.changed_elsewhere()) {
                Ok(done) if done.length == 0 => break,
                Ok(done) => {
                    copied += done.length.min(length - copied);
                    if let Some(attr) = &done.attr {
                        self.changed_here(target, attr);
                    }
                }
                Err(error) if copied == 0 => return Err(error),
                Err(error) => {
                    tracing::warn!(source = %source.inode, target = %target.inode, copied, "a copy ended early: {error}");
                    break;
                }
            }
        }
        // At most MAX_COPY.
        Ok(copied as u32)
    }

    /// The master changed the content because we asked it to.
    fn changed_here(&self, file: &OpenFile, attr: &pb::Attr) {
        self.ledger.own_change(attr);
        self.trust.attrs_changed(file.inode);
        file.reader.invalidate();
        // Takes the attributes in; what it makes of them nobody asks for here.
        file.adjust(*attr);
    }
}

fn check_end(offset: u64, length: u64) -> Result<(), DfsError> {
    match offset.checked_add(length) {
        Some(end) if end <= MAX_FILE_SIZE => Ok(()),
        _ => Err(DfsError::new(
            ErrorCode::TooLarge,
            format!("fallocate at {offset}: no file can be larger than {MAX_FILE_SIZE} bytes"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_that_are_known_and_no_others() {
        let of = |mode| Allocate::from_mode(mode).map(|how| (how.keep_size, how.make_hole));
        assert_eq!(of(0), Some((false, false)));
        assert_eq!(of(libc::FALLOC_FL_KEEP_SIZE), Some((true, false)));
        assert_eq!(of(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE), Some((true, true)));
        assert_eq!(of(libc::FALLOC_FL_ZERO_RANGE), Some((false, true)));
        assert_eq!(of(libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE), Some((true, true)));
        for other in [
            libc::FALLOC_FL_PUNCH_HOLE,
            libc::FALLOC_FL_COLLAPSE_RANGE,
            libc::FALLOC_FL_INSERT_RANGE,
            libc::FALLOC_FL_UNSHARE_RANGE,
        ] {
            assert_eq!(of(other), None);
        }
    }
}
