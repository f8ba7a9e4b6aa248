//! Opening and closing a connection of lapin.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::StreamExt;
use lapin::Event;
use smol_str::SmolStr;
use tokio::sync::watch;
use tracing::{debug, warn};

use super::channel::AmqpChannel;
use super::direct::DirectReplies;
use super::intake::Intake;
use super::login::{Login, Session};
use super::options::Options;
use super::renewal::Renewal;
use super::tls::Connector;
use super::url::Endpoint;
use super::{CLOSED, within_limit};
use crate::error::{OpenError, with_causes};
use crate::task::Task;
use crate::transport::{Channel, ChannelMode, Link, LinkStatus, Transport, TransportError};

/// RabbitMQ at one address, or the nodes of a cluster at several.
#[derive(Debug)]
pub(crate) struct AmqpTransport {
    logins: Vec<Login>,
    /// The one to try first: the last that worked, or the one after the last that did not.
    next: AtomicUsize,
}

impl AmqpTransport {
    /// Takes at least one URL, and the name that the broker's management shows.
    pub(crate) fn new(urls: &[String], name: &str, options: &Options) -> Result<Self, OpenError> {
        let mut tls: Option<Connector> = None;
        let mut logins = Vec::new();
        for url in urls {
            let mut endpoint = Endpoint::parse(url)?;
            endpoint.check(options)?;
            if let Some(interval) = options.heartbeat {
                endpoint.set_heartbeat(interval);
            }
            if endpoint.is_secure() && tls.is_none() {
                tls = Some(Connector::new(options)?);
            }
            logins.push(Login {
                tls: tls.clone().filter(|_| endpoint.is_secure()),
                endpoint,
                name: name.to_owned(),
                credentials: options.credentials.clone(),
            });
        }
        Ok(Self {
            logins,
            next: AtomicUsize::new(0),
        })
    }

    /// The addresses, without secrets.
    pub(crate) fn place(&self) -> String {
        let endpoints = self.logins.iter().map(|login| login.endpoint.to_string());
        endpoints.collect::<Vec<_>>().join(", ")
    }

    /// Tries each address once, in turn. If none works, the error is that of the first one that refuses, else that of the first one.
    async fn try_each(&self) -> Result<Arc<dyn Link>, OpenError> {
        let first = self.next.load(Ordering::Relaxed);
        // The same for all, so that an outage does not multiply the questions.
        let given = self.logins[first % self.logins.len()].ask().await?;
        let mut failure = None;
        for offset in 0..self.logins.len() {
            let index = (first + offset) % self.logins.len();
            let login = &self.logins[index];
            let intake = Arc::default();
            match login.connect(given.clone(), &intake).await {
                Ok(session) => {
                    self.next.store(index, Ordering::Relaxed);
                    return Ok(Arc::new(AmqpLink::new(session, intake, login.clone())));
                }
                Err(error) => {
                    let reason = with_causes(&error);
                    match error.may_pass() {
                        true => debug!(reason, "an endpoint was not reached"),
                        // The caller tells of a single one.
                        false if self.logins.len() > 1 => {
                            warn!(?reason, "an endpoint refuses the connection");
                        }
                        false => {}
                    }
                    let is_known = |failure: &OpenError| !failure.may_pass() || error.may_pass();
                    if !failure.as_ref().is_some_and(is_known) {
                        failure = Some(error);
                    }
                }
            }
        }
        Err(failure.unwrap_or_else(|| OpenError::InvalidUrl("there is none".to_owned())))
    }
}

impl Transport for AmqpTransport {
    fn connect(&self) -> BoxFuture<'_, Result<Arc<dyn Link>, OpenError>> {
        self.try_each().boxed()
    }
}

/// A connection to RabbitMQ.
struct AmqpLink {
    session: Session,
    intake: Arc<Intake>,
    direct_replies: Arc<DirectReplies>,
    status: watch::Receiver<LinkStatus>,
    _watcher: Task,
}

impl AmqpLink {
    fn new(session: Session, intake: Arc<Intake>, login: Login) -> Self {
        let (report, status) = watch::channel(LinkStatus::Up);
        Self {
            intake,
            direct_replies: Arc::new(DirectReplies::new(login)),
            _watcher: Task::spawn(watch_link(session.connection.clone(), report)),
            session,
            status,
        }
    }
}

impl AmqpLink {
    /// The cause for which the link was lost, which its watcher soon reports.
    async fn loss(&self) -> TransportError {
        let mut status = self.status.clone();
        let lost = status.wait_for(|status| matches!(status, LinkStatus::Lost(_)));
        match lost.await.as_deref() {
            Ok(LinkStatus::Lost(cause)) => cause.clone(),
            _ => TransportError::lost(CLOSED),
        }
    }
}

/// How often a link is looked at. lapin has events for most losses, but not for a close by the broker.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Reports how a link is until it is lost.
async fn watch_link(connection: Arc<lapin::Connection>, report: watch::Sender<LinkStatus>) {
    let mut events = pin!(connection.events_listener());
    let mut cause = CLOSED.to_owned();
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
            Ok(Some(Event::Error(error))) => cause = super::cause(&error).to_string(),
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

    fn user(&self) -> Option<SmolStr> {
        self.session.user.clone()
    }

    fn outdated(&self) -> BoxFuture<'_, ()> {
        let outdated = self.session.renewal.as_ref().map(Renewal::watch);
        async move {
            if let Some(mut outdated) = outdated
                && outdated.wait_for(|outdated| *outdated).await.is_ok()
            {
                return;
            }
            std::future::pending::<()>().await;
        }
        .boxed()
    }

    fn open_channel(
        &self,
        mode: ChannelMode,
    ) -> BoxFuture<'_, Result<Arc<dyn Channel>, TransportError>> {
        async move {
            let intake = self.intake.clone();
            let direct_replies = Some(self.direct_replies.clone());
            let connection = &self.session.connection;
            match AmqpChannel::open(connection, mode, intake, direct_replies).await {
                Ok(channel) => Ok(Arc::new(channel) as Arc<dyn Channel>),
                // Others may have been told of the cause.
                Err(TransportError::Lost(_)) if !connection.status().connected() => {
                    Err(self.loss().await)
                }
                Err(error) => Err(error),
            }
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            self.direct_replies.close().await;
            self.session.close().await;
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
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmqpLink")
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}
