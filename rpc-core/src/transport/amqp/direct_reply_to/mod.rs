//! Replies to RabbitMQ's direct reply-to addresses (<https://www.rabbitmq.com/docs/direct-reply-to>).
//!
//! RabbitMQ 3 closes the whole connection of a client that publishes to an address that it cannot read, or whose node it does not
//! know, and any caller can put such an address into a request. (RabbitMQ 4.3 ignores the message.) So these replies go through a
//! connection of their own and are confirmed, and a reply to an address that no broker can have made is dropped.
//!
//! An address names its node by a hash. The first reply to a node goes alone, with nothing else on its connection. Once it has
//! arrived, the node is known, and replies to all known nodes share a connection. Few unknown nodes are tried at a time, and few
//! may fail before others have to wait, so a flood of forged addresses neither holds up a server nor keeps the broker busy with
//! connections. Dropped replies are counted, and the count is logged at most every 10 seconds.

mod address;
mod nodes;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex as SyncMutex;
use smol_str::SmolStr;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::warn;

pub(super) use self::address::is_direct_reply_to;
use self::address::node_of;
use self::nodes::{Nodes, Trial};
use super::error::not_opened;
use super::login::{Login, Session};
use super::publisher::{Address, ConfirmedPublisher, Publish};
use crate::error::with_causes;
use crate::transport::error::TransportError;
use crate::transport::message::Message;

/// The pause between two lines in the log about dropped replies.
const LOG_PAUSE: Duration = Duration::from_secs(10);

/// Publisher of replies to direct reply-to addresses.
#[derive(Debug)]
pub(super) struct DirectReplyTo {
    login: Login,
    /// The connection for replies to known nodes.
    for_known: Mutex<Option<Arc<Dedicated>>>,
    /// The connection for replies to unknown nodes, one node at a time. Locked while a node is tried.
    for_unknown: Mutex<Option<Dedicated>>,
    nodes: SyncMutex<Nodes>,
    dropped: SyncMutex<Dropped>,
}

/// A connection with one channel for confirmed publishing.
struct Dedicated {
    channel: lapin::Channel,
    publisher: ConfirmedPublisher,
    /// The last field, so that the connection is dropped after its channel.
    session: Session,
}

impl DirectReplyTo {
    pub(super) fn new(login: Login) -> Self {
        Self {
            login,
            for_known: Mutex::default(),
            for_unknown: Mutex::default(),
            nodes: SyncMutex::default(),
            dropped: SyncMutex::default(),
        }
    }

    /// Publishes a reply and waits until the broker has it, or drops the reply. The broker does not say whether the caller is still
    /// there.
    pub(super) async fn send(&self, address: SmolStr, reply: Message) {
        if let Err(error) = self.publish(address, reply).await {
            let mut dropped = self.dropped.lock();
            if let Some(dropped) = dropped.count() {
                let error = error.to_string();
                warn!(
                    dropped,
                    error,
                    "replies to direct reply-to addresses were dropped since the connection was opened; `error` is the reason of the \
                     last one"
                );
            }
        }
    }

    async fn publish(&self, address: SmolStr, reply: Message) -> Result<(), TransportError> {
        let Some(node) = node_of(&address) else {
            let reason = "no broker makes such a reply-to address";
            return Err(TransportError::Invalid(reason.to_owned()));
        };
        if self.is_known(node) {
            match self.publish_to_known(address.clone(), reply.clone()).await {
                Err(TransportError::Lost(_) | TransportError::Refused(_)) => {
                    self.nodes.lock().forget(node);
                }
                published => return published,
            }
        }
        self.publish_to_unknown(node, address, reply).await
    }

    fn is_known(&self, node: u32) -> bool {
        self.nodes.lock().is_known(node)
    }

    async fn publish_to_known(
        &self,
        address: SmolStr,
        reply: Message,
    ) -> Result<(), TransportError> {
        self.connection_for_known()
            .await?
            .publish(address, reply)
            .await
    }

    /// Publishes a reply to an unknown node, after the replies that already wait for an unknown node.
    async fn publish_to_unknown(
        &self,
        node: u32,
        address: SmolStr,
        reply: Message,
    ) -> Result<(), TransportError> {
        let _trial = Trial::begin(&self.nodes, node)?;
        let mut for_unknown = self.for_unknown.lock().await;
        if self.is_known(node) {
            drop(for_unknown);
            return self.publish_to_known(address, reply).await;
        }
        self.nodes.lock().may_try(node)?;
        let dedicated = match for_unknown.take() {
            Some(dedicated) if dedicated.is_open() => dedicated,
            _ => self.open().await?,
        };
        let published = dedicated.publish(address, reply).await;
        if published.is_ok() {
            self.nodes.lock().learn(node);
            *for_unknown = self.offer_for_known(dedicated).await;
        } else {
            self.nodes.lock().fail(node);
            dedicated.session.close().await;
        }
        published
    }

    pub(super) async fn close(&self) {
        let for_known = self.for_known.lock().await.take();
        // A reply that waits for the broker may hold the lock.
        let for_unknown = self
            .for_unknown
            .try_lock()
            .ok()
            .and_then(|mut for_unknown| for_unknown.take());
        let open = [for_known, for_unknown.map(Arc::new)];
        for dedicated in open.into_iter().flatten() {
            dedicated.session.close().await;
        }
    }

    async fn connection_for_known(&self) -> Result<Arc<Dedicated>, TransportError> {
        let mut for_known = self.for_known.lock().await;
        match &*for_known {
            Some(dedicated) if dedicated.is_open() => Ok(dedicated.clone()),
            _ => Ok(for_known.insert(Arc::new(self.open().await?)).clone()),
        }
    }

    /// Keeps a connection for known nodes, or returns it if another one is in use already.
    async fn offer_for_known(&self, dedicated: Dedicated) -> Option<Dedicated> {
        let mut for_known = self.for_known.lock().await;
        if for_known.as_ref().is_some_and(|known| known.is_open()) {
            return Some(dedicated);
        }
        *for_known = Some(Arc::new(dedicated));
        None
    }

    async fn open(&self) -> Result<Dedicated, TransportError> {
        let backpressure = Arc::default(); // The connection has no consumers.
        let opening = async {
            self.login
                .connect(self.login.ask().await?, &backpressure)
                .await
        };
        let session = opening
            .await
            .map_err(|error| TransportError::lost(with_causes(&error)))?;
        let opened = session.connection.create_channel().await;
        let channel = opened.map_err(not_opened)?;
        Ok(Dedicated {
            publisher: ConfirmedPublisher::start(channel.clone()).await?,
            channel,
            session,
        })
    }
}

impl Dedicated {
    fn is_open(&self) -> bool {
        let is_connected = self.session.connection.status().connected();
        is_connected && !self.session.is_outdated() && self.channel.status().connected()
    }

    async fn publish(&self, address: SmolStr, mut reply: Message) -> Result<(), TransportError> {
        // The broker accepts only the `user_id` of this connection.
        if reply.user_id.is_some() {
            reply.user_id = self.session.user.clone();
        }
        // The message is not mandatory: some versions of RabbitMQ return direct replies even when they were delivered.
        let address = Address::queue(address, false)?;
        let publish = Publish::new(address, reply, self.session.frame_max())?;
        self.publisher.publish(publish).wait().await?.wait().await
    }
}

impl fmt::Debug for Dedicated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dedicated")
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}

/// Counter of dropped replies.
#[derive(Debug, Default)]
struct Dropped {
    count: u64,
    logged: Option<Instant>,
}

impl Dropped {
    /// Counts a reply. Returns the total if it is time to log it.
    fn count(&mut self) -> Option<u64> {
        self.count += 1;
        let now = Instant::now();
        let is_due = self
            .logged
            .is_none_or(|logged| now.duration_since(logged) >= LOG_PAUSE);
        is_due.then(|| {
            self.logged = Some(now);
            self.count
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn dropped_replies_are_logged_once_per_pause() {
        let mut dropped = Dropped::default();
        assert_eq!(dropped.count(), Some(1));
        assert_eq!(dropped.count(), None);
        tokio::time::advance(LOG_PAUSE).await;
        assert_eq!(dropped.count(), Some(3));
    }
}
