//! Options of a connection, and opening it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::supervisor::connect_within;
use super::{Connection, Settings};
#[cfg(feature = "amqp")]
use crate::credentials::{IntoCredentials, Provider};
use crate::error::OpenError;
use crate::headers;
use crate::task;
use crate::telemetry::metrics;
use crate::transport::Transport;
#[cfg(feature = "amqp")]
use crate::transport::amqp;
use crate::transport::memory::{Broker, MemoryTransport};

/// The largest body, unless set: what RabbitMQ 4 accepts unless it is configured otherwise.
const DEFAULT_MAX_MESSAGE_SIZE: usize = 16 * 1024 * 1024;

/// Options of a [`Connection`].
#[must_use = "a builder does nothing until `open` is called"]
#[derive(Clone)]
pub struct ConnectionBuilder {
    urls: Vec<String>,
    name: Option<String>,
    wait: Duration,
    /// The options of RabbitMQ alone.
    #[cfg(feature = "amqp")]
    amqp: amqp::Options,
    states_user_id: bool,
    max_message_size: usize,
}

impl ConnectionBuilder {
    pub(super) fn new(url: String) -> Self {
        Self {
            urls: vec![url],
            name: None,
            wait: Duration::ZERO,
            #[cfg(feature = "amqp")]
            amqp: amqp::Options::default(),
            states_user_id: false,
            max_message_size: DEFAULT_MAX_MESSAGE_SIZE,
        }
    }

    /// Names the connection; at most 255 bytes. Default: the name of the running program.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Adds another address of the same broker, usually another node of a RabbitMQ cluster. Attempts to connect try each in
    /// turn, the last one that worked first. All must be `amqp` URLs. Default: none.
    ///
    /// If none works, the error is that of the first one that refuses the connection, before those of nodes that cannot be reached; the
    /// log tells each refusal at WARN.
    pub fn endpoint(mut self, url: impl Into<String>) -> Self {
        self.urls.push(url.into());
        self
    }

    /// Waits this long for a broker that is not up yet, and for a [`credentials`](Self::credentials) callback that fails, for programs
    /// that are started together with them. Refusals, such as of a wrong password, still fail at once. Default: zero, one attempt.
    pub fn wait_for_broker(mut self, limit: Duration) -> Self {
        self.wait = limit;
        self
    }

    /// Trusts these certificate authorities too, for `amqps` URLs of brokers with certificates of your own: the text of a PEM file, with
    /// one certificate or several. Default: those that the platform trusts, on Linux usually the package `ca-certificates`. (The
    /// variables `SSL_CERT_FILE` and `SSL_CERT_DIR` name others.)
    ///
    /// [`open`](Self::open) fails with [`OpenError::InvalidCertificate`] if the text has no certificate or a damaged one.
    #[cfg(all(feature = "amqp", feature = "tls"))]
    pub fn root_certificates(mut self, pem: impl Into<String>) -> Self {
        self.amqp.root_certificates = Some(pem.into());
        self
    }

    /// Shows a client certificate to brokers that ask for one (<https://www.rabbitmq.com/docs/ssl#peer-verification>): the texts of two
    /// PEM files, the first with the certificate and those that lead to its authority, in this order, the second with its
    /// private key, without a passphrase. For `amqps` URLs. Default: none.
    ///
    /// The certificate is the login, in place of a user and a password, if the URL says `auth_mechanism=external` and the broker has the
    /// plugin `rabbitmq_auth_mechanism_ssl` (<https://www.rabbitmq.com/docs/access-control#certificate-authentication>).
    ///
    /// The certificate is that of the connection for good, later attempts to connect included: before it expires, open another
    /// connection.
    ///
    /// [`open`](Self::open) fails with [`OpenError::InvalidCertificate`] if they are no PEM or if the key is not the certificate's.
    #[cfg(all(feature = "amqp", feature = "tls"))]
    pub fn identity(
        mut self,
        certificate_pem: impl Into<String>,
        key_pem: impl Into<String>,
    ) -> Self {
        self.amqp.identity = Some((certificate_pem.into(), key_pem.into()));
        self
    }

    /// Asks a callback for the user and the password, in place of those in the URLs: an `async` closure, or another function that
    /// returns a future, of [`Credentials`](crate::Credentials) or of a `Result` of them with any error. Default: none. No effect on
    /// `memory:`.
    ///
    /// It is asked before each connection is made, the first one included, and so after a loss; servers have further connections of
    /// their own for replies to direct reply-to addresses. Where the credentials expire
    /// ([`Credentials::valid_for`](crate::Credentials::valid_for)), it is asked again after 80 % of their time, and the broker is told
    /// the new password on the connection that there is (AMQP's `connection.update-secret`,
    /// <https://www.rabbitmq.com/docs/oauth2#token-expiration>). If the new credentials are another user's, another connection takes
    /// the place of the old one: new calls and servers go there, calls and handlers under way end on the old one.
    ///
    /// A callback that fails, panics or does not answer within the URL's `connection_timeout` (default 10 seconds) fails
    /// [`open`](Self::open) with [`OpenError::CredentialsUnavailable`], unless [`wait_for_broker`](Self::wait_for_broker) is set. Later
    /// on it is asked again, with growing pauses, and the log says so; the old connection goes on meanwhile.
    ///
    /// The closure is cloned for each question, so share what it captures, in an `Arc` for instance. The
    /// [guide](crate::guide::credentials) shows how to rotate passwords.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), rpc_core::OpenError> {
    /// use std::time::Duration;
    /// use rpc_core::{Connection, Credentials};
    ///
    /// let connection = Connection::builder("amqps://rabbit.example/%2f")
    ///     .credentials(async || {
    ///         let token = std::fs::read_to_string("/run/secrets/token")?;
    ///         let credentials = Credentials::new("payments", token.trim_end());
    ///         Ok::<_, std::io::Error>(credentials.valid_for(Duration::from_secs(600)))
    ///     })
    ///     .open()
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "amqp")]
    pub fn credentials<P, F>(mut self, provider: P) -> Self
    where
        P: FnOnce() -> F + Clone + Send + Sync + 'static,
        F: Future<Output: IntoCredentials> + Send + 'static,
    {
        self.amqp.credentials = Some(Provider::new(provider));
        self
    }

    /// States the user of the connection's login in AMQP's `user_id` of all its messages: requests, replies and notices of dropped
    /// calls. RabbitMQ accepts no other name there (<https://www.rabbitmq.com/docs/validated-user-id>), so a receiver can rely on it:
    /// [`Context::user_id`](crate::Context::user_id). Default: not stated.
    ///
    /// The name is that of the URL or of [`credentials`](Self::credentials), whichever the connection was opened with. Requests that a
    /// server publishes anew, for another attempt or as dead letters, state none, because another user made them. On `memory:`,
    /// everyone is the user `guest`.
    ///
    /// [`open`](Self::open) fails with [`OpenError::UnknownUser`] if the broker alone knows the name, as with
    /// `auth_mechanism=external`. With OAuth 2, let the callback return the name that the broker reads from the token; RabbitMQ closes
    /// the channels of a connection that states another.
    pub fn state_user_id(mut self) -> Self {
        self.states_user_id = true;
        self
    }

    /// Hides the value of this header in the `Debug` output of [`Headers`](crate::Headers), beside those that are hidden by default. The
    /// name is not case-sensitive. Call it once for each name. Default: none.
    ///
    /// Applies to the whole process from this call on, and cannot be undone.
    pub fn secret_header(self, name: impl AsRef<str>) -> Self {
        headers::hide(name.as_ref());
        self
    }

    /// Sets the heartbeat interval (<https://www.rabbitmq.com/docs/heartbeats>), rounded up to whole seconds, at most 65,535. The broker's
    /// own interval applies if it is shorter. A connection is lost after two intervals without data, which is noticed at most half an
    /// interval later. Overrides `heartbeat` in the URL. No effect on `memory:`.
    ///
    /// Zero uses the broker's interval. If the broker wants no heartbeats either, a connection that a firewall has forgotten looks like
    /// an idle one, and a server on it receives no requests until it is restarted.
    ///
    /// Default: 30 seconds, so that a dead connection is noticed within 75 seconds, or the URL's `heartbeat`, in seconds. There, 0
    /// means the default, and more than 45 means 45: a dead connection is noticed within 2 minutes.
    #[cfg(feature = "amqp")]
    pub fn heartbeat(mut self, interval: Duration) -> Self {
        self.amqp.heartbeat = Some(interval);
        self
    }

    /// The largest body, in bytes, of a request or a reply sent on this connection. Default: 16 MiB, RabbitMQ 4's own limit
    /// (`max_message_size`, <https://www.rabbitmq.com/docs/configure>).
    ///
    /// A larger request fails with [`ErrorKind::TooLarge`](crate::ErrorKind::TooLarge) and is not sent; in place of a larger
    /// reply its caller gets that fault. A broker closes the channel of a publisher that exceeds the broker's own limit, which
    /// fails all calls in flight, so do not set this one higher.
    pub fn max_message_size(mut self, bytes: usize) -> Self {
        self.max_message_size = bytes;
        self
    }

    /// Connects.
    ///
    /// # Errors
    ///
    /// As [`Connection::open`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future abandons the attempt.
    pub async fn open(self) -> Result<Connection, OpenError> {
        if !task::in_runtime() {
            return Err(OpenError::NoRuntime);
        }
        let name = self.name.clone().unwrap_or_else(program_name);
        if name.len() > 255 {
            return Err(OpenError::InvalidName);
        }
        let (transport, place) = self.transport(&name)?;
        metrics::describe();
        let link = connect_within(&*transport, self.wait).await?;
        if self.states_user_id && link.user().is_none() {
            link.close().await;
            return Err(OpenError::UnknownUser);
        }
        Ok(Connection::start(
            Settings {
                name: name.into(),
                place,
                states_user_id: self.states_user_id,
                max_message_size: self.max_message_size,
            },
            transport,
            link,
        ))
    }

    /// The transport that the URLs name, and how to print it.
    fn transport(&self, name: &str) -> Result<(Arc<dyn Transport>, String), OpenError> {
        if let [url] = &self.urls[..]
            && let Some(broker) = url.strip_prefix("memory:")
        {
            return Ok((Arc::new(MemoryTransport(Broker::open(broker))), url.clone()));
        }
        self.amqp_transport(name)
    }

    #[cfg(feature = "amqp")]
    fn amqp_transport(&self, name: &str) -> Result<(Arc<dyn Transport>, String), OpenError> {
        let transport = amqp::AmqpTransport::new(&self.urls, name, &self.amqp)?;
        let place = transport.place();
        Ok((Arc::new(transport), place))
    }

    /// Names the missing feature.
    #[cfg(not(feature = "amqp"))]
    fn amqp_transport(&self, _name: &str) -> Result<(Arc<dyn Transport>, String), OpenError> {
        let reason = "amqp:// and amqps:// need the feature `amqp` of rpc-core; without it, a connection has one URL, memory: or memory:name";
        Err(OpenError::InvalidUrl(reason.to_owned()))
    }
}

impl fmt::Debug for ConnectionBuilder {
    /// Leaves out the URL, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionBuilder")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

fn program_name() -> String {
    std::env::current_exe()
        .ok()
        .and_then(|path| Some(path.file_stem()?.to_string_lossy().into_owned()))
        .filter(|name| name.len() <= 255)
        .unwrap_or_else(|| "rpc-core".to_owned())
}

#[cfg(all(test, not(feature = "amqp")))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_amqp_a_url_of_rabbitmq_names_the_missing_feature() {
        for url in ["amqp://localhost", "amqps://ada:s3cret@broker/%2f"] {
            let error = Connection::open(url).await.expect_err(url).to_string();
            assert!(error.contains("need the feature `amqp`"), "{error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
        Connection::open("memory:").await.unwrap();
    }
}
