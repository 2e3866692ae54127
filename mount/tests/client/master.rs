//! A master that does as the test says.

use std::sync::{Arc, Mutex};

use dfs_mount::client::{Client, ClientConfig, Event};
use dfs_proto::pb::mount_down::Msg as Down;
use dfs_proto::pb::mount_reply::Result as Reply;
use dfs_proto::pb::mount_request::Op;
use dfs_proto::pb::mount_service_server::{MountService, MountServiceServer};
use dfs_proto::pb::mount_up::Msg as Up;
use dfs_proto::{error::DfsError, pb};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

type Sender = mpsc::Sender<Result<pb::MountDown, Status>>;
type Answer = Box<dyn Fn(&Op) -> Option<Reply> + Send>;

pub(crate) struct Script {
    /// What a request is answered with at once; `None`: not at all.
    pub(crate) answer: Answer,
    pub(crate) epoch: u64,
    /// Knows sessions of earlier streams.
    pub(crate) remembers: bool,
    /// Says nothing more, not even pongs.
    pub(crate) mute: bool,
    pub(crate) refuse: Option<DfsError>,
    pub(crate) hellos: Vec<pb::MountHello>,
    pub(crate) requests: Vec<pb::MountRequest>,
    down: Option<Sender>,
}

#[derive(Clone)]
pub(crate) struct Master {
    pub(crate) address: String,
    script: Arc<Mutex<Script>>,
}

impl Master {
    pub(crate) async fn start(answer: impl Fn(&Op) -> Option<Reply> + Send + 'static) -> Master {
        let script = Arc::new(Mutex::new(Script {
            answer: Box::new(answer),
            epoch: 1,
            remembers: true,
            mute: false,
            refuse: None,
            hellos: Vec::new(),
            requests: Vec::new(),
            down: None,
        }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let service = MountServiceServer::new(Service(script.clone()));
        let incoming = TcpListenerStream::new(listener);
        tokio::spawn(tonic::transport::Server::builder().serve_with_incoming(service, incoming));
        Master { address, script }
    }

    pub(crate) fn config(&self) -> ClientConfig {
        ClientConfig::new(&self.address, "test")
    }

    pub(crate) async fn connect(&self) -> (Client, mpsc::Receiver<Event>) {
        Client::connect(self.config()).await.unwrap()
    }

    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut Script) -> T) -> T {
        change(&mut self.script.lock().unwrap())
    }

    pub(crate) fn push(&self, msg: Down) {
        let down = self.with(|script| script.down.clone()).unwrap();
        down.try_send(Ok(pb::MountDown { msg: Some(msg) })).unwrap();
    }

    pub(crate) fn reply(&self, id: u64, result: Reply) {
        self.push(Down::Reply(pb::MountReply { id, result: Some(result), ..Default::default() }));
    }

    pub(crate) fn break_stream(&self) {
        let down = self.with(|script| script.down.take()).unwrap();
        down.try_send(Err(Status::unavailable("broken by the test"))).unwrap();
    }

    /// Requests so far for which `which` says yes.
    pub(crate) fn count(&self, which: impl Fn(&Op) -> bool) -> usize {
        self.with(|script| script.requests.iter().filter(|r| r.op.as_ref().is_some_and(&which)).count())
    }

    /// (chunk, keeper) of each report of a bad copy.
    pub(crate) fn reports(&self) -> Vec<(u64, u64)> {
        self.with(|script| {
            let ops = script.requests.iter().filter_map(|request| request.op.as_ref());
            ops.filter_map(
                |op| if let Op::ReportBad(bad) = op { Some((bad.chunk, bad.keeper)) } else { None },
            )
            .collect()
        })
    }
}

struct Service(Arc<Mutex<Script>>);

#[tonic::async_trait]
impl MountService for Service {
    type SessionStream = ReceiverStream<Result<pb::MountDown, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<pb::MountUp>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let mut up = request.into_inner();
        let (down, stream) = mpsc::channel(4096);
        let script = self.0.clone();
        tokio::spawn(async move {
            while let Ok(Some(message)) = up.message().await {
                if let Some(msg) = take(&script, message, &down) {
                    let _ = down.try_send(Ok(pb::MountDown { msg: Some(msg) }));
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

fn take(script: &Mutex<Script>, message: pb::MountUp, down: &Sender) -> Option<Down> {
    let mut script = script.lock().unwrap();
    if script.mute && !matches!(message.msg, Some(Up::Hello(_))) {
        return None;
    }
    match message.msg? {
        // Nobody asks who anybody is here.
        Up::NewToken(_) => None,
        Up::Hello(hello) => {
            if let Some(error) = &script.refuse {
                return Some(Down::Refused(error.to_wire()));
            }
            let resumed = hello.session != 0 && script.remembers;
            script.hellos.push(hello.clone());
            script.down = Some(down.clone());
            Some(Down::Welcome(pb::MountWelcome {
                cluster: vec![7; 16].into(),
                session: if resumed { hello.session } else { 100 + script.hellos.len() as u64 },
                master_epoch: script.epoch,
                chunk_size: 8 << 20,
                copies: 3,
                min_copies: 2,
                now: Some(pb::Time::now()),
                resumed,
                lost_locks: Vec::new(),
                interest_ms: 40_000,
                maps_ids: false,
                all_are_one: false,
            }))
        }
        Up::InvalidateDone(_) => None,
        Up::Ping(ping) => Some(Down::Pong(pb::Pong { seq: ping.seq, now: Some(pb::Time::now()) })),
        Up::Request(request) => {
            script.requests.push(request.clone());
            let result = (script.answer)(request.op.as_ref()?)?;
            Some(Down::Reply(pb::MountReply { id: request.id, result: Some(result), ..Default::default() }))
        }
    }
}
