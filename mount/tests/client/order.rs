//! The order of a file's uploads when the stream to the master breaks: nothing is placed ahead of what is older and not in the
//! file, and what is in the file is not written again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dfs_mount::client::{Client, Event};
use dfs_mount::write::{MIN_BUDGET, WriteHandle, Writers};
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::InodeNo;
use dfs_proto::pb;
use dfs_proto::pb::mount_down::Msg as Down;
use dfs_proto::pb::mount_reply::Result as Reply;
use dfs_proto::pb::mount_request::Op;
use tokio::sync::mpsc;

use crate::keeper::{Keeper, Mode, grant};
use crate::master::Master;
use crate::wait_until;

/// One file, to be written in pieces of 10 bytes, each of which is one upload.
struct Scene {
    master: Master,
    keeper: Keeper,
    client: Client,
    events: mpsc::Receiver<Event>,
    writers: Arc<Writers>,
    file: WriteHandle,
}

impl Scene {
    /// The keeper takes what it is sent and says nothing, so that no transfer ends soon.
    async fn new() -> Scene {
        let keeper = Keeper::start(1);
        keeper.set(Mode::Silent);
        let master = Master::start(|_| None).await;
        let (client, events) = master.connect().await;
        let writers = Writers::new(client.clone(), MIN_BUDGET);
        let file = writers.file(InodeNo(5));
        let scene = Scene { master, keeper, client, events, writers, file };
        scene.places();
        scene
    }

    /// The master gives places, chunks 1, 2, ...
    fn places(&self) {
        let (keeper, chunks) = (self.keeper.clone(), AtomicU64::new(self.asked().len() as u64));
        let answer = move |op: &Op| match op {
            Op::Alloc(_) => {
                let chunk = chunks.fetch_add(1, Ordering::Relaxed) + 1;
                Some(Reply::Placed(pb::Placed { chunk, grant: Some(grant(chunk, &[&keeper])) }))
            }
            Op::AbortUpload(_) => Some(Reply::Empty(pb::Empty {})),
            _ => None,
        };
        self.master.with(|script| script.answer = Box::new(answer));
    }

    async fn write(&self, at: u64) {
        self.file.write(at, &[7; 10]).await.unwrap();
        self.writers.freeze_all();
    }

    /// For which offsets places were asked for, and which chunks they were to replace.
    fn asked(&self) -> Vec<(u64, u64)> {
        self.master.with(|script| {
            let ops = script.requests.iter().filter_map(|request| request.op.as_ref());
            ops.filter_map(|op| match op {
                Op::Alloc(alloc) => Some((alloc.runs[0].file_offset, alloc.replaces)),
                _ => None,
            })
            .collect()
        })
    }

    async fn asked_for(&self, count: usize) {
        wait_until("requests for places", || self.asked().len() >= count).await;
    }

    /// The stream breaks, and is not there again before `welcome`.
    async fn breaks(&mut self) {
        let away = DfsError::new(ErrorCode::Unavailable, "not yet");
        self.master.with(|script| script.refuse = Some(away));
        self.master.break_stream();
        assert!(matches!(self.events.recv().await, Some(Event::SessionLost(_))));
        wait_until("the break", || self.client.stream() == 1).await;
    }

    async fn welcome(&mut self) {
        self.master.with(|script| script.refuse = None);
        assert!(matches!(self.events.recv().await, Some(Event::SessionResumed { .. })));
    }

    fn done(&self, chunk: u64) {
        self.master.push(Down::UploadDone(pb::UploadDone { chunk, copies: 2, ..Default::default() }));
    }

    fn lost(&self, chunk: u64) {
        let error = Some(DfsError::new(ErrorCode::Session, "begin anew").to_wire());
        self.master.push(Down::UploadDone(pb::UploadDone { chunk, error, ..Default::default() }));
    }
}

#[tokio::test]
async fn a_place_is_not_asked_for_ahead_of_an_older_upload_that_the_break_ended() {
    let mut scene = Scene::new().await;
    scene.write(0).await;
    scene.asked_for(1).await;
    scene.breaks().await;
    scene.welcome().await;
    scene.lost(1);
    // Its transfer is still under way.
    scene.write(10).await;
    scene.asked_for(3).await;
    assert_eq!(scene.asked(), [(0, 0), (0, 0), (10, 0)]);
}

#[tokio::test]
async fn nor_is_one_that_was_wanted_while_there_was_no_stream() {
    let mut scene = Scene::new().await;
    scene.write(0).await;
    scene.asked_for(1).await;
    scene.breaks().await;
    scene.write(10).await;
    scene.welcome().await;
    scene.lost(1);
    scene.asked_for(3).await;
    assert_eq!(scene.asked(), [(0, 0), (0, 0), (10, 0)]);
}

#[tokio::test]
async fn nor_is_one_that_a_restarted_master_is_asked_for() {
    let mut scene = Scene::new().await;
    scene.write(0).await;
    scene.asked_for(1).await;
    scene.breaks().await;
    scene.write(10).await;
    scene.master.with(|script| script.epoch = 2);
    scene.welcome().await;
    scene.asked_for(3).await;
    assert_eq!(scene.asked(), [(0, 0), (0, 0), (10, 0)]);
}

#[tokio::test]
async fn what_is_in_the_file_is_not_written_again_when_a_later_place_was_asked_for_at_the_break() {
    let mut scene = Scene::new().await;
    scene.write(0).await;
    scene.asked_for(1).await;
    scene.master.with(|script| script.answer = Box::new(|_| None));
    scene.write(10).await;
    scene.asked_for(2).await;
    scene.breaks().await;
    scene.places();
    scene.welcome().await;
    scene.done(1);
    scene.asked_for(3).await;
    scene.done(3);
    scene.file.flush(false).await.unwrap();
    assert_eq!(scene.asked(), [(0, 0), (10, 0), (10, 0)]);
}

#[tokio::test]
async fn what_is_in_the_file_is_not_written_again_when_another_place_for_it_was_asked_for_at_the_break() {
    let mut scene = Scene::new().await;
    scene.keeper.set(Mode::Refuses(ErrorCode::Busy));
    let keeper = scene.keeper.clone();
    scene.master.with(|script| {
        script.answer = Box::new(move |op| match op {
            Op::Alloc(alloc) if alloc.replaces == 0 => {
                Some(Reply::Placed(pb::Placed { chunk: 1, grant: Some(grant(1, &[&keeper])) }))
            }
            _ => None,
        });
    });
    scene.write(0).await;
    scene.asked_for(2).await;
    scene.breaks().await;
    scene.welcome().await;
    scene.asked_for(3).await;
    assert_eq!(scene.asked(), [(0, 0), (0, 1), (0, 1)]);
    scene.done(1);
    let exists = Reply::Error(DfsError::new(ErrorCode::Exists, "it is in the file").to_wire());
    let last = scene.master.with(|script| {
        let alloc = |request: &&pb::MountRequest| matches!(request.op, Some(Op::Alloc(_)));
        script.requests.iter().rev().find(alloc).map(|request| request.id)
    });
    scene.master.reply(last.unwrap(), exists);
    scene.file.flush(false).await.unwrap();
    assert_eq!(scene.asked().len(), 3);
}

#[tokio::test]
async fn what_a_restarted_master_has_in_the_file_is_not_written_again() {
    let mut scene = Scene::new().await;
    for at in [0, 10, 20] {
        scene.write(at).await;
        scene.asked_for(at as usize / 10 + 1).await;
    }
    scene.breaks().await;
    scene.places();
    // The second is in the file, and so the first, which nobody has any more as a whole.
    let places = scene.master.with(|script| std::mem::replace(&mut script.answer, Box::new(|_| None)));
    scene.master.with(|script| {
        script.epoch = 2;
        script.answer = Box::new(move |op| match op {
            Op::AbortUpload(abort) if abort.chunk == 2 => {
                Some(Reply::Error(DfsError::new(ErrorCode::Exists, "it is in the file").to_wire()))
            }
            Op::Getattr(_) => Some(Reply::Attr(pb::Attr { inode: 5, size: 20, ..pb::Attr::default() })),
            Op::Barrier(_) => Some(Reply::Empty(pb::Empty {})),
            op => places(op),
        });
    });
    scene.welcome().await;
    scene.asked_for(4).await;
    scene.done(4);
    scene.file.flush(false).await.unwrap();
    assert_eq!(scene.asked(), [(0, 0), (10, 0), (20, 0), (20, 0)]);
}
