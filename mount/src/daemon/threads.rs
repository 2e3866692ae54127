//! The threads of a mount: one for the control lane, several for the bytes lane (`client::lanes`). An embedded cluster
//! runs on the latter too.

use std::io;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

use crate::client::lanes::Lanes;

/// How long what still runs may take to end.
const STOP_DEADLINE: Duration = Duration::from_secs(2);

/// Threads of the bytes lane, and FUSE threads: enough to keep several cores busy with copying bytes, few enough to
/// leave the machine to its user.
const MIN_THREADS: usize = 2;
const MAX_THREADS: usize = 4;

/// See the module.
pub struct Threads {
    bytes: Runtime,
    control: Handle,
    stop_control: oneshot::Sender<()>,
    control_thread: JoinHandle<()>,
}

impl Threads {
    /// # Errors
    /// The system gives no more threads or descriptors.
    pub fn start() -> io::Result<Threads> {
        let bytes = Builder::new_multi_thread()
            .worker_threads(Threads::number())
            .thread_name("dfs-bytes")
            .enable_all()
            .build()?;
        let control = Builder::new_current_thread().enable_all().build()?;
        let (handle, (stop_control, stopped)) = (control.handle().clone(), oneshot::channel());
        let run = move || {
            // An error says that `Threads` is gone, which is the end too.
            let _ = control.block_on(stopped);
            control.shutdown_timeout(STOP_DEADLINE);
        };
        let control_thread = thread::Builder::new().name("dfs-control".to_owned()).spawn(run)?;
        Ok(Threads { bytes, control: handle, stop_control, control_thread })
    }

    /// How many move bytes.
    pub fn number() -> usize {
        thread::available_parallelism().map_or(MIN_THREADS, usize::from).clamp(MIN_THREADS, MAX_THREADS)
    }

    /// For the client.
    pub fn lanes(&self) -> Lanes {
        Lanes::new(self.control.clone(), self.bytes.handle().clone())
    }

    /// For what has nothing to do with the mount itself.
    pub fn bytes(&self) -> &Runtime {
        &self.bytes
    }

    /// Runs `work` on this thread, with what it spawns on the control lane.
    pub fn on_control<T>(&self, work: impl Future<Output = T>) -> T {
        self.control.block_on(work)
    }

    /// Ends them all, with what they are at.
    pub fn stop(self) {
        // An error says that the thread has ended.
        let _ = self.stop_control.send(());
        let _ = self.control_thread.join();
        self.bytes.shutdown_timeout(STOP_DEADLINE);
    }
}
