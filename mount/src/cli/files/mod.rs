//! Files of the cluster, without a mount.
//!
//! - [`walk`]: over a tree, with paged look-ups; `local`: over a local one. `crew`: work on a tree, many entries side by side.
//! - `ls`, `tree`, `du`, `find`, `info`: what is there. `cat`: what is in it.
//! - `mv`, `cp`, `rm`: changes within the cluster.
//! - `put`, `get`, `put_tree`, `get_tree`: in and out of it. `moving`: what they share. `same`: how much of two files is the same.
//! - `warmup`: files of a mount into its cache.
//! - `row`, `names`, `glob`: what they print, and names. `make`, `attributes`: what a copy is made of.

mod attributes;
mod cat;
mod cp;
mod crew;
mod du;
pub(super) mod find;
mod get;
mod get_tree;
mod glob;
mod info;
mod local;
mod ls;
mod make;
mod moving;
mod mv;
mod names;
mod put;
mod put_tree;
mod rm;
mod row;
mod same;
mod tree;
mod walk;
mod warmup;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Subcommand, ValueHint};

use self::moving::How;
use super::{CliError, complete, in_session};
use crate::client::Master;

#[derive(Subcommand, Debug)]
pub(super) enum Files {
    /// List a directory
    Ls {
        /// A directory or a file
        #[arg(default_value = "/", add = complete::paths())]
        path: OsString,
        /// Also names, owner and group of each, and where symbolic links lead
        #[arg(short, long)]
        long: bool,
    },
    /// Draw what is below a directory
    Tree {
        /// A directory or a file
        #[arg(default_value = "/", add = complete::paths())]
        path: OsString,
        /// Look no deeper
        #[arg(short = 'L', long, value_name = "LEVELS")]
        depth: Option<usize>,
    },
    /// Sum up what is stored below directories, in KiB of one copy
    #[command(disable_help_flag = true)]
    Du {
        /// A directory or a file
        #[arg(default_value = "/", add = complete::paths())]
        path: OsString,
        /// The sum alone
        #[arg(short, long)]
        summarize: bool,
        /// Sizes for people: 1.20 GiB
        #[arg(short, long)]
        human: bool,
        /// Print help
        #[arg(long, action = ArgAction::Help)]
        help: Option<bool>,
    },
    /// Write files to stdout
    Cat {
        /// Files of the cluster
        #[arg(required = true, add = complete::paths())]
        paths: Vec<OsString>,
    },
    /// Look for files by name, type, size and age
    Find(find::Find),
    /// Show a file's chunks, their checksums, and where the copies are
    Info {
        /// Whatever has a name in the cluster
        #[arg(add = complete::paths())]
        path: OsString,
    },
    /// Give files and directories other names
    Mv {
        /// What is there
        #[arg(required = true, value_name = "FROM", add = complete::paths())]
        from: Vec<OsString>,
        /// A new name, or a directory
        #[arg(add = complete::paths())]
        to: OsString,
        /// Replace nothing
        #[arg(short, long)]
        no_replace: bool,
    },
    /// Copy within the cluster; the copies share their chunks, no byte is moved
    Cp {
        /// What is there
        #[arg(required = true, value_name = "FROM", add = complete::paths())]
        from: Vec<OsString>,
        /// A new name, or a directory
        #[arg(add = complete::paths())]
        to: OsString,
        /// Directories with all that is in them, and links as links; keeps modes and times
        #[arg(short, long)]
        recursive: bool,
        /// Keep mode and times, and for root the owner
        #[arg(short, long)]
        preserve: bool,
    },
    /// Remove files
    Rm {
        /// What is there
        #[arg(required = true, add = complete::paths())]
        paths: Vec<OsString>,
        /// Directories with all that is in them
        #[arg(short, long)]
        recursive: bool,
        /// What is not there is no error
        #[arg(short, long)]
        force: bool,
    },
    /// Store a file; one that is there already is replaced. With -r, a directory
    Put {
        /// A local file, or - for stdin; with -r a directory
        #[arg(value_hint = ValueHint::AnyPath)]
        file: OsString,
        /// Where to; a directory gets the file under its own name. With -r the name of the copy, or with a / at its end the
        /// directory for it [default: /NAME-OF-FILE]
        #[arg(add = complete::paths())]
        path: Option<OsString>,
        #[command(flatten)]
        how: How,
    },
    /// Fetch a file. With -r, a directory
    Get {
        /// A file of the cluster; with -r a directory
        #[arg(add = complete::paths())]
        path: OsString,
        /// Where to, or - for stdout; a directory gets the file under its own name. With -r the name of the copy, or with a / at
        /// its end the directory for it [default: ./NAME-OF-PATH]
        #[arg(value_hint = ValueHint::AnyPath)]
        file: Option<OsString>,
        #[command(flatten)]
        how: How,
    },
    /// Read files of a mount, so that its cache has them
    Warmup {
        /// A file or a directory in a mounted directory
        #[arg(value_hint = ValueHint::AnyPath)]
        path: PathBuf,
    },
}

pub(super) async fn files(master: &Master, command: &Files, json: bool) -> Result<(), CliError> {
    match command {
        // It looks at the local file first.
        Files::Put { file, path, how } => return put::put(master, file, path.as_deref(), *how, json).await,
        Files::Warmup { path } => return warmup::warmup(path, json).await,
        _ => {}
    }
    in_session(master, async |client| match command {
        Files::Ls { path, long } => ls::ls(client, path, *long, json).await,
        Files::Tree { path, depth } => tree::tree(client, path, *depth, json).await,
        Files::Du { path, summarize, human, help: _ } => {
            du::du(client, path, (*summarize, *human), json).await
        }
        Files::Cat { paths } => cat::cat(client, paths).await,
        Files::Find(wanted) => find::find(client, wanted, json).await,
        Files::Info { path } => info::info(client, master, path, json).await,
        Files::Mv { from, to, no_replace } => mv::mv(client, from, to, *no_replace, json).await,
        Files::Cp { from, to, recursive, preserve } => {
            let how = cp::How { whole_trees: *recursive, keep: *preserve };
            cp::cp(client, from, to, how, json).await
        }
        Files::Rm { paths, recursive, force } => {
            let wanted = rm::Wanted { whole_trees: *recursive, if_there: *force };
            rm::rm(client, paths, wanted, json).await
        }
        Files::Get { path, file, how } => get::get(client, path, file.as_deref(), *how, json).await,
        Files::Put { .. } | Files::Warmup { .. } => Ok(()),
    })
    .await
}
