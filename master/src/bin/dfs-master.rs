//! The program dfs-master: flags, signals, exit codes. Everything else is in the library.
//!
//! Exit codes: 0 after SIGTERM or SIGINT, and when a dump was written or restored; 1 when it cannot start or go on, 2 for flags that make no sense.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use clap::builder::FalseyValueParser;
use dfs_cmdline::readiness;
use dfs_master::archive::{self, ArchiveError};
use dfs_master::{Config, ConfigError, Master, MasterError};
use dfs_observe::http::check_exposure;
use dfs_proto::otlp::Endpoint;
use dfs_proto::units::{Period, Size, period_or_off, socket_address};
use dfs_proto::{logging, pb};
use tokio::signal::unix::{SignalKind, signal};

/// The Master Tracker of a distributed file system: names, the look-up table, who is alive, who copies
/// what to whom.
#[derive(Parser)]
#[command(name = "dfs-master", version)]
struct Flags {
    /// Data directory; made when missing
    #[arg(long, env = "DFS_DATA", value_name = "DIR")]
    data: PathBuf,

    /// Address and port to listen on; port 0 takes a free one (see the file `address` in the data directory)
    #[arg(long, env = "DFS_LISTEN", value_name = "HOST:PORT", default_value = "127.0.0.1:3000", value_parser = socket_address)]
    listen: SocketAddr,

    /// Address and port to serve metrics and a page for the browser on, over HTTP; port 0 takes a free one (see the log)
    #[arg(long, env = "DFS_HTTP", value_name = "HOST:PORT", value_parser = socket_address)]
    http: Option<SocketAddr>,

    /// With --tls-dir: serve HTTP as it is, without TLS
    #[arg(long, env = "DFS_HTTP_PLAIN", value_parser = FalseyValueParser::new())]
    http_plain: bool,

    /// Copies wanted of every chunk, 1 to 16
    #[arg(long, env = "DFS_COPIES", value_name = "N", default_value_t = 3)]
    copies: u32,

    /// Copies needed before an upload is a success, 1 to --copies
    #[arg(long, env = "DFS_MIN_COPIES", value_name = "N", default_value_t = 2)]
    min_copies: u32,

    /// Longest chunk, in bytes (8MiB, 512KiB); a multiple of 64KiB, up to 32MiB
    #[arg(long, env = "DFS_CHUNK_SIZE", value_name = "SIZE", default_value = "8MiB")]
    chunk_size: Size,

    /// Time between two searches for chunks with too few copies (10s, 500ms)
    #[arg(long, env = "DFS_REPLICATE_EVERY", value_name = "TIME", default_value = "10s")]
    replicate_every: Period,

    /// Pack a file of many small pieces into full chunks when it was not written to for this long (10s, 2m);
    /// 0 or off: never
    #[arg(long, env = "DFS_COMPACT_AFTER", value_name = "TIME", default_value = "10s", value_parser = period_or_off)]
    compact_after: Period,

    /// Most that a keeper spends on repair a second, in and out together; a tenth of it while clients read or write,
    /// except for chunks with fewer than --min-copies live copies
    #[arg(long, env = "DFS_REPAIR_RATE", value_name = "SIZE", default_value = "100MiB")]
    repair_rate: Size,

    /// Keep files that were removed for this long, for 'dfs trash' (1d, 12h); 0 or off: not at all
    #[arg(long, env = "DFS_TRASH", value_name = "TIME", default_value = "off", value_parser = period_or_off)]
    trash: Period,

    /// Ask everybody who he is: 'dfs login', 'dfs user', 'dfs keeper token' [default: on, but off where --listen is this
    /// machine's loopback]
    #[arg(long, env = "DFS_AUTH", value_name = "on|off", value_parser = on_or_off)]
    auth: Option<bool>,

    /// Directory with the master's certificate, as 'dfs tls init' makes it: gRPC is encrypted then, and keepers show theirs
    #[arg(long, env = "DFS_TLS_DIR", value_name = "DIR")]
    tls_dir: Option<PathBuf>,

    /// Listen on an address that is not loopback although whoever is there could do, read or change everything: without
    /// auth or without TLS, for gRPC or for HTTP
    #[arg(long, env = "DFS_INSECURE", value_parser = FalseyValueParser::new())]
    insecure: bool,

    /// How long a token of 'dfs login' is good; mounts renew theirs by themselves (15m, 1h)
    #[arg(long, env = "DFS_TOKEN_LIFETIME", value_name = "TIME", default_value = "15m")]
    token_lifetime: Period,

    /// Write a dump of all metadata in the data directory of a stopped master to FILE, and end
    #[arg(long, value_name = "FILE", conflicts_with = "restore")]
    dump: Option<PathBuf>,

    /// Make the data directory, which must be empty or missing, of a dump (of --dump, or of dfs backup), and end
    #[arg(long, value_name = "FILE")]
    restore: Option<PathBuf>,

    /// With --restore: how long keepers keep chunks that the dump does not know (168h, 30m)
    #[arg(long, value_name = "TIME", default_value = "168h", requires = "restore")]
    keep_unknown: Period,

    /// What to log to stderr: error, warn, info, debug, trace, or per module (dfs_master=debug)
    #[arg(long, env = "DFS_LOG", value_name = "FILTER", default_value = "info")]
    log: String,

    /// Log as JSON, an object a line
    #[arg(long, env = "DFS_LOG_JSON", value_parser = FalseyValueParser::new())]
    log_json: bool,

    /// Send traces of requests to a collector of OpenTelemetry (OTLP over HTTP), as http://localhost:4318
    #[arg(long, env = "DFS_OTLP", value_name = "URL")]
    otlp: Option<Endpoint>,

    /// A file with settings: flags as TOML, without their dashes [default: /etc/dfs/master.toml, if it is there]
    #[arg(long, env = "DFS_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Flags {
    fn config(&self) -> Result<Config, ConfigError> {
        let bytes = self.chunk_size.0;
        let config = Config {
            data: self.data.clone(),
            listen: self.listen,
            http: self.http,
            http_plain: self.http_plain,
            copies: self.copies,
            min_copies: self.min_copies,
            chunk_size: u32::try_from(bytes).map_err(|_| ConfigError::ChunkSize(bytes))?,
            replicate_every: self.replicate_every.0,
            compact_after: self.compact_after.0,
            repair_rate: self.repair_rate.0,
            trash: self.trash.0,
            auth: self.auth,
            tls_dir: self.tls_dir.clone(),
            insecure: self.insecure,
            token_lifetime: self.token_lifetime.0,
        };
        config.validate().map(|()| config)
    }
}

fn on_or_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("say on or off".to_owned()),
    }
}

/// What to say, and the exit code.
struct Failure(String, u8);

/// More would only wait for the state's lock.
const MAX_SESSION_THREADS: usize = 4;

fn main() -> ExitCode {
    let flags = dfs_cmdline::parse::<Flags>("master", std::env::args_os().collect());
    match run(&flags.unwrap_or_else(|error| error.exit())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(message, code)) => {
            eprintln!("dfs-master: {message}");
            ExitCode::from(code)
        }
    }
}

fn run(flags: &Flags) -> Result<(), Failure> {
    let config = flags.config().map_err(|error| Failure(error.to_string(), 2))?;
    if let Some(http) = config.http {
        // The page asks who one is; figures are for everybody.
        let safe = config.http_is_encrypted() && config.auth_is_on();
        check_exposure(http, safe, flags.insecure).map_err(|error| Failure(error.to_string(), 2))?;
    }
    let traces = flags.otlp.clone().map(|endpoint| (endpoint, "dfs-master"));
    logging::init_with(&flags.log, flags.log_json, traces).map_err(|message| Failure(message, 2))?;
    std::panic::set_hook(Box::new(|panic| tracing::error!("internal error, please report it: {panic}")));
    if let Some(done) = archive(flags) {
        return done.map_err(|error| Failure(error.to_string(), 1));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(session_threads())
        .enable_all()
        .build()
        .map_err(|error| Failure(format!("start threads: {error}; raise the limit of processes"), 1))?;
    runtime.block_on(serve(config)).map_err(|error| Failure(error.to_string(), 1))
}

/// Threads for sessions: half of the processors, for the rest of a command's way is the commit thread's and the disk's. A
/// message that passes from one thread to another costs more than what is done with it.
fn session_threads() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    (processors / 2).clamp(1, MAX_SESSION_THREADS)
}

/// Does what needs no running master. `None`: nothing of it was asked for.
fn archive(flags: &Flags) -> Option<Result<(), ArchiveError>> {
    if let Some(file) = &flags.dump {
        return Some(archive::dump(&flags.data, file).map(|dump| {
            println!("{}: a dump of {} rows, {} bytes", file.display(), dump.rows, dump.bytes);
        }));
    }
    let file = flags.restore.as_ref()?;
    Some(archive::restore(file, &flags.data, flags.keep_unknown.0, pb::Time::now()).map(|restored| {
        let (cluster, rows, data) = (restored.cluster, restored.rows, flags.data.display());
        let ago = pb::Time::now().sec.saturating_sub(restored.taken.sec);
        println!("{data}: cluster {cluster} as it was {ago} s ago, {rows} rows; start dfs-master on it");
    }))
}

async fn serve(config: Config) -> Result<(), MasterError> {
    let handler =
        |kind| signal(kind).map_err(|error| MasterError::Broken(format!("handle signals: {error}")));
    let mut terminate = handler(SignalKind::terminate())?;
    let mut interrupt = handler(SignalKind::interrupt())?;
    let master = Master::start(config).await?;
    readiness::ready(&format!("listens on {}", master.address()));
    let result = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        error = master.failed() => Err(error),
    };
    readiness::stopping();
    master.shutdown().await;
    result
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use clap::CommandFactory;

    fn parse(args: &[&str]) -> Result<Config, String> {
        let all = ["dfs-master"].iter().chain(args);
        let flags = Flags::try_parse_from(all).map_err(|error| error.to_string())?;
        flags.config().map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_those_of_the_library() {
        assert_eq!(parse(&["--data", "d"]), Ok(Config::new("d")));
    }

    #[test]
    fn sizes_and_times_are_typed_as_people_type_them() {
        let args = [
            "--data",
            "d",
            "--chunk-size",
            "1MiB",
            "--replicate-every",
            "500ms",
            "--copies",
            "1",
            "--min-copies",
            "1",
        ];
        let config = parse(&args).unwrap();
        assert_eq!((config.chunk_size, config.replicate_every), (1 << 20, Duration::from_millis(500)));
    }

    #[test]
    fn compaction_can_be_switched_off() {
        for (typed, means) in [("off", 0), ("0", 0), ("1s", 1), ("2m", 120)] {
            let config = parse(&["--data", "d", "--compact-after", typed]).unwrap();
            assert_eq!(config.compact_after, Duration::from_secs(means), "{typed}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (flag, value) in [
            ("--chunk-size", "8"),
            ("--chunk-size", "64GiB"),
            ("--chunk-size", "many"),
            ("--copies", "0"),
            ("--min-copies", "4"),
            ("--replicate-every", "10"),
            ("--replicate-every", "1ms"),
            ("--repair-rate", "1"),
            ("--compact-after", "10"),
            ("--compact-after", "48h"),
            ("--auth", "maybe"),
            ("--token-lifetime", "1s"),
            ("--listen", "nowhere"),
            ("--unknown", "1"),
        ] {
            let error = parse(&["--data", "d", flag, value]).unwrap_err();
            assert!(error.contains(flag.trim_start_matches('-')), "{error}");
        }
    }

    #[test]
    fn every_flag_can_come_from_the_environment() {
        // What is done once must not be done again because a variable is still there.
        let once = ["help", "version", "dump", "restore", "keep_unknown"];
        for flag in Flags::command().get_arguments().filter(|a| !once.contains(&a.get_id().as_str())) {
            let name = format!("DFS_{}", flag.get_id().as_str().to_uppercase());
            assert_eq!(flag.get_env().and_then(|env| env.to_str()), Some(name.as_str()));
            assert!(flag.get_help().is_some(), "{name}");
        }
    }
}
