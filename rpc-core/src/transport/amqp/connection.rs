//! Opening and closing a connection of lapin.

use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::StreamExt;
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::tcp::{AMQPUriTcpExt, AsyncTcpStream, OwnedTLSConfig};
use lapin::{ConnectionProperties, ErrorKind, Event};
use tokio::sync::watch;
use tracing::debug;

use super::channel::AmqpChannel;
use super::direct::DirectReplies;
use super::guard::{self, GuardedStream};
use super::intake::Intake;
use super::url::Endpoint;
use super::{cause, within_limit};
use crate::error::OpenError;
use crate::task::Task;
use crate::transport::{Channel, ChannelMode, Link, LinkStatus, Transport, TransportError};

/// What it takes to connect to a broker and to log in.
#[derive(Clone)]
pub(crate) struct Login {
    pub(crate) endpoint: Endpoint,
    /// What the broker's management shows.
    pub(crate) name: String,
    /// Certificate authorities to trust besides the platform's, in PEM.
    pub(crate) root_certificates: Option<String>,
}

impl Login {
    /// Opens a connection that reads no faster than the consumers of `intake` take what they get.
    pub(super) async fn connect(
        &self,
        intake: &Arc<Intake>,
    ) -> Result<lapin::Connection, OpenError> {
        let limit = self.endpoint.timeout();
        let properties = ConnectionProperties::default()
            .with_connection_name(self.name.as_str().into())
            .with_client_property("product".into(), "rpc-core".into())
            .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
        let tls = OwnedTLSConfig {
            identity: None,
            cert_chain: self.root_certificates.clone(),
        };
        let connecting = async {
            let runtime = lapin::runtime::default_runtime()?;
            let endpoint = &self.endpoint.uri;
            // Not left to lapin, which leaves tasks behind with each attempt that fails.
            let stream = endpoint
                .connect_with_config_async(tls.as_ref(), &runtime)
                .await?;
            let guarded = GuardedStream::new(stream, endpoint.query.frame_max).for_intake(intake);
            let stream = Mutex::new(Some(AsyncTcpStream::Plain(guarded)));
            let connected = async move |_, _| {
                let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
                stream.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected).into())
            };
            let runtime = guard::runtime();
            lapin::Connection::connector(endpoint.clone(), runtime, connected, properties).await
        };
        // lapin limits neither name resolution nor the handshake.
        match tokio::time::timeout(limit, connecting).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(self.explain(&error)),
            Err(_) => Err(OpenError::TimedOut {
                endpoint: self.endpoint.to_string(),
                limit,
            }),
        }
    }

    /// Says what a refusal during the handshake means (<https://www.rabbitmq.com/docs/access-control>).
    fn explain(&self, error: &lapin::Error) -> OpenError {
        let endpoint = self.endpoint.to_string();
        let user = self.endpoint.user().to_owned();
        let refusal = match error.kind() {
            ErrorKind::ProtocolError(refusal) => Some(refusal.kind().clone()),
            _ => None,
        };
        match refusal {
            Some(AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED)) => {
                OpenError::CredentialsRefused { endpoint, user }
            }
            Some(AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED)) => {
                let virtual_host = self.endpoint.uri.vhost.clone();
                let hint = if virtual_host.is_empty() {
                    ": a URL that ends in '/' names the virtual host ''; the default one, '/', is written %2f"
                } else {
                    ": check its name and the user's permissions"
                };
                OpenError::VirtualHostRefused {
                    endpoint,
                    virtual_host,
                    user,
                    hint,
                    source: cause(error),
                }
            }
            _ => OpenError::Unreachable {
                endpoint,
                source: cause(error),
            },
        }
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("endpoint", &self.endpoint)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// RabbitMQ at one address, or the nodes of a cluster at several.
#[derive(Debug)]
pub(crate) struct AmqpTransport {
    logins: Vec<Login>,
    /// The one to try first: the last that worked, or the one after the last that did not.
    next: AtomicUsize,
}

impl AmqpTransport {
    /// Takes at least one login.
    pub(crate) fn new(logins: Vec<Login>) -> Self {
        Self {
            logins,
            next: AtomicUsize::new(0),
        }
    }

    /// Tries each address once, in turn.
    async fn try_each(&self) -> Result<Arc<dyn Link>, OpenError> {
        let first = self.next.load(Ordering::Relaxed);
        let mut outcome = Err(OpenError::InvalidUrl("there is none".to_owned()));
        for offset in 0..self.logins.len() {
            let index = (first + offset) % self.logins.len();
            let login = &self.logins[index];
            let intake = Arc::default();
            match login.connect(&intake).await {
                Ok(connection) => {
                    self.next.store(index, Ordering::Relaxed);
                    return Ok(Arc::new(AmqpLink::new(connection, intake, login.clone())));
                }
                Err(error) => {
                    debug!(%error, "an endpoint was not reached");
                    outcome = Err(error);
                }
            }
        }
        outcome
    }
}

impl Transport for AmqpTransport {
    fn connect(&self) -> BoxFuture<'_, Result<Arc<dyn Link>, OpenError>> {
        self.try_each().boxed()
    }
}

/// A connection to RabbitMQ.
struct AmqpLink {
    connection: Arc<lapin::Connection>,
    intake: Arc<Intake>,
    direct_replies: Arc<DirectReplies>,
    status: watch::Receiver<LinkStatus>,
    _watcher: Task,
}

impl AmqpLink {
    fn new(connection: lapin::Connection, intake: Arc<Intake>, login: Login) -> Self {
        let connection = Arc::new(connection);
        let (report, status) = watch::channel(LinkStatus::Up);
        Self {
            intake,
            direct_replies: Arc::new(DirectReplies::new(login)),
            _watcher: Task::spawn(watch_link(connection.clone(), report)),
            connection,
            status,
        }
    }
}

/// How often a link is looked at. lapin has events for most losses, but not for a close by the broker.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Reports how a link is until it is lost.
async fn watch_link(connection: Arc<lapin::Connection>, report: watch::Sender<LinkStatus>) {
    let mut events = pin!(connection.events_listener());
    let mut cause = "the broker closed the connection".to_owned();
    loop {
        let event = tokio::time::timeout(LOOK_INTERVAL, events.next()).await;
        match event {
            Ok(Some(Event::ConnectionBlocked(reason))) => {
                report.send_replace(LinkStatus::Blocked(reason));
            }
            Ok(Some(Event::ConnectionUnblocked)) => {
                report.send_replace(LinkStatus::Up);
            }
            // A channel's error comes this way too.
            Ok(Some(Event::Error(error))) => cause = error.to_string(),
            _ => {}
        }
        if !connection.status().connected() {
            report.send_replace(LinkStatus::Lost(TransportError::lost(cause)));
            return;
        }
    }
}

impl Link for AmqpLink {
    fn status(&self) -> watch::Receiver<LinkStatus> {
        self.status.clone()
    }

    fn open_channel(
        &self,
        mode: ChannelMode,
    ) -> BoxFuture<'_, Result<Arc<dyn Channel>, TransportError>> {
        async move {
            let intake = self.intake.clone();
            let direct_replies = Some(self.direct_replies.clone());
            let channel = AmqpChannel::open(&self.connection, mode, intake, direct_replies).await?;
            Ok(Arc::new(channel) as Arc<dyn Channel>)
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            self.direct_replies.close().await;
            close(&self.connection).await;
        }
        .boxed()
    }

    /// Its socket belongs to the runtime and has ended with it.
    fn abandon(&self) {}
}

/// Closes a connection and waits until the broker knows.
pub(super) async fn close(connection: &lapin::Connection) {
    let closing = async {
        if let Err(error) = connection.close(200, "OK".into()).await {
            debug!(%error, "the connection was closed already");
        }
    };
    within_limit("the connection", closing).await;
}

impl fmt::Debug for AmqpLink {
    /// lapin's own output has the whole configuration, with the user's name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmqpLink")
            .field("connected", &self.connection.status().connected())
            .finish_non_exhaustive()
    }
}
