//! Channels of a connection: publishing, consuming and acknowledging.

use std::fmt::Debug;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use smol_str::SmolStr;
use tokio::sync::{mpsc, oneshot};

use super::error::TransportError;
use super::limits;
use super::message::{Delivery, Message, Reply};
use crate::queue::{QueueOptions, QueueStatus};

/// Deliveries of a consumer. The stream ends when either side cancels the consumer, and with the channel.
pub(crate) type Deliveries = BoxStream<'static, Result<Delivery, TransportError>>;

/// Kind of a queue that is declared.
#[derive(Clone, Copy, Debug)]
pub(crate) enum QueueKind<'a> {
    /// A request queue. It outlives servers, connections and the broker.
    Durable(&'a QueueOptions),
    /// A private queue, for replies or for messages to one instance. It belongs to the link, and is deleted with its consumer.
    Exclusive,
}

/// Acknowledgement mode of a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Acknowledge {
    /// The consumer settles each delivery and holds at most `prefetch` unsettled ones.
    Each { prefetch: u16 },
    /// The broker forgets a message as soon as it is sent.
    None,
}

/// Publishing mode of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChannelMode {
    /// Publishing resolves once the message is on its way. Messages that cannot be routed come back through `returns`.
    Plain,
    /// The broker confirms every message.
    Confirm,
    /// Publishes, acknowledgements and requeues take effect together, at the next [`commit`](Channel::commit). Without one, nothing happens.
    Transaction,
}

/// The broker's answer to a message; `Ok` at once on a [`ChannelMode::Plain`] channel.
#[derive(Debug)]
pub(crate) struct Confirm(pub(crate) Option<oneshot::Receiver<Result<(), TransportError>>>);

impl Confirm {
    /// Returns `true` if the broker was asked to confirm the message.
    pub(crate) fn is_requested(&self) -> bool {
        self.0.is_some()
    }

    pub(crate) async fn wait(self) -> Result<(), TransportError> {
        match self.0 {
            None => Ok(()),
            Some(answer) => answer
                .await
                .unwrap_or_else(|_| Err(TransportError::lost("the channel was closed"))),
        }
    }
}

/// An operation that usually completes at once. It allocates a future only if it has to wait.
#[must_use]
pub(crate) enum Sending<'a, T> {
    Done(T),
    Pending(BoxFuture<'a, T>),
}

impl<T> Sending<'_, T> {
    pub(crate) async fn wait(self) -> T {
        match self {
            Self::Done(outcome) => outcome,
            Self::Pending(sending) => sending.await,
        }
    }
}

/// A channel of a link.
///
/// Dropping the last handle closes the channel: the broker takes back all deliveries that were not settled.
pub(crate) trait Channel: Debug + Send + Sync {
    /// Returns `true` while the channel can be used.
    fn is_open(&self) -> bool;

    /// Size in bytes of the largest frame. One frame has to hold the properties of a message.
    fn frame_max(&self) -> usize;

    /// Refuses a message that the broker would not take. Because of such a message, the broker would close the channel or the
    /// connection, which fails all calls there. Publishing makes the same check.
    fn check(&self, message: &Message) -> Result<(), TransportError> {
        limits::check(message, self.frame_max())
    }

    /// Creates a queue, or checks that the existing one is the same; with passive options, checks that the queue exists.
    ///
    /// A refusal closes the channel, so declare on a channel of its own.
    fn declare_queue<'a>(
        &'a self,
        queue: &'a str,
        kind: QueueKind<'a>,
    ) -> BoxFuture<'a, Result<(), TransportError>>;

    /// Returns the numbers of a queue. [`TransportError::Unavailable`] if the queue does not exist, if its node is down, or if the queue is
    /// exclusive to another link.
    ///
    /// A refusal closes the channel, so ask on a channel of its own.
    fn queue_status<'a>(
        &'a self,
        queue: &'a str,
    ) -> BoxFuture<'a, Result<QueueStatus, TransportError>>;

    /// Starts a consumer; `consumer` names it on this channel.
    fn consume<'a>(
        &'a self,
        queue: &'a str,
        consumer: &'a str,
        acknowledge: Acknowledge,
    ) -> BoxFuture<'a, Result<Deliveries, TransportError>>;

    /// Stops a consumer. The stream of deliveries ends after the deliveries under way.
    fn cancel<'a>(&'a self, consumer: &'a str) -> BoxFuture<'a, ()>;

    /// Publishes to a queue. Resolves once the channel has taken the message. Waits while too many messages are unwritten.
    ///
    /// A future that is dropped earlier publishes nothing.
    fn publish(
        &self,
        queue: SmolStr,
        message: Message,
    ) -> Sending<'_, Result<Confirm, TransportError>>;

    /// Publishes replies. Resolves once all are on their way, so that later acknowledgements reach the broker after them. A reply
    /// that cannot be sent is dropped. A mandatory one that cannot be routed comes back through `returns`, another is dropped.
    fn reply(&self, replies: Vec<Reply>) -> BoxFuture<'_, ()>;

    /// Returns `true` if replies to an address go through a connection of their own, and each takes a while. Other replies
    /// should not wait for them.
    fn is_direct_reply_to(&self, queue: &str) -> bool;

    /// Closes the channel once the broker has all earlier acknowledgements, or after a time limit.
    fn close(&self) -> BoxFuture<'_, ()>;

    /// Acknowledges deliveries; may sort them.
    fn ack(&self, tags: &mut [u64]);

    /// Takes the oldest ready message out of a queue, which then has to be settled, and tells how many ready messages were left. `None` if no
    /// message is ready.
    ///
    /// A refusal closes the channel.
    fn get<'a>(
        &'a self,
        queue: &'a str,
    ) -> BoxFuture<'a, Result<Option<(Delivery, u32)>, TransportError>>;

    /// Ends a transaction of a [`ChannelMode::Transaction`] channel. Returns the messages that were mandatory and that no queue took.
    ///
    /// RabbitMQ carries out the acknowledgements of a transaction even if it returns messages, or if a queue refuses one: then the error is
    /// [`TransportError::Refused`], and the channel is closed. After any other error, either all or nothing has happened.
    fn commit(&self) -> BoxFuture<'_, Result<Vec<Message>, TransportError>>;

    /// Returns all unsettled deliveries to their queues, in their old order, without counting as failed deliveries where the broker knows the
    /// difference: RabbitMQ 4 counts the deliveries of a closed channel, but not these. On a [`ChannelMode::Transaction`] channel, drops what
    /// was not committed, and needs no commit.
    ///
    /// Settle nothing on the channel afterwards.
    fn requeue_all(&self);

    /// Waits until the broker has handled all earlier acknowledgements. From then on, the broker does not redeliver those messages,
    /// even if this process dies (unless the broker itself dies before it has written the acknowledgements to disk).
    fn acks_handled(&self) -> BoxFuture<'_, Result<(), TransportError>>;

    /// Returns a delivery to its queue.
    fn requeue(&self, tag: u64);

    /// Binds a queue to a topic: the queue gets a copy of each message that is published to the topic, until the queue is deleted.
    ///
    /// A refusal closes the channel.
    fn bind<'a>(
        &'a self,
        queue: &'a str,
        topic: &'a str,
    ) -> BoxFuture<'a, Result<(), TransportError>>;

    /// Publishes a message to all queues that are bound to a topic. Resolves once the channel has taken the message. On a
    /// [`ChannelMode::Confirm`] channel, the confirm is [`TransportError::Unroutable`] if the message is mandatory and no queue is bound.
    ///
    /// A future that is dropped earlier publishes nothing.
    fn publish_to_topic(
        &self,
        topic: String,
        message: Message,
    ) -> BoxFuture<'_, Result<Confirm, TransportError>>;

    /// Returned messages of a [`ChannelMode::Plain`] channel. Can be taken once.
    fn returns(&self) -> mpsc::UnboundedReceiver<Message>;
}
