//! One truth between mounts: what one mount changed, every other sees as soon as the call has returned.
//!
//! Covers: a token that goes back and forth through files, in every way of changing them; how long a change takes while
//! another mount has everything cached; the kernel's caches where nothing changed; a mount that is stopped, a master that
//! is killed; names of a file that come and go; many changes of one directory by two mounts. DFS_TEST_TOKENS: how many
//! tokens (default 600; the long form is 10000).

#[path = "between/caches.rs"]
mod caches;
#[path = "between/faults.rs"]
mod faults;
#[path = "between/links.rs"]
mod links;
#[path = "between/rewrites.rs"]
mod rewrites;
#[path = "between/token.rs"]
mod token;

use dfs_tests::{Cluster, Mount};

/// Two mounts of one cluster.
fn two() -> (Cluster, Mount, Mount) {
    let mut cluster = Cluster::builder().keepers(2).copies(2).start();
    let (a, b) = (cluster.mount(), cluster.mount());
    (cluster, a, b)
}
