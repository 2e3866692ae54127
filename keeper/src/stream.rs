//! One TCP connection, plain or encrypted: the one place of this crate that knows which.
//!
//! What must hold: each call comes back at the ticks of the socket's timeouts, with the error of a tick, and can be made
//! again then: no byte is lost or sent twice. Plain connections cost what they cost without TLS.

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::FileExt;

use dfs_tls::rustls::{self, Connection};
use dfs_tls::{Role, stream::role_of};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};

/// Bytes that are encrypted at a time, and wait for the socket to take them.
const SEND_BUFFER: usize = 128 * 1024;

/// See the module.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<Encrypted>),
}

/// An encrypted connection: the socket, and the session that its bytes pass through.
pub(crate) struct Encrypted {
    socket: TcpStream,
    session: Connection,
    /// Where a file's bytes pass through. Grows at the first.
    file_piece: Vec<u8>,
}

impl std::fmt::Debug for Encrypted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encrypted").field("socket", &self.socket).finish_non_exhaustive()
    }
}

/// What became of the bytes of a file.
pub(crate) enum FileError {
    /// The file, not the connection.
    File(io::Error),
    Connection(io::Error),
}

impl Stream {
    /// An encrypted connection. [`Stream::handshake`] comes first.
    pub fn tls(socket: TcpStream, session: impl Into<Connection>) -> Stream {
        let mut session = session.into();
        session.set_buffer_limit(Some(SEND_BUFFER));
        Stream::Tls(Box::new(Encrypted { socket, session, file_piece: Vec::new() }))
    }

    pub fn socket(&self) -> &TcpStream {
        match self {
            Stream::Plain(socket) => socket,
            Stream::Tls(tls) => &tls.socket,
        }
    }

    /// One step of the handshake. True: it is done.
    pub fn handshake(&mut self) -> io::Result<bool> {
        match self {
            Stream::Plain(_) => Ok(true),
            Stream::Tls(tls) => tls.handshake(),
        }
    }

    /// The session that was begun is given up; what was read of it is lost.
    pub fn into_plain(self) -> Stream {
        match self {
            Stream::Tls(tls) => Stream::Plain(tls.socket),
            plain @ Stream::Plain(_) => plain,
        }
    }

    /// Who is at the other end, by the certificate that he showed; `None` without TLS.
    pub fn peer(&self) -> Option<Option<Role>> {
        match self {
            Stream::Plain(_) => None,
            Stream::Tls(tls) => Some(role_of(tls.session.peer_certificates())),
        }
    }

    /// 0: the peer sends no more.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.read(buffer),
            Stream::Tls(tls) => tls.read(buffer),
        }
    }

    /// Takes some of `data`. It may take none, and make room for some.
    pub fn send(&mut self, data: &[u8], flags: SendFlags) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => Ok(rustix::net::send(&*socket, data, flags | SendFlags::NOSIGNAL)?),
            Stream::Tls(tls) => {
                if !tls.session.wants_write() {
                    return tls.session.writer().write(data);
                }
                tls.write_some(flags)?;
                Ok(0)
            }
        }
    }

    /// Gives the kernel some of what was taken. True: it has all.
    pub fn flush(&mut self, flags: SendFlags) -> io::Result<bool> {
        match self {
            Stream::Plain(_) => Ok(true),
            Stream::Tls(tls) if tls.session.wants_write() => {
                tls.write_some(flags)?;
                Ok(!tls.session.wants_write())
            }
            Stream::Tls(_) => Ok(true),
        }
    }

    /// Takes some of the next `left` bytes of `file`, and moves `at` behind them. Without TLS they go straight from the page
    /// cache to the socket.
    pub fn send_file(&mut self, file: &File, at: &mut u64, left: usize) -> Result<usize, FileError> {
        match self {
            Stream::Plain(socket) => match rustix::fs::sendfile(&*socket, file, Some(at), left) {
                Ok(0) => Err(FileError::File(io::ErrorKind::UnexpectedEof.into())),
                Ok(sent) => Ok(sent),
                Err(rustix::io::Errno::IO) => Err(FileError::File(rustix::io::Errno::IO.into())),
                Err(errno) => Err(FileError::Connection(errno.into())),
            },
            Stream::Tls(tls) => {
                if tls.session.wants_write() {
                    tls.write_some(SendFlags::MORE).map_err(FileError::Connection)?;
                    return Ok(0);
                }
                tls.file_piece.resize(SEND_BUFFER, 0);
                let piece = &mut tls.file_piece[..SEND_BUFFER.min(left)];
                file.read_exact_at(piece, *at).map_err(FileError::File)?;
                let taken = tls.session.writer().write(piece).map_err(FileError::Connection)?;
                *at += taken as u64;
                Ok(taken)
            }
        }
    }

    /// Is there nothing to be read, and has the peer not closed?
    pub fn is_idle(&self) -> bool {
        let peeked = rustix::net::recv(self.socket(), &mut [0u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        matches!(peeked, Err(rustix::io::Errno::WOULDBLOCK))
    }

    /// Nothing is sent any more.
    pub fn shut_down(&mut self) -> io::Result<()> {
        if let Stream::Tls(tls) = self {
            tls.session.send_close_notify();
            // The peer hears of it from the socket, too.
            let _ = tls.write_some(SendFlags::empty());
        }
        self.socket().shutdown(Shutdown::Write)
    }
}

impl Encrypted {
    fn handshake(&mut self) -> io::Result<bool> {
        if self.session.wants_write() {
            self.write_some(SendFlags::empty())?;
        } else if self.session.is_handshaking() {
            self.receive()?;
        }
        Ok(!self.session.is_handshaking() && !self.session.wants_write())
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.session.reader().read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.receive()?,
            read => return or_end(read),
        }
        // Part of a record came, perhaps. That is an error of a tick: whoever trickles bytes must not keep us here.
        or_end(self.session.reader().read(buffer))
    }

    fn receive(&mut self) -> io::Result<()> {
        if self.session.read_tls(&mut self.socket)? == 0 && self.session.is_handshaking() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Err(error) = self.session.process_new_packets() {
            let error = io::Error::new(io::ErrorKind::InvalidData, error);
            if !was_plain(&error) {
                // So that the peer hears why, if it listens.
                let _ = self.write_some(SendFlags::empty());
            }
            return Err(error);
        }
        Ok(())
    }

    fn write_some(&mut self, flags: SendFlags) -> io::Result<()> {
        self.session.write_tls(&mut Sender { socket: &self.socket, flags }).map(drop)
    }
}

/// A peer that closes without saying so does as it would without TLS. Frames say themselves how long they are.
fn or_end(read: io::Result<usize>) -> io::Result<usize> {
    match read {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
        read => read,
    }
}

/// Does a failed handshake mean that the peer speaks no TLS?
pub(crate) fn was_plain(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(cause, Some(rustls::Error::InvalidMessage(_)))
}

/// The socket, with the flags of send(2), many pieces at a time.
struct Sender<'a> {
    socket: &'a TcpStream,
    flags: SendFlags,
}

impl Write for Sender<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(data)])
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let flags = self.flags | SendFlags::NOSIGNAL;
        Ok(rustix::net::sendmsg(self.socket, pieces, &mut SendAncillaryBuffer::default(), flags)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
