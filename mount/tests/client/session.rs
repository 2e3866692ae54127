//! The session: order, breaks, resumption, deadlines.

use std::time::{Duration, Instant};

use dfs_mount::client::{Client, ClientConfig, Event};
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::{ChunkId, InodeNo};
use dfs_proto::pb;
use dfs_proto::pb::mount_down::Msg as Down;
use dfs_proto::pb::mount_reply::Result as Reply;
use dfs_proto::pb::mount_request::Op;
use tokio::sync::mpsc;

use crate::master::Master;
use crate::wait_until;

fn attr(inode: u64) -> Reply {
    Reply::Attr(pb::Attr { inode, ..Default::default() })
}

/// Answers opens and getattrs.
fn answer(op: &Op) -> Option<Reply> {
    match op {
        Op::Open(open) => Some(attr(open.inode)),
        Op::Getattr(getattr) => Some(attr(getattr.inode)),
        _ => None,
    }
}

async fn next(events: &mut mpsc::Receiver<Event>) -> Event {
    tokio::time::timeout(Duration::from_secs(10), events.recv())
        .await
        .expect("an event in time")
        .expect("an event")
}

#[tokio::test]
async fn the_welcome_is_passed_on() {
    let master = Master::start(answer).await;
    let (client, _events) = master.connect().await;
    let info = client.info();
    assert_eq!((info.chunk_size, info.copies, info.min_copies), (8 << 20, 3, 2));
    assert_eq!(info.session.0, 101);
    let apart = client.now().as_millis() - pb::Time::now().as_millis();
    assert!(apart.abs() < 1000, "{apart}");
    assert_eq!(client.getattr(InodeNo(5)).await.unwrap().inode, 5);
}

#[tokio::test]
async fn an_error_comes_back_with_its_code_and_words() {
    let refused = DfsError::new(ErrorCode::NotEmpty, "has entries");
    let wire = refused.to_wire();
    let master = Master::start(move |_| Some(Reply::Error(wire.clone()))).await;
    let (client, _events) = master.connect().await;
    assert_eq!(client.rmdir(InodeNo(1), b"d").await.unwrap_err(), refused);
}

#[tokio::test]
async fn requests_leave_in_the_order_of_their_first_poll() {
    let master = Master::start(|_| None).await;
    let (client, _events) = master.connect().await;
    let calls: Vec<_> = (0..1000u64)
        .map(|inode| {
            let client = client.clone();
            let mut call =
                Box::pin(async move { client.alloc(pb::Alloc { inode, ..Default::default() }, 0).await });
            // Polled once, here and now; the rest happens elsewhere.
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(call.as_mut().poll(&mut context).is_pending());
            tokio::spawn(call)
        })
        .collect();
    wait_until("512 requests", || master.count(|_| true) >= 512).await;
    assert_eq!(master.count(|_| true), 512, "no more than 512 are out at once");
    let ids: Vec<u64> = master.with(|script| script.requests.iter().map(|request| request.id).collect());
    for id in ids {
        master.reply(id, Reply::Empty(pb::Empty {}));
    }
    wait_until("all requests", || master.count(|_| true) == 1000).await;
    let order: Vec<u64> = master.with(|script| {
        let ops = script.requests.iter().filter_map(|request| request.op.as_ref());
        ops.map(|op| if let Op::Alloc(alloc) = op { alloc.inode } else { u64::MAX }).collect()
    });
    assert_eq!(order, (0..1000).collect::<Vec<_>>());
    calls.iter().for_each(|call| call.abort());
}

#[tokio::test]
async fn after_a_break_the_session_is_resumed_and_reads_are_sent_again() {
    let master = Master::start(answer).await;
    let (client, mut events) = master.connect().await;
    client.open(InodeNo(7), 0).await.unwrap();
    client.open(InodeNo(7), 0).await.unwrap();
    client.open(InodeNo(8), 0).await.unwrap();
    client.release(InodeNo(8));
    wait_until("the release", || master.count(|op| matches!(op, Op::Release(_))) == 1).await;
    master.with(|script| script.answer = Box::new(|_| None));
    let reader = {
        let client = client.clone();
        tokio::spawn(async move { client.getattr(InodeNo(9)).await })
    };
    wait_until("the getattr", || master.count(|op| matches!(op, Op::Getattr(_))) == 1).await;
    master.with(|script| script.answer = Box::new(answer));
    master.break_stream();
    assert_eq!(next(&mut events).await, Event::SessionLost(Default::default()));
    assert_eq!(next(&mut events).await, Event::SessionResumed { same_master: true });
    assert_eq!(reader.await.unwrap().unwrap().inode, 9);
    let hello = master.with(|script| script.hellos[1].clone());
    assert_eq!((hello.session, hello.open_inodes), (101, vec![7, 7]));
}

#[tokio::test]
async fn a_master_that_falls_silent_is_left_after_three_seconds() {
    let master = Master::start(answer).await;
    let (client, mut events) = master.connect().await;
    master.with(|script| script.mute = true);
    let began = Instant::now();
    assert_eq!(next(&mut events).await, Event::SessionLost(Default::default()));
    let silence = began.elapsed();
    assert!(silence > Duration::from_millis(1900) && silence < Duration::from_secs(5), "{silence:?}");
    master.with(|script| script.mute = false);
    assert!(matches!(next(&mut events).await, Event::SessionResumed { .. }));
    assert_eq!(client.getattr(InodeNo(5)).await.unwrap().inode, 5);
}

#[tokio::test]
async fn a_place_that_was_asked_for_before_a_break_has_to_be_asked_for_anew() {
    let master = Master::start(|_| None).await;
    let (client, _events) = master.connect().await;
    let alloc = tokio::spawn(async move { client.alloc(pb::Alloc::default(), 0).await });
    wait_until("the alloc", || master.count(|_| true) == 1).await;
    master.break_stream();
    assert_eq!(alloc.await.unwrap().unwrap_err().code, ErrorCode::Session);
}

#[tokio::test]
async fn uploads_live_on_with_the_same_master_and_end_with_another() {
    let master = Master::start(answer).await;
    let (client, mut events) = master.connect().await;
    let (first, second) = (client.expect_upload(ChunkId(1)), client.expect_upload(ChunkId(2)));
    master.break_stream();
    assert_eq!(next(&mut events).await, Event::SessionLost(Default::default()));
    assert_eq!(next(&mut events).await, Event::SessionResumed { same_master: true });
    master.push(Down::UploadDone(pb::UploadDone { chunk: 1, copies: 3, ..Default::default() }));
    assert_eq!(first.await.unwrap().copies, 3);
    master.with(|script| script.epoch = 2);
    master.break_stream();
    assert_eq!(next(&mut events).await, Event::SessionLost(Default::default()));
    assert_eq!(next(&mut events).await, Event::SessionResumed { same_master: false });
    assert_eq!(second.await.unwrap_err().code, ErrorCode::Session);
}

#[tokio::test]
async fn uploads_end_when_the_master_forgot_the_session() {
    let master = Master::start(answer).await;
    let (client, _events) = master.connect().await;
    let upload = client.expect_upload(ChunkId(1));
    master.with(|script| script.remembers = false);
    master.break_stream();
    assert_eq!(upload.await.unwrap_err().code, ErrorCode::Session);
}

#[tokio::test]
async fn invalidations_are_passed_on_in_order() {
    let master = Master::start(answer).await;
    let (_client, mut events) = master.connect().await;
    let what = |inode| pb::Invalidate { inode, content: true, ..Default::default() };
    (1..100).for_each(|inode| master.push(Down::Invalidate(what(inode))));
    for inode in 1..100 {
        assert_eq!(next(&mut events).await, Event::Invalidate(what(inode)));
    }
}

#[tokio::test]
async fn what_comes_late_is_no_sign_of_life() {
    let master = Master::start(answer).await;
    let (_client, mut events) = master.connect().await;
    // As over a link that is slow: messages go on coming, answers to pings do not.
    master.with(|script| script.mute = true);
    let began = Instant::now();
    loop {
        master.push(Down::Recall(pb::Recall { inode: 5 }));
        let event = tokio::time::timeout(Duration::from_millis(300), events.recv()).await;
        if let Ok(Some(Event::SessionLost(_))) = event {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(15), "it goes on trusting");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(began.elapsed() > Duration::from_secs(1));
}

#[tokio::test]
async fn an_open_whose_caller_went_away_is_released() {
    let master = Master::start(|_| None).await;
    let (client, _events) = master.connect().await;
    let open = {
        let client = client.clone();
        tokio::spawn(async move { client.open(InodeNo(3), 0).await })
    };
    wait_until("the open", || master.count(|_| true) == 1).await;
    open.abort();
    assert!(open.await.unwrap_err().is_cancelled());
    let id = master.with(|script| script.requests[0].id);
    master.reply(id, attr(3));
    wait_until("the release", || master.count(|op| *op == Op::Release(pb::Release { inode: 3 })) == 1).await;
}

#[tokio::test]
async fn a_call_ends_within_its_deadline() {
    let master = Master::start(|_| None).await;
    let config = ClientConfig { op_timeout: Duration::from_millis(200), ..master.config() };
    let (client, _events) = Client::connect(config).await.unwrap();
    let error = client.getattr(InodeNo(1)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::TimedOut);
    assert!(error.message.contains(&master.address), "{error}");
}

#[tokio::test]
async fn a_refusal_is_told_at_once_in_the_masters_words() {
    let master = Master::start(answer).await;
    let refusal = DfsError::new(ErrorCode::Version, "too old");
    master.with(|script| script.refuse = Some(refusal.clone()));
    let began = Instant::now();
    let error = Client::connect(master.config()).await.map(|_| ()).unwrap_err();
    assert_eq!(error, refusal);
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_master_that_does_not_answer_is_named_in_time() {
    // Takes connections, as a stopped process does, and says nothing.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let config =
        ClientConfig { connect_timeout: Duration::from_millis(500), ..ClientConfig::new(&address, "test") };
    let began = Instant::now();
    let error = Client::connect(config).await.map(|_| ()).unwrap_err();
    assert_eq!(error.code, ErrorCode::Unavailable);
    assert!(error.message.contains(&address) && error.message.contains("--master"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn closing_sends_what_is_queued() {
    let master = Master::start(answer).await;
    let (client, _events) = master.connect().await;
    for chunk in 0..20 {
        client.report_bad(ChunkId(chunk), 1.into(), &DfsError::new(ErrorCode::Corrupt, "bad"));
    }
    client.close().await;
    assert_eq!(master.reports().len(), 20);
    assert_eq!(client.getattr(InodeNo(1)).await.unwrap_err().code, ErrorCode::Session);
}
