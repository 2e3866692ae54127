//! How we speak TLS: 1.3 alone, with ring. What is checked of the other end, and what is shown to it.
//!
//! Sessions are resumed: who comes again needs no new signature, and the server keeps nothing for that.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};

use crate::error::TlsError;
use crate::role::Role;

/// What is spoken inside: so that a connection meant for one port is of no use at another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// gRPC.
    Control,
    /// The frames of a keeper's data port.
    Data,
    /// HTTP/1.1: metrics, and the master's page.
    Http,
}

impl Protocol {
    fn alpn(self) -> Vec<Vec<u8>> {
        let name: &[u8] = match self {
            Protocol::Control => b"h2",
            Protocol::Data => b"dfs/1",
            Protocol::Http => b"http/1.1",
        };
        vec![name.to_vec()]
    }
}

/// A certificate, and what it was signed with up to the CA; and its key.
#[derive(Debug)]
pub(crate) struct Own {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

fn provider() -> Arc<CryptoProvider> {
    use rustls::crypto::ring::cipher_suite::{
        TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
    };
    // The first of them is the one that two of us agree on. It takes the least time.
    let cipher_suites =
        vec![TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256];
    Arc::new(CryptoProvider { cipher_suites, ..ring::default_provider() })
}

fn broken(error: impl std::fmt::Display) -> TlsError {
    TlsError::Broken(error.to_string())
}

/// For connecting to a peer of this role; `None`: of any.
pub(crate) fn client(
    roots: &Arc<RootCertStore>,
    own: Option<&Own>,
    protocol: Protocol,
    expected: Option<Role>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = provider();
    let of_authority = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone())
        .build()
        .map_err(broken)?;
    let verifier = Arc::new(OfRole { of_authority, expected });
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(broken)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match own {
        Some(own) => config.with_client_auth_cert(own.chain.clone(), own.key.clone_key()).map_err(broken)?,
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = protocol.alpn();
    Ok(Arc::new(config))
}

/// For a port. Who connects may show a certificate, which must be of the CA then.
pub(crate) fn server(
    roots: &Arc<RootCertStore>,
    own: &Own,
    protocol: Protocol,
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = provider();
    let config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(broken)?;
    let config = match protocol {
        // A browser would ask its user which certificate to show.
        Protocol::Http => config.with_no_client_auth(),
        Protocol::Control | Protocol::Data => config.with_client_cert_verifier(
            WebPkiClientVerifier::builder_with_provider(roots.clone(), provider)
                .allow_unauthenticated()
                .build()
                .map_err(broken)?,
        ),
    };
    let mut config = config.with_single_cert(own.chain.clone(), own.key.clone_key()).map_err(broken)?;
    config.alpn_protocols = protocol.alpn();
    config.ticketer = ring::Ticketer::new().map_err(broken)?;
    Ok(Arc::new(config))
}

/// Signed by the CA, for the name that was dialled, and of the role that was meant.
#[derive(Debug)]
struct OfRole {
    of_authority: Arc<WebPkiServerVerifier>,
    expected: Option<Role>,
}

impl ServerCertVerifier for OfRole {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.of_authority.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        )?;
        match self.expected {
            Some(expected) if Role::of(end_entity) != Some(expected) => {
                Err(rustls::Error::General(format!("its certificate is no {expected}'s")))
            }
            _ => Ok(verified),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.of_authority.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.of_authority.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.of_authority.supported_verify_schemes()
    }
}
