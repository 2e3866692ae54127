//! What was acknowledged is kept: a byte that is read is one that was written there, by a write that no other has
//! overtaken (one that began after this one was acknowledged, and was acknowledged before the read was asked for). At the
//! end every byte of every file can be read, unless misfortune took its last copy.

use std::collections::BTreeMap;

use dfs_proto::pb::{self, mount_reply::Result as Reply, mount_request::Op};

use super::{Invariant, Saw};
use crate::core::{Command, Effect};
use crate::simulation::mount::FILE_LEN;
use crate::simulation::world::World;
use crate::simulation::writes::byte;

const WHOLE: usize = FILE_LEN as usize;

/// Something that gave a file's bytes values.
struct Change {
    begun: u64,
    acked: Option<u64>,
    what: What,
}

enum What {
    /// A write: its number, and where.
    Write(u64, Vec<pb::Run>),
    /// From here to there nothing is left.
    Hole(u64, u64),
    /// Bytes of another file, as they were each time that it may have been done.
    Copy(Vec<Vec<u64>>),
}

impl Change {
    /// Does it give this byte a value, for certain?
    fn changes(&self, at: u64) -> bool {
        match &self.what {
            What::Write(_, runs) => {
                runs.iter().any(|run| (run.file_offset..run.file_offset + run.length).contains(&at))
            }
            What::Hole(from, to) => (*from..*to).contains(&at),
            What::Copy(done) => !done.is_empty() && done.iter().all(|bytes| (at as usize) < bytes.len()),
        }
    }

    /// May it give this byte this value?
    fn gives(&self, at: u64, value: u64) -> bool {
        match &self.what {
            What::Write(number, _) => byte(*number, at) == value && self.changes(at),
            What::Hole(..) => value == 0 && self.changes(at),
            What::Copy(done) => done.iter().any(|bytes| bytes.get(at as usize) == Some(&value)),
        }
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Acknowledged {
    files: BTreeMap<u64, Vec<Change>>,
    /// Changes that are asked for: by (mount, request), the file and the change's place.
    asked: BTreeMap<(usize, u64), (u64, usize)>,
}

impl Acknowledged {
    fn begin(&mut self, inode: u64, begun: u64, what: What) -> usize {
        let changes = self.files.entry(inode).or_default();
        changes.push(Change { begun, acked: None, what });
        changes.len() - 1
    }

    /// May this byte be read, when that was asked for at `asked`?
    fn check(&self, inode: u64, at: u64, value: u64, asked: u64) -> Result<(), String> {
        let changes = self.files.get(&inode).map_or(&[][..], Vec::as_slice);
        let overtaken = |acked: u64| {
            let mut later =
                changes.iter().filter(|c| c.begun > acked && c.acked.is_some_and(|acked| acked < asked));
            later.find(|c| c.changes(at)).map(|c| c.begun)
        };
        // It was all holes at first.
        let mut sources = changes.iter().filter(|c| c.gives(at, value)).map(|c| c.acked);
        let at_first = (value == 0).then_some(Some(0));
        let mut why = format!("{} was never written there", value >> 16);
        for acked in at_first.into_iter().chain(sources.by_ref()) {
            match acked.and_then(overtaken) {
                None => return Ok(()),
                Some(begun) => why = format!("{} was overtaken by what began at step {begun}", value >> 16),
            }
        }
        Err(format!("inode {inode}, byte {at}: write {why}"))
    }

    fn asks(&mut self, key: (usize, u64), op: &Op, step: u64) {
        let change = match op {
            Op::Setattr(op) => op.size.map(|size| (op.inode, What::Hole(size, u64::MAX))),
            Op::Fallocate(op) => Some((op.inode, What::Hole(op.offset, op.offset + op.length))),
            Op::CopyRange(op) => Some((op.target, What::Copy(Vec::new()))),
            _ => None,
        };
        if let Some((inode, what)) = change {
            let place = self.begin(inode, step, what);
            self.asked.insert(key, (inode, place));
        }
    }

    /// What a copy takes is what its source is when the master does it.
    fn copies(&mut self, key: (usize, u64), source: u64, world: &World) {
        let Some((inode, place)) = self.asked.get(&key) else { return };
        let mut bytes = content(source, world);
        let size = world.master.rows.inode(source).map_or(0, |row| row.size);
        bytes.truncate(size as usize);
        if let Some(What::Copy(done)) = self.files.get_mut(inode).map(|changes| &mut changes[*place].what) {
            done.push(bytes);
        }
    }

    /// At the end: what each file is, wherever its bytes are.
    fn check_all(&self, world: &World) -> Result<(), String> {
        for (inode, row) in
            world.master.rows.inodes().filter(|(_, row)| crate::simulation::rows::is_file(row))
        {
            let mut bytes = content(inode, world);
            for extent in world.master.rows.extents(inode) {
                let chunk = extent.chunk.0;
                if !world.keepers.iter().any(|keeper| keeper.up && keeper.good(chunk).is_some()) {
                    if !world.lost.contains(&chunk) {
                        return Err(format!(
                            "inode {inode}: no copy of chunk {chunk} is left, and no misfortune took it"
                        ));
                    }
                    let (from, to) =
                        (extent.file_offset as usize, (extent.file_offset + extent.length) as usize);
                    bytes[from.min(WHOLE)..to.min(WHOLE)].fill(u64::MAX);
                }
            }
            for (at, value) in bytes.iter().enumerate().filter(|(_, value)| **value != u64::MAX) {
                self.check(inode, at as u64, *value, world.step)
                    .map_err(|why| format!("{why}; it is {} bytes long at the end", row.size))?;
            }
        }
        Ok(())
    }
}

/// A file's bytes as rows and chunks have them.
pub(super) fn content(inode: u64, world: &World) -> Vec<u64> {
    let mut bytes = vec![0; WHOLE];
    for extent in world.master.rows.extents(inode) {
        let Some(chunk) = world.chunks.get(&extent.chunk.0) else { continue };
        let from = extent.chunk_offset as usize;
        let part = chunk.get(from..from + extent.length as usize).unwrap_or_default();
        for (i, byte) in part.iter().enumerate() {
            if let Some(place) = bytes.get_mut(extent.file_offset as usize + i) {
                *place = *byte;
            }
        }
    }
    bytes
}

impl Invariant for Acknowledged {
    fn name(&self) -> &'static str {
        "what was acknowledged is kept"
    }

    fn saw(&mut self, what: &Saw, world: &World) -> Result<(), String> {
        match *what {
            Saw::WriteBegun { inode, write, runs, .. } => {
                self.begin(inode, world.step, What::Write(write, runs.to_vec()));
            }
            Saw::WriteAcked { inode, write, .. } => {
                let changes = self.files.get_mut(&inode).into_iter().flatten();
                let it =
                    |change: &&mut Change| matches!(change.what, What::Write(number, _) if number == write);
                changes.filter(it).for_each(|change| change.acked = Some(world.step));
            }
            Saw::Asked { mount, request, op } => self.asks((mount, request), op, world.step),
            Saw::Applied { command: Command::Mount { session, request }, applied } => {
                if let Some(Op::CopyRange(op)) = &request.op {
                    let done = !applied.changes.is_empty()
                        || applied.effects.iter().any(|e| matches!(e, Effect::ToMount(..)));
                    let mount = world.mounts.iter().position(|mount| mount.session == session.0);
                    if let Some(mount) = mount.filter(|_| done) {
                        self.copies((mount, request.id), op.source, world);
                    }
                }
            }
            Saw::Answered { mount, request, result, .. } => {
                let refused = matches!(result, Reply::Error(_));
                if let Some((inode, place)) = self.asked.remove(&(mount, request)).filter(|_| !refused)
                    && let Some(change) =
                        self.files.get_mut(&inode).and_then(|changes| changes.get_mut(place))
                {
                    change.acked = Some(world.step);
                }
            }
            Saw::Read { inode, asked, bytes } => {
                for (at, value) in bytes.iter().enumerate() {
                    self.check(inode, at as u64, *value, asked)?;
                }
            }
            Saw::End => self.check_all(world)?,
            _ => {}
        }
        Ok(())
    }
}
