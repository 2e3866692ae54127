//! Frames over one blocking connection, with a deadline on every wait.
//!
//! The socket's own timeouts are short ticks. At each tick the deadline and the sign to stop are
//! checked, so that a peer that is silent, trickles bytes or does not read is cut off in time,
//! however it spreads its bytes.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dfs_proto::frame::{self, FrameError, HEADER_LEN, Header, Kind, MAX_META_LEN};
use dfs_tls::Role;
use prost::Message;
use rustix::net::SendFlags;

use crate::queue::Stop;
use crate::stream::{FileError, Stream};

const LONGEST_TICK: Duration = Duration::from_millis(250);
const SHORTEST_TICK: Duration = Duration::from_millis(5);

/// How a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error("the peer closed the connection")]
    Closed,
    #[error("the peer closed the connection in the middle of a frame")]
    Truncated,
    #[error("the peer was silent for too long")]
    Silent,
    #[error("a frame took too long")]
    Slow,
    #[error("this keeper is shutting down")]
    Stopping,
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Not the connection but the file that was being sent.
    #[error("the chunk file cannot be read: {0}")]
    File(io::Error),
}

/// One connection. Frames are read in order: header, meta, data.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: Stream,
    stop: Arc<Stop>,
    /// For a frame to begin, for one to arrive, and for one to leave.
    patience: Duration,
    receive_by: Instant,
    /// Bytes that the peer takes renew the time for a frame to leave.
    renews: bool,
    meta: Vec<u8>,
}

impl Wire {
    /// # Errors
    /// When the socket does not take its options.
    pub fn new(stream: Stream, patience: Duration, stop: Arc<Stop>) -> io::Result<Wire> {
        let tick = (patience / 4).clamp(SHORTEST_TICK, LONGEST_TICK);
        let socket = stream.socket();
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(tick))?;
        socket.set_write_timeout(Some(tick))?;
        Ok(Wire { stream, stop, patience, receive_by: Instant::now(), renews: false, meta: Vec::new() })
    }

    /// Comes before all else on a connection that is encrypted; nothing to do on another. Has the time of a frame.
    ///
    /// # Errors
    /// `Io` with rustls' reason; the connection is of no use any more.
    pub fn handshake(&mut self) -> Result<(), WireError> {
        let by = self.send_by();
        loop {
            match self.stream.handshake() {
                Ok(true) => return Ok(()),
                Ok(false) if Instant::now() >= by => return Err(WireError::Slow),
                Ok(false) => {}
                Err(error) => self.wait_out(error, by)?,
            }
        }
    }

    /// After a handshake that a peer did not understand.
    pub fn into_plain(self) -> Wire {
        Wire { stream: self.stream.into_plain(), ..self }
    }

    /// Who is at the other end, by the certificate that he showed; `None` without TLS.
    pub fn peer(&self) -> Option<Option<Role>> {
        self.stream.peer()
    }

    /// For a peer of our own choice: on a slow link it may take as long as it likes, if only it takes something.
    pub fn renewing(self) -> Wire {
        Wire { renews: true, ..self }
    }

    /// From now on each frame and stall is given `patience`.
    pub fn be_patient(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Waits for a frame and reads its header, which is checked.
    ///
    /// # Errors
    /// `Closed` when the peer closed between frames, else any.
    pub fn header(&mut self) -> Result<Header, WireError> {
        self.header_within(self.patience)
    }

    /// [`Wire::header`], where the frame must begin within `silence`.
    pub fn header_within(&mut self, silence: Duration) -> Result<Header, WireError> {
        let mut raw = [0; HEADER_LEN];
        let first = self.read_some(&mut raw, Instant::now() + silence, WireError::Silent)?;
        if first == 0 {
            return Err(WireError::Closed);
        }
        self.receive_by = Instant::now() + self.patience;
        self.data(&mut raw[first..])?;
        Ok(Header::decode(&raw)?)
    }

    /// Reads and decodes the frame's structured part.
    pub fn meta<M: Message + Default>(&mut self, header: &Header) -> Result<M, WireError> {
        let mut meta = std::mem::take(&mut self.meta);
        // The header was checked: at most MAX_META_LEN.
        meta.resize(header.meta_len.min(MAX_META_LEN), 0);
        let read = self.data(&mut meta);
        // Byte fields of the message must not hold on to this buffer, so they are copied out of it.
        let decoded = read.and_then(|()| Ok(frame::decode_meta::<M>(header.kind, &meta[..])?));
        self.meta = meta;
        decoded
    }

    /// Fills `buffer` with the frame's next bytes.
    pub fn data(&mut self, buffer: &mut [u8]) -> Result<(), WireError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read_some(&mut buffer[filled..], self.receive_by, WireError::Slow)? {
                0 => return Err(WireError::Truncated),
                n => filled += n,
            }
        }
        Ok(())
    }

    fn read_some(&mut self, buffer: &mut [u8], by: Instant, late: WireError) -> Result<usize, WireError> {
        loop {
            if self.stop.is_set() {
                return Err(WireError::Stopping);
            }
            if Instant::now() >= by {
                return Err(late);
            }
            match self.stream.read(buffer) {
                Ok(n) => return Ok(n),
                Err(error) if is_tick(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends a frame without raw bytes.
    pub fn send(&mut self, kind: Kind, request: u32, meta: &impl Message) -> Result<(), WireError> {
        self.send_all(&frame::encode(kind, request, meta, 0), SendFlags::empty(), self.send_by())
    }

    /// Sends a frame without raw bytes that others follow at once: what does not fill a packet waits for them, so that
    /// the peer is not woken for each.
    pub fn send_ahead(&mut self, kind: Kind, request: u32, meta: &impl Message) -> Result<(), WireError> {
        self.send_all(&frame::encode(kind, request, meta, 0), SendFlags::MORE, self.send_by())
    }

    /// Sends a frame of raw bytes alone, which others follow at once.
    pub fn send_data_ahead(&mut self, request: u32, data: &[u8]) -> Result<(), WireError> {
        let by = self.send_by();
        self.send_all(&frame::encode_data(request, data.len()), SendFlags::MORE, by)?;
        self.send_all(data, SendFlags::MORE, by)
    }

    /// Sends a frame whose raw bytes are `length` bytes of `file` from `offset`, straight from the
    /// page cache.
    pub fn send_file(
        &mut self,
        head: Bytes,
        file: &File,
        offset: u64,
        length: usize,
    ) -> Result<(), WireError> {
        let by = self.send_by();
        let flags = if length > 0 { SendFlags::MORE } else { SendFlags::empty() };
        self.send_all(&head, flags, by)?;
        let (mut at, end) = (offset, offset + length as u64);
        while at < end {
            let left = (end - at) as usize;
            match self.stream.send_file(file, &mut at, left) {
                Ok(_) if at < end && Instant::now() >= by => return Err(WireError::Slow),
                Ok(_) => {}
                Err(FileError::File(error)) => return Err(WireError::File(error)),
                Err(FileError::Connection(error)) => self.wait_out(error, by)?,
            }
        }
        self.flush(SendFlags::empty(), by)
    }

    fn send_by(&self) -> Instant {
        Instant::now() + self.patience
    }

    fn send_all(&mut self, mut data: &[u8], flags: SendFlags, mut by: Instant) -> Result<(), WireError> {
        while !data.is_empty() {
            match self.stream.send(data, flags) {
                Ok(sent) => {
                    data = &data[sent..];
                    if self.renews {
                        by = self.send_by();
                    }
                    if !data.is_empty() && Instant::now() >= by {
                        return Err(WireError::Slow);
                    }
                }
                Err(error) => self.wait_out(error, by)?,
            }
        }
        self.flush(flags, by)
    }

    /// What was taken is on its way.
    fn flush(&mut self, flags: SendFlags, mut by: Instant) -> Result<(), WireError> {
        loop {
            match self.stream.flush(flags) {
                Ok(true) => return Ok(()),
                Ok(false) if self.renews => by = self.send_by(),
                Ok(false) if Instant::now() >= by => return Err(WireError::Slow),
                Ok(false) => {}
                Err(error) => self.wait_out(error, by)?,
            }
        }
    }

    fn wait_out(&self, error: io::Error, by: Instant) -> Result<(), WireError> {
        if !is_tick(&error) {
            return Err(error.into());
        }
        if self.stop.is_set() {
            return Err(WireError::Stopping);
        }
        if Instant::now() >= by { Err(WireError::Slow) } else { Ok(()) }
    }

    /// Is the peer still there and silent, as it must be between requests?
    pub fn is_idle(&self) -> bool {
        self.stream.is_idle()
    }

    /// Closes after an error was answered: lets the peer finish sending for a moment, since bytes that
    /// nobody reads would reset the connection and could take the answer with them.
    pub fn close_gently(mut self, within: Duration) {
        if self.stream.shut_down().is_err() {
            return;
        }
        let by = Instant::now() + within;
        let mut sink = [0; 16 * 1024];
        while let Ok(1..) = self.read_some(&mut sink, by, WireError::Slow) {}
    }
}

fn is_tick(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), Interrupted | TimedOut | WouldBlock)
}
