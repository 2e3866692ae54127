//! Mounts the distributed file system; see `dfs_mount::daemon`.

use std::process::ExitCode;

fn main() -> ExitCode {
    dfs_mount::daemon::main(std::env::args_os().collect())
}
