//! One of the two file systems, with the descriptors and mappings that a sequence has on it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use dfs_tests::Rng;
use rustix::fs::{
    self, AtFlags, CWD, FallocateFlags, Gid, Mode, OFlags, RenameFlags, SeekFrom, Stat, Uid, XattrFlags,
};
use rustix::fs::{Timespec, Timestamps};
use rustix::io::{self, Errno};

use crate::call::{Allocate, Call, From, Open, Path, Pick, Rename};
use crate::mapping::{Mapping, PAGE};

/// What a call gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Done,
    Number(u64),
    Bytes(Vec<u8>),
    Text(String),
}

pub type Outcome = Result<Value, Errno>;

/// At most this many descriptors, and mappings.
const MOST: usize = 12;
/// Times that were set by hand are before this, in seconds since 1970.
const SET_BY_HAND: i64 = 900_000_000;
const ALIGNED: u32 = 4096;

struct Descriptor {
    fd: OwnedFd,
    direct: bool,
}

pub struct Machine {
    root: PathBuf,
    /// Is O_DIRECT to be used?
    direct: bool,
    descriptors: Vec<Descriptor>,
    mappings: Vec<Mapping>,
}

fn name(pick: u8) -> &'static [u8] {
    match pick {
        0 => b"a",
        1 => b"b",
        2 => b"c",
        3 => b"d",
        4 => b"e",
        5 => b"f",
        6 => b"..",
        7 => &[b'n'; 255],
        _ => &[b'n'; 256],
    }
}

/// The target of a symbolic link: without "..", see [`Machine::path`].
fn target(path: &Path) -> Vec<u8> {
    path.0
        .iter()
        .map(|pick| name(if name(*pick) == b".." { 0 } else { *pick }))
        .collect::<Vec<_>>()
        .join(&b'/')
}

fn bytes(seed: u8, length: u32) -> Vec<u8> {
    Rng::new(u64::from(seed)).bytes(length as usize)
}

fn mode(bits: u16) -> Mode {
    Mode::from_raw_mode(u32::from(bits))
}

fn done<T>(result: Result<T, Errno>) -> Outcome {
    result.map(|_| Value::Done)
}

/// Of what stat says, what must be the same everywhere.
pub fn shown(stat: &Stat) -> String {
    let is_dir = stat.st_mode & 0o170_000 == 0o040_000;
    let size = if is_dir { -1 } else { stat.st_size };
    // By hand or not is the same on both; when it was not, the clock says what it is. Of what is written to a FIFO the kernel
    // tells a FUSE file system nothing.
    let is_fifo = stat.st_mode & 0o170_000 == 0o010_000;
    let mtime = (stat.st_mtime < SET_BY_HAND && !is_fifo).then_some((stat.st_mtime, stat.st_mtime_nsec));
    format!(
        "mode {:o}, {} links, owner {}:{}, size {size}, mtime {mtime:?}",
        stat.st_mode, stat.st_nlink, stat.st_uid, stat.st_gid
    )
}

/// A part of a buffer that begins at a page's border, as O_DIRECT wants it.
fn aligned(buffer: &mut [u8], length: usize) -> &mut [u8] {
    let start = buffer.as_ptr().align_offset(ALIGNED as usize);
    &mut buffer[start..start + length]
}

impl Machine {
    pub fn new(root: PathBuf, direct: bool) -> Machine {
        Machine { root, direct, descriptors: Vec::new(), mappings: Vec::new() }
    }

    /// Never out of the tree, nor the root itself: before each ".." there is a name, and what a name leads to is deeper than
    /// the directory that it is in, also through symbolic links, because their targets have no "..".
    fn path(&self, path: &Path) -> PathBuf {
        let mut below: Vec<&[u8]> = Vec::new();
        let mut depth = 0;
        for pick in &path.0 {
            let part = name(*pick);
            let up = part == b"..";
            if up && depth == 0 {
                continue;
            }
            depth = if up { depth - 1 } else { depth + 1 };
            below.push(part);
        }
        let below = if below.is_empty() { name(0).to_vec() } else { below.join(&b'/') };
        self.root.join(OsStr::from_bytes(&below))
    }

    fn pick(&self, pick: Pick) -> Option<&Descriptor> {
        (!self.descriptors.is_empty()).then(|| &self.descriptors[usize::from(pick) % self.descriptors.len()])
    }

    fn mapping(&mut self, pick: Pick) -> Option<&mut Mapping> {
        let count = self.mappings.len();
        (count > 0).then(|| &mut self.mappings[usize::from(pick) % count])
    }

    /// `None` when there is nothing to call it with.
    pub fn call(&mut self, call: &Call) -> Option<Outcome> {
        use Call::*;
        Some(match call {
            Open { path, open } => self.open(path, open)?,
            Close { .. } | Dup { .. } => self.change_descriptors(call)?,
            Map { .. } | Unmap { .. } | MapRead { .. } | MapWrite { .. } | Msync { .. } => {
                self.mapped(call)?
            }
            Read { .. } | Write { .. } | Pread { .. } | Pwrite { .. } => self.read_or_write(call)?,
            Seek { fd, offset, from } => self.seek(*fd, *offset, *from)?,
            Ftruncate { fd, size } => done(fs::ftruncate(&self.pick(*fd)?.fd, u64::from(*size))),
            Fallocate { fd, offset, length, how } => {
                let flags = match how {
                    Allocate::Plain => FallocateFlags::empty(),
                    Allocate::KeepSize => FallocateFlags::KEEP_SIZE,
                    Allocate::Punch => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                    Allocate::Zero => FallocateFlags::ZERO_RANGE,
                    Allocate::ZeroKeepSize => FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
                    Allocate::BarePunch => FallocateFlags::PUNCH_HOLE,
                };
                done(fs::fallocate(&self.pick(*fd)?.fd, flags, u64::from(*offset), u64::from(*length)))
            }
            Copy { from, offset, to, to_offset, length } => {
                // Local file systems move the bytes, with O_DIRECT whole pages alone.
                let (from, to) =
                    (self.pick(*from).filter(|fd| !fd.direct)?, self.pick(*to).filter(|fd| !fd.direct)?);
                let (mut offset, mut to_offset) = (u64::from(*offset), u64::from(*to_offset));
                let copied = fs::copy_file_range(
                    &from.fd,
                    Some(&mut offset),
                    &to.fd,
                    Some(&mut to_offset),
                    *length as usize,
                );
                copied.map(|copied| Value::Number(copied as u64))
            }
            Fsync { fd, data } => {
                let fd = &self.pick(*fd)?.fd;
                done(if *data { fs::fdatasync(fd) } else { fs::fsync(fd) })
            }
            Fstat { fd } => fs::fstat(&self.pick(*fd)?.fd).map(|stat| Value::Text(shown(&stat))),
            _ => self.by_path(call),
        })
    }

    fn open(&mut self, path: &Path, open: &Open) -> Option<Outcome> {
        if self.descriptors.len() == MOST {
            return None;
        }
        let mut flags = OFlags::NONBLOCK | OFlags::CLOEXEC;
        flags |= [OFlags::RDONLY, OFlags::WRONLY, OFlags::RDWR][usize::from(open.access)];
        for (wanted, flag) in [
            (open.create, OFlags::CREATE),
            (open.exclusive && open.create, OFlags::EXCL),
            (open.truncate && open.access > 0, OFlags::TRUNC),
            (open.append, OFlags::APPEND),
            (open.direct && self.direct, OFlags::DIRECT),
            (open.no_follow, OFlags::NOFOLLOW),
            (open.directory && !open.create, OFlags::DIRECTORY),
        ] {
            flags |= if wanted { flag } else { OFlags::empty() };
        }
        let opened = fs::open(self.path(path), flags, Mode::from_raw_mode(0o640));
        Some(opened.map(|fd| {
            self.descriptors.push(Descriptor { fd, direct: flags.contains(OFlags::DIRECT) });
            Value::Done
        }))
    }

    fn change_descriptors(&mut self, call: &Call) -> Option<Outcome> {
        match call {
            Call::Close { fd } => {
                self.pick(*fd)?;
                let at = usize::from(*fd) % self.descriptors.len();
                drop(self.descriptors.remove(at));
                Some(Ok(Value::Done))
            }
            Call::Dup { fd } => {
                if self.descriptors.len() == MOST {
                    return None;
                }
                let old = self.pick(*fd)?;
                let (direct, copy) = (old.direct, io::dup(&old.fd));
                Some(copy.map(|fd| {
                    self.descriptors.push(Descriptor { fd, direct });
                    Value::Done
                }))
            }
            _ => unreachable!("{call:?}"),
        }
    }

    /// With O_DIRECT only whole pages, in memory as in the file.
    fn read_or_write(&self, call: &Call) -> Option<Outcome> {
        let down = |number: u32| number / ALIGNED * ALIGNED;
        Some(match *call {
            Call::Read { fd, length } => {
                let fd = self.pick(fd).filter(|fd| !fd.direct)?;
                let mut buffer = vec![0; length as usize];
                io::read(&fd.fd, &mut buffer[..]).map(|got| Value::Bytes(buffer[..got].to_vec()))
            }
            Call::Write { fd, length, seed } => {
                let fd = self.pick(fd).filter(|fd| !fd.direct)?;
                io::write(&fd.fd, &bytes(seed, length)).map(|put| Value::Number(put as u64))
            }
            Call::Pread { fd, offset, length } => {
                let fd = self.pick(fd)?;
                let (offset, length) =
                    if fd.direct { (down(offset), down(length)) } else { (offset, length) };
                let mut buffer = vec![0; (length + ALIGNED) as usize];
                let part = aligned(&mut buffer, length as usize);
                io::pread(&fd.fd, &mut part[..], u64::from(offset))
                    .map(|got| Value::Bytes(part[..got].to_vec()))
            }
            Call::Pwrite { fd, offset, length, seed } => {
                let fd = self.pick(fd)?;
                let (offset, length) =
                    if fd.direct { (down(offset), down(length)) } else { (offset, length) };
                let mut buffer = vec![0; (length + ALIGNED) as usize];
                let part = aligned(&mut buffer, length as usize);
                part.copy_from_slice(&bytes(seed, length));
                io::pwrite(&fd.fd, part, u64::from(offset)).map(|put| Value::Number(put as u64))
            }
            _ => unreachable!("{call:?}"),
        })
    }

    /// Where holes begin is up to the file system, but not what is in them. So the answer is whether what was skipped as a
    /// hole is nothing but zeroes; the position is put back.
    fn seek(&self, fd: Pick, offset: i32, from: From) -> Option<Outcome> {
        let fd = &self.pick(fd)?.fd;
        let start = u64::from(offset.unsigned_abs());
        let position = match from {
            From::Start => SeekFrom::Start(start),
            From::Current => SeekFrom::Current(i64::from(offset)),
            From::End => SeekFrom::End(i64::from(offset)),
            From::Data => SeekFrom::Data(start),
            From::Hole => SeekFrom::Hole(start),
        };
        let is_file = fs::fstat(fd).is_ok_and(|stat| stat.st_mode & 0o170_000 == 0o100_000);
        if !is_file || !matches!(from, From::Data | From::Hole) {
            // Directories' positions are each file system's own.
            let is_dir = fs::fstat(fd).is_ok_and(|stat| stat.st_mode & 0o170_000 == 0o040_000);
            return (!is_dir).then(|| fs::seek(fd, position).map(Value::Number));
        }
        let before = match fs::tell(fd) {
            Ok(before) => before,
            Err(error) => return Some(Err(error)),
        };
        let size = fs::fstat(fd).map_or(0, |stat| stat.st_size as u64);
        let found = fs::seek(fd, position);
        let back = fs::seek(fd, SeekFrom::Start(before));
        if start >= size {
            return Some(found.map(Value::Number));
        }
        let end = match (from, found) {
            (From::Hole, Ok(found)) if found >= start && found <= size => start,
            (From::Data, Ok(found)) => found,
            (From::Data, Err(Errno::NXIO)) => size,
            (_, odd) => return Some(odd.map(Value::Number)),
        };
        let mut skipped = vec![0; (end - start) as usize];
        let zeroes = match io::pread(fd, &mut skipped[..], start) {
            Ok(_) => skipped.iter().all(|byte| *byte == 0),
            // Opened for writing alone.
            Err(_) => true,
        };
        Some(back.map(|_| Value::Text(format!("a hole of zeroes: {zeroes}"))))
    }

    fn mapped(&mut self, call: &Call) -> Option<Outcome> {
        Some(match *call {
            Call::Map { fd, page, pages, shared, writes } => {
                if self.mappings.len() == MOST {
                    return None;
                }
                let fd = &self.pick(fd)?.fd;
                let length = usize::from(pages) * PAGE as usize;
                let mapped = Mapping::new(fd.as_fd(), u64::from(page) * PAGE, length, shared, writes);
                mapped.map(|mapping| {
                    self.mappings.push(mapping);
                    Value::Done
                })
            }
            Call::Unmap { map } => {
                self.mapping(map)?;
                let at = usize::from(map) % self.mappings.len();
                drop(self.mappings.remove(at));
                Ok(Value::Done)
            }
            Call::MapRead { map, offset, length } => {
                Ok(Value::Bytes(self.mapping(map)?.read(offset as usize, length as usize)))
            }
            Call::MapWrite { map, offset, length, seed } => {
                let data = bytes(seed, length);
                Ok(Value::Number(self.mapping(map)?.write(offset as usize, &data) as u64))
            }
            Call::Msync { map } => done(self.mapping(map)?.sync()),
            _ => unreachable!("{call:?}"),
        })
    }

    fn by_path(&self, call: &Call) -> Outcome {
        use Call::*;
        match call {
            Mkdir { path, mode: bits } => done(fs::mkdir(self.path(path), mode(*bits))),
            Rmdir { path } => done(fs::rmdir(self.path(path))),
            Unlink { path } => done(fs::unlink(self.path(path))),
            Link { path, to, follow } => {
                let flags = if *follow { AtFlags::SYMLINK_FOLLOW } else { AtFlags::empty() };
                done(fs::linkat(CWD, self.path(path), CWD, self.path(to), flags))
            }
            Symlink { path, target } => {
                done(fs::symlink(OsStr::from_bytes(&self::target(target)), self.path(path)))
            }
            Readlink { path } => {
                fs::readlink(self.path(path), Vec::new()).map(|to| Value::Bytes(to.into_bytes()))
            }
            Rename { path, to, how } => {
                let flags = match how {
                    self::Rename::Replace => RenameFlags::empty(),
                    self::Rename::NoReplace => RenameFlags::NOREPLACE,
                    self::Rename::Exchange => RenameFlags::EXCHANGE,
                    self::Rename::Both => RenameFlags::NOREPLACE | RenameFlags::EXCHANGE,
                };
                done(fs::renameat_with(CWD, self.path(path), CWD, self.path(to), flags))
            }
            Fifo { path, mode: bits } => {
                done(fs::mknodat(CWD, self.path(path), fs::FileType::Fifo, mode(*bits), 0))
            }
            Truncate { path, size } => {
                // There is no truncate(2) in rustix. Without O_NONBLOCK a FIFO would wait for a reader.
                let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let file = fs::open(self.path(path), flags, Mode::empty())?;
                done(fs::ftruncate(file, u64::from(*size)))
            }
            Chmod { path, mode: bits } => done(fs::chmod(self.path(path), mode(*bits))),
            Chown { path, uid, gid, follow } => {
                let owner = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
                done(fs::chownat(CWD, self.path(path), owner.0, owner.1, no_follow(*follow)))
            }
            Utimens { path, sec, nsec, follow } => {
                let time = Timespec { tv_sec: i64::from(*sec), tv_nsec: i64::from(*nsec) };
                let times = Timestamps { last_access: time, last_modification: time };
                done(fs::utimensat(CWD, self.path(path), &times, no_follow(*follow)))
            }
            List { path } => self.list(path),
            Stat { path, follow } => {
                let stat = fs::statat(CWD, self.path(path), no_follow(*follow));
                stat.map(|stat| Value::Text(shown(&stat)))
            }
            _ => self.xattr(call),
        }
    }

    fn list(&self, path: &Path) -> Outcome {
        let entries = std::fs::read_dir(self.path(path)).map_err(as_errno)?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(as_errno)?;
            names.push(format!("{:?} {:?}", entry.file_name(), entry.file_type().map_err(as_errno)?));
        }
        names.sort();
        Ok(Value::Text(names.join("\n")))
    }

    fn xattr(&self, call: &Call) -> Outcome {
        let name = |name: u8| format!("user.{name}");
        let mut buffer = vec![0; 4096];
        match call {
            Call::SetXattr { path, name: pick, length, create, replace } => {
                let mut flags = XattrFlags::empty();
                flags |= if *create { XattrFlags::CREATE } else { XattrFlags::empty() };
                flags |= if *replace { XattrFlags::REPLACE } else { XattrFlags::empty() };
                let value = bytes(*length, u32::from(*length));
                done(fs::lsetxattr(self.path(path), name(*pick), &value, flags))
            }
            Call::GetXattr { path, name: pick } => {
                let got = fs::lgetxattr(self.path(path), name(*pick), &mut buffer[..]);
                got.map(|got| Value::Bytes(buffer[..got].to_vec()))
            }
            Call::ListXattr { path } => {
                let got = fs::llistxattr(self.path(path), &mut buffer[..])?;
                let mut names: Vec<&[u8]> = buffer[..got].split(|byte| *byte == 0).collect();
                names.retain(|name| name.starts_with(b"user."));
                names.sort();
                Ok(Value::Bytes(names.join(&b'\n')))
            }
            Call::RemoveXattr { path, name: pick } => done(fs::lremovexattr(self.path(path), name(*pick))),
            _ => unreachable!("{call:?}"),
        }
    }

    /// The whole tree: path -> what is there, with contents.
    pub fn tree(&self) -> BTreeMap<PathBuf, (String, Vec<u8>)> {
        let mut tree = BTreeMap::new();
        let mut left = vec![self.root.clone()];
        while let Some(path) = left.pop() {
            let stat = fs::lstat(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let content = match stat.st_mode & 0o170_000 {
                0o040_000 => {
                    left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
                    Vec::new()
                }
                0o100_000 => std::fs::read(&path).unwrap(),
                0o120_000 => fs::readlink(&path, Vec::new()).unwrap().into_bytes(),
                _ => Vec::new(),
            };
            let below = path.strip_prefix(&self.root).unwrap().to_owned();
            tree.insert(below, (shown(&stat), content));
        }
        tree
    }
}

fn no_follow(follow: bool) -> AtFlags {
    if follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW }
}

fn as_errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}
