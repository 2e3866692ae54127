//! What a data port must survive.

use std::io::Write as _;
use std::time::{Duration, Instant};

use dfs_keeper::{Config, Keeper, Tuning};
use dfs_proto::error::ErrorCode;
use dfs_proto::frame::{self, Kind};
use dfs_proto::pb::{self, TicketOp::Read, TicketOp::Write};
use tempfile::tempdir;

use crate::client::{Client, read_request, write_open};
use crate::master::{Master, another};
use crate::{config, count_files, data, keeper, tuning, wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn garbage_and_oversized_frames_are_answered_and_cut_off() {
    let (master, dir) = (Master::start().await, tempdir().unwrap());
    let keeper = keeper(&dir, &master).await;
    let mut oversized = frame::encode_data(1, 5);
    oversized[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    let bad_meta = frame::encode(Kind::Read, 1, &pb::WriteEnd { block_sums: vec![0xff; 9].into() }, 0);
    let stray = frame::encode_data(1, 0);
    let answer = frame::encode(Kind::WriteDone, 1, &pb::WriteDone::default(), 0);
    let hostile: [&[u8]; 5] = [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", &oversized, &bad_meta, &stray, &answer];
    for bytes in hostile {
        let mut client = Client::connect(keeper.address());
        client.send(bytes);
        let code = client.expect_error();
        assert!(matches!(code, ErrorCode::Protocol | ErrorCode::TicketForged), "{code:?}");
        if code == ErrorCode::Protocol {
            assert!(client.is_closed());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_breaks_the_rules_is_refused_and_leaves_nothing() {
    let (master, dir) = (Master::start().await, tempdir().unwrap());
    let keeper = keeper(&dir, &master).await;
    let me = [(keeper.id().0, keeper.address().to_string())];
    let upload = |length, act: fn(&mut Client)| {
        let grant = master.grant_at(Write, 5, &me, another);
        let mut client = Client::connect(keeper.address());
        client.open(&write_open(&grant, length, false));
        act(&mut client);
        client.expect_error()
    };
    assert_eq!(upload(4, |c| c.data(b"bytes")), ErrorCode::Protocol, "too many bytes");
    assert_eq!(upload(6, |c| (c.data(b"bytes"), c.end(vec![0; 4].into())).1), ErrorCode::Corrupt, "too few");
    assert_eq!(upload(5, |c| c.send(&frame::encode_data(99, 0))), ErrorCode::Protocol, "another request");
    let read = |c: &mut Client| c.ask(&pb::ReadRequest::default());
    assert_eq!(upload(5, read), ErrorCode::Protocol, "another kind");
    assert_eq!(upload(0, |_| ()), ErrorCode::TicketWrong);
    assert_eq!(upload((8 << 20) + 1, |_| ()), ErrorCode::TicketWrong);
    wait_until("tmp is empty", || count_files(&dir.path().join("tmp")) == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_outside_of_blocks_or_chunk_are_refused() {
    let (master, dir) = (Master::start().await, tempdir().unwrap());
    let keeper = keeper(&dir, &master).await;
    let mut client = Client::connect(keeper.address());
    client.upload(&master.grant(Write, 5, &[&keeper]), &data(200_000), false).unwrap();
    let grant = master.grant(Read, 5, &[&keeper]);
    for (offset, length) in [(1, 65_536), (0, 100), (131_072, 131_072), (65_536 * 4, 65_536), (0, 1 << 30)] {
        let refused = client.read(&read_request(&grant, offset, length)).unwrap_err();
        assert_eq!(refused.code, ErrorCode::Invalid, "{offset} {length}");
    }
    assert_eq!(client.read(&read_request(&grant, 131_072, 68_928)).unwrap().1, data(200_000)[131_072..]);
}

async fn impatient(dir: &tempfile::TempDir, master: &Master) -> Keeper {
    let tuning = Tuning { silence_timeout: Duration::from_millis(400), ..tuning() };
    Keeper::start_tuned(config(dir.path(), master), tuning).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_truncated_and_trickling_connections_are_closed_in_time() {
    let (master, dir) = (Master::start().await, tempdir().unwrap());
    let keeper = impatient(&dir, &master).await;
    let frame =
        frame::encode(Kind::Read, 1, &pb::ReadRequest { mac: data(2000).into(), ..Default::default() }, 0);
    let begin = Instant::now();
    let mut silent = Client::connect(keeper.address());
    let mut truncated = Client::connect(keeper.address());
    truncated.send(&frame[..20]);
    let mut upload = Client::connect(keeper.address());
    upload.open(&write_open(&master.grant(Write, 5, &[&keeper]), 1_000_000, false));
    upload.data(&data(10_000));
    let mut trickling = Client::connect(keeper.address());
    // Never silent for long, and never done.
    let mut bytes = frame.iter();
    while trickling.stream.write_all(&[*bytes.next().unwrap()]).is_ok() {
        assert!(begin.elapsed() < Duration::from_secs(5), "the trickling connection lives on");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(silent.is_closed() && truncated.is_closed() && upload.is_closed());
    assert!(begin.elapsed() < Duration::from_secs(5));
    wait_until("tmp is empty", || count_files(&dir.path().join("tmp")) == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_cut_off() {
    let (master, dir) = (Master::start().await, tempdir().unwrap());
    let keeper = impatient(&dir, &master).await;
    let mut client = Client::connect(keeper.address());
    client.upload(&master.grant(Write, 5, &[&keeper]), &data(1 << 20), false).unwrap();
    let grant = master.grant(Read, 5, &[&keeper]);
    let begin = Instant::now();
    client.stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
    let request = frame::encode(Kind::Read, 1, &read_request(&grant, 0, 1 << 20), 0);
    while client.stream.write_all(&request).is_ok() {
        assert!(begin.elapsed() < Duration::from_secs(10), "the keeper goes on waiting");
    }
    keeper.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_too_many_is_told_that_the_keeper_is_busy() {
    let (master, dir) = (Master::start().await, tempdir().unwrap());
    let config = Config { max_connections: 2, ..config(dir.path(), &master) };
    let keeper = Keeper::start_tuned(config, tuning()).await.unwrap();
    let mut first = Client::connect(keeper.address());
    let second = Client::connect(keeper.address());
    // Served, so counted.
    first.upload(&master.grant(Write, 5, &[&keeper]), b"bytes", false).unwrap();
    wait_until("the third is refused", || {
        let mut third = Client::connect(keeper.address());
        third.stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        third.frame().is_some_and(|frame| frame.header.kind == Kind::Error)
    });
    let mut third = Client::connect(keeper.address());
    assert_eq!(third.expect_error(), ErrorCode::Busy);
    drop(second);
    let grant = master.grant(Read, 5, &[&keeper]);
    wait_until("there is room again", || {
        let mut again = Client::connect(keeper.address());
        again.stream.write_all(&frame::encode(Kind::Read, 0, &read_request(&grant, 0, 5), 0)).is_ok()
            && again.frame().is_some_and(|frame| frame.header.kind == Kind::ReadData)
    });
}
