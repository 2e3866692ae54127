//! gRPC: the sessions of mounts and keepers, and the operators' calls.
//!
//! - [`mount`] and [`keeper`]: one task per session. It reads the hello, checks it, and hands everything
//!   that follows to the engine, one message at a time, in order. What is sent down comes from the engine
//!   alone, through a bounded queue.
//! - [`admin`]: status, keepers and the look-up table, from memory. `backup`: a dump, from the store.
//! - [`auth`]: who may log in.
//! - [`router`]: one port for all of them, behind the gate.
//!
//! A session ends when either side closes it, when its peer is silent for too long or does not read, when
//! another connection of the same peer takes over, and when the master stops.

mod admin;
mod auth;
mod backup;
mod keeper;
mod mount;
mod router;
mod session;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::time::Duration;

use dfs_proto::MAX_MESSAGE_LEN;
use dfs_proto::ids::ClusterId;
use dfs_proto::pb::admin_service_server::AdminServiceServer;
use dfs_proto::pb::auth_service_server::AuthServiceServer;
use dfs_proto::pb::keeper_service_server::KeeperServiceServer;
use dfs_proto::pb::mount_service_server::MountServiceServer;
use dfs_tls::{Acceptor, grpc};
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Error, Server};

use crate::auth::Gate;
use crate::runtime::Engine;

const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// What one stream, or one connection, may send ahead of being read, in bytes.
const WINDOW: u32 = 1024 * 1024;
/// Streams of one connection. A peer needs one, an operator a few.
const MAX_STREAMS: u32 = 256;

/// Serves all services on `listener`, with `tls` to those who speak it alone, until `stop` resolves, then waits for the sessions to end.
///
/// # Errors
/// The listener broke.
pub async fn serve(
    engine: Engine,
    gate: Gate,
    cluster: ClusterId,
    listener: TcpListener,
    tls: Option<Acceptor>,
    stop: impl Future<Output = ()>,
) -> Result<(), Error> {
    let mount = MountServiceServer::new(mount::Mounts::new(engine.clone(), gate.clone()));
    let keeper = KeeperServiceServer::new(keeper::Keepers::new(engine.clone(), gate.clone(), cluster));
    let admin = AdminServiceServer::new(admin::Admin::new(engine.clone(), gate.clone()));
    let auth = AuthServiceServer::new(auth::Auth::new(engine, gate.clone()));
    let router = router::Router {
        gate,
        tls: tls.is_some(),
        auth: auth.max_decoding_message_size(MAX_MESSAGE_LEN).max_encoding_message_size(MAX_MESSAGE_LEN),
        mount: mount.max_decoding_message_size(MAX_MESSAGE_LEN).max_encoding_message_size(MAX_MESSAGE_LEN),
        keeper: keeper.max_decoding_message_size(MAX_MESSAGE_LEN).max_encoding_message_size(MAX_MESSAGE_LEN),
        admin: admin.max_decoding_message_size(MAX_MESSAGE_LEN).max_encoding_message_size(MAX_MESSAGE_LEN),
    };
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_concurrent_streams(MAX_STREAMS);
    match tls {
        Some(acceptor) => {
            server.serve_with_incoming_shutdown(router, grpc::incoming(listener, acceptor), stop).await
        }
        None => {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            server.serve_with_incoming_shutdown(router, incoming, stop).await
        }
    }
}
