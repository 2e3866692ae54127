//! The lock on an embedded cluster's data directory: who runs it, and where its master listens.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::EmbeddedError;

/// How long one that is stopping is waited for. It may have something to upload first.
const STOPPING_DEADLINE: Duration = Duration::from_secs(60);

/// How often we look whether it is gone.
const POLL: Duration = Duration::from_millis(50);

/// The lock file's word for a process that is on its way out.
pub(super) const STOPPING: &str = "stopping";

/// Longest lock file that is read, in bytes.
const MAX_LOCK_BYTES: u64 = 256;

/// The lock on the data directory.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    path: PathBuf,
    /// Where the master listened, or listens.
    pub(super) last_address: Option<SocketAddr>,
}

impl Lock {
    /// Makes the directory when it is missing, and locks it.
    fn take(data: &Path) -> Result<Lock, EmbeddedError> {
        let failed = |error| EmbeddedError::Data { path: data.to_owned(), error };
        DirBuilder::new().recursive(true).mode(0o700).create(data).map_err(failed)?;
        // Also one that was there: what is in it is for nobody else.
        fs::set_permissions(data, Permissions::from_mode(0o700)).map_err(failed)?;
        let path = data.join("lock");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path).map_err(failed)?;
        let locked = flock(&file, FlockOperation::NonBlockingLockExclusive);
        let (pid, address, stopping) = read_lock(&file).map_err(failed)?;
        match locked {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(EmbeddedError::Running { path: data.to_owned(), pid, address, stopping });
            }
            Err(error) => return Err(failed(error.into())),
        }
        let lock = Lock { file, path, last_address: address };
        lock.write("")?;
        Ok(lock)
    }

    /// As [`Lock::take`]; waits for a holder that is stopping, or says so within `grace`.
    pub(super) async fn take_in_time(data: &Path, grace: Duration) -> Result<Lock, EmbeddedError> {
        let begun = Instant::now();
        loop {
            match Lock::take(data) {
                Err(EmbeddedError::Running { stopping, .. })
                    if begun.elapsed() < if stopping { STOPPING_DEADLINE } else { grace } =>
                {
                    tokio::time::sleep(POLL).await;
                }
                taken => return taken,
            }
        }
    }

    /// Writes our pid, the address if there is one, and `word`.
    pub(super) fn write(&self, word: &str) -> Result<(), EmbeddedError> {
        let address = self.last_address.map(|a| a.to_string()).unwrap_or_default();
        let text = format!("{}\n{address}\n{word}\n", std::process::id());
        let mut file = &self.file;
        let written =
            file.rewind().and_then(|()| file.set_len(0)).and_then(|()| file.write_all(text.as_bytes()));
        written.map_err(|error| EmbeddedError::Data { path: self.path.clone(), error })
    }
}

/// Pid, address, and whether it is stopping. What cannot be read is not there.
fn read_lock(file: &File) -> io::Result<(Option<u32>, Option<SocketAddr>, bool)> {
    let mut bytes = Vec::new();
    file.take(MAX_LOCK_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = text.lines();
    let pid = lines.next().and_then(|l| l.parse().ok());
    // Only what we could have written: an address outside this machine is none of ours.
    let address = lines.next().and_then(|l| l.parse().ok()).filter(|a: &SocketAddr| a.ip().is_loopback());
    Ok((pid, address, lines.next() == Some(STOPPING)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_is_refused_and_told_whom_to_join() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("new");
        let mut lock = Lock::take(&data).unwrap();
        assert_eq!(fs::metadata(&data).unwrap().permissions().mode() & 0o777, 0o700);
        let error = Lock::take(&data).unwrap_err().to_string();
        assert!(error.contains("just starting"), "{error}");
        lock.last_address = Some("127.0.0.1:4567".parse().unwrap());
        lock.write("").unwrap();
        let error = Lock::take(&data).unwrap_err().to_string();
        assert!(error.contains("--master 127.0.0.1:4567"), "{error}");
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
    }

    #[test]
    fn the_address_is_remembered_when_the_process_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let address = "127.0.0.1:4567".parse().unwrap();
        let mut lock = Lock::take(dir.path()).unwrap();
        lock.last_address = Some(address);
        lock.write("").unwrap();
        drop(lock);
        assert_eq!(Lock::take(dir.path()).unwrap().last_address, Some(address));
        fs::write(dir.path().join("lock"), "1\n8.8.8.8:53\n").unwrap();
        assert_eq!(Lock::take(dir.path()).unwrap().last_address, None);
        fs::write(dir.path().join("lock"), [0xff; 1000]).unwrap();
        assert_eq!(Lock::take(dir.path()).unwrap().last_address, None);
    }

    #[tokio::test]
    async fn a_process_that_is_stopping_is_waited_for_and_another_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let held = Lock::take(dir.path()).unwrap();
        let refused = Lock::take_in_time(dir.path(), Duration::ZERO).await.unwrap_err();
        assert!(matches!(refused, EmbeddedError::Running { stopping: false, .. }), "{refused}");
        held.write(STOPPING).unwrap();
        let next = Lock::take_in_time(dir.path(), Duration::ZERO);
        tokio::pin!(next);
        // The first look finds it held, and waits.
        assert!(tokio::time::timeout(Duration::ZERO, &mut next).await.is_err());
        drop(held);
        next.await.unwrap();
    }

    #[test]
    fn a_data_directory_that_is_a_file_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Lock::take(file.path()).unwrap_err().to_string();
        assert!(error.contains("--data") && error.contains(&file.path().display().to_string()), "{error}");
    }
}
