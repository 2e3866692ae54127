//! What a keeper is told when it starts, and the times that are constants in production and shorter
//! in tests.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use dfs_proto::label;

use crate::error::KeeperError;

/// What a keeper encrypts that has a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TlsFor {
    /// The session with the master alone: tickets and file bytes travel as they are.
    Control,
    /// The data port, too.
    All,
}

impl FromStr for TlsFor {
    type Err = String;

    fn from_str(text: &str) -> Result<TlsFor, String> {
        match text {
            "control" => Ok(TlsFor::Control),
            "all" => Ok(TlsFor::All),
            _ => Err("say control or all".to_owned()),
        }
    }
}

/// How to run one keeper.
#[derive(Clone, Debug)]
pub struct Config {
    /// The data directory; made when it is missing. One keeper owns it at a time.
    pub data: PathBuf,
    /// The master, `HOST:PORT`.
    pub master: String,
    /// The file with the join token. `None`: the master asks nobody.
    pub token_file: Option<PathBuf>,
    /// The directory with the keeper's certificate; the session with the master is encrypted then.
    pub tls_dir: Option<PathBuf>,
    /// What else is encrypted then.
    pub tls_for: TlsFor,
    /// Where the data port listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// `HOST:PORT` under which clients and other keepers reach the data port. `None`: the address
    /// that it listens on, or, if that is every interface, this machine's address towards the master.
    pub advertise: Option<String>,
    /// The label `host`: copies of a chunk go to different hosts where there are several.
    /// `None`: this machine's host name.
    pub host: Option<String>,
    /// The other labels, such as `rack`; one named `host` takes the place of `host`.
    pub labels: Vec<(String, String)>,
    /// How long the first connection to the master may take.
    pub join_timeout: Duration,
    /// Connections to the data port at once; the next one is told that the keeper is busy.
    pub max_connections: usize,
    /// Writes are refused when the file system has fewer free bytes than this. `None`: the larger of
    /// 64 MiB and 1 % of it.
    pub reserve_bytes: Option<u64>,
    /// Where metrics are served over HTTP, if anywhere; port 0 takes a free one.
    pub http: Option<SocketAddr>,
    /// That port speaks no TLS, though there is a certificate.
    pub http_plain: bool,
    /// Within this, everything is read and checked once. `None`: only when the master asks for it.
    pub scrub_every: Option<Duration>,
    /// Bytes per second that reading everything may take at most.
    pub scrub_rate: u64,
}

impl Config {
    /// The defaults, for this data directory and master.
    pub fn new(data: impl Into<PathBuf>, master: impl Into<String>) -> Config {
        Config {
            data: data.into(),
            master: master.into(),
            token_file: None,
            tls_dir: None,
            tls_for: TlsFor::All,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            advertise: None,
            host: None,
            labels: Vec::new(),
            join_timeout: Duration::from_secs(30),
            max_connections: 256,
            reserve_bytes: None,
            http: None,
            http_plain: false,
            scrub_every: Some(Duration::from_secs(7 * 86_400)),
            scrub_rate: 64 << 20,
        }
    }

    /// # Errors
    /// [`KeeperError::Config`] names the value that cannot be.
    pub(crate) fn validate(&self) -> Result<(), KeeperError> {
        check_address("master address", &self.master, "--master")?;
        if let Some(advertise) = &self.advertise {
            check_address("advertised address", advertise, "--advertise")?;
        }
        if self.max_connections == 0 {
            return Err(KeeperError::Config {
                what: "connection limit 0".to_owned(),
                why: "nobody could connect".to_owned(),
                remedy: "give --max-connections a number from 1 on",
            });
        }
        if self.scrub_rate == 0 {
            return Err(KeeperError::Config {
                what: "scrub rate 0".to_owned(),
                why: "a scrub would never end".to_owned(),
                remedy: "give --scrub-rate a size from 1MiB on, or --scrub-every off",
            });
        }
        self.all_labels().map(drop)
    }

    /// Every label by name, `host` among them.
    ///
    /// # Errors
    /// [`KeeperError::Config`] names the one that cannot be.
    pub(crate) fn all_labels(&self) -> Result<BTreeMap<String, String>, KeeperError> {
        let wrong = |what: String, why: String| KeeperError::Config {
            what,
            why,
            remedy: "give each --label once, as --label rack=1",
        };
        let mut labels = BTreeMap::new();
        let host = self.host.iter().map(|host| (label::HOST.to_owned(), host.clone()));
        for (name, value) in host.chain(self.labels.iter().cloned()) {
            label::check(&name, &value).map_err(|why| wrong(format!("label {name}={value}"), why))?;
            if labels.insert(name.clone(), value).is_some() {
                return Err(wrong(format!("label {name}"), "it is given twice".to_owned()));
            }
        }
        if labels.len() > label::MAX_LABELS {
            return Err(wrong(
                format!("{} labels", labels.len()),
                format!("{} are the most", label::MAX_LABELS),
            ));
        }
        Ok(labels)
    }
}

fn check_address(what: &str, address: &str, flag: &'static str) -> Result<(), KeeperError> {
    let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    match port.and_then(|(_, port)| port.parse::<u16>().ok()) {
        Some(port) if port != 0 => Ok(()),
        _ => Err(KeeperError::Config {
            what: format!("{what} '{address}'"),
            why: "it is no HOST:PORT".to_owned(),
            remedy: match flag {
                "--master" => "give --master as HOST:PORT, for example 127.0.0.1:3000",
                _ => "give --advertise as HOST:PORT, as clients can reach it",
            },
        }),
    }
}

/// The deadlines of a keeper. The defaults are what the protocol promises; tests shorten them.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// A connection on which no frame begins for this long, or on which one frame takes longer than
    /// this in either direction, is closed.
    pub silence_timeout: Duration,
    /// Longest wait for a connection to a companion.
    pub connect_timeout: Duration,
    /// Longest stall that a companion may cause before the upload goes on without it; longer where more wait behind
    /// it. Below half of the client's own patience of 2 s, so that the client does not blame the wrong one.
    pub relay_timeout: Duration,
    /// How long a notice for the master may wait for the session before its upload fails. Below the
    /// client's own patience of 5 s, so that the client hears the reason.
    pub notice_timeout: Duration,
    /// A stored chunk is synced after at most about this time.
    pub sync_after: Duration,
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning {
            silence_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(1),
            relay_timeout: Duration::from_secs(1),
            notice_timeout: Duration::from_secs(4),
            sync_after: Duration::from_millis(500),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_must_be_host_and_port() {
        for bad in ["", "localhost", ":3000", "host:", "host:x", "host:0", "host:70000"] {
            assert!(Config::new("d", bad).validate().is_err(), "{bad}");
        }
        for good in ["127.0.0.1:3000", "master.example:1", "[::1]:3000"] {
            assert!(Config::new("d", good).validate().is_ok(), "{good}");
        }
    }

    #[test]
    fn a_label_is_given_once_and_makes_sense() {
        let with = |host: Option<&str>, labels: &[(&str, &str)]| {
            let labels =
                labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            Config { host: host.map(str::to_owned), labels, ..Config::new("d", "m:1") }.all_labels()
        };
        let labels = with(None, &[("rack", "1"), ("host", "a")]).unwrap();
        assert_eq!(
            labels.into_iter().collect::<Vec<_>>(),
            [("host", "a"), ("rack", "1")].map(|(n, v)| (n.into(), v.into()))
        );
        assert_eq!(with(Some("a"), &[]).unwrap()["host"], "a");
        assert!(with(Some("a"), &[("host", "a")]).is_err());
        assert!(with(None, &[("rack", "1"), ("rack", "2")]).is_err());
        assert!(with(Some("a b"), &[]).is_err());
    }
}
