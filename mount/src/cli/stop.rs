//! Whether somebody wants a command to end: told to all who work for it, so that each can clean up.

use tokio::sync::watch;

use super::interrupted;

/// See the module. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Set by SIGINT and SIGTERM from now on.
    pub(super) fn on_signal() -> Stop {
        let (set, stop) = watch::channel(false);
        tokio::spawn(async move {
            interrupted().await;
            let _ = set.send(true);
            // For as long as anybody listens.
            set.closed().await;
        });
        Stop(stop)
    }

    pub(super) fn is_set(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns when it is set.
    pub(super) async fn wait(&self) {
        let mut stop = self.0.clone();
        if stop.wait_for(|is_set| *is_set).await.is_err() {
            // Nobody is left who could set it.
            std::future::pending::<()>().await;
        }
    }
}
