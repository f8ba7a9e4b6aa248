//! Channels of the transport's contract, implemented with lapin.

use std::fmt;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::StreamExt;
use lapin::options::{
    BasicCancelOptions, BasicConsumeOptions, BasicGetOptions, BasicQosOptions, ChannelFlowOptions,
    QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{FieldTable, ShortString};
use parking_lot::Mutex;
use smol_str::SmolStr;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::acks::Acks;
use super::backpressure::Backpressure;
use super::close::within_limit;
use super::direct_reply_to::{DirectReplyTo, is_direct_reply_to};
use super::error::{not_opened, refused_or_lost};
use super::login::Session;
use super::properties::{short, to_message, to_table};
use super::publisher::{
    Address, ConfirmedPublisher, PlainPublisher, Publish, TransactionPublisher, write_all,
};
use crate::names::TOPIC_EXCHANGE;
use crate::queue::QueueStatus;
use crate::transport::channel::{
    Acknowledge, Channel, ChannelMode, Confirm, Deliveries, QueueKind, Sending,
};
use crate::transport::error::TransportError;
use crate::transport::message::{Delivery, Message, Reply};

/// A channel of lapin, with its publisher and the state of its deliveries.
pub(super) struct AmqpChannel {
    channel: lapin::Channel,
    publisher: Publisher,
    acks: Acks,
    direct_reply_to: Arc<DirectReplyTo>,
    /// Backpressure of the connection.
    backpressure: Arc<Backpressure>,
    /// Frame size of the connection.
    frame_max: usize,
    returns: Mutex<Option<mpsc::UnboundedReceiver<Message>>>,
}

/// The publisher of a channel, by its mode.
enum Publisher {
    Plain(PlainPublisher),
    Confirmed(ConfirmedPublisher),
    Transaction(TransactionPublisher),
}

impl AmqpChannel {
    pub(super) async fn open(
        session: &Session,
        mode: ChannelMode,
        backpressure: Arc<Backpressure>,
        direct_reply_to: Arc<DirectReplyTo>,
    ) -> Result<Self, TransportError> {
        let channel = session
            .connection
            .create_channel()
            .await
            .map_err(not_opened)?;
        let (returned, returns) = mpsc::unbounded_channel(); // Holds at most one message for each publish.
        let publisher = match mode {
            ChannelMode::Plain => {
                Publisher::Plain(PlainPublisher::start(channel.clone(), returned))
            }
            ChannelMode::Confirm => {
                Publisher::Confirmed(ConfirmedPublisher::start(channel.clone()).await?)
            }
            ChannelMode::Transaction => {
                Publisher::Transaction(TransactionPublisher::start(channel.clone()).await?)
            }
        };
        Ok(Self {
            acks: Acks::new(channel.clone()),
            channel,
            publisher,
            direct_reply_to,
            backpressure,
            frame_max: session.frame_max(),
            returns: Mutex::new(Some(returns)),
        })
    }

    async fn try_consume(
        &self,
        queue: &str,
        consumer: &str,
        acknowledge: Acknowledge,
    ) -> Result<Deliveries, TransportError> {
        let no_ack = match acknowledge {
            Acknowledge::None => true,
            Acknowledge::Each { prefetch } => {
                // The limit applies separately to each consumer that starts afterwards.
                self.channel
                    .basic_qos(prefetch, BasicQosOptions { global: false })
                    .await
                    .map_err(refused_or_lost)?;
                false
            }
        };
        let options = BasicConsumeOptions {
            no_ack,
            ..BasicConsumeOptions::default()
        };
        let deliveries = self
            .channel
            .basic_consume(
                queue_name(queue)?,
                consumer.into(),
                options,
                FieldTable::default(),
            )
            .await
            .map_err(refused_or_lost)?;
        Ok(match acknowledge {
            Acknowledge::None => self.backpressure.track(deliveries).map(read).boxed(),
            Acknowledge::Each { .. } => deliveries.map(read).boxed(),
        })
    }

    /// Prepares a message for the publisher.
    fn outgoing(
        &self,
        address: Result<Address, TransportError>,
        message: Message,
    ) -> Result<Publish, TransportError> {
        Publish::new(address?, message, self.frame_max)
    }
}

impl Channel for AmqpChannel {
    fn is_open(&self) -> bool {
        self.channel.status().connected()
    }

    fn frame_max(&self) -> usize {
        self.frame_max
    }

    fn declare_queue<'a>(
        &'a self,
        queue: &'a str,
        kind: QueueKind<'a>,
    ) -> BoxFuture<'a, Result<(), TransportError>> {
        async move {
            let mut options = QueueDeclareOptions::default();
            let mut arguments = FieldTable::default();
            match kind {
                // The queue is also deleted with its consumer, which may be replaced while the connection lives.
                QueueKind::Exclusive => (options.exclusive, options.auto_delete) = (true, true),
                QueueKind::Durable(queue) if queue.is_passive() => options.passive = true,
                QueueKind::Durable(queue) => {
                    options.durable = true;
                    arguments = to_table(queue.arguments())?;
                }
            }
            self.channel
                .queue_declare(queue_name(queue)?, options, arguments)
                .await
                .map_err(refused_or_lost)?;
            Ok(())
        }
        .boxed()
    }

    fn queue_status<'a>(
        &'a self,
        queue: &'a str,
    ) -> BoxFuture<'a, Result<QueueStatus, TransportError>> {
        async move {
            let options = QueueDeclareOptions {
                passive: true,
                ..QueueDeclareOptions::default()
            };
            let queue = self
                .channel
                .queue_declare(queue_name(queue)?, options, FieldTable::default())
                .await
                .map_err(refused_or_lost)?;
            Ok(QueueStatus::new(
                queue.message_count(),
                queue.consumer_count(),
            ))
        }
        .boxed()
    }

    fn consume<'a>(
        &'a self,
        queue: &'a str,
        consumer: &'a str,
        acknowledge: Acknowledge,
    ) -> BoxFuture<'a, Result<Deliveries, TransportError>> {
        self.try_consume(queue, consumer, acknowledge).boxed()
    }

    fn cancel<'a>(&'a self, consumer: &'a str) -> BoxFuture<'a, ()> {
        let cancelling = async move {
            if let Err(error) = self
                .channel
                .basic_cancel(consumer.into(), BasicCancelOptions::default())
                .await
            {
                debug!(%error, "a consumer could not be cancelled"); // It has ended with its channel.
            }
        };
        within_limit("the consumer", cancelling).boxed()
    }

    fn publish(
        &self,
        queue: SmolStr,
        message: Message,
    ) -> Sending<'_, Result<Confirm, TransportError>> {
        let address = Address::queue(queue, message.mandatory);
        let publish = match self.outgoing(address, message) {
            Ok(publish) => publish,
            Err(error) => return Sending::Done(Err(error)),
        };
        match &self.publisher {
            Publisher::Confirmed(publisher) => publisher.publish(publish),
            Publisher::Transaction(publisher) => Sending::Pending(
                async move {
                    publisher.publish(publish).await?;
                    Ok(Confirm(None))
                }
                .boxed(),
            ),
            Publisher::Plain(publisher) => match publisher.publish(publish) {
                Sending::Done(sent) => Sending::Done(sent.map(|()| Confirm(None))),
                Sending::Pending(sending) => {
                    Sending::Pending(sending.map(|sent| sent.map(|()| Confirm(None))).boxed())
                }
            },
        }
    }

    fn reply(&self, replies: Vec<Reply>) -> BoxFuture<'_, ()> {
        async move {
            let mut publishes = Vec::with_capacity(replies.len());
            for Reply { queue, message } in replies {
                if is_direct_reply_to(&queue) {
                    self.direct_reply_to.send(queue, message).await;
                    continue;
                }
                let is_mandatory = message.mandatory;
                match self.outgoing(Address::queue(queue, is_mandatory), message) {
                    Ok(publish) => {
                        publishes.push(publish);
                        if is_mandatory && let Publisher::Plain(publisher) = &self.publisher {
                            publisher.expect_returns();
                        }
                    }
                    // Another server could not send the reply either.
                    Err(error) => {
                        let error = error.to_string();
                        warn!(error, "a reply could not be sent");
                    }
                }
            }
            if let Err(error) = write_all(&self.channel, &mut publishes).await {
                // The channel is gone; its consumers report that.
                debug!(%error, "replies could not be published");
            }
        }
        .boxed()
    }

    fn is_direct_reply_to(&self, queue: &str) -> bool {
        is_direct_reply_to(queue)
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        let closing = async {
            // Acknowledgements may only be queued yet. The broker answers the close after it has handled them.
            if let Err(error) = self.channel.close(200, "OK".into()).await {
                debug!(%error, "the channel was closed already");
            }
        };
        within_limit("the channel", closing).boxed()
    }

    fn ack(&self, tags: &mut [u64]) {
        self.acks.ack(tags);
    }

    fn get<'a>(
        &'a self,
        queue: &'a str,
    ) -> BoxFuture<'a, Result<Option<(Delivery, u32)>, TransportError>> {
        async move {
            let taken = self
                .channel
                .basic_get(queue_name(queue)?, BasicGetOptions { no_ack: false })
                .await
                .map_err(refused_or_lost)?;
            taken
                .map(|taken| Ok((read(Ok(taken.delivery))?, taken.message_count)))
                .transpose()
        }
        .boxed()
    }

    fn commit(&self) -> BoxFuture<'_, Result<Vec<Message>, TransportError>> {
        async move {
            match &self.publisher {
                Publisher::Transaction(publisher) => publisher.commit().await,
                Publisher::Plain(_) | Publisher::Confirmed(_) => Ok(Vec::new()),
            }
        }
        .boxed()
    }

    fn requeue_all(&self) {
        match &self.publisher {
            Publisher::Transaction(publisher) => publisher.abandon(|| self.acks.requeue_all()),
            Publisher::Plain(_) | Publisher::Confirmed(_) => self.acks.requeue_all(),
        }
    }

    fn acks_handled(&self) -> BoxFuture<'_, Result<(), TransportError>> {
        async move {
            // The broker handles the methods of a channel in their order, and it answers this one.
            self.channel
                .channel_flow(ChannelFlowOptions { active: true })
                .await
                .map_err(refused_or_lost)?;
            Ok(())
        }
        .boxed()
    }

    fn requeue(&self, tag: u64) {
        self.acks.requeue(tag);
    }

    fn bind<'a>(
        &'a self,
        queue: &'a str,
        topic: &'a str,
    ) -> BoxFuture<'a, Result<(), TransportError>> {
        async move {
            self.channel
                .queue_bind(
                    queue_name(queue)?,
                    TOPIC_EXCHANGE.into(),
                    short("the topic", topic.to_owned())?,
                    QueueBindOptions::default(),
                    FieldTable::default(),
                )
                .await
                .map_err(refused_or_lost)
        }
        .boxed()
    }

    fn publish_to_topic(
        &self,
        topic: String,
        message: Message,
    ) -> BoxFuture<'_, Result<Confirm, TransportError>> {
        async move {
            let address = Address::topic(TOPIC_EXCHANGE, topic, message.mandatory);
            let publish = self.outgoing(address, message)?;
            match &self.publisher {
                Publisher::Plain(publisher) => {
                    publisher.publish(publish).wait().await?;
                    Ok(Confirm(None))
                }
                Publisher::Confirmed(publisher) => publisher.publish(publish).wait().await,
                Publisher::Transaction(publisher) => {
                    publisher.publish(publish).await?;
                    Ok(Confirm(None))
                }
            }
        }
        .boxed()
    }

    fn returns(&self) -> mpsc::UnboundedReceiver<Message> {
        let mut returns = self.returns.lock();
        returns
            .take()
            .unwrap_or_else(|| mpsc::unbounded_channel().1)
    }
}

/// Converts a delivery of lapin.
fn read(delivery: lapin::Result<lapin::message::Delivery>) -> Result<Delivery, TransportError> {
    let delivery = delivery.map_err(refused_or_lost)?;
    let mut message = to_message(&delivery.properties, delivery.data);
    // The default exchange, which has no name, routes by the name of the queue.
    if !delivery.exchange.as_str().is_empty() {
        message.topic = Some(SmolStr::new(delivery.routing_key.as_str()));
    }
    Ok(Delivery {
        tag: delivery.delivery_tag,
        redelivered: delivery.redelivered,
        message,
    })
}

fn queue_name(queue: &str) -> Result<ShortString, TransportError> {
    short("the queue's name", queue.to_owned())
}

impl fmt::Debug for AmqpChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmqpChannel")
            .field("id", &self.channel.id())
            .finish_non_exhaustive()
    }
}
