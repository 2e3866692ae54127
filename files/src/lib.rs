//! What changes a data directory, a keeper's or the master's, goes through [`Files`], so that a test can stand in the
//! way and see what a power cut would leave ([`crash`]).
//!
//! What is promised is what POSIX promises and no more: a file's bytes last from [`Files::sync_file`] on, its name
//! from [`Files::sync_dir`] of its directory on; before that, each may be there or not. Reading and listing change
//! nothing and go past this layer, and so do bytes that the kernel moves (sendfile(2), splice(2)): a `File` is a `File`.

pub mod crash;

use std::fmt::Debug;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;

/// The operations that change a directory tree, or make a change last. Errors are those of the system calls.
#[allow(missing_docs)]
pub trait Files: Debug + Send + Sync {
    /// A new directory, for its owner alone.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// A new file, to be read and written, with the permissions `mode` less the process's umask.
    fn create(&self, path: &Path, mode: u32) -> io::Result<File>;
    fn write_all_at(&self, file: &File, data: &[u8], at: u64) -> io::Result<()>;
    /// Cuts a file short, or makes it longer with zeroes.
    fn set_len(&self, file: &File, len: u64) -> io::Result<()>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// The bytes of a file, and its length, to stable storage.
    fn sync_file(&self, file: &File) -> io::Result<()>;
    /// The names in a directory to stable storage.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Everything on the file system of `path` to stable storage.
    fn sync_file_system(&self, path: &Path) -> io::Result<()>;
}

/// The machine's own.
#[derive(Debug)]
pub struct SystemFiles;

impl Files for SystemFiles {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(path)
    }

    fn create(&self, path: &Path, mode: u32) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(path)
    }

    fn write_all_at(&self, file: &File, data: &[u8], at: u64) -> io::Result<()> {
        file.write_all_at(data, at)
    }

    fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        file.set_len(len)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_file(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn sync_file_system(&self, path: &Path) -> io::Result<()> {
        Ok(rustix::fs::syncfs(File::open(path)?)?)
    }
}

/// Makes a directory and whatever is missing above it, so that it lasts. One that is there already is as good.
///
/// # Errors
/// Of the operations.
pub fn create_dir_all(files: &dyn Files, path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    // Of a relative path with one part, the parent is "".
    let parent = path.parent().map(|p| if p.as_os_str().is_empty() { Path::new(".") } else { p });
    if let Some(parent) = parent {
        create_dir_all(files, parent)?;
    }
    match files.create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        made => made?,
    }
    parent.map_or(Ok(()), |parent| files.sync_dir(parent))
}
