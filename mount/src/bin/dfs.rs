//! `dfs`: the cluster on the command line, for scripts and operators.

use std::process::ExitCode;

fn main() -> ExitCode {
    dfs_mount::cli::run()
}
