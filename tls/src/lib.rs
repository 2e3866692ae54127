//! TLS between master, keepers and mounts: certificates, who may show which, and streams that are encrypted.
//!
//! - [`authority`]: makes a cluster's CA, and certificates that it signs.
//! - [`dir`]: what `--tls-dir` names, read and checked. [`error`]: what can be wrong with it.
//! - [`role`]: whose a certificate is.
//! - `config`: how we speak TLS: version, ciphers, what is checked of the other end.
//! - [`stream`]: connections of tokio, with a deadline for the handshake. [`grpc`]: the same for gRPC.
//! - [`explain`]: why a handshake failed, in words that help. [`plain`]: what a peer is told that speaks no TLS.
//! - [`exposure`]: listening where others can come needs TLS, or somebody's word.
//!
//! What must hold:
//! - TLS 1.3 and nothing older, so that there is nothing to be talked down to. Nobody who was told to use TLS goes on without.
//! - A peer is believed to be what its certificate says: signed by the cluster's CA, for the name that was dialled, and of
//!   the role that was meant. So a keeper cannot pass for the master.
//! - A private key is in no log and no error.

pub mod authority;
mod config;
pub mod dir;
pub mod error;
pub mod explain;
pub mod exposure;
pub mod grpc;
pub mod plain;
pub mod role;
pub mod stream;

pub use config::Protocol;
pub use dir::TlsDir;
pub use error::TlsError;
pub use role::Role;
pub use rustls;
pub use stream::{Acceptor, Connector};
pub use tokio_rustls;
