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
use smol_str::SmolStr;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, warn};
use uuid::Uuid;

use super::direct::{self, DirectReplies};
use super::intake::Intake;
use super::properties::{short, to_message, to_table};
use super::publisher::{self, Address, Line, Publish, Waiting, closed};
use super::{not_opened, refused_or_lost, within_limit};
use crate::task::Task;
use crate::transport::{
    Acknowledge, Channel, ChannelMode, Confirm, Deliveries, Delivery, Message, QueueKind, Reply,
    Sending, TransportError,
};

/// The exchange for notices, which every virtual host has (<https://www.rabbitmq.com/docs/exchanges#predeclared>). Nobody has
/// to declare it, and what nobody is bound for is dropped.
const NOTICES: &str = "amq.direct";

pub(super) struct AmqpChannel {
    line: Arc<Line>,
    /// `None` for the channel that they go through.
    direct_replies: Option<Arc<DirectReplies>>,
    /// The connection's.
    intake: Arc<Intake>,
    mode: ChannelMode,
    /// The size that was negotiated for the connection.
    frame_max: usize,
    queued: mpsc::Sender<Publish>,
    returns: Mutex<Option<mpsc::UnboundedReceiver<Message>>>,
    /// Ends with the channel.
    _publisher: Task,
}

impl AmqpChannel {
    pub(super) async fn open(
        connection: &lapin::Connection,
        mode: ChannelMode,
        intake: Arc<Intake>,
        direct_replies: Option<Arc<DirectReplies>>,
    ) -> Result<Self, TransportError> {
        let channel = connection.create_channel().await.map_err(not_opened)?;
        let (queued, to_publish) = publisher::queue();
        let (returned, returns) = mpsc::unbounded_channel(); // Holds at most one message for each publish.
        let line = Arc::new(Line::new(channel));
        let publisher = match mode {
            ChannelMode::Plain => Task::spawn(publisher::run(line.clone(), to_publish, returned)),
            ChannelMode::Confirm => {
                line.channel
                    .confirm_select(ConfirmSelectOptions::default())
                    .await
                    .map_err(refused_or_lost)?;
                Task::spawn(publisher::run_confirmed(line.channel.clone(), to_publish))
            }
        };
        let frame_max = connection.configuration().frame_max();
        Ok(Self {
            line,
            direct_replies,
            intake,
            mode,
            frame_max: frame_max.try_into().unwrap_or(usize::MAX),
            queued,
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
        Ok(match acknowledge {
            Acknowledge::None => self.intake.taking(deliveries).map(read).boxed(),
            Acknowledge::Each { .. } => deliveries.map(read).boxed(),
        })
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

    /// A message to be published, if the broker takes it.
    fn publish_of(
        &self,
        address: Address,
        message: Message,
        confirm: Option<Waiting>,
    ) -> Result<Publish, TransportError> {
        self.check(&message)?;
        Publish::new(address, message, confirm)
    }

    /// Publishes a message that nothing comes after; waits while too many are unwritten.
    fn send_freely(
        &self,
        address: Result<Address, TransportError>,
        message: Message,
    ) -> Sending<'_, Result<(), TransportError>> {
        match address.and_then(|address| self.publish_of(address, message, None)) {
            Ok(publish) => self.line.publish(&self.queued, publish),
            Err(error) => Sending::Done(Err(error)),
        }
    }

    /// Hands a message to the channel's task, for the broker to confirm; waits while that has too many.
    fn send_confirmed(
        &self,
        address: Result<Address, TransportError>,
        message: Message,
        waiting: Waiting,
    ) -> Sending<'_, Result<(), TransportError>> {
        let publish =
            match address.and_then(|address| self.publish_of(address, message, Some(waiting))) {
                Ok(publish) => publish,
                Err(error) => return Sending::Done(Err(error)),
            };
        match self.queued.try_reserve() {
            Ok(place) => {
                place.send(publish);
                Sending::Done(Ok(()))
            }
            Err(TrySendError::Full(())) => {
                let sending = self.queued.send(publish);
                Sending::Waiting(async move { sending.await.map_err(|_| closed()) }.boxed())
            }
            Err(TrySendError::Closed(())) => Sending::Done(Err(closed())),
        }
    }

    /// Publishes and waits for the broker's word; `mandatory` decides whether that covers the routing.
    pub(super) async fn publish_confirmed(
        &self,
        queue: SmolStr,
        message: Message,
        mandatory: bool,
    ) -> Result<Confirm, TransportError> {
        let (waiting, answer) = oneshot::channel();
        let address = Address::queue(queue, mandatory);
        let sending = self.send_confirmed(address, message, waiting);
        sending.wait().await?;
        Ok(Confirm(Some(answer)))
    }
}

impl Channel for AmqpChannel {
    fn is_open(&self) -> bool {
        self.line.channel.status().connected()
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
                // Goes with its consumer, too: that may be replaced while the connection lives.
                QueueKind::Exclusive => (options.exclusive, options.auto_delete) = (true, true),
                QueueKind::Durable(queue) if queue.is_passive() => options.passive = true,
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
        queue: SmolStr,
        message: Message,
    ) -> Sending<'_, Result<Confirm, TransportError>> {
        let address = Address::queue(queue, message.mandatory);
        let (sending, confirm) = match self.mode {
            ChannelMode::Plain => (self.send_freely(address, message), Confirm(None)),
            ChannelMode::Confirm => {
                let (waiting, answer) = oneshot::channel();
                let sending = self.send_confirmed(address, message, waiting);
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

    fn reply(&self, replies: Vec<Reply>) -> BoxFuture<'_, ()> {
        async move {
            let mut publishes = Vec::with_capacity(replies.len());
            for Reply { queue, message } in replies {
                if let Some(direct_replies) = &self.direct_replies
                    && direct::is_direct(&queue)
                {
                    direct_replies.send(queue, message).await;
                    continue;
                }
                let publish = Address::queue(queue, false)
                    .and_then(|address| self.publish_of(address, message, None));
                match publish {
                    Ok(publish) => publishes.push(publish),
                    // Whatever became of it: the next server would fare no better.
                    Err(error) => {
                        let error = error.to_string();
                        warn!(error, "a reply could not be sent");
                    }
                }
            }
            if let Err(error) = self.line.write_all(&mut publishes).await {
                // The channel is gone, which its consumers report to those concerned.
                debug!(%error, "replies could not be published");
            }
        }
        .boxed()
    }

    fn is_direct(&self, queue: &str) -> bool {
        direct::is_direct(queue)
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        let closing = async {
            // Acknowledgements are only queued by now; the broker's answer to the close comes after them.
            if let Err(error) = self.line.channel.close(200, "OK".into()).await {
                debug!(%error, "the channel was closed already");
            }
        };
        within_limit("the channel", closing).boxed()
    }

    fn ack(&self, tags: &mut [u64]) {
        self.line.ack(tags);
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
            match self.mode {
                ChannelMode::Plain => self.send_freely(Ok(address), message).wait().await,
                ChannelMode::Confirm => {
                    let (waiting, answer) = oneshot::channel();
                    let sending = self.send_confirmed(Ok(address), message, waiting);
                    sending.wait().await?;
                    Confirm(Some(answer)).wait().await
                }
            }
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

/// A delivery of lapin as the contract has it.
fn read(delivery: lapin::Result<lapin::message::Delivery>) -> Result<Delivery, TransportError> {
    let delivery = delivery.map_err(refused_or_lost)?;
    Ok(Delivery {
        tag: delivery.delivery_tag,
        redelivered: delivery.redelivered,
        message: to_message(&delivery.properties, delivery.data),
    })
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
