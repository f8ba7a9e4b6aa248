//! A connection to a broker, shared by clients and servers.

mod state;
mod supervisor;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use self::state::{ConnectionState, StateWatch};
use self::supervisor::{Closed, Supervisor, connect_within};
use crate::client::{Client, ClientBuilder, DropCounter, Requester};
use crate::error::{OpenError, RpcError};
use crate::headers;
use crate::task::{self, Shared};
use crate::telemetry::metrics;
#[cfg(feature = "amqp")]
use crate::transport::amqp::{AmqpTransport, Endpoint, Login};
use crate::transport::memory::{Broker, MemoryTransport};
use crate::transport::{Link, Transport};
use smol_str::SmolStr;
use tokio::runtime::Handle;

/// The largest body, unless set: what RabbitMQ 4 accepts unless it is configured otherwise.
const DEFAULT_MAX_MESSAGE_SIZE: usize = 16 * 1024 * 1024;

/// A connection to a broker: RabbitMQ, or the embedded one.
///
/// It is a cheap handle: clones, clients and servers share one connection, which is closed when the last of them is
/// dropped. Close it with [`close`](Self::close) to be sure that the broker knows before the process ends.
///
/// | URL | broker |
/// |---|---|
/// | `amqp://user:password@host:port/vhost` | RabbitMQ; port 5672, user and password `guest`, virtual host `/` (written `%2f`) unless given |
/// | `amqps://…` | the same through TLS, port 5671 (feature `tls`) |
/// | `memory:` | a new broker inside this process |
/// | `memory:name` | the broker of that name inside this process, made when it is first opened |
///
/// A lost connection is made again, for as long as it takes, with pauses between attempts that double from 0.1 to 1 second
/// and are lengthened at random, to twice that at most. Calls in flight fail at once, new ones wait within their deadlines, servers go on afterwards;
/// [`state`](Self::state) tells.
///
/// A connection belongs to the Tokio runtime that opens it, and ends with that runtime. Calls and servers in other runtimes may use the
/// connection meanwhile; afterwards calls fail at once with [`ErrorKind::Closed`](crate::ErrorKind::Closed).
///
/// An `amqp` URL may end in options, `?heartbeat=10&connection_timeout=5000`: `heartbeat` in seconds (default 30, at
/// most 45, see [`ConnectionBuilder::heartbeat`]), `connection_timeout` in milliseconds for connecting and logging in together
/// (default 10,000), `frame_max`, `channel_max`, `auth_mechanism`. URLs follow
/// <https://www.rabbitmq.com/docs/uri-spec>.
#[derive(Clone)]
pub struct Connection(Arc<Inner>);

struct Inner {
    name: SmolStr,
    /// How it was opened, without secrets.
    place: String,
    supervisor: Supervisor,
    max_message_size: usize,
    /// What the clients of the connection share; made by the first call.
    requester: Mutex<Option<Arc<Requester>>>,
    dropped: Arc<DropCounter>,
    opening: Shared<Result<Arc<Requester>, RpcError>>,
    /// The runtime that opened the connection.
    runtime: Handle,
}

impl Connection {
    /// Connects to the broker at `url`, with the defaults of [`Connection::builder`].
    ///
    /// # Errors
    ///
    /// Fails at once with an [`OpenError`] that says what to do: the URL is wrong, there is no broker, or it refuses the
    /// credentials or the virtual host.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future abandons the attempt.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), rpc_core::OpenError> {
    /// let connection = rpc_core::Connection::open("memory:").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn open(url: &str) -> Result<Self, OpenError> {
        Self::builder(url).open().await
    }

    /// Sets options before connecting.
    pub fn builder(url: impl Into<String>) -> ConnectionBuilder {
        ConnectionBuilder {
            urls: vec![url.into()],
            name: None,
            wait: Duration::ZERO,
            root_certificates: None,
            heartbeat: None,
            max_message_size: DEFAULT_MAX_MESSAGE_SIZE,
        }
    }

    /// A client with the default options. Cheap: all clients of a connection share a channel and a reply queue.
    pub fn client(&self) -> Client {
        self.client_builder().build()
    }

    /// Sets options before making a client.
    pub fn client_builder(&self) -> ClientBuilder {
        ClientBuilder::new(self.clone())
    }

    /// Closes the connection for all its clients and servers.
    ///
    /// Calls in flight and later ones fail with [`ErrorKind::Closed`](crate::ErrorKind::Closed); servers stop without
    /// finishing their work, which the broker hands to others. Does nothing the second time.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the connection closing.
    pub async fn close(&self) {
        let link = self.0.supervisor.close();
        let requester = self.lock_requester().take();
        if let Some(requester) = requester {
            requester.close();
        }
        let Some(link) = link else {
            return;
        };
        if task::in_runtime() {
            link.close().await;
        } else {
            let closing = async move { link.close().await };
            let _ = self.0.runtime.spawn(closing).await; // It has ended with the runtime, otherwise.
        }
    }

    /// Watches whether the connection works.
    ///
    /// # Examples
    ///
    /// ```
    /// # use rpc_core::{Connection, ConnectionState, OpenError};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), OpenError> {
    /// let connection = Connection::open("memory:").await?;
    /// let mut state = connection.state();
    /// assert_eq!(state.current(), ConnectionState::Connected);
    /// connection.close().await;
    /// assert_eq!(state.changed().await, Some(ConnectionState::Closed));
    /// # Ok(())
    /// # }
    /// ```
    pub fn state(&self) -> StateWatch {
        StateWatch(self.0.supervisor.subscribe())
    }

    /// The connection's name: what `app_id` says in its messages, and what the broker's management shows.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The name, for a message.
    pub(crate) fn app_id(&self) -> SmolStr {
        self.0.name.clone()
    }

    pub(crate) fn max_message_size(&self) -> usize {
        self.0.max_message_size
    }

    /// Waits until the runtime that opened the connection has ended.
    pub(crate) async fn ended_with_runtime(&self) {
        self.0.supervisor.ended_with_runtime().await;
    }

    /// Tells code in one of several runtimes that the connection belongs to another.
    pub(crate) fn is_of_another_runtime(&self) -> bool {
        Handle::try_current().is_ok_and(|current| current.id() != self.0.runtime.id())
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.0.supervisor.is_closed()
    }

    pub(crate) fn state_now(&self) -> ConnectionState {
        self.0.supervisor.state()
    }

    /// The link, as soon as there is one.
    pub(crate) async fn link(&self) -> Result<Arc<dyn Link>, Closed> {
        self.0.supervisor.link().await
    }

    /// What sends requests and receives replies: the existing one as long as it works, else a new one. Waits for the link.
    pub(crate) async fn requester(&self) -> Result<Arc<Requester>, RpcError> {
        if let Some(requester) = self.live_requester() {
            return Ok(requester);
        }
        let link = self.link().await?;
        // On its own, so that it gets done even if every caller that waits for it gives up.
        let opened = self.0.opening.run(
            || self.live_requester().map(Ok),
            || self.clone().open_requester(link),
        );
        // No outcome: the runtime has ended, the supervisor perhaps not yet.
        opened
            .await
            .unwrap_or_else(|| Err(RpcError::runtime_ended()))
    }

    async fn open_requester(self, link: Arc<dyn Link>) -> Result<Arc<Requester>, RpcError> {
        let requester = Requester::open(link, self.drop_counter()).await?;
        *self.lock_requester() = Some(requester.clone());
        if self.is_closed() {
            requester.close(); // It came too late for `close` to see it.
        }
        Ok(requester)
    }

    fn lock_requester(&self) -> MutexGuard<'_, Option<Arc<Requester>>> {
        self.0
            .requester
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn drop_counter(&self) -> Arc<DropCounter> {
        self.0.dropped.clone()
    }

    pub(crate) fn live_requester(&self) -> Option<Arc<Requester>> {
        self.lock_requester()
            .as_ref()
            .filter(|requester| requester.is_live())
            .cloned()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("name", &self.0.name)
            .field("broker", &self.0.place)
            .finish_non_exhaustive()
    }
}

/// Options of a [`Connection`].
#[must_use = "a builder does nothing until `open` is called"]
#[derive(Clone)]
pub struct ConnectionBuilder {
    urls: Vec<String>,
    name: Option<String>,
    wait: Duration,
    root_certificates: Option<String>,
    heartbeat: Option<Duration>,
    max_message_size: usize,
}

impl ConnectionBuilder {
    /// Names the connection; at most 255 bytes. Default: the name of the running program.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Adds another address of the same broker, usually another node of a RabbitMQ cluster. Attempts to connect try each in
    /// turn, the last one that worked first. All must be `amqp` URLs. Default: none.
    pub fn endpoint(mut self, url: impl Into<String>) -> Self {
        self.urls.push(url.into());
        self
    }

    /// Waits this long for a broker that is not up yet, for programs that are started together with it. What will never
    /// work, such as a wrong password, still fails at once. Default: zero, one attempt.
    pub fn wait_for_broker(mut self, limit: Duration) -> Self {
        self.wait = limit;
        self
    }

    /// Trusts these certificate authorities (PEM) too, for `amqps` URLs of brokers with certificates of your own.
    /// Default: those that the platform trusts.
    #[cfg(feature = "tls")]
    pub fn root_certificates(mut self, pem: impl Into<String>) -> Self {
        self.root_certificates = Some(pem.into());
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
    pub fn heartbeat(mut self, interval: Duration) -> Self {
        self.heartbeat = Some(interval);
        self
    }

    /// The largest body, in bytes, of a request or a reply sent on this connection. Default: 16 MiB, RabbitMQ 4's own limit
    /// (`max_message_size`, <https://www.rabbitmq.com/docs/configure>).
    ///
    /// A larger request fails with [`ErrorKind::TooLarge`](crate::ErrorKind::TooLarge) and is not sent; in place of a larger
    /// reply its caller gets that fault. A broker closes the channel of whoever exceeds *its* limit, which fails all calls
    /// in flight, so do not set this one higher than the broker's.
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
        let name = self.name.unwrap_or_else(program_name);
        if name.len() > 255 {
            return Err(OpenError::InvalidName);
        }
        let (transport, place) =
            transport(self.urls, &name, self.root_certificates, self.heartbeat)?;
        metrics::describe();
        let link = connect_within(&*transport, self.wait).await?;
        Ok(Connection(Arc::new(Inner {
            name: name.into(),
            place,
            supervisor: Supervisor::start(transport, link),
            max_message_size: self.max_message_size,
            requester: Mutex::new(None),
            dropped: Arc::default(),
            opening: Shared::new(),
            runtime: Handle::current(),
        })))
    }
}

/// The transport that the URLs name, and how to print it.
fn transport(
    urls: Vec<String>,
    name: &str,
    root_certificates: Option<String>,
    heartbeat: Option<Duration>,
) -> Result<(Arc<dyn Transport>, String), OpenError> {
    if let [url] = &urls[..]
        && let Some(broker) = url.strip_prefix("memory:")
    {
        return Ok((Arc::new(MemoryTransport(Broker::open(broker))), url.clone()));
    }
    amqp_transport(urls, name, root_certificates, heartbeat)
}

#[cfg(feature = "amqp")]
fn amqp_transport(
    urls: Vec<String>,
    name: &str,
    root_certificates: Option<String>,
    heartbeat: Option<Duration>,
) -> Result<(Arc<dyn Transport>, String), OpenError> {
    let mut endpoints = urls
        .iter()
        .map(|url| Endpoint::parse(url))
        .collect::<Result<Vec<_>, _>>()?;
    if let Some(interval) = heartbeat {
        for endpoint in &mut endpoints {
            endpoint.set_heartbeat(interval);
        }
    }
    let place = endpoints
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ");
    let login = |endpoint| Login {
        endpoint,
        name: name.to_owned(),
        root_certificates: root_certificates.clone(),
    };
    let logins = endpoints.into_iter().map(login).collect();
    Ok((Arc::new(AmqpTransport::new(logins)), place))
}

/// Names the missing feature.
#[cfg(not(feature = "amqp"))]
fn amqp_transport(
    _urls: Vec<String>,
    _name: &str,
    _root_certificates: Option<String>,
    _heartbeat: Option<Duration>,
) -> Result<(Arc<dyn Transport>, String), OpenError> {
    let reason = "amqp:// and amqps:// need the feature `amqp` of rpc-core; without it, a connection has one URL, memory: or memory:name";
    Err(OpenError::InvalidUrl(reason.to_owned()))
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
