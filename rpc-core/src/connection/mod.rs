//! A connection to a broker, shared by clients and servers.

mod builder;
mod state;
mod supervisor;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

pub use self::builder::ConnectionBuilder;
pub use self::state::{ConnectionState, StateWatch};
use self::supervisor::{Closed, Supervisor};
use crate::client::{Client, ClientBuilder, DropCounter, Requester};
use crate::error::{OpenError, RpcError};
use crate::task::{self, Shared};
use crate::transport::{Link, Transport};
use smol_str::SmolStr;
use tokio::runtime::Handle;
use tokio::sync::watch;

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
/// (default 10,000), `frame_max` in bytes (at least 4,096, default the broker's), `channel_max` (at least 8, default the broker's),
/// `auth_mechanism` (`plain`, the default, `amqplain`, `external` or `anonymous`). URLs follow <https://www.rabbitmq.com/docs/uri-spec>:
/// in a user's name or a password, the characters `# % / ? @` are written `%23 %25 %2f %3f %40`.
#[derive(Clone)]
pub struct Connection(Arc<Inner>);

/// The settings that a connection was opened with.
struct Settings {
    name: SmolStr,
    /// The broker's addresses, without secrets.
    place: String,
    states_user_id: bool,
    max_message_size: usize,
}

struct Inner {
    settings: Settings,
    supervisor: Supervisor,
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
        ConnectionBuilder::new(url.into())
    }

    fn start(settings: Settings, transport: Arc<dyn Transport>, link: Arc<dyn Link>) -> Self {
        Self(Arc::new_cyclic(|inner: &Weak<Inner>| {
            let inner = inner.clone();
            let moved = move || {
                // Calls under way keep the old one until they end.
                if let Some(inner) = inner.upgrade() {
                    Self(inner).lock_requester().take();
                }
            };
            Inner {
                settings,
                supervisor: Supervisor::start(transport, link, moved),
                requester: Mutex::new(None),
                dropped: Arc::default(),
                opening: Shared::new(),
                runtime: Handle::current(),
            }
        }))
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
        &self.0.settings.name
    }

    /// The name, for a message.
    pub(crate) fn app_id(&self) -> SmolStr {
        self.0.settings.name.clone()
    }

    /// The user of a link, if messages are to state it.
    pub(crate) fn user_id_on(&self, link: &dyn Link) -> Option<SmolStr> {
        link.user().filter(|_| self.0.settings.states_user_id)
    }

    pub(crate) fn max_message_size(&self) -> usize {
        self.0.settings.max_message_size
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

    /// Sees when new work is to leave a link whose channels do not tell so: another link has taken its place, or the connection has ended
    /// with its runtime.
    pub(crate) fn moves(&self) -> watch::Receiver<()> {
        self.0.supervisor.moves()
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
        let user_id = self.user_id_on(&*link);
        let requester = Requester::open(link.clone(), user_id, self.drop_counter()).await?;
        *self.lock_requester() = Some(requester.clone());
        // In these cases it came too late to be seen.
        if self.is_closed() {
            requester.close();
        } else if !self.0.supervisor.is_current(&link) {
            self.lock_requester().take();
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
            .field("name", &self.0.settings.name)
            .field("broker", &self.0.settings.place)
            .finish_non_exhaustive()
    }
}
