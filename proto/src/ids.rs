//! Ids as types of their own, so that one can never be passed for another.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl From<u64> for $name {
            fn from(raw: u64) -> Self {
                Self(raw)
            }
        }

        impl From<$name> for u64 {
            fn from(id: $name) -> Self {
                id.0
            }
        }
    };
}

id! {
    /// A file, directory or other node. Never used again. 0 is no inode, 1 is the root.
    InodeNo
}
id! {
    /// An immutable run of bytes. Never used again. 0 is no chunk. Shown as 16 hex digits.
    ChunkId
}
id! {
    /// A keeper, for as long as its data directory lives. 0 is no keeper.
    KeeperId
}
id! {
    /// A mount's session with the master. 0 is no session. Shown as 16 hex digits.
    SessionId
}

id! {
    /// An operation of a program on a mount, for logs. 0 is none. Shown as 16 hex digits.
    OperationNo
}

impl InodeNo {
    /// The root directory.
    pub const ROOT: InodeNo = InodeNo(1);
}

impl fmt::Display for InodeNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for KeeperId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for OperationNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl ChunkId {
    /// Where a keeper stores this chunk, under its data directory: `chunks/<2 hex>/<id>.chunk`.
    /// The two digits are the id's lowest, so that new chunks spread over all directories.
    pub fn relative_path(self) -> String {
        format!("chunks/{:02x}/{self}.chunk", self.0 & 0xff)
    }

    /// The inverse of [`ChunkId::relative_path`] for a file name without its directory.
    pub fn from_file_name(name: &str) -> Option<ChunkId> {
        let digits = name.strip_suffix(".chunk")?;
        let plain = digits.len() == 16 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        plain.then(|| u64::from_str_radix(digits, 16).ok().map(ChunkId))?
    }
}

/// A cluster, chosen at random when its master first starts. A keeper's data directory belongs to
/// one cluster for ever.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClusterId(pub [u8; 16]);

impl ClusterId {
    /// The part of the id that tickets carry.
    pub fn short(self) -> u64 {
        let mut first = [0; 8];
        first.copy_from_slice(&self.0[..8]);
        u64::from_le_bytes(first)
    }

    /// From the 16 bytes of a message; `None` for any other length.
    pub fn from_bytes(bytes: &[u8]) -> Option<ClusterId> {
        bytes.try_into().ok().map(ClusterId)
    }

    /// From the 32 hex digits that `Display` writes.
    pub fn from_hex(text: &str) -> Option<ClusterId> {
        if text.len() != 32 || !text.is_ascii() {
            return None;
        }
        u128::from_str_radix(text, 16).ok().map(|n| ClusterId(n.to_be_bytes()))
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_path_leads_back_to_its_id() {
        let chunk = ChunkId(0x1234_5678_9abc_def0);
        assert_eq!(chunk.relative_path(), "chunks/f0/123456789abcdef0.chunk");
        assert_eq!(ChunkId::from_file_name("123456789abcdef0.chunk"), Some(chunk));
    }

    #[test]
    fn other_file_names_are_no_chunks() {
        for name in [
            "",
            "x.chunk",
            "123456789ABCDEF0.chunk",
            "+23456789abcdef0.chunk",
            "123456789abcdef0",
            "123456789abcdef01.chunk",
        ] {
            assert_eq!(ChunkId::from_file_name(name), None, "{name}");
        }
    }

    #[test]
    fn a_cluster_id_reads_back_from_hex() {
        let cluster = ClusterId([7; 16]);
        assert_eq!(ClusterId::from_hex(&cluster.to_string()), Some(cluster));
        assert_eq!(ClusterId::from_hex("07"), None);
        assert_eq!(ClusterId::from_bytes(&[1; 15]), None);
    }
}
