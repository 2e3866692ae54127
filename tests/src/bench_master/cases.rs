//! What is measured: the start, memory, heartbeats, look-ups, creates, renames, whole files, a pause, a long list.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dfs_proto::pb::{self, mount_reply, mount_request::Op};
use prost::Message;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Runtime;

use super::fill::fill;
use super::keepers::Keepers;
use super::mounts::{Client, Done, Mount, work};
use super::report::Figures;
use super::tree::{FILE_LEN, Tree};
use super::{Plan, long_deadline};
use crate::bench::cpu_s_of;
use crate::process::Process;
use crate::random::Rng;
use crate::scratch::Scratch;
use crate::wait::wait_for;

/// How many clients work side by side, in turn.
const CLIENTS: [usize; 3] = [1, 16, 64];
/// Of those that keep the master's disk busy while somebody looks up.
const PERSISTING: usize = 16;

/// Measures one number of files.
///
/// # Panics
/// When anything is not as it should be, or takes too long.
pub fn measure(plan: &Plan) -> Figures {
    raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut figures = Figures::new(plan);
    let empty = empty_rss(&runtime, plan);

    let tree = Tree::new(plan.files, plan.keepers, plan.entries);
    let scratch = Scratch::new();
    let begun = Instant::now();
    fill(&tree, &scratch.path("master"));
    eprintln!("{} files: the store is made in {:.0} s", plan.files, begun.elapsed().as_secs_f64());
    let begun = Instant::now();
    let master = Master::start(scratch, plan.files);
    runtime.block_on(async {
        let mut first = Mount::connect(&master.url).await;
        if plan.files > 0 {
            first.inode(look_up(&tree, plan.files / 2)).await;
        }
        figures.set("start", begun.elapsed().as_secs_f64());
        first.close().await;
        let begun = Instant::now();
        let keepers = Arc::new(Keepers::join(&tree, &master.url).await);
        figures.set("join", begun.elapsed().as_secs_f64());
        let bytes = master.process.rss().saturating_sub(empty) as f64;
        figures.set("memory", bytes / plan.files as f64);
        figures.set("memory_peak", master.process.peak_rss() as f64 / plan.files as f64);
        heartbeats(&master, plan.each, &mut figures).await;
        let cases = Cases { tree: &tree, url: &master.url, each: plan.each, keepers: keepers.clone() };
        cases.look_ups(&mut figures).await;
        cases.creates(&mut figures).await;
        cases.pause(&mut figures).await;
        cases.whole_files(&mut figures).await;
        // Last of those with names: nobody finds the files by their old ones then.
        cases.renames(&mut figures).await;
        cases.list(&mut figures).await;
        keepers.check();
    });
    figures
}

/// Every session is an open file here, and one at the master, which inherits the limit.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    // Where it may not be raised, a connection fails, and says so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// The memory of a master with as many keepers, and no file.
fn empty_rss(runtime: &Runtime, plan: &Plan) -> u64 {
    let tree = Tree::new(0, plan.keepers, 0);
    let scratch = Scratch::new();
    fill(&tree, &scratch.path("master"));
    let master = Master::start(scratch, 0);
    runtime.block_on(async {
        let keepers = Keepers::join(&tree, &master.url).await;
        keepers.check();
        master.process.rss()
    })
}

struct Master {
    process: Process,
    url: String,
    /// Goes last.
    _scratch: Scratch,
}

impl Master {
    /// On the scratch's directory `master`; returns when it is listening.
    fn start(scratch: Scratch, files: u64) -> Master {
        let data = scratch.path("master");
        let mut command = scratch.command("dfs-master");
        command.args(["--listen", "127.0.0.1:0", "--log", "warn", "--data"]).arg(&data);
        let environment = scratch.environment();
        let process = Process::start(&scratch, "master", move || {
            let mut again = std::process::Command::new(command.get_program());
            again.args(command.get_args());
            for (name, value) in &environment {
                match value {
                    Some(value) => again.env(name, value),
                    None => again.env_remove(name),
                };
            }
            again
        });
        let mut master = Master { process, url: String::new(), _scratch: scratch };
        let address = wait_for(long_deadline(files), "the master listens", || {
            assert!(master.process.is_running(), "the master ended");
            fs::read_to_string(data.join("address")).ok()
        });
        master.url = format!("http://{}", address.trim());
        master
    }

    fn cpu_s(&self) -> f64 {
        cpu_s_of(&self.process.pid().as_raw_nonzero().to_string()).unwrap()
    }
}

/// What the master's processor time is when nothing but heartbeats comes.
async fn heartbeats(master: &Master, each: Duration, figures: &mut Figures) {
    // Heartbeats come once a second.
    let each = each.max(Duration::from_secs(2));
    let (begun, before) = (Instant::now(), master.cpu_s());
    tokio::time::sleep(each).await;
    let used = master.cpu_s() - before;
    figures.set("heartbeats", 100.0 * used / begun.elapsed().as_secs_f64());
}

fn look_up(tree: &Tree, file: u64) -> Op {
    let parent = tree.directory_inode(tree.directory_of(file));
    Op::Lookup(pb::Lookup { parent, name: tree.name(file).into() })
}

struct Cases<'a> {
    tree: &'a Tree,
    url: &'a str,
    each: Duration,
    keepers: Arc<Keepers>,
}

impl Cases<'_> {
    /// Has so many clients work, each made of a session of its own and its number.
    async fn clients<C: Client>(&self, count: usize, make: impl Fn(Mount, usize) -> C) -> (Vec<C>, Done) {
        let mounts = Mount::connect_all(self.url, count).await;
        let clients = mounts.into_iter().enumerate().map(|(number, mount)| make(mount, number)).collect();
        work(clients, self.each).await
    }

    async fn look_ups(&self, figures: &mut Figures) {
        for count in CLIENTS {
            let (clients, done) = self.clients(count, |mount, number| self.looker(mount, number)).await;
            figures.set(&format!("lookup_x{count}"), done.rate());
            close_all(clients.into_iter().map(|client| client.mount)).await;
        }
    }

    fn looker(&self, mount: Mount, number: usize) -> Looker {
        Looker { mount, tree: self.tree.clone(), rng: Rng::new(number as u64) }
    }

    /// A directory of its own for each client.
    async fn makers(&self, count: usize, case: &str) -> Vec<Maker> {
        let mut makers = Vec::new();
        for number in 0..count {
            let mut mount = Mount::connect(self.url).await;
            let name = format!("{case}-{count}-{number}");
            let mkdir = pb::Mkdir { parent: 1, name: name.into(), mode: 0o755, ..pb::Mkdir::default() };
            let directory = mount.inode(Op::Mkdir(mkdir)).await;
            makers.push(Maker { mount, directory, made: 0 });
        }
        makers
    }

    async fn creates(&self, figures: &mut Figures) {
        for count in CLIENTS {
            let makers = self.makers(count, "create").await;
            let (makers, done) = work(makers, self.each).await;
            figures.set(&format!("create_x{count}"), done.rate());
            close_all(makers.into_iter().map(|maker| maker.mount)).await;
        }
    }

    async fn renames(&self, figures: &mut Figures) {
        // A client goes on with what those of the turn before renamed.
        let mut renamed = vec![0; CLIENTS[CLIENTS.len() - 1]];
        for count in CLIENTS {
            let renamer = |mount, number: usize| {
                let directory = number as u64 * self.tree.small_directories() / renamed.len() as u64;
                Renamer { mount, tree: self.tree.clone(), directory, number, renamed: renamed[number] }
            };
            let (clients, done) = self.clients(count, renamer).await;
            figures.set(&format!("rename_x{count}"), done.rate());
            for client in &clients {
                renamed[client.number] = client.renamed;
            }
            close_all(clients.into_iter().map(|client| client.mount)).await;
        }
    }

    /// A create, an upload of one chunk and its success.
    async fn whole_files(&self, figures: &mut Figures) {
        let uploader = |maker| Uploader { maker, keepers: self.keepers.clone() };
        let uploaders = self.makers(PERSISTING, "whole").await.into_iter().map(uploader).collect();
        let (uploaders, done) = work(uploaders, self.each).await;
        figures.set("file", done.rate());
        close_all(uploaders.into_iter().map(|uploader| uploader.maker.mount)).await;
    }

    /// The longest that a look-up takes while others keep the disk busy.
    async fn pause(&self, figures: &mut Figures) {
        let makers = self.makers(PERSISTING, "pause").await;
        let looker = self.looker(Mount::connect(self.url).await, 0);
        let ((makers, made), (lookers, looked)) =
            tokio::join!(work(makers, self.each), work(vec![looker], self.each));
        figures.set("pause", looked.longest.as_secs_f64() * 1e3);
        figures.set("create_longest", made.longest.as_secs_f64() * 1e3);
        close_all(makers.into_iter().map(|maker| maker.mount)).await;
        close_all(lookers.into_iter().map(|looker| looker.mount)).await;
    }

    /// All of the large directory, page by page.
    async fn list(&self, figures: &mut Figures) {
        let mut mount = Mount::connect(self.url).await;
        let (begun, inode) = (Instant::now(), self.tree.large_inode());
        let (mut after, mut seen) = (Default::default(), 0u64);
        loop {
            match mount.call(Op::Readdir(pb::Readdir { inode, after, limit: 0 })).await {
                mount_reply::Result::Entries(page) => {
                    seen += page.entries.len() as u64;
                    after = page.entries.last().map(|entry| entry.name.clone()).unwrap_or_default();
                    if page.end {
                        break;
                    }
                }
                other => panic!("list directory {inode}: {other:?}"),
            }
        }
        assert_eq!(seen, self.tree.large, "entries of the large directory");
        figures.set("list", seen as f64 / begun.elapsed().as_secs_f64());
        mount.close().await;
    }
}

async fn close_all(mounts: impl Iterator<Item = Mount>) {
    for mount in mounts {
        mount.close().await;
    }
}

/// Looks up one file after the other, as chance has it.
struct Looker {
    mount: Mount,
    tree: Tree,
    rng: Rng,
}

impl Client for Looker {
    async fn step(&mut self) {
        let file = self.rng.below(self.tree.files);
        assert_eq!(self.mount.inode(look_up(&self.tree, file)).await, self.tree.inode(file));
    }
}

/// Makes files in a directory of its own.
struct Maker {
    mount: Mount,
    directory: u64,
    made: u64,
}

impl Maker {
    async fn create(&mut self) -> u64 {
        self.made += 1;
        let (parent, name) = (self.directory, format!("file{:08}", self.made).into());
        self.mount.inode(Op::Create(pb::Create { parent, name, mode: 0o644, ..pb::Create::default() })).await
    }

    async fn release(&mut self, inode: u64) {
        // As a mount does, which waits for no answer to that.
        self.mount.send(Op::Release(pb::Release { inode })).await;
    }
}

impl Client for Maker {
    async fn step(&mut self) {
        let inode = self.create().await;
        self.release(inode).await;
    }
}

/// Makes whole files of one chunk.
struct Uploader {
    maker: Maker,
    keepers: Arc<Keepers>,
}

impl Client for Uploader {
    async fn step(&mut self) {
        let maker = &mut self.maker;
        let inode = maker.create().await;
        let runs = vec![pb::Run { file_offset: 0, length: u64::from(FILE_LEN) }];
        let alloc = pb::Alloc { inode, runs, ..pb::Alloc::default() };
        let placed = match maker.mount.call(Op::Alloc(alloc)).await {
            mount_reply::Result::Placed(placed) => placed,
            other => panic!("a place for a chunk: {other:?}"),
        };
        let grant = placed.grant.unwrap();
        let ticket = pb::Ticket::decode(&grant.ticket[..]).unwrap();
        self.keepers.store(&grant, &ticket, FILE_LEN).await;
        maker.mount.uploaded(placed.chunk).await;
        maker.release(inode).await;
    }
}

/// Renames the files of a directory one after the other, and back again.
struct Renamer {
    mount: Mount,
    tree: Tree,
    directory: u64,
    number: usize,
    renamed: u64,
}

impl Client for Renamer {
    async fn step(&mut self) {
        let files = self.tree.files_of(self.directory);
        let count = files.end - files.start;
        let (old, is_back) =
            (self.tree.name(files.start + self.renamed % count), self.renamed / count % 2 == 1);
        let new = [&old[..], b".renamed"].concat();
        let (from, to) = if is_back { (new, old) } else { (old, new) };
        let parent = self.tree.directory_inode(self.directory);
        let rename = pb::Rename {
            parent,
            name: from.into(),
            new_parent: parent,
            new_name: to.into(),
            ..pb::Rename::default()
        };
        match self.mount.call(Op::Rename(rename.clone())).await {
            mount_reply::Result::Gone(_) => self.renamed += 1,
            other => panic!("{rename:?}: {other:?}"),
        }
    }
}
