//! The sessions of keepers.

use std::pin::Pin;

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::{ClusterId, KeeperId};
use dfs_proto::pb::{self, keeper_down, keeper_service_server, keeper_up};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::auth::Asker;
use super::session::{
    End, check_version, first_message, log_end, next_message, no_hello, refuse, unavailable,
};
use crate::auth::{Gate, Watch};
use crate::runtime::{Engine, Link, OUTBOX_CAPACITY};

const WHO: &str = "keeper";

/// The service.
pub(super) struct Keepers {
    engine: Engine,
    gate: Gate,
    cluster: ClusterId,
}

impl Keepers {
    pub fn new(engine: Engine, gate: Gate, cluster: ClusterId) -> Keepers {
        Keepers { engine, gate, cluster }
    }
}

#[tonic::async_trait]
impl keeper_service_server::KeeperService for Keepers {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<pb::KeeperDown, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<pb::KeeperUp>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (down, messages) = mpsc::channel(OUTBOX_CAPACITY);
        let watch = self.gate.watch(Asker::of(&request)?.bearer);
        tokio::spawn(run(self.engine.clone(), watch, self.cluster, request.into_inner(), down));
        let messages = ReceiverStream::new(messages).map(|msg| Ok(pb::KeeperDown { msg: Some(msg) }));
        Ok(Response::new(Box::pin(messages)))
    }
}

/// One session, from its hello to its end.
async fn run(
    engine: Engine,
    mut watch: Watch,
    cluster: ClusterId,
    mut inbound: Streaming<pb::KeeperUp>,
    down: mpsc::Sender<keeper_down::Msg>,
) {
    let Some(first) = first_message(&engine, &mut inbound).await else { return };
    let hello = match first.and_then(|message| check_hello(cluster, message)) {
        Ok(hello) => hello,
        Err(error) => return refuse(WHO, down, error.to_wire(), keeper_down::Msg::Refused).await,
    };
    let (address, data_dir) = (hello.address.clone(), hello.data_dir.clone());
    let mut link = match engine.connect_keeper(hello, down.clone()).await {
        Ok(Ok(link)) => link,
        Ok(Err(error)) => return refuse(WHO, down, error, keeper_down::Msg::Refused).await,
        Err(stopped) => {
            return refuse(WHO, down, unavailable(stopped).to_wire(), keeper_down::Msg::Refused).await;
        }
    };
    // Only the engine may hold the queue now: it ends the stream by dropping it.
    drop(down);
    tracing::info!("session of keeper {} opened: {address}, {data_dir}", link.peer);
    let end = read(&engine, &mut watch, &mut link, &mut inbound).await;
    log_end(WHO, link.peer, &end);
    // If the engine has stopped, the session is gone with it.
    let _ = engine.disconnect_keeper(link).await;
}

fn check_hello(cluster: ClusterId, message: pb::KeeperUp) -> Result<pb::KeeperHello, DfsError> {
    let Some(keeper_up::Msg::Hello(hello)) = message.msg else { return Err(no_hello()) };
    check_version(WHO, hello.protocol_version, &hello.version)?;
    if hello.cluster.is_empty() || ClusterId::from_bytes(&hello.cluster) == Some(cluster) {
        return Ok(hello);
    }
    let theirs = match ClusterId::from_bytes(&hello.cluster) {
        Some(theirs) => theirs.to_string(),
        None => format!("(an id of {} bytes)", hello.cluster.len()),
    };
    Err(DfsError::new(
        ErrorCode::WrongCluster,
        format!(
            "data directory {}: it belongs to cluster {theirs}, and this master serves cluster {cluster}; \
             point the keeper at the master of its cluster, or give it an empty data directory",
            hello.data_dir
        ),
    ))
}

async fn read(
    engine: &Engine,
    watch: &mut Watch,
    link: &mut Link<KeeperId>,
    inbound: &mut Streaming<pb::KeeperUp>,
) -> End {
    loop {
        let message = match next_message(&mut link.closed, inbound, watch).await {
            Ok(message) => message,
            Err(end) => return end,
        };
        let done = match message.msg {
            Some(keeper_up::Msg::Hello(_)) => return End::Peer("it sent a second hello".to_owned()),
            Some(msg) => engine.keeper_message(link, msg).await,
            None => return End::Peer("it sent a message that this version does not know".to_owned()),
        };
        if done.is_err() {
            return End::Ours;
        }
    }
}
