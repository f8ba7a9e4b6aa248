//! A channel of lapin behind the transport's contract.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::StreamExt;
use lapin::options::{
    BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, ChannelFlowOptions,
    ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{FieldTable, ShortString};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, warn};
use uuid::Uuid;

use super::direct::{self, DirectReplies};
use super::properties::{short, to_message, to_table};
use super::publisher::{self, Address, Line, Outgoing, Publish, Then};
use super::refused_or_lost;
use super::within_limit;
use crate::task::Task;
use crate::transport::{
    Acknowledge, Channel, ChannelMode, Confirm, Deliveries, Delivery, Message, QueueKind, Sending,
    TransportError,
};

/// The exchange for notices, which every virtual host has (<https://www.rabbitmq.com/docs/exchanges#predeclared>). Nobody has
/// to declare it, and what nobody is bound for is dropped.
const NOTICES: &str = "amq.direct";

pub(super) struct AmqpChannel {
    line: Arc<Line>,
    /// `None` for the channel that they go through.
    direct_replies: Option<Arc<DirectReplies>>,
    mode: ChannelMode,
    outgoing: mpsc::Sender<Outgoing>,
    returns: Mutex<Option<mpsc::UnboundedReceiver<Message>>>,
    /// Ends with the channel.
    _publisher: Task,
}

impl AmqpChannel {
    pub(super) async fn open(
        connection: &lapin::Connection,
        mode: ChannelMode,
        direct_replies: Option<Arc<DirectReplies>>,
    ) -> Result<Self, TransportError> {
        let channel = connection.create_channel().await.map_err(refused_or_lost)?;
        let (outgoing, queued) = publisher::queue();
        let (returned, returns) = mpsc::unbounded_channel(); // Holds at most one message for each publish.
        let line = Arc::new(Line::new(channel));
        let publisher = match mode {
            ChannelMode::Plain => Task::spawn(publisher::run(line.clone(), queued, returned)),
            ChannelMode::Confirm => {
                line.channel
                    .confirm_select(ConfirmSelectOptions::default())
                    .await
                    .map_err(refused_or_lost)?;
                Task::spawn(publisher::run_confirmed(line.channel.clone(), queued))
            }
        };
        Ok(Self {
            line,
            direct_replies,
            mode,
            outgoing,
            returns: Mutex::new(Some(returns)),
            _publisher: publisher,
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
                // Applies to the consumers that are started after it, each on its own.
                self.line
                    .channel
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
            .line
            .channel
            .basic_consume(
                queue_name(queue)?,
                consumer.into(),
                options,
                FieldTable::default(),
            )
            .await
            .map_err(refused_or_lost)?;
        Ok(deliveries
            .map(|delivery| {
                let delivery = delivery.map_err(refused_or_lost)?;
                Ok(Delivery {
                    tag: delivery.delivery_tag,
                    redelivered: delivery.redelivered,
                    message: to_message(&delivery.properties, delivery.data),
                })
            })
            .boxed())
    }

    async fn try_listen(&self, topics: &[&str]) -> Result<Deliveries, TransportError> {
        let queue = format!("rpc.notices.{}", Uuid::new_v4());
        self.declare_queue(&queue, QueueKind::Exclusive).await?;
        for topic in topics {
            self.line
                .channel
                .queue_bind(
                    queue_name(&queue)?,
                    NOTICES.into(),
                    short("the topic", (*topic).to_owned())?,
                    QueueBindOptions::default(),
                    FieldTable::default(),
                )
                .await
                .map_err(refused_or_lost)?;
        }
        self.try_consume(&queue, "notices", Acknowledge::None).await
    }

    /// Publishes a message that nothing comes after; waits while too many are unwritten.
    fn send_freely(
        &self,
        address: Result<Address, TransportError>,
        message: Message,
    ) -> Sending<'_, Result<(), TransportError>> {
        match address.and_then(|address| Publish::new(address, message, Then::Nothing)) {
            Ok(publish) => self.line.publish(&self.outgoing, publish),
            Err(error) => Sending::Done(Err(error)),
        }
    }

    /// Hands a message to the channel's task; waits while that has too many.
    fn send(
        &self,
        address: Result<Address, TransportError>,
        message: Message,
        then: Then,
    ) -> Sending<'_, Result<(), TransportError>> {
        let publish = match address.and_then(|address| Publish::new(address, message, then)) {
            Ok(publish) => Outgoing::Publish(publish),
            Err(error) => return Sending::Done(Err(error)),
        };
        let closed = || TransportError::lost("the channel was closed");
        match self.outgoing.try_reserve() {
            Ok(place) => {
                place.send(publish);
                Sending::Done(Ok(()))
            }
            Err(TrySendError::Full(())) => {
                let sending = self.outgoing.send(publish);
                Sending::Waiting(async move { sending.await.map_err(|_| closed()) }.boxed())
            }
            Err(TrySendError::Closed(())) => Sending::Done(Err(closed())),
        }
    }

    /// Publishes and waits for the broker's word; `mandatory` decides whether that covers the routing.
    pub(super) async fn publish_confirmed(
        &self,
        queue: String,
        message: Message,
        mandatory: bool,
    ) -> Result<Confirm, TransportError> {
        let (waiting, answer) = oneshot::channel();
        let address = Address::queue(queue, mandatory);
        let sending = self.send(address, message, Then::Confirm(waiting));
        sending.wait().await?;
        Ok(Confirm(Some(answer)))
    }
}

impl Channel for AmqpChannel {
    fn is_open(&self) -> bool {
        self.line.channel.status().connected()
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
                // Goes with its consumer, too: that may be replaced while the connection lives.
                QueueKind::Exclusive => (options.exclusive, options.auto_delete) = (true, true),
                QueueKind::Durable(queue) if queue.passive => options.passive = true,
                QueueKind::Durable(queue) => {
                    options.durable = true;
                    arguments = to_table(queue.arguments())?;
                }
            }
            self.line
                .channel
                .queue_declare(queue_name(queue)?, options, arguments)
                .await
                .map_err(refused_or_lost)?;
            Ok(())
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
                .line
                .channel
                .basic_cancel(consumer.into(), BasicCancelOptions::default())
                .await
            {
                debug!(%error, "a consumer could not be cancelled"); // It ended with its channel.
            }
        };
        within_limit("the consumer", cancelling).boxed()
    }

    fn publish(
        &self,
        queue: String,
        message: Message,
    ) -> Sending<'_, Result<Confirm, TransportError>> {
        let address = Address::queue(queue, message.mandatory);
        let (sending, confirm) = match self.mode {
            ChannelMode::Plain => (self.send_freely(address, message), Confirm(None)),
            ChannelMode::Confirm => {
                let (waiting, answer) = oneshot::channel();
                let sending = self.send(address, message, Then::Confirm(waiting));
                (sending, Confirm(Some(answer)))
            }
        };
        match sending {
            Sending::Done(sent) => Sending::Done(sent.map(|()| confirm)),
            Sending::Waiting(sent) => {
                Sending::Waiting(async move { sent.await.map(|()| confirm) }.boxed())
            }
        }
    }

    fn reply(&self, tag: Option<u64>, queue: String, message: Message) -> Sending<'_, ()> {
        if let Some(direct_replies) = &self.direct_replies
            && direct::is_direct(&queue)
        {
            return Sending::Waiting(
                async move {
                    let sent = direct_replies.publish(queue, message).await;
                    // Whatever became of it: the next server would fare no better.
                    tag.into_iter().for_each(|tag| self.ack(tag));
                    if let Err(error) = sent {
                        warn!(%error, "a reply could not be sent");
                    }
                }
                .boxed(),
            );
        }
        let then = tag.map_or(Then::Nothing, Then::Ack);
        let replied = move |sent: Result<(), TransportError>| {
            if let Err(error) = sent {
                warn!(%error, "a reply could not be sent");
                if let (TransportError::Invalid(_), Some(tag)) = (error, tag) {
                    self.ack(tag);
                }
            }
        };
        match self.send(Address::queue(queue, false), message, then) {
            Sending::Done(sent) => {
                replied(sent);
                Sending::Done(())
            }
            Sending::Waiting(sent) => Sending::Waiting(async move { replied(sent.await) }.boxed()),
        }
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        let closing = async {
            let (waiting, flushed) = oneshot::channel();
            // An error means that the channel is gone, and what it had to write with it.
            if self.outgoing.send(Outgoing::Flush(waiting)).await.is_ok() {
                let _ = flushed.await;
            }
            // The acknowledgements are only queued by then; the broker's answer to the close comes after them.
            if let Err(error) = self.line.channel.close(200, "OK".into()).await {
                debug!(%error, "the channel was closed already");
            }
        };
        within_limit("the channel", closing).boxed()
    }

    fn ack(&self, tag: u64) {
        self.line.ack(tag);
    }

    fn settled(&self) -> BoxFuture<'_, Result<(), TransportError>> {
        async move {
            // The broker handles the methods of a channel in their order, and this one is answered.
            self.line
                .channel
                .channel_flow(ChannelFlowOptions { active: true })
                .await
                .map_err(refused_or_lost)?;
            Ok(())
        }
        .boxed()
    }

    fn requeue(&self, tag: u64) {
        self.line.requeue(tag);
    }

    fn listen<'a>(
        &'a self,
        topics: &'a [&'a str],
    ) -> BoxFuture<'a, Result<Deliveries, TransportError>> {
        self.try_listen(topics).boxed()
    }

    fn notify(&self, topic: String, message: Message) -> BoxFuture<'_, Result<(), TransportError>> {
        async move {
            let address = Address {
                exchange: NOTICES.into(),
                routing_key: short("the topic", topic)?,
                mandatory: false,
            };
            self.send_freely(Ok(address), message).wait().await
        }
        .boxed()
    }

    fn returns(&self) -> mpsc::UnboundedReceiver<Message> {
        let mut returns = self.returns.lock().unwrap_or_else(PoisonError::into_inner);
        returns
            .take()
            .unwrap_or_else(|| mpsc::unbounded_channel().1)
    }
}

fn queue_name(queue: &str) -> Result<ShortString, TransportError> {
    short("the queue's name", queue.to_owned())
}

impl fmt::Debug for AmqpChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmqpChannel")
            .field("id", &self.line.channel.id())
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}
