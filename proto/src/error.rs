//! The error that crosses process borders: a code that a caller can branch on, and a message that
//! says what failed, on what, why, and what to do. Here is the one table from code to errno.

use std::fmt;

use crate::pb;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident => $errno:ident,)*) => {
        /// Why an operation failed, for a caller to branch on. Mirrors `dfs.v1.Code` less `OK`.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        pub enum ErrorCode {
            $($(#[$doc])* $name,)*
        }

        impl ErrorCode {
            /// The errno that a system call on the mount returns for this code.
            pub fn errno(self) -> Errno {
                match self {
                    $(ErrorCode::$name => Errno::$errno,)*
                }
            }

            /// Every code, for tests that must not miss one.
            pub const ALL: &[ErrorCode] = &[$(ErrorCode::$name,)*];

            /// As the wire has it.
            pub fn to_wire(self) -> pb::Code {
                match self {
                    $(ErrorCode::$name => pb::Code::$name,)*
                }
            }

            /// From the wire. `OK` in an error, and codes that this version does not know, are
            /// [`ErrorCode::Io`].
            pub fn from_wire(code: i32) -> ErrorCode {
                match pb::Code::try_from(code) {
                    $(Ok(pb::Code::$name) => ErrorCode::$name,)*
                    Ok(pb::Code::Ok) | Err(_) => ErrorCode::Io,
                }
            }
        }
    };
}

/// The errnos that the table uses, by Linux's numbers (errno(3)); the same on every architecture
/// that we build for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, clippy::upper_case_acronyms)]
#[repr(i32)]
pub enum Errno {
    EPERM = 1,
    ENOENT = 2,
    EINTR = 4,
    EIO = 5,
    E2BIG = 7,
    EAGAIN = 11,
    EACCES = 13,
    EBUSY = 16,
    EEXIST = 17,
    EXDEV = 18,
    ENOTDIR = 20,
    EISDIR = 21,
    EINVAL = 22,
    EFBIG = 27,
    ENOSPC = 28,
    EROFS = 30,
    EMLINK = 31,
    ERANGE = 34,
    EDEADLK = 35,
    ENAMETOOLONG = 36,
    ENOTEMPTY = 39,
    ELOOP = 40,
    ENODATA = 61,
    EPROTO = 71,
    EOPNOTSUPP = 95,
    ETIMEDOUT = 110,
    ESTALE = 116,
    EDQUOT = 122,
}

codes! {
    /// No such name.
    NotFound => ENOENT,
    /// The name is taken.
    Exists => EEXIST,
    /// A directory was needed.
    NotDirectory => ENOTDIR,
    /// Not to be done to a directory.
    IsDirectory => EISDIR,
    /// The directory has entries.
    NotEmpty => ENOTEMPTY,
    /// The request makes no sense.
    Invalid => EINVAL,
    /// A name over 255 bytes, or a target over 4095.
    NameTooLong => ENAMETOOLONG,
    /// The inode has as many names as it may.
    TooManyLinks => EMLINK,
    /// No keeper, or not the master, has room.
    NoSpace => ENOSPC,
    /// Beyond the largest file size.
    TooLarge => EFBIG,
    /// Not the owner.
    Permission => EPERM,
    /// The mode forbids it.
    Access => EACCES,
    /// The mount, or the keeper's disk, is read-only.
    ReadOnly => EROFS,
    /// No such extended attribute.
    NoData => ENODATA,
    /// The buffer for an extended attribute is too small.
    Range => ERANGE,
    /// An extended attribute's value is too big.
    TooBig => E2BIG,
    /// The inode is gone.
    Stale => ESTALE,
    /// Something broke, or an upload failed for good.
    Io => EIO,
    /// Nobody who could do it can be reached; trying again may help.
    Unavailable => EIO,
    /// No answer within the deadline.
    TimedOut => ETIMEDOUT,
    /// Not offered.
    NotSupported => EOPNOTSUPP,
    /// Too many symbolic links, or a directory moved into itself.
    Loop => ELOOP,
    /// Bytes do not verify.
    Corrupt => EIO,
    /// The ticket's time is over.
    TicketExpired => EACCES,
    /// The ticket's signature is not the master's.
    TicketForged => EACCES,
    /// The ticket is for another chunk, keeper, operation or cluster.
    TicketWrong => EACCES,
    /// The peer does not speak our protocol.
    Protocol => EPROTO,
    /// The peer is of a version that we cannot talk to.
    Version => EPROTO,
    /// The peer belongs to another cluster.
    WrongCluster => EPROTO,
    /// A limit is reached; try again later.
    Busy => EBUSY,
    /// No live keeper can take the bytes.
    NoKeeper => EIO,
    /// No live keeper has the chunk.
    Lost => EIO,
    /// The session is unknown, or gone.
    Session => EIO,
    /// A signal ended the wait.
    Interrupted => EINTR,
    /// Waiting for the lock would never end.
    Deadlock => EDEADLK,
    /// Somebody else has the lock.
    WouldBlock => EAGAIN,
    /// A directory's quota allows no more.
    QuotaExceeded => EDQUOT,
    /// A directory cannot be moved into or out of a directory with a quota; it has to be copied.
    CrossesQuota => EXDEV,
    /// No token, or one that is not good (any more).
    Unauthenticated => EACCES,
    /// The ticket allows one upload, and was used for one.
    TicketUsed => EACCES,
}

/// What went wrong, ready for a peer or a person.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DfsError {
    /// For the caller to branch on.
    pub code: ErrorCode,
    /// What failed, on what, why, and what to do.
    pub message: String,
}

impl DfsError {
    /// An error with its words.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// As the wire has it.
    pub fn to_wire(&self) -> pb::Error {
        pb::Error { code: self.code.to_wire() as i32, message: self.message.clone() }
    }

    /// From the wire.
    pub fn from_wire(error: pb::Error) -> Self {
        Self { code: ErrorCode::from_wire(error.code), message: error.message }
    }
}

impl fmt::Display for DfsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for DfsError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_the_wire() {
        for &code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_wire(code.to_wire() as i32), code);
        }
    }

    #[test]
    fn the_wire_has_no_code_that_we_lack() {
        let known = (1..).take_while(|&n| pb::Code::try_from(n).is_ok()).count();
        assert_eq!(known, ErrorCode::ALL.len());
    }

    #[test]
    fn unknown_codes_are_io_errors() {
        assert_eq!(ErrorCode::from_wire(0), ErrorCode::Io);
        assert_eq!(ErrorCode::from_wire(-7), ErrorCode::Io);
        assert_eq!(ErrorCode::from_wire(100_000), ErrorCode::Io);
    }
}
