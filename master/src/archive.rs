//! Dumps of a stopped master's data directory, and new data directories made of dumps.
//!
//! What must hold: a dump file is there whole or not at all, for its owner alone; a directory is restored whole or is
//! left without a store. What a restored master must never do is to hand out a number again that was handed out
//! after the dump was taken: keepers have chunks, and mounts have files open, by such numbers. So all numbers begin
//! anew at one that depends on the clock and that no master can have come to ([`first_free`]).

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dfs_proto::ids::{ChunkId, ClusterId};
use dfs_proto::pb;

use crate::auth::{audit, first};
use crate::core::row::Counters;
use crate::core::{Row, RowChange, Settings, Spared, State};
use crate::store::dump::{self, DumpError, Reader, Summary};
use crate::store::{
    DataDir, DataDirError, Identity, JournaledStore, SEAL_FILE, STORE_FILE, Store, StoreError, Tables,
    UNFINISHED_FILE,
};

/// What may be in a directory that is restored into, left by an attempt that did not end well, or by a store that was
/// moved away.
const LEFT_OVER: [&str; 5] = ["LOCK", UNFINISHED_FILE, SEAL_FILE, audit::FILE_NAME, first::FILE_NAME];
/// Rows in one commit of a restore.
const BATCH: usize = 20_000;

/// Why there is no dump, or nothing was restored.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ArchiveError {
    #[error("dump {}: {error}", path.display())]
    Dump { path: PathBuf, error: DumpError },
    #[error("dump {}: {why}; see that its directory is there, writable and has room", path.display())]
    Write { path: PathBuf, why: DumpError },
    #[error("data directory {}: there is no master's store in it; name that of a stopped master with --data", path.display())]
    NoStore { path: PathBuf },
    #[error("data directory {}: it is not empty; name an empty or a new one with --data", path.display())]
    NotEmpty { path: PathBuf },
    #[error("data directory {}: cannot {what}: {why}; see that it is writable and has room", path.display())]
    Directory { path: PathBuf, what: &'static str, why: io::Error },
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("random numbers: the system gives none: {0}; check that /dev/urandom works")]
    Random(getrandom::Error),
}

/// Writes a dump of the store in `data`, whose master is stopped, to `file`, in place of what is there.
///
/// # Errors
/// [`ArchiveError`]; `file` is as it was then.
pub fn dump(data: &Path, file: &Path) -> Result<Summary, ArchiveError> {
    if !data.join(STORE_FILE).exists() {
        return Err(ArchiveError::NoStore { path: data.to_owned() });
    }
    let mut store = JournaledStore::open(DataDir::open(data)?)?;
    let mut snapshot = store.snapshot()?;
    write_file(file, |out| dump::write(&mut *snapshot, pb::Time::now(), out)).map_err(|error| match error {
        DumpError::Store(error) => error.into(),
        why => ArchiveError::Write { path: file.to_owned(), why },
    })
}

/// Under another name until it is whole and on stable storage.
fn write_file<T>(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<T, DumpError>,
) -> Result<T, DumpError> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let written = (|| {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        let mut out = BufWriter::new(&file);
        let done = write(&mut out)?;
        out.flush()?;
        drop(out);
        file.sync_all()?;
        fs::rename(&part, path)?;
        sync_parent(path)?;
        Ok(done)
    })();
    if written.is_err() {
        // What matters is the error before it.
        let _ = fs::remove_file(&part);
    }
    written
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// What was restored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Restored {
    /// The cluster.
    pub cluster: ClusterId,
    /// When the dump was taken.
    pub taken: pb::Time,
    /// Rows.
    pub rows: u64,
}

/// Makes a data directory, new or empty, of a dump. For `keep_unknown`, keepers keep the chunks of before that the
/// dump does not know.
///
/// # Errors
/// [`ArchiveError`]; the directory has no store then.
pub fn restore(
    file: &Path,
    data: &Path,
    keep_unknown: Duration,
    now: pb::Time,
) -> Result<Restored, ArchiveError> {
    let bad = |error| ArchiveError::Dump { path: file.to_owned(), error };
    let input = File::open(file).map_err(|error| bad(error.into()))?;
    // Before the directory is touched: is it a dump at all?
    let (head, mut reader) = Reader::begin(BufReader::new(input)).map_err(bad)?;
    let in_data = |what| move |why| ArchiveError::Directory { path: data.to_owned(), what, why };
    refuse_used(data).map_err(in_data("list it"))??;
    let dir = Arc::new(DataDir::open(data)?);
    let mut identity =
        Identity { cluster: head.cluster, secret: [0; 32], created: head.created, spared: None };
    getrandom::fill(&mut identity.secret).map_err(ArchiveError::Random)?;
    let mut store = Tables::create(dir)?;
    match fill(&mut store, &mut reader, identity, keep_unknown, now) {
        Ok(rows) => {
            store.put_in_place()?;
            Ok(Restored { cluster: head.cluster, taken: head.taken, rows })
        }
        Err(error) => {
            // What matters is the error before it; the next attempt removes it too.
            let _ = store.discard();
            Err(match error {
                DumpError::Store(error) => error.into(),
                error => bad(error),
            })
        }
    }
}

fn refuse_used(data: &Path) -> io::Result<Result<(), ArchiveError>> {
    let entries = match fs::read_dir(data) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ok(())),
        entries => entries?,
    };
    for entry in entries {
        let name = entry?.file_name();
        if !LEFT_OVER.iter().any(|left| name == *left) {
            return Ok(Err(ArchiveError::NotEmpty { path: data.to_owned() }));
        }
    }
    Ok(Ok(()))
}

/// Fills a new store. The rows have to make a state, too.
fn fill(
    store: &mut Tables,
    reader: &mut Reader<BufReader<File>>,
    mut identity: Identity,
    keep_unknown: Duration,
    now: pb::Time,
) -> Result<u64, DumpError> {
    let senseless = |error: crate::core::CorruptRow| DumpError::Damaged(error.to_string());
    let mut state = State::new(settings_to_check(&identity));
    let mut batch = Vec::new();
    let mut rows = 0;
    while let Some(row) = reader.next_row()? {
        let row = as_restored(row, now);
        if let Row::Counters(counters) = &row {
            let keep_ms = i64::try_from(keep_unknown.as_millis()).unwrap_or(i64::MAX);
            let until_ms = now.as_millis().saturating_add(keep_ms);
            identity.spared = Some(Spared { below: ChunkId(counters.next_chunk), until_ms });
        }
        state.load_row(row.clone()).map_err(senseless)?;
        batch.push(RowChange::Put(row));
        rows += 1;
        if batch.len() == BATCH {
            store.commit(&batch)?;
            batch.clear();
        }
    }
    state.finish_load(now).map_err(senseless)?;
    store.commit(&batch)?;
    store.identity(identity)?;
    Ok(rows)
}

/// A row of a dump as the restored cluster begins with it: which keeper has which chunk the keepers say, and numbers
/// begin anew.
fn as_restored(row: Row, now: pb::Time) -> Row {
    match row {
        Row::Chunk(chunk, mut row) => {
            row.keepers.clear();
            Row::Chunk(chunk, row)
        }
        Row::Counters(old) => Row::Counters(first_free(old, now)),
        row => row,
    }
}

/// The first numbers that no master of this cluster, restored as often as may be, can have handed out: it would have
/// had to hand out a million chunks or inodes a second, or a keeper a minute, ever since 1970 or its own restoring.
fn first_free(old: Counters, now: pb::Time) -> Counters {
    let seconds = u64::try_from(now.sec).unwrap_or(0);
    let least = seconds.saturating_mul(1 << 20);
    Counters {
        // Of a clock that is set back, at least half an hour's worth.
        next_inode: least.max(old.next_inode.saturating_add(1 << 31)),
        next_chunk: least.max(old.next_chunk.saturating_add(1 << 31)),
        next_keeper: (seconds / 60).max(old.next_keeper.saturating_add(1000)),
    }
}

/// Nothing is served from that state.
pub(crate) fn settings_to_check(identity: &Identity) -> Settings {
    Settings {
        cluster: identity.cluster,
        secret: identity.secret,
        master_epoch: 0,
        copies: 1,
        min_copies: 1,
        chunk_size: u32::MAX,
        replicate_every_ms: u64::MAX,
        compact_after_ms: 0,
        trash_ms: 0,
        repair_rate: u64::MAX,
        spared: None,
    }
}

#[cfg(test)]
mod tests;
