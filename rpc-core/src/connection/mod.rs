//! A connection to a broker, shared by clients and servers.

mod builder;
mod queue_status;
mod state;
mod supervisor;

use std::fmt;
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, MutexGuard};
use smol_str::SmolStr;
use tokio::runtime::Handle;
use tokio::sync::watch;

pub use self::builder::ConnectionBuilder;
use self::state::CloseReason;
pub use self::state::{ConnectionState, StateWatch};
use self::supervisor::Supervisor;
use crate::error::{OpenError, RpcError};
use crate::requester::{DropCounter, Requester};
use crate::task::{self, SingleFlight};
use crate::transport::{Link, Transport};

/// A connection to a broker: RabbitMQ, or the embedded broker.
///
/// `Connection` is a cheap handle. Its clones, clients and servers share one connection, which is closed when the last of them is
/// dropped. Call [`close`](Self::close) before the process ends to be sure that the broker has seen the end of the connection.
///
/// | URL | broker |
/// |---|---|
/// | `amqp://user:password@host:port/vhost` | RabbitMQ; port 5672, user and password `guest`, virtual host `/` (written `%2f`) unless given |
/// | `amqps://…` | the same through TLS, port 5671 (feature `tls`) |
/// | `memory:` | a new broker inside this process |
/// | `memory:name` | the broker of that name inside this process, created when it is first opened |
///
/// URLs follow <https://www.rabbitmq.com/docs/uri-spec>. In a user name or a password, the characters `# % / ? @` are written
/// `%23 %25 %2f %3f %40`. An `amqp` URL may end in options, such as `?heartbeat=10&connection_timeout=5000`:
///
/// | option | value |
/// |---|---|
/// | `heartbeat` | in seconds, at most 45; default 30: see [`ConnectionBuilder::heartbeat`] |
/// | `connection_timeout` | in milliseconds, for connecting and logging in together; default 10,000 |
/// | `frame_max` | in bytes, at least 4,096; default the broker's |
/// | `channel_max` | at least 8; default the broker's |
/// | `auth_mechanism` | `plain` (the default), `amqplain`, `external` or `anonymous` |
///
/// # Reconnecting
///
/// After a loss, the library connects again until an attempt succeeds. The pauses between attempts double from 0.1 to 1 second, and
/// each is lengthened at random, to less than twice its length. Calls in flight fail at once, new calls wait within their deadlines,
/// and servers continue once the connection is back. [`state`](Self::state) reports losses and reconnects.
///
/// # Runtimes
///
/// A connection belongs to the Tokio runtime that opened it, and ends with that runtime. Calls and servers in other runtimes may use
/// the connection until then. Afterwards, calls fail at once with [`ErrorKind::Closed`](crate::ErrorKind::Closed).
#[derive(Clone)]
pub struct Connection(Arc<Inner>);

/// Settings of an open connection.
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
    /// Shared by the clients of the connection; opened by the first call.
    requester: Mutex<Option<Arc<Requester>>>,
    dropped: Arc<DropCounter>,
    opening: SingleFlight<Result<Arc<Requester>, RpcError>>,
    /// The runtime that opened the connection.
    runtime: Handle,
}

impl Connection {
    /// Connects to the broker at `url`, with the defaults of [`Connection::builder`].
    ///
    /// # Errors
    ///
    /// Returns an [`OpenError`], which says what to do, if the URL is wrong, the broker cannot be reached, or the broker refuses the
    /// credentials or the virtual host. `open` makes one attempt; [`ConnectionBuilder::wait_for_broker`] allows
    /// more.
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

    /// Returns a builder to set options before connecting.
    pub fn builder(url: impl Into<String>) -> ConnectionBuilder {
        ConnectionBuilder::new(url.into())
    }

    fn start(settings: Settings, transport: Arc<dyn Transport>, link: Arc<dyn Link>) -> Self {
        Self(Arc::new_cyclic(|inner: &Weak<Inner>| {
            let inner = inner.clone();
            let on_handover = move || {
                // Calls in flight keep the old requester until they end.
                if let Some(inner) = inner.upgrade() {
                    Self(inner).lock_requester().take();
                }
            };
            Inner {
                settings,
                supervisor: Supervisor::start(transport, link, on_handover),
                requester: Mutex::new(None),
                dropped: Arc::default(),
                opening: SingleFlight::new(),
                runtime: Handle::current(),
            }
        }))
    }

    /// Closes the connection for all its clients and servers.
    ///
    /// Calls in flight and later calls fail with [`ErrorKind::Closed`](crate::ErrorKind::Closed). Servers stop without finishing their
    /// requests, which the broker delivers to other servers. Servers of calls that were dropped earlier are told first, for which the connection
    /// stays open for 1 second at most. A second call has no effect.
    ///
    /// # Cancel safety
    ///
    /// The connection closes even if the future is dropped after its first poll.
    pub async fn close(&self) {
        let link = self.0.supervisor.state.close(CloseReason::ByProgram);
        let requester = self.lock_requester().take();
        if let Some(requester) = &requester {
            requester.close();
        }
        let Some(link) = link else {
            return;
        };
        let closing = async move {
            if let Some(requester) = requester {
                requester.tell_of_dropped_calls().await;
            }
            link.close().await;
        };
        // A task, so that the connection closes even if the future is dropped.
        let closing = match task::in_runtime() {
            true => tokio::spawn(closing),
            false => self.0.runtime.spawn(closing),
        };
        let _ = closing.await; // Fails if the runtime, and the link with it, has ended.
    }

    /// Returns a watch on the state of the connection.
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
        self.0.supervisor.state.watch()
    }

    /// Returns the connection's name, which its messages carry as `app_id` and the broker's management UI shows.
    pub fn name(&self) -> &str {
        &self.0.settings.name
    }

    /// Returns the name for the property `app_id` of a message.
    pub(crate) fn app_id(&self) -> SmolStr {
        self.0.settings.name.clone()
    }

    /// Returns the user of a link if messages are to state their user.
    pub(crate) fn user_id_on(&self, link: &dyn Link) -> Option<SmolStr> {
        link.user().filter(|_| self.0.settings.states_user_id)
    }

    pub(crate) fn max_message_size(&self) -> usize {
        self.0.settings.max_message_size
    }

    /// Returns `true` in a runtime other than the one that opened the connection.
    pub(crate) fn is_of_another_runtime(&self) -> bool {
        Handle::try_current().is_ok_and(|current| current.id() != self.0.runtime.id())
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.0.supervisor.state.is_closed()
    }

    pub(crate) fn state_now(&self) -> ConnectionState {
        self.0.supervisor.state.current()
    }

    /// Waits for a link and returns it.
    pub(crate) async fn link(&self) -> Result<Arc<dyn Link>, CloseReason> {
        self.0.supervisor.state.link().await
    }

    /// Notifies when new work must leave a link whose channels do not report that: another link has replaced it, or the runtime of the
    /// connection has ended.
    pub(crate) fn handovers(&self) -> watch::Receiver<()> {
        self.0.supervisor.handovers()
    }

    /// Returns the requester of the connection's clients, while it works. Otherwise waits for a link and opens another requester.
    pub(crate) async fn requester(&self) -> Result<Arc<Requester>, RpcError> {
        if let Some(requester) = self.live_requester() {
            return Ok(requester);
        }
        let link = self.link().await?;
        // In a task of its own, which finishes even if every caller stops waiting.
        let opened = self.0.opening.run(
            || self.live_requester().map(Ok),
            || self.clone().open_requester(link),
        );
        // Without an outcome, the runtime has ended; the state may not show that yet.
        opened
            .await
            .unwrap_or_else(|| Err(RpcError::runtime_ended()))
    }

    async fn open_requester(self, link: Arc<dyn Link>) -> Result<Arc<Requester>, RpcError> {
        let user_id = self.user_id_on(&*link);
        let requester =
            Requester::open(link.clone(), self.app_id(), user_id, self.drop_counter()).await?;
        *self.lock_requester() = Some(requester.clone());
        // A close or a handover during the opening did not see this requester.
        if self.is_closed() {
            requester.close();
        } else if !self.0.supervisor.state.is_current(&link) {
            self.lock_requester().take();
        }
        Ok(requester)
    }

    fn lock_requester(&self) -> MutexGuard<'_, Option<Arc<Requester>>> {
        self.0.requester.lock()
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
