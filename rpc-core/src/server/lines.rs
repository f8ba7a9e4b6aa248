//! What the handlers of a server send through, for as long as there is a link.

use std::sync::Arc;

use tokio::sync::RwLock;

use super::receipt::{Receipt, Settlement};
use super::replies::Replies;
use crate::queue::QueueOptions;
use crate::transport::{
    Acknowledge, Channel, ChannelMode, Deliveries, LazyChannel, Link, Message, QueueKind,
    TransportError,
};

/// A link as a server uses it.
pub(super) struct Lines {
    pub(super) link: Arc<dyn Link>,
    /// Where deliveries come in and are settled.
    pub(super) channel: Arc<dyn Channel>,
    pub(super) replies: Replies,
    /// For requests that are published anew.
    confirming: LazyChannel,
    /// Shared by those who do that, until they have acknowledged the delivery.
    moving: RwLock<()>,
}

impl Lines {
    /// For a server that takes so many requests in one message.
    pub(super) fn new(link: Arc<dyn Link>, channel: Arc<dyn Channel>, takes: u16) -> Self {
        Self {
            confirming: LazyChannel::new(link.clone(), ChannelMode::Confirm),
            moving: RwLock::new(()),
            replies: Replies::start(channel.clone(), takes),
            channel,
            link,
        }
    }

    /// Publishes a message in place of a delivery, then acknowledges that.
    pub(super) async fn replace(
        &self,
        receipt: &mut Option<Receipt>,
        queue: &str,
        message: Message,
    ) -> Result<(), TransportError> {
        let _moving = self.moving.read().await;
        self.publish(queue, message).await?;
        self.settle(receipt.take().and_then(Receipt::settle));
        Ok(())
    }

    /// Tells the broker what became of a delivery, once all of it is known.
    pub(super) fn settle(&self, settlement: Option<Settlement>) {
        match settlement {
            Some(Settlement::Acknowledge(tag)) => self.channel.ack(&mut [tag]),
            Some(Settlement::GiveBack(tag)) => self.channel.requeue(tag),
            None => {}
        }
    }

    /// Waits until the broker knows of everything that was replaced: what has taken the place of a delivery may arrive before
    /// that is acknowledged, and if it killed this process then, there would be two of it.
    pub(super) async fn until_replaced(&self) -> Result<(), TransportError> {
        drop(self.moving.write().await);
        self.channel.settled().await
    }

    /// Publishes a message and waits for the broker's word that it has it.
    pub(super) async fn publish(
        &self,
        queue: &str,
        message: Message,
    ) -> Result<(), TransportError> {
        let channel = self.confirming.get().await?;
        let confirm = channel.publish(queue.into(), message).wait().await?;
        confirm.wait().await
    }

    /// Declares a queue and reads from it.
    pub(super) async fn consume(
        &self,
        queue: &str,
        options: &QueueOptions,
        consumer: &str,
        prefetch: u16,
    ) -> Result<Deliveries, TransportError> {
        if let (Some(target), false) = (&options.dead_letter_queue, options.passive) {
            ensure_queue(&*self.link, target).await?;
        }
        // A refusal closes the channel that it happens on, so not on the one that others already use.
        let declaring = self.link.open_channel(ChannelMode::Plain).await?;
        declaring
            .declare_queue(queue, QueueKind::Durable(options))
            .await?;
        let acknowledge = Acknowledge::Each { prefetch };
        self.channel.consume(queue, consumer, acknowledge).await
    }
}

/// Declares a durable queue without arguments, unless there is one of that name, whatever its arguments.
pub(super) async fn ensure_queue(link: &dyn Link, queue: &str) -> Result<(), TransportError> {
    let declare = async |options: QueueOptions| {
        let declaring = link.open_channel(ChannelMode::Plain).await?;
        declaring
            .declare_queue(queue, QueueKind::Durable(&options))
            .await
    };
    match declare(QueueOptions::passive()).await {
        Err(TransportError::Unavailable(_)) => declare(QueueOptions::classic()).await,
        outcome => outcome,
    }
}
