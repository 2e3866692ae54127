//! Connections to other keepers: the relay of an upload to its companions, the push of a copy, and reads
//! for a build. All speak the frames that a client does.

use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::frame::{Header, Kind};
use dfs_proto::pb;

use crate::config::Tuning;
use crate::queue::Stop;
use crate::wire::{Wire, WireError};

/// A connection that was idle for longer is not used again; its peer would soon close it.
const IDLE_FOR: Duration = Duration::from_secs(3);

/// Time that a peer gets to say why it closed the door while we were sending.
const REASON_PATIENCE: Duration = Duration::from_millis(200);

/// A connection to another keeper, for one chunk at a time.
#[derive(Debug)]
pub(crate) struct Outgoing {
    wire: Wire,
    address: String,
    request: u32,
    used: Instant,
}

impl Outgoing {
    /// Connects to `address`, `HOST:PORT`. `patience` bounds each time without a byte taken or sent by the peer.
    ///
    /// # Errors
    /// `Unavailable`, with the reason.
    pub fn connect(
        address: &str,
        tuning: &Tuning,
        patience: Duration,
        stop: &Arc<Stop>,
    ) -> Result<Outgoing, DfsError> {
        let failed = |why: std::io::Error| {
            DfsError::new(ErrorCode::Unavailable, format!("cannot connect to the keeper at {address}: {why}"))
        };
        let none = || std::io::Error::other("the name has no address");
        let to = address.to_socket_addrs().map_err(failed)?.next().ok_or_else(none).map_err(failed)?;
        let stream = TcpStream::connect_timeout(&to, tuning.connect_timeout).map_err(failed)?;
        let wire = Wire::new(stream, patience, stop.clone()).map_err(failed)?.renewing();
        Ok(Outgoing { wire, address: address.to_owned(), request: 0, used: Instant::now() })
    }

    /// The same for what is left to do.
    fn be_patient(mut self, patience: Duration) -> Outgoing {
        self.wire.be_patient(patience);
        self
    }

    /// May the next chunk for `address` go over this connection?
    pub fn is_reusable_for(&self, address: &str) -> bool {
        self.address == address && self.used.elapsed() < IDLE_FOR && self.wire.is_idle()
    }

    /// Begins a chunk.
    pub fn open(&mut self, open: &pb::WriteOpen) -> Result<(), DfsError> {
        self.request = self.request.wrapping_add(1);
        let sent = self.wire.send(Kind::WriteOpen, self.request, open);
        sent.map_err(|error| self.explain(error))
    }

    /// Sends the chunk's next bytes, at most 1 MiB.
    pub fn data(&mut self, data: &[u8]) -> Result<(), DfsError> {
        let sent = self.wire.send_data(self.request, data);
        sent.map_err(|error| self.explain(error))
    }

    /// Ends the chunk.
    pub fn end(&mut self, block_sums: Bytes) -> Result<(), DfsError> {
        let sent = self.wire.send(Kind::WriteEnd, self.request, &pb::WriteEnd { block_sums });
        sent.map_err(|error| self.explain(error))
    }

    /// Waits for the answer.
    pub fn done(&mut self, patience: Duration) -> Result<pb::WriteDone, DfsError> {
        let answer = self.answer(patience);
        self.used = Instant::now();
        answer
    }

    /// Reads a range of a chunk: the encoded block checksums, if they were asked for, and the bytes. Nothing of
    /// it is verified here.
    pub fn read(&mut self, request: &pb::ReadRequest) -> Result<(Bytes, Vec<u8>), DfsError> {
        self.request = self.request.wrapping_add(1);
        let sent = self.wire.send(Kind::Read, self.request, request);
        sent.map_err(|error| self.broken(&error))?;
        let header = self.wire.header().map_err(|error| self.broken(&error))?;
        let answer = match header {
            Header { kind: Kind::ReadData, data_len, request: number, .. }
                if number == self.request && data_len == request.length as usize =>
            {
                let meta: Result<pb::ReadReply, WireError> = self.wire.meta(&header);
                let meta = meta.map_err(|error| self.broken(&error))?;
                let mut data = vec![0; data_len];
                self.wire.data(&mut data).map_err(|error| self.broken(&error))?;
                Ok((meta.block_sums, data))
            }
            Header { kind: Kind::Error, data_len: 0, .. } => {
                let error: pb::Error = self.wire.meta(&header).map_err(|error| self.broken(&error))?;
                Err(DfsError::from_wire(error))
            }
            other => Err(DfsError::new(
                ErrorCode::Protocol,
                format!("the keeper at {} answered a read with a {:?} frame", self.address, other.kind),
            )),
        };
        self.used = Instant::now();
        answer
    }

    fn answer(&mut self, patience: Duration) -> Result<pb::WriteDone, DfsError> {
        let header = self.wire.header_within(patience).map_err(|error| self.broken(&error))?;
        match header {
            Header { kind: Kind::WriteDone, data_len: 0, request, .. } if request == self.request => {
                self.wire.meta(&header).map_err(|error| self.broken(&error))
            }
            Header { kind: Kind::Error, data_len: 0, .. } => {
                let error: pb::Error = self.wire.meta(&header).map_err(|error| self.broken(&error))?;
                Err(DfsError::from_wire(error))
            }
            other => Err(DfsError::new(
                ErrorCode::Protocol,
                format!("the keeper at {} answered an upload with a {:?} frame", self.address, other.kind),
            )),
        }
    }

    /// Sending failed; the peer may have said why before it closed.
    fn explain(&mut self, error: WireError) -> DfsError {
        if matches!(error, WireError::Io(_))
            && let Err(reason) = self.answer(REASON_PATIENCE)
            && reason.code != ErrorCode::Unavailable
        {
            return reason;
        }
        self.broken(&error)
    }

    fn broken(&self, error: &WireError) -> DfsError {
        let code = match error {
            WireError::Silent | WireError::Slow => ErrorCode::TimedOut,
            WireError::Frame(_) => ErrorCode::Protocol,
            _ => ErrorCode::Unavailable,
        };
        DfsError::new(code, format!("the transfer to the keeper at {} failed: {error}", self.address))
    }
}

/// The companions' part of one upload: bytes go to the first of them, which hands them on to the
/// next. When it fails, the upload goes on without it, and without those behind it.
///
/// A companion that hangs must not make the sender believe that we do: each keeper of the chain waits less long for
/// the next one than the one before waits for it.
#[derive(Debug)]
pub(crate) struct Relay {
    link: Option<Outgoing>,
    first: u64,
    sync: bool,
    /// For the chain behind us to take something.
    patience: Duration,
    chunk: dfs_proto::ids::ChunkId,
    /// The first companion could not be reached or did not answer in time; not: it refused.
    failed: bool,
}

/// What the chain behind us holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ChainDone {
    /// In chain order.
    pub keepers: Vec<u64>,
    /// On stable storage on all of them.
    pub synced: bool,
    /// Those that could not be reached or did not answer in time.
    pub failed: Vec<u64>,
}

impl Relay {
    /// Begins the upload at the first companion of `open`, if there is one. `spare` is a connection
    /// that may be left from the last upload.
    pub fn begin(
        open: &pb::WriteOpen,
        chunk: dfs_proto::ids::ChunkId,
        spare: Option<Outgoing>,
        tuning: &Tuning,
        stop: &Arc<Stop>,
    ) -> Relay {
        // Half as long again for each keeper that the first one waits for.
        let behind = open.relay.len().saturating_sub(1) as u32;
        let patience = tuning.relay_timeout + tuning.relay_timeout / 2 * behind;
        let mut relay = Relay { link: None, first: 0, sync: open.sync, patience, chunk, failed: false };
        let Some((first, rest)) = open.relay.split_first() else { return relay };
        relay.first = first.keeper;
        let forward = pb::WriteOpen {
            ticket: open.ticket.clone(),
            mac: first.mac.clone(),
            length: open.length,
            sync: open.sync,
            relay: rest.to_vec(),
            relayed: true,
            order: 0,
            urgent: false,
        };
        let link = match spare.filter(|spare| spare.is_reusable_for(&first.address)) {
            Some(spare) => Ok(spare.be_patient(patience)),
            None => Outgoing::connect(&first.address, tuning, patience, stop),
        };
        match link {
            Ok(link) => {
                relay.link = Some(link);
                relay.step(|link| link.open(&forward));
            }
            Err(error) => relay.give_up(&error),
        }
        relay
    }

    /// Hands on the next bytes.
    pub fn data(&mut self, data: &[u8]) {
        self.step(|link| link.data(data));
    }

    /// Hands on the end. Returns at once.
    pub fn end(&mut self, block_sums: &Bytes) {
        self.step(|link| link.end(block_sums.clone()));
    }

    /// Waits for the chain's answer. Returns it, and the connection if it can be used again. No
    /// answer means that none of them counts.
    pub fn done(mut self) -> (ChainDone, Option<Outgoing>) {
        // Syncing takes longer.
        let patience = if self.sync { self.patience * 3 / 2 } else { self.patience };
        let mut done = None;
        self.step(|link| {
            done = Some(link.done(patience)?);
            Ok(())
        });
        match done {
            Some(pb::WriteDone { keepers, synced, failed }) => {
                (ChainDone { keepers, synced, failed }, self.link)
            }
            None => {
                let failed = self.failed.then_some(self.first).into_iter().collect();
                (ChainDone { keepers: Vec::new(), synced: true, failed }, None)
            }
        }
    }

    fn step(&mut self, act: impl FnOnce(&mut Outgoing) -> Result<(), DfsError>) {
        if let Some(link) = &mut self.link
            && let Err(error) = act(link)
        {
            self.give_up(&error);
        }
    }

    fn give_up(&mut self, error: &DfsError) {
        tracing::warn!(chunk = %self.chunk, %error, "upload goes on without the companion");
        self.link = None;
        self.failed = matches!(error.code, ErrorCode::Unavailable | ErrorCode::TimedOut);
    }
}
