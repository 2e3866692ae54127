//! The Data Keeper's program: flags, logs, signals. The work is in the library.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use clap::builder::FalseyValueParser;
use dfs_cmdline::readiness;
use dfs_keeper::{Config, Keeper, TlsFor};
use dfs_observe::http::check_exposure;
use dfs_proto::label;
use dfs_proto::units::{Period, Size, period_or_off, socket_address};
use dfs_tls::exposure;
use tokio::signal::unix::{SignalKind, signal};

/// A Data Keeper: stores chunks in a directory, serves them, and copies them to other keepers.
#[derive(Parser, Debug)]
#[command(name = "dfs-keeper", version)]
struct Args {
    /// Data directory; made when it is missing. Belongs to one cluster for ever.
    #[arg(long, env = "DFS_DATA", value_name = "DIR")]
    data: PathBuf,
    /// The master's address.
    #[arg(long, env = "DFS_MASTER", value_name = "HOST:PORT")]
    master: String,
    /// The file with the token of 'dfs keeper token', with which this keeper joins.
    #[arg(long, env = "DFS_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Directory with the keeper's certificate, as 'dfs tls init' makes it: needed where the master has one.
    #[arg(long, env = "DFS_TLS_DIR", value_name = "DIR")]
    tls_dir: Option<PathBuf>,
    /// With --tls-dir: what is encrypted: all, or control: the connection to the master alone, and not file bytes.
    #[arg(long, env = "DFS_TLS", value_name = "all|control", default_value = "all")]
    tls: TlsFor,
    /// Address of the data port; port 0 takes a free one.
    #[arg(long, env = "DFS_LISTEN", value_name = "HOST:PORT", default_value = "127.0.0.1:0", value_parser = socket_address)]
    listen: SocketAddr,
    /// Address under which others reach the data port [default: the one that it listens on, or, for
    /// 0.0.0.0, this machine's towards the master].
    #[arg(long, env = "DFS_ADVERTISE", value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// The same as --label host=NAME.
    #[arg(long, env = "DFS_HOST", value_name = "NAME")]
    host: Option<String>,
    /// What this keeper is labelled with; may be given several times. Copies are spread over different values of
    /// rack first, then of host [default: host=<the host name>].
    #[arg(long = "label", env = "DFS_LABEL", value_name = "NAME=VALUE", value_delimiter = ',', value_parser = label::parse)]
    labels: Vec<(String, String)>,
    /// How long to wait for the master at the start, as 30s or 2m.
    #[arg(long, env = "DFS_JOIN_TIMEOUT", value_name = "PERIOD", default_value = "30s")]
    join_timeout: Period,
    /// Connections to the data port at once.
    #[arg(long, env = "DFS_MAX_CONNECTIONS", value_name = "NUMBER", default_value_t = 256)]
    max_connections: usize,
    /// Address and port to serve metrics on over HTTP; port 0 takes a free one, see the log [default: none].
    #[arg(long, env = "DFS_HTTP", value_name = "HOST:PORT", value_parser = socket_address)]
    http: Option<SocketAddr>,
    /// With --tls-dir: serve HTTP as it is, without TLS.
    #[arg(long, env = "DFS_HTTP_PLAIN", value_parser = FalseyValueParser::new())]
    http_plain: bool,
    /// Listen on an address that others reach without TLS, or serve HTTP there.
    #[arg(long, env = "DFS_INSECURE", value_parser = FalseyValueParser::new())]
    insecure: bool,
    /// Read and check everything once within this time, as 7d or 12h; off: only when 'dfs scrub' asks for it.
    #[arg(long, env = "DFS_SCRUB_EVERY", value_name = "PERIOD", default_value = "7d", value_parser = period_or_off)]
    scrub_every: Period,
    /// Bytes per second that this reading takes at most.
    #[arg(long, env = "DFS_SCRUB_RATE", value_name = "SIZE", default_value = "64MiB")]
    scrub_rate: Size,
    /// What to log: error, warn, info, debug, trace, or a filter like dfs_keeper=debug.
    #[arg(long, env = "DFS_LOG", value_name = "FILTER", default_value = "info")]
    log: String,
    /// Log in JSON, an object a line.
    #[arg(long, env = "DFS_LOG_JSON", value_parser = FalseyValueParser::new())]
    log_json: bool,
    /// A file with settings: flags as TOML, without their dashes [default: /etc/dfs/keeper.toml, if it is there].
    #[arg(long, env = "DFS_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

fn main() -> ExitCode {
    let args = dfs_cmdline::parse::<Args>("keeper", std::env::args_os().collect());
    match run(args.unwrap_or_else(|error| error.exit())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dfs-keeper: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<(), String> {
    if let Some(http) = args.http {
        let encrypted = args.tls_dir.is_some() && !args.http_plain;
        check_exposure(http, encrypted, args.insecure).map_err(|error| error.to_string())?;
    }
    exposure::check(args.listen, args.tls_dir.is_some(), args.insecure).map_err(|error| error.to_string())?;
    dfs_proto::logging::init(&args.log, args.log_json)?;
    if args.tls_dir.is_none() && !args.listen.ip().is_loopback() {
        let address = args.listen;
        tracing::warn!(
            "--insecure: there is no TLS: whoever can listen to the network of {address} can read file bytes and tickets"
        );
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start its threads: {error}; raise the limit of processes"))?;
    let result = runtime.block_on(serve(Config {
        data: args.data,
        master: args.master,
        token_file: args.token_file,
        tls_dir: args.tls_dir,
        tls_for: args.tls,
        listen: args.listen,
        advertise: args.advertise,
        host: args.host,
        labels: args.labels,
        join_timeout: args.join_timeout.0,
        max_connections: args.max_connections,
        reserve_bytes: None,
        http: args.http,
        http_plain: args.http_plain,
        scrub_every: Some(args.scrub_every.0).filter(|period| !period.is_zero()),
        scrub_rate: args.scrub_rate.0,
    }));
    // A disk that hangs must not keep the process.
    runtime.shutdown_background();
    result
}

async fn serve(config: Config) -> Result<(), String> {
    let no_signals = |error| format!("cannot catch signals: {error}; report this");
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
    let keeper = tokio::select! {
        started = Keeper::start(config) => started.map_err(|error| error.to_string())?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    readiness::ready(&format!("serves on {}", keeper.address()));
    let failure = tokio::select! {
        error = keeper.failed() => Some(error),
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
    };
    readiness::stopping();
    keeper.shutdown().await;
    failure.map_or(Ok(()), |error| Err(error.to_string()))
}
