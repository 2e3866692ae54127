//! Is the master down? A connection that its host *refuses* says so: nobody listens there, so nobody can change anything,
//! and what is known of open files stays right. Silence says nothing: this mount may be cut off from a master that lives.
//!
//! What must hold: down is believed only when
//!
//! - the stream ended while what was cached could still be trusted, and the first refusal came within that time: a master that
//!   takes this mount for gone waits longer before it lets anybody change what the mount knows;
//! - every look since then was refused, by each of the addresses that the master's name has at that moment, with less than
//!   [`REFUSAL_GOOD_FOR`] between two of them.
//!
//! It ends for good, until the session is whole, at the first look after a refusal that finds somebody there, or when looks that find
//! nothing out last for longer than that. (Before the first refusal, somebody there may be the master whose end is under way.) A master that starts
//! takes no change until then ([`dfs_proto::looks`]).

use std::io::ErrorKind;
use std::sync::Mutex;
use std::time::Instant;

use dfs_proto::looks::{LOOK_WITHIN, REFUSAL_GOOD_FOR};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::mpsc;

use super::Event;
use super::session::insist;
use crate::lock::lock;

#[derive(Clone, Copy)]
struct Refused {
    /// When the session broke.
    broke_at: Instant,
    /// Beginning of the last look.
    looked_at: Instant,
}

/// What is known now.
#[derive(Default)]
pub(super) struct Down(Mutex<Option<Refused>>);

impl Down {
    fn now(&self) -> Option<Refused> {
        (*lock(&self.0)).filter(|refused| refused.looked_at.elapsed() < REFUSAL_GOOD_FOR)
    }

    pub(super) fn is_down(&self) -> bool {
        self.now().is_some()
    }

    /// While the master is down, when it went.
    pub(super) fn since(&self) -> Option<Instant> {
        self.now().map(|refused| refused.broke_at)
    }
}

/// What a look says of the master.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Seen {
    /// It is down.
    Down,
    /// Nothing: look again.
    Nothing,
    /// It may be there: ask it.
    Unknown,
}

/// The looks of one break of the session.
pub(super) struct Vigil<'a> {
    master: &'a str,
    down: &'a Down,
    events: &'a mpsc::Sender<Event>,
    broke_at: Instant,
    /// The next refusal counts until then; `None`: none does any more.
    open_until: Option<Instant>,
}

impl<'a> Vigil<'a> {
    /// `trusted_until`: until when nothing can have changed without a word to this mount.
    pub(super) fn new(
        master: &'a str,
        down: &'a Down,
        events: &'a mpsc::Sender<Event>,
        trusted_until: Option<Instant>,
    ) -> Vigil<'a> {
        Vigil { master, down, events, broke_at: Instant::now(), open_until: trusted_until }
    }

    /// Looks once more. Says what is new of that.
    pub(super) async fn look(&mut self) -> Seen {
        let Some(open_until) = self.open_until else { return Seen::Unknown };
        let looked_at = Instant::now();
        let look = look(self.master).await;
        let in_time = Instant::now() <= open_until;
        let before = *lock(&self.down.0);
        let (now, open_until, seen) = match look {
            Look::Refused if in_time => {
                let refused = Refused { broke_at: self.broke_at, looked_at };
                (Some(refused), Some(looked_at + REFUSAL_GOOD_FOR), Seen::Down)
            }
            // A machine that is busy may not get to it.
            Look::Silent if in_time => (before, Some(open_until), Seen::Nothing),
            Look::There if in_time && before.is_none() => (None, Some(open_until), Seen::Unknown),
            Look::Refused | Look::Silent | Look::There => (None, None, Seen::Unknown),
        };
        self.open_until = open_until;
        *lock(&self.down.0) = now;
        if now.is_some() && before.is_none() {
            tracing::info!(
                master = self.master,
                "nobody listens there: reads of open files go on with what is known"
            );
            insist(self.events, Event::MasterDown).await;
        } else if now.is_none() && before.is_some() {
            insist(self.events, Event::MasterMayBeBack).await;
        }
        seen
    }
}

/// Whoever waits for a look may go away: what was believed ends with it.
impl Drop for Vigil<'_> {
    fn drop(&mut self) {
        *lock(&self.down.0) = None;
    }
}

/// What one look found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Look {
    /// All addresses refuse a connection.
    Refused,
    /// Somebody listens at one of them.
    There,
    /// Neither can be said.
    Silent,
}

async fn look(master: &str) -> Look {
    let look = async {
        let Ok(addresses) = lookup_host(master).await else { return Look::Silent };
        let mut found = Look::Silent;
        for address in addresses {
            match TcpStream::connect(address).await {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => found = Look::Refused,
                Ok(_) => return Look::There,
                Err(_) => return Look::Silent,
            }
        }
        found
    };
    tokio::time::timeout(LOOK_WITHIN, look).await.unwrap_or(Look::Silent)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn soon() -> Option<Instant> {
        Some(Instant::now() + Duration::from_secs(3))
    }

    async fn listener() -> (tokio::net::TcpListener, String) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        (listener, address)
    }

    #[tokio::test]
    async fn who_is_refused_again_and_again_says_that_the_master_is_down_until_he_is_not() {
        let (listening, master) = listener().await;
        drop(listening);
        let (events, mut said) = mpsc::channel(5);
        let down = Down::default();
        let mut vigil = Vigil::new(&master, &down, &events, soon());
        assert!(!down.is_down());
        assert_eq!((vigil.look().await, vigil.look().await), (Seen::Down, Seen::Down));
        assert!(down.is_down());
        assert_eq!(said.try_recv(), Ok(Event::MasterDown));
        assert!(said.try_recv().is_err(), "once");
        let listening = tokio::net::TcpListener::bind(&master).await.unwrap();
        assert!(vigil.look().await == Seen::Unknown && !down.is_down());
        assert_eq!(said.try_recv(), Ok(Event::MasterMayBeBack));
        drop(listening);
        assert!(vigil.look().await == Seen::Unknown && !down.is_down(), "it may have taken changes");
        assert!(said.try_recv().is_err());
    }

    #[tokio::test]
    async fn who_is_there_before_the_first_refusal_may_be_on_the_way_out() {
        let (listening, master) = listener().await;
        let (events, _said) = mpsc::channel(5);
        let down = Down::default();
        let mut vigil = Vigil::new(&master, &down, &events, soon());
        assert_eq!(vigil.look().await, Seen::Unknown);
        drop(listening);
        assert_eq!(vigil.look().await, Seen::Down);
    }

    #[tokio::test]
    async fn a_refusal_says_nothing_to_who_was_cut_off_before_or_looked_away() {
        let (listening, master) = listener().await;
        drop(listening);
        let (events, mut said) = mpsc::channel(5);
        let down = Down::default();
        for until in [None, Instant::now().checked_sub(Duration::from_millis(1))] {
            assert_eq!(Vigil::new(&master, &down, &events, until).look().await, Seen::Unknown);
        }
        assert!(said.try_recv().is_err());
        let mut vigil = Vigil::new(&master, &down, &events, soon());
        assert_eq!(vigil.look().await, Seen::Down);
        tokio::time::sleep(REFUSAL_GOOD_FOR).await;
        assert!(!down.is_down(), "it is too old");
        assert_eq!(vigil.look().await, Seen::Unknown);
        assert_eq!(said.try_recv(), Ok(Event::MasterDown));
        assert_eq!(said.try_recv(), Ok(Event::MasterMayBeBack));
    }

    #[tokio::test]
    async fn silence_is_no_refusal() {
        // Whoever has no room for another connection does not answer.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listening = socket.listen(1).unwrap();
        let address = listening.local_addr().unwrap();
        let mut there = Vec::new();
        while let Ok(stream) =
            tokio::time::timeout(Duration::from_millis(100), TcpStream::connect(address)).await
        {
            there.push(stream);
        }
        let master = address.to_string();
        assert_eq!(look(&master).await, Look::Silent);
        assert_eq!(look("no address").await, Look::Silent);
        // It says nothing, neither for nor against, as long as the time that is open for it lasts.
        let (events, _said) = mpsc::channel(5);
        let down = Down::default();
        let mut vigil = Vigil::new(&master, &down, &events, soon());
        assert!(vigil.look().await == Seen::Nothing && vigil.open_until.is_some());
        vigil.open_until = Instant::now().checked_sub(Duration::from_millis(1));
        assert!(vigil.look().await == Seen::Unknown && vigil.open_until.is_none());
    }
}
