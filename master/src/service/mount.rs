//! The sessions of mounts.

use std::collections::VecDeque;
use std::pin::Pin;

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::SessionId;
use dfs_proto::pb::{self, mount_down, mount_service_server, mount_up};
use dfs_proto::request_kind::changes_files;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::auth::Asker;
use super::session::{
    End, check_version, first_message, log_end, next_message, no_hello, refuse, unavailable,
};
use crate::auth::{Gate, Watch};
use crate::core::bound::outward;
use crate::runtime::{Engine, Link, OUTBOX_CAPACITY, Stopped, may_overtake};

const WHO: &str = "mount";
/// Requests that are kept while changes have to wait. Pings and questions go past them.
const MAX_KEPT: usize = 4096;

/// The service.
pub(super) struct Mounts {
    engine: Engine,
    gate: Gate,
}

impl Mounts {
    pub fn new(engine: Engine, gate: Gate) -> Mounts {
        Mounts { engine, gate }
    }
}

#[tonic::async_trait]
impl mount_service_server::MountService for Mounts {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<pb::MountDown, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<pb::MountUp>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (down, messages) = mpsc::channel(OUTBOX_CAPACITY);
        let watch = self.gate.watch(Asker::of(&request)?.bearer);
        let (root, ids) = (watch.root(), watch.ids());
        tokio::spawn(run(self.engine.clone(), watch, request.into_inner(), down));
        let messages = ReceiverStream::new(messages).map(move |mut msg| {
            outward(&mut msg, root, &ids);
            Ok(pb::MountDown { msg: Some(msg) })
        });
        Ok(Response::new(Box::pin(messages)))
    }
}

/// One session, from its hello to its end.
async fn run(
    engine: Engine,
    mut watch: Watch,
    mut inbound: Streaming<pb::MountUp>,
    down: mpsc::Sender<mount_down::Msg>,
) {
    let Some(first) = first_message(&engine, &mut inbound).await else { return };
    let hello = match first.and_then(check_hello) {
        Ok(hello) => hello,
        Err(error) => return refuse(WHO, down, error.to_wire(), mount_down::Msg::Refused).await,
    };
    let client = hello.client.clone();
    let mut link = match engine.connect_mount(hello, (watch.root(), watch.ids()), down.clone()).await {
        Ok(Ok(link)) => link,
        Ok(Err(error)) => return refuse(WHO, down, error, mount_down::Msg::Refused).await,
        Err(stopped) => {
            return refuse(WHO, down, unavailable(stopped).to_wire(), mount_down::Msg::Refused).await;
        }
    };
    // Only the engine may hold the queue now: it ends the stream by dropping it.
    drop(down);
    let (user, root) = (watch.name().to_owned(), watch.root().0);
    tracing::info!(user, root, "session of mount {} opened by {client}", link.peer);
    let end = read(&engine, &mut watch, &mut link, &mut inbound).await;
    log_end(WHO, link.peer, &end);
    // If the engine has stopped, the session is gone with it.
    let _ = engine.disconnect_mount(link, matches!(end, End::Closed)).await;
}

fn check_hello(message: pb::MountUp) -> Result<pb::MountHello, DfsError> {
    let Some(mount_up::Msg::Hello(hello)) = message.msg else { return Err(no_hello()) };
    check_version(WHO, hello.protocol_version, &hello.version)?;
    Ok(hello)
}

async fn read(
    engine: &Engine,
    watch: &mut Watch,
    link: &mut Link<SessionId>,
    inbound: &mut Streaming<pb::MountUp>,
) -> End {
    let mut kept = VecDeque::new();
    loop {
        let message = tokio::select! {
            message = next_message(&mut link.closed, inbound, watch) => message,
            () = engine.quiet_is_over(), if !kept.is_empty() => {
                match apply(engine, link, kept.drain(..)).await {
                    Ok(()) => continue,
                    Err(Stopped) => return End::Ours,
                }
            }
        };
        let message = match message {
            Ok(message) => message,
            Err(end) => return end,
        };
        let done = match message.msg {
            Some(mount_up::Msg::Request(request)) if is_refused(watch, &request) => {
                engine.refuse_request(link, request.id, &read_only(watch))
            }
            Some(mount_up::Msg::Request(request))
                if engine.has_to_wait(&request) || !kept.is_empty() && !may_overtake(&request) =>
            {
                kept.push_back(request);
                if kept.len() < MAX_KEPT {
                    continue;
                }
                engine.quiet_is_over().await;
                apply(engine, link, kept.drain(..)).await
            }
            Some(mount_up::Msg::Request(request)) => engine.mount_request(link, request).await,
            Some(mount_up::Msg::InvalidateDone(done)) => engine.mount_acks(link, done.seqs).await,
            Some(mount_up::Msg::Ping(ping)) => engine.pong(link, ping),
            Some(mount_up::Msg::NewToken(new)) => match watch.take(&new.token) {
                Ok(()) => Ok(()),
                Err(refusal) => return End::Barred(refusal),
            },
            Some(mount_up::Msg::Hello(_)) => return End::Peer("it sent a second hello".to_owned()),
            None => return End::Peer("it sent a message that this version does not know".to_owned()),
        };
        if done.is_err() {
            return End::Ours;
        }
    }
}

/// Would it change something, and the bearer may only read?
fn is_refused(watch: &Watch, request: &pb::MountRequest) -> bool {
    watch.is_read_only() && request.op.as_ref().is_some_and(changes_files)
}

fn read_only(watch: &Watch) -> DfsError {
    let user = watch.name();
    DfsError::new(ErrorCode::ReadOnly, format!("user '{user}' may only read; ask an admin for the role rw"))
}

/// In their order.
async fn apply(
    engine: &Engine,
    link: &Link<SessionId>,
    requests: impl Iterator<Item = pb::MountRequest>,
) -> Result<(), Stopped> {
    for request in requests {
        engine.mount_request(link, request).await?;
    }
    Ok(())
}
