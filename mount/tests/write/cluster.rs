//! A whole cluster in the test's process, and mounts on it without a kernel.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dfs_keeper::Keeper;
use dfs_master::Master;
use dfs_mount::client::{Client, ClientConfig};
use dfs_mount::fs::atime::AtimeOptions;
use dfs_mount::fs::{Caller, Fs, events};
use dfs_proto::error::DfsError;
use dfs_proto::ids::InodeNo;
use tempfile::TempDir;

pub const CHUNK: usize = 64 * 1024;
pub const CALLER: Caller = Caller { uid: 0, gid: 0, pid: 0, checked: false };

/// A master and its keepers; ended when dropped.
pub struct Cluster {
    dir: TempDir,
    master: Option<Master>,
    address: SocketAddr,
    keepers: Vec<Option<Keeper>>,
}

impl Cluster {
    pub async fn start(keepers: usize) -> Cluster {
        let mut cluster = Cluster::without_keepers().await;
        for _ in 0..keepers {
            cluster.add_keeper(Some(0)).await;
        }
        cluster
    }

    pub async fn without_keepers() -> Cluster {
        let dir = TempDir::new().unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let master = start_master(&dir, any).await;
        let address = master.address();
        Cluster { dir, master: Some(master), address, keepers: Vec::new() }
    }

    /// One more keeper; `reserve` bytes of its disk are not for it.
    pub async fn add_keeper(&mut self, reserve: Option<u64>) {
        let keeper = self.start_keeper(self.keepers.len(), reserve).await;
        self.keepers.push(Some(keeper));
    }

    async fn start_keeper(&self, number: usize, reserve: Option<u64>) -> Keeper {
        let data = self.dir.path().join(format!("keeper-{number}"));
        let mut config = dfs_keeper::Config::new(data, self.address.to_string());
        config.reserve_bytes = reserve;
        Keeper::start(config).await.unwrap()
    }

    pub async fn stop_keeper(&mut self, number: usize) {
        self.keepers[number].take().unwrap().shutdown().await;
    }

    pub async fn restart_keeper(&mut self, number: usize) {
        self.keepers[number] = Some(self.start_keeper(number, Some(0)).await);
    }

    pub async fn stop_master(&mut self) {
        self.master.take().unwrap().shutdown().await;
    }

    pub async fn restart_master(&mut self) {
        self.master = Some(start_master(&self.dir, self.address).await);
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub async fn mount(&self) -> Mount {
        Mount::new(self.address, 256 << 20).await
    }
}

async fn start_master(dir: &TempDir, listen: SocketAddr) -> Master {
    let mut config = dfs_master::Config::new(dir.path().join("master"));
    config.listen = listen;
    config.chunk_size = CHUNK as u32;
    config.replicate_every = Duration::from_millis(200);
    Master::start(config).await.unwrap()
}

/// One mount.
pub struct Mount {
    pub fs: Arc<Fs>,
}

impl Mount {
    pub async fn new(master: SocketAddr, write_buffer: u64) -> Mount {
        let config = ClientConfig::new(master.to_string(), "test");
        let (client, events) = Client::connect(config).await.unwrap();
        let fs = Fs::new(client, 16 << 20, write_buffer, AtimeOptions::default());
        tokio::spawn(events::follow(fs.clone(), events));
        // A kernel that has nothing cached.
        let kernel = fs.clone();
        std::thread::spawn(move || {
            while let Some(job) = kernel.notices().take() {
                kernel.notices().delivered(job);
            }
        });
        let kernel = fs.clone();
        std::thread::spawn(move || {
            while let Some(quick) = kernel.notices().take_quick() {
                kernel.notices().delivered_quick(quick);
            }
        });
        Mount { fs }
    }

    /// A new file, open for reading and writing.
    pub async fn create(&self, name: &str) -> Open {
        let flags = libc::O_CREAT | libc::O_EXCL | libc::O_RDWR;
        let (attr, opened) =
            self.fs.create(CALLER, InodeNo::ROOT, name.as_bytes(), 0o644, 0, flags).await.unwrap();
        Open { fs: self.fs.clone(), inode: InodeNo(attr.inode), handle: opened.handle }
    }

    pub async fn open(&self, name: &str, flags: i32) -> Open {
        let attr = self.fs.lookup(CALLER, InodeNo::ROOT, name.as_bytes()).await.unwrap();
        let inode = InodeNo(attr.inode);
        let opened = self.fs.open(CALLER, inode, flags).await.unwrap();
        Open { fs: self.fs.clone(), inode, handle: opened.handle }
    }

    /// All of a file, as a program that opens it now sees it.
    pub async fn content(&self, name: &str) -> Vec<u8> {
        let open = self.open(name, libc::O_RDONLY).await;
        let content = open.content().await;
        open.close().await.unwrap();
        content
    }
}

/// An open file.
pub struct Open {
    pub fs: Arc<Fs>,
    pub inode: InodeNo,
    pub handle: u64,
}

impl Open {
    /// As the kernel does: without waiting if that is possible.
    pub async fn write(&self, offset: u64, data: &[u8]) -> Result<(), DfsError> {
        match self.fs.try_write(self.handle, offset, data) {
            Some(done) => done,
            None => self.fs.write(self.handle, offset, data).await,
        }
    }

    pub async fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        match self.fs.try_read(self.handle, offset, length) {
            Some(bytes) => bytes.to_vec(),
            None => self.fs.read(self.handle, offset, length).await.unwrap().to_vec(),
        }
    }

    pub async fn content(&self) -> Vec<u8> {
        let mut content = Vec::new();
        loop {
            let part = self.read(content.len() as u64, 1 << 20).await;
            if part.is_empty() {
                return content;
            }
            content.extend_from_slice(&part);
        }
    }

    pub async fn truncate(&self, size: u64) {
        let change = dfs_proto::pb::Setattr { inode: self.inode.0, size: Some(size), ..Default::default() };
        self.fs.setattr(Some(CALLER), change).await.unwrap();
    }

    pub async fn flush(&self) -> Result<(), DfsError> {
        self.fs.flush(self.handle).await
    }

    pub async fn close(self) -> Result<(), DfsError> {
        let flushed = self.flush().await;
        self.fs.release(self.handle).await;
        flushed
    }
}

/// Waits for something that must come true.
pub async fn wait_for<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let began = Instant::now();
    while !condition().await {
        assert!(began.elapsed() < Duration::from_secs(20), "waited too long: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Bytes that differ at every place that matters.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut random = Random(seed);
    (0..length.div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).take(length).collect()
}

/// Numbers from a seed (splitmix64, Steele, Lea and Flood 2014).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}
