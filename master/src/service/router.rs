//! One port, three services: each request goes to the service that its path names.

use std::convert::Infallible;
use std::task::{Context, Poll};

use dfs_proto::pb::admin_service_server::AdminServiceServer;
use dfs_proto::pb::keeper_service_server::{self, KeeperServiceServer};
use dfs_proto::pb::mount_service_server::{self, MountServiceServer};
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};

use super::admin::Admin;
use super::keeper::Keepers;
use super::mount::Mounts;

/// The three services as one.
#[derive(Clone)]
pub(super) struct Router {
    pub mount: MountServiceServer<Mounts>,
    pub keeper: KeeperServiceServer<Keepers>,
    pub admin: AdminServiceServer<Admin>,
}

impl Service<http::Request<Body>> for Router {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        match request.uri().path().trim_start_matches('/').split('/').next() {
            Some(mount_service_server::SERVICE_NAME) => self.mount.call(request),
            Some(keeper_service_server::SERVICE_NAME) => self.keeper.call(request),
            // It answers what it does not know with "unimplemented".
            _ => self.admin.call(request),
        }
    }
}
