//! How much has to arrive on a data connection before its reader is woken (SO_RCVLOWAT of socket(7)).
//!
//! Loopback and fast networks deliver 64 KiB at a time, and to be woken for each costs more than to take what is in it: a
//! film that is read cold is a third faster when readers are woken for 256 KiB. A reader that waits for less than the
//! mark is not woken by less, so whoever sets it lowers it again before what he waits for is less. (Keepers that take in chunks
//! do not do it: what they got they pass on at once, and waiting for more cost a fifth of the speed.)

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// The mark for bulk: what is more gains nothing.
pub(super) const BULK: usize = 256 * 1024;

/// Sets the mark of `socket`, in bytes; it is 1 at first. The end of the stream, and errors, wake the reader in any case.
///
/// # Errors
/// What setsockopt(2) says.
#[allow(unsafe_code)]
pub(super) fn set(socket: impl AsFd, bytes: usize) -> io::Result<()> {
    let bytes = libc::c_int::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
    let (value, length) = ((&raw const bytes).cast(), size_of::<libc::c_int>() as libc::socklen_t);
    let socket = socket.as_fd();
    // SAFETY: the descriptor is open as long as it is borrowed, and the kernel reads `length` bytes of an integer that
    // lives until after the call. rustix, socket2 and nix have no function for this option.
    let done =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVLOWAT, value, length) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_reader_is_woken_at_the_mark_and_at_the_end() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut reader, _) = listener.accept().unwrap();
        let mut buffer = [0; 1000];
        set(&reader, 100).unwrap();
        reader.set_nonblocking(true).unwrap();
        assert_eq!(reader.read(&mut buffer).unwrap_err().kind(), ErrorKind::WouldBlock);
        reader.set_nonblocking(false).unwrap();
        reader.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let writer = std::thread::spawn(move || {
            for _ in 0..10 {
                sender.write_all(&[7; 20]).unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
            sender
        });
        assert!(reader.read(&mut buffer).unwrap() >= 100, "woken too early");
        drop(writer.join().unwrap());
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).unwrap();
        set(&reader, 1).unwrap();
        assert_eq!(reader.read(&mut buffer).unwrap(), 0);
    }
}
