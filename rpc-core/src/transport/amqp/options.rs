//! Options of connections to RabbitMQ, beside those in their URLs.

use std::fmt;
use std::time::Duration;

use crate::credentials::Provider;

/// The options that a program sets for all endpoints of a connection.
#[derive(Clone, Default)]
pub(crate) struct Options {
    pub(crate) heartbeat: Option<Duration>,
    pub(crate) credentials: Option<Provider>,
    /// Certificate authorities that are trusted beside those of the platform, in PEM.
    pub(crate) root_certificates: Option<String>,
    /// Certificate of the client with the chain to its authority, and its key, in PEM.
    pub(crate) identity: Option<(String, String)>,
}

impl fmt::Debug for Options {
    /// Leaves out the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("heartbeat", &self.heartbeat)
            .field("credentials", &self.credentials)
            .field("root_certificates", &self.root_certificates.is_some())
            .field("identity", &self.identity.is_some())
            .finish()
    }
}
