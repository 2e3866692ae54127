//! The naive tree's files: an array with one place per byte.

use crate::tree::{Body, Errno, Id, Node, Res, Touched, Tree};

/// Which of fallocate(2)'s modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocate {
    Plain,
    KeepSize,
    Punch,
    Zero,
    ZeroKeepSize,
}

fn bytes(node: &mut Node) -> Result<&mut Vec<Option<u8>>, Errno> {
    match &mut node.body {
        Body::File(bytes) => Ok(bytes),
        Body::Dir(_) => Err(libc::EISDIR),
        _ => Err(libc::EINVAL),
    }
}

impl Tree {
    fn file(&mut self, id: Id) -> Res<&mut Vec<Option<u8>>> {
        bytes(self.get_mut(id).ok_or(libc::ESTALE)?)
    }

    fn touch(&mut self, id: Id, how: Touched) {
        if let Some(node) = self.get_mut(id) {
            node.mtime = how;
            node.ctime = how;
        }
    }

    /// How long a file is.
    pub fn size(&mut self, id: Id) -> Res<u64> {
        Ok(self.file(id)?.len() as u64)
    }

    pub fn read(&mut self, id: Id, offset: u64, length: u64) -> Res<Vec<u8>> {
        let file = self.file(id)?;
        let from = file.len().min(offset as usize);
        let to = file.len().min((offset + length) as usize);
        Ok(file[from..to].iter().map(|byte| byte.unwrap_or(0)).collect())
    }

    fn put(&mut self, id: Id, offset: u64, data: &[Option<u8>]) -> Res<()> {
        let (from, to) = (offset as usize, offset as usize + data.len());
        let file = self.file(id)?;
        if data.is_empty() {
            return Ok(());
        }
        file.resize(file.len().max(to), None);
        file[from..to].copy_from_slice(data);
        self.touch(id, Touched::Yes);
        Ok(())
    }

    pub fn write(&mut self, id: Id, offset: u64, data: &[u8]) -> Res<()> {
        let data: Vec<Option<u8>> = data.iter().copied().map(Some).collect();
        self.put(id, offset, &data)
    }

    /// Without a change of size, systems differ in whether the times change.
    pub fn truncate(&mut self, id: Id, size: u64) -> Res<()> {
        let file = self.file(id)?;
        let same = file.len() as u64 == size;
        file.resize(size as usize, None);
        self.touch(id, if same { Touched::Maybe } else { Touched::Yes });
        Ok(())
    }

    pub fn fallocate(&mut self, id: Id, offset: u64, length: u64, how: Allocate) -> Res<()> {
        let file = self.file(id)?;
        if length == 0 {
            return Err(libc::EINVAL);
        }
        let end = (offset + length) as usize;
        if matches!(how, Allocate::Plain | Allocate::Zero) {
            file.resize(file.len().max(end), None);
        }
        if !matches!(how, Allocate::Plain | Allocate::KeepSize) {
            let size = file.len();
            file[size.min(offset as usize)..size.min(end)].fill(None);
        }
        self.touch(id, Touched::Maybe);
        Ok(())
    }

    /// Returns how much was copied.
    pub fn copy(&mut self, from: (Id, u64), to: (Id, u64), length: u64) -> Res<u64> {
        let source = self.file(from.0)?;
        let start = source.len().min(from.1 as usize);
        let end = source.len().min((from.1 + length) as usize);
        let taken = source[start..end].to_vec();
        self.file(to.0)?;
        let copied = taken.len() as u64;
        if copied > 0 && from.0 == to.0 && from.1.abs_diff(to.1) < copied {
            return Err(libc::EINVAL);
        }
        self.put(to.0, to.1, &taken)?;
        if copied > 0 {
            // A hole that is copied to the end makes the file longer and changes nothing else.
            self.touch(to.0, Touched::Yes);
        }
        Ok(copied)
    }

    /// lseek(2) with SEEK_DATA, or SEEK_HOLE. Every file ends with a hole.
    pub fn seek(&mut self, id: Id, offset: u64, data: bool) -> Res<u64> {
        let file = self.file(id)?;
        if offset >= file.len() as u64 {
            return Err(libc::ENXIO);
        }
        let found = file[offset as usize..].iter().position(|byte| byte.is_some() == data);
        match (found, data) {
            (Some(after), _) => Ok(offset + after as u64),
            (None, false) => Ok(file.len() as u64),
            (None, true) => Err(libc::ENXIO),
        }
    }
}
