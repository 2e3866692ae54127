//! Uploads and reads, with and without companions.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use dfs_keeper::{Config, Keeper};
use dfs_proto::block_sum::BlockSums;
use dfs_proto::error::ErrorCode;
use dfs_proto::frame::{self, HEADER_LEN, Header, Kind};
use dfs_proto::pb::TicketOp::{Copy, Read, Write};
use dfs_proto::pb::{self, keeper_up::Msg};
use tempfile::tempdir;

use crate::client::{Client, read_request, write_open};
use crate::master::{Master, another};
use crate::{chunk_file, config, count_files, data, flip_byte, keeper, tuning, wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_read_back_to_the_byte() {
    let (master, dir) = (Master::start().await, tempdir().unwrap());
    let keeper = keeper(&dir, &master).await;
    let bytes = data(3_000_001);
    let mut client = Client::connect(keeper.address());
    let done = client.upload(&master.grant(Write, 5, &[&keeper]), &bytes, false).unwrap();
    assert_eq!(done, pb::WriteDone { keepers: vec![1], ..Default::default() });
    let stored = master.wait_stored(1, 5).await;
    let sums = BlockSums::of(&bytes);
    let info = pb::ChunkInfo { chunk: 5, length: 3_000_001, checksum: sums.checksum() };
    assert_eq!(stored, pb::Stored { info: Some(info), keepers: vec![1], nonce: 1005, ..Default::default() });
    let grant = master.grant(Read, 5, &[&keeper]);
    assert_eq!(client.read_all(&grant, bytes.len()).unwrap(), bytes);
    let with_sums = pb::ReadRequest { want_sums: true, ..read_request(&grant, 65_536, 65_536) };
    let (reply, range) = client.read(&with_sums).unwrap();
    assert_eq!(reply.block_sums, sums.encoded());
    assert_eq!(range, bytes[65_536..131_072]);
    let load = master
        .wait("counters", 1, |msg| match msg {
            Msg::Heartbeat(beat) => beat.load.filter(|load| load.bytes_read == 3_000_001 + 65_536),
            _ => None,
        })
        .await;
    assert_eq!((load.bytes_written, load.chunks, load.used), (3_000_001, 1, 3_000_001));
    assert!(!load.read_only);
    keeper.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_sent_ahead_are_answered_in_order() {
    let (master, dir) = (Master::start().await, tempdir().unwrap());
    let keeper = keeper(&dir, &master).await;
    let bytes = data(1 << 20);
    let mut client = Client::connect(keeper.address());
    client.upload(&master.grant(Write, 5, &[&keeper]), &bytes, false).unwrap();
    let grant = master.grant(Read, 5, &[&keeper]);
    for block in 0..16 {
        client.ask(&read_request(&grant, block * 65_536, 65_536));
    }
    for block in bytes.chunks(65_536) {
        assert_eq!(client.frame().unwrap().data, block);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_through_the_whole_chain_before_the_master_hears() {
    let master = Master::start().await;
    let dirs = [tempdir().unwrap(), tempdir().unwrap(), tempdir().unwrap()];
    let (a, b, c) =
        (keeper(&dirs[0], &master).await, keeper(&dirs[1], &master).await, keeper(&dirs[2], &master).await);
    let bytes = data(1_500_000);
    let mut client = Client::connect(a.address());
    // Twice over the same connections, the second one synced.
    for (chunk, sync) in [(9, false), (10, true)] {
        let done = client.upload(&master.grant(Write, chunk, &[&a, &b, &c]), &bytes, sync).unwrap();
        assert_eq!(done, pb::WriteDone { keepers: vec![1, 2, 3], synced: sync, failed: vec![] });
        assert_eq!(master.wait_stored(1, chunk).await.keepers, [1, 2, 3]);
        for keeper in [&b, &c] {
            let grant = master.grant(Read, chunk, &[keeper]);
            assert_eq!(Client::connect(keeper.address()).read_all(&grant, bytes.len()).unwrap(), bytes);
        }
    }
    master.wait_synced(2, 9).await;
    for keeper in [2, 3] {
        let notices = master.heard(keeper);
        assert!(!notices.iter().any(|m| matches!(m, Msg::Stored(_))), "only the primary notifies");
        assert!(notices.iter().all(|m| !matches!(m, Msg::Synced(s) if s.chunks.contains(&10))));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_of_other_clients_go_on_over_the_same_connection() {
    let (master, dirs) = (Master::start().await, [tempdir().unwrap(), tempdir().unwrap()]);
    let a = keeper(&dirs[0], &master).await;
    let one = Config { max_connections: 1, ..config(dirs[1].path(), &master) };
    let b = Keeper::start_tuned(one, tuning()).await.unwrap();
    let mut clients = [Client::connect(a.address()), Client::connect(a.address())];
    for (chunk, client) in [(9, 0), (10, 1), (11, 0)] {
        let done =
            clients[client].upload(&master.grant(Write, chunk, &[&a, &b]), &data(5000), false).unwrap();
        assert_eq!(done.keepers, [1, 2], "keeper 2 serves one connection");
    }
}

/// Uploads with a companion at `address`; returns who holds the chunk and how long it took.
async fn upload_with_companion(address: String) -> (Vec<u64>, Duration) {
    let (master, dir) = (Master::start().await, tempdir().unwrap());
    let keeper = keeper(&dir, &master).await;
    let at = [(1, keeper.address().to_string()), (77, address)];
    let begin = Instant::now();
    let bytes = data(8 << 20);
    let grant = master.grant_at(Write, 5, &at, |_| ());
    let done = Client::connect(keeper.address()).upload(&grant, &bytes, false).unwrap();
    let took = begin.elapsed();
    assert_eq!(master.wait_stored(1, 5).await.keepers, done.keepers);
    let grant = master.grant(Read, 5, &[&keeper]);
    assert_eq!(Client::connect(keeper.address()).read_all(&grant, bytes.len()).unwrap(), bytes);
    (done.keepers, took)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_companion_costs_only_its_copy() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (keepers, _) = upload_with_companion(free.to_string()).await;
    assert_eq!(keepers, [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_companion_costs_only_its_copy_and_little_time() {
    // Accepts, in the kernel, and never reads.
    let stopped = TcpListener::bind("127.0.0.1:0").unwrap();
    let (keepers, took) = upload_with_companion(stopped.local_addr().unwrap().to_string()).await;
    assert_eq!(keepers, [1]);
    assert!(took < Duration::from_secs(4), "{took:?}");
}

/// Where a companion of `keeper` listens that the test plays itself, keeper 77; and a grant's keepers with it.
fn scripted_companion(keeper: &Keeper) -> (TcpListener, [(u64, String); 2]) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = [(1, keeper.address().to_string()), (77, listener.local_addr().unwrap().to_string())];
    (listener, at)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_companion_cannot_speak_for_others() {
    let (master, dir) = (Master::start().await, tempdir().unwrap());
    let keeper = keeper(&dir, &master).await;
    let (listener, at) = scripted_companion(&keeper);
    let companion = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = listener.accept().unwrap();
        loop {
            let mut raw = [0; HEADER_LEN];
            stream.read_exact(&mut raw).unwrap();
            let header = Header::decode(&raw).unwrap();
            stream.read_exact(&mut vec![0; header.meta_len + header.data_len]).unwrap();
            if header.kind == Kind::WriteEnd {
                let done = pb::WriteDone { keepers: vec![77, 78, 1, 77], synced: true, failed: vec![] };
                return stream.write_all(&frame::encode(Kind::WriteDone, header.request, &done, 0)).unwrap();
            }
        }
    });
    let grant = master.grant_at(Write, 5, &at, |_| ());
    let done = Client::connect(keeper.address()).upload(&grant, b"bytes", false).unwrap();
    companion.join().unwrap();
    assert_eq!(done.keepers, [1, 77]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_companion_is_woken_once_for_a_small_chunk() {
    let (master, dir) = (Master::start().await, tempdir().unwrap());
    let keeper = keeper(&dir, &master).await;
    let (listener, at) = scripted_companion(&keeper);
    let companion = std::thread::spawn(move || {
        use std::io::Read;
        let (mut stream, _) = listener.accept().unwrap();
        let mut first = vec![0; 64 * 1024];
        let length = stream.read(&mut first).unwrap();
        let (mut rest, mut kinds) = (&first[..length], Vec::new());
        while let Some((raw, behind)) = rest.split_first_chunk::<HEADER_LEN>() {
            let header = Header::decode(raw).unwrap();
            kinds.push(header.kind);
            rest = behind.get(header.meta_len + header.data_len..).unwrap_or_default();
        }
        kinds
    });
    let grant = master.grant_at(Write, 5, &at, |_| ());
    let mut client = Client::connect(keeper.address());
    client.open(&write_open(&grant, 5, false));
    client.data(b"bytes");
    client.end(BlockSums::of(b"bytes").encoded().clone());
    assert_eq!(companion.join().unwrap(), [Kind::WriteOpen, Kind::WriteData, Kind::WriteEnd]);
    assert_eq!(client.done().unwrap().keepers, [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_leaves_nothing_anywhere() {
    let master = Master::start().await;
    let dirs = [tempdir().unwrap(), tempdir().unwrap()];
    let (a, b) = (keeper(&dirs[0], &master).await, keeper(&dirs[1], &master).await);
    let grant = master.grant(Write, 5, &[&a, &b]);
    let mut client = Client::connect(a.address());
    client.open(&write_open(&grant, 1_000_000, false));
    client.data(&data(500_000));
    wait_until("the companion receives", || count_files(&dirs[1].path().join("tmp")) == 1);
    drop(client);
    for dir in &dirs {
        wait_until("tmp is empty", || count_files(&dir.path().join("tmp")) == 0);
        assert!(!chunk_file(dir, 5).exists());
    }
    assert!(!master.heard(1).iter().any(|m| matches!(m, Msg::Stored(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_checksums_are_refused_everywhere_and_nothing_stays() {
    let master = Master::start().await;
    let dirs = [tempdir().unwrap(), tempdir().unwrap()];
    let (a, b) = (keeper(&dirs[0], &master).await, keeper(&dirs[1], &master).await);
    let mut client = Client::connect(a.address());
    client.open(&write_open(&master.grant(Write, 5, &[&a, &b]), 5, false));
    client.data(b"bytes");
    client.end(BlockSums::of(b"bytez").encoded().clone());
    assert_eq!(client.done().unwrap_err().code, ErrorCode::Corrupt);
    assert!(client.is_closed());
    for dir in &dirs {
        wait_until("tmp is empty", || count_files(&dir.path().join("tmp")) == 0);
        assert!(!chunk_file(dir, 5).exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_chunk_twice_is_fine_and_other_bytes_are_refused() {
    let (master, dir) = (Master::start().await, tempdir().unwrap());
    let keeper = keeper(&dir, &master).await;
    let me = [(keeper.id().0, keeper.address().to_string())];
    let grant = || master.grant_at(Write, 5, &me, another);
    let mut client = Client::connect(keeper.address());
    let first = client.upload(&grant(), b"bytes", false).unwrap();
    assert_eq!(client.upload(&grant(), b"bytes", false).unwrap(), first);
    assert_eq!(client.upload(&grant(), b"other", false).unwrap_err().code, ErrorCode::Exists);
    let grant = master.grant(Read, 5, &[&keeper]);
    assert_eq!(Client::connect(keeper.address()).read_all(&grant, 5).unwrap(), b"bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn tickets_that_are_not_good_for_it_are_refused() {
    let (master, dir) = (Master::start().await, tempdir().unwrap());
    let keeper = keeper(&dir, &master).await;
    let me = [(1, keeper.address().to_string())];
    let mut client = Client::connect(keeper.address());
    client.upload(&master.grant(Write, 5, &[&keeper]), b"bytes", false).unwrap();
    let code = |grant: &pb::Grant, op| {
        let mut client = Client::connect(keeper.address());
        match op {
            Read => client.read(&read_request(grant, 0, 5)).map(|_| ()).map_err(|e| e.code),
            _ => client.upload(grant, b"bytes", false).map(|_| ()).map_err(|e| e.code),
        }
    };
    for op in [Read, Write] {
        assert_eq!(code(&master.grant(op, 5, &[&keeper]), op), Ok(()));
        let mut forged = master.grant(op, 5, &[&keeper]);
        forged.keepers[0].mac = vec![0; 16].into();
        assert_eq!(code(&forged, op), Err(ErrorCode::TicketForged));
        let expired = master.grant_at(op, 5, &me, |t| t.expires_ms -= 62_000);
        assert_eq!(code(&expired, op), Err(ErrorCode::TicketExpired));
        let others = master.grant_at(op, 5, &me, |t| t.keepers = vec![2]);
        assert_eq!(code(&others, op), Err(ErrorCode::TicketWrong));
    }
    assert_eq!(code(&master.grant(Write, 5, &[&keeper]), Read), Err(ErrorCode::TicketWrong));
    assert_eq!(code(&master.grant(Copy, 5, &[&keeper]), Read), Err(ErrorCode::TicketWrong));
    assert_eq!(code(&master.grant(Read, 5, &[&keeper]), Write), Err(ErrorCode::TicketWrong));
    let too_small = master.grant_at(Write, 5, &me, |t| t.max_length = 4);
    assert_eq!(code(&too_small, Write), Err(ErrorCode::TicketWrong));
    // The ticket, not the client, says which chunk: one for another chunk reads another chunk.
    assert_eq!(code(&master.grant(Read, 6, &[&keeper]), Read), Err(ErrorCode::NotFound));
    let mut redirected = master.grant(Write, 7, &[&keeper]);
    redirected.keepers.push(pb::KeeperGrant {
        keeper: 9,
        address: me[0].1.clone(),
        mac: vec![].into(),
        tls: false,
    });
    assert_eq!(
        code(&redirected, Write),
        Err(ErrorCode::TicketWrong),
        "a relay that the ticket does not name"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_to_write_is_good_for_one_upload_and_one_to_read_for_many() {
    let (master, dir) = (Master::start().await, tempdir().unwrap());
    let keeper = keeper(&dir, &master).await;
    let upload = |grant: &pb::Grant, bytes: &[u8]| {
        Client::connect(keeper.address()).upload(grant, bytes, false).map(drop).map_err(|e| e.code)
    };
    let me = [(keeper.id().0, keeper.address().to_string())];
    // One that is refused for another reason was not used.
    let short = master.grant_at(Write, 5, &me, |t| t.max_length = 5);
    assert_eq!(upload(&short, b"too long"), Err(ErrorCode::TicketWrong));
    assert_eq!(upload(&short, b"bytes"), Ok(()));
    assert_eq!(upload(&short, b"bytes"), Err(ErrorCode::TicketUsed));
    // One whose upload broke off was used, too, over whatever connection it comes again.
    let broken = master.grant(Write, 6, &[&keeper]);
    let mut half = Client::connect(keeper.address());
    half.open(&write_open(&broken, 10, false));
    half.data(b"more than ten bytes");
    assert_eq!(half.expect_error(), ErrorCode::Protocol);
    assert_eq!(upload(&broken, b"0123456789"), Err(ErrorCode::TicketUsed));
    // A new one for the same chunk is good: what broke off left nothing.
    let again = master.grant_at(Write, 6, &me, another);
    assert_eq!(upload(&again, b"0123456789"), Ok(()));
    // Altered, also in what makes it another one; for another keeper; and copies are writes.
    let altered = pb::Grant { ticket: [&again.ticket[..], &[0]].concat().into(), ..again.clone() };
    assert_eq!(upload(&altered, b"0123456789"), Err(ErrorCode::TicketForged));
    let others = master.grant_at(Write, 7, &[(9, me[0].1.clone())], |_| ());
    assert_eq!(upload(&others, b"bytes"), Err(ErrorCode::TicketForged));
    let read = master.grant(Read, 5, &[&keeper]);
    let mut client = Client::connect(keeper.address());
    for _ in 0..3 {
        assert_eq!(client.read_all(&read, 5).unwrap(), b"bytes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_chunk_and_a_bad_header_are_reported_to_the_master() {
    let (master, dir) = (Master::start().await, tempdir().unwrap());
    let keeper = keeper(&dir, &master).await;
    let mut client = Client::connect(keeper.address());
    let read = |client: &mut Client, chunk| {
        client.read_all(&master.grant(Read, chunk, &[&keeper]), 5).map_err(|e| e.code)
    };
    assert_eq!(read(&mut client, 6), Err(ErrorCode::NotFound));
    assert_eq!(master.wait_bad(1, 6).await.code(), pb::Code::NotFound);
    client.upload(&master.grant(Write, 5, &[&keeper]), b"bytes", false).unwrap();
    assert_eq!(read(&mut client, 5), Ok(b"bytes".to_vec()), "a refused read leaves the connection open");
    flip_byte(&chunk_file(&dir, 5), 20);
    assert_eq!(read(&mut client, 5), Err(ErrorCode::Corrupt));
    assert_eq!(master.wait_bad(1, 5).await.code(), pb::Code::Corrupt);
    assert_eq!(count_files(&dir.path().join("quarantine")), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_uploads_says_so_and_serves() {
    let (master, dir) = (Master::start().await, tempdir().unwrap());
    let first = keeper(&dir, &master).await;
    Client::connect(first.address()).upload(&master.grant(Write, 5, &[&first]), b"bytes", false).unwrap();
    first.shutdown().await;
    let config = dfs_keeper::Config { reserve_bytes: Some(u64::MAX), ..crate::config(dir.path(), &master) };
    let keeper = dfs_keeper::Keeper::start(config).await.unwrap();
    let mut client = Client::connect(keeper.address());
    let refused = client.upload(&master.grant(Write, 6, &[&keeper]), b"bytes", false);
    assert_eq!(refused.unwrap_err().code, ErrorCode::NoSpace);
    let grant = master.grant(Read, 5, &[&keeper]);
    assert_eq!(Client::connect(keeper.address()).read_all(&grant, 5).unwrap(), b"bytes");
    master
        .wait("read-only load", 1, |msg| match msg {
            Msg::Heartbeat(beat) => beat.load.filter(|load| load.read_only && load.free == 0),
            _ => None,
        })
        .await;
}
