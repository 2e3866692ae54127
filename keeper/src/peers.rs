//! Connections to other keepers, and the idle ones among them. Chunks go over them, and reads for a build; all speak the
//! frames that a client does.
//!
//! What must hold: a connection whose transfer was not answered whole is never used again, nor are the idle ones to the same
//! address where it broke: those to a keeper that is cut off would fail one after the other, each after a wait.

use std::collections::BTreeMap;
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::frame::{Header, Kind};
use dfs_proto::pb;
use dfs_tls::Connector;

use crate::config::Tuning;
use crate::queue::Stop;
use crate::stream::Stream;
use crate::wire::{Wire, WireError};

/// A connection that was idle for longer is not used again; its peer would soon close it.
const IDLE_FOR: Duration = Duration::from_secs(3);

/// At one keeper; more are closed when they come back.
const MAX_IDLE_PER_KEEPER: usize = 16;

/// Time that a peer gets to say why it closed the door while we were sending.
const REASON_PATIENCE: Duration = Duration::from_millis(200);

/// A connection to another keeper, for one chunk at a time.
#[derive(Debug)]
pub(crate) struct Outgoing {
    wire: Wire,
    address: String,
    request: u32,
    used: Instant,
    idle: Weak<Idle>,
}

/// Idle connections, by address.
type Idle = Mutex<BTreeMap<String, Vec<Outgoing>>>;

impl Outgoing {
    /// Connects to `keeper`, encrypted if its port is. `patience` bounds each time without a byte taken or sent by the peer.
    ///
    /// # Errors
    /// `Unavailable`, with the reason.
    fn connect(
        keeper: &pb::KeeperGrant,
        tls: Option<&Connector>,
        tuning: &Tuning,
        patience: Duration,
        stop: &Arc<Stop>,
        idle: Weak<Idle>,
    ) -> Result<Outgoing, DfsError> {
        let address = keeper.address.as_str();
        let failed = |why: std::io::Error| {
            DfsError::new(ErrorCode::Unavailable, format!("cannot connect to the keeper at {address}: {why}"))
        };
        let none = || std::io::Error::other("the name has no address");
        let to = address.to_socket_addrs().map_err(failed)?.next().ok_or_else(none).map_err(failed)?;
        let stream = TcpStream::connect_timeout(&to, tuning.connect_timeout).map_err(failed)?;
        let stream = match (keeper.tls, tls) {
            (false, _) => Stream::Plain(stream),
            (true, Some(tls)) => Stream::tls(stream, tls.session(address).map_err(failed)?),
            (true, None) => {
                return Err(failed(std::io::Error::other(
                    "it speaks TLS, and this keeper has no certificate for that; start it with --tls-dir and without --tls control",
                )));
            }
        };
        let mut wire = Wire::new(stream, patience, stop.clone()).map_err(failed)?.renewing();
        wire.handshake().map_err(|error| match (error, tls) {
            (WireError::Io(error), Some(tls)) => failed(tls.explained(error)),
            (error, _) => failed(std::io::Error::other(error.to_string())),
        })?;
        Ok(Outgoing { wire, address: address.to_owned(), request: 0, used: Instant::now(), idle })
    }

    /// The same for what is left to do.
    fn be_patient(mut self, patience: Duration) -> Outgoing {
        self.wire.be_patient(patience);
        self
    }

    fn is_reusable(&self) -> bool {
        self.used.elapsed() < IDLE_FOR && self.wire.is_idle()
    }

    /// Begins a chunk. What is sent of it may wait for [`Outgoing::end`] for a moment.
    pub fn open(&mut self, open: &pb::WriteOpen) -> Result<(), DfsError> {
        self.request = self.request.wrapping_add(1);
        let sent = self.wire.send_ahead(Kind::WriteOpen, self.request, open);
        sent.map_err(|error| self.explain(error))
    }

    /// Sends the chunk's next bytes, at most 1 MiB.
    pub fn data(&mut self, data: &[u8]) -> Result<(), DfsError> {
        let sent = self.wire.send_data_ahead(self.request, data);
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
        if let Some(idle) = self.idle.upgrade() {
            lock(&idle).remove(&self.address);
        }
        let code = match error {
            WireError::Silent | WireError::Slow => ErrorCode::TimedOut,
            WireError::Frame(_) => ErrorCode::Protocol,
            _ => ErrorCode::Unavailable,
        };
        DfsError::new(code, format!("the transfer to the keeper at {} failed: {error}", self.address))
    }
}

/// The connections of this keeper to others. A new one for each small chunk would cost more than the chunk, and leave a closed
/// connection behind that the kernel remembers for a minute.
#[derive(Debug)]
pub(crate) struct Peers {
    tls: Option<Connector>,
    idle: Arc<Idle>,
}

fn lock(idle: &Idle) -> MutexGuard<'_, BTreeMap<String, Vec<Outgoing>>> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Peers {
    /// `tls`: for those whose ports speak it.
    pub fn new(tls: Option<Connector>) -> Peers {
        Peers { tls, idle: Arc::default() }
    }

    /// A connection to `keeper`: an idle one, or when there is none, a new one. `patience` as in [`Outgoing::connect`].
    ///
    /// # Errors
    /// As [`Outgoing::connect`].
    pub fn check_out(
        &self,
        keeper: &pb::KeeperGrant,
        tuning: &Tuning,
        patience: Duration,
        stop: &Arc<Stop>,
    ) -> Result<Outgoing, DfsError> {
        while let Some(idle) = self.take(&keeper.address) {
            if idle.is_reusable() {
                return Ok(idle.be_patient(patience));
            }
        }
        Outgoing::connect(keeper, self.tls.as_ref(), tuning, patience, stop, Arc::downgrade(&self.idle))
    }

    /// The youngest.
    fn take(&self, address: &str) -> Option<Outgoing> {
        lock(&self.idle).get_mut(address)?.pop()
    }

    /// Gives back a connection whose last transfer was answered whole.
    pub fn check_in(&self, link: Outgoing) {
        let mut idle = lock(&self.idle);
        idle.retain(|_, links| {
            links.retain(|link| link.used.elapsed() < IDLE_FOR);
            !links.is_empty()
        });
        let of_keeper = idle.entry(link.address.clone()).or_default();
        if of_keeper.len() < MAX_IDLE_PER_KEEPER {
            of_keeper.push(link);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn when_a_connection_breaks_the_idle_ones_to_its_keeper_go_and_others_stay() {
        let (silent, other) =
            (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let address = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
        let (tuning, stop, peers) = (Tuning::default(), Arc::new(Stop::default()), Peers::new(None));
        let grant = |at: &TcpListener| pb::KeeperGrant { address: address(at), ..Default::default() };
        let check_out = |at: &TcpListener| peers.check_out(&grant(at), &tuning, IDLE_FOR, &stop).unwrap();
        let (first, second, third, of_other) =
            (check_out(&silent), check_out(&silent), check_out(&silent), check_out(&other));
        [first, second, third, of_other].into_iter().for_each(|link| peers.check_in(link));
        let mut link = check_out(&silent);
        let idle = |at: &TcpListener| lock(&peers.idle).get(&address(at)).map_or(0, Vec::len);
        assert_eq!((idle(&silent), idle(&other)), (2, 1));
        let answer = link.done(Duration::from_millis(10)).unwrap_err();
        assert_eq!(answer.code, ErrorCode::TimedOut, "{answer}");
        assert_eq!((idle(&silent), idle(&other)), (0, 1));
    }
}
