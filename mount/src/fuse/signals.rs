//! Whether the thread that made a request has been sent a signal since. fuser 0.18.0 does not hand on
//! FUSE_INTERRUPT, and a thread that waits for a lock must be able to give up, or be killed.

use std::time::Duration;

/// How often a waiting thread is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Ends when a signal that is neither blocked nor ignored is pending for the thread, or when it is gone. Never,
/// when the thread cannot be seen from here (`thread` is 0).
pub async fn wait_for_signal(thread: u32) {
    if thread == 0 {
        std::future::pending::<()>().await;
    }
    let path = format!("/proc/{thread}/status");
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let path = path.clone();
        let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(path)).await;
        match read.unwrap_or_else(|stopped| Err(std::io::Error::other(stopped))) {
            Ok(status) if !is_signalled(&status) => {}
            Ok(_) => return,
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {}
            Err(_) => return,
        }
    }
}

/// From the text of proc(5)'s status.
fn is_signalled(status: &str) -> bool {
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
    };
    let pending = mask("SigPnd:") | mask("ShdPnd:");
    pending & !(mask("SigBlk:") | mask("SigIgn:")) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pending_signal_counts_unless_blocked_or_ignored() {
        let status = |pending: &str, shared: &str, blocked: &str| {
            format!(
                "Name:\tx\nSigPnd:\t{pending}\nShdPnd:\t{shared}\nSigBlk:\t{blocked}\nSigIgn:\t0000000000001000\n"
            )
        };
        assert!(!is_signalled(&status("0", "0", "0")));
        assert!(is_signalled(&status("0000000000000100", "0", "0")));
        assert!(is_signalled(&status("0", "0000000000000002", "0")));
        assert!(!is_signalled(&status("0", "0000000000000002", "0000000000000002")));
        assert!(!is_signalled(&status("0", "0000000000001000", "0")));
    }
}
