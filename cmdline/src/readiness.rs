//! What the service manager is told (sd_notify(3)), if there is one: nothing is said where NOTIFY_SOCKET is not set.

use sd_notify::NotifyState;

/// The program does what it is there for; `status` is what `systemctl status` shows.
pub fn ready(status: &str) {
    say(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// It ends, in its own time.
pub fn stopping() {
    say(&[NotifyState::Stopping]);
}

/// That nobody hears it stops nothing.
fn say(states: &[NotifyState<'_>]) {
    // The variable stays: taking it away is not sound while other threads read the environment, and children of ours do
    // not notify.
    let _ = sd_notify::notify(false, states);
}
