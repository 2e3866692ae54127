//! The flags of the command line, and their words for `--help`.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::FalseyValueParser;
use clap::{ArgAction, Parser};
use dfs_proto::units::{Period, Size, socket_address};

/// The flags, as they are typed. [`super::Settings`] is what they come to.
#[derive(Parser, Debug)]
#[command(
    name = "dfs-mount",
    version,
    about = "Mounts the distributed file system on a directory",
    long_about = "Mounts the distributed file system on a directory, and goes to the background when it is \
                  usable. Without --master it runs a whole cluster inside itself and keeps it under --data: \
                  the next mount finds everything again.",
    after_help = "-o takes what mount(8) takes (ro, noatime, relatime, strictatime, nodev, nosuid, noexec, sync, dirsync, nofail, _netdev, \
                  x-..., ...), allow_other, allow_root, default_permissions, root_squash, no_root_squash, fsname=, subtype=, and each flag \
                  with a value as key=value (master=HOST:PORT, cache-size=1GiB).\n\
                  Sizes are typed as 8MiB, 1GiB, 4096; periods as 10s, 250ms, 2m.\n\
                  Unmount with `umount MOUNTPOINT` (as a user: `fusermount3 -u MOUNTPOINT`).",
    override_usage = "dfs-mount [FLAGS] MOUNTPOINT\n       dfs-mount HOST:PORT[/DIR] MOUNTPOINT [FLAGS]",
    args_override_self = true
)]
pub(super) struct Flags {
    /// Where to mount; it is created when it is missing. With two arguments, as mount(8) gives them, the first
    /// is the master's HOST:PORT, or `none` or `dfs` for the embedded cluster
    #[arg(value_name = "MOUNTPOINT")]
    pub(super) first: PathBuf,

    #[arg(hide = true)]
    pub(super) second: Option<PathBuf>,

    /// The master's address. Without it, a cluster is run inside this process
    #[arg(long, env = "DFS_MASTER", value_name = "HOST:PORT")]
    pub(super) master: Option<String>,

    /// Mount this directory of the cluster instead of all of it; nothing leads out of it
    #[arg(long, env = "DFS_SUBDIR", value_name = "DIR")]
    pub(super) subdir: Option<OsString>,

    /// Embedded cluster: the directory that keeps it [default: $XDG_DATA_HOME/dfs or ~/.local/share/dfs]
    #[arg(long, env = "DFS_DATA", value_name = "DIR")]
    pub(super) data: Option<PathBuf>,

    /// Embedded cluster: how many keepers, from 1 to 64
    #[arg(long, env = "DFS_KEEPERS", value_name = "NUMBER", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(super) keepers: u32,

    /// Embedded cluster: on how many keepers each chunk ends up
    #[arg(long, env = "DFS_COPIES", value_name = "NUMBER", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(1..=16))]
    pub(super) copies: u32,

    /// Embedded cluster: how many keepers hold a chunk before its write counts as done
    #[arg(long, env = "DFS_MIN_COPIES", value_name = "NUMBER", default_value_t = 2,
          value_parser = clap::value_parser!(u32).range(1..=16))]
    pub(super) min_copies: u32,

    /// Embedded cluster: the largest chunk, in bytes
    #[arg(long, env = "DFS_CHUNK_SIZE", value_name = "SIZE", default_value = "8MiB")]
    pub(super) chunk_size: Size,

    /// Embedded cluster: how often the master looks for chunks with too few copies
    #[arg(long, env = "DFS_REPLICATE_EVERY", value_name = "PERIOD", default_value = "10s")]
    pub(super) replicate_every: Period,

    /// Embedded cluster: ask who somebody is; off: every user of this machine can do everything in it
    #[arg(long, env = "DFS_AUTH", value_name = "on|off", default_value = "on", value_parser = on_or_off,
          action = ArgAction::Set)]
    pub(super) auth: bool,

    /// Stay in the foreground, and log to stderr
    #[arg(short = 'f', long, env = "DFS_FOREGROUND", action = ArgAction::SetTrue,
          value_parser = FalseyValueParser::new())]
    pub(super) foreground: bool,

    /// Mount options, cut at commas; may be given more than once
    #[arg(short = 'o', long = "options", env = "DFS_OPTIONS", value_name = "OPTIONS", action = ArgAction::Append,
          allow_hyphen_values = true)]
    pub(super) options: Vec<String>,

    /// Memory for blocks that were read, in bytes
    #[arg(long, env = "DFS_CACHE_SIZE", value_name = "SIZE", default_value = "512MiB")]
    pub(super) cache_size: Size,

    /// Memory for bytes that are on their way to the keepers, in bytes
    #[arg(long, env = "DFS_WRITE_BUFFER", value_name = "SIZE", default_value = "256MiB")]
    pub(super) write_buffer: Size,

    /// How long an operation waits for a master that does not answer; at the start, 5s at most
    #[arg(long, env = "DFS_MASTER_TIMEOUT", value_name = "PERIOD", default_value = "30s")]
    pub(super) master_timeout: Period,

    /// The file with the token that says who mounts [default: that of 'dfs login']
    #[arg(long, env = "DFS_TOKEN_FILE", value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,

    /// Directory with the CA's certificate, as 'dfs tls init' makes it, for a cluster whose connections are encrypted
    #[arg(long, env = "DFS_TLS_DIR", value_name = "DIR")]
    pub(super) tls_dir: Option<PathBuf>,

    /// Address and port to serve metrics on over HTTP; port 0 takes a free one (see the log)
    #[arg(long, env = "DFS_HTTP", value_name = "HOST:PORT", value_parser = socket_address)]
    pub(super) http: Option<SocketAddr>,

    /// With --tls-dir: serve HTTP as it is; else the directory needs a certificate of 'dfs tls issue --role mount', too
    #[arg(long, env = "DFS_HTTP_PLAIN", action = ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    pub(super) http_plain: bool,

    /// Serve HTTP on an address that others reach, although it asks nobody who he is
    #[arg(long, env = "DFS_INSECURE", action = ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    pub(super) insecure: bool,

    /// What to log: error, warn, info, debug, trace, or per module (dfs_mount=debug,info)
    #[arg(long, env = "DFS_LOG", value_name = "FILTER", default_value = "info")]
    pub(super) log: String,

    /// Log in JSON, an object a line
    #[arg(long, env = "DFS_LOG_JSON", action = ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    pub(super) log_json: bool,

    /// Where to log [default: stderr in the foreground, else $XDG_STATE_HOME/dfs/ or ~/.local/state/dfs/,
    /// mount-<mount point>.log]
    #[arg(long, env = "DFS_LOG_FILE", value_name = "FILE")]
    pub(super) log_file: Option<PathBuf>,

    /// A file with settings: flags as TOML, without their dashes [default: /etc/dfs/mount.toml, if it is there]
    #[arg(long, env = "DFS_CONFIG", value_name = "FILE")]
    pub(super) config: Option<PathBuf>,

    /// Mount read-only, as -o ro
    #[arg(short = 'r', long, env = "DFS_READ_ONLY", action = ArgAction::SetTrue,
          value_parser = FalseyValueParser::new())]
    pub(super) read_only: bool,

    /// Root counts as nobody on this mount, as -o root_squash; see exports(5)
    #[arg(long, env = "DFS_ROOT_SQUASH", action = ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    pub(super) root_squash: bool,

    /// With --root-squash: the user that root counts as
    #[arg(long, env = "DFS_ANONUID", value_name = "UID", default_value_t = 65534,
          value_parser = clap::value_parser!(u32).range(1..=4_294_967_294))]
    pub(super) anonuid: u32,

    /// With --root-squash: the group that root counts as
    #[arg(long, env = "DFS_ANONGID", value_name = "GID", default_value_t = 65534,
          value_parser = clap::value_parser!(u32).range(1..=4_294_967_294))]
    pub(super) anongid: u32,

    /// From mount(8): mount read-write
    #[arg(short = 'w', hide = true)]
    pub(super) read_write: bool,

    /// From mount(8): be sloppy about unknown options. We are not
    #[arg(short = 's', long, hide = true)]
    pub(super) sloppy: bool,

    /// From mount(8): do not write /etc/mtab. There is none
    #[arg(short = 'n', hide = true)]
    pub(super) no_mtab: bool,

    /// From mount(8): say more
    #[arg(short = 'v', hide = true, action = ArgAction::Count)]
    pub(super) verbose: u8,

    /// From mount(8): the type of the file system
    #[arg(short = 't', hide = true, value_name = "TYPE")]
    pub(super) fs_type: Option<String>,
}

fn on_or_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("say on or off".to_owned()),
    }
}
