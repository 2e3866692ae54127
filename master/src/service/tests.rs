//! A real master, real TCP, and clients that say what they like.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use dfs_proto::PROTOCOL_VERSION;
use dfs_proto::pb::admin_service_client::AdminServiceClient;
use dfs_proto::pb::keeper_service_client::KeeperServiceClient;
use dfs_proto::pb::mount_service_client::MountServiceClient;
use dfs_proto::pb::{self, keeper_down, keeper_up, mount_down, mount_reply, mount_request, mount_up};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::{Config, Master, MasterError};

/// Longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(20);

async fn start(data: &Path) -> Result<Master, MasterError> {
    let listen = ([127, 0, 0, 1], 0).into();
    Master::start(Config { listen, ..Config::new(data) }).await
}

fn url(master: &Master) -> String {
    format!("http://{}", master.address())
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work).await.expect("in time")
}

struct MountClient {
    up: mpsc::Sender<pb::MountUp>,
    down: Streaming<pb::MountDown>,
}

impl MountClient {
    /// Opens the stream, and says nothing.
    async fn connect(master: &Master) -> MountClient {
        let (up, messages) = mpsc::channel(100);
        let mut client = within(MountServiceClient::connect(url(master))).await.unwrap();
        let down = within(client.session(ReceiverStream::new(messages))).await.unwrap().into_inner();
        MountClient { up, down }
    }

    async fn send(&self, msg: mount_up::Msg) {
        self.up.send(pb::MountUp { msg: Some(msg) }).await.unwrap();
    }

    /// The next message; None when the stream has ended.
    async fn next(&mut self) -> Option<mount_down::Msg> {
        within(self.down.message()).await.unwrap().map(|down| down.msg.unwrap())
    }

    async fn hello(&mut self, protocol_version: u32, session: u64) -> mount_down::Msg {
        let hello = pb::MountHello {
            protocol_version,
            session,
            client: "test".to_owned(),
            version: "1.2.3".to_owned(),
            ..Default::default()
        };
        self.send(mount_up::Msg::Hello(hello)).await;
        self.next().await.unwrap()
    }

    async fn welcomed(master: &Master) -> (MountClient, pb::MountWelcome) {
        let mut mount = MountClient::connect(master).await;
        match mount.hello(PROTOCOL_VERSION, 0).await {
            mount_down::Msg::Welcome(welcome) => (mount, welcome),
            other => panic!("{other:?}"),
        }
    }

    async fn call(&mut self, id: u64, op: mount_request::Op) -> mount_reply::Result {
        self.send(mount_up::Msg::Request(pb::MountRequest {
            id,
            op: Some(op),
            answered_below: 0,
            ..Default::default()
        }))
        .await;
        loop {
            match self.next().await.unwrap() {
                mount_down::Msg::Reply(reply) => {
                    assert_eq!(reply.id, id);
                    return reply.result.unwrap();
                }
                mount_down::Msg::Invalidate(what) => {
                    let done = pb::InvalidateDone { seqs: vec![what.seq] };
                    self.send(mount_up::Msg::InvalidateDone(done)).await;
                }
                other => panic!("{other:?}"),
            }
        }
    }

    async fn attr(&mut self, id: u64, op: mount_request::Op) -> pb::Attr {
        match self.call(id, op).await {
            mount_reply::Result::Attr(attr) => attr,
            other => panic!("{other:?}"),
        }
    }
}

fn create(name: &'static str) -> mount_request::Op {
    mount_request::Op::Create(pb::Create {
        parent: 1,
        name: name.into(),
        mode: 0o640,
        uid: 7,
        gid: 8,
        umask: 0,
    })
}

fn lookup(name: &'static str) -> mount_request::Op {
    mount_request::Op::Lookup(pb::Lookup { parent: 1, name: name.into() })
}

struct KeeperClient {
    up: mpsc::Sender<pb::KeeperUp>,
    down: Streaming<pb::KeeperDown>,
}

impl KeeperClient {
    async fn connect(master: &Master) -> KeeperClient {
        let (up, messages) = mpsc::channel(100);
        let mut client = within(KeeperServiceClient::connect(url(master))).await.unwrap();
        let down = within(client.session(ReceiverStream::new(messages))).await.unwrap().into_inner();
        KeeperClient { up, down }
    }

    async fn send(&self, msg: keeper_up::Msg) {
        self.up.send(pb::KeeperUp { msg: Some(msg) }).await.unwrap();
    }

    async fn next(&mut self) -> Option<keeper_down::Msg> {
        within(self.down.message()).await.unwrap().map(|down| down.msg.unwrap())
    }

    async fn hello(&mut self, keeper: u64, cluster: Bytes) -> keeper_down::Msg {
        self.hello_of(PROTOCOL_VERSION, keeper, cluster).await
    }

    async fn hello_of(&mut self, protocol_version: u32, keeper: u64, cluster: Bytes) -> keeper_down::Msg {
        let hello = pb::KeeperHello {
            data_tls: false,
            protocol_version,
            cluster,
            keeper,
            address: "127.0.0.1:4000".to_owned(),
            data_dir: "/srv/k1".to_owned(),
            host: "h".to_owned(),
            version: "1.2.3".to_owned(),
            load: Some(pb::Load { total: 1 << 40, free: 1 << 39, ..Default::default() }),
            labels: Vec::new(),
        };
        self.send(keeper_up::Msg::Hello(hello)).await;
        self.next().await.unwrap()
    }
}

#[tokio::test]
async fn another_protocol_version_is_refused_by_code() {
    let data = tempfile::tempdir().unwrap();
    let master = start(data.path()).await.unwrap();
    let mut mount = MountClient::connect(&master).await;
    let mount_down::Msg::Refused(error) = mount.hello(PROTOCOL_VERSION + 1, 0).await else {
        panic!("not refused")
    };
    assert_eq!(error.code(), pb::Code::Version);
    assert!(error.message.contains("version '1.2.3'"), "{}", error.message);
    assert_eq!(mount.next().await, None, "the stream ends");
    master.shutdown().await;
}

#[tokio::test]
async fn a_keeper_of_another_protocol_version_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let master = start(data.path()).await.unwrap();
    for theirs in [PROTOCOL_VERSION - 1, PROTOCOL_VERSION + 1] {
        let mut keeper = KeeperClient::connect(&master).await;
        let keeper_down::Msg::Refused(error) = keeper.hello_of(theirs, 0, Bytes::new()).await else {
            panic!("not refused")
        };
        assert_eq!(error.code(), pb::Code::Version);
        assert!(error.message.contains("install the same release of both"), "{}", error.message);
        assert_eq!(keeper.next().await, None, "the stream ends");
    }
    master.shutdown().await;
}

#[tokio::test]
async fn a_first_message_that_is_no_hello_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let master = start(data.path()).await.unwrap();
    let mut mount = MountClient::connect(&master).await;
    mount.send(mount_up::Msg::Ping(pb::Ping { seq: 1 })).await;
    let Some(mount_down::Msg::Refused(error)) = mount.next().await else { panic!("not refused") };
    assert_eq!(error.code(), pb::Code::Protocol);
    assert_eq!(mount.next().await, None);
    master.shutdown().await;
}

#[tokio::test]
async fn a_keeper_of_another_cluster_is_refused_and_told_both() {
    let data = tempfile::tempdir().unwrap();
    let master = start(data.path()).await.unwrap();
    for (theirs, named) in [(vec![0xab; 16], "ab".repeat(16)), (vec![1; 3], "an id of 3 bytes".to_owned())] {
        let mut keeper = KeeperClient::connect(&master).await;
        let keeper_down::Msg::Refused(error) = keeper.hello(1, theirs.into()).await else {
            panic!("not refused")
        };
        assert_eq!(error.code(), pb::Code::WrongCluster);
        for part in ["/srv/k1", &named, &master.cluster().to_string(), "empty data directory"] {
            assert!(error.message.contains(part), "{part} in {}", error.message);
        }
        assert_eq!(keeper.next().await, None);
    }
    master.shutdown().await;
}

#[tokio::test]
async fn a_new_keeper_gets_an_id_a_key_and_acks() {
    let data = tempfile::tempdir().unwrap();
    let master = start(data.path()).await.unwrap();
    let mut keeper = KeeperClient::connect(&master).await;
    let keeper_down::Msg::Welcome(welcome) = keeper.hello(0, Bytes::new()).await else { panic!("refused") };
    assert_eq!(welcome.cluster, master.cluster().0.to_vec());
    assert_ne!(welcome.keeper, 0);
    assert_eq!(welcome.key.len(), 32);
    keeper.send(keeper_up::Msg::Heartbeat(pb::Heartbeat { seq: 9, load: None })).await;
    loop {
        match keeper.next().await.unwrap() {
            keeper_down::Msg::Ack(ack) => break assert_eq!(ack.seq, 9),
            _ => continue,
        }
    }

    let mut admin = within(AdminServiceClient::connect(url(&master))).await.unwrap();
    let keepers = within(admin.keepers(pb::KeepersRequest {})).await.unwrap().into_inner().keepers;
    assert_eq!(keepers.len(), 1);
    assert!(keepers[0].alive);
    assert_eq!((keepers[0].keeper, keepers[0].data_dir.as_str()), (welcome.keeper, "/srv/k1"));

    // The same keeper again: the new connection takes over, the old stream ends.
    let mut again = KeeperClient::connect(&master).await;
    let keeper_down::Msg::Welcome(same) = again.hello(welcome.keeper, welcome.cluster).await else {
        panic!("refused")
    };
    assert_eq!(same.keeper, welcome.keeper);
    while keeper.next().await.is_some() {}
    master.shutdown().await;
}

#[tokio::test]
async fn names_are_made_found_and_there_after_a_restart() {
    let data = tempfile::tempdir().unwrap();
    let master = start(data.path()).await.unwrap();
    let cluster = master.cluster();
    let (mut mount, welcome) = MountClient::welcomed(&master).await;
    assert_eq!(welcome.cluster, cluster.0.to_vec());
    assert_eq!((welcome.copies, welcome.min_copies, welcome.chunk_size), (3, 2, 8 << 20));
    let made = mount.attr(1, create("film.mp4")).await;
    assert_eq!((made.uid, made.gid, made.mode & 0o7777), (7, 8, 0o640));
    assert_eq!(mount.attr(2, lookup("film.mp4")).await.inode, made.inode);
    let mount_reply::Result::Error(error) = mount.call(3, lookup("nothing")).await else { panic!() };
    assert_eq!(error.code(), pb::Code::NotFound);
    mount.send(mount_up::Msg::Ping(pb::Ping { seq: 5 })).await;
    assert!(matches!(mount.next().await, Some(mount_down::Msg::Pong(pb::Pong { seq: 5, now: Some(_) }))));

    within(master.shutdown()).await;
    assert!(mount.down.message().await.is_ok_and(|end| end.is_none()) || mount.up.is_closed());

    let master = start(data.path()).await.unwrap();
    assert_eq!(master.cluster(), cluster);
    let (mut mount, after) = MountClient::welcomed(&master).await;
    assert_ne!(after.master_epoch, welcome.master_epoch);
    let found = mount.attr(1, lookup("film.mp4")).await;
    assert_eq!((found.inode, found.mode, found.mtime), (made.inode, made.mode, made.mtime));
    let mut admin = within(AdminServiceClient::connect(url(&master))).await.unwrap();
    let status = within(admin.status(pb::StatusRequest {})).await.unwrap().into_inner();
    assert_eq!((status.files, status.cluster), (1, cluster.to_string()));
    master.shutdown().await;
}

#[tokio::test]
async fn the_look_up_table_of_a_missing_path_is_an_error_of_the_call() {
    let data = tempfile::tempdir().unwrap();
    let master = start(data.path()).await.unwrap();
    let mut admin = within(AdminServiceClient::connect(url(&master))).await.unwrap();
    let all = pb::LookupTableRequest { path: Bytes::new() };
    let mut rows = within(admin.lookup_table(all)).await.unwrap().into_inner();
    assert_eq!(within(rows.message()).await.unwrap(), None);
    let missing = pb::LookupTableRequest { path: Bytes::from_static(b"/nothing") };
    let error = within(admin.lookup_table(missing)).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::NotFound);
    master.shutdown().await;
}

#[tokio::test]
async fn a_second_master_on_the_same_directory_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let master = start(data.path()).await.unwrap();
    let address = std::fs::read_to_string(data.path().join("address")).unwrap();
    assert_eq!(address, format!("{}\n", master.address()));
    let error = start(data.path()).await.unwrap_err();
    assert!(matches!(error, MasterError::DataDir(_)), "{error}");
    assert!(error.to_string().contains("in use by another process"), "{error}");
    assert!(data.path().join("address").exists(), "the first one's address stays");
    master.shutdown().await;
    assert!(!data.path().join("address").exists());
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let master = start(first.path()).await.unwrap();
    let config = Config { listen: master.address(), ..Config::new(second.path()) };
    let error = Master::start(config).await.unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "listen on {}: the port is in use; stop who uses it, or choose another with --listen",
            master.address()
        )
    );
    master.shutdown().await;
}

#[tokio::test]
async fn a_dropped_master_gives_its_directory_back() {
    let data = tempfile::tempdir().unwrap();
    drop(start(data.path()).await.unwrap());
    let again = async {
        loop {
            match start(data.path()).await {
                Ok(master) => return master,
                Err(MasterError::DataDir(_)) => tokio::task::yield_now().await,
                Err(other) => panic!("{other}"),
            }
        }
    };
    within(again).await.shutdown().await;
}

#[tokio::test]
async fn while_a_master_that_started_takes_no_change_questions_and_pings_are_answered() {
    let data = tempfile::tempdir().unwrap();
    let master = start(data.path()).await.unwrap();
    let (mut mount, welcome) = MountClient::welcomed(&master).await;
    let file = mount.attr(1, create("f")).await;
    // It does not come back.
    let (_other, _) = MountClient::welcomed(&master).await;
    master.shutdown().await;

    let master = start(data.path()).await.unwrap();
    let mut mount = MountClient::connect(&master).await;
    let mount_down::Msg::Welcome(again) = mount.hello(PROTOCOL_VERSION, welcome.session).await else {
        panic!("no welcome")
    };
    assert_eq!(again.session, welcome.session);
    let release = mount_request::Op::Release(pb::Release { inode: file.inode });
    let open = mount_request::Op::Open(pb::Open { inode: file.inode, access: 0 });
    for (id, op) in [(2, create("g")), (3, release), (4, lookup("f")), (5, lookup("g")), (6, open)] {
        let op = Some(op);
        mount
            .send(mount_up::Msg::Request(pb::MountRequest {
                id,
                op,
                answered_below: 0,
                ..Default::default()
            }))
            .await;
    }
    mount.send(mount_up::Msg::Ping(pb::Ping { seq: 1 })).await;
    let mut came = Vec::new();
    while came.len() < 6 {
        came.push(match mount.next().await.unwrap() {
            mount_down::Msg::Pong(_) => 0,
            mount_down::Msg::Reply(reply) => reply.id,
            other => panic!("{other:?}"),
        });
    }
    // The release keeps its place behind the change; its answer rests on nothing.
    came[4..].sort_unstable();
    assert_eq!(came, [4, 5, 6, 0, 2, 3]);
    assert_eq!(mount.attr(7, lookup("g")).await.nlink, 1);
    master.shutdown().await;
}
