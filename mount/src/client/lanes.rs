//! Where tasks run. Most of what a mount does is short: a request of the kernel, a message to the master, a small
//! transfer. On one thread such tasks hand over to each other without waking anybody; on several, each step wakes another
//! thread, which costs more than the work. What moves or sums many bytes has threads of its own, where it holds up nobody.

use tokio::runtime::Handle;

/// Up to so many bytes, waking another thread costs more than moving them.
const SMALL_BYTES: usize = 128 * 1024;

/// Which threads a task is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lane {
    /// The one that carries the session. Nothing on it takes longer than [`SMALL_BYTES`] do.
    Control,
    /// Those that move bytes.
    Bytes,
}

impl Lane {
    /// For a task that moves so many bytes.
    pub fn carrying(bytes: usize) -> Lane {
        if bytes <= SMALL_BYTES { Lane::Control } else { Lane::Bytes }
    }
}

/// The runtimes of the lanes; they may be one.
#[derive(Clone, Debug)]
pub struct Lanes {
    control: Handle,
    bytes: Handle,
}

impl Lanes {
    /// `control` should run on one thread.
    pub fn new(control: Handle, bytes: Handle) -> Lanes {
        Lanes { control, bytes }
    }

    /// Both on the runtime that this is called inside of.
    pub fn current() -> Lanes {
        Lanes::new(Handle::current(), Handle::current())
    }

    /// The runtime of a lane.
    pub fn of(&self, lane: Lane) -> &Handle {
        match lane {
            Lane::Control => &self.control,
            Lane::Bytes => &self.bytes,
        }
    }
}
