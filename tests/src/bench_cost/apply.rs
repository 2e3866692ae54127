//! Commands of the master's pure core, on a state with some files: no store, no sessions, no threads.

use dfs_master::core::{Applied, Command, Effect, Settings, State};
use dfs_proto::ids::{ClusterId, InodeNo, KeeperId, SessionId};
use dfs_proto::pb::{self, keeper_up, mount_down, mount_reply::Result as Reply, mount_request::Op};

use super::Costs;

const SESSION: SessionId = SessionId(7);
const KEEPERS: u64 = 5;
/// Bytes of each file.
const LENGTH: u64 = 16 << 10;

/// Nanoseconds of this thread's processor time for each command of each kind, on `files` files.
///
/// # Panics
/// When the core refuses what it must not refuse.
pub fn costs(files: usize) -> Costs {
    let mut core = Core::new();
    let mut costs = Costs::new();
    let mut note = |name: &str, ns: f64| {
        costs.insert(format!("apply {name}, ns"), ns);
    };
    let name = |n: usize| bytes(&format!("file-{n:08}"));

    let mut inodes = Vec::with_capacity(files);
    note("create", core.each(files, |core, n| inodes.push(core.create(name(n)))));
    note("upload (place, stored)", core.each(files, |core, n| core.upload(inodes[n])));
    note("lookup", core.each(files, |core, n| drop(core.ask(Op::Lookup(lookup(name(n)))))));
    note(
        "getattr",
        core.each(files, |core, n| drop(core.ask(Op::Getattr(pb::Getattr { inode: inodes[n] })))),
    );
    note("chmod", core.each(files, |core, n| core.chmod(inodes[n])));
    note("list, an entry", core.each(1, |core, _| core.list(files)) / files as f64);
    note("heartbeat", core.each(files, |core, n| core.heartbeat(1 + n as u64 % KEEPERS)));
    let renamed = |n: usize| bytes(&format!("renamed-{n:08}"));
    note("rename", core.each(files, |core, n| core.rename(name(n), renamed(n))));
    note(
        "unlink",
        core.each(files, |core, n| {
            drop(core.ask(Op::Unlink(pb::Unlink { parent: InodeNo::ROOT.0, name: renamed(n) })));
        }),
    );
    costs
}

fn bytes(name: &str) -> prost::bytes::Bytes {
    prost::bytes::Bytes::copy_from_slice(name.as_bytes())
}

fn lookup(name: prost::bytes::Bytes) -> pb::Lookup {
    pb::Lookup { parent: InodeNo::ROOT.0, name }
}

/// The state, one mount and some keepers.
struct Core {
    state: State,
    now_ms: i64,
    requests: u64,
}

impl Core {
    fn new() -> Core {
        let settings = Settings {
            cluster: ClusterId([1; 16]),
            secret: [2; 32],
            master_epoch: 3,
            copies: 3,
            min_copies: 2,
            chunk_size: 8 << 20,
            repair_rate: 100 << 20,
            replicate_every_ms: 10_000,
            compact_after_ms: 10_000,
            spared: None,
            trash_ms: 0,
        };
        let mut core = Core { state: State::new(settings), now_ms: 1_700_000_000_000, requests: 0 };
        let _ = core.state.bootstrap(core.now());
        for keeper in 1..=KEEPERS {
            core.apply(Command::KeeperHello(pb::KeeperHello {
                protocol_version: dfs_proto::PROTOCOL_VERSION,
                keeper,
                address: format!("10.0.0.{keeper}:4000"),
                data_dir: format!("/srv/{keeper}"),
                host: format!("host-{keeper}"),
                load: Some(load()),
                ..Default::default()
            }));
            let page = pb::InventoryPage { last: true, ..Default::default() };
            core.keeper(keeper, keeper_up::Msg::Inventory(page));
        }
        core.apply(Command::Enroll(SESSION));
        let protocol_version = dfs_proto::PROTOCOL_VERSION;
        let hello = pb::MountHello { protocol_version, session: SESSION.0, ..Default::default() };
        core.apply(Command::MountHello {
            fresh: SESSION,
            root: InodeNo::ROOT,
            ids: Default::default(),
            hello,
        });
        core
    }

    fn now(&self) -> pb::Time {
        pb::Time { sec: self.now_ms / 1000, nsec: (self.now_ms % 1000) as u32 * 1_000_000 }
    }

    fn apply(&mut self, command: Command) -> Applied {
        self.state.apply(command, self.now())
    }

    /// Does `work` so often; nanoseconds of processor time for each. Between them keepers are heard of, which is not counted.
    fn each(&mut self, times: usize, mut work: impl FnMut(&mut Core, usize)) -> f64 {
        const BETWEEN: usize = 1_000;
        let mut used = 0;
        for first in (0..times).step_by(BETWEEN) {
            self.now_ms += 100;
            (1..=KEEPERS).for_each(|keeper| self.heartbeat(keeper));
            let began = thread_cpu_ns();
            (first..times.min(first + BETWEEN)).for_each(|n| work(self, n));
            used += thread_cpu_ns() - began;
        }
        used as f64 / times as f64
    }

    fn ask(&mut self, op: Op) -> Reply {
        self.requests += 1;
        let id = self.requests;
        let request =
            pb::MountRequest { id, caller: None, op: Some(op), answered_below: id, ..Default::default() };
        let applied = self.apply(Command::Mount { session: SESSION, request });
        let reply = applied.effects.into_iter().find_map(|effect| match effect {
            Effect::ToMount(_, mount_down::Msg::Reply(reply)) if reply.id == id => reply.result,
            _ => None,
        });
        match reply.expect("no reply") {
            Reply::Error(error) => panic!("refused: {error:?}"),
            reply => reply,
        }
    }

    fn keeper(&mut self, keeper: u64, msg: keeper_up::Msg) -> Applied {
        self.apply(Command::Keeper { keeper: KeeperId(keeper), msg })
    }

    fn heartbeat(&mut self, keeper: u64) {
        self.keeper(
            keeper,
            keeper_up::Msg::Heartbeat(pb::Heartbeat { load: Some(load()), ..Default::default() }),
        );
    }

    fn create(&mut self, name: prost::bytes::Bytes) -> u64 {
        let create = pb::Create { parent: InodeNo::ROOT.0, name, mode: 0o644, ..Default::default() };
        match self.ask(Op::Create(create)) {
            Reply::Attr(attr) => {
                self.ask(Op::Release(pb::Release { inode: attr.inode }));
                attr.inode
            }
            other => panic!("not created: {other:?}"),
        }
    }

    fn upload(&mut self, inode: u64) {
        let runs = vec![pb::Run { file_offset: 0, length: LENGTH }];
        let mtime = Some(self.now());
        let alloc = pb::Alloc { inode, runs, mtime, ..Default::default() };
        let Reply::Placed(placed) = self.ask(Op::Alloc(alloc)) else { panic!("not placed") };
        let keepers: Vec<u64> =
            placed.grant.expect("no ticket").keepers.iter().map(|grant| grant.keeper).collect();
        let info = Some(pb::ChunkInfo { chunk: placed.chunk, length: LENGTH as u32, checksum: 1 });
        let first = keepers[0];
        let applied = self.keeper(
            first,
            keeper_up::Msg::Stored(pb::Stored { info, keepers, synced: true, ..Default::default() }),
        );
        let is_done = |effect: &Effect| matches!(effect, Effect::ToMount(_, mount_down::Msg::UploadDone(done)) if done.error.is_none());
        assert!(applied.effects.iter().any(is_done), "step 6 is missing");
    }

    fn chmod(&mut self, inode: u64) {
        self.ask(Op::Setattr(pb::Setattr { inode, mode: Some(0o600), ..Default::default() }));
    }

    fn list(&mut self, entries: usize) {
        let (mut after, mut seen) = (prost::bytes::Bytes::new(), 0);
        loop {
            let ask = pb::Readdir { inode: InodeNo::ROOT.0, after, limit: 1_000 };
            let Reply::Entries(page) = self.ask(Op::Readdir(ask)) else { panic!("no list") };
            seen += page.entries.len();
            if page.end {
                return assert_eq!(seen, entries);
            }
            after = page.entries.last().expect("an empty page").name.clone();
        }
    }

    fn rename(&mut self, from: prost::bytes::Bytes, to: prost::bytes::Bytes) {
        let root = InodeNo::ROOT.0;
        let rename =
            pb::Rename { parent: root, name: from, new_parent: root, new_name: to, ..Default::default() };
        self.ask(Op::Rename(rename));
    }
}

fn load() -> pb::Load {
    pb::Load { total: 1 << 40, free: 1 << 40, ..Default::default() }
}

fn thread_cpu_ns() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}
