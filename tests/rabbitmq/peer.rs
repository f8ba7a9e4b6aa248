//! A plain AMQP peer without knowledge of this crate.

use std::time::Duration;

use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, Consumer};
use rpc_tests::broker::Node;

/// The pseudo-queue of direct reply-to.
pub(crate) const DIRECT_REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// A connection that consumes from a queue of its own or through direct reply-to.
pub(crate) struct Peer {
    pub(crate) channel: Channel,
    pub(crate) queue: String,
    deliveries: Consumer,
    /// Keeps the connection open.
    _connection: Connection,
}

impl Peer {
    /// Consumes from an exclusive queue with a name from the broker.
    pub(crate) async fn with_queue(node: &Node) -> Self {
        Self::new(node, None).await
    }

    /// Consumes direct replies.
    pub(crate) async fn with_direct_replies(node: &Node) -> Self {
        Self::new(node, Some(DIRECT_REPLY_TO)).await
    }

    /// Consumes from a request queue, as a server does.
    pub(crate) async fn serving(node: &Node, queue: &str) -> Self {
        let connection = node.connect().await;
        let channel = connection.create_channel().await.unwrap();
        let options = QueueDeclareOptions {
            durable: true,
            ..QueueDeclareOptions::default()
        };
        channel
            .queue_declare(queue.into(), options, FieldTable::default())
            .await
            .unwrap();
        Self::consuming(connection, channel, queue.to_owned()).await
    }

    async fn new(node: &Node, queue: Option<&str>) -> Self {
        let connection = node.connect().await;
        let channel = connection.create_channel().await.unwrap();
        let queue = match queue {
            Some(queue) => queue.to_owned(),
            None => {
                let options = QueueDeclareOptions {
                    exclusive: true,
                    ..QueueDeclareOptions::default()
                };
                let queue = channel
                    .queue_declare("".into(), options, FieldTable::default())
                    .await
                    .unwrap();
                queue.name().to_string()
            }
        };
        Self::consuming(connection, channel, queue).await
    }

    async fn consuming(connection: Connection, channel: Channel, queue: String) -> Self {
        let options = BasicConsumeOptions {
            no_ack: true,
            ..BasicConsumeOptions::default()
        };
        let deliveries = channel
            .basic_consume(
                queue.as_str().into(),
                "peer".into(),
                options,
                FieldTable::default(),
            )
            .await
            .unwrap();
        Self {
            channel,
            queue,
            deliveries,
            _connection: connection,
        }
    }

    pub(crate) async fn publish(&self, queue: &str, properties: BasicProperties, body: &[u8]) {
        self.channel
            .basic_publish(
                "".into(),
                queue.into(),
                BasicPublishOptions::default(),
                body,
                properties,
            )
            .await
            .unwrap();
    }

    /// Sends a request with this peer as its reply address.
    pub(crate) async fn request(&self, queue: &str, properties: BasicProperties, body: &[u8]) {
        self.publish(
            queue,
            properties.with_reply_to(self.queue.as_str().into()),
            body,
        )
        .await;
    }

    /// Sends a request and waits for the reply.
    pub(crate) async fn call(
        &mut self,
        queue: &str,
        properties: BasicProperties,
        body: &[u8],
    ) -> Delivery {
        self.request(queue, properties, body).await;
        self.receive().await
    }

    pub(crate) async fn receive(&mut self) -> Delivery {
        tokio::time::timeout(Duration::from_secs(20), self.deliveries.next())
            .await
            .expect("a message in time")
            .expect("an open channel")
            .unwrap()
    }
}

/// The type and the body of a reply.
pub(crate) fn parts(reply: &Delivery) -> (&str, &str) {
    let kind = reply
        .properties
        .kind()
        .as_ref()
        .map_or("", |kind| kind.as_str());
    (
        kind,
        std::str::from_utf8(&reply.data).unwrap_or("not UTF-8"),
    )
}
