//! A cluster that asks who one is: its admin, keepers that join, users and their tokens; and a client that says to the master
//! what no dfs-mount would.

use std::path::PathBuf;

use dfs_proto::pb::auth_service_client::AuthServiceClient;
use dfs_proto::pb::mount_service_client::MountServiceClient;
use dfs_proto::pb::{self, mount_down, mount_reply, mount_request, mount_up};
use dfs_proto::secret::Secret;
use dfs_proto::{PROTOCOL_VERSION, token_file};
use dfs_tls::{TlsDir, grpc};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::transport::Channel;

use crate::cluster::{Builder, Cluster};
use crate::wait::secs;

/// Of every user that is made here.
pub const PASSWORD: &str = "correct horse battery";

/// A cluster with auth, whose admin has logged in, with `keepers` that joined, of two copies each.
pub fn cluster(builder: Builder, keepers: usize, flags: &[&str]) -> Cluster {
    let flags = [&["--auth", "on"], flags].concat();
    let mut cluster = builder.keepers(0).copies(2).min_copies(1).master_flags(&flags).start();
    let initial = cluster.scratch.path("master/initial-admin-password");
    cluster.dfs(&["login", "admin", "--password-file", initial.to_str().unwrap()]).ok();
    let token = cluster.scratch.path("join-token");
    let printed = cluster.dfs(&["keeper", "token", "keepers"]).ok().stdout;
    token_file::write(&token, &Secret::new(printed.trim())).unwrap();
    for _ in 0..keepers {
        cluster.add_keeper_with(&["--token-file", token.to_str().unwrap()]);
    }
    cluster
}

/// Makes a user; `more` as typed: `--role ro`, `--dir /x`.
#[track_caller]
pub fn add_user(cluster: &Cluster, name: &str, more: &[&str]) {
    let file = cluster.scratch.path("password");
    token_file::write(&file, &Secret::new(PASSWORD)).unwrap();
    let args = [&["user", "add", name, "--password-file", file.to_str().unwrap()], more].concat();
    cluster.dfs(&args).ok();
}

/// A token of a user, in a file of its own.
pub fn login(cluster: &Cluster, user: &str) -> PathBuf {
    let file = cluster.scratch.path(&format!("token-{user}"));
    token_file::write(&file, &token(cluster, user)).unwrap();
    file
}

/// A token of a user.
pub fn token(cluster: &Cluster, user: &str) -> Secret {
    let request = pb::LoginRequest { user: user.to_owned(), password: PASSWORD.to_owned() };
    let reply = runtime()
        .block_on(async { AuthServiceClient::new(channel(cluster).await).login(request).await.unwrap() });
    Secret::new(reply.into_inner().token)
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A connection to the master, as a client of the cluster makes it.
pub async fn channel(cluster: &Cluster) -> Channel {
    let (address, dir) = (cluster.address(), cluster.tls_dir("client"));
    let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
    if !dir.is_dir() {
        return endpoint.connect().await.unwrap();
    }
    let connector = TlsDir::load(&dir, None).unwrap().to_master().unwrap();
    grpc::connect(&endpoint, address, &connector).await.unwrap()
}

/// Makes a call without saying anything in it. A stream is a call with one message, too.
pub async fn call(channel: &Channel, path: &'static str, token: Option<&Secret>) -> Code {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let mut request = tonic::Request::new(pb::Empty {});
    request.set_timeout(secs(20));
    if let Some(token) = token {
        request.metadata_mut().insert(token_file::HEADER, token_file::header(token).unwrap());
    }
    let codec = tonic_prost::ProstCodec::<pb::Empty, pb::Empty>::default();
    let path = tonic::codegen::http::uri::PathAndQuery::from_static(path);
    match grpc.unary(request, path, codec).await {
        Ok(_) => Code::Ok,
        Err(status) => status.code(),
    }
}

/// A session of somebody who is not bound by what dfs-mount would do.
pub struct RawSession {
    runtime: Runtime,
    up: mpsc::Sender<pb::MountUp>,
    down: tonic::Streaming<pb::MountDown>,
    last: u64,
    /// The first message.
    pub welcome: pb::MountWelcome,
}

impl RawSession {
    /// Says this hello, with the right version.
    pub fn open(cluster: &Cluster, token: Option<&Secret>, hello: pb::MountHello) -> RawSession {
        let runtime = runtime();
        let (up, queue) = mpsc::channel(16);
        let hello = pb::MountHello { protocol_version: PROTOCOL_VERSION, ..hello };
        let first = pb::MountUp { msg: Some(mount_up::Msg::Hello(hello)) };
        let (down, welcome) = runtime.block_on(async {
            up.send(first).await.unwrap();
            let mut request = tonic::Request::new(ReceiverStream::new(queue));
            if let Some(token) = token {
                request.metadata_mut().insert(token_file::HEADER, token_file::header(token).unwrap());
            }
            let mut client = MountServiceClient::new(channel(cluster).await);
            let mut down = client.session(request).await.unwrap().into_inner();
            let first = down.message().await.unwrap().unwrap().msg.unwrap();
            let mount_down::Msg::Welcome(welcome) = first else { panic!("no welcome: {first:?}") };
            (down, welcome)
        });
        RawSession { runtime, up, down, last: 0, welcome }
    }

    /// The reply to a request.
    pub fn ask(&mut self, op: mount_request::Op) -> mount_reply::Result {
        self.ask_as(None, op)
    }

    /// The same, of somebody.
    pub fn ask_as(&mut self, caller: Option<pb::Caller>, op: mount_request::Op) -> mount_reply::Result {
        self.last += 1;
        let id = self.last;
        let request = pb::MountRequest { id, caller, answered_below: id, op: Some(op), ..Default::default() };
        let (up, down) = (&self.up, &mut self.down);
        let reply = async {
            up.send(pb::MountUp { msg: Some(mount_up::Msg::Request(request)) }).await.unwrap();
            loop {
                match down.message().await.unwrap().unwrap().msg.unwrap() {
                    mount_down::Msg::Reply(reply) if reply.id == id => return reply.result.unwrap(),
                    _ => continue,
                }
            }
        };
        let within = async { tokio::time::timeout(secs(20), reply).await };
        self.runtime.block_on(within).expect("a reply within 20 s")
    }
}
