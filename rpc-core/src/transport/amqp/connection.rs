//! Connections of the transport's contract, implemented with lapin.

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
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};

use super::backpressure::Backpressure;
use super::channel::AmqpChannel;
use super::direct_reply_to::DirectReplyTo;
use super::error::{self, CLOSED};
use super::login::{Login, Session};
use super::options::Options;
use super::renewal::Renewal;
use super::tls::Connector;
use super::url::Endpoint;
use crate::error::{OpenError, with_causes};
use crate::transport::channel::{Channel, ChannelMode};
use crate::transport::error::TransportError;
use crate::transport::link::{Link, LinkStatus, Transport};

/// RabbitMQ at one address, or the nodes of a cluster at several.
#[derive(Debug)]
pub(crate) struct AmqpTransport {
    logins: Vec<Login>,
    /// Index of the login to try first: the last login that worked, or the login after the last that failed.
    next: AtomicUsize,
}

impl AmqpTransport {
    /// Creates a transport from at least one URL, and the connection name that the broker's management UI shows.
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

    /// Returns the addresses, without secrets.
    pub(crate) fn place(&self) -> String {
        let endpoints = self.logins.iter().map(|login| login.endpoint.to_string());
        endpoints.collect::<Vec<_>>().join(", ")
    }

    /// Tries each address once, in turn. If none works, returns the first refusal; without a refusal, the first error.
    async fn try_each(&self) -> Result<Arc<dyn Link>, OpenError> {
        let first = self.next.load(Ordering::Relaxed);
        // One set of credentials for all addresses, so that an outage does not multiply the calls of the callback.
        let given = self.logins[first % self.logins.len()].ask().await?;
        let mut failure = None;
        for offset in 0..self.logins.len() {
            let index = (first + offset) % self.logins.len();
            let login = &self.logins[index];
            let backpressure = Arc::default();
            match login.connect(given.clone(), &backpressure).await {
                Ok(session) => {
                    self.next.store(index, Ordering::Relaxed);
                    return Ok(Arc::new(AmqpLink::new(
                        session,
                        backpressure,
                        login.clone(),
                    )));
                }
                Err(error) => {
                    let reason = with_causes(&error);
                    match error.may_pass() {
                        true => debug!(reason, "could not reach an endpoint"),
                        // With a single address, the caller reports the refusal.
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
        Err(failure.unwrap_or_else(|| OpenError::InvalidUrl("no URL was given".to_owned())))
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
    backpressure: Arc<Backpressure>,
    direct_reply_to: Arc<DirectReplyTo>,
    status: watch::Receiver<LinkStatus>,
    _watcher: AbortOnDropHandle<()>,
}

impl AmqpLink {
    fn new(session: Session, backpressure: Arc<Backpressure>, login: Login) -> Self {
        let (report, status) = watch::channel(LinkStatus::Up);
        Self {
            backpressure,
            direct_reply_to: Arc::new(DirectReplyTo::new(login)),
            _watcher: AbortOnDropHandle::new(tokio::spawn(watch_link(
                session.connection.clone(),
                report,
            ))),
            session,
            status,
        }
    }
}

impl AmqpLink {
    /// Returns the cause of the loss, which the link's watcher reports soon.
    async fn loss(&self) -> TransportError {
        let mut status = self.status.clone();
        let lost = status.wait_for(|status| matches!(status, LinkStatus::Lost(_)));
        match lost.await.as_deref() {
            Ok(LinkStatus::Lost(cause)) => cause.clone(),
            _ => TransportError::lost(CLOSED),
        }
    }
}

/// Interval between two checks of a link. lapin has events for most losses, but not for a close by the broker.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// Reports the state of a link until the link is lost.
async fn watch_link(connection: Arc<lapin::Connection>, report: watch::Sender<LinkStatus>) {
    let mut events = pin!(connection.events_listener());
    let mut cause = CLOSED.to_owned();
    loop {
        let event = tokio::time::timeout(CHECK_INTERVAL, events.next()).await;
        match event {
            Ok(Some(Event::ConnectionBlocked(reason))) => {
                report.send_replace(LinkStatus::Blocked(reason));
            }
            Ok(Some(Event::ConnectionUnblocked)) => {
                report.send_replace(LinkStatus::Up);
            }
            // lapin reports errors of channels here, too.
            Ok(Some(Event::Error(error))) => cause = error::cause(&error).to_string(),
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
            let backpressure = self.backpressure.clone();
            let direct_reply_to = self.direct_reply_to.clone();
            let connection = &self.session.connection;
            match AmqpChannel::open(&self.session, mode, backpressure, direct_reply_to).await {
                Ok(channel) => Ok(Arc::new(channel) as Arc<dyn Channel>),
                // lapin may have reported the cause elsewhere.
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
            self.direct_reply_to.close().await;
            self.session.close().await;
        }
        .boxed()
    }

    /// The socket belongs to the runtime and has ended with it.
    fn abandon(&self) {}
}

impl fmt::Debug for AmqpLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmqpLink")
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}
