//! How the master's address becomes a gRPC channel, and gRPC's errors ours.

use std::error::Error;
use std::time::Duration;

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_tls::grpc;
use tonic::transport::{Channel, Endpoint};

use super::tls::Tls;

/// Bytes in flight that the receiver allows, per connection: a page of a layout or a directory fits.
const WINDOW: u32 = 4 * 1024 * 1024;

/// The endpoint for `master`, HOST:PORT.
///
/// # Errors
/// `Invalid` when that is no address.
pub(super) fn endpoint(master: &str) -> Result<Endpoint, DfsError> {
    let bad = || {
        let message = format!("'{master}' is no address of a master; write it as HOST:PORT");
        DfsError::new(ErrorCode::Invalid, message)
    };
    let (host, port) = master.rsplit_once(':').ok_or_else(bad)?;
    if host.is_empty() || host.contains('/') || port.parse::<u16>().is_err() {
        return Err(bad());
    }
    let endpoint = Endpoint::from_shared(format!("http://{master}")).map_err(|_| bad())?;
    Ok(endpoint.tcp_nodelay(true).initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW))
}

/// A channel that is connected; encrypted, with `tls`.
///
/// # Errors
/// `Unavailable`, naming the address and the remedy.
pub(super) async fn open(master: &str, tls: Option<&Tls>, timeout: Duration) -> Result<Channel, DfsError> {
    let endpoint = endpoint(master)?.connect_timeout(timeout);
    let connect = async {
        match tls {
            Some(tls) => grpc::connect(&endpoint, master, &tls.to_master).await,
            None => endpoint.connect().await,
        }
    };
    match tokio::time::timeout(timeout, connect).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => Err(unreachable_master(master, &root_cause(&error))),
        Err(_) => Err(unreachable_master(master, "no answer")),
    }
}

/// The error for a master that cannot be reached.
pub(super) fn unreachable_master(master: &str, why: &str) -> DfsError {
    DfsError::new(
        ErrorCode::Unavailable,
        format!(
            "cannot reach the master at {master}: {why}; \
             see that dfs-master runs there, or give its address with --master HOST:PORT"
        ),
    )
}

/// The innermost cause: the outer ones say no more than "transport error".
fn root_cause(error: &dyn Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

/// A call's result, within a deadline.
pub(super) async fn within<T>(
    master: &str,
    limit: Duration,
    call: impl Future<Output = Result<T, tonic::Status>>,
) -> Result<T, DfsError> {
    match tokio::time::timeout(limit, call).await {
        Ok(result) => result.map_err(|status| from_status(master, &status)),
        Err(_) => Err(DfsError::new(
            ErrorCode::TimedOut,
            format!("the master at {master} did not answer within {} s; try again", limit.as_secs()),
        )),
    }
}

/// A failed call as our error.
pub(super) fn from_status(master: &str, status: &tonic::Status) -> DfsError {
    let code = match status.code() {
        tonic::Code::NotFound => ErrorCode::NotFound,
        tonic::Code::InvalidArgument => ErrorCode::Invalid,
        tonic::Code::DeadlineExceeded | tonic::Code::Cancelled => ErrorCode::TimedOut,
        tonic::Code::Unimplemented => ErrorCode::Version,
        tonic::Code::Unauthenticated => ErrorCode::Unauthenticated,
        // Not a word of the master's, but how HTTP/2 says that a connection has to be encrypted.
        tonic::Code::PermissionDenied if status.source().is_some() => {
            let why = status.source().map(root_cause).unwrap_or_default();
            return DfsError::new(
                ErrorCode::Access,
                format!("the master at {master} takes no connection without TLS; give --tls-dir DIR ({why})"),
            );
        }
        tonic::Code::PermissionDenied => ErrorCode::Access,
        tonic::Code::ResourceExhausted => ErrorCode::Busy,
        tonic::Code::Unavailable => {
            let why = status.source().map_or_else(|| status.message().to_owned(), root_cause);
            return unreachable_master(master, &why);
        }
        _ => ErrorCode::Io,
    };
    DfsError::new(code, format!("the master at {master} refused: {}", status.message()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_address_is_refused_with_the_form_it_should_have() {
        for bad in ["", "host", "host:", ":3000", "host:99999", "http://host:1", "a b:1"] {
            let error = endpoint(bad).unwrap_err();
            assert_eq!(error.code, ErrorCode::Invalid, "{bad}");
            assert!(error.message.contains("HOST:PORT"), "{bad}");
        }
        for good in ["127.0.0.1:3000", "[::1]:3000", "localhost:1"] {
            assert!(endpoint(good).is_ok(), "{good}");
        }
    }

    #[tokio::test]
    async fn a_master_that_is_not_there_is_named() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let master = format!("127.0.0.1:{port}");
        let error = open(&master, None, Duration::from_secs(2)).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Unavailable);
        assert!(error.message.contains(&master) && error.message.contains("--master"), "{error}");
    }
}
