//! The file system that holds the data directory: how much is free, and whether it takes writes.
//!
//! A write that fails for want of space or by a fault of the disk closes the door for further
//! writes at once; [`Disk::probe`], called every heartbeat, opens it again when a small write goes
//! through. Serving goes on all the while.

use std::fs::{self, File};
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use dfs_proto::ids::ChunkId;
use rustix::fs::StatVfsMountFlags;

use crate::store::DATA_AT;
use crate::store::error::StoreError;

const LEAST_RESERVE: u64 = 64 * 1024 * 1024;
const PROBE_LEN: usize = 4096;

/// Asks the disk for a chunk file's header and `wanted` of its data, and does not wait: else each would be waited for before the next
/// is asked for, a little at a time. Advice: where it is not taken, reading is slower.
pub(super) fn read_ahead(file: &File, wanted: Range<u64>) {
    let advise = |from, length| {
        let _ = rustix::fs::fadvise(file, from, NonZeroU64::new(length), rustix::fs::Advice::WillNeed);
    };
    if wanted.start == 0 {
        return advise(0, DATA_AT + wanted.end);
    }
    advise(0, DATA_AT);
    advise(DATA_AT + wanted.start, wanted.end - wanted.start);
}

/// How the disk stands, as the master is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Space {
    /// Which file system, as statvfs(3) numbers them.
    pub file_system: u64,
    /// Bytes of the file system.
    pub total: u64,
    /// Bytes that chunks may still take.
    pub free: u64,
    /// Writes are refused.
    pub read_only: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Door {
    Open = 0,
    NoSpace = 1,
    ReadOnly = 2,
    Fault = 3,
}

/// Watches one file system.
#[derive(Debug)]
pub(crate) struct Disk {
    dir: PathBuf,
    reserve: Option<u64>,
    door: AtomicU8,
    file_system: AtomicU64,
    total: AtomicU64,
    free: AtomicU64,
    read_only: AtomicBool,
}

impl Disk {
    /// Of the file system with `dir` (an absolute path); `reserve` as in the configuration.
    ///
    /// # Errors
    /// When statvfs(3) fails.
    pub fn new(dir: &Path, reserve: Option<u64>) -> io::Result<Disk> {
        let disk = Disk {
            dir: dir.to_owned(),
            reserve,
            door: AtomicU8::new(Door::Open as u8),
            file_system: AtomicU64::new(0),
            total: AtomicU64::new(0),
            free: AtomicU64::new(0),
            read_only: AtomicBool::new(false),
        };
        disk.look()?;
        Ok(disk)
    }

    /// As last looked at; asks no disk, so it never waits.
    pub fn space(&self) -> Space {
        Space {
            file_system: self.file_system.load(Ordering::Relaxed),
            total: self.total.load(Ordering::Relaxed),
            free: self.free.load(Ordering::Relaxed),
            read_only: self.read_only.load(Ordering::Relaxed),
        }
    }

    /// May a chunk of `length` bytes be written now?
    ///
    /// # Errors
    /// `NoSpace`, `ReadOnly` or `Io`, as a write would have failed.
    pub fn admit(&self, chunk: ChunkId, length: u64) -> Result<(), StoreError> {
        let source = |kind: io::ErrorKind, why: &str| io::Error::new(kind, why.to_owned());
        match self.door() {
            Door::NoSpace => {
                return Err(StoreError::NoSpace { chunk, why: "the disk is full".to_owned() });
            }
            Door::ReadOnly => return Err(StoreError::ReadOnly(chunk)),
            Door::Fault => {
                let source = source(io::ErrorKind::Other, "the disk failed a write a moment ago");
                return Err(StoreError::Io { chunk, what: "write it", source });
            }
            Door::Open => {}
        }
        let (space, read_only_mount) =
            self.look().map_err(|source| StoreError::Io { chunk, what: "ask for free space", source })?;
        if read_only_mount {
            return Err(StoreError::ReadOnly(chunk));
        }
        if space.free < length {
            let why = format!("{} bytes are free above the reserve, {length} are needed", space.free);
            return Err(StoreError::NoSpace { chunk, why });
        }
        Ok(())
    }

    /// A write failed: refuse the next ones until a probe goes through.
    pub fn note_failure(&self, error: &StoreError) {
        let door = match error {
            StoreError::NoSpace { .. } => Door::NoSpace,
            StoreError::ReadOnly(_) => Door::ReadOnly,
            StoreError::Io { .. } => Door::Fault,
            _ => return,
        };
        self.door.store(door as u8, Ordering::Relaxed);
        self.read_only.store(true, Ordering::Relaxed);
    }

    /// Looks at the disk again, and tries a write if the last one failed.
    pub fn probe(&self) {
        if self.door() != Door::Open && self.try_write().is_ok() {
            tracing::info!(dir = %self.dir.display(), "the disk takes writes again");
            self.door.store(Door::Open as u8, Ordering::Relaxed);
        }
        if let Err(error) = self.look() {
            tracing::warn!(dir = %self.dir.display(), %error, "cannot ask the disk for its free space");
        }
    }

    fn door(&self) -> Door {
        match self.door.load(Ordering::Relaxed) {
            0 => Door::Open,
            1 => Door::NoSpace,
            2 => Door::ReadOnly,
            _ => Door::Fault,
        }
    }

    fn try_write(&self) -> io::Result<()> {
        let path = self.dir.join("tmp/probe");
        let result = File::create(&path).and_then(|mut file| {
            file.write_all(&[1; PROBE_LEN])?;
            file.sync_data()
        });
        // When it cannot be removed now, the next start empties tmp/.
        let _ = fs::remove_file(&path);
        result
    }

    fn look(&self) -> io::Result<(Space, bool)> {
        let stat = rustix::fs::statvfs(&self.dir)?;
        let total = stat.f_blocks.saturating_mul(stat.f_frsize);
        let available = stat.f_bavail.saturating_mul(stat.f_frsize);
        let reserve = self.reserve.unwrap_or_else(|| LEAST_RESERVE.max(total / 100));
        let free = available.saturating_sub(reserve);
        let mounted_read_only = stat.f_flag.contains(StatVfsMountFlags::RDONLY);
        let read_only = mounted_read_only || free == 0 || self.door() != Door::Open;
        self.file_system.store(stat.f_fsid, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
        self.free.store(free, Ordering::Relaxed);
        self.read_only.store(read_only, Ordering::Relaxed);
        Ok((Space { file_system: stat.f_fsid, total, free, read_only }, mounted_read_only))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: ChunkId = ChunkId(1);

    fn disk(reserve: u64) -> (tempfile::TempDir, Disk) {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join("tmp")).unwrap();
        let disk = Disk::new(temp.path(), Some(reserve)).unwrap();
        (temp, disk)
    }

    #[test]
    fn the_reserve_is_kept() {
        let (_temp, roomy) = disk(0);
        assert!(roomy.admit(CHUNK, 1).is_ok());
        assert!(!roomy.space().read_only);
        let (_temp, full) = disk(u64::MAX);
        assert!(matches!(full.admit(CHUNK, 1), Err(StoreError::NoSpace { .. })));
        assert!(full.space().read_only);
    }

    #[test]
    fn a_failed_write_closes_the_door_until_a_probe_goes_through() {
        let (temp, disk) = disk(0);
        let full = io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error());
        disk.note_failure(&StoreError::of_write(CHUNK, "write", full));
        assert!(matches!(disk.admit(CHUNK, 1), Err(StoreError::NoSpace { .. })));
        assert!(disk.space().read_only);
        // The probe cannot write where there is no directory: the door stays closed.
        fs::remove_dir(temp.path().join("tmp")).unwrap();
        disk.probe();
        assert!(disk.admit(CHUNK, 1).is_err());
        fs::create_dir(temp.path().join("tmp")).unwrap();
        disk.probe();
        assert!(disk.admit(CHUNK, 1).is_ok());
        assert!(!disk.space().read_only);
    }

    #[test]
    fn errors_of_the_disk_keep_their_meaning() {
        let of = |errno: rustix::io::Errno| {
            StoreError::of_write(CHUNK, "write", io::Error::from_raw_os_error(errno.raw_os_error())).code()
        };
        use dfs_proto::error::ErrorCode;
        assert_eq!(of(rustix::io::Errno::NOSPC), ErrorCode::NoSpace);
        assert_eq!(of(rustix::io::Errno::ROFS), ErrorCode::ReadOnly);
        assert_eq!(of(rustix::io::Errno::IO), ErrorCode::Io);
    }
}
