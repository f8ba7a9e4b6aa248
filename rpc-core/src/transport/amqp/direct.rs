//! Replies to RabbitMQ's direct reply-to addresses (<https://www.rabbitmq.com/docs/direct-reply-to>).
//!
//! An address that does not parse makes RabbitMQ close the whole connection of whoever publishes to it, and any caller can
//! put one into a request. So these replies go through a connection of their own, opened by the first of them, and are
//! confirmed. When that connection is lost, each of its unconfirmed replies is sent once more, alone on a fresh
//! connection: only the one that is to blame fails again.

use std::sync::Arc;

use tokio::sync::Mutex;

use super::channel::AmqpChannel;
use super::connection::{self, Login};
use crate::transport::{ChannelMode, Message, TransportError};

/// What all direct reply-to addresses begin with.
const PREFIX: &str = "amq.rabbitmq.reply-to";

/// Whether a queue name is a direct reply-to address.
pub(super) fn is_direct(queue: &str) -> bool {
    queue.starts_with(PREFIX)
}

/// The connection for direct replies.
#[derive(Debug)]
pub(super) struct DirectReplies {
    login: Login,
    shared: Mutex<Option<Arc<Dedicated>>>,
    /// Held while a reply is tried alone, so that hostile callers cannot make it many connections at a time.
    alone: Mutex<()>,
}

/// A connection with one channel for confirmed publishing.
#[derive(Debug)]
struct Dedicated {
    channel: AmqpChannel,
    /// After the channel, so that it is closed after it.
    connection: lapin::Connection,
}

impl DirectReplies {
    pub(super) fn new(login: Login) -> Self {
        Self {
            login,
            shared: Mutex::default(),
            alone: Mutex::default(),
        }
    }

    /// Publishes a reply and waits until the broker has it. Nobody can tell whether the caller is still there.
    pub(super) async fn publish(
        &self,
        address: String,
        reply: Message,
    ) -> Result<(), TransportError> {
        let shared = self.shared().await?;
        match shared.publish(address.clone(), reply.clone()).await {
            Err(TransportError::Lost(_) | TransportError::Refused(_)) => {}
            published => return published,
        }
        let _alone = self.alone.lock().await;
        let dedicated = self.open().await?;
        let published = dedicated.publish(address, reply).await;
        connection::close(&dedicated.connection).await;
        published
    }

    pub(super) async fn close(&self) {
        if let Some(dedicated) = self.shared.lock().await.take() {
            connection::close(&dedicated.connection).await;
        }
    }

    async fn shared(&self) -> Result<Arc<Dedicated>, TransportError> {
        let mut shared = self.shared.lock().await;
        match &*shared {
            Some(dedicated) if dedicated.connection.status().connected() => Ok(dedicated.clone()),
            _ => Ok(shared.insert(Arc::new(self.open().await?)).clone()),
        }
    }

    async fn open(&self) -> Result<Dedicated, TransportError> {
        let connection = self.login.connect().await.map_err(TransportError::lost)?;
        let channel = AmqpChannel::open(&connection, ChannelMode::Confirm, None).await?;
        Ok(Dedicated {
            channel,
            connection,
        })
    }
}

impl Dedicated {
    async fn publish(&self, address: String, reply: Message) -> Result<(), TransportError> {
        // Not mandatory: some versions of RabbitMQ return direct replies even when they were delivered.
        self.channel
            .publish_confirmed(address, reply, false)
            .await?
            .wait()
            .await
    }
}
