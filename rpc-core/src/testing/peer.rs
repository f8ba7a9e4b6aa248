//! A program that speaks the protocol by itself, on any transport: tests of this crate use it in place of servers and clients that
//! misbehave.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::StreamExt;
use smol_str::SmolStr;

use crate::connection::Connection;
use crate::error::BoxError;
use crate::headers::Headers;
use crate::transport::{
    Acknowledge, Channel, ChannelMode, Content, Deliveries, Message, QueueKind,
};

/// A message as the peer sees and writes it.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "the names are AMQP's")]
pub struct PeerMessage {
    pub kind: Option<String>,
    pub correlation_id: Option<String>,
    pub reply_to: Option<String>,
    pub message_id: Option<String>,
    pub content_type: Option<String>,
    pub priority: Option<u8>,
    pub persistent: bool,
    pub headers: Headers,
    pub body: Bytes,
    /// The header `rpc-deadline`.
    pub deadline: Option<i64>,
    /// The header `rpc-batches`.
    pub batches: bool,
    /// The topic that the message came through.
    pub topic: Option<String>,
}

/// A reader of a private queue, which may be bound to topics.
pub struct Peer {
    channel: Arc<dyn Channel>,
    /// Channel without confirms, for messages with an id: confirms use ids of their own.
    plain: Arc<dyn Channel>,
    deliveries: Deliveries,
    _connection: Connection,
}

impl Peer {
    /// Declares a private queue, binds it to topics and reads it. Its name must begin with `rpc.instance.` or be another name that the user may
    /// declare.
    ///
    /// # Errors
    ///
    /// An error if the connection is closed or the broker refuses.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the queue.
    pub async fn open(
        connection: &Connection,
        queue: &str,
        topics: &[String],
    ) -> Result<Self, BoxError> {
        let link = connection.link().await.map_err(|_| "closed")?;
        let channel = link.open_channel(ChannelMode::Confirm).await?;
        channel.declare_queue(queue, QueueKind::Exclusive).await?;
        for topic in topics {
            channel.bind(queue, topic).await?;
        }
        let deliveries = channel.consume(queue, "peer", Acknowledge::None).await?;
        let plain = link.open_channel(ChannelMode::Plain).await?;
        Ok(Self {
            channel,
            plain,
            deliveries,
            _connection: connection.clone(),
        })
    }

    /// Waits for the next message; `None` if the queue is gone.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no message.
    pub async fn next(&mut self) -> Option<PeerMessage> {
        let content = *self.deliveries.next().await?.ok()?.message.0;
        let text = |text: Option<SmolStr>| text.map(String::from);
        Some(PeerMessage {
            kind: text(content.kind),
            correlation_id: text(content.correlation_id),
            reply_to: text(content.reply_to),
            message_id: text(content.message_id),
            content_type: text(content.content_type),
            priority: content.priority,
            persistent: content.persistent,
            headers: content.headers,
            body: content.body,
            deadline: content.deadline,
            batches: content.batches,
            topic: text(content.topic),
        })
    }

    /// Publishes a message to a queue, and waits until the broker has it. A message with an id is sent without waiting.
    ///
    /// # Errors
    ///
    /// An error if the broker does not take the message.
    ///
    /// # Cancel safety
    ///
    /// A message whose future was polled may be published.
    pub async fn publish(&self, queue: &str, message: PeerMessage) -> Result<(), BoxError> {
        let channel = match &message.message_id {
            None => &self.channel,
            Some(_) => &self.plain,
        };
        let sending = channel.publish(queue.into(), outgoing(message, false));
        sending.wait().await?.wait().await?;
        Ok(())
    }

    /// Publishes a message to a topic, and waits until the broker has it.
    ///
    /// # Errors
    ///
    /// An error if no queue is bound to the topic, or the broker does not take the message.
    ///
    /// # Cancel safety
    ///
    /// A message whose future was polled may be published.
    pub async fn publish_to_topic(
        &self,
        topic: &str,
        message: PeerMessage,
    ) -> Result<(), BoxError> {
        let message = outgoing(message, true);
        let sending = self.channel.publish_to_topic(topic.to_owned(), message);
        sending.await?.wait().await?;
        Ok(())
    }
}

fn outgoing(message: PeerMessage, mandatory: bool) -> Message {
    Message::from(Content {
        kind: message.kind.map(Into::into),
        correlation_id: message.correlation_id.map(Into::into),
        reply_to: message.reply_to.map(Into::into),
        message_id: message.message_id.map(Into::into),
        content_type: message.content_type.map(Into::into),
        deadline: message.deadline,
        mandatory,
        headers: message.headers,
        body: message.body,
        ..Content::default()
    })
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Peer")
    }
}
