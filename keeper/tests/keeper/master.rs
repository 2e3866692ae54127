//! A master that does what a test tells it: it welcomes keepers, acknowledges heartbeats, writes down
//! all that it hears, and knows how to sign tickets.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dfs_keeper::Keeper;
use dfs_proto::error::DfsError;
use dfs_proto::ids::{ClusterId, KeeperId};
use dfs_proto::pb;
use dfs_proto::pb::keeper_service_server::{KeeperService, KeeperServiceServer};
use dfs_proto::pb::{keeper_down as down, keeper_up as up};
use dfs_proto::ticket::TicketKey;
use prost::Message;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::Stream;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

pub const CLUSTER: ClusterId = ClusterId([0xc1; 16]);
pub const CHUNK_SIZE: u32 = 8 << 20;
const SECRET: [u8; 32] = [42; 32];
const DEADLINE: Duration = Duration::from_secs(10);

type Down = mpsc::Sender<Result<pb::KeeperDown, Status>>;

#[derive(Default)]
struct Shared {
    log: Mutex<Vec<(u64, up::Msg)>>,
    sessions: Mutex<HashMap<u64, Down>>,
    last_id: Mutex<u64>,
    refusal: Mutex<Option<DfsError>>,
    mute: AtomicBool,
}

#[derive(Clone)]
struct Service(Arc<Shared>);

pub struct Master {
    shared: Arc<Shared>,
    pub address: String,
    _stop: oneshot::Sender<()>,
}

impl Master {
    pub async fn start() -> Master {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::<Shared>::default();
        let (stop, stopped) = oneshot::channel::<()>();
        let service = KeeperServiceServer::new(Service(shared.clone()));
        tokio::spawn(tonic::transport::Server::builder().serve_with_incoming_shutdown(
            service,
            TcpListenerStream::new(listener),
            async {
                let _ = stopped.await;
            },
        ));
        Master { shared, address, _stop: stop }
    }

    /// From now on every hello is refused with this.
    pub fn refuse(&self, error: DfsError) {
        *self.shared.refusal.lock().unwrap() = Some(error);
    }

    /// Stops, or begins again, to acknowledge heartbeats.
    pub fn set_mute(&self, mute: bool) {
        self.shared.mute.store(mute, Ordering::SeqCst);
    }

    pub fn break_session(&self, keeper: u64) {
        self.shared.sessions.lock().unwrap().remove(&keeper);
    }

    pub fn order(&self, keeper: u64, msg: down::Msg) {
        let session = self.shared.sessions.lock().unwrap()[&keeper].clone();
        session.try_send(Ok(pb::KeeperDown { msg: Some(msg) })).unwrap();
    }

    /// Everything that a keeper said so far.
    pub fn heard(&self, keeper: u64) -> Vec<up::Msg> {
        let log = self.shared.log.lock().unwrap();
        log.iter().filter(|(from, _)| *from == keeper).map(|(_, msg)| msg.clone()).collect()
    }

    /// Waits until a keeper has said something that `wanted` likes.
    pub async fn wait<T>(&self, what: &str, keeper: u64, wanted: impl Fn(&up::Msg) -> Option<T>) -> T {
        let begin = Instant::now();
        loop {
            if let Some(found) = self.heard(keeper).iter().find_map(&wanted) {
                return found;
            }
            assert!(begin.elapsed() < DEADLINE, "no {what} from keeper {keeper}: {:?}", self.heard(keeper));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn wait_stored(&self, keeper: u64, chunk: u64) -> pb::Stored {
        self.wait("Stored", keeper, |msg| match msg {
            up::Msg::Stored(s) if s.info.unwrap().chunk == chunk => Some(s.clone()),
            _ => None,
        })
        .await
    }

    pub async fn wait_synced(&self, keeper: u64, chunk: u64) {
        self.wait("Synced", keeper, |msg| match msg {
            up::Msg::Synced(s) if s.chunks.contains(&chunk) => Some(()),
            _ => None,
        })
        .await;
    }

    pub async fn wait_bad(&self, keeper: u64, chunk: u64) -> pb::Error {
        self.wait("BadCopy", keeper, |msg| match msg {
            up::Msg::BadCopy(bad) if bad.chunk == chunk => bad.error.clone(),
            _ => None,
        })
        .await
    }

    /// A good ticket for these keepers.
    pub fn grant(&self, op: pb::TicketOp, chunk: u64, keepers: &[&Keeper]) -> pb::Grant {
        let at: Vec<_> = keepers.iter().map(|k| (k.id().0, k.address().to_string())).collect();
        self.grant_at(op, chunk, &at, |_| ())
    }

    /// A ticket for keepers at any address, changed before it is signed.
    pub fn grant_at(
        &self,
        op: pb::TicketOp,
        chunk: u64,
        keepers: &[(u64, String)],
        change: impl Fn(&mut pb::Ticket),
    ) -> pb::Grant {
        // No two are alike, though they are made within a millisecond: each is good for one upload.
        static MADE: AtomicI64 = AtomicI64::new(0);
        let made = MADE.fetch_add(1, Ordering::Relaxed);
        let mut ticket = pb::Ticket {
            cluster: CLUSTER.short(),
            chunk,
            op: op as i32,
            keepers: keepers.iter().map(|(id, _)| *id).collect(),
            max_length: CHUNK_SIZE,
            expires_ms: pb::Time::now().as_millis() + 60_000 + made,
            nonce: 1000 + chunk,
        };
        change(&mut ticket);
        let ticket = Bytes::from(ticket.encode_to_vec());
        let share = |(id, address): &(u64, String)| pb::KeeperGrant {
            keeper: *id,
            address: address.clone(),
            mac: TicketKey::derive(&SECRET, KeeperId(*id)).sign(&ticket),
            tls: false,
        };
        pb::Grant { keepers: keepers.iter().map(share).collect(), ticket: ticket.clone() }
    }
}

/// Makes another ticket of it that allows the same: one to write is good once.
pub fn another(ticket: &mut pb::Ticket) {
    static NEXT: AtomicU64 = AtomicU64::new(1 << 32);
    ticket.nonce = NEXT.fetch_add(1, Ordering::Relaxed);
}

#[tonic::async_trait]
impl KeeperService for Service {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<pb::KeeperDown, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<pb::KeeperUp>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let mut up = request.into_inner();
        let Some(up::Msg::Hello(hello)) = up.message().await?.and_then(|m| m.msg) else {
            return Err(Status::invalid_argument("no hello"));
        };
        let (session, stream) = mpsc::channel(1024);
        let shared = self.0.clone();
        let stream: Self::SessionStream = Box::pin(ReceiverStream::new(stream));
        let say = |msg| {
            let _ = session.try_send(Ok(pb::KeeperDown { msg: Some(msg) }));
        };
        if let Some(error) = &*shared.refusal.lock().unwrap() {
            say(down::Msg::Refused(error.to_wire()));
            return Ok(Response::new(stream));
        }
        let keeper = match hello.keeper {
            0 => {
                let mut last = shared.last_id.lock().unwrap();
                *last += 1;
                *last
            }
            known => known,
        };
        say(down::Msg::Welcome(pb::KeeperWelcome {
            cluster: CLUSTER.0.to_vec().into(),
            keeper,
            key: TicketKey::derive(&SECRET, KeeperId(keeper)).to_bytes(),
            heartbeat_ms: 50,
            chunk_size: CHUNK_SIZE,
            repair_rate: 0,
            now: Some(pb::Time::now()),
        }));
        shared.log.lock().unwrap().push((keeper, up::Msg::Hello(hello)));
        // The map holds the one sender that lasts, so that taking it out ends the session.
        let weak = session.downgrade();
        shared.sessions.lock().unwrap().insert(keeper, session);
        tokio::spawn(async move {
            while let Ok(Some(message)) = up.message().await {
                let Some(session) = weak.upgrade() else { return };
                let Some(msg) = message.msg else { return };
                if let up::Msg::Heartbeat(beat) = &msg
                    && !shared.mute.load(Ordering::SeqCst)
                {
                    let ack = pb::HeartbeatAck { seq: beat.seq, now: Some(pb::Time::now()) };
                    let _ = session.try_send(Ok(pb::KeeperDown { msg: Some(down::Msg::Ack(ack)) }));
                }
                shared.log.lock().unwrap().push((keeper, msg));
            }
        });
        Ok(Response::new(stream))
    }
}
