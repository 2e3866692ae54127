//! Listening where others than this machine's users can come needs TLS, or somebody who says that he does without.

use std::net::SocketAddr;

/// A port that nobody said may be open.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "--listen {0}: others could read and change what is sent there; give --tls-dir (see 'dfs tls init'), a loopback address, or --insecure"
)]
pub struct Exposed(pub SocketAddr);

/// Refuses an address that others reach where there is no TLS, unless somebody said that he wants that.
///
/// # Errors
/// [`Exposed`].
pub fn check(listen: SocketAddr, tls: bool, insecure: bool) -> Result<(), Exposed> {
    if tls || insecure || listen.ip().is_loopback() { Ok(()) } else { Err(Exposed(listen)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_others_reach_needs_tls_or_somebodys_word() {
        let (here, anywhere) = (SocketAddr::from(([127, 0, 0, 1], 1)), SocketAddr::from(([0, 0, 0, 0], 1)));
        assert_eq!(check(here, false, false), Ok(()));
        assert_eq!(check(anywhere, true, false), Ok(()));
        assert_eq!(check(anywhere, false, true), Ok(()));
        assert_eq!(check(anywhere, false, false), Err(Exposed(anywhere)));
    }
}
