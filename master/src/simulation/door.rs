//! What stands before the core, as the engine and the service have it: a mount is put on the roll before it is let in, and
//! changes wait while a mount of the time before a start of the master may trust what it has cached.

use std::collections::BTreeMap;

use dfs_proto::ids::SessionId;
use dfs_proto::pb;

use super::world::World;
use crate::core::Command;
use crate::runtime::{changes_what_others_know, may_overtake};

/// See the module.
#[derive(Default)]
pub(super) struct Door {
    hellos: Vec<Hello>,
    /// Requests that wait, of each stream in their order.
    kept: BTreeMap<usize, Vec<pb::MountRequest>>,
}

struct Hello {
    /// The batch with which the row of its mount is durable.
    need: u64,
    link: usize,
    fresh: SessionId,
    hello: pb::MountHello,
}

impl World {
    pub fn hello_arrives(&mut self, link: usize, hello: pb::MountHello) {
        let fresh = SessionId(self.rng.next() | 1);
        let session = if hello.session == 0 { fresh } else { SessionId(hello.session) };
        self.submit(Command::Enroll(session));
        let need = self.master.group.newest_batch();
        self.master.door.hellos.push(Hello { need, link, fresh, hello });
        self.let_in();
    }

    /// Lets in whose row is durable, and the changes that nothing holds up any more.
    pub fn let_in(&mut self) {
        let durable = self.master.group.durable();
        let hellos = std::mem::take(&mut self.master.door.hellos);
        let (now, later): (Vec<_>, Vec<_>) = hellos.into_iter().partition(|hello| hello.need <= durable);
        self.master.door.hellos = later;
        for Hello { link, fresh, hello, .. } in now {
            if !self.links[link].cut {
                self.hello_of_mount(link, fresh, hello);
            }
        }
        if !self.awaits_mounts() {
            for (link, requests) in std::mem::take(&mut self.master.door.kept) {
                requests.into_iter().for_each(|request| self.take_request(link, request));
            }
        }
    }

    /// A stream has ended before its mount was let in. The service would let it in, and find then that it is gone.
    pub fn forget_hello(&mut self, link: usize) {
        self.master.door.hellos.retain(|hello| hello.link != link);
    }

    pub fn request_arrives(&mut self, link: usize, request: pb::MountRequest) {
        let kept = &mut self.master.door.kept;
        let behind = kept.contains_key(&link) && !may_overtake(&request);
        if behind || self.awaits_mounts() && changes_what_others_know(&request) {
            return self.master.door.kept.entry(link).or_default().push(request);
        }
        self.take_request(link, request);
    }

    fn take_request(&mut self, link: usize, request: pb::MountRequest) {
        if let Some(session) = self.session_on(link) {
            self.submit(Command::Mount { session, request });
        }
    }

    pub fn awaits_mounts(&self) -> bool {
        self.master.state.as_ref().is_some_and(|state| state.awaits_mounts())
    }
}
