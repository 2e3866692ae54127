//! A cluster of real processes: a master, keepers, and as many mounts as a test wants.
//!
//! The master listens on a port that the kernel chose at its first start, and keeps it over restarts. Keepers and
//! mounts are dropped with the cluster, and the scratch directory goes last.

use std::ffi::OsString;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::faulty::{Disk, Faulty};
use crate::mount::Mount;
use crate::netns::Network;
use crate::process::Process;
use crate::run::{Ran, run, run_ok};
use crate::scratch::Scratch;
use crate::wait::{secs, wait_for, wait_until};

/// What a cluster is started with. The defaults are those of the binaries but for a quicker replication scan.
#[derive(Clone, Debug)]
pub struct Builder {
    keepers: usize,
    copies: u32,
    min_copies: u32,
    chunk_size: String,
    replicate_every: String,
    compact_after: String,
    keeper_flags: Vec<String>,
    master_flags: Vec<String>,
    log: String,
    network: bool,
    faulty: Faulty,
    master_disk: Option<String>,
    tls: bool,
}

impl Builder {
    /// How many keepers (default 3).
    pub fn keepers(mut self, n: usize) -> Builder {
        self.keepers = n;
        self
    }

    /// Copies wanted of every chunk (default 3).
    pub fn copies(mut self, n: u32) -> Builder {
        self.copies = n;
        self
    }

    /// Copies needed before an upload is a success (default 2).
    pub fn min_copies(mut self, n: u32) -> Builder {
        self.min_copies = n;
        self
    }

    /// As typed: `8MiB` (the default).
    pub fn chunk_size(mut self, size: &str) -> Builder {
        self.chunk_size = size.to_owned();
        self
    }

    /// As typed: `1s` (the default here).
    pub fn replicate_every(mut self, period: &str) -> Builder {
        self.replicate_every = period.to_owned();
        self
    }

    /// As typed: `10s` (the default), `off`.
    pub fn compact_after(mut self, period: &str) -> Builder {
        self.compact_after = period.to_owned();
        self
    }

    /// More flags of every keeper, as typed.
    pub fn keeper_flags(mut self, flags: &[&str]) -> Builder {
        self.keeper_flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        self
    }

    /// More flags of the master, as typed.
    pub fn master_flags(mut self, flags: &[&str]) -> Builder {
        self.master_flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        self
    }

    /// Connections are encrypted, with certificates of `tls/` in the scratch directory ([`Cluster::tls_dir`]). With
    /// `DFS_TEST_TLS` in the environment, those of every cluster are that has no network of its own.
    pub fn tls(mut self) -> Builder {
        self.tls = true;
        self
    }

    /// The log filter of every process (default `info`).
    pub fn log(mut self, filter: &str) -> Builder {
        self.log = filter.to_owned();
        self
    }

    /// Every process on a host of its own, in a network that can be cut ([`Cluster::network`]): `master`,
    /// `keeper-0`, ..., `mount-0`, ... For root alone.
    pub fn network(mut self) -> Builder {
        self.network = true;
        self.tls = false;
        self
    }

    /// The clock of the process of this name (`master`, `keeper-0`, `mount-0`) is so many seconds ahead.
    pub fn clock(mut self, name: &str, ahead_s: i64) -> Builder {
        self.faulty.clock(name, ahead_s);
        self
    }

    /// The disk of the process of this name can be made to fail ([`Cluster::disk`]).
    pub fn faulty_disk(mut self, name: &str) -> Builder {
        self.faulty.disk(name);
        self
    }

    /// The master's data directory is a file system of its own in memory, with such options: `size=32m`. For root alone.
    pub fn master_disk(mut self, options: &str) -> Builder {
        self.master_disk = Some(options.to_owned());
        self
    }

    /// Starts master and keepers, and waits until all keepers are live.
    pub fn start(self) -> Cluster {
        let scratch = Scratch::new();
        if let Some(options) = &self.master_disk {
            let data = scratch.path("master");
            fs::create_dir(&data).unwrap();
            run_ok(&["mount", "-t", "tmpfs", "-o", options, "none", data.to_str().unwrap()]);
        }
        if self.tls {
            let dfs = crate::process::binary("dfs").display().to_string();
            let dir = scratch.path("tls").display().to_string();
            run_ok(&[&dfs, "tls", "init", "--dir", &dir, "--host", "127.0.0.1"]);
        }
        let mut network = self.network.then(|| Network::new(&scratch));
        let host = network.as_mut().map_or("127.0.0.1".to_owned(), |network| network.add("master"));
        let recipe = master_recipe(&scratch, &self, on(network.as_ref(), "master"), &format!("{host}:0"));
        let master = Process::start(&scratch, "master", recipe);
        let mut cluster = Cluster {
            settings: self,
            network,
            address: String::new(),
            keepers: Vec::new(),
            master,
            mounts: 0,
            scratch,
        };
        cluster.address = cluster.wait_master();
        for _ in 0..cluster.settings.keepers {
            cluster.launch_keeper(&[]);
        }
        // Without keepers nothing is asked: where auth is on, nobody has logged in yet.
        if cluster.settings.keepers > 0 {
            cluster.wait_live(cluster.settings.keepers);
        }
        cluster
    }
}

fn master_recipe(
    scratch: &Scratch,
    settings: &Builder,
    on: Vec<String>,
    listen: &str,
) -> impl Fn() -> Command + Send + 'static {
    let data = scratch.path("master").display().to_string();
    let flags = [
        ("--data", data),
        ("--listen", listen.to_owned()),
        ("--copies", settings.copies.to_string()),
        ("--min-copies", settings.min_copies.to_string()),
        ("--chunk-size", settings.chunk_size.clone()),
        ("--replicate-every", settings.replicate_every.clone()),
        ("--compact-after", settings.compact_after.clone()),
        ("--log", settings.log.clone()),
    ];
    let flags = flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
    let environment = settings.faulty.environment(scratch, "master");
    // Its addresses are no loopback, though nobody else can come there.
    let open: &[&str] = if settings.network { &["--auth", "off", "--insecure"] } else { &[] };
    let flags = flags.chain(open.iter().map(|flag| (*flag).to_owned()));
    let flags = flags.chain(tls_flags(scratch, settings.tls, "master"));
    let args = flags.chain(settings.master_flags.iter().cloned()).collect();
    recipe(scratch, environment, on, "dfs-master", args)
}

/// For a master, a keeper, or a client.
fn tls_flags(scratch: &Scratch, tls: bool, whose: &str) -> Vec<String> {
    let dir = scratch.path("tls").join(whose);
    if tls { vec!["--tls-dir".to_owned(), dir.display().to_string()] } else { Vec::new() }
}

/// What runs a command on a host of the network, if there is one.
fn on(network: Option<&Network>, host: &str) -> Vec<String> {
    network.map(|network| network.on(host)).unwrap_or_default()
}

/// How to start one of our binaries, as often as wanted; `on` runs it, `more` is in its environment too.
fn recipe(
    scratch: &Scratch,
    more: Vec<(OsString, Option<OsString>)>,
    on: Vec<String>,
    binary: &str,
    args: Vec<String>,
) -> impl Fn() -> Command + Send + 'static {
    let program = crate::process::binary(binary).display().to_string();
    let words: Vec<String> = on.into_iter().chain([program]).chain(args).collect();
    let mut environment = scratch.environment();
    environment.extend(more);
    move || {
        let mut command = Command::new(&words[0]);
        for (name, value) in &environment {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.args(&words[1..]);
        command
    }
}

/// A running cluster.
pub struct Cluster {
    settings: Builder,
    network: Option<Network>,
    address: String,
    keepers: Vec<Process>,
    /// The master's process.
    pub master: Process,
    mounts: usize,
    /// The directory of all its data. Last, so that it goes when all processes are gone.
    pub scratch: Scratch,
}

impl Cluster {
    /// Three keepers, three copies, two before success, a replication scan each second.
    pub fn builder() -> Builder {
        Builder {
            keepers: 3,
            copies: 3,
            min_copies: 2,
            chunk_size: "8MiB".into(),
            replicate_every: "1s".into(),
            compact_after: "10s".into(),
            keeper_flags: Vec::new(),
            master_flags: Vec::new(),
            log: "info".into(),
            network: false,
            faulty: Faulty::default(),
            master_disk: None,
            tls: std::env::var_os("DFS_TEST_TLS").is_some(),
        }
    }

    /// The default cluster.
    pub fn start() -> Cluster {
        Cluster::builder().start()
    }

    /// HOST:PORT of the master.
    pub fn address(&self) -> &str {
        &self.address
    }

    // ---- processes

    fn wait_master(&mut self) -> String {
        let file = self.scratch.path("master/address");
        wait_for(secs(20), "the master listens", || {
            assert!(self.master.is_running(), "the master ended at its start: {}", self.master.log());
            let address = fs::read_to_string(&file).ok()?.trim().to_owned();
            let answers = match &self.network {
                None => TcpStream::connect(&address).is_ok(),
                Some(_) => run(self.command_line(&address).arg("status"), secs(20)).status.success(),
            };
            answers.then_some(address)
        })
    }

    /// Starts the master again on its port.
    pub fn restart_master(&mut self) {
        let on = on(self.network.as_ref(), "master");
        let recipe = master_recipe(&self.scratch, &self.settings, on, &self.address);
        self.master.restart_as(recipe);
        assert_eq!(self.wait_master(), self.address);
    }

    fn keeper_recipe(
        &self,
        index: usize,
        data: &Path,
        flags: &[&str],
    ) -> impl Fn() -> Command + Send + 'static {
        let data = data.display().to_string();
        let usual = ["--data", &data, "--master", &self.address, "--log", &self.settings.log];
        let more = self.settings.keeper_flags.iter().map(String::as_str);
        let args = usual.into_iter().chain(more).chain(flags.iter().copied()).map(str::to_owned);
        let args = args.chain(tls_flags(&self.scratch, self.settings.tls, "keeper")).collect();
        let name = format!("keeper-{index}");
        let environment = self.settings.faulty.environment(&self.scratch, &name);
        recipe(&self.scratch, environment, on(self.network.as_ref(), &name), "dfs-keeper", args)
    }

    fn launch_keeper(&mut self, flags: &[&str]) {
        let index = self.keepers.len();
        let name = format!("keeper-{index}");
        let host = self.join(&name);
        let listen = host.map(|host| format!("{host}:0"));
        // As of the master: nobody else can come there.
        let on_a_host: Vec<&str> =
            listen.iter().flat_map(|listen| ["--listen", listen, "--host", &name, "--insecure"]).collect();
        let recipe = self.keeper_recipe(index, &self.keeper_data(index), &[&on_a_host, flags].concat());
        self.keepers.push(Process::start(&self.scratch, &name, recipe));
    }

    /// A host for the process of this name, where there is a network; returns its address.
    fn join(&mut self, name: &str) -> Option<String> {
        self.network.as_mut().map(|network| network.add(name))
    }

    /// The network that it was started with.
    pub fn network(&self) -> &Network {
        self.network.as_ref().expect("a cluster that was started with Builder::network")
    }

    /// One more keeper; waits until it is live. Returns its index.
    pub fn add_keeper(&mut self) -> usize {
        self.add_keeper_with(&[])
    }

    /// The same, with more flags.
    pub fn add_keeper_with(&mut self, flags: &[&str]) -> usize {
        let live = self.live();
        self.launch_keeper(flags);
        self.wait_live(live + 1);
        self.keepers.len() - 1
    }

    /// Starts a keeper that was killed again, with another data directory and with more flags.
    pub fn restart_keeper_as(&mut self, index: usize, data: &Path, flags: &[&str]) {
        let recipe = self.keeper_recipe(index, data, flags);
        self.keepers[index].restart_as(recipe);
    }

    /// How many keepers were started.
    pub fn keeper_count(&self) -> usize {
        self.keepers.len()
    }

    /// The process of keeper `index`, counted from 0 in the order of starting.
    pub fn keeper(&mut self, index: usize) -> &mut Process {
        &mut self.keepers[index]
    }

    /// Its data directory.
    pub fn keeper_data(&self, index: usize) -> PathBuf {
        self.scratch.path(&format!("keeper-{index}"))
    }

    /// The directory of certificates for a `master`, a `keeper` or a `client`; of the CA itself for an empty name.
    pub fn tls_dir(&self, whose: &str) -> PathBuf {
        self.scratch.path("tls").join(whose)
    }

    /// The disk of a process that was to have one that fails ([`Builder::faulty_disk`]).
    pub fn disk(&self, name: &str) -> Disk {
        Disk::of(&self.scratch, name)
    }

    /// Its row of `dfs keepers --json`.
    pub fn keeper_row(&self, index: usize) -> Value {
        let data = self.keeper_data(index);
        let rows = self.json(&["keepers"]);
        let row = rows
            .as_array()
            .unwrap()
            .iter()
            .find(|row| row["data_dir"].as_str().map(Path::new) == Some(&data));
        row.unwrap_or_else(|| panic!("no row of {} in {rows:#}", data.display())).clone()
    }

    /// Its id in the cluster.
    pub fn keeper_id(&self, index: usize) -> u64 {
        self.keeper_row(index)["keeper"].as_u64().unwrap()
    }

    /// The chunk files that it holds.
    pub fn chunk_files(&self, index: usize) -> Vec<PathBuf> {
        files_below(&self.keeper_data(index).join("chunks"), ".chunk")
    }

    // ---- mounts

    /// Mounts the cluster in a new directory.
    pub fn mount(&mut self) -> Mount {
        self.mount_with(&[])
    }

    /// The same, with more flags.
    pub fn mount_with(&mut self, flags: &[&str]) -> Mount {
        let name = format!("mount-{}", self.mounts);
        self.mounts += 1;
        let dir = self.scratch.path("mnt").join(&name);
        fs::create_dir(&dir).unwrap();
        self.join(&name);
        let mut args = vec!["-f", "--master", &self.address, "--log", &self.settings.log];
        args.extend(flags);
        let point = dir.display().to_string();
        args.push(&point);
        let tls = tls_flags(&self.scratch, self.settings.tls, "client");
        let args = tls.into_iter().chain(args.iter().map(|s| (*s).to_owned())).collect();
        let environment = self.settings.faulty.environment(&self.scratch, &name);
        let recipe = recipe(&self.scratch, environment, on(self.network.as_ref(), &name), "dfs-mount", args);
        Mount::new(Process::start(&self.scratch, &name, recipe), dir)
    }

    // ---- the command line

    /// `dfs --master ADDRESS`, on the master's host where there is a network.
    fn command_line(&self, address: &str) -> Command {
        let words = ["--master", address].map(str::to_owned).to_vec();
        let words = [words, tls_flags(&self.scratch, self.settings.tls, "client")].concat();
        recipe(&self.scratch, Vec::new(), on(self.network.as_ref(), "master"), "dfs", words)()
    }

    /// Runs `dfs --master ADDRESS ARGS...`.
    #[track_caller]
    pub fn dfs(&self, args: &[&str]) -> Ran {
        run(self.command_line(&self.address).args(args), secs(120))
    }

    /// Runs `dfs --json ARGS...`, which must succeed, and reads what it prints.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        let ran = self.dfs(&[&["--json"], args].concat()).ok();
        serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("not JSON: {e}: {ran:#?}"))
    }

    /// A number of `dfs status --json`.
    #[track_caller]
    pub fn status(&self, field: &str) -> u64 {
        let status = self.json(&["status"]);
        status[field].as_u64().unwrap_or_else(|| panic!("no number '{field}' in {status:#}"))
    }

    /// How many keepers are live.
    pub fn live(&self) -> usize {
        self.status("keepers_live") as usize
    }

    /// Waits until exactly `n` keepers are live, and every keeper that runs has joined since it was started: for some
    /// seconds one that was killed counts as live, at the port that it had.
    #[track_caller]
    pub fn wait_live(&self, n: usize) {
        let joined =
            |keeper: &Process| !keeper.is_alive() || keeper.log_since_start().contains("joined cluster");
        wait_until(secs(30), &format!("{n} keepers are live"), || {
            self.live() == n && self.keepers.iter().all(joined)
        });
    }

    /// The rows of `dfs lookup PATH`.
    #[track_caller]
    pub fn lookup(&self, path: &str) -> Vec<Value> {
        self.json(&["lookup", path]).as_array().unwrap().clone()
    }

    /// Live copies per chunk of a file: (chunk, copies), in the order of offsets.
    #[track_caller]
    pub fn live_copies(&self, path: &str) -> Vec<(String, usize)> {
        let mut chunks: Vec<(u64, String, usize)> = Vec::new();
        for row in self.lookup(path) {
            let chunk = row["chunk"].as_str().unwrap().to_owned();
            let live = usize::from(row["alive"] == Value::Bool(true));
            match chunks.iter_mut().find(|(_, known, _)| *known == chunk) {
                Some((_, _, copies)) => *copies += live,
                None => chunks.push((row["offset"].as_u64().unwrap(), chunk, live)),
            }
        }
        chunks.sort();
        chunks.into_iter().map(|(_, chunk, copies)| (chunk, copies)).collect()
    }

    /// Waits until every chunk of a file has exactly `copies` live copies.
    #[track_caller]
    pub fn wait_copies(&self, path: &str, copies: usize, limit: Duration) {
        wait_until(limit, &format!("{copies} live copies of every chunk of {path}"), || {
            let chunks = self.live_copies(path);
            !chunks.is_empty() && chunks.iter().all(|(_, live)| *live == copies)
        });
    }
}

/// Files below a directory whose names end in `suffix`, sorted.
pub fn files_below(dir: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                left.push(path);
            } else if path.to_string_lossy().ends_with(suffix) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}
