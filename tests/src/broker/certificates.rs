//! Throw-away certificates for nodes that speak TLS.

use std::fs;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};

use super::BrokerError;

/// The files of [`write()`], in its folder.
pub(super) const CA: &str = "ca.pem";
pub(super) const CERTIFICATE: &str = "server.pem";
pub(super) const KEY: &str = "server.key";

/// Makes a certificate authority and, signed by it, a server certificate for `localhost` and 127.0.0.1.
/// Returns the authority's certificate as PEM.
pub(super) fn write(folder: &Path) -> Result<String, BrokerError> {
    let failed = |error: &dyn std::error::Error| {
        BrokerError::new(format!("cannot make certificates: {error}"))
    };

    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "rpc-tests authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().map_err(|error| failed(&error))?;
    let authority = CertifiedIssuer::self_signed(params, key).map_err(|error| failed(&error))?;

    let mut params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()])
        .map_err(|error| failed(&error))?;
    params
        .distinguished_name
        .push(DnType::CommonName, "localhost");
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().map_err(|error| failed(&error))?;
    let server = params
        .signed_by(&key, &authority)
        .map_err(|error| failed(&error))?;

    fs::create_dir(folder)
        .and_then(|()| fs::write(folder.join(CA), authority.pem()))
        .and_then(|()| fs::write(folder.join(CERTIFICATE), server.pem()))
        .and_then(|()| fs::write(folder.join(KEY), key.serialize_pem()))
        .map_err(|error| failed(&error))?;
    Ok(authority.pem())
}
