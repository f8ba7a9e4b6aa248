//! Messages on their way to the broker.

use bytes::Bytes;
use futures_util::FutureExt;
use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, PublisherConfirm};
use smol_str::SmolStr;

use crate::transport::amqp::properties::{short, to_properties};
use crate::transport::error::TransportError;
use crate::transport::limits;
use crate::transport::message::Message;

/// A message that fits the broker, with its address.
pub(crate) struct Publish {
    pub(super) address: Address,
    pub(super) properties: BasicProperties,
    pub(super) body: Bytes,
}

impl Publish {
    /// Refuses a message that does not fit a broker with frames of `frame_max` bytes.
    pub(crate) fn new(
        address: Address,
        message: Message,
        frame_max: usize,
    ) -> Result<Self, TransportError> {
        limits::check(&message, frame_max)?;
        let (properties, body) = to_properties(message)?;
        Ok(Self {
            address,
            properties,
            body,
        })
    }
}

/// The address of a message.
pub(crate) struct Address {
    exchange: ShortString,
    routing_key: ShortString,
    /// `true` if the broker returns the message when no queue takes it.
    pub(super) mandatory: bool,
}

impl Address {
    /// The address of a queue: the default exchange routes by the queue's name.
    pub(crate) fn queue(queue: SmolStr, mandatory: bool) -> Result<Self, TransportError> {
        Ok(Self {
            exchange: ShortString::default(),
            routing_key: short("the queue's name", queue)?,
            mandatory,
        })
    }

    /// The address of all queues that are bound to an exchange with this topic.
    pub(crate) fn topic(
        exchange: &str,
        topic: String,
        mandatory: bool,
    ) -> Result<Self, TransportError> {
        Ok(Self {
            exchange: exchange.into(),
            routing_key: short("the topic", topic)?,
            mandatory,
        })
    }
}

/// Queues a message in lapin on the first poll; resolves when it is written.
pub(super) fn write<'a>(
    channel: &'a Channel,
    address: Address,
    properties: BasicProperties,
    body: &'a [u8],
) -> impl Future<Output = lapin::Result<PublisherConfirm>> + use<'a> {
    let options = BasicPublishOptions {
        mandatory: address.mandatory,
        immediate: false,
    };
    channel.basic_publish(
        address.exchange,
        address.routing_key,
        options,
        body,
        properties,
    )
}

/// Queues messages in lapin and waits until all of them are written.
pub(crate) async fn write_all(
    channel: &Channel,
    publishes: &mut Vec<Publish>,
) -> lapin::Result<()> {
    // lapin writes them in this order, so the last write proves the others.
    let Some(last) = publishes.pop() else {
        return Ok(());
    };
    for publish in publishes.drain(..) {
        let writing = write(channel, publish.address, publish.properties, &publish.body);
        if let Some(Err(error)) = writing.now_or_never() {
            return Err(error);
        }
    }
    write(channel, last.address, last.properties, &last.body).await?;
    Ok(())
}
