//! What a mount writes: a queue of chunks per file, placed in order, transferred side by side, tried again as the mount
//! does it (`mount/src/write/queue.rs`, `upload.rs`): places have an order among those that were asked for over one stream alone,
//! so nothing is asked for over another one while older writes have places of the one before.

use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

use dfs_proto::pb::{self, mount_reply::Result as Reply, mount_request::Op};

use super::Bug;
use super::invariants::Saw;
use super::locking::Lease;
use super::master::CHUNK_SIZE;
use super::mount::{FILE_LEN, Task};
use super::world::{Content, Event, World};

/// Most writes of one file under way.
const UNDER_WAY: usize = 5;
/// A stored chunk of which no success comes is sent again after this.
const LATE_MS: i64 = 30_000;
/// A write that is under way for longer is given up.
const GIVE_UP_MS: i64 = 90_000;

/// One chunk on its way.
#[derive(Clone, Debug)]
pub(super) struct Write {
    pub number: u64,
    pub runs: Vec<pb::Run>,
    content: Content,
    pub append: bool,
    /// 0: it has no place yet.
    chunk: u64,
    /// It is in the file, and waits for those before it.
    done: bool,
    begun_ms: i64,
}

/// Of one file.
#[derive(Default)]
pub(super) struct Queue {
    pub writes: VecDeque<Write>,
    /// The request for a place that is not answered, and of which write.
    asks: Option<(u64, u64)>,
    /// The stream over which the places that are there were asked for.
    stream: u64,
    avoid: BTreeSet<u64>,
}

impl Queue {
    /// No answer comes any more.
    pub fn stream_broke(&mut self) {
        self.asks = None;
    }

    /// May a place be asked for over this stream?
    fn may_ask(&mut self, stream: u64) -> bool {
        if self.writes.iter().all(|write| write.chunk == 0) {
            self.stream = stream;
        }
        self.asks.is_none() && self.stream == stream
    }

    /// Every place is lost; what is in the file ahead of an older one, which would else cover it, is written again.
    /// Returns the chunks that are given up, newest first.
    pub fn begin_anew(&mut self) -> Vec<u64> {
        self.asks = None;
        let had = self.writes.iter_mut().rev().map(|write| {
            let (chunk, done) = (std::mem::take(&mut write.chunk), std::mem::take(&mut write.done));
            if done { 0 } else { chunk }
        });
        had.filter(|chunk| *chunk != 0).collect()
    }
}

/// Bytes on their way to keepers.
#[derive(Debug)]
pub(super) struct Transfer {
    inode: u64,
    write: u64,
    chunk: u64,
    placed: Vec<u64>,
    content: Content,
    synced: bool,
}

/// What a byte is: of which write, and for which place.
pub(super) fn byte(write: u64, offset: u64) -> u64 {
    write << 16 | offset
}

impl World {
    /// Nothing of the file is on its way from this mount, so its size may be changed or it may be closed.
    pub fn may_close(&self, at: usize, inode: u64) -> bool {
        let mount = &self.mounts[at];
        mount.queues.get(&inode).is_none_or(|queue| queue.writes.is_empty())
            && !mount.leases.contains_key(&inode)
    }

    /// write(2) at some place, into one or two runs.
    pub fn write(&mut self, at: usize, inode: u64) {
        if !self.mounts[at].opens.contains_key(&inode) {
            self.ask(at, Op::Open(pb::Open { inode, access: 0 }));
            return;
        }
        let first = self.rng.below((FILE_LEN - 40) as usize) as u64;
        let length = 1 + self.rng.below(CHUNK_SIZE as usize / 2) as u64;
        let mut runs = vec![pb::Run { file_offset: first, length }];
        if self.rng.percent(25) {
            let length = 1 + self.rng.below(CHUNK_SIZE as usize / 2) as u64;
            runs.push(pb::Run { file_offset: first + 13 + self.rng.below(10) as u64, length });
        }
        self.begin_write(at, inode, runs, false);
    }

    pub fn begin_write(&mut self, at: usize, inode: u64, runs: Vec<pb::Run>, append: bool) {
        if self.mounts[at].queues.get(&inode).is_some_and(|queue| queue.writes.len() >= UNDER_WAY) {
            return;
        }
        self.last_write += 1;
        let number = self.last_write;
        let offsets = runs.iter().flat_map(|run| run.file_offset..run.file_offset + run.length);
        let content: Content = Rc::from(offsets.map(|offset| byte(number, offset)).collect::<Vec<_>>());
        self.saw(&Saw::WriteBegun { mount: at, inode, write: number, append, runs: &runs });
        let write = Write { number, runs, content, append, chunk: 0, done: false, begun_ms: self.now_ms };
        self.mounts[at].queues.entry(inode).or_default().writes.push_back(write);
        self.pump(at, inode);
    }

    /// Asks for the next place, if none is asked for: in order, one at a time.
    pub fn pump(&mut self, at: usize, inode: u64) {
        let now_ms = self.now_ms;
        let Some(queue) = self.mounts[at].queues.get(&inode) else { return };
        if queue.writes.front().is_some_and(|write| now_ms - write.begun_ms > GIVE_UP_MS) {
            return self.fail_writes(at, inode);
        }
        if !self.mounts[at].welcomed {
            return;
        }
        let stream = self.mounts[at].streams;
        let Some(queue) = self.mounts[at].queues.get_mut(&inode) else { return };
        if !queue.may_ask(stream) {
            return;
        }
        let mut waiting: Vec<&Write> = queue.writes.iter().filter(|write| write.chunk == 0).collect();
        if self.bug == Some(Bug::MountWritesOutOfOrder) {
            waiting.reverse();
        }
        if let Some(write) = waiting.first().copied().cloned() {
            self.ask_for_place(at, inode, &write, 0);
        }
    }

    fn ask_for_place(&mut self, at: usize, inode: u64, write: &Write, replaces: u64) {
        let avoid =
            self.mounts[at].queues.get(&inode).map_or(Vec::new(), |q| q.avoid.iter().copied().collect());
        let alloc = pb::Alloc {
            inode,
            runs: write.runs.clone(),
            mtime: None,
            replaces,
            avoid,
            sync: false,
            append: write.append && self.bug != Some(Bug::GrantsTheLeaseTwice),
        };
        let request = self.ask(at, Op::Alloc(alloc));
        if replaces == 0
            && let Some(queue) = self.mounts[at].queues.get_mut(&inode)
        {
            queue.asks = Some((request, write.number));
        }
    }

    /// The answer to a request for a place.
    pub fn placed(&mut self, at: usize, request: u64, op: &pb::Alloc, result: Reply) {
        let inode = op.inode;
        let Some(queue) = self.mounts[at].queues.get_mut(&inode) else { return };
        let of = match queue.asks {
            Some((asked, number)) if asked == request => {
                queue.asks = None;
                Some(number)
            }
            _ => None,
        };
        let write = queue.writes.iter_mut().find(|write| match op.replaces {
            0 => Some(write.number) == of && write.chunk == 0,
            replaces => write.chunk == replaces,
        });
        match (result, write) {
            (Reply::Placed(placed), Some(write)) => {
                write.chunk = placed.chunk;
                let (number, content) = (write.number, write.content.clone());
                let keepers = placed.grant.iter().flat_map(|g| &g.keepers).map(|k| k.keeper).collect();
                let synced = self.rng.percent(20);
                let transfer =
                    Transfer { inode, write: number, chunk: placed.chunk, placed: keepers, content, synced };
                let ms = if self.rng.percent(2) { self.rng.between(50, 10_000) } else { self.rng.delay_ms() };
                self.after(ms, Event::Mount(at, Task::Transfer(transfer)));
                self.pump(at, inode);
            }
            (Reply::Placed(placed), None) => {
                self.ask(at, Op::AbortUpload(pb::AbortUpload { chunk: placed.chunk, ..Default::default() }));
            }
            (Reply::Error(_), None) => {}
            (Reply::Error(error), Some(write)) => match pb::Code::try_from(error.code) {
                // The message came before.
                Ok(pb::Code::Exists) if op.replaces != 0 && write.done => {}
                Ok(pb::Code::TimedOut | pb::Code::Exists) if op.replaces != 0 => self.begin_anew(at, inode),
                Ok(pb::Code::NoKeeper | pb::Code::NoSpace | pb::Code::Busy) if op.replaces == 0 => {
                    self.after(700, Event::Mount(at, Task::AllocAgain { inode }));
                }
                Ok(pb::Code::NoKeeper | pb::Code::NoSpace | pb::Code::Busy) => {
                    let (write, chunk) = (self.write_of_chunk(at, inode, op.replaces), op.replaces);
                    self.after(700, Event::Mount(at, Task::Late { inode, write, chunk }));
                }
                _ => self.fail_writes(at, inode),
            },
            _ => {}
        }
    }

    pub fn write_of_chunk(&self, at: usize, inode: u64, chunk: u64) -> u64 {
        let queue = self.mounts[at].queues.get(&inode);
        queue
            .and_then(|q| q.writes.iter().find(|w| w.chunk == chunk && !w.done))
            .map_or(0, |write| write.number)
    }

    pub fn mount_transfers(&mut self, at: usize, transfer: &Transfer) {
        let Transfer { inode, write, chunk, ref placed, ref content, synced } = *transfer;
        if self.write_of_chunk(at, inode, chunk) != write {
            return;
        }
        if self.transfer(chunk, placed, content, synced) {
            self.after(LATE_MS, Event::Mount(at, Task::Late { inode, write, chunk }));
        } else {
            if let (Some(first), Some(queue)) = (placed.first(), self.mounts[at].queues.get_mut(&inode)) {
                queue.avoid = BTreeSet::from([*first]);
            }
            let ms = self.rng.between(50, 800);
            self.after(ms, Event::Mount(at, Task::Late { inode, write, chunk }));
        }
    }

    /// No success for this chunk: another takes its place.
    pub fn upload_is_late(&mut self, at: usize, inode: u64, write: u64, chunk: u64) {
        if write == 0 || self.write_of_chunk(at, inode, chunk) != write {
            return;
        }
        if !self.mounts[at].welcomed {
            return self.after(1_000, Event::Mount(at, Task::Late { inode, write, chunk }));
        }
        let Some(queue) = self.mounts[at].queues.get(&inode) else { return };
        let Some(write) = queue.writes.iter().find(|w| w.chunk == chunk).cloned() else { return };
        if self.now_ms - write.begun_ms > GIVE_UP_MS {
            return self.fail_writes(at, inode);
        }
        self.ask_for_place(at, inode, &write, chunk);
    }

    /// Step 6.
    pub fn upload_done(&mut self, at: usize, done: &pb::UploadDone) {
        let inode = done.inode;
        let Some(queue) = self.mounts[at].queues.get_mut(&inode) else { return };
        let Some(place) = queue.writes.iter().position(|write| write.chunk == done.chunk) else { return };
        let Some(error) = &done.error else {
            queue.writes[place].done = true;
            self.ack_writes(at, inode);
            self.pump(at, inode);
            return self.settled(at, inode);
        };
        match pb::Code::try_from(error.code) {
            Ok(pb::Code::Session) => self.begin_anew(at, inode),
            Ok(pb::Code::Lost | pb::Code::Corrupt | pb::Code::TimedOut) => {
                let (write, chunk) = (queue.writes[place].number, done.chunk);
                let ms = self.rng.between(20, 500);
                self.after(ms, Event::Mount(at, Task::Late { inode, write, chunk }));
            }
            _ => self.fail_writes(at, inode),
        }
    }

    /// In their order: what an older one may have to be written again under is not safe yet.
    fn ack_writes(&mut self, at: usize, inode: u64) {
        while let Some(queue) = self.mounts[at].queues.get_mut(&inode)
            && let Some(write) = queue.writes.pop_front_if(|write| write.done)
        {
            self.saw(&Saw::WriteAcked { inode, write: write.number, append: write.append });
        }
    }

    fn begin_anew(&mut self, at: usize, inode: u64) {
        let had = self.mounts[at].queues.get_mut(&inode).map_or(Vec::new(), Queue::begin_anew);
        self.saw(&Saw::BegunAnew { mount: at, inode, given_up: &had });
        for chunk in had {
            self.ask(at, Op::AbortUpload(pb::AbortUpload { chunk, ..Default::default() }));
        }
        self.after(300, Event::Mount(at, Task::AllocAgain { inode }));
    }

    /// The program is told: all that was not safe is dropped.
    pub fn fail_writes(&mut self, at: usize, inode: u64) {
        let Some(queue) = self.mounts[at].queues.remove(&inode) else { return };
        self.saw(&Saw::WritesDropped { mount: at, inode });
        // Newest first: what is given up must not let later bytes pass.
        for write in queue.writes.iter().rev().filter(|write| write.chunk != 0 && !write.done) {
            self.ask(at, Op::AbortUpload(pb::AbortUpload { chunk: write.chunk, ..Default::default() }));
        }
        self.mounts[at].queues.insert(inode, Queue::default());
        // Where the file ends is not known any more.
        if let Some(Lease::Held { recalled, .. }) = self.mounts[at].leases.get_mut(&inode) {
            *recalled = true;
        }
        self.settled(at, inode);
    }

    fn settled(&mut self, at: usize, inode: u64) {
        let empty = self.mounts[at].queues.get(&inode).is_some_and(|queue| queue.writes.is_empty());
        if empty {
            self.mounts[at].queues.remove(&inode);
            if matches!(self.mounts[at].leases.get(&inode), Some(Lease::Held { recalled: true, .. })) {
                self.recalled(at, inode);
            }
        }
    }
}
