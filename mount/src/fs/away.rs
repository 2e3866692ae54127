//! Whether what is known of open files may be shown: always while the session is whole, never while it is broken, unless the
//! master is known to be down (`client::down`): then nobody can change anything, and what was right when the session broke stays
//! right.

use std::future::pending;

use tokio::sync::watch;

use crate::client::Client;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Session {
    Whole,
    Broken,
    MasterDown,
}

/// See the module.
pub struct Away {
    client: Client,
    session: watch::Sender<Session>,
}

impl Away {
    /// With a session that is whole.
    pub fn new(client: Client) -> Away {
        Away { client, session: watch::Sender::new(Session::Whole) }
    }

    /// The session broke, or whoever was down may be back.
    pub fn lost(&self) {
        self.session.send_replace(Session::Broken);
    }

    /// The master is down.
    pub fn master_down(&self) {
        self.session.send_replace(Session::MasterDown);
    }

    /// The session is whole again.
    pub fn resumed(&self) {
        self.session.send_replace(Session::Whole);
    }

    /// Is the session broken, so that nothing can be asked?
    pub fn is_cut_off(&self) -> bool {
        *self.session.borrow() != Session::Whole
    }

    /// May what is known not be shown?
    pub fn is_in_doubt(&self) -> bool {
        let session = *self.session.borrow();
        session != Session::Whole && !self.knows(session)
    }

    /// Is the master down, so that what is known may be shown though nothing can be asked?
    pub fn knows_without_master(&self) -> bool {
        self.knows(*self.session.borrow())
    }

    fn knows(&self, session: Session) -> bool {
        session == Session::MasterDown && self.client.is_master_down()
    }

    /// Waits until that is so; maybe for ever.
    pub async fn until_known_without_master(&self) {
        let mut session = self.session.subscribe();
        // The sender lives in `self`, so that this cannot fail.
        if session.wait_for(|session| self.knows(*session)).await.is_err() {
            pending().await
        }
    }
}
