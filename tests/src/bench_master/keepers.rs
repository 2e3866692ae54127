//! Simulated keepers: a session each, over a connection of its own. They join, say which chunks they have, heartbeat each
//! second, and do at once what they are told, without a byte.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dfs_proto::PROTOCOL_VERSION;
use dfs_proto::pb::keeper_service_client::KeeperServiceClient;
use dfs_proto::pb::{self, keeper_down, keeper_up};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::fill::{CLUSTER, address, data_dir, host};
use super::tree::Tree;
use super::{ANSWER_DEADLINE, long_deadline};

const HEARTBEAT: Duration = Duration::from_secs(1);
/// As real ones.
const PAGE: usize = 4096;
/// That connect at once.
const CONNECTING: usize = 64;
/// That say at once what they have.
const AT_ONCE: usize = 8;
const QUEUE: usize = 64;

type Up = mpsc::Sender<pb::KeeperUp>;

/// All of them. They end with this.
pub struct Keepers {
    up: BTreeMap<u64, Up>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Keepers {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Keepers {
    /// Has all of them join, and returns when the master has taken in what they have.
    ///
    /// # Panics
    /// When that takes too long, or one is refused.
    pub async fn join(tree: &Tree, url: &str) -> Keepers {
        let (may_tell, mut has) = (Arc::new(Semaphore::new(0)), tree.files_by_keeper());
        let (done, mut all_done) = mpsc::channel(tree.keepers as usize);
        let mut keepers = Keepers { up: BTreeMap::new(), tasks: Vec::new() };
        // First all say hello, as they do within seconds after the master has started: it would have what those that
        // are not there yet have copied.
        let may_connect = Arc::new(Semaphore::new(CONNECTING));
        for id in 1..=tree.keepers {
            let (up, messages) = mpsc::channel(QUEUE);
            let files = std::mem::take(&mut has[id as usize]);
            let (tree, url) = (tree.clone(), url.to_owned());
            let chunks = files.into_iter().map(move |file| tree.chunk(u64::from(file)));
            let (may_connect, may_tell, done) = (may_connect.clone(), may_tell.clone(), done.clone());
            keepers.up.insert(id, up.clone());
            keepers.tasks.push(tokio::spawn(async move {
                let connecting = may_connect.acquire().await;
                let down = connect(&url, id, &up, messages).await;
                drop(connecting);
                let _ = done.send(()).await;
                Keeper { up, down, seq: 0 }.live(chunks, may_tell, done).await;
            }));
        }
        drop(done);
        keepers.wait_for_all("connect", &mut all_done, tree.files).await;
        may_tell.add_permits(AT_ONCE);
        keepers.wait_for_all("say what they have", &mut all_done, tree.files).await;
        keepers
    }

    /// Until each has said once that it has done that.
    async fn wait_for_all(&self, what: &str, done: &mut mpsc::Receiver<()>, files: u64) {
        let (begun, limit) = (Instant::now(), long_deadline(files));
        let mut left = self.tasks.len();
        while left > 0 {
            self.check();
            assert!(begun.elapsed() < limit, "{left} keepers did not {what} within {limit:?}");
            if let Ok(heard) = tokio::time::timeout(HEARTBEAT, done.recv()).await {
                left -= usize::from(heard.is_some());
            }
        }
    }

    /// Is every session as it should be?
    ///
    /// # Panics
    /// When not.
    pub fn check(&self) {
        let ended = self.tasks.iter().filter(|task| task.is_finished()).count();
        assert_eq!(ended, 0, "so many of {} keepers' sessions have ended", self.tasks.len());
    }

    /// Says for a keeper that the upload that this grant allows is stored, on all keepers that it names.
    pub async fn store(&self, grant: &pb::Grant, ticket: &pb::Ticket, length: u32) {
        let keepers: Vec<u64> = grant.keepers.iter().map(|grant| grant.keeper).collect();
        let info = pb::ChunkInfo { chunk: ticket.chunk, length, checksum: 1 };
        let stored = pb::Stored {
            info: Some(info),
            nonce: ticket.nonce,
            synced: true,
            failed: Vec::new(),
            keepers: keepers.clone(),
        };
        send(&self.up[&keepers[0]], keeper_up::Msg::Stored(stored)).await;
    }
}

async fn send(up: &Up, msg: keeper_up::Msg) {
    let sent = tokio::time::timeout(ANSWER_DEADLINE, up.send(pb::KeeperUp { msg: Some(msg) })).await;
    assert!(matches!(sent, Ok(Ok(()))), "the master does not take what a keeper says: {sent:?}");
}

/// Says hello; returns when the answer is there.
async fn connect(
    url: &str,
    id: u64,
    up: &Up,
    messages: mpsc::Receiver<pb::KeeperUp>,
) -> Streaming<pb::KeeperDown> {
    let hello = pb::KeeperHello {
        protocol_version: PROTOCOL_VERSION,
        cluster: CLUSTER.0.to_vec().into(),
        keeper: id,
        address: address(id),
        data_dir: data_dir(id),
        host: host(id),
        version: "0".to_owned(),
        load: Some(load()),
        data_tls: false,
        labels: Vec::new(),
    };
    let joining = async {
        let mut client = KeeperServiceClient::connect(url.to_owned()).await.unwrap();
        send(up, keeper_up::Msg::Hello(hello)).await;
        let mut down = client.session(ReceiverStream::new(messages)).await.unwrap().into_inner();
        match down.message().await.unwrap().and_then(|down| down.msg) {
            Some(keeper_down::Msg::Welcome(_)) => down,
            other => panic!("keeper {id} is not welcome: {other:?}"),
        }
    };
    tokio::time::timeout(ANSWER_DEADLINE, joining).await.unwrap_or_else(|_| panic!("keeper {id}: no answer"))
}

fn load() -> pb::Load {
    pb::Load { total: 1 << 44, free: 1 << 43, used: 1 << 43, ..pb::Load::default() }
}

struct Keeper {
    up: Up,
    down: Streaming<pb::KeeperDown>,
    seq: u64,
}

impl Keeper {
    /// Says what it has when it is its turn, and tells `joined` when the master has heard all of it.
    async fn live(
        mut self,
        mut chunks: impl Iterator<Item = pb::ChunkInfo>,
        may_tell: Arc<Semaphore>,
        joined: mpsc::Sender<()>,
    ) {
        let mut beats = tokio::time::interval(HEARTBEAT);
        let mut told_with = None;
        let mut joined = Some(joined);
        let mut turn = pin!(may_tell.acquire_owned());
        let mut permit = None;
        loop {
            tokio::select! {
                _ = beats.tick() => self.beat().await,
                got = &mut turn, if permit.is_none() && told_with.is_none() => permit = got.ok(),
                () = std::future::ready(()), if permit.is_some() && told_with.is_none() => {
                    if self.tell(&mut chunks).await {
                        self.beat().await;
                        told_with = Some(self.seq);
                    }
                }
                down = self.down.message() => {
                    let heard = self.obey(down.ok().flatten()).await;
                    if told_with.is_some() && heard >= told_with {
                        permit = None;
                        if let Some(joined) = joined.take() {
                            let _ = joined.send(()).await;
                        }
                    }
                }
            }
        }
    }

    async fn beat(&mut self) {
        self.seq += 1;
        let beat = pb::Heartbeat { seq: self.seq, load: Some(load()) };
        send(&self.up, keeper_up::Msg::Heartbeat(beat)).await;
    }

    /// The next page of what it has. Was it the last?
    async fn tell(&mut self, chunks: &mut impl Iterator<Item = pb::ChunkInfo>) -> bool {
        let page: Vec<pb::ChunkInfo> = chunks.take(PAGE).collect();
        let last = page.len() < PAGE;
        let page = pb::InventoryPage { chunks: page, last, ..pb::InventoryPage::default() };
        send(&self.up, keeper_up::Msg::Inventory(page)).await;
        last
    }

    /// The number of the heartbeat, if that was what the master answered.
    async fn obey(&mut self, down: Option<pb::KeeperDown>) -> Option<u64> {
        match down.and_then(|down| down.msg) {
            Some(keeper_down::Msg::Ack(ack)) => return Some(ack.seq),
            Some(keeper_down::Msg::Expect(expect)) => {
                let copied = pb::Copied { info: expect.info, order: expect.order };
                send(&self.up, keeper_up::Msg::Copied(copied)).await;
            }
            Some(keeper_down::Msg::Sync(sync)) => {
                send(&self.up, keeper_up::Msg::Synced(pb::Synced { chunks: sync.chunks })).await;
            }
            Some(_) => {}
            None => panic!("the master has ended a keeper's session"),
        }
        None
    }
}
