//! Is a password right? For everybody who logs in, over gRPC or on the page: one limiter, one audit log, one answer.

use std::net::SocketAddr;
use std::sync::PoisonError;

use dfs_proto::pb;
use dfs_proto::secret::Secret;
use tonic::Status;

use super::{Gate, password};
use crate::core::row::UserRow;

impl Gate {
    /// The user whose name and password these are. Counts as a try; what fails is in the audit log.
    ///
    /// # Errors
    /// `ResourceExhausted`: too many tries. `Unauthenticated`: no, or he is disabled; who asks is not told which.
    pub async fn check_password(
        &self,
        name: &str,
        password: Secret,
        from: Option<SocketAddr>,
    ) -> Result<UserRow, Status> {
        let ip = from.map(|from| from.ip());
        let limiter = || self.inner.limiter.lock().unwrap_or_else(PoisonError::into_inner);
        let tried = limiter().try_once(name, ip, pb::Time::now().as_millis());
        if let Err(wait_ms) = tried {
            self.note_as("login", name, from, false, "too many tries");
            let wait_s = wait_ms.div_euclid(1_000) + 1;
            return Err(Status::resource_exhausted(format!(
                "too many failed logins; try again in {wait_s} s"
            )));
        }
        let row = self.user(name)?.unwrap_or_default();
        let right = password::verify(password, row.password_hash.clone()).await?;
        if !right || row.disabled {
            self.note_as("login", name, from, false, if right { "disabled" } else { "wrong" });
            return Err(Status::unauthenticated("wrong user name or password; try again"));
        }
        limiter().succeeded(name, ip);
        Ok(row)
    }
}
