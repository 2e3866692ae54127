//! What a user can choose about a master, and the limits of each choice.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use dfs_proto::block_sum::{self, BLOCK_SIZE};
use dfs_proto::units::{Period, Size};
use dfs_tls::exposure::{self, Exposed};

/// The most copies that can be wanted of a chunk.
pub const MAX_COPIES: u32 = 16;
/// Chunk sizes are multiples of this, in bytes: the block that checksums are made over.
pub const CHUNK_SIZE_STEP: u32 = BLOCK_SIZE as u32;
/// The smallest chunk size, in bytes.
pub const MIN_CHUNK_SIZE: u32 = block_sum::MIN_CHUNK_SIZE as u32;
/// The largest chunk size, in bytes.
pub const MAX_CHUNK_SIZE: u32 = block_sum::MAX_CHUNK_SIZE as u32;
/// The shortest time between two replication scans.
pub const MIN_REPLICATE_EVERY: Duration = Duration::from_millis(100);
/// How long a file may have to be quiet before it is compacted; 0 is for never.
pub const MAX_COMPACT_AFTER: Duration = Duration::from_secs(86_400);
/// The least that a keeper may spend on copies and builds, in bytes a second: with less, transfers would time out.
pub const MIN_REPAIR_RATE: u64 = 1 << 20;
/// The longest time between two replication scans.
pub const MAX_REPLICATE_EVERY: Duration = Duration::from_secs(3_600);

/// Mounts renew a token when half of its time is over, and need some for that.
pub const MIN_TOKEN_LIFETIME: Duration = Duration::from_secs(4);
/// One that is found stays good for so long, if nobody revokes it.
pub const MAX_TOKEN_LIFETIME: Duration = Duration::from_secs(30 * 86_400);

/// How a master runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The data directory; made when missing.
    pub data: PathBuf,
    /// Where to listen. Port 0: any free one.
    pub listen: SocketAddr,
    /// Where metrics are served over HTTP, if anywhere. Port 0: any free one.
    pub http: Option<SocketAddr>,
    /// That port speaks no TLS, though there is a certificate.
    pub http_plain: bool,
    /// Copies wanted of every chunk.
    pub copies: u32,
    /// Copies needed before an upload is a success.
    pub min_copies: u32,
    /// Bytes: no chunk is longer.
    pub chunk_size: u32,
    /// Between two replication scans.
    pub replicate_every: Duration,
    /// How long a file has to be quiet before it is compacted; zero: never is one.
    pub compact_after: Duration,
    /// What a keeper may spend on copies and builds, in bytes a second.
    pub repair_rate: u64,
    /// How long files that were removed are kept in the trash; zero: they are not.
    pub trash: Duration,
    /// Is everybody asked who he is? `None`: unless `listen` is loopback.
    pub auth: Option<bool>,
    /// The directory with the master's certificate; gRPC is encrypted then, and keepers have to show theirs.
    pub tls_dir: Option<PathBuf>,
    /// Nobody is asked, or nothing is encrypted, although others than this machine's users can come.
    pub insecure: bool,
    /// How long a token is good.
    pub token_lifetime: Duration,
}

/// A choice that cannot be.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ConfigError {
    #[error("copies: {0} is not possible; choose 1 to {MAX_COPIES}")]
    Copies(u32),
    #[error("min-copies: {min_copies} is not possible with {copies} copies; choose 1 to {copies}")]
    MinCopies { min_copies: u32, copies: u32 },
    #[error(
        "chunk-size: {} is not possible; choose a multiple of {} from {} to {}",
        Size(*.0), Size(u64::from(CHUNK_SIZE_STEP)),
        Size(u64::from(MIN_CHUNK_SIZE)), Size(u64::from(MAX_CHUNK_SIZE))
    )]
    ChunkSize(u64),
    #[error(
        "replicate-every: {} is not possible; choose {} to {}",
        Period(*.0), Period(MIN_REPLICATE_EVERY), Period(MAX_REPLICATE_EVERY)
    )]
    ReplicateEvery(Duration),
    #[error("compact-after: {} is not possible; choose up to {}, or 0 to compact nothing", Period(*.0), Period(MAX_COMPACT_AFTER))]
    CompactAfter(Duration),
    #[error("repair-rate: {} a second is not possible; choose at least {}", Size(*.0), Size(MIN_REPAIR_RATE))]
    RepairRate(u64),
    #[error(
        "listen on {0}: others can reach that, and --auth off lets anybody do everything; leave --auth on, listen on 127.0.0.1, or say --insecure"
    )]
    Insecure(SocketAddr),
    #[error(transparent)]
    Exposed(#[from] Exposed),
    #[error("token-lifetime: {} is not possible; choose {} to {}", Period(*.0), Period(MIN_TOKEN_LIFETIME), Period(MAX_TOKEN_LIFETIME))]
    TokenLifetime(Duration),
}

impl Config {
    /// The defaults, with data in `data`.
    pub fn new(data: impl Into<PathBuf>) -> Config {
        Config {
            data: data.into(),
            listen: SocketAddr::from(([127, 0, 0, 1], 3_000)),
            http: None,
            http_plain: false,
            copies: 3,
            min_copies: 2,
            chunk_size: 8 * 1024 * 1024,
            replicate_every: Duration::from_secs(10),
            compact_after: Duration::from_secs(10),
            repair_rate: 100 << 20,
            trash: Duration::ZERO,
            auth: None,
            tls_dir: None,
            insecure: false,
            token_lifetime: Duration::from_secs(900),
        }
    }

    /// Is everybody asked who he is?
    pub fn auth_is_on(&self) -> bool {
        self.auth.unwrap_or(!self.listen.ip().is_loopback())
    }

    /// Does the HTTP port speak TLS?
    pub fn http_is_encrypted(&self) -> bool {
        self.tls_dir.is_some() && !self.http_plain
    }

    /// Checks every limit.
    ///
    /// # Errors
    /// Names the first choice that cannot be, and what can.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if !(1..=MAX_COPIES).contains(&self.copies) {
            return Err(ConfigError::Copies(self.copies));
        }
        if !(1..=self.copies).contains(&self.min_copies) {
            return Err(ConfigError::MinCopies { min_copies: self.min_copies, copies: self.copies });
        }
        let possible = (MIN_CHUNK_SIZE..=MAX_CHUNK_SIZE).contains(&self.chunk_size);
        if !possible || !self.chunk_size.is_multiple_of(CHUNK_SIZE_STEP) {
            return Err(ConfigError::ChunkSize(u64::from(self.chunk_size)));
        }
        if !(MIN_REPLICATE_EVERY..=MAX_REPLICATE_EVERY).contains(&self.replicate_every) {
            return Err(ConfigError::ReplicateEvery(self.replicate_every));
        }
        if self.compact_after > MAX_COMPACT_AFTER {
            return Err(ConfigError::CompactAfter(self.compact_after));
        }
        if self.repair_rate < MIN_REPAIR_RATE {
            return Err(ConfigError::RepairRate(self.repair_rate));
        }
        if !self.listen.ip().is_loopback() && !self.auth_is_on() && !self.insecure {
            return Err(ConfigError::Insecure(self.listen));
        }
        exposure::check(self.listen, self.tls_dir.is_some(), self.insecure)?;
        if !(MIN_TOKEN_LIFETIME..=MAX_TOKEN_LIFETIME).contains(&self.token_lifetime) {
            return Err(ConfigError::TokenLifetime(self.token_lifetime));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut Config)) -> Result<(), ConfigError> {
        let mut config = Config::new("data");
        change(&mut config);
        config.validate()
    }

    #[test]
    fn the_defaults_are_possible() {
        assert_eq!(check(|_| ()), Ok(()));
    }

    #[test]
    fn auth_is_on_where_others_can_come_unless_it_is_said() {
        let on = |listen: [u8; 4], auth| {
            Config { listen: (listen, 1).into(), auth, ..Config::new("d") }.auth_is_on()
        };
        assert!(!on([127, 0, 0, 1], None) && on([0, 0, 0, 0], None) && on([10, 0, 0, 1], None));
        assert!(on([127, 0, 0, 1], Some(true)) && !on([10, 0, 0, 1], Some(false)));
    }

    #[test]
    fn each_limit_is_kept() {
        assert_eq!(check(|c| c.copies = 0), Err(ConfigError::Copies(0)));
        assert_eq!(check(|c| c.copies = 17), Err(ConfigError::Copies(17)));
        assert_eq!(check(|c| c.copies = 16), Ok(()));
        assert_eq!(check(|c| c.min_copies = 0), Err(ConfigError::MinCopies { min_copies: 0, copies: 3 }));
        assert_eq!(check(|c| c.min_copies = 4), Err(ConfigError::MinCopies { min_copies: 4, copies: 3 }));
        assert_eq!(check(|c| c.min_copies = 3), Ok(()));
        for size in
            [0, MIN_CHUNK_SIZE - CHUNK_SIZE_STEP, MIN_CHUNK_SIZE + 1, MAX_CHUNK_SIZE + CHUNK_SIZE_STEP]
        {
            assert_eq!(check(|c| c.chunk_size = size), Err(ConfigError::ChunkSize(u64::from(size))));
        }
        assert_eq!(check(|c| c.chunk_size = MIN_CHUNK_SIZE), Ok(()));
        assert_eq!(check(|c| c.chunk_size = MAX_CHUNK_SIZE), Ok(()));
        for period in [Duration::from_millis(99), Duration::from_secs(3_601)] {
            assert_eq!(check(|c| c.replicate_every = period), Err(ConfigError::ReplicateEvery(period)));
        }
        assert_eq!(check(|c| c.compact_after = Duration::ZERO), Ok(()));
        assert_eq!(check(|c| c.repair_rate = 5), Err(ConfigError::RepairRate(5)));
        let anywhere = SocketAddr::from(([0, 0, 0, 0], 1));
        let tls_dir = || Some(PathBuf::from("tls"));
        assert_eq!(check(|c| (c.listen, c.tls_dir) = (anywhere, tls_dir())), Ok(()));
        assert_eq!(check(|c| c.listen = anywhere), Err(ConfigError::Exposed(Exposed(anywhere))));
        assert_eq!(
            check(|c| (c.listen, c.tls_dir, c.auth) = (anywhere, tls_dir(), Some(false))),
            Err(ConfigError::Insecure(anywhere))
        );
        assert_eq!(check(|c| (c.listen, c.auth, c.insecure) = (anywhere, Some(false), true)), Ok(()));
        let short = Duration::from_secs(1);
        assert_eq!(check(|c| c.token_lifetime = short), Err(ConfigError::TokenLifetime(short)));
        let week = Duration::from_secs(7 * 86_400);
        assert_eq!(check(|c| c.compact_after = week), Err(ConfigError::CompactAfter(week)));
    }

    #[test]
    fn a_message_says_what_is_possible() {
        let message = ConfigError::ChunkSize(1).to_string();
        assert!(
            message.starts_with("chunk-size: 1B is not possible; choose a multiple of 64KiB"),
            "{message}"
        );
    }
}
