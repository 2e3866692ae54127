//! What a power cut leaves. A [`Recorder`] does what it is asked for real, in a directory of a test, and keeps a
//! log; from the log up to any operation, [`Cut`] makes directories as they may look after the power went there.
//!
//! What is kept apart: of each file, the bytes that were synced and the writes since; of each name, what it stood
//! for when its directory was last synced, and each thing that it stood for since. After a cut, each 512 byte
//! sector of an unsynced write is there or not, whatever became of the others, a file is as long as any of its
//! writes made it, and each name stands for any of the things since the last sync, whatever became of the other
//! names. One thing is promised, because every journal keeps it: a rename does not lose the file, so when the old
//! name is gone, the new one is there. Of a change of a file's length there is all or nothing.

// For tests alone, of several crates; so it is compiled like other code, and may panic like a test.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Files, SystemFiles};

const SECTOR: usize = 512;

/// Where a test that makes thousands of directories should make them: in memory, where there is such a place.
pub fn scratch_parent() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() }
}

/// A file, whatever its names. Unlike an inode number it is never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct FileNo(usize);

/// One thing that was done, with paths from the recorder's root on.
#[derive(Clone, PartialEq, Debug)]
#[allow(missing_docs)]
pub enum Op<C> {
    CreateDir(PathBuf),
    Create(PathBuf, FileNo),
    Write {
        file: FileNo,
        at: usize,
        data: Vec<u8>,
    },
    SetLen(FileNo, usize),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    SyncFile(FileNo),
    SyncDir(PathBuf),
    SyncAll,
    /// The test's own mark: what was said to somebody when all before it had been done.
    Said(C),
}

/// A sync that is left out, to see that a check finds out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Forgotten {
    Nothing,
    FileSyncs,
    DirSyncs,
    WholeSyncs,
}

/// Does and remembers. Syncs are remembered only: the machine of the test stays up.
#[derive(Debug)]
pub struct Recorder<C> {
    root: PathBuf,
    forgotten: Forgotten,
    log: Mutex<Log<C>>,
}

#[derive(Debug)]
struct Log<C> {
    ops: Vec<Op<C>>,
    files: usize,
    open: HashMap<u64, FileNo>,
}

impl<C: Clone> Recorder<C> {
    /// Of everything in `root`, which is empty.
    pub fn new(root: &Path, forgotten: Forgotten) -> Recorder<C> {
        let log = Log { ops: Vec::new(), files: 0, open: HashMap::new() };
        // As the data directory's path is resolved, so must be this one.
        Recorder { root: root.canonicalize().unwrap(), forgotten, log: Mutex::new(log) }
    }

    /// Something was said that has to be true after a power cut, too.
    pub fn say(&self, claim: C) {
        self.log().ops.push(Op::Said(claim));
    }

    /// What was done so far.
    pub fn ops(&self) -> Vec<Op<C>> {
        self.log().ops.clone()
    }

    /// Cuts the power after each operation that was done so far, `tries` times, and checks the directory that is left. What was
    /// said before the cut is in a `state`, to which `said` adds. `images`: an empty directory, for one image at a time.
    /// Returns the last state and the number of images.
    ///
    /// # Errors
    /// The first thing that is wrong, and how to come to it again.
    pub fn cut_everywhere<S>(
        &self,
        images: &Path,
        mut state: S,
        said: impl Fn(&mut S, &C),
        tries: impl Fn(&Op<C>) -> u64,
        check: impl Fn(&Path, &S) -> Result<(), String>,
    ) -> Result<(S, usize), String> {
        let (mut cut, mut count) = (Cut::default(), 0);
        for (n, op) in self.log().ops.iter().enumerate() {
            cut.then(op);
            if let Op::Said(claim) = op {
                said(&mut state, claim);
            }
            for seed in 0..tries(op) {
                let image = images.join("image");
                fs::create_dir(&image).unwrap();
                cut.leave(1000 * n as u64 + seed, &image);
                check(&image, &state)
                    .map_err(|wrong| format!("cut after operation {n}, seed {seed}: {wrong}"))?;
                fs::remove_dir_all(&image).unwrap();
                count += 1;
            }
        }
        Ok((state, count))
    }

    fn log(&self) -> MutexGuard<'_, Log<C>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn inner(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.root).unwrap_or_else(|_| panic!("{path:?} is not below the root")).to_owned()
    }

    fn file_no(&self, log: &Log<C>, file: &File) -> io::Result<FileNo> {
        Ok(log.open[&file.metadata()?.ino()])
    }

    fn sync(&self, forgotten: Forgotten, log: &mut Log<C>, op: Op<C>) {
        if self.forgotten != forgotten {
            log.ops.push(op);
        }
    }
}

impl<C: Clone + std::fmt::Debug + Send> Files for Recorder<C> {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut log = self.log();
        SystemFiles.create_dir(path)?;
        log.ops.push(Op::CreateDir(self.inner(path)));
        Ok(())
    }

    fn create(&self, path: &Path, mode: u32) -> io::Result<File> {
        let mut log = self.log();
        let file = SystemFiles.create(path, mode)?;
        let no = FileNo(log.files);
        log.files += 1;
        log.open.insert(file.metadata()?.ino(), no);
        log.ops.push(Op::Create(self.inner(path), no));
        Ok(file)
    }

    fn write_all_at(&self, file: &File, data: &[u8], at: u64) -> io::Result<()> {
        let mut log = self.log();
        file.write_all_at(data, at)?;
        let op = Op::Write { file: self.file_no(&log, file)?, at: at as usize, data: data.to_owned() };
        log.ops.push(op);
        Ok(())
    }

    fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        let mut log = self.log();
        file.set_len(len)?;
        let op = Op::SetLen(self.file_no(&log, file)?, len as usize);
        log.ops.push(op);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut log = self.log();
        SystemFiles.rename(from, to)?;
        log.ops.push(Op::Rename(self.inner(from), self.inner(to)));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut log = self.log();
        SystemFiles.remove(path)?;
        log.ops.push(Op::Remove(self.inner(path)));
        Ok(())
    }

    fn sync_file(&self, file: &File) -> io::Result<()> {
        let mut log = self.log();
        let op = Op::SyncFile(self.file_no(&log, file)?);
        self.sync(Forgotten::FileSyncs, &mut log, op);
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let op = Op::SyncDir(self.inner(path));
        self.sync(Forgotten::DirSyncs, &mut self.log(), op);
        Ok(())
    }

    fn sync_file_system(&self, _path: &Path) -> io::Result<()> {
        self.sync(Forgotten::WholeSyncs, &mut self.log(), Op::SyncAll);
        Ok(())
    }
}

/// Does, and syncs nothing: for what is opened only to be looked at.
#[derive(Debug)]
pub struct Unsynced;

impl Files for Unsynced {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        SystemFiles.create_dir(path)
    }

    fn create(&self, path: &Path, mode: u32) -> io::Result<File> {
        SystemFiles.create(path, mode)
    }

    fn write_all_at(&self, file: &File, data: &[u8], at: u64) -> io::Result<()> {
        SystemFiles.write_all_at(file, data, at)
    }

    fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        SystemFiles.set_len(file, len)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        SystemFiles.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        SystemFiles.remove(path)
    }

    fn sync_file(&self, _file: &File) -> io::Result<()> {
        Ok(())
    }

    fn sync_dir(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn sync_file_system(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Node {
    Nothing,
    Dir,
    File(FileNo),
}

/// What a name stood for, and, if it lost that by a rename, the name that has it since: which, and as its how-manieth.
#[derive(Clone, Debug)]
struct Meaning {
    node: Node,
    moved_to: Option<(PathBuf, usize)>,
}

#[derive(Clone, Debug)]
struct Name {
    meanings: Vec<Meaning>,
    /// Those before it can not come back.
    synced: usize,
}

impl Default for Name {
    fn default() -> Name {
        Name { meanings: vec![Meaning { node: Node::Nothing, moved_to: None }], synced: 0 }
    }
}

#[derive(Clone, Default, Debug)]
struct Bytes {
    synced: Vec<u8>,
    since: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    SetLen(usize),
}

/// The power goes after some operations: what is on the disk for sure, and what may be.
#[derive(Clone, Default, Debug)]
pub struct Cut {
    names: BTreeMap<PathBuf, Name>,
    files: BTreeMap<FileNo, Bytes>,
}

impl Cut {
    /// One more operation was done before the power went.
    pub fn then<C>(&mut self, op: &Op<C>) {
        match op {
            Op::CreateDir(path) => self.mean(path, Node::Dir, None),
            Op::Create(path, file) => {
                self.files.insert(*file, Bytes::default());
                self.mean(path, Node::File(*file), None);
            }
            Op::Write { file, at, data } => {
                self.files.entry(*file).or_default().since.push(Change::Write(*at, data.clone()));
            }
            Op::SetLen(file, len) => {
                self.files.entry(*file).or_default().since.push(Change::SetLen(*len));
            }
            Op::Rename(from, to) => {
                let node = self.now(from);
                self.mean(to, node, None);
                let place = self.names[to].meanings.len() - 1;
                self.mean(from, Node::Nothing, Some((to.clone(), place)));
            }
            Op::Remove(path) => self.mean(path, Node::Nothing, None),
            Op::SyncFile(file) => self.files.entry(*file).or_default().sync(),
            Op::SyncDir(dir) => {
                self.names
                    .iter_mut()
                    .filter(|(path, _)| path.parent() == Some(dir))
                    .for_each(|(_, n)| n.sync());
            }
            Op::SyncAll => {
                self.names.values_mut().for_each(Name::sync);
                self.files.values_mut().for_each(Bytes::sync);
            }
            Op::Said(_) => {}
        }
    }

    fn mean(&mut self, path: &Path, node: Node, moved_to: Option<(PathBuf, usize)>) {
        self.names.entry(path.to_owned()).or_default().meanings.push(Meaning { node, moved_to });
    }

    fn now(&self, path: &Path) -> Node {
        self.names
            .get(path)
            .and_then(|name| name.meanings.last())
            .map_or(Node::Nothing, |meaning| meaning.node)
    }

    /// Makes, in an empty directory, what the disk may hold; another seed, another possibility.
    pub fn leave(&self, seed: u64, root: &Path) {
        let mut dice = Dice::new(seed);
        let chosen = self.choose(&mut dice);
        for (path, &place) in &chosen {
            let to = root.join(path);
            if !to.parent().is_some_and(Path::is_dir) {
                continue;
            }
            match self.names[path].meanings[place].node {
                Node::Nothing => {}
                Node::Dir => fs::create_dir(to).unwrap(),
                Node::File(file) => fs::write(to, self.files[&file].leave(&mut dice)).unwrap(),
            }
        }
    }

    fn choose(&self, dice: &mut Dice) -> BTreeMap<PathBuf, usize> {
        let bias = dice.bias();
        let pick = |(path, name): (&PathBuf, &Name)| {
            let new = name.meanings.len() - 1;
            let place = (name.synced..new).find(|_| !dice.hits(bias)).unwrap_or(new);
            (path.clone(), place)
        };
        let mut chosen: BTreeMap<PathBuf, usize> = self.names.iter().map(pick).collect();
        // A rename that took the old name away gave the new one, and so on along a chain of them.
        loop {
            let lost = chosen.iter().find_map(|(path, &place)| {
                let renames = self.names[path].meanings[..=place].iter().filter_map(|m| m.moved_to.clone());
                renames.into_iter().find(|(to, least)| chosen[to] < *least)
            });
            match lost {
                Some((to, least)) => chosen.insert(to, least),
                None => return chosen,
            };
        }
    }
}

impl Name {
    fn sync(&mut self) {
        self.synced = self.meanings.len() - 1;
    }
}

impl Bytes {
    fn sync(&mut self) {
        for change in std::mem::take(&mut self.since) {
            match change {
                Change::Write(at, data) => put(&mut self.synced, at, &data),
                Change::SetLen(len) => self.synced.resize(len, 0),
            }
        }
    }

    fn leave(&self, dice: &mut Dice) -> Vec<u8> {
        let mut bytes = self.synced.clone();
        let bias = dice.bias();
        for change in &self.since {
            match change {
                Change::Write(at, data) => tear(&mut bytes, *at, data, bias, dice),
                Change::SetLen(len) if dice.hits(bias) => bytes.resize(*len, 0),
                Change::SetLen(_) => {}
            }
        }
        bytes
    }
}

fn tear(bytes: &mut Vec<u8>, at: usize, data: &[u8], bias: u64, dice: &mut Dice) {
    let mut from = 0;
    while from < data.len() {
        let to = data.len().min(from + SECTOR - (at + from) % SECTOR);
        if dice.hits(bias) {
            put(bytes, at + from, &data[from..to]);
        }
        from = to;
    }
    // The length is kept apart from the bytes, and may be there before them.
    if dice.hits(bias) && bytes.len() < at + data.len() {
        bytes.resize(at + data.len(), 0);
    }
}

fn put(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    if bytes.len() < at + data.len() {
        bytes.resize(at + data.len(), 0);
    }
    bytes[at..at + data.len()].copy_from_slice(data);
}

/// Chance, from a seed (splitmix64).
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// How many of 100 survive: none, all and nearly all are as likely as everything between them.
    fn bias(&mut self) -> u64 {
        match self.roll() % 5 {
            0 => 0,
            1 => 100,
            2 => 95,
            _ => self.roll() % 101,
        }
    }

    fn hits(&mut self, of_100: u64) -> bool {
        self.roll() % 100 < of_100
    }
}
