//! What client and server need from a broker, and nothing else: the contract of the two transports.
//!
//! A [`Link`] is one connection to a broker. It never heals: once lost, it stays lost. Its [`Channel`]s publish, consume and
//! acknowledge in the manner of AMQP 0-9-1, through the default exchange; notices go to all who listen, through another.
//! [`amqp`] implements the contract with RabbitMQ, [`memory`] in this process; one suite of tests runs on both.

#[cfg(feature = "amqp")]
pub(crate) mod amqp;
mod lazy;
pub(crate) mod limits;
pub(crate) mod memory;

use std::fmt::Debug;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use smol_str::SmolStr;
use tokio::sync::{mpsc, oneshot, watch};

pub(crate) use self::lazy::LazyChannel;
use crate::error::{BoxError, OpenError};
use crate::headers::Headers;
use crate::queue::QueueOptions;

/// A message: behind a pointer, because it goes through many hands.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message(pub(crate) Box<Content>);

/// What is in a message: a body and those of AMQP's basic properties that the protocol uses.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    pub(crate) correlation_id: Option<SmolStr>,
    pub(crate) reply_to: Option<SmolStr>,
    /// AMQP's `type`.
    pub(crate) kind: Option<SmolStr>,
    pub(crate) content_type: Option<SmolStr>,
    /// Milliseconds that the message may wait in a queue.
    pub(crate) expiration: Option<u32>,
    /// When nobody waits any longer: milliseconds since the Unix epoch. The header `rpc-deadline`.
    pub(crate) deadline: Option<i64>,
    /// Whether several replies may come in one message. The header `rpc-batches`.
    pub(crate) batches: bool,
    /// Whether a publisher wants it back if no queue takes it.
    pub(crate) mandatory: bool,
    pub(crate) persistent: bool,
    pub(crate) priority: Option<u8>,
    pub(crate) app_id: Option<SmolStr>,
    pub(crate) user_id: Option<SmolStr>,
    pub(crate) headers: Headers,
    pub(crate) body: Bytes,
}

impl From<Content> for Message {
    fn from(content: Content) -> Self {
        Self(Box::new(content))
    }
}

impl Deref for Message {
    type Target = Content;

    fn deref(&self) -> &Content {
        &self.0
    }
}

impl DerefMut for Message {
    fn deref_mut(&mut self) -> &mut Content {
        &mut self.0
    }
}

/// The header of [`Content::deadline`].
pub(crate) const DEADLINE_HEADER: &str = "rpc-deadline";

/// The header of [`Content::batches`].
pub(crate) const BATCHES_HEADER: &str = "rpc-batches";

/// The header of a message whose headers could not be read whole: the reason, as text. Its receiver answers nothing but that.
pub(crate) const UNREADABLE_HEADER: &str = "rpc-unreadable";

/// A message that was handed to a consumer and, unless it consumes without acknowledgements, waits to be settled.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) tag: u64,
    pub(crate) redelivered: bool,
    pub(crate) message: Message,
}

/// A message to a caller.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) queue: SmolStr,
    pub(crate) message: Message,
}

/// The header in which quorum queues count how often a message was delivered and not settled
/// (<https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling>). RabbitMQ 4 does not count what was given back.
pub(crate) const DELIVERY_COUNT: &str = "x-delivery-count";

/// Set by RabbitMQ 4 on every delivery of a quorum queue but the first.
pub(crate) const ACQUIRED_COUNT: &str = "x-acquired-count";

/// The deliveries of a consumer; ends when it was cancelled, by either side, and with the channel.
pub(crate) type Deliveries = BoxStream<'static, Result<Delivery, TransportError>>;

/// What is said of a queue when it is declared.
#[derive(Clone, Copy, Debug)]
pub(crate) enum QueueKind<'a> {
    /// A request queue: outlives servers, connections and the broker.
    Durable(&'a QueueOptions),
    /// A reply queue: belongs to the link and goes with its consumer.
    Exclusive,
}

/// Whether deliveries are to be acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Acknowledge {
    /// The consumer settles each delivery and holds at most `prefetch` unsettled ones.
    Each { prefetch: u16 },
    /// The broker forgets a message as soon as it is sent.
    None,
}

/// What a channel is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChannelMode {
    /// Publishing resolves once the message is on its way; what cannot be routed comes back through `returns`.
    Plain,
    /// Every publish is answered by the broker.
    Confirm,
}

/// How the broker answered for a published message; immediately `Ok` on a [`ChannelMode::Plain`] channel.
#[derive(Debug)]
pub(crate) struct Confirm(pub(crate) Option<oneshot::Receiver<Result<(), TransportError>>>);

impl Confirm {
    /// Whether the broker was asked to answer.
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

/// Something that is sent: nearly always done at once, so that nothing needs to be kept.
#[must_use]
pub(crate) enum Sending<'a, T> {
    Done(T),
    Waiting(BoxFuture<'a, T>),
}

impl<T> Sending<'_, T> {
    pub(crate) async fn wait(self) -> T {
        match self {
            Self::Done(outcome) => outcome,
            Self::Waiting(waiting) => waiting.await,
        }
    }
}

/// Where links to one broker, or to the nodes of one cluster, come from.
pub(crate) trait Transport: Debug + Send + Sync {
    fn connect(&self) -> BoxFuture<'_, Result<Arc<dyn Link>, OpenError>>;
}

/// How a link is.
#[derive(Clone, Debug)]
pub(crate) enum LinkStatus {
    Up,
    /// The broker takes no publishes, for the reason it gives.
    Blocked(String),
    /// It is gone for good.
    Lost(TransportError),
}

/// A connection to a broker.
pub(crate) trait Link: Debug + Send + Sync {
    fn status(&self) -> watch::Receiver<LinkStatus>;

    /// The user as which it is logged in; `None` if the broker alone knows.
    fn user(&self) -> Option<SmolStr>;

    /// Resolves when another link should take the place of this one, which works all the same: the login is another user's by now.
    fn outdated(&self) -> BoxFuture<'_, ()>;

    fn open_channel(
        &self,
        mode: ChannelMode,
    ) -> BoxFuture<'_, Result<Arc<dyn Channel>, TransportError>>;

    /// Closes the link and waits until the broker knows.
    fn close(&self) -> BoxFuture<'_, ()>;

    /// Ends the link when its runtime has ended.
    fn abandon(&self);
}

/// A channel of a link.
///
/// Dropping the last handle closes it: the broker takes back what was not settled.
pub(crate) trait Channel: Debug + Send + Sync {
    /// Whether it can still be used.
    fn is_open(&self) -> bool;

    /// The size in bytes of the largest frame, which has to hold the properties of a message.
    fn frame_max(&self) -> usize;

    /// Refuses what the broker would not take; a channel or a connection closed by the broker fails what others do on it. Publishing
    /// does so too.
    fn check(&self, message: &Message) -> Result<(), TransportError> {
        limits::check(message, self.frame_max())
    }

    /// Creates a queue, or checks that the existing one is the same; with passive options, that there is one.
    ///
    /// A refusal closes the channel, so declare on a channel of its own.
    fn declare_queue<'a>(
        &'a self,
        queue: &'a str,
        kind: QueueKind<'a>,
    ) -> BoxFuture<'a, Result<(), TransportError>>;

    /// Starts a consumer; `consumer` names it on this channel.
    fn consume<'a>(
        &'a self,
        queue: &'a str,
        consumer: &'a str,
        acknowledge: Acknowledge,
    ) -> BoxFuture<'a, Result<Deliveries, TransportError>>;

    /// Stops a consumer; its deliveries end once those under way have been handed out.
    fn cancel<'a>(&'a self, consumer: &'a str) -> BoxFuture<'a, ()>;

    /// Publishes to a queue: done once the message has been taken over, which has to wait while too much is unwritten.
    ///
    /// Dropping it before publishes nothing.
    fn publish(
        &self,
        queue: SmolStr,
        message: Message,
    ) -> Sending<'_, Result<Confirm, TransportError>>;

    /// Publishes replies: done once all are on their way, so that what is acknowledged then is acknowledged after them. One that
    /// cannot be sent, or routed, is dropped.
    fn reply(&self, replies: Vec<Reply>) -> BoxFuture<'_, ()>;

    /// Whether replies to an address take a while each, as those that go through a connection of their own do. Nobody else's
    /// should have to wait for them.
    fn is_direct(&self, queue: &str) -> bool;

    /// Closes the channel once the broker has every acknowledgement before it, or after a time limit.
    fn close(&self) -> BoxFuture<'_, ()>;

    /// Acknowledges deliveries; may sort them.
    fn ack(&self, tags: &mut [u64]);

    /// Waits until the broker has handled all acknowledgements before this: whatever happens to this process then, nobody is
    /// given those deliveries again (unless the broker itself dies and its disk does not know of them yet).
    fn settled(&self) -> BoxFuture<'_, Result<(), TransportError>>;

    /// Gives a delivery back to its queue.
    fn requeue(&self, tag: u64);

    /// Hears the notices for any of these topics, for as long as the channel is open.
    fn listen<'a>(
        &'a self,
        topics: &'a [&'a str],
    ) -> BoxFuture<'a, Result<Deliveries, TransportError>>;

    /// Publishes a notice to all who listen to a topic. The broker does not say whether there are any. Done once the broker has it, on a
    /// [`ChannelMode::Confirm`] channel.
    fn notify(&self, topic: String, message: Message) -> BoxFuture<'_, Result<(), TransportError>>;

    /// The messages that could not be routed, for a [`ChannelMode::Plain`] channel; to be taken once.
    fn returns(&self) -> mpsc::UnboundedReceiver<Message>;
}

/// Why a transport did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum TransportError {
    /// The link or the channel is gone.
    #[error("{0}")]
    Lost(Arc<BoxError>),
    /// There is no such queue.
    #[error("there is no such queue")]
    Unroutable,
    /// The broker answered a publish with a nack.
    #[error("the broker refused the message")]
    Rejected,
    /// The broker refused an operation and closed the channel.
    #[error("{0}")]
    Refused(Arc<BoxError>),
    /// The same, because the user lacks the permission.
    #[error("{0}")]
    #[cfg_attr(
        not(feature = "amqp"),
        expect(dead_code, reason = "the embedded broker forbids nothing")
    )]
    Forbidden(Arc<BoxError>),
    /// The same, for a queue that is not there, or not at the moment: the node that has it may be down.
    #[error("{0}")]
    Unavailable(Arc<BoxError>),
    /// No other channel may be opened, on the connection or by its user.
    #[error("{0}")]
    #[cfg_attr(
        not(feature = "amqp"),
        expect(dead_code, reason = "the embedded broker has no such limit")
    )]
    NoChannel(Arc<BoxError>),
    /// The message does not fit into AMQP.
    #[error("{0}")]
    Invalid(String),
    /// The message is larger than the broker takes.
    #[error("{0}")]
    TooLarge(String),
}

impl TransportError {
    pub(crate) fn lost(cause: impl Into<BoxError>) -> Self {
        Self::Lost(Arc::new(cause.into()))
    }
}
