//! What the sessions of mounts and keepers have in common: the hello, silence, refusal.

use std::time::Duration;

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::{PROTOCOL_VERSION, pb};
use tokio::sync::{mpsc, oneshot};
use tonic::Streaming;

use crate::auth::{Refusal, Watch};
use crate::runtime::{Engine, Stopped};

/// The first message must come within this.
const HELLO_DEADLINE: Duration = Duration::from_secs(10);
/// Peers say something every second. One that says nothing for this long is gone.
const MAX_SILENCE: Duration = Duration::from_secs(30);
/// For a refusal to be queued to a peer that was just accepted.
const REFUSAL_DEADLINE: Duration = Duration::from_secs(1);

/// Why a session has no next message.
#[derive(Debug)]
pub(super) enum End {
    /// The peer closed it.
    Closed,
    /// The connection broke, or what came over it makes no sense.
    Peer(String),
    /// Nothing was heard for too long.
    Silent,
    /// The bearer may not go on.
    Barred(Refusal),
    /// Another connection took over, the peer does not read, or the master stops.
    Ours,
}

/// The first message. None: the peer went away, or the master stops. An error is to be told to the peer.
pub(super) async fn first_message<M>(
    engine: &Engine,
    inbound: &mut Streaming<M>,
) -> Option<Result<M, DfsError>> {
    let message = tokio::select! {
        () = engine.finished() => return None,
        message = tokio::time::timeout(HELLO_DEADLINE, inbound.message()) => message,
    };
    match message {
        Ok(Ok(Some(message))) => Some(Ok(message)),
        Ok(Ok(None) | Err(_)) => None,
        Err(_) => Some(Err(DfsError::new(
            ErrorCode::Protocol,
            format!("session: no hello within {} s; the session is closed", HELLO_DEADLINE.as_secs()),
        ))),
    }
}

/// The next message, or why there is none.
pub(super) async fn next_message<M>(
    closed: &mut oneshot::Receiver<()>,
    inbound: &mut Streaming<M>,
    watch: &mut Watch,
) -> Result<M, End> {
    tokio::select! {
        biased;
        _ = closed => Err(End::Ours),
        refusal = watch.over() => Err(End::Barred(refusal)),
        message = tokio::time::timeout(MAX_SILENCE, inbound.message()) => match message {
            Ok(Ok(Some(message))) => Ok(message),
            Ok(Ok(None)) => Err(End::Closed),
            Ok(Err(status)) => Err(End::Peer(status.message().to_owned())),
            Err(_) => Err(End::Silent),
        },
    }
}

/// Peers of another protocol version are refused.
pub(super) fn check_version(who: &str, theirs: u32, program: &str) -> Result<(), DfsError> {
    if theirs == PROTOCOL_VERSION {
        return Ok(());
    }
    Err(DfsError::new(
        ErrorCode::Version,
        format!(
            "session: this {who} (version '{program}') speaks protocol {theirs}, and this master speaks \
             {PROTOCOL_VERSION}; install the same release of both"
        ),
    ))
}

/// The error for a first message that is no hello.
pub(super) fn no_hello() -> DfsError {
    DfsError::new(ErrorCode::Protocol, "session: the first message is not a hello; the session is closed")
}

/// The error for a hello when the engine takes none.
pub(super) fn unavailable(_: Stopped) -> DfsError {
    DfsError::new(ErrorCode::Unavailable, Stopped.to_string())
}

/// Tells the peer why it is refused. The stream ends when the last sender is dropped.
pub(super) async fn refuse<M>(
    who: &str,
    down: mpsc::Sender<M>,
    error: pb::Error,
    wrap: impl Fn(pb::Error) -> M,
) {
    tracing::warn!("a {who} was refused: {}", error.message);
    let refused = tokio::time::timeout(REFUSAL_DEADLINE, down.send(wrap(error))).await;
    if !matches!(refused, Ok(Ok(()))) {
        tracing::debug!("the {who} did not wait for its refusal");
    }
}

/// Writes why a session ended.
pub(super) fn log_end(who: &str, peer: impl std::fmt::Display, end: &End) {
    match end {
        End::Closed => tracing::info!("session of {who} {peer} ended: it closed the stream"),
        End::Peer(why) => tracing::info!("session of {who} {peer} ended: {why}"),
        End::Silent => tracing::warn!(
            "session of {who} {peer} closed: nothing was heard from it for {} s",
            MAX_SILENCE.as_secs()
        ),
        End::Barred(why) => tracing::info!("session of {who} {peer} closed: {why}"),
        End::Ours => tracing::info!("session of {who} {peer} closed by the master"),
    }
}
