//! fusermount3 (or fusermount), the set-user-id program of libfuse that mounts FUSE file systems for users
//! who are not root.
//!
//! Its protocol: the number of a socket in `_FUSE_COMMFD`; it opens `/dev/fuse`, mounts, and sends the open
//! descriptor over that socket (SCM_RIGHTS) with one byte. It stays what it is for unmounting: `-u`, and `-z`
//! for lazily.

use std::io::{self, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::FdFlags;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

/// The longest that the helper may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// How often we look whether it is done.
const POLL: Duration = Duration::from_millis(5);

/// The most that is read of what it says, in bytes.
const MAX_WORDS: u64 = 4096;

/// Newest first. Looked for in `$PATH` and where systems put it.
const NAMES: &[&str] = &["fusermount3", "fusermount"];
const USUAL_PLACES: &[&str] =
    &["/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin", "/sbin", "/run/wrappers/bin"];

/// Why the helper did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum FusermountError {
    /// There is none.
    #[error(
        "neither fusermount3 nor fusermount is there, and only root can mount without; install fuse3, or run as root"
    )]
    Missing,
    /// It cannot be run.
    #[error("{program}: cannot be run: {error}; install fuse3 anew, or run as root")]
    Run {
        /// The program.
        program: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// It says no.
    #[error(
        "{words} (said by {program}); run as root, or have FUSE allowed to this user: /dev/fuse, and the package fuse3"
    )]
    Refused {
        /// The program.
        program: PathBuf,
        /// What it wrote, in one line.
        words: String,
    },
    /// It takes too long.
    #[error("{program}: no answer within {} s; try again", DEADLINE.as_secs())]
    Silent {
        /// The program.
        program: PathBuf,
    },
}

impl FusermountError {
    /// It cannot unmount because somebody still uses the mount.
    pub fn is_busy(&self) -> bool {
        matches!(self, FusermountError::Refused { words, .. } if words.contains("busy"))
    }
}

/// Whether there is a helper at all.
///
/// # Errors
/// [`FusermountError::Missing`].
pub fn available() -> Result<(), FusermountError> {
    find(std::env::var_os("PATH").as_deref()).map(drop)
}

/// Mounts on `path` with `options` (as `-o` has them, commas in values escaped); returns the open `/dev/fuse`.
///
/// # Errors
/// [`FusermountError`]; nothing is mounted then.
pub fn mount(path: &Path, options: &str) -> Result<OwnedFd, FusermountError> {
    let program = find(std::env::var_os("PATH").as_deref())?;
    let run = |error: io::Error| FusermountError::Run { program: program.clone(), error };
    let (ours, its) = UnixStream::pair().map_err(run)?;
    // The child inherits its end and nothing else; ours is closed by exec.
    rustix::io::fcntl_setfd(&its, FdFlags::empty()).map_err(|e| run(e.into()))?;
    let mut command = command(&program);
    command.arg("-o").arg(options).arg("--").arg(path);
    command.env("_FUSE_COMMFD", its.as_raw_fd().to_string());
    let child = command.spawn().map_err(run)?;
    // When the child is gone, its end must be too, so that waiting for the descriptor ends.
    drop(its);
    let received = receive_fd(&ours);
    let (status, words) = finish(child, &program)?;
    match received {
        Ok(Some(fd)) if status.success() => Ok(fd),
        Ok(_) => Err(FusermountError::Refused { program, words }),
        Err(error) => Err(run(error)),
    }
}

/// Unmounts `path`.
///
/// # Errors
/// [`FusermountError::is_busy`] tells whether `lazy` would help.
pub fn unmount(path: &Path, lazy: bool) -> Result<(), FusermountError> {
    let program = find(std::env::var_os("PATH").as_deref())?;
    let mut command = command(&program);
    command.arg("-u");
    if lazy {
        command.arg("-z");
    }
    let spawned = command.arg("--").arg(path).spawn();
    let child = spawned.map_err(|error| FusermountError::Run { program: program.clone(), error })?;
    match finish(child, &program)? {
        (status, _) if status.success() => Ok(()),
        (_, words) => Err(FusermountError::Refused { program, words }),
    }
}

fn find(path: Option<&std::ffi::OsStr>) -> Result<PathBuf, FusermountError> {
    let dirs: Vec<PathBuf> = path
        .into_iter()
        .flat_map(std::env::split_paths)
        .chain(USUAL_PLACES.iter().map(PathBuf::from))
        .collect();
    let candidates = NAMES.iter().flat_map(|name| dirs.iter().map(move |dir| dir.join(name)));
    candidates.into_iter().find(|p| p.is_absolute() && p.is_file()).ok_or(FusermountError::Missing)
}

fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    // Its words are looked into, so they must be in one language.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).env("LC_ALL", "C");
    command
}

/// The descriptor that comes with the first byte; `None` when the other end closes without one.
fn receive_fd(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    socket.set_read_timeout(Some(DEADLINE))?;
    let mut byte = [0u8; 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut byte)];
    rustix::net::recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Ok(fds.next())
}

/// Waits for the child, within the deadline, and reads what it said.
fn finish(mut child: Child, program: &Path) -> Result<(ExitStatus, String), FusermountError> {
    let run = |error: io::Error| FusermountError::Run { program: program.to_owned(), error };
    let give_up = Instant::now() + DEADLINE;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(run)? {
            break status;
        }
        if Instant::now() >= give_up {
            // It is set-user-id: we may not be allowed to end it. Then it is left behind.
            let _ = child.kill();
            return Err(FusermountError::Silent { program: program.to_owned() });
        }
        thread::sleep(POLL);
    };
    let mut said = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        stderr.take(MAX_WORDS).read_to_end(&mut said).map_err(run)?;
    }
    Ok((status, one_line(&said, program, status)))
}

/// What the program wrote, in one line, without its own name in front.
fn one_line(said: &[u8], program: &Path, status: ExitStatus) -> String {
    let text = String::from_utf8_lossy(said);
    let full = format!("{}: ", program.display());
    let short = program.file_name().map(|n| format!("{}: ", n.to_string_lossy())).unwrap_or_default();
    let bare = |line| {
        let line: &str = line;
        line.strip_prefix(&*full).or_else(|| line.strip_prefix(&*short)).unwrap_or(line).trim()
    };
    let lines: Vec<&str> = text.lines().map(bare).filter(|l| !l.is_empty()).collect();
    if lines.is_empty() { format!("failed without a word ({status})") } else { lines.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::ExitStatusExt;

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

    #[test]
    fn a_descriptor_comes_over_the_socket() {
        let (ours, its) = UnixStream::pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let fds = [std::os::fd::AsFd::as_fd(&file)];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        rustix::net::sendmsg(&its, &[io::IoSlice::new(b"x")], &mut control, SendFlags::empty()).unwrap();
        let fd = receive_fd(&ours).unwrap().unwrap();
        let (a, b) = (rustix::fs::fstat(&fd).unwrap(), rustix::fs::fstat(&file).unwrap());
        assert_eq!((a.st_dev, a.st_ino), (b.st_dev, b.st_ino));
    }

    #[test]
    fn a_helper_that_goes_away_sends_none() {
        let (ours, its) = UnixStream::pair().unwrap();
        drop(its);
        assert!(receive_fd(&ours).unwrap().is_none());
    }

    #[test]
    fn the_newer_name_is_found_first_and_in_path() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("fusermount"), b"").unwrap();
        std::fs::write(dir.path().join("fusermount3"), b"").unwrap();
        assert_eq!(find(Some(dir.path().as_os_str())).unwrap(), dir.path().join("fusermount3"));
    }

    #[test]
    fn what_the_helper_says_comes_in_one_line() {
        let failed = ExitStatus::from_raw(256);
        let said = b"fusermount3: option allow_other only allowed if 'user_allow_other' is set\nmore\n";
        let line = one_line(said, Path::new("/usr/bin/fusermount3"), failed);
        assert_eq!(line, "option allow_other only allowed if 'user_allow_other' is set; more");
        let line = one_line(b"/bin/x: no\n", Path::new("/bin/x"), failed);
        assert_eq!(line, "no");
        assert!(one_line(b"", Path::new("x"), failed).contains("without a word"));
    }

    #[test]
    fn a_helper_that_refuses_is_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("helper");
        std::fs::write(&program, "#!/bin/sh\necho 'helper: /m: Device or resource busy' >&2\nexit 1\n")
            .unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let (status, words) = finish(command(&program).spawn().unwrap(), &program).unwrap();
        assert!(!status.success());
        let error = FusermountError::Refused { program, words };
        assert!(error.is_busy());
        assert!(error.to_string().contains("/m: Device or resource busy (said by "));
    }
}
