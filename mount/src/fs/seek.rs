//! lseek(2) for data and holes.

use dfs_proto::error::{DfsError, ErrorCode};

use super::{Fs, Result};

/// What a data or hole search looks for (lseek(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// SEEK_DATA
    Data,
    /// SEEK_HOLE
    Hole,
}

impl Fs {
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
