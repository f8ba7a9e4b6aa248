//! The embedded broker: queues, consumers and acknowledgements in this process.
//!
//! It behaves as RabbitMQ does in the part of AMQP that this crate uses: competing consumers served in turn, prefetch, redelivery,
//! expiry, dead letters, priorities, limits, returned messages, confirms and exclusive queues; and it refuses what RabbitMQ
//! refuses. The differences are:
//!
//! - It keeps nothing on disk: a durable queue lives as long as its broker.
//! - It removes expired messages when something happens in their queue, not at the moment of expiry: dead letters may arrive later.
//! - A queue without a limit holds a million messages.
//!
//! One lock guards a broker. Nothing is awaited under the lock, and the only foreign code under it is a test's hook: deliveries go
//! into channels whose length is limited by the prefetch.

mod broker;
mod faults;
mod hooks;
mod queue;
mod refusals;
mod transaction;

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use futures_util::stream::{self, StreamExt};
use parking_lot::{Mutex, MutexGuard};
use smol_str::SmolStr;
use tokio::sync::{mpsc, oneshot, watch};

pub(crate) use self::broker::Broker;
use self::broker::{Publisher, State, closed};
pub use self::hooks::{Fate, Published, QueueState};
use self::queue::{ChannelState, Consumer, Queue};
use self::transaction::{Settlement, Transaction};
use super::channel::{Acknowledge, Channel, ChannelMode, Confirm, Deliveries, QueueKind, Sending};
use super::error::TransportError;
use super::limits;
use super::link::{Link, LinkStatus, Transport};
use super::message::{Delivery, Message, Reply};
use crate::error::OpenError;
use crate::queue::{QueueOptions, QueueStatus, QueueType};

/// Source of links to a broker in this process.
#[derive(Debug)]
pub(crate) struct MemoryTransport(pub(crate) Arc<Broker>);

impl Transport for MemoryTransport {
    fn connect(&self) -> BoxFuture<'_, Result<Arc<dyn Link>, OpenError>> {
        let mut state = self.0.state();
        if state.refuses_links {
            let refused = OpenError::Unreachable {
                endpoint: "memory:".to_owned(),
                hint: "a test has called `refuse_connections`",
                source: "the embedded broker refuses connections".into(),
            };
            return ready(Err(refused)).boxed();
        }
        let (status, _) = watch::channel(match &state.blocked {
            None => LinkStatus::Up,
            Some(reason) => LinkStatus::Blocked(reason.clone()),
        });
        let id = state.next_id();
        state.links.insert(id, status);
        let link: Arc<dyn Link> = Arc::new(MemoryLink {
            id,
            broker: self.0.clone(),
        });
        ready(Ok(link)).boxed()
    }
}

/// A connection to the embedded broker.
#[derive(Debug)]
struct MemoryLink {
    id: u64,
    broker: Arc<Broker>,
}

impl Link for MemoryLink {
    fn status(&self) -> watch::Receiver<LinkStatus> {
        match self.broker.state().links.get(&self.id) {
            Some(status) => status.subscribe(),
            None => watch::channel(LinkStatus::Lost(closed())).1,
        }
    }

    /// Every link is RabbitMQ's default user.
    fn user(&self) -> Option<SmolStr> {
        Some(SmolStr::new_static("guest"))
    }

    fn outdated(&self) -> BoxFuture<'_, ()> {
        std::future::pending().boxed()
    }

    fn open_channel(
        &self,
        mode: ChannelMode,
    ) -> BoxFuture<'_, Result<Arc<dyn Channel>, TransportError>> {
        let mut state = self.broker.state();
        if !state.links.contains_key(&self.id) {
            return ready(Err(closed())).boxed();
        }
        let id = state.next_id();
        let (sender, returns) = mpsc::unbounded_channel(); // Holds at most one message for each publish.
        state
            .channels
            .insert(id, ChannelState::new(self.id, sender));
        let channel: Arc<dyn Channel> = Arc::new(MemoryChannel {
            id,
            link: self.id,
            mode,
            broker: self.broker.clone(),
            returns: Mutex::new(Some(returns)),
            transaction: Mutex::default(),
        });
        ready(Ok(channel)).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.abandon();
        ready(()).boxed()
    }

    fn abandon(&self) {
        self.broker.state().close_link(self.id);
    }
}

impl Drop for MemoryLink {
    fn drop(&mut self) {
        self.abandon();
    }
}

#[derive(Debug)]
struct MemoryChannel {
    id: u64,
    link: u64,
    mode: ChannelMode,
    broker: Arc<Broker>,
    returns: Mutex<Option<mpsc::UnboundedReceiver<Message>>>,
    /// Used on a channel with transactions.
    transaction: Mutex<Transaction>,
}

impl MemoryChannel {
    fn open(&self) -> Result<MutexGuard<'_, State>, TransportError> {
        let state = self.broker.state();
        if state.channels.contains_key(&self.id) {
            Ok(state)
        } else {
            Err(closed())
        }
    }

    fn try_declare(&self, name: &str, kind: QueueKind<'_>) -> Result<(), TransportError> {
        limits::check_short("the queue's name", name)?;
        let mut state = self.open()?;
        let (owner, options) = match kind {
            QueueKind::Durable(options) => (None, options.clone()),
            QueueKind::Exclusive => (Some(self.link), QueueOptions::default()),
        };
        let Some(queue) = state.queue(name) else {
            if options.is_passive() {
                state.close_channel(self.id);
                return Err(unavailable(refusals::missing(name)));
            }
            let problem =
                refusals::name_problem(name).or_else(|| refusals::argument_problem(name, &options));
            if let Some(problem) = problem {
                state.close_channel(self.id);
                return Err(refused(problem));
            }
            state
                .queues
                .insert(name.to_owned(), Queue::new(name, owner, options));
            return Ok(());
        };
        queue.touch();
        let refusal = if queue.owner != owner {
            unavailable(refusals::locked(name))
        } else if options.is_passive() {
            return Ok(());
        } else if let Some(difference) = refusals::difference(name, &queue.options, &options) {
            refused(difference)
        } else {
            return Ok(());
        };
        state.close_channel(self.id);
        Err(refusal)
    }

    fn try_queue_status(&self, name: &str) -> Result<QueueStatus, TransportError> {
        limits::check_short("the queue's name", name)?;
        let mut state = self.open()?;
        let refusal = match state.queue(name) {
            None => refusals::missing(name),
            Some(queue) if queue.owner.is_some_and(|owner| owner != self.link) => {
                refusals::locked(name)
            }
            Some(queue) => {
                // RabbitMQ counts a declaration as use of the queue too.
                queue.touch();
                let number = |len| u32::try_from(len).unwrap_or(u32::MAX);
                return Ok(QueueStatus::new(
                    number(queue.ready.len()),
                    number(queue.consumers.len()),
                ));
            }
        };
        state.close_channel(self.id);
        Err(unavailable(refusal))
    }

    fn try_consume(
        &self,
        queue: &str,
        consumer: &str,
        acknowledge: Acknowledge,
    ) -> Result<Deliveries, TransportError> {
        let mut state = self.open()?;
        let id = state.next_id();
        let Some(target) = state.queue(queue) else {
            state.close_channel(self.id);
            return Err(unavailable(refusals::missing(queue)));
        };
        if target.owner.is_some_and(|owner| owner != self.link) {
            state.close_channel(self.id);
            return Err(unavailable(refusals::locked(queue)));
        }
        // The prefetch bounds the deliveries; without acknowledgements, the calls in flight bound them.
        let (sender, receiver) = mpsc::unbounded_channel();
        target.consumers.push_back(Consumer {
            id,
            channel: self.id,
            name: consumer.to_owned(),
            credit: match acknowledge {
                Acknowledge::Each { prefetch } => Some(prefetch),
                Acknowledge::None => None,
            },
            counts_deliveries: target.options.kind == QueueType::Quorum,
            deliveries: sender,
        });
        state.deliver(queue);
        Ok(deliveries(receiver))
    }

    fn try_get(&self, queue: &str) -> Result<Option<(Delivery, u32)>, TransportError> {
        let mut state = self.open()?;
        let refusal = match state.queue(queue) {
            None => refusals::missing(queue),
            Some(target) if target.owner.is_some_and(|owner| owner != self.link) => {
                refusals::locked(queue)
            }
            Some(_) => return Ok(state.get(self.id, queue)),
        };
        state.close_channel(self.id);
        Err(unavailable(refusal))
    }

    fn try_publish(&self, queue: SmolStr, message: Message) -> Result<Confirm, TransportError> {
        check(&queue, &message)?;
        let mut state = self.open()?;
        let (publisher, confirm) = match self.mode {
            ChannelMode::Plain => (Publisher::Channel(self.id), Confirm(None)),
            ChannelMode::Confirm => {
                let (outcome, answer) = oneshot::channel();
                (Publisher::Confirmed(outcome), Confirm(Some(answer)))
            }
            ChannelMode::Transaction => {
                drop(state);
                self.transaction.lock().publish(queue, message);
                return Ok(Confirm(None));
            }
        };
        state.publish(&self.broker, queue, message, publisher);
        Ok(confirm)
    }
}

/// Refuses a message over which RabbitMQ would close the channel or the connection.
fn check(queue: &str, message: &Message) -> Result<(), TransportError> {
    limits::check_short("the queue's name", queue)?;
    limits::check(message, limits::DEFAULT_FRAME_MAX)
}

fn deliveries(mut receiver: mpsc::UnboundedReceiver<Delivery>) -> Deliveries {
    stream::poll_fn(move |context| receiver.poll_recv(context).map(|next| next.map(Ok))).boxed()
}

fn refused(reason: String) -> TransportError {
    TransportError::Refused(Arc::new(reason.into()))
}

fn unavailable(reason: String) -> TransportError {
    TransportError::Unavailable(Arc::new(reason.into()))
}

impl Channel for MemoryChannel {
    fn is_open(&self) -> bool {
        self.open().is_ok()
    }

    fn frame_max(&self) -> usize {
        limits::DEFAULT_FRAME_MAX
    }

    fn declare_queue<'a>(
        &'a self,
        queue: &'a str,
        kind: QueueKind<'a>,
    ) -> BoxFuture<'a, Result<(), TransportError>> {
        ready(self.try_declare(queue, kind)).boxed()
    }

    fn queue_status<'a>(
        &'a self,
        queue: &'a str,
    ) -> BoxFuture<'a, Result<QueueStatus, TransportError>> {
        ready(self.try_queue_status(queue)).boxed()
    }

    fn consume<'a>(
        &'a self,
        queue: &'a str,
        consumer: &'a str,
        acknowledge: Acknowledge,
    ) -> BoxFuture<'a, Result<Deliveries, TransportError>> {
        ready(self.try_consume(queue, consumer, acknowledge)).boxed()
    }

    fn cancel<'a>(&'a self, consumer: &'a str) -> BoxFuture<'a, ()> {
        self.broker
            .state()
            .remove_consumers(|other| other.channel == self.id && other.name == consumer);
        ready(()).boxed()
    }

    fn publish(
        &self,
        queue: SmolStr,
        message: Message,
    ) -> Sending<'_, Result<Confirm, TransportError>> {
        Sending::Done(self.try_publish(queue, message))
    }

    fn reply(&self, replies: Vec<Reply>) -> BoxFuture<'_, ()> {
        if let Ok(mut state) = self.open() {
            for Reply { queue, message } in replies {
                // A reply that does not fit into AMQP is not sent.
                if check(&queue, &message).is_ok() {
                    state.publish(&self.broker, queue, message, Publisher::Channel(self.id));
                }
            }
        }
        ready(()).boxed()
    }

    fn is_direct_reply_to(&self, _: &str) -> bool {
        false
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.broker.state().close_channel(self.id);
        ready(()).boxed()
    }

    fn ack(&self, tags: &mut [u64]) {
        if self.mode == ChannelMode::Transaction {
            return self.transaction.lock().settle(tags, Settlement::Ack);
        }
        let mut state = self.broker.state();
        for tag in tags {
            state.settle(self.id, *tag, false);
        }
    }

    fn get<'a>(
        &'a self,
        queue: &'a str,
    ) -> BoxFuture<'a, Result<Option<(Delivery, u32)>, TransportError>> {
        ready(self.try_get(queue)).boxed()
    }

    fn commit(&self) -> BoxFuture<'_, Result<Vec<Message>, TransportError>> {
        let transaction = std::mem::take(&mut *self.transaction.lock());
        ready(self.open().and_then(|mut state| {
            let outcome = transaction.commit(&mut state, &self.broker, self.id);
            if outcome.is_err() {
                state.close_channel(self.id);
            }
            outcome
        }))
        .boxed()
    }

    fn requeue_all(&self) {
        *self.transaction.lock() = Transaction::default();
        self.broker.state().requeue_all(self.id);
    }

    fn acks_handled(&self) -> BoxFuture<'_, Result<(), TransportError>> {
        ready(self.open().map(drop)).boxed()
    }

    fn requeue(&self, tag: u64) {
        if self.mode == ChannelMode::Transaction {
            let mut transaction = self.transaction.lock();
            return transaction.settle(&[tag], Settlement::Requeue);
        }
        self.broker.state().settle(self.id, tag, true);
    }

    fn bind<'a>(
        &'a self,
        queue: &'a str,
        topic: &'a str,
    ) -> BoxFuture<'a, Result<(), TransportError>> {
        ready(self.open().and_then(|mut state| {
            limits::check_short("the topic", topic)?;
            if !state.has_queue(queue) {
                state.close_channel(self.id);
                return Err(unavailable(refusals::missing(queue)));
            }
            state.bind(queue, topic);
            Ok(())
        }))
        .boxed()
    }

    fn publish_to_topic(
        &self,
        topic: String,
        message: Message,
    ) -> BoxFuture<'_, Result<Confirm, TransportError>> {
        async move {
            check(&topic, &message)?;
            let is_mandatory = message.mandatory;
            let outcome = match self.open()?.route_to_topic(&topic, message) {
                false if is_mandatory => Err(TransportError::Unroutable),
                _ => Ok(()),
            };
            if self.mode != ChannelMode::Confirm {
                return Ok(Confirm(None));
            }
            let (confirmed, answer) = oneshot::channel();
            let _ = confirmed.send(outcome); // The receiver is here.
            Ok(Confirm(Some(answer)))
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

impl Drop for MemoryChannel {
    fn drop(&mut self) {
        self.broker.state().close_channel(self.id);
    }
}
