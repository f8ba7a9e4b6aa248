//! Publishes messages that the broker confirms: requests republished, and dead letters.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tracing::{error, warn};

use super::topology::ensure_queue;
use crate::queue::QueueOptions;
use crate::transport::{Channel, ChannelMode, LazyChannel, Link, Message, TransportError};
use crate::wire;

/// Number of attempts to publish a message to a queue that does not accept it, and the pause between them.
const OFFERS: usize = 3;
const OFFER_PAUSE: Duration = Duration::from_millis(250);

/// Publisher of messages that the broker confirms, on a channel of its own.
pub(super) struct ConfirmedPublisher {
    link: Arc<dyn Link>,
    channel: LazyChannel,
    /// Number of times that each dead-letter queue was declared here.
    declared: Mutex<BTreeMap<String, u64>>,
    /// Text of the broker's last refusal.
    refusal: parking_lot::Mutex<String>,
}

impl ConfirmedPublisher {
    pub(super) fn new(link: Arc<dyn Link>) -> Self {
        Self {
            channel: LazyChannel::new(link.clone(), ChannelMode::Confirm),
            link,
            declared: Mutex::default(),
            refusal: parking_lot::Mutex::default(),
        }
    }

    /// Publishes a message and waits until the broker confirms it; a few times, if the broker does not take the message. With
    /// `may_declare` the queue is a dead-letter queue, which is declared if it is missing.
    pub(super) async fn offer(
        &self,
        queue: &str,
        message: Message,
        may_declare: bool,
    ) -> Result<(), TransportError> {
        for _ in 1..OFFERS {
            match self.try_offer(queue, message.clone(), may_declare).await {
                Err(TransportError::Rejected | TransportError::Refused(_)) => {}
                Err(TransportError::Unroutable) if may_declare => {}
                outcome => return outcome,
            }
            tokio::time::sleep(OFFER_PAUSE).await;
        }
        self.try_offer(queue, message, may_declare).await
    }

    async fn try_offer(
        &self,
        queue: &str,
        message: Message,
        may_declare: bool,
    ) -> Result<(), TransportError> {
        if !may_declare {
            return self.publish(queue, message).await;
        }
        let times = self.declared.lock().await.get(queue).copied();
        match self.publish(queue, message.clone()).await {
            Err(TransportError::Unroutable) => {
                self.declare(queue, times).await?;
                self.publish(queue, message).await
            }
            outcome => outcome,
        }
    }

    /// Declares a dead-letter queue, unless another task has done so since `times` was read: many requests may be given up at once.
    async fn declare(&self, queue: &str, times: Option<u64>) -> Result<(), TransportError> {
        let mut declared = self.declared.lock().await;
        if declared.get(queue).copied() == times {
            ensure_queue(&*self.link, queue, &QueueOptions::classic()).await?;
            *declared.entry(queue.to_owned()).or_default() += 1;
        }
        Ok(())
    }

    /// Publishes a message, without the headers that do not fit, and waits until the broker confirms it.
    async fn publish(&self, queue: &str, message: Message) -> Result<(), TransportError> {
        let channel = self.channel.get().await?;
        let message = match channel.check(&message) {
            Ok(()) => message,
            Err(reason) => {
                let message = wire::made_to_fit(message, |message| channel.check(message))?;
                let correlation_id = message.correlation_id.as_deref();
                let reason = reason.to_string();
                warn!(
                    queue,
                    ?correlation_id,
                    ?reason,
                    "a request is republished without some of its headers"
                );
                message
            }
        };
        match publish(&*channel, queue, message.clone()).await {
            // The refusal closed the channel for all messages on their way, and another message may have caused it.
            Err(TransportError::Refused(_)) => {
                let alone = self.link.open_channel(ChannelMode::Confirm).await?;
                publish(&*alone, queue, message).await
            }
            outcome => outcome,
        }
    }

    /// Logs, once, why the broker does not take messages of this server.
    pub(super) fn log_refusal(&self, queue: &str, refusal: &TransportError) {
        let text = refusal.to_string();
        let mut last = self.refusal.lock();
        if *last != text {
            error!(
                queue,
                error = ?text,
                "requests wait because the broker does not take what this server publishes: check its permissions and queues"
            );
            *last = text;
        }
    }
}

async fn publish(
    channel: &dyn Channel,
    queue: &str,
    message: Message,
) -> Result<(), TransportError> {
    let confirm = channel.publish(queue.into(), message).wait().await?;
    confirm.wait().await
}

/// Returns `true` if the broker may take the same message a little later, because the cause has nothing to do with the message.
pub(super) fn is_transient(error: &TransportError) -> bool {
    matches!(
        error,
        TransportError::Lost(_)
            | TransportError::Forbidden(_)
            | TransportError::Unavailable(_)
            | TransportError::NoChannel(_)
    )
}
