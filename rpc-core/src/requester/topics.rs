//! Publishing to topics: cancel notices, and requests that several instances get.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::transport::{ChannelMode, Confirm, LazyChannel, Link, Message, TransportError};

/// Channel for messages to topics. A user without the permission to publish to topics loses this channel, not the channel of the requests.
/// Publishes are confirmed, because refusals and missing instances would go unnoticed otherwise.
#[derive(Debug)]
pub(super) struct Topics {
    channel: LazyChannel,
    /// Number of messages that were handed to the channel.
    published: AtomicU64,
}

impl Topics {
    pub(super) fn new(link: Arc<dyn Link>) -> Self {
        Self {
            channel: LazyChannel::new(link, ChannelMode::Confirm),
            published: AtomicU64::new(0),
        }
    }

    /// Size in bytes of the largest frame of the channel, which is opened if needed.
    pub(super) async fn frame_max(&self) -> Result<usize, TransportError> {
        Ok(self.channel.get().await?.frame_max())
    }

    /// Publishes a message. Resolves once the channel has taken the message: an error means that the message was not published.
    pub(super) async fn publish(
        &self,
        topic: String,
        message: Message,
    ) -> Result<Published, TransportError> {
        let channel = self.channel.get().await?;
        let number = self.published.fetch_add(1, Ordering::Relaxed) + 1;
        let confirm = channel.publish_to_topic(topic, message).await?;
        Ok(Published { confirm, number })
    }

    /// Waits for the broker's answer to a message. An error comes with `true` if other messages followed on the channel: the broker may have
    /// accepted this message, and refused a later one.
    pub(super) async fn confirmed(
        &self,
        published: Published,
    ) -> Result<(), (TransportError, bool)> {
        let Published { confirm, number } = published;
        let confirmed = confirm.wait().await;
        confirmed.map_err(|error| (error, self.published.load(Ordering::Relaxed) != number))
    }
}

/// A message that the channel has taken.
#[derive(Debug)]
pub(super) struct Published {
    confirm: Confirm,
    /// Number of the message among those of its channel.
    number: u64,
}
