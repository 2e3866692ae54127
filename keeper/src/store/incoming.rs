//! A chunk on its way in: bytes go to a file in `tmp/`, or to one of a chunk that is no more (retired.rs), and the file gets its header and its place
//! among the chunks only when all of it came and its checksums are the sender's. Dropped before
//! that, it leaves nothing.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use dfs_proto::block_sum::{BlockSummer, BlockSums};
use dfs_proto::ids::ChunkId;
use dfs_proto::pb;

use crate::identity::FILE_MODE;
use crate::store::error::StoreError;
use crate::store::format::{ChunkHeader, HEADER_LEN};
use crate::store::index::{Entry, Stability};
use crate::store::retired::{self, Reused};
use crate::store::{ChunkStore, chunk_path};

/// One chunk that is being received.
#[derive(Debug)]
pub(crate) struct Incoming {
    store: Arc<ChunkStore>,
    chunk: ChunkId,
    length: usize,
    copy: bool,
    received: usize,
    summer: BlockSummer,
    file: File,
    temp: PathBuf,
    /// The file has its place, and `temp` names nothing any more.
    placed: bool,
}

impl Incoming {
    pub(super) fn new(
        store: &Arc<ChunkStore>,
        chunk: ChunkId,
        length: usize,
        copy: bool,
    ) -> Result<Self, StoreError> {
        match store.disk.admit(chunk, length as u64) {
            Err(StoreError::NoSpace { .. }) if store.retired.clear(&store.dir) => {
                store.disk.admit(chunk, length as u64)?;
            }
            admitted => admitted?,
        }
        let (file, temp) = new_file(store, chunk, length).map_err(|(what, source)| {
            let error = StoreError::of_write(chunk, what, source);
            store.disk.note_failure(&error);
            error
        })?;
        let summer = BlockSummer::new();
        Ok(Incoming {
            store: store.clone(),
            chunk,
            length,
            copy,
            received: 0,
            summer,
            file,
            temp,
            placed: false,
        })
    }

    /// Bytes that are still to come.
    pub fn missing(&self) -> usize {
        self.length - self.received
    }

    /// Takes in the next bytes; the caller sees to it that they are no more than are missing.
    ///
    /// # Errors
    /// When the disk does not take them.
    pub fn append(&mut self, data: &[u8]) -> Result<(), StoreError> {
        assert!(data.len() <= self.missing(), "more bytes than the chunk has");
        let at = (HEADER_LEN + self.received) as u64;
        let written = self.store.dir.files().write_all_at(&self.file, data, at);
        written.map_err(|source| self.failed("write it", source))?;
        self.summer.update(data);
        self.received += data.len();
        Ok(())
    }

    /// Puts the chunk in its place, when `claimed`, the sender's block checksums, are those of the
    /// bytes that came. A chunk that is here already with the same checksums is as good.
    ///
    /// # Errors
    /// `Corrupt`, `Exists`, `TakenBack`, or what the disk says. Nothing is left then.
    pub fn commit(mut self, claimed: Bytes) -> Result<pb::ChunkInfo, StoreError> {
        let corrupt = |why: String| StoreError::Corrupt { chunk: self.chunk, why };
        if self.missing() > 0 {
            return Err(corrupt(format!("{} of {} bytes came", self.received, self.length)));
        }
        let sums = std::mem::take(&mut self.summer).finish();
        if BlockSums::decode(claimed, self.length).as_ref() != Some(&sums) {
            return Err(corrupt("its checksums are not the sender's; send it again".to_owned()));
        }
        let checksum = sums.checksum();
        let header = ChunkHeader { chunk: self.chunk, length: self.length, sums };
        let written = self.store.dir.files().write_all_at(&self.file, &header.encode(), 0);
        written.map_err(|source| self.failed("write its header", source))?;
        self.placed =
            self.place(Entry { length: self.length as u32, checksum, stability: Stability::Volatile })?;
        Ok(pb::ChunkInfo { chunk: self.chunk.0, length: self.length as u32, checksum })
    }

    /// False: it was here already.
    fn place(&self, entry: Entry) -> Result<bool, StoreError> {
        // Looking, renaming and entering are one step, so that of two uploads of one chunk one wins.
        let mut index = self.store.index();
        if self.copy {
            self.store.doomed.spare(self.chunk);
        } else if self.store.doomed.is_doomed(self.chunk) {
            return Err(StoreError::TakenBack(self.chunk));
        }
        match index.get(self.chunk) {
            Some(here) if (here.length, here.checksum) == (entry.length, entry.checksum) => Ok(false),
            Some(_) => Err(StoreError::Exists(self.chunk)),
            None => {
                let place = chunk_path(self.store.dir.path(), self.chunk);
                self.store
                    .dir
                    .files()
                    .rename(&self.temp, &place)
                    .map_err(|source| self.failed("rename it", source))?;
                self.store.enter(&mut index, self.chunk, entry);
                self.store.arrived(self.chunk);
                Ok(true)
            }
        }
    }

    fn failed(&self, what: &'static str, source: io::Error) -> StoreError {
        let error = StoreError::of_write(self.chunk, what, source);
        self.store.disk.note_failure(&error);
        error
    }
}

/// A file of the right length, if it is a used one, and its name.
fn new_file(
    store: &ChunkStore,
    chunk: ChunkId,
    length: usize,
) -> Result<(File, PathBuf), (&'static str, io::Error)> {
    let whole = (HEADER_LEN + length) as u64;
    let reused = if length <= retired::FOR_CHUNKS_TO { store.retired.take() } else { None };
    if let Some(Reused { path, file, bytes }) = reused {
        if bytes != whole
            && let Err(error) = store.dir.files().set_len(&file, whole)
        {
            let _ = store.dir.files().remove(&path);
            return Err(("give its file its length", error));
        }
        return Ok((file, path));
    }
    let temp = store.dir.path().join(format!("tmp/{chunk}.{}", store.next_temp()));
    let file = store.dir.files().create(&temp, FILE_MODE).map_err(|error| ("create its file", error))?;
    Ok((file, temp))
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // No other upload ever uses this name.
        if !self.placed {
            let _ = self.store.dir.files().remove(&self.temp);
        }
    }
}
