//! New chunks made of parts of others.

use dfs_keeper::Keeper;
use dfs_proto::block_sum::BlockSums;
use dfs_proto::pb::TicketOp::{Read, Write};
use dfs_proto::pb::{self, keeper_down as down, keeper_up::Msg};
use tempfile::{TempDir, tempdir};

use crate::client::Client;
use crate::master::Master;
use crate::{chunk_file, count_files, data, flip_byte, keeper, wait_until};

const NEW: u64 = 77;

struct Bench {
    master: Master,
    dirs: [TempDir; 3],
    keepers: [Keeper; 3],
}

async fn bench() -> Bench {
    let master = Master::start().await;
    let dirs = [tempdir().unwrap(), tempdir().unwrap(), tempdir().unwrap()];
    let keepers =
        [keeper(&dirs[0], &master).await, keeper(&dirs[1], &master).await, keeper(&dirs[2], &master).await];
    Bench { master, dirs, keepers }
}

impl Bench {
    /// Puts a chunk on keepers, by index, and says where it can be read.
    fn put(&self, chunk: u64, bytes: &[u8], on: &[usize]) -> pb::ChunkSource {
        let holders: Vec<&Keeper> = on.iter().map(|at| &self.keepers[*at]).collect();
        for holder in &holders {
            let grant = self.master.grant(Write, chunk, &[holder]);
            Client::connect(holder.address()).upload(&grant, bytes, false).unwrap();
        }
        let checksum = BlockSums::of(bytes).checksum();
        let info = Some(pb::ChunkInfo { chunk, length: bytes.len() as u32, checksum });
        pb::ChunkSource { info, grant: Some(self.master.grant(Read, chunk, &holders)) }
    }

    fn order(&self, sources: Vec<pb::ChunkSource>, pieces: &[(u32, u32, u32)]) {
        let piece = |&(source, offset, length): &_| pb::BuildPiece { source, offset, length };
        let pieces = pieces.iter().map(piece).collect();
        self.master.order(1, down::Msg::Build(pb::BuildChunk { chunk: NEW, sources, pieces }));
    }

    async fn built(&self) -> pb::ChunkBuilt {
        let is_built = |msg: &Msg| match msg {
            Msg::Built(built) => Some(built.clone()),
            Msg::BuildFailed(failed) => panic!("not built: {failed:?}"),
            _ => None,
        };
        self.master.wait("Built", 1, is_built).await
    }

    async fn failed(&self) -> pb::BuildFailed {
        let has_failed = |msg: &Msg| match msg {
            Msg::BuildFailed(failed) => Some(failed.clone()),
            Msg::Built(built) => panic!("built: {built:?}"),
            _ => None,
        };
        let failed = self.master.wait("BuildFailed", 1, has_failed).await;
        assert!(!chunk_file(&self.dirs[0], NEW).exists());
        wait_until("nothing is left of it", || count_files(&self.dirs[0].path().join("tmp")) == 0);
        failed
    }

    fn read_new(&self, length: usize) -> Vec<u8> {
        let grant = self.master.grant(Read, NEW, &[&self.keepers[0]]);
        Client::connect(self.keepers[0].address()).read_all(&grant, length).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_from_here_and_from_others_make_a_new_chunk_in_their_order() {
    let bench = bench().await;
    let (a, b) = (data(300_000), data(200_001).into_iter().rev().collect::<Vec<u8>>());
    let sources = vec![bench.put(5, &a, &[0]), bench.put(6, &b, &[1, 2])];
    // Within a block, over the borders of blocks, to the end, the same twice.
    let pieces = [
        (1, 70_000, 4096),
        (0, 65_530, 12),
        (1, 0, 200_001),
        (0, 299_999, 1),
        (0, 0, 150_000),
        (1, 70_000, 5),
    ];
    let mut right = Vec::new();
    for (source, offset, length) in pieces {
        let from = if source == 0 { &a } else { &b };
        right.extend_from_slice(&from[offset as usize..(offset + length) as usize]);
    }
    bench.order(sources, &pieces);
    let built = bench.built().await;
    let checksum = BlockSums::of(&right).checksum();
    let info = pb::ChunkInfo { chunk: NEW, length: right.len() as u32, checksum };
    assert_eq!(built, pb::ChunkBuilt { info: Some(info), bad: Vec::new() });
    assert!(bench.read_new(right.len()) == right);
    // It is on stable storage: asked, the keeper says so at once.
    bench.master.order(1, down::Msg::Sync(pb::SyncChunks { chunks: vec![NEW] }));
    bench.master.wait_synced(1, NEW).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rot_here_and_elsewhere_is_passed_over_and_reported() {
    let bench = bench().await;
    let (a, b) = (data(300_000), data(200_000));
    // Here, and on keeper 2, bad; on keeper 3 good.
    let sources = vec![bench.put(5, &a, &[0, 1, 2]), bench.put(6, &b, &[1, 2])];
    flip_byte(&chunk_file(&bench.dirs[0], 5), 4096 + 100_000);
    flip_byte(&chunk_file(&bench.dirs[1], 5), 4096 + 100_000);
    flip_byte(&chunk_file(&bench.dirs[1], 6), 4096 + 10);
    bench.order(sources, &[(0, 0, 200_000), (1, 0, 100)]);
    let built = bench.built().await;
    let bad: Vec<(u64, u64)> = built.bad.iter().map(|bad| (bad.chunk, bad.keeper)).collect();
    assert_eq!(bad, [(5, 2), (6, 2)]);
    assert_eq!(bench.master.wait_bad(1, 5).await.code(), pb::Code::Corrupt);
    assert!(bench.read_new(200_100) == [&a[..200_000], &b[..100]].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_one_good_source_nothing_is_built() {
    let bench = bench().await;
    let (a, b) = (data(100_000), data(70_000));
    let sources = vec![bench.put(5, &a, &[0]), bench.put(6, &b, &[1])];
    flip_byte(&chunk_file(&bench.dirs[1], 6), 4096 + 69_999);
    bench.order(sources, &[(0, 0, 100_000), (1, 0, 70_000)]);
    let failed = bench.failed().await;
    assert_eq!((failed.chunk, failed.error.unwrap().code()), (NEW, pb::Code::Corrupt));
    assert_eq!(failed.bad, [pb::BadSource { chunk: 6, keeper: 2 }]);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_chunk_than_the_master_recorded_is_not_used() {
    let bench = bench().await;
    let mut source = bench.put(5, &data(100_000), &[0, 1]);
    source.info.as_mut().unwrap().checksum ^= 1;
    bench.order(vec![source], &[(0, 0, 10)]);
    assert_eq!(bench.failed().await.error.unwrap().code(), pb::Code::Corrupt);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_makes_no_sense_is_refused() {
    let pieces: [&[(u32, u32, u32)]; 5] =
        [&[], &[(0, 0, 0)], &[(1, 0, 10)], &[(0, 99_999, 2)], &[(0, u32::MAX, u32::MAX)]];
    let bench = bench().await;
    let source = bench.put(5, &data(100_000), &[0]);
    for (n, pieces) in pieces.into_iter().enumerate() {
        bench.order(vec![source.clone()], pieces);
        let refusals = || {
            let said = bench.master.heard(1);
            let refused = |m: &&Msg| matches!(m, Msg::BuildFailed(f) if f.error.as_ref().is_some_and(|e| e.code() == pb::Code::Invalid));
            said.iter().filter(refused).count()
        };
        wait_until("it is refused", || refusals() == n + 1);
    }
    assert!(!chunk_file(&bench.dirs[0], NEW).exists());
}
