//! TLS: certificates that programs give, and explanations of refusals.

use std::io;

use async_rs::Tokio;
use async_rs::traits::Reactor;
use lapin::tcp::{AsyncTcpStream, RustlsConnector, RustlsConnectorConfig};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{AlertDescription, CertificateError, Error, InconsistentKeys, RootCertStore};

use super::options::Options;
use crate::error::OpenError;

/// A maker of TLS streams, with all certificates read.
#[derive(Clone)]
pub(super) struct Connector {
    connector: RustlsConnector,
    has_identity: bool,
}

/// Explanation of a broker that only speaks an old version of TLS.
const OTHER_TLS: &str =
    "the broker and rustls have no version or cipher of TLS in common: enable TLS 1.2 or 1.3 there";

impl Connector {
    /// Reads the certificates of the platform and of the options.
    pub(super) fn new(options: &Options) -> Result<Self, OpenError> {
        let mut config = RustlsConnectorConfig::default();
        match config.clone().with_native_certs() {
            Ok(with_native) => config = with_native,
            // A small container may have none; the program's own certificates are enough.
            Err(_) if options.root_certificates.is_some() => {}
            Err(error) => {
                return Err(OpenError::InvalidCertificate(format!(
                    "the platform has no certificate authorities ({error}): install them, usually the package ca-certificates, or \
                     set others with `ConnectionBuilder::root_certificates`"
                )));
            }
        }
        if let Some(roots) = &options.root_certificates {
            config.add_parsable_certificates(self::roots(roots)?);
        }
        let connector = match &options.identity {
            None => config.connector_with_no_client_auth(),
            Some((certificate, key)) => {
                let (certificates, key) = identity(certificate, key)?;
                config.connector_with_single_cert(certificates, key)
            }
        };
        Ok(Self {
            connector: connector.map_err(|error| unusable(&error))?,
            has_identity: options.identity.is_some(),
        })
    }

    /// Starts TLS on a connected stream, with a broker that has a certificate for this host.
    pub(super) async fn secure(
        &self,
        stream: AsyncTcpStream<<Tokio as Reactor>::TcpStream>,
        host: &str,
    ) -> io::Result<AsyncTcpStream<<Tokio as Reactor>::TcpStream>> {
        stream.into_rustls(&self.connector, host).await
    }

    /// Explains an error of a stream, if TLS is its cause. With TLS 1.3, a broker refuses a client's certificate only after the
    /// handshake.
    pub(super) fn explain(&self, error: &io::Error) -> Option<&'static str> {
        let error = error.get_ref()?.downcast_ref::<Error>()?;
        Some(match error {
            Error::InvalidCertificate(refusal) => match refusal {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    "the broker's certificate has expired, or this machine's clock is wrong"
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    "the broker's certificate is not valid yet, or this machine's clock is wrong"
                }
                CertificateError::NotValidForName
                | CertificateError::NotValidForNameContext { .. } => {
                    "the broker's certificate is for another host: use a name in the URL that the certificate has"
                }
                // A bad signature means another authority with the same name.
                CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                    "the broker's certificate was issued by an authority that is not trusted here: give the authority's certificate to \
                     `ConnectionBuilder::root_certificates`"
                }
                _ => "the broker's certificate is not accepted",
            },
            Error::AlertReceived(alert) => match alert {
                AlertDescription::CertificateRequired => {
                    "the broker requires a client certificate: set one with `ConnectionBuilder::identity`"
                }
                AlertDescription::HandshakeFailure if !self.has_identity => {
                    "the broker requires a client certificate (set one with `ConnectionBuilder::identity`), or it and rustls have no cipher \
                     in common"
                }
                AlertDescription::HandshakeFailure => {
                    "the broker does not accept the client certificate: check that it is one for clients (extendedKeyUsage clientAuth), and \
                     see the broker's log"
                }
                AlertDescription::ProtocolVersion => OTHER_TLS,
                AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::UnknownCA
                | AlertDescription::AccessDenied
                    if self.has_identity =>
                {
                    "the broker does not accept the client certificate: check its dates, and that the broker trusts its authority"
                }
                _ => "the broker refused the connection with a TLS alert",
            },
            Error::InvalidMessage(_) => {
                "the peer does not speak TLS; check that this is not the port for amqp:// URLs"
            }
            Error::PeerIncompatible(_) => OTHER_TLS,
            _ => "the TLS handshake failed",
        })
    }
}

fn roots(text: &str) -> Result<Vec<CertificateDer<'static>>, OpenError> {
    let roots = certificates("root_certificates", text)?;
    let mut store = RootCertStore::empty();
    for root in &roots {
        store.add(root.clone()).map_err(|error| {
            OpenError::InvalidCertificate(format!(
                "`root_certificates` has a certificate that is damaged or is not one of an authority: {error}"
            ))
        })?;
    }
    Ok(roots)
}

fn identity(
    certificate: &str,
    key: &str,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), OpenError> {
    let certificates = certificates("identity", certificate)?;
    // The parser's error may repeat what it has read.
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| {
        let reason = match error {
            pem::Error::NoItemsFound => {
                "needs a private key in PEM as its second argument, without a passphrase (-----BEGIN PRIVATE KEY-----)"
            }
            _ => "has a damaged private key",
        };
        OpenError::InvalidCertificate(format!("`identity` {reason}"))
    })?;
    Ok((certificates, key))
}

/// Reads at least one certificate.
fn certificates(setter: &str, text: &str) -> Result<Vec<CertificateDer<'static>>, OpenError> {
    let invalid = |reason: &str| OpenError::InvalidCertificate(format!("`{setter}` {reason}"));
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match read {
        Ok(read) if read.is_empty() => Err(invalid(
            "has no certificate in PEM (-----BEGIN CERTIFICATE-----); it takes the text of a file, not the name of a file",
        )),
        Ok(read) => Ok(read),
        Err(_) => Err(invalid("has a damaged certificate")),
    }
}

/// Explains an identity that cannot be used.
fn unusable(error: &io::Error) -> OpenError {
    let known = error.get_ref().and_then(|cause| cause.downcast_ref());
    OpenError::InvalidCertificate(match known {
        Some(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            "the key of `identity` does not belong to its first certificate".to_owned()
        }
        _ => format!("`identity` cannot be used: {error}"),
    })
}
