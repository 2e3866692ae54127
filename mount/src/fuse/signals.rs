//! What signals the thread that made a request has been sent since. fuser 0.18.0 does not hand on FUSE_INTERRUPT, and
//! the kernel lets nobody go, not even who is killed, before the request is answered.
//!
//! As on a local disk, a program that only handles a signal waits on: few are ready for EINTR from a file. Who is
//! killed does not, nor, while the master is away and nothing could come of the wait, who is asked to end. A wait
//! for a lock is given up for any signal, as fcntl(2) has it.

use std::io;
use std::time::Duration;

/// How often a waiting thread is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// With these, programs are asked to end.
const ASKING: u64 = bit(libc::SIGHUP) | bit(libc::SIGINT) | bit(libc::SIGQUIT) | bit(libc::SIGTERM);

/// PF_EXITING of the kernel's sched.h, in the flags of proc(5)'s stat.
const EXITING: u64 = 4;

const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// What a thread was sent, the least first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Sent {
    /// Nothing that it does not block or ignore.
    Nothing,
    Signal,
    /// One that asks it to end.
    AskedToEnd,
    /// It will not come back from the call: SIGKILL is pending, as which the kernel marks every signal that ends a
    /// process; or it has been ended by one and its files are being closed.
    Killed,
}

/// Ends when a signal that is neither blocked nor ignored is pending for the thread, or when it is gone. Never,
/// when the thread cannot be seen from here (`thread` is 0).
pub async fn wait_for_signal(thread: u32) {
    wait_until(thread, |looked| match looked {
        Ok(sent) => sent > Sent::Nothing,
        Err(error) => error.kind() != io::ErrorKind::PermissionDenied,
    })
    .await;
}

/// Ends when the thread is killed, or is asked to end while `is_cut_off`. Never, when it cannot be seen from here:
/// one that is gone waits for nothing, though what it asked for may be on its way.
pub async fn wait_for_end(thread: u32, is_cut_off: impl Fn() -> bool) {
    wait_until(thread, |looked| match looked {
        Ok(sent) => sent == Sent::Killed || sent == Sent::AskedToEnd && is_cut_off(),
        Err(_) => false,
    })
    .await;
}

async fn wait_until(thread: u32, ended: impl Fn(io::Result<Sent>) -> bool) {
    if thread == 0 {
        std::future::pending::<()>().await;
    }
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let looked = tokio::task::spawn_blocking(move || look(thread)).await;
        if ended(looked.unwrap_or_else(|stopped| Err(io::Error::other(stopped)))) {
            return;
        }
    }
}

fn look(thread: u32) -> io::Result<Sent> {
    let sent = pending(&std::fs::read_to_string(format!("/proc/{thread}/status"))?);
    if sent == Sent::Killed || !was_ended(&std::fs::read_to_string(format!("/proc/{thread}/stat"))?) {
        return Ok(sent);
    }
    Ok(Sent::Killed)
}

/// From the text of proc(5)'s status.
fn pending(status: &str) -> Sent {
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
    };
    let sent = (mask("SigPnd:") | mask("ShdPnd:")) & !(mask("SigBlk:") | mask("SigIgn:"));
    if sent & bit(libc::SIGKILL) != 0 {
        Sent::Killed
    } else if sent & ASKING != 0 {
        Sent::AskedToEnd
    } else if sent != 0 {
        Sent::Signal
    } else {
        Sent::Nothing
    }
}

/// Is the thread on its way out, and not of its own will? From the text of proc(5)'s stat: flags and exit code, the
/// last of which only who may trace the process is shown.
fn was_ended(stat: &str) -> bool {
    let Some((_, fields)) = stat.rsplit_once(") ") else { return false };
    let field = |number: usize| {
        let text = fields.split_whitespace().nth(number - 3);
        text.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0)
    };
    field(9) & EXITING != 0 && field(52) & 0x7f != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(pending: &str, shared: &str, blocked: &str) -> Sent {
        super::pending(&format!(
            "Name:\tx\nSigPnd:\t{pending}\nShdPnd:\t{shared}\nSigBlk:\t{blocked}\nSigIgn:\t0000000000001000\n"
        ))
    }

    #[test]
    fn a_pending_signal_counts_unless_blocked_or_ignored() {
        assert_eq!(status("0", "0", "0"), Sent::Nothing);
        assert_eq!(status("0000000000000200", "0", "0"), Sent::Signal);
        assert_eq!(status("0", "0000000000000002", "0"), Sent::AskedToEnd);
        assert_eq!(status("0", "0000000000000002", "0000000000000002"), Sent::Nothing);
        assert_eq!(status("0", "0000000000001000", "0"), Sent::Nothing);
        assert_eq!(status("0000000000000100", "0000000000000002", "0"), Sent::Killed);
    }

    #[test]
    fn who_was_ended_is_told_from_who_ends_by_itself() {
        let stat = |flags: u64, code: u64| {
            let zeroes = |n: usize| vec!["0"; n].join(" ");
            format!("7 (a (b) c) D {} {flags} {} {code}\n", zeroes(5), zeroes(42))
        };
        assert!(was_ended(&stat(0x40_0004, 9)));
        assert!(was_ended(&stat(EXITING, 0x80 | 11)));
        assert!(!was_ended(&stat(EXITING, 0)));
        assert!(!was_ended(&stat(EXITING, 3 << 8)));
        assert!(!was_ended(&stat(0x40_0000, 9)));
        assert!(!was_ended("nonsense"));
    }
}
