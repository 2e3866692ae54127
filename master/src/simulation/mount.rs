//! Scripted mounts: sessions that ask, cache what they are told and answer invalidations, lose their stream and resume,
//! ask again what was not answered, and die. What they write is in `writes.rs`, locks and leases are in `locking.rs`.

use std::collections::BTreeMap;

use bytes::Bytes;
use dfs_proto::pb::{self, mount_down, mount_reply::Result as Reply, mount_request::Op};

use super::Bug;
use super::cache::Cache;
use super::invariants::Saw;
use super::locking::{Lease, Lock};
use super::world::{Event, Peer, Up, World};
use super::writes::{Queue, Transfer};

/// A mount gives up what was not answered for so long while the master was away.
const PATIENCE_MS: i64 = 30_000;
/// Longest file; what is written is shorter.
pub(super) const FILE_LEN: u64 = 96;

#[derive(Debug)]
pub(super) enum Task {
    Act,
    Connect,
    Transfer(Transfer),
    Late { inode: u64, write: u64, chunk: u64 },
    AllocAgain { inode: u64 },
    Append { inode: u64 },
}

/// A request that is not answered.
pub(super) struct Asked {
    pub op: Op,
    pub step: u64,
    pub at_ms: i64,
}

/// See the module.
pub(super) struct Mount {
    pub alive: bool,
    /// 0: none yet.
    pub session: u64,
    pub link: Option<usize>,
    pub welcomed: bool,
    /// That were welcomed, ever.
    pub streams: u64,
    pub epoch: u64,
    /// Stays away until then.
    pub away_until_ms: i64,
    next_request: u64,
    pub asked: BTreeMap<u64, Asked>,
    pub opens: BTreeMap<u64, u32>,
    pub dirs: Vec<u64>,
    pub files: Vec<u64>,
    pub cache: Cache,
    pub queues: BTreeMap<u64, Queue>,
    pub locks: BTreeMap<u64, Lock>,
    pub leases: BTreeMap<u64, Lease>,
}

impl Mount {
    fn learn(list: &mut Vec<u64>, inode: u64) {
        if !list.contains(&inode) {
            list.push(inode);
            if list.len() > 8 {
                // The root stays.
                list.remove(1);
            }
        }
    }
}

impl World {
    pub fn add_mount(&mut self) {
        self.mounts.push(Mount {
            alive: true,
            session: 0,
            link: None,
            welcomed: false,
            streams: 0,
            epoch: 0,
            away_until_ms: 0,
            next_request: 1,
            asked: BTreeMap::new(),
            opens: BTreeMap::new(),
            dirs: vec![1],
            files: vec![0],
            cache: Cache::default(),
            queues: BTreeMap::new(),
            locks: BTreeMap::new(),
            leases: BTreeMap::new(),
        });
        let at = self.mounts.len() - 1;
        self.after(0, Event::Mount(at, Task::Connect));
        self.after(200, Event::Mount(at, Task::Act));
    }

    pub fn mount_dies(&mut self, at: usize) {
        let mount = &mut self.mounts[at];
        mount.alive = false;
        mount.cache = Cache::default();
        if let Some(link) = mount.link.take() {
            if self.rng.percent(30) {
                // It is unmounted.
                return self.send_up(link, Up::Goodbye);
            }
            let ms = self.rng.between(0, 9_000);
            self.cut(link, ms, 0);
        }
    }

    /// It notices that its stream is gone, and trusts nothing from now on.
    pub fn mount_loses_link(&mut self, at: usize) {
        let step = self.step;
        let mount = &mut self.mounts[at];
        mount.link = None;
        mount.welcomed = false;
        mount.cache = Cache::since(step);
        // Another place that was asked for is asked for anew.
        let replaced: Vec<(u64, u64)> = mount
            .asked
            .values()
            .filter_map(|asked| match &asked.op {
                Op::Alloc(op) if op.replaces != 0 => Some((op.inode, op.replaces)),
                _ => None,
            })
            .collect();
        // These are asked anew, in order.
        mount.asked.retain(|_, asked| !matches!(asked.op, Op::Alloc(_) | Op::AbortUpload(_) | Op::Layout(_)));
        mount.queues.values_mut().for_each(Queue::stream_broke);
        for (inode, chunk) in replaced {
            let write = self.write_of_chunk(at, inode, chunk);
            self.after(1_000, Event::Mount(at, Task::Late { inode, write, chunk }));
        }
        let ms = self.rng.between(20, 400);
        self.after(ms, Event::Mount(at, Task::Connect));
    }

    pub fn mount_does(&mut self, at: usize, task: Task) {
        if !self.mounts[at].alive {
            return;
        }
        match task {
            Task::Connect => self.mount_connects(at),
            Task::Act => {
                self.give_up(at);
                if self.is_calm() {
                    self.mount_tidies(at);
                    self.after(400, Event::Mount(at, Task::Act));
                } else {
                    self.mount_acts(at);
                    let ms = self.rng.between(self.plan.act_ms / 3, self.plan.act_ms * 2);
                    self.after(ms, Event::Mount(at, Task::Act));
                }
            }
            Task::Transfer(transfer) => self.mount_transfers(at, &transfer),
            Task::Late { inode, write, chunk } => self.upload_is_late(at, inode, write, chunk),
            Task::AllocAgain { inode } => self.pump(at, inode),
            Task::Append { inode } => self.append(at, inode),
        }
    }

    fn mount_connects(&mut self, at: usize) {
        if self.mounts[at].link.is_some() {
            return;
        }
        let wait_ms = self.mounts[at].away_until_ms - self.now_ms;
        if wait_ms > 0 && !self.is_calm() {
            return self.after(wait_ms, Event::Mount(at, Task::Connect));
        }
        let link = self.open_link(Peer::Mount(at));
        let mount = &mut self.mounts[at];
        mount.link = Some(link);
        let open = mount.opens.iter().flat_map(|(inode, count)| (0..*count).map(|_| *inode));
        let hello = pb::MountHello {
            protocol_version: dfs_proto::PROTOCOL_VERSION,
            session: mount.session,
            open_inodes: open.collect(),
            held_locks: mount.declared(),
            ..pb::MountHello::default()
        };
        self.send_up(link, Up::MountHello(hello));
    }

    fn give_up(&mut self, at: usize) {
        if self.mounts[at].welcomed {
            return;
        }
        let before_ms = self.now_ms - PATIENCE_MS;
        self.mounts[at].asked.retain(|_, asked| asked.at_ms > before_ms);
    }

    pub fn ask(&mut self, at: usize, op: Op) -> u64 {
        self.step += 1;
        let (step, at_ms) = (self.step, self.now_ms);
        let mount = &mut self.mounts[at];
        let id = mount.next_request;
        mount.next_request += 1;
        mount.asked.insert(id, Asked { op: op.clone(), step, at_ms });
        self.saw(&Saw::Asked { mount: at, request: id, op: &op });
        self.send_request(at, id);
        id
    }

    fn send_request(&mut self, at: usize, id: u64) {
        let mount = &self.mounts[at];
        let (Some(link), true, Some(asked)) = (mount.link, mount.welcomed, mount.asked.get(&id)) else {
            return;
        };
        let answered_below = mount.asked.keys().next().copied().unwrap_or(id);
        let request = pb::MountRequest {
            id,
            caller: None,
            answered_below,
            op: Some(asked.op.clone()),
            ..Default::default()
        };
        self.send_up(link, Up::Request(request));
    }

    pub fn mount_hears(&mut self, at: usize, msg: mount_down::Msg) {
        match msg {
            mount_down::Msg::Welcome(welcome) => self.mount_welcomed(at, &welcome),
            mount_down::Msg::Reply(reply) => {
                let Some(asked) = self.mounts[at].asked.remove(&reply.id) else {
                    // A place that nobody waits for any more is given back.
                    if let Some(Reply::Placed(placed)) = reply.result {
                        self.ask(
                            at,
                            Op::AbortUpload(pb::AbortUpload { chunk: placed.chunk, ..Default::default() }),
                        );
                    }
                    return;
                };
                if let Some(result) = reply.result {
                    self.mount_answered(at, reply.id, asked, result);
                }
            }
            mount_down::Msg::UploadDone(done) => self.upload_done(at, &done),
            mount_down::Msg::Invalidate(what) => {
                let step = self.step;
                if self.bug != Some(Bug::MountForgetsNothing) {
                    self.mounts[at].cache.forget(&what, step);
                }
                if let Some(link) = self.mounts[at].link {
                    self.send_up(link, Up::Acks(vec![what.seq]));
                }
            }
            mount_down::Msg::Recall(recall) => self.recalled(at, recall.inode),
            mount_down::Msg::Refused(_) | mount_down::Msg::Pong(_) => {}
            #[allow(unreachable_patterns)]
            _ => {}
        }
    }

    fn mount_welcomed(&mut self, at: usize, welcome: &pb::MountWelcome) {
        let mount = &mut self.mounts[at];
        let same = welcome.resumed && welcome.master_epoch == mount.epoch;
        mount.session = welcome.session;
        mount.epoch = welcome.master_epoch;
        mount.welcomed = true;
        mount.streams += 1;
        self.lose_locks(at, &welcome.lost_locks);
        let unanswered: Vec<u64> = self.mounts[at].asked.keys().copied().collect();
        unanswered.into_iter().for_each(|id| self.send_request(at, id));
        let inodes: Vec<u64> = self.mounts[at].queues.keys().copied().collect();
        for inode in inodes {
            if !same && let Some(queue) = self.mounts[at].queues.get_mut(&inode) {
                let given_up = queue.begin_anew();
                self.saw(&Saw::BegunAnew { mount: at, inode, given_up: &given_up });
            }
            self.pump(at, inode);
        }
    }

    fn mount_answered(&mut self, at: usize, request: u64, asked: Asked, result: Reply) {
        // First: who watches the answer has to know what the mount has by it.
        if let Op::SetLock(op) = &asked.op {
            self.lock_granted(at, op, &result);
        }
        self.saw(&Saw::Answered { mount: at, request, result: &result });
        let until_ms = asked.at_ms + 40_000;
        self.mounts[at].cache.take_in(
            &asked,
            &result,
            until_ms,
            self.master.stamps.get(&(at, request)).copied(),
        );
        let mount = &mut self.mounts[at];
        match (&asked.op, &result) {
            (Op::Create(_), Reply::Attr(attr)) => {
                *mount.opens.entry(attr.inode).or_default() += 1;
                Mount::learn(&mut mount.files, attr.inode);
            }
            (Op::Open(_), Reply::Attr(attr)) => *mount.opens.entry(attr.inode).or_default() += 1,
            (Op::Mkdir(_), Reply::Attr(attr)) => Mount::learn(&mut mount.dirs, attr.inode),
            (Op::Lookup(_), Reply::Attr(attr)) => match attr.mode & 0o170_000 {
                0o040_000 => Mount::learn(&mut mount.dirs, attr.inode),
                _ => Mount::learn(&mut mount.files, attr.inode),
            },
            (Op::Release(_), _) => {}
            (Op::Alloc(op), _) => self.placed(at, request, op, result),
            (Op::Layout(op), Reply::Layout(layout)) => self.mount_reads(at, op.inode, asked.step, layout),
            (Op::SetLock(op), _) => self.lock_answered(at, op, &result),
            (
                Op::Getattr(pb::Getattr { inode })
                | Op::Open(pb::Open { inode, .. })
                | Op::Fsync(pb::Fsync { inode }),
                Reply::Error(error),
            ) if error.code == pb::Code::Stale as i32 => {
                mount.files.retain(|known| known != inode || *known == 0);
                mount.dirs.retain(|known| known != inode || *known == 1);
            }
            _ => {}
        }
    }

    /// Reads a file as a layout has it, from any keeper that can. What cannot be had now is not read.
    fn mount_reads(&mut self, at: usize, inode: u64, asked_step: u64, layout: &pb::FileLayout) {
        let mut bytes = vec![0; FILE_LEN as usize];
        for extent in &layout.extents {
            let source = layout.chunks.iter().find(|s| s.info.is_some_and(|info| info.chunk == extent.chunk));
            let holders: Vec<u64> = source
                .iter()
                .flat_map(|source| &source.grant)
                .flat_map(|grant| grant.keepers.iter().map(|keeper| keeper.keeper))
                .collect();
            let mut found = None;
            for id in holders {
                let up = self.keeper_of(id).filter(|k| self.keepers[*k].up);
                match up.and_then(|keeper| self.keepers[keeper].good(extent.chunk)) {
                    Some(copy) => found = Some(copy.content.clone()),
                    None if up.is_some() => {
                        let report = pb::ReportBad { chunk: extent.chunk, keeper: id, error: None };
                        self.ask(at, Op::ReportBad(report));
                    }
                    None => {}
                }
            }
            let Some(content) = found else { return };
            let from = extent.chunk_offset as usize;
            let Some(part) = content.get(from..from + extent.length as usize) else { return };
            for (i, byte) in part.iter().enumerate() {
                if let Some(place) = bytes.get_mut(extent.file_offset as usize + i) {
                    *place = *byte;
                }
            }
        }
        self.saw(&Saw::Read { inode, asked: asked_step, bytes: &bytes });
    }

    fn name(&mut self, kind: u8) -> Bytes {
        let number = self.rng.below(3) as u8;
        Bytes::from(vec![kind, b'0' + number])
    }

    fn any_name(&mut self) -> Bytes {
        let kind = self.rng.pick(b"ffffdl").unwrap_or(b'f');
        self.name(kind)
    }

    pub fn mount_acts(&mut self, at: usize) {
        if self.mounts[at].asked.len() > 24 {
            return;
        }
        let parent = self.rng.pick(&self.mounts[at].dirs).unwrap_or(1);
        let file = self.rng.pick(&self.mounts[at].files[1..]).unwrap_or(0);
        let plain = file != 0 && !self.logs.contains(&file);
        // Found with many locks only.
        if self.bug == Some(Bug::MountKeepsLostLocks) && plain && self.rng.percent(50) {
            return self.lock_something(at, file);
        }
        let what = self.rng.below(100);
        let op = match what {
            0..10 => Op::Create(pb::Create {
                parent,
                name: self.name(if what < 7 { b'f' } else { b'l' }),
                mode: 0o644,
                ..Default::default()
            }),
            10..14 => {
                Op::Mkdir(pb::Mkdir { parent, name: self.name(b'd'), mode: 0o755, ..Default::default() })
            }
            14..18 => Op::Unlink(pb::Unlink { parent, name: self.any_name() }),
            18..20 => Op::Rmdir(pb::Rmdir { parent, name: self.name(b'd') }),
            20..24 => {
                let new_parent = self.rng.pick(&self.mounts[at].dirs).unwrap_or(1);
                let (name, new_name) = (self.any_name(), self.any_name());
                let (no_replace, exchange) = (what == 20, what == 21);
                Op::Rename(pb::Rename { parent, name, new_parent, new_name, no_replace, exchange })
            }
            24..26 => Op::Link(pb::Link { inode: file, parent, name: self.name(b'f') }),
            26..34 => Op::Lookup(pb::Lookup { parent, name: self.any_name() }),
            34..38 => Op::Getattr(pb::Getattr { inode: file.max(1) }),
            38..41 => Op::Open(pb::Open { inode: file, access: 0 }),
            41..44 => {
                let open: Vec<u64> = self.mounts[at].opens.keys().copied().collect();
                let Some(inode) = self.rng.pick(&open).filter(|inode| self.may_close(at, *inode)) else {
                    return;
                };
                return self.release(at, inode);
            }
            44..46 => Op::Setattr(pb::Setattr {
                inode: file,
                mode: Some(0o600 + self.rng.below(64) as u32),
                ..Default::default()
            }),
            46..49 if plain && self.may_close(at, file) => {
                let size = Some(self.rng.below(FILE_LEN as usize) as u64);
                Op::Setattr(pb::Setattr { inode: file, size, ..Default::default() })
            }
            49..51 if plain && self.may_close(at, file) => {
                let (offset, length) = (self.rng.below(64) as u64, 1 + self.rng.below(32) as u64);
                Op::Fallocate(pb::Fallocate { inode: file, offset, length, keep_size: true, make_hole: true })
            }
            51..62 => Op::Layout(pb::Layout { inode: file, offset: 0, length: FILE_LEN }),
            62..66 => Op::Fsync(pb::Fsync { inode: file }),
            66..69 if file != 0 => return self.lock_something(at, file),
            69..72 if file != 0 => return self.unlock_something(at),
            72..84 if file != 0 && self.logs.contains(&file) => return self.append(at, file),
            72..96 if plain => return self.write(at, file),
            96..98 => Op::Setxattr(pb::Setxattr {
                inode: file,
                name: Bytes::from_static(b"user.x"),
                value: Bytes::from(vec![what as u8]),
                ..Default::default()
            }),
            _ if plain => {
                let target = self.rng.pick(&self.mounts[at].files[1..]).unwrap_or(0);
                if target == file
                    || self.logs.contains(&target)
                    || !self.may_close(at, target)
                    || !self.may_close(at, file)
                {
                    return;
                }
                Op::CopyRange(pb::CopyRange {
                    source: file,
                    source_offset: 0,
                    target,
                    target_offset: 0,
                    length: FILE_LEN,
                })
            }
            _ => return,
        };
        self.ask(at, op);
    }

    pub fn release(&mut self, at: usize, inode: u64) {
        let Some(count) = self.mounts[at].opens.get_mut(&inode) else { return };
        *count -= 1;
        if *count == 0 {
            self.mounts[at].opens.remove(&inode);
        }
        self.ask(at, Op::Release(pb::Release { inode }));
    }

    /// When it is calm: everything is given back.
    fn mount_tidies(&mut self, at: usize) {
        if !self.mounts[at].welcomed {
            return;
        }
        let locked: Vec<u64> = self.mounts[at].locks.keys().copied().collect();
        locked.into_iter().for_each(|inode| self.unlock(at, inode));
        let leased: Vec<u64> = self.mounts[at].leases.keys().copied().collect();
        leased.into_iter().for_each(|inode| self.recalled(at, inode));
        let open: Vec<u64> = self.mounts[at].opens.keys().copied().collect();
        for inode in open {
            if self.may_close(at, inode) && self.now_ms > self.plan.chaos_until_ms + 60_000 {
                self.release(at, inode);
            }
        }
    }
}
