//! Throw-away certificates for TLS nodes and their clients.

use std::fs;
use std::io;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};

/// The files of [`write()`] in its folder.
pub(super) const CA: &str = "ca.pem";
pub(super) const CERTIFICATE: &str = "server.pem";
pub(super) const KEY: &str = "server.key";

/// A certificate authority for one test.
#[derive(Debug)]
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

impl Authority {
    /// Makes an authority that is not trusted by any program yet.
    ///
    /// # Panics
    ///
    /// If the system has no random numbers.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "each is another")]
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "rpc-tests authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key can be made");
        Self(CertifiedIssuer::self_signed(params, key).expect("a key signs its own certificate"))
    }

    /// The certificate of the authority, as PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Issues a certificate with that common name, for hosts with these names and addresses.
    ///
    /// # Panics
    ///
    /// If a host's name is invalid.
    #[must_use]
    pub fn identity(&self, common_name: &str, hosts: &[&str]) -> Identity {
        self.issue(common_name, hosts, |_| {})
    }

    /// Issues a certificate that is valid for servers only.
    ///
    /// # Panics
    ///
    /// If a host's name is invalid.
    #[must_use]
    pub fn server_identity(&self, common_name: &str, hosts: &[&str]) -> Identity {
        self.issue(common_name, hosts, |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        })
    }

    /// Issues a certificate that has expired.
    ///
    /// # Panics
    ///
    /// If a host's name is invalid.
    #[must_use]
    pub fn expired_identity(&self, common_name: &str, hosts: &[&str]) -> Identity {
        self.issue(common_name, hosts, |params| {
            params.not_after = date_time_ymd(2020, 1, 1);
        })
    }

    fn issue(
        &self,
        common_name: &str,
        hosts: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Identity {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).expect("valid names of hosts");
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        params.use_authority_key_identifier_extension = true;
        change(&mut params);
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.signed_by(&key, &self.0);
        Identity {
            certificate: certificate.expect("an authority signs").pem(),
            key: key.serialize_pem(),
        }
    }
}

/// Certificates of a node.
#[derive(Debug, Clone)]
pub(super) struct Certificates {
    pub(super) ca: String,
    pub(super) server: Identity,
}

impl Certificates {
    /// Makes certificates with an authority of their own.
    pub(super) fn new() -> Self {
        let authority = Authority::new();
        Self {
            ca: authority.pem(),
            server: authority.identity("localhost", &["localhost", "127.0.0.1"]),
        }
    }

    /// Writes the certificates into the folder that RabbitMQ is configured with.
    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        fs::create_dir(folder)?;
        fs::write(folder.join(CA), &self.ca)?;
        fs::write(folder.join(CERTIFICATE), &self.server.certificate)?;
        fs::write(folder.join(KEY), &self.server.key)
    }
}
