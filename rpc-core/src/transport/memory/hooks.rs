//! Types of the hooks through which tests watch and break the embedded broker.

use std::time::Duration;

/// A message on its way into a queue.
#[derive(Debug)]
#[non_exhaustive]
pub struct Published<'a> {
    /// The queue of the message.
    pub queue: &'a str,
    /// Type of the message: the method's name for a request; `result`, `error` or `fault` for a reply; `batch` for several calls
    /// that [share a message](crate::ClientBuilder::coalesce).
    pub kind: Option<&'a str>,
    /// Correlation id of the call.
    pub correlation_id: Option<&'a str>,
    /// Queue for the reply, if the message is a request.
    pub reply_to: Option<&'a str>,
    /// Body of the message.
    pub body: &'a [u8],
}

/// Fate of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fate {
    /// Puts the message into its queue.
    Deliver,
    /// Puts the message into its queue twice.
    Duplicate,
    /// Puts the message into its queue after a pause, so that others overtake it.
    Delay(Duration),
    /// Loses the message, though its publisher is told that it arrived.
    Lose,
}

/// State of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueState {
    /// Number of messages that wait for a consumer.
    pub ready: usize,
    /// Number of messages that were delivered to a consumer and not settled.
    pub unsettled: usize,
    /// Number of consumers.
    pub consumers: usize,
}

/// Hook that decides the fate of each message.
pub(crate) type Decide = Box<dyn FnMut(&Published<'_>) -> Fate + Send>;
