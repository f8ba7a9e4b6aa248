//! Messages as a transport carries them.

use std::ops::{Deref, DerefMut};

use bytes::Bytes;
use smol_str::SmolStr;

use crate::headers::Headers;

/// A message, boxed because it is moved often.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message(pub(crate) Box<Content>);

/// Content of a message: a body, and those of AMQP's basic properties that the protocol uses.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    pub(crate) correlation_id: Option<SmolStr>,
    pub(crate) reply_to: Option<SmolStr>,
    /// Id of the stream that the message belongs to.
    pub(crate) message_id: Option<SmolStr>,
    /// AMQP's `type`.
    pub(crate) kind: Option<SmolStr>,
    pub(crate) content_type: Option<SmolStr>,
    /// Time in milliseconds that the message may wait in a queue.
    pub(crate) expiration: Option<u32>,
    /// Deadline of the caller, in milliseconds since the Unix epoch. The header `rpc-deadline`.
    pub(crate) deadline: Option<i64>,
    /// `true` if several replies may come in one message. The header `rpc-batches`.
    pub(crate) batches: bool,
    /// `true` if the broker returns the message when no queue takes it.
    pub(crate) mandatory: bool,
    pub(crate) persistent: bool,
    pub(crate) priority: Option<u8>,
    pub(crate) app_id: Option<SmolStr>,
    pub(crate) user_id: Option<SmolStr>,
    pub(crate) headers: Headers,
    pub(crate) body: Bytes,
    /// Topic that a message was delivered through; `None` if it was published to the queue.
    pub(crate) topic: Option<SmolStr>,
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

/// A message that was delivered to a consumer. Unless the consumer consumes without acknowledgements, it has to be settled.
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
