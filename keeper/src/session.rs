//! The keeper's session with the master: joining, heartbeats, the inventory, notices up and orders
//! down, and coming back when the stream breaks.
//!
//! What must hold: after each welcome the whole inventory goes up before any notice does, so that a
//! chunk stored meanwhile cannot be taken for missing; a session that is not acknowledged for 3 s is
//! given up, as the master gives us up then.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dfs_proto::block_sum::MAX_CHUNK_SIZE;
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::{ChunkId, ClusterId, KeeperId};
use dfs_proto::pb;
use dfs_proto::pb::keeper_service_client::KeeperServiceClient;
use dfs_proto::pb::{keeper_down as down, keeper_up as up};
use dfs_proto::ticket::{TicketChecker, TicketKey};
use dfs_proto::token_file;
use dfs_proto::{DEAD_AFTER_MS, MAX_MESSAGE_LEN, PROTOCOL_VERSION};
use dfs_tls::{Connector, grpc};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::service::Interceptor;
use tonic::transport::Endpoint;

use crate::error::KeeperError;
use crate::identity::Identity;
use crate::node::{Member, Node};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const WELCOME_TIMEOUT: Duration = Duration::from_secs(5);
const SEND_TIMEOUT: Duration = Duration::from_millis(DEAD_AFTER_MS);
const SILENCE: Duration = Duration::from_millis(DEAD_AFTER_MS);
const FAREWELL: Duration = Duration::from_millis(500);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Chunks in one page of the inventory.
const PAGE: usize = 4096;
/// Messages between us and the stream.
const STREAM_BUFFER: usize = 64;

/// Who this keeper says it is.
#[derive(Debug)]
pub(crate) struct Session {
    pub node: Arc<Node>,
    /// As the data directory has it; `None` before the first welcome.
    pub identity: Mutex<Option<Identity>>,
    /// `HOST:PORT`.
    pub master: String,
    /// With the join token; read again for each session.
    pub token_file: Option<PathBuf>,
    /// Encrypts the stream, where that is wanted.
    pub tls: Option<Connector>,
    /// Where the data port listens.
    pub listen: SocketAddr,
    /// `HOST:PORT` to advertise, if it was given.
    pub advertise: Option<String>,
    pub host: String,
    /// The other labels.
    pub labels: BTreeMap<String, String>,
}

/// An open session, after its welcome.
#[derive(Debug)]
pub(crate) struct Link {
    up: mpsc::Sender<pb::KeeperUp>,
    down: Streaming<pb::KeeperDown>,
    heartbeat: Duration,
}

impl Link {
    /// Ends the stream in order, so that the last notices arrive, and waits a moment for the master to
    /// do the same.
    async fn close(mut self) {
        drop(self.up);
        let _ = timeout(FAREWELL, async { while let Ok(Some(_)) = self.down.message().await {} }).await;
    }
}

/// An attempt to connect, or a session, failed.
#[derive(Debug)]
enum Failure {
    /// Trying again may help.
    Broken(String),
    /// The keeper cannot go on.
    Fatal(KeeperError),
    /// The keeper is shutting down.
    Stopped,
}

impl Session {
    /// The first connection: tries for `patience`.
    ///
    /// # Errors
    /// Unreachable until then, or refused.
    pub async fn join(&self, patience: Duration) -> Result<Link, KeeperError> {
        let begin = Instant::now();
        let mut pause = FIRST_PAUSE;
        let mut last = "no answer".to_owned();
        loop {
            let left = patience.saturating_sub(begin.elapsed());
            match timeout(left, self.connect()).await {
                Ok(Ok(link)) => return Ok(link),
                Ok(Err(Failure::Fatal(error))) => return Err(error),
                Ok(Err(Failure::Broken(why))) => last = why,
                Ok(Err(Failure::Stopped)) | Err(_) => {}
            }
            if begin.elapsed() + pause >= patience {
                let waited_s = begin.elapsed().as_secs_f64();
                return Err(KeeperError::Unreachable { master: self.master.clone(), why: last, waited_s });
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Serves the session and opens it again whenever it breaks, until `stop`. An error that ends the
    /// keeper goes to `failed`.
    pub async fn run(
        self,
        first: Link,
        mut stop: watch::Receiver<bool>,
        failed: watch::Sender<Option<KeeperError>>,
    ) {
        // What was found at start is synced; the master may not know of the last of it.
        let all = self.inventory().await;
        self.node.syncs.ask(all.iter().map(|info| ChunkId(info.chunk)));
        drop(all);
        let mut link = first;
        loop {
            let ended = self.serve(&mut link, &mut stop).await;
            self.node.clock.session_ended();
            self.node.outbox.session_ended();
            self.node.expected.forget_all();
            match ended {
                Failure::Stopped => return link.close().await,
                Failure::Fatal(error) => return self.fail(&failed, error),
                Failure::Broken(why) => {
                    tracing::warn!(
                        master = self.master,
                        why,
                        "session with the master broke; connecting again"
                    );
                }
            }
            match self.reconnect(&mut stop).await {
                Ok(again) => link = again,
                Err(Failure::Fatal(error)) => return self.fail(&failed, error),
                Err(_) => return,
            }
            tracing::info!(master = self.master, "session with the master is back");
        }
    }

    fn fail(&self, failed: &watch::Sender<Option<KeeperError>>, error: KeeperError) {
        tracing::error!(%error, "this keeper cannot go on");
        failed.send_replace(Some(error));
    }

    async fn reconnect(&self, stop: &mut watch::Receiver<bool>) -> Result<Link, Failure> {
        let mut pause = FIRST_PAUSE;
        let mut said = String::new();
        loop {
            let attempt = async {
                sleep(pause).await;
                self.connect().await
            };
            let result = tokio::select! {
                result = attempt => result,
                _ = stop.changed() => return Err(Failure::Stopped),
            };
            match result {
                Err(Failure::Broken(why)) if why == said => {}
                Err(Failure::Broken(why)) => {
                    tracing::info!(master = self.master, why, "no session yet");
                    said = why;
                }
                other => return other,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn connect(&self) -> Result<Link, Failure> {
        let broken = |error: &dyn Error| Failure::Broken(words(error));
        let late = |what: &str| Failure::Broken(format!("no {what} in time"));
        let endpoint = Endpoint::from_shared(format!("http://{}", self.master)).map_err(|e| broken(&e))?;
        let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true);
        let connect = async {
            match &self.tls {
                Some(tls) => grpc::connect(&endpoint, &self.master, tls).await,
                None => endpoint.connect().await,
            }
        };
        let connected = timeout(CONNECT_TIMEOUT, connect).await;
        let channel = connected.map_err(|_| late("connection"))?.map_err(|e| broken(&e))?;
        let hello = self.hello().await?;
        let (up, stream) = mpsc::channel(STREAM_BUFFER);
        send(&up, up::Msg::Hello(hello)).await?;
        let mut client = KeeperServiceClient::with_interceptor(channel, self.with_token().await?)
            .max_decoding_message_size(MAX_MESSAGE_LEN)
            .max_encoding_message_size(MAX_MESSAGE_LEN);
        let opened = timeout(WELCOME_TIMEOUT, client.session(ReceiverStream::new(stream))).await;
        let opened = opened.map_err(|_| late("session"))?;
        let mut down = opened.map_err(|status| broken_call(&status))?.into_inner();
        let answer = timeout(WELCOME_TIMEOUT, down.message()).await.map_err(|_| late("welcome"))?;
        let answer = answer.map_err(|status| broken_call(&status))?;
        match answer.and_then(|message| message.msg) {
            Some(down::Msg::Welcome(welcome)) => {
                let heartbeat = self.welcomed(welcome).await?;
                Ok(Link { up, down, heartbeat })
            }
            Some(down::Msg::Refused(error)) => Err(self.refused(DfsError::from_wire(error))),
            _ => Err(Failure::Broken("it answered something else than a welcome".to_owned())),
        }
    }

    /// What puts the join token on a call.
    async fn with_token(&self) -> Result<impl Interceptor + use<>, Failure> {
        let header = match self.token_file.clone() {
            None => None,
            Some(file) => {
                let read = tokio::task::spawn_blocking(move || token_file::read(&file)).await;
                let token =
                    read.map_err(|e| Failure::Broken(words(&e)))?.map_err(|e| Failure::Broken(words(&e)))?;
                let header = token_file::header(&token);
                Some(
                    header
                        .ok_or_else(|| Failure::Broken("what is in the token file is no token".to_owned()))?,
                )
            }
        };
        Ok(move |mut request: tonic::Request<()>| {
            if let Some(header) = &header {
                request.metadata_mut().insert(token_file::HEADER, header.clone());
            }
            Ok(request)
        })
    }

    fn identity(&self) -> Option<Identity> {
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn hello(&self) -> Result<pb::KeeperHello, Failure> {
        let dir = self.node.store.dir();
        let identity = self.identity();
        Ok(pb::KeeperHello {
            protocol_version: PROTOCOL_VERSION,
            cluster: identity.map_or_else(Vec::new, |identity| identity.cluster.0.to_vec()).into(),
            keeper: identity.map_or(0, |identity| identity.keeper.0),
            address: self.address().await?,
            data_dir: dir.path().to_string_lossy().into_owned(),
            host: self.host.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            load: Some(self.node.report_load()),
            data_tls: self.node.tls.is_some(),
            labels: self.labels.clone().into_iter().map(|(name, value)| pb::Label { name, value }).collect(),
        })
    }

    /// What to advertise. A port on every interface is known by this machine's address towards the
    /// master.
    async fn address(&self) -> Result<String, Failure> {
        if let Some(advertise) = &self.advertise {
            return Ok(advertise.clone());
        }
        if !self.listen.ip().is_unspecified() {
            return Ok(self.listen.to_string());
        }
        let probe = timeout(CONNECT_TIMEOUT, tokio::net::TcpStream::connect(&self.master)).await;
        let ours: IpAddr = probe
            .map_err(|_| Failure::Broken("no connection in time".to_owned()))?
            .and_then(|stream| stream.local_addr())
            .map_err(|error| Failure::Broken(words(&error)))?
            .ip();
        Ok(SocketAddr::new(ours, self.listen.port()).to_string())
    }

    /// Takes in a welcome; returns the period of the heartbeat.
    async fn welcomed(&self, welcome: pb::KeeperWelcome) -> Result<Duration, Failure> {
        let nonsense = || Failure::Broken("its welcome makes no sense".to_owned());
        let cluster = ClusterId::from_bytes(&welcome.cluster).ok_or_else(nonsense)?;
        let key = TicketKey::from_bytes(&welcome.key).ok_or_else(nonsense)?;
        let keeper = Some(KeeperId(welcome.keeper)).filter(|id| id.0 != 0).ok_or_else(nonsense)?;
        let dir = self.node.store.dir();
        let known = self.identity();
        if let Some(known) = known.filter(|known| known.cluster != cluster) {
            return Err(Failure::Fatal(KeeperError::WrongCluster {
                dir: dir.path().to_owned(),
                ours: known.cluster,
                theirs: cluster,
                master: self.master.clone(),
            }));
        }
        let identity = Identity { cluster, keeper };
        if known != Some(identity) {
            let node = self.node.clone();
            let written = tokio::task::spawn_blocking(move || node.store.dir().set_identity(identity)).await;
            written.map_err(|e| Failure::Broken(words(&e)))?.map_err(Failure::Fatal)?;
            *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = Some(identity);
        }
        if let Some(now) = welcome.now {
            self.node.clock.set(now);
            self.node.used.welcomed(now.as_millis());
        }
        // What a chunk file's header can hold, whatever the master says.
        let chunk_size = MAX_CHUNK_SIZE.min(welcome.chunk_size as usize);
        let checker = TicketChecker { key, cluster, keeper };
        self.node.pace.set_rate(welcome.repair_rate);
        self.node.set_member(Member { checker, chunk_size });
        Ok(Duration::from_millis(u64::from(welcome.heartbeat_ms.clamp(50, 2_000))))
    }

    fn refused(&self, error: DfsError) -> Failure {
        match error.code {
            ErrorCode::Unavailable | ErrorCode::Busy | ErrorCode::TimedOut => Failure::Broken(error.message),
            _ => Failure::Fatal(KeeperError::Refused { master: self.master.clone(), message: error.message }),
        }
    }

    async fn inventory(&self) -> Vec<pb::ChunkInfo> {
        let node = self.node.clone();
        // Cannot fail but by a panic in the closure or the end of the runtime.
        tokio::task::spawn_blocking(move || node.store.inventory()).await.unwrap_or_default()
    }

    async fn serve(&self, link: &mut Link, stop: &mut watch::Receiver<bool>) -> Failure {
        match self.serve_until_broken(link, stop).await {
            Ok(()) => Failure::Stopped,
            Err(failure) => failure,
        }
    }

    async fn serve_until_broken(
        &self,
        link: &mut Link,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<(), Failure> {
        let outbox = &self.node.outbox;
        let mut beats = Heartbeats { sent: 0, acknowledged: 0, last: Instant::now() };
        // One that was asked for on the last stream is not waited for any more.
        outbox.inventory_asked();
        self.send_inventory(link, &mut beats, 0).await?;
        outbox.session_began();
        let mut ticks = interval(link.heartbeat);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            while let Some(notice) = outbox.next(beats.sent + 1) {
                send(&link.up, notice).await?;
            }
            if outbox.is_crowded() && beats.acknowledged == beats.sent {
                self.heartbeat(link, &mut beats).await?;
            }
            if let Some(number) = outbox.inventory_asked() {
                self.send_inventory(link, &mut beats, number).await?;
            }
            tokio::select! {
                () = outbox.filled() => {}
                _ = ticks.tick() => self.heartbeat(link, &mut beats).await?,
                message = link.down.message() => self.received(message, &mut beats)?,
                () = sleep_until((beats.last + SILENCE).into()) => {
                    return Err(Failure::Broken(format!("no answer to heartbeats for {} s", SILENCE.as_secs())));
                }
                _ = stop.changed() => {
                    while let Some(notice) = outbox.next(beats.sent + 1) {
                        send(&link.up, notice).await?;
                    }
                    return Ok(());
                }
            }
        }
    }

    async fn heartbeat(&self, link: &Link, beats: &mut Heartbeats) -> Result<(), Failure> {
        beats.sent += 1;
        let load = Some(self.node.report_load());
        send(&link.up, up::Msg::Heartbeat(pb::Heartbeat { seq: beats.sent, load })).await
    }

    /// Heartbeats go on meanwhile. Their answers are read later, so the silence counts from the end.
    async fn send_inventory(&self, link: &Link, beats: &mut Heartbeats, number: u64) -> Result<(), Failure> {
        self.heartbeat(link, beats).await?;
        let mut last_beat = Instant::now();
        let all = self.inventory().await;
        let mut quarantined: Vec<u64> = self.node.store.quarantined().iter().map(|chunk| chunk.0).collect();
        let mut pages = all.chunks(PAGE).peekable();
        loop {
            let chunks = pages.next().unwrap_or_default().to_vec();
            let last = pages.peek().is_none();
            let quarantined = std::mem::take(&mut quarantined);
            let page = pb::InventoryPage { chunks, last, quarantined, number };
            send(&link.up, up::Msg::Inventory(page)).await?;
            if last_beat.elapsed() >= link.heartbeat {
                self.heartbeat(link, beats).await?;
                last_beat = Instant::now();
            }
            if last {
                beats.last = Instant::now();
                return Ok(());
            }
        }
    }

    fn received(
        &self,
        message: Result<Option<pb::KeeperDown>, tonic::Status>,
        beats: &mut Heartbeats,
    ) -> Result<(), Failure> {
        let message = message.map_err(|status| Failure::Broken(status.message().to_owned()))?;
        let message = message.ok_or_else(|| Failure::Broken("the master closed it".to_owned()))?;
        let node = &self.node;
        match message.msg {
            Some(down::Msg::Ack(ack)) => {
                beats.acknowledged = ack.seq;
                beats.last = Instant::now();
                if let Some(now) = ack.now {
                    node.clock.set(now);
                }
                node.outbox.acknowledged(ack.seq);
            }
            Some(down::Msg::Push(order)) => node.orders.push(node, order),
            Some(down::Msg::Expect(order)) => {
                let chunk = ChunkId(order.info.unwrap_or_default().chunk);
                tracing::debug!(%chunk, order = order.order, source = order.source, "a copy will come");
                node.expected.announce(order.order);
            }
            Some(down::Msg::Delete(order)) => node.orders.delete(node, order.chunks.into_iter().map(ChunkId)),
            Some(down::Msg::SendInventory(order)) => node.orders.inventory(order.number),
            Some(down::Msg::Sync(order)) => node.syncs.ask(order.chunks.into_iter().map(ChunkId)),
            Some(down::Msg::Build(order)) => node.orders.build(node, order),
            Some(down::Msg::Verify(order)) => node.orders.verify(order),
            Some(down::Msg::EmptyQuarantine(order)) => {
                node.orders.empty_quarantine(order.chunks.into_iter().map(ChunkId));
            }
            Some(down::Msg::Scrub(order)) => node.scrub.order(order.number),
            Some(down::Msg::Refused(error)) => return Err(self.refused(DfsError::from_wire(error))),
            Some(down::Msg::Welcome(_)) | None => {
                tracing::warn!("the master sent a message that has no meaning here; ignored");
            }
        }
        Ok(())
    }
}

/// Heartbeats of one session.
struct Heartbeats {
    sent: u64,
    acknowledged: u64,
    /// When the last acknowledgement came, or the session began.
    last: Instant,
}

async fn send(up: &mpsc::Sender<pb::KeeperUp>, msg: up::Msg) -> Result<(), Failure> {
    match timeout(SEND_TIMEOUT, up.send(pb::KeeperUp { msg: Some(msg) })).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Failure::Broken("the stream ended".to_owned())),
        Err(_) => Err(Failure::Broken("the master takes no messages".to_owned())),
    }
}

/// What the master said, or what broke the connection.
fn broken_call(status: &tonic::Status) -> Failure {
    match status.source() {
        Some(cause) => Failure::Broken(words(cause)),
        None => Failure::Broken(status.message().to_owned()),
    }
}

/// An error with all that caused it, in one line.
fn words(error: &dyn Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !words.contains(&text) {
            words = format!("{words}: {text}");
        }
        cause = error.source();
    }
    words
}
