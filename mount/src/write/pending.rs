//! What of a file is on this mount alone, for those who read it.

use bytes::Bytes;
use dfs_proto::pb;

/// What of a file is on this mount alone.
#[derive(Clone, Debug, Default)]
pub struct Pending {
    /// Bytes in the asked-for range, to be laid over what is committed in this order.
    pub pieces: Vec<(u64, Bytes)>,
}

/// How unfinished writes change a file's attributes.
#[derive(Clone, Copy, Debug)]
pub struct PendingAttr {
    /// The file is at least this long.
    pub end: u64,
    /// Time of the last write.
    pub mtime: pb::Time,
    /// Bytes not yet committed.
    pub bytes: u64,
}

impl Pending {
    /// The whole range, when one piece alone has it.
    pub fn whole(&self, offset: u64, length: usize) -> Option<Bytes> {
        let (start, piece) = self.pieces.last()?;
        (*start == offset && piece.len() >= length).then(|| piece.slice(..length))
    }

    /// Lays the pieces over `base`, which begins at file offset `offset`.
    pub fn lay_over(&self, offset: u64, base: Bytes) -> Bytes {
        if self.pieces.is_empty() {
            return base;
        }
        let mut out = Vec::from(base);
        for (start, piece) in &self.pieces {
            let at = (start - offset) as usize;
            out[at..at + piece.len()].copy_from_slice(piece);
        }
        out.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_pieces_cover_older_ones() {
        let pending =
            Pending { pieces: vec![(2, Bytes::from_static(b"old!")), (4, Bytes::from_static(b"new"))] };
        assert_eq!(&pending.lay_over(0, Bytes::from_static(b"..........")).to_vec(), b"..olnew...");
        assert_eq!(pending.whole(4, 3), Some(Bytes::from_static(b"new")));
        assert_eq!(pending.whole(2, 4), None, "an older piece may be covered in part");
    }
}
