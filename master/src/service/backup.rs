//! A dump of a running master, as a stream of parts. The store is read on a thread for blocking work; whoever does not
//! read what comes is given up, because the store grows while somebody looks at an old state of it.

use std::io::{self, Write};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dfs_proto::pb;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tonic::Status;

use crate::store::Snapshot;
use crate::store::dump;

/// Bytes in one part.
const PART: usize = 256 * 1024;
/// Parts that may wait to be sent.
const PARTS: usize = 4;
/// A part that is not taken for this long ends the backup.
const READ_DEADLINE: Duration = Duration::from_secs(30);

type Part = Result<pb::BackupPart, Status>;

/// Begins to send a dump of `snapshot`.
pub(super) fn send(mut snapshot: Box<dyn Snapshot>, now: pb::Time) -> mpsc::Receiver<Part> {
    let (sender, parts) = mpsc::channel(PARTS);
    let runtime = Handle::current();
    tokio::task::spawn_blocking(move || {
        let mut out = Parts { sender, runtime, buffer: BytesMut::with_capacity(PART) };
        let written = dump::write(&mut *snapshot, now, &mut out);
        drop(snapshot);
        let written = written.and_then(|summary| {
            out.flush()?;
            Ok(summary)
        });
        let last = match written {
            Ok(dump::Summary { rows, bytes }) => {
                tracing::info!(rows, bytes, "a backup was taken");
                Ok(pb::BackupPart { data: Bytes::new(), last: true, rows })
            }
            Err(error) => {
                tracing::warn!(%error, "a backup did not come to its end");
                Err(Status::internal(error.to_string()))
            }
        };
        // Whoever went away does not want to know.
        let _ = out.send(last);
    });
    parts
}

struct Parts {
    sender: mpsc::Sender<Part>,
    runtime: Handle,
    buffer: BytesMut,
}

impl Parts {
    fn send(&self, part: Part) -> io::Result<()> {
        match self.runtime.block_on(tokio::time::timeout(READ_DEADLINE, self.sender.send(part))) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(io::Error::new(io::ErrorKind::BrokenPipe, "who asked for it has gone")),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "who asked for it does not read it")),
        }
    }
}

impl Write for Parts {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PART {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let data = self.buffer.split().freeze();
        self.send(Ok(pb::BackupPart { data, last: false, rows: 0 }))
    }
}
