//! The beginning of a stream to the master: hello and welcome.

use std::time::{Duration, Instant};

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::{ClusterId, SessionId};
use dfs_proto::pb::mount_service_client::MountServiceClient;
use dfs_proto::pb::{mount_down, mount_up};
use dfs_proto::{MAX_MESSAGE_LEN, PROTOCOL_VERSION, pb};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::session::{BACKOFF_FIRST, BACKOFF_LAST};
use super::{ClientConfig, channel};

/// Messages between the session and gRPC's own buffers.
const UP_QUEUE: usize = 64;

/// A stream whose welcome has come.
pub(super) struct Link {
    pub up: mpsc::Sender<pb::MountUp>,
    pub down: tonic::Streaming<pb::MountDown>,
    pub welcome: pb::MountWelcome,
    pub cluster: ClusterId,
    pub came_at: Instant,
    pub round_trip: Duration,
}

/// Tries until `connect_timeout`: the master may just be starting.
pub(super) async fn first_link(config: &ClientConfig) -> Result<Link, DfsError> {
    let deadline = Instant::now() + config.connect_timeout;
    let hello = hello(config, SessionId(0), Vec::new(), Vec::new());
    let mut backoff = BACKOFF_FIRST;
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let error = match connect(config, hello.clone(), left).await {
            Ok(link) => return Ok(link),
            Err(error) => error,
        };
        let again = matches!(error.code, ErrorCode::Unavailable | ErrorCode::TimedOut | ErrorCode::Busy);
        if !again || Instant::now() + backoff >= deadline {
            return Err(error);
        }
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_LAST);
    }
}

pub(super) fn hello(
    config: &ClientConfig,
    session: SessionId,
    open_inodes: Vec<u64>,
    held_locks: Vec<pb::FileLock>,
) -> pb::MountHello {
    pb::MountHello {
        protocol_version: PROTOCOL_VERSION,
        session: session.0,
        client: config.name.clone(),
        open_inodes,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        held_locks,
    }
}

pub(super) async fn connect(
    config: &ClientConfig,
    hello: pb::MountHello,
    within: Duration,
) -> Result<Link, DfsError> {
    match tokio::time::timeout(within, shake_hands(config, hello, within)).await {
        Ok(result) => result,
        Err(_) => Err(channel::unreachable_master(&config.master, "no answer")),
    }
}

async fn shake_hands(
    config: &ClientConfig,
    hello: pb::MountHello,
    within: Duration,
) -> Result<Link, DfsError> {
    let master = &config.master;
    let carrier = config.tokens.carrier().await?;
    let channel = channel::open(master, config.tls.as_ref(), within).await?;
    let mut client = MountServiceClient::with_interceptor(channel, carrier)
        .max_decoding_message_size(MAX_MESSAGE_LEN)
        .max_encoding_message_size(MAX_MESSAGE_LEN);
    let (up, outgoing) = mpsc::channel(UP_QUEUE);
    let began = Instant::now();
    if up.try_send(pb::MountUp { msg: Some(mount_up::Msg::Hello(hello)) }).is_err() {
        return Err(channel::unreachable_master(master, "the stream did not take the hello"));
    }
    let status = |status: tonic::Status| channel::from_status(master, &status);
    let mut down = client.session(ReceiverStream::new(outgoing)).await.map_err(status)?.into_inner();
    let first = down.message().await.map_err(status)?.and_then(|message| message.msg);
    let welcome = match first {
        Some(mount_down::Msg::Welcome(welcome)) => welcome,
        Some(mount_down::Msg::Refused(error)) => return Err(DfsError::from_wire(error)),
        Some(_) => return Err(no_welcome(master, "it began with another message than a welcome")),
        None => return Err(channel::unreachable_master(master, "it closed the session")),
    };
    let cluster = ClusterId::from_bytes(&welcome.cluster)
        .ok_or_else(|| no_welcome(master, "its cluster id has another length than 16 bytes"))?;
    if welcome.chunk_size == 0 || welcome.session == 0 {
        return Err(no_welcome(master, "its welcome lacks the session or the chunk size"));
    }
    Ok(Link { up, down, welcome, cluster, came_at: Instant::now(), round_trip: began.elapsed() })
}

fn no_welcome(master: &str, why: &str) -> DfsError {
    let message = format!(
        "what answers at {master} is no master that we understand: {why}; see that the versions agree"
    );
    DfsError::new(ErrorCode::Protocol, message)
}
