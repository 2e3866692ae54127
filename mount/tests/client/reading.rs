//! The read path: verified bytes, whatever the keepers do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dfs_mount::client::Client;
use dfs_mount::read::{FileReader, LayoutAhead, ReadStream, Readers};
use dfs_proto::block_sum::BlockSums;
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::InodeNo;
use dfs_proto::pb::mount_reply::Result as Reply;
use dfs_proto::pb::mount_request::Op;
use dfs_proto::{MAX_FILE_SIZE, pb};

use crate::keeper::{Keeper, Mode, grant};
use crate::master::Master;
use crate::{noise, wait_until};

const INODE: InodeNo = InodeNo(50);
const MIB: usize = 1 << 20;

/// A layout of chunks one after the other, each stored on all `keepers`.
fn layout(chunks: &[(u64, &[u8])], keepers: &[&Keeper]) -> pb::FileLayout {
    let mut layout = pb::FileLayout { covered_to: MAX_FILE_SIZE, ..Default::default() };
    let mut at = 0;
    for &(chunk, data) in chunks {
        keepers.iter().for_each(|keeper| keeper.put(chunk, data));
        let length = data.len() as u64;
        layout.extents.push(pb::Extent { file_offset: at, length, chunk, chunk_offset: 0 });
        let info = pb::ChunkInfo { chunk, length: length as u32, checksum: BlockSums::of(data).checksum() };
        layout.chunks.push(pb::ChunkSource { info: Some(info), grant: Some(grant(chunk, keepers)) });
        at += length;
    }
    layout.attr = Some(pb::Attr { size: at, content_version: 1, ..Default::default() });
    layout
}

struct Bench {
    master: Master,
    keepers: Vec<Keeper>,
    readers: Arc<Readers>,
    file: Arc<FileReader>,
    data: Vec<u8>,
    client: Client,
}

/// A file of `chunks` chunks of `chunk_length` bytes on `keepers` keepers.
async fn bench(keepers: u64, chunks: u64, chunk_length: usize) -> Bench {
    let keepers: Vec<Keeper> = (1..=keepers).map(Keeper::start).collect();
    let data = noise(keepers.len() as u64, chunks as usize * chunk_length);
    let parts: Vec<(u64, &[u8])> = (1..).zip(data.chunks(chunk_length)).collect();
    let layout = layout(&parts, &keepers.iter().collect::<Vec<_>>());
    let master =
        Master::start(move |op| matches!(op, Op::Layout(_)).then(|| Reply::Layout(layout.clone()))).await;
    let (client, mut events) = master.connect().await;
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    let readers = Readers::new(client.clone(), 256 * MIB as u64);
    let file = readers.file(INODE);
    Bench { master, keepers, readers, file, data, client }
}

impl Bench {
    async fn read(&self, stream: &ReadStream, offset: usize, length: usize) -> Bytes {
        self.file.read(stream, offset as u64, length).await.unwrap().bytes
    }

    async fn read_all(&self) -> Vec<u8> {
        let stream = ReadStream::new();
        let mut out = Vec::new();
        while out.len() < self.data.len() {
            let length = (self.data.len() - out.len()).min(128 * 1024);
            out.extend_from_slice(&self.read(&stream, out.len(), length).await);
        }
        out
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_film_is_read_from_all_keepers_uniformly() {
    let bench = bench(3, 5, 8 * MIB - 12_345).await;
    assert!(bench.read_all().await == bench.data);
    let total: u64 = bench.keepers.iter().map(Keeper::bytes_read).sum();
    let size = bench.data.len() as u64;
    for keeper in &bench.keepers {
        let percent = keeper.bytes_read() * 100 / size;
        assert!((20..=47).contains(&percent), "{percent} % from {}", keeper.address);
    }
    assert!(total < size + size * 15 / 100, "{total} bytes were sent for {size}");
    assert!(bench.master.reports().is_empty());
    assert_eq!(bench.master.count(|op| matches!(op, Op::Layout(_))), 1);
}

#[tokio::test]
async fn a_layout_that_was_asked_for_with_the_open_is_used_unless_something_changed_meanwhile() {
    let layouts = |bench: &Bench| bench.master.count(|op| matches!(op, Op::Layout(_)));
    type Meanwhile = fn(&FileReader) -> bool;
    let cases: [(Meanwhile, usize); 3] = [
        (|_| true, 1),
        (|_| false, 2),
        // Of a change that comes just now, the reader is told.
        (
            |file| {
                file.invalidate();
                true
            },
            2,
        ),
    ];
    for (is_right, asked) in cases {
        let bench = bench(1, 1, MIB).await;
        let ahead = LayoutAhead::ask(&bench.client, INODE);
        bench.file.adopt(ahead, false, || is_right(&bench.file));
        assert!(bench.read_all().await == bench.data);
        wait_until("the question", || layouts(&bench) >= asked).await;
        assert_eq!(layouts(&bench), asked);
    }
}

#[tokio::test]
async fn the_beginning_of_a_file_that_is_opened_to_read_is_on_its_way_before_it_is_read() {
    let bench = bench(1, 1, MIB).await;
    bench.file.adopt(LayoutAhead::ask(&bench.client, INODE), true, || true);
    wait_until("the first range", || bench.file.try_cached(&ReadStream::new(), 0, 256 * 1024).is_some())
        .await;
    let reads = bench.keepers[0].reads();
    assert_eq!(bench.read(&ReadStream::new(), 0, 128 * 1024).await, &bench.data[..128 * 1024]);
    assert_eq!((reads, bench.keepers[0].reads()), (1, 1));
}

#[tokio::test]
async fn what_is_read_again_comes_from_memory() {
    let bench = bench(1, 1, 2 * MIB).await;
    let stream = ReadStream::new();
    assert!(bench.file.try_cached(&stream, 0, 4096).is_none());
    bench.read(&stream, 0, 4096).await;
    let sent = bench.keepers[0].reads();
    assert_eq!(bench.file.try_cached(&stream, 10, 4000).unwrap(), &bench.data[10..4010]);
    assert_eq!(bench.read(&stream, 0, 65_536).await, &bench.data[..65_536]);
    assert_eq!(bench.keepers[0].reads(), sent);
    assert!(bench.readers.cache_counters().hits >= 2);
}

#[tokio::test]
async fn corrupt_bytes_are_replaced_from_another_keeper_and_reported() {
    let bench = bench(2, 2, MIB + 77).await;
    bench.keepers[0].set(Mode::FlipsBits);
    assert!(bench.read_all().await == bench.data);
    wait_until("a report", || !bench.master.reports().is_empty()).await;
    assert!(bench.master.reports().iter().all(|&(_, keeper)| keeper == 1));
}

#[tokio::test]
async fn a_list_of_checksums_that_fits_other_bytes_is_refused() {
    let bench = bench(2, 2, MIB).await;
    bench.keepers[1].set(Mode::OtherContent);
    assert!(bench.read_all().await == bench.data);
    wait_until("a report", || !bench.master.reports().is_empty()).await;
    assert!(bench.master.reports().iter().all(|&(_, keeper)| keeper == 2));
}

#[tokio::test]
async fn a_keeper_that_never_answers_is_hedged() {
    let bench = bench(3, 1, 4 * MIB).await;
    bench.keepers[1].set(Mode::Silent);
    let stream = ReadStream::new();
    for at in (0..4 * MIB).step_by(512 * 1024) {
        let began = Instant::now();
        let got = bench.read(&stream, at, 512 * 1024).await;
        assert!(got == bench.data[at..at + 512 * 1024]);
        assert!(began.elapsed() < Duration::from_secs(1), "{:?} at {at}", began.elapsed());
    }
}

#[tokio::test]
async fn a_dead_keeper_costs_nothing_but_its_share() {
    let mut bench = bench(3, 1, 4 * MIB).await;
    // An address where nobody listens.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    bench.keepers[0].address = gone.to_string();
    let keepers: Vec<&Keeper> = bench.keepers.iter().collect();
    let layout = layout(&[(1, &bench.data)], &keepers);
    bench.master.with(|script| script.answer = Box::new(move |_| Some(Reply::Layout(layout.clone()))));
    let began = Instant::now();
    assert!(bench.read_all().await == bench.data);
    assert!(began.elapsed() < Duration::from_secs(2));
    assert!(bench.master.reports().is_empty(), "a keeper that cannot be reached has no bad copy");
}

#[tokio::test]
async fn what_a_loser_sends_late_is_never_seen() {
    let bench = bench(2, 1, MIB).await;
    let late = Duration::from_millis(400);
    bench.keepers[0].set(Mode::LateAndWrong(late));
    bench.keepers[1].set(Mode::Good);
    let stream = ReadStream::new();
    let got = bench.read(&stream, 0, MIB).await;
    assert!(got == bench.data[..]);
    let began = Instant::now();
    while began.elapsed() < 2 * late {
        assert!(got == bench.data[..], "a buffer changed after it was handed out");
        let again = bench.read(&stream, 0, MIB).await;
        assert!(again == bench.data[..], "the cache changed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The loser's connection is not used for anything else: what it still holds would answer another request.
    bench.keepers[0].set(Mode::Good);
    let other = bench.readers.file(InodeNo(51));
    assert!(other.read(&ReadStream::new(), 0, MIB).await.unwrap().bytes == bench.data[..]);
}

#[tokio::test]
async fn readers_of_the_same_place_share_one_fetch() {
    let bench = bench(1, 1, MIB).await;
    let reads: Vec<_> = (0..20)
        .map(|_| {
            let file = bench.file.clone();
            tokio::spawn(async move { file.read(&ReadStream::new(), 1000, 5000).await.unwrap().bytes })
        })
        .collect();
    for read in reads {
        assert_eq!(read.await.unwrap(), &bench.data[1000..6000]);
    }
    assert_eq!(bench.keepers[0].reads(), 1);
    assert_eq!(bench.master.count(|op| matches!(op, Op::Layout(_))), 1);
}

#[tokio::test]
async fn a_random_reader_fetches_no_more_than_its_blocks() {
    let bench = bench(1, 8, 8 * MIB).await;
    let stream = ReadStream::new();
    for n in 0..20usize {
        let at = n * 7919 * 4096 % (60 * MIB);
        let got = bench.read(&stream, at, 4096).await;
        assert!(got == bench.data[at..at + 4096]);
    }
    assert!(bench.keepers[0].bytes_read() <= 20 * 2 * 65_536, "{}", bench.keepers[0].bytes_read());
}

#[tokio::test]
async fn holes_are_zeroes_and_beyond_the_end_is_nothing() {
    let bench = bench(1, 1, 100_000).await;
    let mut longer = layout(&[(1, &bench.data)], &[&bench.keepers[0]]);
    longer.attr.as_mut().unwrap().size = 102_000;
    bench.master.with(|script| script.answer = Box::new(move |_| Some(Reply::Layout(longer.clone()))));
    let stream = ReadStream::new();
    let got = bench.read(&stream, 99_000, 5000).await;
    assert_eq!(&got[..1000], &bench.data[99_000..]);
    assert_eq!(&got[1000..], &[0; 2000]);
    assert!(bench.read(&stream, 1 << 40, 10).await.is_empty());
    assert_eq!(bench.file.extents().await.unwrap(), [(0, 100_000)]);
}

#[tokio::test]
async fn a_file_that_is_cut_while_it_is_read_ends_there_and_shows_no_zeroes() {
    let bench = bench(1, 1, 4096).await;
    let gone = Keeper::start(7);
    gone.set(Mode::Refuses(ErrorCode::NotFound));
    let before = layout(&[(5, &bench.data)], &[&gone]);
    let cut = pb::FileLayout {
        attr: Some(pb::Attr { size: 0, content_version: 2, ..Default::default() }),
        covered_to: MAX_FILE_SIZE,
        ..Default::default()
    };
    let asked = std::sync::atomic::AtomicBool::new(false);
    bench.master.with(|script| {
        script.answer = Box::new(move |_| {
            let again = asked.swap(true, std::sync::atomic::Ordering::SeqCst);
            Some(Reply::Layout(if again { cut.clone() } else { before.clone() }))
        });
    });
    let found = bench.file.read(&ReadStream::new(), 0, 4096).await.unwrap();
    assert_eq!((found.bytes.len(), found.attr.content_version), (0, 2));
}

#[tokio::test]
async fn a_read_over_two_pages_of_the_layout_shows_one_content() {
    let bench = bench(1, 1, 4096).await;
    let contents: Vec<Vec<u8>> = (1..=2).map(|seed| noise(seed, 200_000)).collect();
    let layouts: Vec<pb::FileLayout> = (1..)
        .zip(&contents)
        .map(|(version, data)| {
            let parts: Vec<(u64, &[u8])> = (10 * version..).zip(data.chunks(100_000)).collect();
            let mut layout = layout(&parts, &[&bench.keepers[0]]);
            layout.attr.as_mut().unwrap().content_version = version;
            layout
        })
        .collect();
    let questions = std::sync::atomic::AtomicUsize::new(0);
    bench.master.with(|script| {
        script.answer = Box::new(move |op| {
            let Op::Layout(asked) = op else { return None };
            // The content changes between the first question and the second.
            let content = questions.fetch_add(1, std::sync::atomic::Ordering::SeqCst).min(1);
            let mut page = layouts[content].clone();
            page.extents.retain(|extent| extent.file_offset + extent.length > asked.offset);
            page.extents.truncate(1);
            page.covered_to = if asked.offset < 100_000 { 100_000 } else { MAX_FILE_SIZE };
            Some(Reply::Layout(page))
        });
    });
    let got = bench.read(&ReadStream::new(), 50_000, 100_000).await;
    assert!(got == contents[1][50_000..150_000]);
}

#[tokio::test]
async fn a_keeper_that_hangs_up_after_each_answer_is_connected_anew() {
    let bench = bench(1, 1, 2 * MIB).await;
    bench.keepers[0].set(Mode::HangsUp);
    assert!(bench.read_all().await == bench.data);
}

#[tokio::test]
async fn when_all_copies_fail_the_layout_is_asked_for_once_more_and_then_it_is_an_error() {
    let bench = bench(2, 1, MIB).await;
    bench.keepers.iter().for_each(|keeper| keeper.set(Mode::Refuses(ErrorCode::NotFound)));
    let error = bench.file.read(&ReadStream::new(), 0, 10).await.map(|_| ()).unwrap_err();
    assert_eq!(error.code, ErrorCode::Lost, "{error}");
    for named in ["inode 50", "chunk 0000000000000001", "keeper 1", "keeper 2"] {
        assert!(error.message.contains(named), "{named} in: {error}");
    }
    assert_eq!(bench.master.count(|op| matches!(op, Op::Layout(_))), 2);
}

#[tokio::test]
async fn a_chunk_that_is_gone_is_looked_for_in_a_new_layout_and_nobody_is_blamed() {
    let bench = bench(2, 1, MIB).await;
    // Twice the file is compacted while it is read: each time another chunk, and the last one is there.
    let gone = [Keeper::start(7), Keeper::start(8)];
    gone.iter().for_each(|keeper| keeper.set(Mode::Refuses(ErrorCode::NotFound)));
    let layouts = [
        layout(&[(5, &bench.data)], &[&gone[0]]),
        layout(&[(6, &bench.data)], &[&gone[0], &gone[1]]),
        layout(&[(1, &bench.data)], &[&bench.keepers[0]]),
    ];
    let asked = std::sync::atomic::AtomicUsize::new(0);
    bench.master.with(|script| {
        script.answer = Box::new(move |_| {
            let at = asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            Some(Reply::Layout(layouts[at.min(2)].clone()))
        });
    });
    let got = bench.read(&ReadStream::new(), 0, 1000).await;
    assert!(got == bench.data[..1000]);
    assert!(bench.master.reports().is_empty(), "{:?}", bench.master.reports());
}

#[tokio::test]
async fn a_missing_copy_is_reported_when_a_new_layout_still_names_it() {
    let bench = bench(2, 1, 8 * MIB).await;
    bench.keepers[0].set(Mode::Refuses(ErrorCode::NotFound));
    let stream = ReadStream::new();
    // Ranges that keeper 1 is asked for first, out of sequence so that nothing is prefetched. The other keeper gives
    // them; the first layout may be old, the second one is not.
    for range in [29, 19, 9] {
        assert!(bench.master.reports().is_empty() || range == 9);
        let at = range * 256 * 1024;
        let got = bench.read(&stream, at, 1000).await;
        assert!(got == bench.data[at..at + 1000]);
    }
    wait_until("a report", || !bench.master.reports().is_empty()).await;
    assert!(bench.master.reports().iter().all(|&(_, keeper)| keeper == 1));
}

#[tokio::test]
async fn copies_that_moved_are_found_with_a_new_layout() {
    let bench = bench(1, 1, MIB).await;
    bench.keepers[0].set(Mode::Refuses(ErrorCode::TicketExpired));
    let moved_to = Keeper::start(9);
    let (old, new) =
        (layout(&[(1, &bench.data)], &[&bench.keepers[0]]), layout(&[(1, &bench.data)], &[&moved_to]));
    let asked = std::sync::atomic::AtomicUsize::new(0);
    bench.master.with(|script| {
        script.answer = Box::new(move |_| {
            let first = asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0;
            Some(Reply::Layout(if first { old.clone() } else { new.clone() }))
        });
    });
    let got = bench.read(&ReadStream::new(), 0, MIB).await;
    assert!(got == bench.data[..]);
}

#[tokio::test]
async fn a_read_after_an_invalidation_never_uses_a_layout_asked_for_before_it() {
    let bench = bench(1, 1, 4096).await;
    let keepers: Vec<&Keeper> = bench.keepers.iter().collect();
    let (old_data, new_data) = (noise(1, 4096), noise(2, 4096));
    let (old, new) = (layout(&[(11, &old_data)], &keepers), layout(&[(12, &new_data)], &keepers));
    bench.master.with(|script| script.answer = Box::new(|_| None));
    let read = || {
        let file = bench.file.clone();
        tokio::spawn(async move { file.read(&ReadStream::new(), 0, 4096).await.unwrap().bytes })
    };
    let asked = |n| {
        let master = bench.master.clone();
        async move { wait_until("a question", || master.count(|op| matches!(op, Op::Layout(_))) == n).await }
    };
    let before = read();
    asked(1).await;
    bench.file.invalidate();
    let after = read();
    asked(2).await;
    let ids: Vec<u64> =
        bench.master.with(|script| script.requests.iter().map(|request| request.id).collect());
    bench.master.reply(ids[0], Reply::Layout(old));
    assert!(before.await.unwrap() == old_data[..], "a read that began before may see either");
    assert!(bench.file.try_cached(&ReadStream::new(), 0, 4096).is_none(), "the old layout was installed");
    bench.master.reply(ids[1], Reply::Layout(new));
    assert!(after.await.unwrap() == new_data[..]);
    assert_eq!(bench.file.try_cached(&ReadStream::new(), 0, 4096).unwrap(), &new_data[..]);
}

#[tokio::test]
async fn a_long_files_layout_is_fetched_in_pages() {
    let bench = bench(1, 4, 100_000).await;
    let keepers: Vec<&Keeper> = bench.keepers.iter().collect();
    let parts: Vec<(u64, &[u8])> = (1..).zip(bench.data.chunks(100_000)).collect();
    let whole = layout(&parts, &keepers);
    bench.master.with(|script| {
        script.answer = Box::new(move |op| {
            let Op::Layout(asked) = op else { return None };
            let mut page = whole.clone();
            page.extents.retain(|extent| extent.file_offset + extent.length > asked.offset);
            page.extents.truncate(1);
            page.covered_to = page.extents.first().map_or(MAX_FILE_SIZE, |e| e.file_offset + e.length);
            page.chunks
                .retain(|source| page.extents.iter().any(|e| Some(e.chunk) == source.info.map(|i| i.chunk)));
            Some(Reply::Layout(page))
        });
    });
    assert!(bench.read(&ReadStream::new(), 250_000, 120_000).await == bench.data[250_000..370_000]);
    assert!(bench.read_all().await == bench.data);
    assert_eq!(bench.file.extents().await.unwrap(), [(0, 400_000)]);
}
