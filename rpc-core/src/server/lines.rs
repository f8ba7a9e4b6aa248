//! What the handlers of a server send through, for as long as there is a link.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use smol_str::SmolStr;
use tokio::sync::{Mutex, RwLock};
use tracing::{error, warn};

use super::receipt::{Receipt, Settlement};
use super::replies::Replies;
use crate::queue::{Declares, QueueOptions};
use crate::transport::{
    Acknowledge, Channel, ChannelMode, Deliveries, LazyChannel, Link, Message, QueueKind,
    TransportError,
};
use crate::wire;

/// The number of times that a message is offered to a queue that does not take it, and the pause between two of them.
const OFFERS: usize = 3;
const OFFER_PAUSE: Duration = Duration::from_millis(250);

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
    /// The number of times that each dead-letter queue was declared here.
    declared: Mutex<BTreeMap<String, u64>>,
    /// The broker's last refusal, in its own words.
    refusal: std::sync::Mutex<String>,
}

impl Lines {
    /// For a server that takes so many requests in one message, and states this user in its own.
    pub(super) fn new(
        link: Arc<dyn Link>,
        channel: Arc<dyn Channel>,
        takes: u16,
        user_id: Option<SmolStr>,
    ) -> Self {
        Self {
            confirming: LazyChannel::new(link.clone(), ChannelMode::Confirm),
            moving: RwLock::new(()),
            declared: Mutex::default(),
            refusal: std::sync::Mutex::default(),
            replies: Replies::start(channel.clone(), takes, user_id),
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
        self.offer(queue, message, false).await?;
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

    /// Publishes a message and waits for the broker's word that it has it; a few times, if the broker does not take it. `declares`
    /// says whether the queue is a dead-letter queue that may be declared.
    pub(super) async fn offer(
        &self,
        queue: &str,
        message: Message,
        declares: bool,
    ) -> Result<(), TransportError> {
        for _ in 1..OFFERS {
            match self.try_offer(queue, message.clone(), declares).await {
                Err(TransportError::Rejected | TransportError::Refused(_)) => {}
                Err(TransportError::Unroutable) if declares => {}
                outcome => return outcome,
            }
            tokio::time::sleep(OFFER_PAUSE).await;
        }
        self.try_offer(queue, message, declares).await
    }

    async fn try_offer(
        &self,
        queue: &str,
        message: Message,
        declares: bool,
    ) -> Result<(), TransportError> {
        if !declares {
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

    /// Declares a dead-letter queue, unless another who missed it has done so meanwhile: many requests may be given up at once.
    async fn declare(&self, queue: &str, times: Option<u64>) -> Result<(), TransportError> {
        let mut declared = self.declared.lock().await;
        if declared.get(queue).copied() == times {
            ensure_queue(&*self.link, queue, &QueueOptions::classic()).await?;
            *declared.entry(queue.to_owned()).or_default() += 1;
        }
        Ok(())
    }

    /// Publishes a message, without the headers that do not fit, and waits for the broker's word that it has it.
    async fn publish(&self, queue: &str, message: Message) -> Result<(), TransportError> {
        let channel = self.confirming.get().await?;
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
                    "a request is published anew without some of its headers"
                );
                message
            }
        };
        match publish(&*channel, queue, message.clone()).await {
            // The refusal closed the channel for all messages on their way, and may be meant for another of them.
            Err(TransportError::Refused(_)) => {
                let alone = self.link.open_channel(ChannelMode::Confirm).await?;
                publish(&*alone, queue, message).await
            }
            outcome => outcome,
        }
    }

    /// Tells the operator, once, what keeps the broker from taking what this server publishes.
    pub(super) fn tell(&self, queue: &str, refusal: &TransportError) {
        let text = refusal.to_string();
        let mut last = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        if *last != text {
            error!(
                queue,
                error = ?text,
                "requests wait because the broker does not take what this server publishes: check its permissions and queues"
            );
            *last = text;
        }
    }

    /// Declares a request queue as its options say, and the queue for what expires in it.
    pub(super) async fn declare_requests(
        &self,
        queue: &str,
        options: &QueueOptions,
    ) -> Result<(), TransportError> {
        let link = &*self.link;
        if let (Some(target), false) = (&options.dead_letter_queue, options.is_passive()) {
            ensure_queue(link, target, &QueueOptions::classic()).await?;
        }
        if options.declares != Declares::IfMissing {
            return declare(link, queue, options).await;
        }
        // Asked for first: to declare it otherwise than it is would be logged as an error, each time.
        match declare(link, queue, &QueueOptions::passive()).await {
            Err(TransportError::Unavailable(_)) => ensure_queue(link, queue, options).await,
            outcome => outcome,
        }
    }

    /// Declares the queue where requests wait for their last attempt. One that exists is used as it is: an earlier version of a server
    /// may have declared it with other options.
    pub(super) async fn declare_retries(
        &self,
        queue: &str,
        options: &QueueOptions,
    ) -> Result<(), TransportError> {
        ensure_queue(&*self.link, queue, &options.of_retries()).await
    }

    /// Reads from a queue.
    pub(super) async fn consume(
        &self,
        queue: &str,
        consumer: &str,
        prefetch: u16,
    ) -> Result<Deliveries, TransportError> {
        let acknowledge = Acknowledge::Each { prefetch };
        self.channel.consume(queue, consumer, acknowledge).await
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

/// Tells whether the broker may take the same message a little later, because the cause has nothing to do with the message.
pub(super) fn may_pass(error: &TransportError) -> bool {
    matches!(
        error,
        TransportError::Lost(_)
            | TransportError::Forbidden(_)
            | TransportError::Unavailable(_)
            | TransportError::NoChannel(_)
    )
}

/// Declares a queue on a channel of its own: a refusal closes it.
async fn declare(
    link: &dyn Link,
    queue: &str,
    options: &QueueOptions,
) -> Result<(), TransportError> {
    let declaring = link.open_channel(ChannelMode::Plain).await?;
    declaring
        .declare_queue(queue, QueueKind::Durable(options))
        .await
}

/// Declares a queue, unless there is one of that name, whatever its type and its arguments.
///
/// lapin logs an error for each refusal. There is none when the queue is new or was declared like this before; there is one if it
/// has other arguments, and there are up to two if the user may not declare it.
pub(super) async fn ensure_queue(
    link: &dyn Link,
    queue: &str,
    options: &QueueOptions,
) -> Result<(), TransportError> {
    match declare(link, queue, options).await {
        // It has other arguments, or the user may only use it.
        Err(refusal @ (TransportError::Refused(_) | TransportError::Forbidden(_))) => {
            let passive = QueueOptions::passive();
            declare(link, queue, &passive).await.map_err(|_| refusal)
        }
        outcome => outcome,
    }
}
