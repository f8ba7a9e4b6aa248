//! A connection to a broker, shared by clients and servers.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Mutex as AsyncMutex;

use crate::client::{Client, ClientBuilder, DropCounter, Requester};
use crate::error::{OpenError, RpcError};
use crate::transport::amqp::{self, Endpoint, Login};
use crate::transport::memory::Broker;
use crate::transport::{Channel, ChannelMode, Link, TransportError};

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
/// An `amqp` URL may end in options, `?heartbeat=10&connection_timeout=5000`: `heartbeat` in seconds (default: what the
/// broker suggests, RabbitMQ's is 60), `connection_timeout` in milliseconds for connecting and logging in together
/// (default 10,000), `frame_max`, `channel_max`, `auth_mechanism`. URLs follow
/// <https://www.rabbitmq.com/docs/uri-spec>.
#[derive(Clone)]
pub struct Connection(Arc<Inner>);

struct Inner {
    name: String,
    /// How it was opened, without secrets.
    place: String,
    link: Arc<dyn Link>,
    max_message_size: usize,
    closed: AtomicBool,
    /// What the clients of the connection share; made by the first call.
    requester: Mutex<Option<Arc<Requester>>>,
    dropped: Arc<DropCounter>,
    /// Held while a requester is being opened.
    opening: AsyncMutex<()>,
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
            url: url.into(),
            name: None,
            root_certificates: None,
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
        self.0.closed.store(true, Ordering::Release);
        let requester = self
            .0
            .requester
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(requester) = requester {
            requester.close();
        }
        self.0.link.close().await;
    }

    /// The connection's name: what `app_id` says in its messages, and what the broker's management shows.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    pub(crate) fn max_message_size(&self) -> usize {
        self.0.max_message_size
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::Acquire)
    }

    pub(crate) async fn open_channel(
        &self,
        mode: ChannelMode,
    ) -> Result<Arc<dyn Channel>, TransportError> {
        self.0.link.open_channel(mode).await
    }

    /// What sends requests and receives replies: the existing one as long as it works, else a new one.
    pub(crate) async fn requester(&self) -> Result<Arc<Requester>, RpcError> {
        if let Some(requester) = self.live_requester() {
            return Ok(requester);
        }
        let _opening = self.0.opening.lock().await;
        if let Some(requester) = self.live_requester() {
            return Ok(requester);
        }
        if self.is_closed() {
            return Err(RpcError::closed());
        }
        let requester = Requester::open(self).await?;
        *self
            .0
            .requester
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(requester.clone());
        Ok(requester)
    }

    pub(crate) fn drop_counter(&self) -> Arc<DropCounter> {
        self.0.dropped.clone()
    }

    fn live_requester(&self) -> Option<Arc<Requester>> {
        let requester = self
            .0
            .requester
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        requester
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
    url: String,
    name: Option<String>,
    root_certificates: Option<String>,
    max_message_size: usize,
}

impl ConnectionBuilder {
    /// Names the connection; at most 255 bytes. Default: the name of the running program.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Trusts these certificate authorities (PEM) too, for `amqps` URLs of brokers with certificates of your own.
    /// Default: those that the platform trusts.
    #[cfg(feature = "tls")]
    pub fn root_certificates(mut self, pem: impl Into<String>) -> Self {
        self.root_certificates = Some(pem.into());
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
        let name = self.name.unwrap_or_else(program_name);
        if name.len() > 255 {
            return Err(OpenError::InvalidName);
        }
        let (link, place) = if let Some(broker) = self.url.strip_prefix("memory:") {
            (Broker::open(broker).connect(), self.url)
        } else {
            let endpoint = Endpoint::parse(&self.url)?;
            let place = endpoint.to_string();
            let root_certificates = self.root_certificates;
            (
                amqp::connect(Login {
                    endpoint,
                    name: name.clone(),
                    root_certificates,
                })
                .await?,
                place,
            )
        };
        Ok(Connection(Arc::new(Inner {
            name,
            place,
            link,
            max_message_size: self.max_message_size,
            closed: AtomicBool::new(false),
            requester: Mutex::new(None),
            dropped: Arc::default(),
            opening: AsyncMutex::new(()),
        })))
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
