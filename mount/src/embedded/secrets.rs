//! What the embedded cluster is asked for by itself, since it has auth on: a token for this mount and for `dfs` of the same user, and a join token
//! for the keepers. Both are made anew at each start, and each is in a file that its owner alone can read.
//!
//! ```text
//! token        in the cluster's directory: this mount's, with the role admin
//! join-token   beside it
//! login-...    where `dfs login` puts what it gets: the same token, so that `dfs --master ADDRESS` of this user just works
//! ```

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dfs_master::Master;
use dfs_proto::token_file;

use super::EmbeddedError;
use crate::client::tokens::{Tokens, login_file};

/// A mount renews it when half of that is over. What is stolen is good for so long, or until `dfs user revoke admin`.
const LIFETIME: Duration = Duration::from_secs(365 * 86_400);
/// The user of the keepers.
const KEEPERS: &str = "embedded-keepers";

/// The files of one cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Secrets {
    token: PathBuf,
    pub join_token: PathBuf,
}

impl Secrets {
    /// Has the master make them.
    pub async fn make(master: &Master, data: &Path, address: SocketAddr) -> Result<Secrets, EmbeddedError> {
        let secrets = Secrets { token: data.join("token"), join_token: data.join("join-token") };
        let token = master.admin_token(LIFETIME)?;
        token_file::write(&secrets.token, &token)?;
        token_file::write(&secrets.join_token, &master.join_token(KEEPERS, LIFETIME).await?)?;
        // Without a home nobody looks for it there, and --token-file still names the other.
        if let Some(login) = login_file(&address.to_string())
            && let Err(error) = token_file::write(&login, &token)
        {
            tracing::warn!(
                "dfs of this user has to be told --token-file {}: {error}",
                secrets.token.display()
            );
        }
        Ok(secrets)
    }

    pub fn tokens(&self) -> Tokens {
        Tokens::at(&self.token)
    }
}
