//! At a start: what the journal has and no chunk file does becomes one again.
//!
//! What must hold: a record is never preferred to a file that verifies; and what the master has had deleted in the last seconds before a crash
//! may come back by this, and be in the inventory, by which the master has it deleted again.

use std::io;

use crate::identity::FILE_MODE;
use crate::store::format::ChunkHeader;
use crate::store::journal::Record;
use crate::store::{ChunkStore, DATA_AT, chunk_path};

impl ChunkStore {
    /// Makes the files that are missing or do not verify. They have yet to be synced. Returns how many.
    ///
    /// # Errors
    /// The disk did not take one. The others were not tried.
    pub(super) fn replay(&self, records: &[Record]) -> io::Result<usize> {
        let mut made = 0;
        for record in records {
            if !self.verifies(record) {
                self.restore(record)?;
                made += 1;
            }
        }
        Ok(made)
    }

    fn verifies(&self, record: &Record) -> bool {
        let Ok(open) = self.read_header(record.chunk, 0..0) else { return false };
        // Longer ones were never in the journal, and are whole by their header.
        let mut data = vec![0; open.header.length];
        let read = std::os::unix::fs::FileExt::read_exact_at(&open.file, &mut data, DATA_AT);
        read.is_ok()
            && data
                .chunks(dfs_proto::block_sum::BLOCK_SIZE)
                .enumerate()
                .all(|(n, block)| open.header.sums.verify(n, block))
    }

    fn restore(&self, record: &Record) -> io::Result<()> {
        let Record { chunk, data, sums } = record;
        let files = self.dir.files();
        let temp = self.dir.path().join(format!("tmp/{chunk}.{}", self.next_temp()));
        let header = ChunkHeader { chunk: *chunk, length: data.len(), sums: sums.clone() };
        let file = files.create(&temp, FILE_MODE)?;
        files.write_all_at(&file, data, DATA_AT)?;
        files.write_all_at(&file, &header.encode(), 0)?;
        files.rename(&temp, &chunk_path(self.dir.path(), *chunk))
    }
}
