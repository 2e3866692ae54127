//! Connections to keepers, and the two transfers over them: `store` a chunk, `read` a range of one.
//!
//! Each transfer owns its connection and its buffers from start to end. A transfer that fails or is dropped
//! takes its connection with it, so that no later one can ever receive what was meant for an earlier one. One that
//! succeeds leaves the connection to the next.

mod buffers;
mod low_water;
mod pool;
mod read;
mod store;
mod stream;
mod wire;

pub use buffers::Buffers;
pub use pool::KeeperPool;
pub use read::RangeRead;
