//! Options of a connection.

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

/// The default of [`ConnectionBuilder::max_message_size`]: RabbitMQ 4's own default limit.
const DEFAULT_MAX_MESSAGE_SIZE: usize = 16 * 1024 * 1024;

/// Options of a [`Connection`].
#[must_use = "a builder does nothing until `open` is called"]
#[derive(Clone)]
pub struct ConnectionBuilder {
    urls: Vec<String>,
    name: Option<String>,
    wait: Duration,
    /// Options that apply to RabbitMQ only.
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

    /// Sets the name of the connection, at most 255 bytes. Default: the file name of the running program, without its extension.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Adds another address of the same broker, usually another node of a RabbitMQ cluster. An attempt to connect tries the addresses
    /// in turn, starting with the one that worked last. All of them must be `amqp` URLs. Default: none.
    ///
    /// If every address fails, [`open`](Self::open) returns the first refusal, or, without a refusal, the error of a node that cannot
    /// be reached. Each refusal is logged at WARN.
    pub fn endpoint(mut self, url: impl Into<String>) -> Self {
        self.urls.push(url.into());
        self
    }

    /// Sets the time during which [`open`](Self::open) tries again while the broker cannot be reached or a
    /// [`credentials`](Self::credentials) callback fails. Refusals, such as that of a wrong password, still fail at once.
    /// Default: zero, which means one attempt.
    ///
    /// Set this time in programs that start together with their broker.
    pub fn wait_for_broker(mut self, limit: Duration) -> Self {
        self.wait = limit;
        self
    }

    /// Adds trusted certificate authorities for `amqps` URLs, beside those of the platform: the text of a PEM file with one or more
    /// certificates. Needed for brokers whose certificates come from a private authority. Default: the platform's authorities only,
    /// on Linux usually the package `ca-certificates`. (The variables `SSL_CERT_FILE` and `SSL_CERT_DIR` name others.)
    ///
    /// [`open`](Self::open) fails with [`OpenError::InvalidCertificate`] if the text holds no certificate or a damaged one.
    #[cfg(all(feature = "amqp", feature = "tls"))]
    pub fn root_certificates(mut self, pem: impl Into<String>) -> Self {
        self.amqp.root_certificates = Some(pem.into());
        self
    }

    /// Sets the client certificate for brokers that ask for one (<https://www.rabbitmq.com/docs/ssl#peer-verification>), with `amqps`
    /// URLs. Default: none.
    ///
    /// `certificate_pem` is the text of a PEM file with the certificate, followed by the certificates that lead to its authority.
    /// `key_pem` is the text of a PEM file with the private key, without a passphrase.
    ///
    /// The certificate takes the place of user and password as the login if the URL says `auth_mechanism=external` and the broker has
    /// the plugin `rabbitmq_auth_mechanism_ssl` (<https://www.rabbitmq.com/docs/access-control#certificate-authentication>).
    ///
    /// A connection keeps its certificate when it reconnects. Open another connection before the certificate expires.
    ///
    /// [`open`](Self::open) fails with [`OpenError::InvalidCertificate`] if the texts are not PEM or the key does not belong to the
    /// certificate.
    #[cfg(all(feature = "amqp", feature = "tls"))]
    pub fn identity(
        mut self,
        certificate_pem: impl Into<String>,
        key_pem: impl Into<String>,
    ) -> Self {
        self.amqp.identity = Some((certificate_pem.into(), key_pem.into()));
        self
    }

    /// Sets a callback that returns the user and the password, in place of those in the URLs. Default: none. No effect on `memory:`.
    ///
    /// The callback is an `async` closure, or another function that returns a future. Its output is
    /// [`Credentials`](crate::Credentials), or a `Result` of them with any error.
    ///
    /// The library calls the callback before each attempt to connect, the first one included. (Servers open further connections for replies to
    /// direct reply-to addresses.) If the credentials expire ([`Credentials::valid_for`](crate::Credentials::valid_for)), the library
    /// calls it again after 80 % of their time and sends the new password to the broker on the existing connection (AMQP's
    /// `connection.update-secret`, <https://www.rabbitmq.com/docs/oauth2#token-expiration>). If the new credentials belong to another
    /// user, another connection replaces the existing one: new calls and servers use the new connection, calls and handlers in
    /// progress finish on the old one.
    ///
    /// If the callback fails, panics or does not return within the URL's `connection_timeout` (default 10 seconds),
    /// [`open`](Self::open) fails with [`OpenError::CredentialsUnavailable`], unless [`wait_for_broker`](Self::wait_for_broker) is set.
    /// After `open`, the library logs such a failure and calls again, with growing pauses; an existing connection stays in use.
    ///
    /// The closure is cloned for each call. Share its captured state, for instance in an `Arc`. The
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

    /// Sets AMQP's property `user_id` of all messages of the connection (requests, replies and cancel notices) to the user that logged
    /// in. RabbitMQ refuses any other name (<https://www.rabbitmq.com/docs/validated-user-id>), so a receiver can rely on
    /// [`Context::user_id`](crate::Context::user_id). Default: messages state no user.
    ///
    /// The name comes from [`credentials`](Self::credentials) if set, otherwise from the URL. Requests that a server republishes, for
    /// another attempt or as dead letters, state no user, because another user published them first. On `memory:`, every connection is
    /// the user `guest`.
    ///
    /// [`open`](Self::open) fails with [`OpenError::UnknownUser`] if only the broker knows the name, as with
    /// `auth_mechanism=external`. With OAuth 2, let the callback return the name that the broker reads from the token: RabbitMQ closes
    /// the channels of a connection that states another.
    pub fn state_user_id(mut self) -> Self {
        self.states_user_id = true;
        self
    }

    /// Hides the value of a header in the `Debug` output of [`Headers`](crate::Headers), in addition to the headers hidden by default.
    /// The name is not case-sensitive. Call this setter once for each name. Default: none.
    ///
    /// Applies to the whole process from this call on, and cannot be undone.
    pub fn secret_header(self, name: impl AsRef<str>) -> Self {
        headers::hide(name.as_ref());
        self
    }

    /// Sets the heartbeat interval (<https://www.rabbitmq.com/docs/heartbeats>), rounded up to whole seconds, at most 65,535. The broker's
    /// own interval applies if it is shorter. A connection counts as lost after two intervals without data, and the loss is detected at
    /// most half an interval later. Overrides `heartbeat` in the URL. No effect on `memory:`.
    ///
    /// Zero uses the broker's interval. If the broker has heartbeats switched off too, a connection that a firewall has dropped looks
    /// like an idle one, and a server on it receives no requests until it is restarted.
    ///
    /// Default: the URL's `heartbeat`, else 30 seconds, with which a dead connection is detected within 75 seconds. In the URL, 0 means
    /// the default and more than 45 means 45, with which a dead connection is detected within 2 minutes.
    #[cfg(feature = "amqp")]
    pub fn heartbeat(mut self, interval: Duration) -> Self {
        self.amqp.heartbeat = Some(interval);
        self
    }

    /// Sets the maximum size, in bytes, of the body of a request or a reply sent on this connection. Default: 16 MiB, RabbitMQ 4's own
    /// default (`max_message_size`, <https://www.rabbitmq.com/docs/configure>).
    ///
    /// A larger request fails with [`ErrorKind::TooLarge`](crate::ErrorKind::TooLarge) and is not sent. The caller of a larger reply gets
    /// the fault `TooLarge` in its place. Do not exceed the broker's limit: the broker closes the channel of a publisher that does,
    /// which fails all calls in flight.
    pub fn max_message_size(mut self, bytes: usize) -> Self {
        self.max_message_size = bytes;
        self
    }

    /// Connects.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`Connection::open`], and the errors that the setters name.
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

    /// Returns the transport that the URLs name, and the broker's addresses for people to read.
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

    /// Returns an error that names the missing feature.
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
    async fn amqp_url_without_the_feature_names_the_feature() {
        for url in ["amqp://localhost", "amqps://ada:s3cret@broker/%2f"] {
            let error = Connection::open(url).await.expect_err(url).to_string();
            assert!(error.contains("need the feature `amqp`"), "{error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
        Connection::open("memory:").await.unwrap();
    }
}
