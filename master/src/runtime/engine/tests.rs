//! The engine with the real core, on a store whose commits wait for a gate.

use std::sync::atomic::{AtomicU64, Ordering};

use dfs_proto::PROTOCOL_VERSION;
use dfs_proto::ids::{ClusterId, InodeNo};
use dfs_proto::looks::QUIET_AFTER_START;
use pb::{mount_reply, mount_request};

use tokio::sync::mpsc;

use super::*;
use crate::core::RowChange;
use crate::runtime::OUTBOX_CAPACITY;
use crate::store::{Identity, MemoryStore, Snapshot};

mod roll;

/// Longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Gate {
    Open,
    Closed,
    /// The disk is full.
    Full,
    /// It is full, and the store finds out by itself.
    FoundFull,
    Damaged,
}

/// Holds commits back while the gate is closed.
struct GatedStore {
    rows: MemoryStore,
    gate: Arc<(Mutex<Gate>, Condvar)>,
    waiting: Arc<AtomicU64>,
}

impl Store for GatedStore {
    fn identity(&mut self, fresh: Identity) -> Result<Identity, StoreError> {
        self.rows.identity(fresh)
    }

    fn snapshot(&mut self) -> Result<Box<dyn Snapshot>, StoreError> {
        self.rows.snapshot()
    }

    fn reopen(&mut self) -> Result<(), StoreError> {
        self.rows.reopen()
    }

    fn commit(&mut self, changes: &[RowChange]) -> Result<(), StoreError> {
        let (gate, moved) = &*self.gate;
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let gate = moved.wait_while(gate.lock().unwrap(), |gate| *gate == Gate::Closed).unwrap();
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        match *gate {
            Gate::Full | Gate::FoundFull => Err(no_room()),
            Gate::Damaged => Err(StoreError::Corrupt { path: "gate".into(), why: "broken".to_owned() }),
            Gate::Open | Gate::Closed => self.rows.commit(changes),
        }
    }

    fn check(&mut self) -> Result<(), StoreError> {
        if *self.gate.0.lock().unwrap() == Gate::FoundFull { Err(no_room()) } else { Ok(()) }
    }
}

fn no_room() -> StoreError {
    StoreError::Io { path: "gate".into(), why: "no room".to_owned(), kind: std::io::ErrorKind::StorageFull }
}

struct Fixture {
    engine: Engine,
    rows: MemoryStore,
    gate: Arc<(Mutex<Gate>, Condvar)>,
    waiting: Arc<AtomicU64>,
}

struct Mount {
    link: Link<SessionId>,
    inbox: mpsc::Receiver<mount_down::Msg>,
}

fn settings() -> Settings {
    Settings {
        cluster: ClusterId([1; 16]),
        secret: [2; 32],
        master_epoch: 3,
        copies: 3,
        min_copies: 2,
        chunk_size: 1 << 20,
        replicate_every_ms: 10_000,
        repair_rate: 100 << 20,
        compact_after_ms: 10_000,
        spared: None,
        trash_ms: 0,
    }
}

impl Fixture {
    fn on(rows: MemoryStore) -> Fixture {
        // Nobody is left who knows anything of the time before.
        Fixture::since(rows, Instant::now().checked_sub(quiet::LONGEST).unwrap())
    }

    fn since(rows: MemoryStore, listens_since: Instant) -> Fixture {
        let gate = Arc::new((Mutex::new(Gate::Open), Condvar::new()));
        let waiting = Arc::new(AtomicU64::new(0));
        let store = GatedStore { rows: rows.clone(), gate: gate.clone(), waiting: waiting.clone() };
        let engine = Engine::start(Box::new(store), settings(), listens_since).unwrap();
        Fixture { engine, rows, gate, waiting }
    }

    fn new() -> Fixture {
        Fixture::on(MemoryStore::new())
    }

    fn set(&self, to: Gate) {
        *self.gate.0.lock().unwrap() = to;
        self.gate.1.notify_all();
    }

    /// Until the commit thread stands before the closed gate.
    async fn commit_waits(&self) {
        let waits = async {
            while self.waiting.load(Ordering::SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, waits).await.unwrap();
    }

    async fn mount(&self) -> Mount {
        self.mount_again(0).await
    }

    async fn mount_again(&self, session: u64) -> Mount {
        let hello = pb::MountHello { protocol_version: PROTOCOL_VERSION, session, ..Default::default() };
        let (outbox, inbox) = mpsc::channel(OUTBOX_CAPACITY);
        let link = self
            .engine
            .connect_mount(hello, (InodeNo::ROOT, Default::default()), outbox)
            .await
            .unwrap()
            .unwrap();
        let mut mount = Mount { link, inbox };
        assert!(matches!(mount.next().await, mount_down::Msg::Welcome(_)));
        mount
    }

    async fn ask(&self, mount: &Mount, id: u64, op: mount_request::Op) {
        self.engine
            .mount_request(
                &mount.link,
                pb::MountRequest { id, op: Some(op), answered_below: 0, ..Default::default() },
            )
            .await
            .unwrap();
    }

    /// Asks and waits for the answer.
    async fn call(&self, mount: &mut Mount, id: u64, op: mount_request::Op) -> mount_reply::Result {
        self.ask(mount, id, op).await;
        loop {
            if let mount_down::Msg::Reply(reply) = mount.next().await {
                assert_eq!(reply.id, id);
                return reply.result.unwrap();
            }
        }
    }

    /// The same, where the answer to `before` comes first.
    async fn call_behind(
        &self,
        mount: &mut Mount,
        id: u64,
        op: mount_request::Op,
        before: u64,
    ) -> mount_reply::Result {
        self.ask(mount, id, op).await;
        let first = mount.next().await;
        assert!(
            matches!(first, mount_down::Msg::Reply(pb::MountReply { id, .. }) if id == before),
            "{first:?}"
        );
        match mount.next().await {
            mount_down::Msg::Reply(reply) if reply.id == id => reply.result.unwrap(),
            other => panic!("{other:?}"),
        }
    }

    async fn mkdir(&self, mount: &mut Mount, id: u64, name: &'static str) -> u64 {
        match self.call(mount, id, mkdir(1, name)).await {
            mount_reply::Result::Attr(attr) => attr.inode,
            other => panic!("{other:?}"),
        }
    }
}

impl Mount {
    async fn next(&mut self) -> mount_down::Msg {
        tokio::time::timeout(DEADLINE, self.inbox.recv()).await.unwrap().unwrap()
    }

    /// The ids of the replies that have arrived.
    fn replies(&mut self) -> Vec<u64> {
        std::iter::from_fn(|| self.inbox.try_recv().ok())
            .filter_map(|msg| match msg {
                mount_down::Msg::Reply(reply) => Some(reply.id),
                _ => None,
            })
            .collect()
    }
}

fn mkdir(parent: u64, name: &'static str) -> mount_request::Op {
    mount_request::Op::Mkdir(pb::Mkdir { parent, name: name.into(), mode: 0o755, uid: 0, gid: 0, umask: 0 })
}

fn getattr(inode: u64) -> mount_request::Op {
    mount_request::Op::Getattr(pb::Getattr { inode })
}

#[tokio::test]
async fn no_answer_leaves_before_its_change_is_durable() {
    let fixture = Fixture::new();
    let mut mount = fixture.mount().await;
    fixture.set(Gate::Closed);
    fixture.ask(&mount, 1, mkdir(1, "a")).await;
    fixture.commit_waits().await;
    assert!(mount.replies().is_empty());
    let before = fixture.rows.rows();
    fixture.set(Gate::Open);
    assert!(matches!(mount.next().await, mount_down::Msg::Reply(pb::MountReply { id: 1, .. })));
    assert_ne!(fixture.rows.rows(), before);
}

#[tokio::test]
async fn clean_inodes_are_read_at_once_and_changed_ones_wait() {
    let fixture = Fixture::new();
    let (mut writer, mut reader) = (fixture.mount().await, fixture.mount().await);
    let changed = fixture.mkdir(&mut writer, 1, "changed").await;
    let clean = fixture.mkdir(&mut writer, 2, "clean").await;
    fixture.engine.read(|_, _| ()).await.unwrap();
    reader.replies();

    fixture.set(Gate::Closed);
    fixture.ask(&writer, 3, mkdir(changed, "below")).await;
    fixture.commit_waits().await;
    fixture.ask(&reader, 10, getattr(clean)).await;
    fixture.ask(&reader, 11, getattr(changed)).await;
    fixture.ask(&reader, 12, getattr(clean)).await;
    fixture.ask(&writer, 13, getattr(clean)).await;
    assert_eq!(reader.replies(), vec![10, 12]);
    assert_eq!(writer.replies(), vec![13]);
    fixture.set(Gate::Open);
    fixture.engine.read(|_, _| ()).await.unwrap();
    assert_eq!((writer.replies(), reader.replies()), (vec![3], vec![11]));
}

#[tokio::test]
async fn what_nobody_waits_for_is_committed_with_what_somebody_does() {
    // Without a word the commit thread looks half a second after its last commit.
    const AT_ONCE: Duration = Duration::from_millis(300);
    let fixture = Fixture::new();
    let mut mount = fixture.mount().await;
    let dir = fixture.mkdir(&mut mount, 1, "read").await;
    let touch = || mount_request::Op::TouchAtime(pb::TouchAtime { inode: dir, always: true });
    let before = fixture.rows.commits();
    fixture.ask(&mount, 2, touch()).await;
    let seen = fixture.call_behind(&mut mount, 3, getattr(dir), 2).await;
    assert!(matches!(seen, mount_reply::Result::Attr(_)), "{seen:?}");
    assert_eq!(fixture.rows.commits(), before + 1);
    // Alone, it is committed all the same.
    fixture.ask(&mount, 4, touch()).await;
    assert!(matches!(mount.next().await, mount_down::Msg::Reply(pb::MountReply { id: 4, .. })));

    // The machine may be busy for a while.
    let (mut waited, mut looked) = (false, false);
    for (n, name) in ["a", "b", "c", "d", "e", "f", "g", "h"].into_iter().enumerate() {
        let id = 10 * (n as u64 + 1);
        fixture.mkdir(&mut mount, id, name).await;
        let began = Instant::now();
        fixture.ask(&mount, id + 1, touch()).await;
        tokio::time::sleep(AT_ONCE / 10).await;
        if began.elapsed() < AT_ONCE {
            assert!(mount.replies().is_empty(), "it was in a hurry");
            waited = true;
        }
        let asked = Instant::now();
        fixture.engine.read(|_, _| ()).await.unwrap();
        looked |= asked.elapsed() < AT_ONCE && began.elapsed() < AT_ONCE;
        mount.replies();
        if waited && looked {
            return;
        }
    }
    panic!("waited: {waited}, committed for who looks: {looked}");
}

#[tokio::test]
async fn many_commands_share_one_commit() {
    let fixture = Fixture::new();
    let mut mount = fixture.mount().await;
    fixture.mkdir(&mut mount, 1, "first").await;
    fixture.set(Gate::Closed);
    let before = fixture.rows.commits();
    for id in 2..502 {
        let name = format!("d{id}");
        let op = pb::Mkdir { parent: 1, name: name.into(), mode: 0o755, uid: 0, gid: 0, umask: 0 };
        fixture.ask(&mount, id, mount_request::Op::Mkdir(op)).await;
        fixture.commit_waits().await;
    }
    assert!(mount.replies().is_empty());
    fixture.set(Gate::Open);
    fixture.engine.read(|_, _| ()).await.unwrap();
    assert_eq!(mount.replies(), (2..502).collect::<Vec<_>>());
    assert_eq!(fixture.rows.commits() - before, 2, "one that waited, and one for all that came meanwhile");
}

#[tokio::test]
async fn a_look_at_the_state_waits_until_what_it_saw_is_durable() {
    let fixture = Fixture::new();
    let mount = fixture.mount().await;
    fixture.set(Gate::Closed);
    fixture.ask(&mount, 1, mkdir(1, "a")).await;
    fixture.commit_waits().await;
    let engine = fixture.engine.clone();
    let mut look = tokio::spawn(async move { engine.read(|state, now| state.status(now)).await });
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert!(!look.is_finished());
    fixture.set(Gate::Open);
    let status = tokio::time::timeout(DEADLINE, &mut look).await.unwrap().unwrap().unwrap();
    assert_eq!(status.directories, 2);
}

#[tokio::test]
async fn commands_wait_when_the_queue_is_full_and_ticks_are_left_out() {
    let fixture = Fixture::new();
    let mount = fixture.mount().await;
    fixture.set(Gate::Closed);
    for id in 0..MAX_QUEUED_COMMANDS as u64 {
        let op = pb::Mkdir { parent: 1, name: format!("{id}").into(), mode: 0o755, uid: 0, gid: 0, umask: 0 };
        fixture.ask(&mount, id, mount_request::Op::Mkdir(op)).await;
    }
    let request =
        pb::MountRequest { id: 1 << 20, op: Some(getattr(1)), answered_below: 0, ..Default::default() };
    let mut one_more = Box::pin(fixture.engine.mount_request(&mount.link, request));
    tokio::select! {
        biased;
        _ = &mut one_more => panic!("there was no room"),
        () = tokio::task::yield_now() => {}
    }
    fixture.engine.tick().unwrap();
    fixture.set(Gate::Open);
    tokio::time::timeout(DEADLINE, one_more).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_failed_commit_ends_everything_and_shows_nothing() {
    let fixture = Fixture::new();
    let mut mount = fixture.mount().await;
    fixture.set(Gate::Closed);
    fixture.ask(&mount, 1, mkdir(1, "a")).await;
    fixture.commit_waits().await;
    fixture.set(Gate::Damaged);
    let reason = tokio::time::timeout(DEADLINE, fixture.engine.failed()).await.unwrap();
    assert!(reason.starts_with("commit of changes: store gate: it is damaged: broken"), "{reason}");
    tokio::time::timeout(DEADLINE, fixture.engine.finished()).await.unwrap();
    assert_eq!(mount.inbox.recv().await, None, "no answer, and the stream ends");
    let request = pb::MountRequest { id: 2, op: Some(getattr(1)), answered_below: 0, ..Default::default() };
    assert_eq!(fixture.engine.mount_request(&mount.link, request).await, Err(Stopped));
    assert_eq!(fixture.engine.tick(), Err(Stopped));
    assert_eq!(fixture.engine.read(|_, _| ()).await, Err(Stopped));
}

#[tokio::test]
async fn while_the_disk_is_full_changes_are_refused_reads_go_on_and_what_waited_is_done_when_there_is_room() {
    let fixture = Fixture::new();
    let (mut writer, mut reader) = (fixture.mount().await, fixture.mount().await);
    let clean = fixture.mkdir(&mut writer, 1, "clean").await;
    fixture.engine.read(|_, _| ()).await.unwrap();
    reader.replies();
    fixture.set(Gate::Full);
    fixture.ask(&writer, 2, mkdir(1, "waits")).await;
    let refused = async {
        for id in 3.. {
            fixture.ask(&reader, id, mkdir(clean, "refused")).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            match reader.inbox.try_recv() {
                Ok(mount_down::Msg::Reply(reply)) => return reply.result.unwrap(),
                _ => continue,
            }
        }
        unreachable!()
    };
    let refusal = tokio::time::timeout(DEADLINE, refused).await.unwrap();
    let mount_reply::Result::Error(error) = refusal else { panic!("not refused: {refusal:?}") };
    assert_eq!(error.code, pb::Code::NoSpace as i32, "{error:?}");
    assert!(writer.replies().is_empty(), "nobody is told of what is not stored");
    // That of the root would show what waits; and what the reader asked for before the refusal touches `clean`.
    let file = pb::MountRequest {
        id: 900,
        op: Some(getattr(clean + 1_000)),
        answered_below: 0,
        ..Default::default()
    };
    fixture.engine.mount_request(&reader.link, file).await.unwrap();
    assert!(matches!(reader.next().await, mount_down::Msg::Reply(pb::MountReply { id: 900, .. })));
    let operated = fixture.engine.operate(Operation::Fsck { repair: false }).await.unwrap();
    assert_eq!(operated.unwrap_err().code, dfs_proto::error::ErrorCode::NoSpace);
    for _ in 0..2 * MAX_QUEUED_COMMANDS {
        fixture.engine.tick().unwrap();
    }
    assert!(fixture.engine.shared.room.available_permits() >= MAX_QUEUED_COMMANDS / 2 - 1);

    fixture.set(Gate::Open);
    assert!(matches!(writer.next().await, mount_down::Msg::Reply(pb::MountReply { id: 2, .. })));
    fixture.mkdir(&mut writer, 1_000, "again").await;
    let again = Fixture::on(fixture.rows.clone());
    let status = again.engine.read(|state, now| state.status(now)).await.unwrap();
    assert!(status.directories >= 4, "{status:?}");
}

#[tokio::test]
async fn a_disk_that_is_full_is_noticed_when_nobody_asks_for_anything_and_so_is_room() {
    let fixture = Fixture::new();
    let mut mount = fixture.mount().await;
    let trouble = |there: bool| {
        let shared = fixture.engine.shared.clone();
        let until = async move {
            while shared.inner.lock().unwrap().trouble.is_some() != there {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(DEADLINE, until)
    };
    fixture.set(Gate::FoundFull);
    trouble(true).await.unwrap();
    let refused = fixture.call(&mut mount, 1, mkdir(1, "a")).await;
    assert!(matches!(refused, mount_reply::Result::Error(_)), "{refused:?}");
    fixture.set(Gate::Open);
    trouble(false).await.unwrap();
    fixture.mkdir(&mut mount, 2, "a").await;
}

#[tokio::test]
async fn a_stop_commits_and_delivers_what_was_begun() {
    let fixture = Fixture::new();
    let mut mount = fixture.mount().await;
    fixture.set(Gate::Closed);
    for id in 1..=2 {
        fixture.ask(&mount, id, mkdir(1, ["a", "b"][id as usize - 1])).await;
        fixture.commit_waits().await;
    }
    fixture.engine.stop();
    fixture.set(Gate::Open);
    tokio::time::timeout(DEADLINE, fixture.engine.finished()).await.unwrap();
    assert_eq!(mount.replies(), vec![1, 2]);
    assert_eq!(mount.inbox.recv().await, None);

    let again = Fixture::on(fixture.rows.clone());
    let status = again.engine.read(|state, now| state.status(now)).await.unwrap();
    assert_eq!(status.directories, 3);
}

#[tokio::test]
async fn a_session_that_comes_back_takes_over() {
    let fixture = Fixture::new();
    let mut old = fixture.mount().await;
    let hello =
        pb::MountHello { protocol_version: PROTOCOL_VERSION, session: old.link.peer.0, ..Default::default() };
    let (outbox, inbox) = mpsc::channel(OUTBOX_CAPACITY);
    let link = fixture
        .engine
        .connect_mount(hello, (InodeNo::ROOT, Default::default()), outbox)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(link.peer, old.link.peer);
    let mut new = Mount { link, inbox };
    let mount_down::Msg::Welcome(welcome) = new.next().await else { panic!("no welcome") };
    assert!(welcome.resumed);

    assert!((&mut old.link.closed).await.is_err());
    assert_eq!(old.inbox.recv().await, None);
    fixture.ask(&old, 7, mkdir(1, "from-the-old")).await;
    fixture.engine.disconnect_mount(old.link, false).await.unwrap();
    fixture.mkdir(&mut new, 8, "from-the-new").await;
    let status = fixture.engine.read(|state, now| state.status(now)).await.unwrap();
    assert_eq!((status.directories, status.mounts), (2, 1));
}

/// As a master left it that was killed while this session was there.
async fn a_store_with(name: &'static str) -> (MemoryStore, u64) {
    let fixture = Fixture::new();
    let mut mount = fixture.mount().await;
    fixture.mkdir(&mut mount, 1, name).await;
    fixture.engine.stop();
    fixture.engine.finished().await;
    (fixture.rows.clone(), mount.link.peer.0)
}

#[tokio::test]
async fn a_master_that_starts_takes_no_change_while_mounts_may_believe_that_it_is_down() {
    let hour = Duration::from_secs(3_600);
    let fixture = Fixture::since(a_store_with("a").await.0, Instant::now() + hour);
    let (writer, mut reader) = (fixture.mount().await, fixture.mount().await);
    let (engine, link) = (fixture.engine.clone(), writer.link);
    let before = fixture.rows.rows();
    let request =
        pb::MountRequest { id: 1, op: Some(mkdir(1, "b")), answered_below: 0, ..Default::default() };
    let change = tokio::spawn(async move { engine.mount_request(&link, request).await });
    let engine = fixture.engine.clone();
    let quota = Operation::Quota { path: "/a".into(), limits: None };
    let order = tokio::spawn(async move { engine.operate(quota).await });
    // Who asks is answered.
    for id in 1..100 {
        assert!(matches!(fixture.call(&mut reader, id, getattr(1)).await, mount_reply::Result::Attr(_)));
    }
    assert!(!change.is_finished() && !order.is_finished());
    assert_eq!(fixture.rows.rows(), before);
    change.abort();
    order.abort();
}

#[tokio::test]
async fn after_its_quiet_time_a_master_takes_changes_and_a_fresh_one_has_none() {
    let (rows, session) = a_store_with("a").await;
    let since = Instant::now();
    let fixture = Fixture::since(rows, since);
    let mut mount = fixture.mount_again(session).await;
    fixture.mkdir(&mut mount, 1, "b").await;
    assert!(since.elapsed() >= QUIET_AFTER_START);
    // Nobody knows anything of a fresh cluster.
    let fixture = Fixture::since(MemoryStore::new(), Instant::now());
    let mut mount = fixture.mount().await;
    assert!(fixture.engine.shared.quiet.is_over());
    fixture.mkdir(&mut mount, 1, "a").await;
}
