//! Simulated mounts: a session each, over a connection of its own, with one request at a time. A task per session pings each
//! half second and says at once that it forgot what it is told to forget; without, the master would cut it off.

use std::time::{Duration, Instant};

use dfs_proto::PROTOCOL_VERSION;
use dfs_proto::pb::mount_service_client::MountServiceClient;
use dfs_proto::pb::{self, mount_down, mount_reply, mount_request::Op, mount_up};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::ANSWER_DEADLINE;

const PING: Duration = Duration::from_millis(500);
const QUEUE: usize = 64;

type Up = mpsc::Sender<pb::MountUp>;

/// A mount.
pub struct Mount {
    up: Up,
    heard: mpsc::Receiver<Heard>,
    last_id: u64,
    task: JoinHandle<()>,
}

enum Heard {
    Reply(Box<pb::MountReply>),
    Done(Box<pb::UploadDone>),
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Mount {
    /// A new session.
    ///
    /// # Panics
    /// When it is refused, or takes too long.
    pub async fn connect(url: &str) -> Mount {
        within("a mount's hello", async {
            let (up, messages) = mpsc::channel(QUEUE);
            let mut client = MountServiceClient::connect(url.to_owned()).await.unwrap();
            let hello = pb::MountHello {
                protocol_version: PROTOCOL_VERSION,
                client: "dfs-bench-master".to_owned(),
                version: "0".to_owned(),
                ..pb::MountHello::default()
            };
            send(&up, mount_up::Msg::Hello(hello)).await;
            let mut down = client.session(ReceiverStream::new(messages)).await.unwrap().into_inner();
            match down.message().await.unwrap().and_then(|down| down.msg) {
                Some(mount_down::Msg::Welcome(_)) => {}
                other => panic!("a mount is not welcome: {other:?}"),
            }
            let (tell, heard) = mpsc::channel(QUEUE);
            let task = tokio::spawn(listen(up.clone(), down, tell));
            Mount { up, heard, last_id: 0, task }
        })
        .await
    }

    /// So many.
    pub async fn connect_all(url: &str, count: usize) -> Vec<Mount> {
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(Mount::connect(url).await);
        }
        all
    }

    /// Ends the session in order, so that the master forgets at once what it told.
    pub async fn close(mut self) {
        let (nobody, _) = mpsc::channel(1);
        drop(std::mem::replace(&mut self.up, nobody));
        self.task.abort();
        // The stream's end follows when the task has let go of it.
        let _ = within("the end of a mount's task", &mut self.task).await;
    }

    /// Sends a request whose answer nobody waits for.
    pub async fn send(&mut self, op: Op) -> u64 {
        self.last_id += 1;
        let request = pb::MountRequest {
            id: self.last_id,
            answered_below: self.last_id,
            op: Some(op),
            ..Default::default()
        };
        send(&self.up, mount_up::Msg::Request(request)).await;
        self.last_id
    }

    /// Asks, and waits for the answer.
    pub async fn call(&mut self, op: Op) -> mount_reply::Result {
        let id = self.send(op).await;
        loop {
            match self.hear().await {
                Heard::Reply(reply) if reply.id == id => return reply.result.unwrap(),
                Heard::Reply(_) | Heard::Done(_) => {}
            }
        }
    }

    /// Asks for something that is answered with attributes, and gives the inode's number.
    pub async fn inode(&mut self, op: Op) -> u64 {
        match self.call(op.clone()).await {
            mount_reply::Result::Attr(attr) => attr.inode,
            other => panic!("{op:?}: {other:?}"),
        }
    }

    /// Waits until an upload is in its file.
    pub async fn uploaded(&mut self, chunk: u64) {
        loop {
            match self.hear().await {
                Heard::Done(done) if done.chunk == chunk => {
                    assert!(done.error.is_none(), "the upload of chunk {chunk}: {:?}", done.error);
                    return;
                }
                Heard::Reply(_) | Heard::Done(_) => {}
            }
        }
    }

    async fn hear(&mut self) -> Heard {
        within("an answer of the master", self.heard.recv())
            .await
            .expect("the master ended a mount's session")
    }
}

async fn send(up: &Up, msg: mount_up::Msg) {
    let sent = within("the master takes a message", up.send(pb::MountUp { msg: Some(msg) })).await;
    assert!(sent.is_ok(), "the master has ended a mount's session");
}

async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(ANSWER_DEADLINE, work).await;
    done.unwrap_or_else(|_| panic!("waited {ANSWER_DEADLINE:?} in vain: {what}"))
}

/// The task of a session: until the stream or the mount ends.
async fn listen(up: Up, mut down: Streaming<pb::MountDown>, tell: mpsc::Sender<Heard>) {
    let mut pings = tokio::time::interval(PING);
    let mut seq = 0;
    loop {
        let msg = tokio::select! {
            _ = pings.tick() => {
                seq += 1;
                send(&up, mount_up::Msg::Ping(pb::Ping { seq })).await;
                continue;
            }
            msg = down.message() => msg.ok().flatten().and_then(|down| down.msg),
        };
        let heard = match msg {
            Some(mount_down::Msg::Reply(reply)) => Heard::Reply(Box::new(reply)),
            Some(mount_down::Msg::UploadDone(done)) => Heard::Done(Box::new(done)),
            Some(mount_down::Msg::Invalidate(what)) => {
                let done = pb::InvalidateDone { seqs: vec![what.seq] };
                send(&up, mount_up::Msg::InvalidateDone(done)).await;
                continue;
            }
            Some(_) => continue,
            None => return,
        };
        if tell.send(heard).await.is_err() {
            return;
        }
    }
}

/// What clients did in a while.
#[derive(Clone, Copy, Default, Debug)]
pub struct Done {
    /// Operations of all clients.
    pub count: u64,
    /// From the first's beginning to the last one's end.
    pub took: Duration,
    /// The longest that one took.
    pub longest: Duration,
}

impl Done {
    /// Operations a second.
    pub fn rate(&self) -> f64 {
        self.count as f64 / self.took.as_secs_f64()
    }
}

/// One of the clients of a case: it does one operation after the other.
pub trait Client: Send + 'static {
    /// The next operation.
    fn step(&mut self) -> impl Future<Output = ()> + Send;
}

/// Has clients work side by side for so long, and returns them.
pub async fn work<C: Client>(clients: Vec<C>, each: Duration) -> (Vec<C>, Done) {
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for mut client in clients {
        tasks.spawn(async move {
            let mut done = Done::default();
            let mut now = Instant::now();
            // One operation at least, however slow.
            loop {
                client.step().await;
                let then = std::mem::replace(&mut now, Instant::now());
                done.longest = done.longest.max(now - then);
                done.count += 1;
                if begun.elapsed() >= each {
                    return (client, done);
                }
            }
        });
    }
    let (mut clients, mut all) = (Vec::new(), Done::default());
    while let Some(ended) = tasks.join_next().await {
        let (client, done) = ended.expect("a client of the benchmark failed");
        clients.push(client);
        all.count += done.count;
        all.longest = all.longest.max(done.longest);
    }
    all.took = begun.elapsed();
    (clients, all)
}
