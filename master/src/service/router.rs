//! One port, four services: each request goes to the service that its path names, when the gate has let it in. There is no
//! other way to a service. Where there is TLS, a keeper has to show a keeper's certificate before the gate looks at its token.

use std::convert::Infallible;
use std::future::ready;
use std::task::{Context, Poll};

use dfs_proto::pb::admin_service_server::AdminServiceServer;
use dfs_proto::pb::auth_service_server::{self, AuthServiceServer};
use dfs_proto::pb::keeper_service_server::{self, KeeperServiceServer};
use dfs_proto::pb::mount_service_server::{self, MountServiceServer};
use dfs_proto::token_file;
use dfs_tls::Role;
use dfs_tls::grpc::Peer;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::transport::server::TcpConnectInfo;

use super::admin::Admin;
use super::auth::Auth;
use super::keeper::Keepers;
use super::mount::Mounts;
use crate::auth::Gate;

const NO_CERTIFICATE: &str = "keepers have to show a keeper's certificate here; give --tls-dir a directory of 'dfs tls issue --role keeper'";

/// The services as one.
#[derive(Clone)]
pub(super) struct Router {
    pub gate: Gate,
    /// Connections are encrypted.
    pub tls: bool,
    pub mount: MountServiceServer<Mounts>,
    pub keeper: KeeperServiceServer<Keepers>,
    pub admin: AdminServiceServer<Admin>,
    pub auth: AuthServiceServer<Auth>,
}

impl Service<http::Request<Body>> for Router {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let peer = request.extensions().get::<Peer>().copied();
        if let Some(address) = peer.and_then(|peer| peer.address) {
            // Services look for it where it is without TLS.
            let info = TcpConnectInfo { local_addr: None, remote_addr: Some(address) };
            request.extensions_mut().insert(info);
        }
        let service = request.uri().path().trim_start_matches('/').split('/').next();
        if self.tls
            && service == Some(keeper_service_server::SERVICE_NAME)
            && peer.and_then(|peer| peer.role) != Some(Role::Keeper)
        {
            tracing::info!(from = ?peer.and_then(|peer| peer.address), "a keeper without a keeper's certificate was refused");
            return Box::pin(ready(Ok(Status::permission_denied(NO_CERTIFICATE).into_http())));
        }
        let header = request.headers().get(token_file::HEADER).and_then(|value| value.to_str().ok());
        match self.gate.admit(request.uri().path(), header) {
            Ok(bearer) => request.extensions_mut().insert(bearer),
            Err(refusal) => {
                let from = request.extensions().get::<TcpConnectInfo>().and_then(|info| info.remote_addr());
                tracing::debug!(?from, path = request.uri().path(), "a call was refused: {refusal}");
                return Box::pin(ready(Ok(Status::from(refusal).into_http())));
            }
        };
        match request.uri().path().trim_start_matches('/').split('/').next() {
            Some(mount_service_server::SERVICE_NAME) => self.mount.call(request),
            Some(keeper_service_server::SERVICE_NAME) => self.keeper.call(request),
            Some(auth_service_server::SERVICE_NAME) => self.auth.call(request),
            // It answers what it does not know with "unimplemented".
            _ => self.admin.call(request),
        }
    }
}
