//! The embedded broker: queues, consumers and acknowledgements in this process.
//!
//! It does what RabbitMQ does with the part of AMQP that this crate uses: competing consumers served in turn, prefetch,
//! redelivery, per-message expiry, returned messages, confirms and exclusive queues. It keeps nothing on disk: a durable
//! queue lives as long as its broker.
//!
//! One lock guards a broker. Nothing is awaited and no code of others runs under it: deliveries go into channels whose
//! length the prefetch limits.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use futures_util::stream::{self, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::error::OpenError;

use super::{
    Acknowledge, Channel, ChannelMode, Confirm, Deliveries, Delivery, Link, LinkStatus, Message,
    QueueKind, Transport, TransportError,
};

/// The brokers that are shared by name.
static NAMED: Mutex<BTreeMap<String, Weak<Broker>>> = Mutex::new(BTreeMap::new());

/// How many messages one queue holds at most; beyond that publishes are refused, so that memory stays bounded.
const MAX_QUEUE_LEN: usize = 1_000_000;

/// An in-process broker. It lives as long as a link to it.
pub(crate) struct Broker(Mutex<State>);

#[derive(Default)]
struct State {
    links: HashMap<u64, watch::Sender<LinkStatus>>,
    queues: HashMap<String, Queue>,
    channels: HashMap<u64, ChannelState>,
    last_id: u64,
}

struct Queue {
    /// The link that it belongs to, for an exclusive queue.
    owner: Option<u64>,
    ready: VecDeque<Stored>,
    /// In the order in which they are served next.
    consumers: VecDeque<Consumer>,
}

struct Stored {
    message: Message,
    redelivered: bool,
    expires: Option<Instant>,
}

struct Consumer {
    channel: u64,
    name: String,
    /// How many more unacknowledged deliveries it takes; `None` if it acknowledges nothing.
    credit: Option<u16>,
    deliveries: mpsc::UnboundedSender<Delivery>,
}

/// What a channel holds: its unsettled deliveries by tag, which grow with age.
struct ChannelState {
    link: u64,
    last_tag: u64,
    unsettled: BTreeMap<u64, Unsettled>,
    returns: mpsc::UnboundedSender<Message>,
}

struct Unsettled {
    queue: String,
    consumer: String,
    stored: Stored,
}

impl Broker {
    /// A broker of its own without a name, else the one of that name.
    pub(crate) fn open(name: &str) -> Arc<Self> {
        let new = || Arc::new(Self(Mutex::default()));
        if name.is_empty() {
            return new();
        }
        let mut named = NAMED.lock().unwrap_or_else(PoisonError::into_inner);
        named.retain(|_, broker| broker.strong_count() > 0);
        if let Some(broker) = named.get(name).and_then(Weak::upgrade) {
            return broker;
        }
        let broker = new();
        named.insert(name.to_owned(), Arc::downgrade(&broker));
        broker
    }

    fn connect(self: Arc<Self>) -> Arc<dyn Link> {
        let (status, _) = watch::channel(LinkStatus::Up);
        let id = {
            let mut state = self.state();
            let id = state.next_id();
            state.links.insert(id, status);
            id
        };
        Arc::new(MemoryLink { id, broker: self })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic under the lock would have to come from an allocation; the state is whole between statements.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Broker")
    }
}

impl State {
    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Puts a message into a queue.
    fn route(&mut self, queue: &str, message: Message) -> Result<(), TransportError> {
        let target = self
            .queues
            .get_mut(queue)
            .ok_or(TransportError::Unroutable)?;
        if target.ready.len() >= MAX_QUEUE_LEN {
            return Err(TransportError::Rejected);
        }
        let expires = message
            .expiration
            .map(|ms| Instant::now() + Duration::from_millis(ms.into()));
        target.ready.push_back(Stored {
            message,
            redelivered: false,
            expires,
        });
        self.deliver(queue);
        Ok(())
    }

    /// Hands out what is ready to the consumers that have credit, each in its turn.
    fn deliver(&mut self, name: &str) {
        let Some(queue) = self.queues.get_mut(name) else {
            return;
        };
        let now = Instant::now();
        while queue
            .ready
            .front()
            .is_some_and(|stored| stored.expires.is_some_and(|at| at <= now))
        {
            queue.ready.pop_front();
        }
        while let Some(next) = queue
            .consumers
            .iter()
            .position(|consumer| consumer.credit != Some(0))
        {
            let Some(stored) = queue.ready.pop_front() else {
                return;
            };
            if stored.expires.is_some_and(|at| at <= now) {
                continue;
            }
            let Some(mut consumer) = queue.consumers.remove(next) else {
                return;
            };
            let Some(channel) = self.channels.get_mut(&consumer.channel) else {
                queue.ready.push_front(stored);
                continue; // The consumer's channel is gone, and so is the consumer now.
            };
            channel.last_tag += 1;
            let delivery = Delivery {
                tag: channel.last_tag,
                redelivered: stored.redelivered,
                message: stored.message.clone(),
            };
            // Sending fails when the receiver was dropped but the channel was not: the message stays unsettled, as it
            // would with a real broker.
            let _ = consumer.deliveries.send(delivery);
            if let Some(credit) = &mut consumer.credit {
                *credit -= 1;
                let unsettled = Unsettled {
                    queue: name.to_owned(),
                    consumer: consumer.name.clone(),
                    stored,
                };
                channel.unsettled.insert(channel.last_tag, unsettled);
            }
            queue.consumers.push_back(consumer);
        }
    }

    /// Takes a delivery back from a channel, and gives its consumer the credit for another.
    fn settle(&mut self, channel: u64, tag: u64, requeue: bool) {
        let Some(unsettled) = self
            .channels
            .get_mut(&channel)
            .and_then(|channel| channel.unsettled.remove(&tag))
        else {
            return;
        };
        let Some(queue) = self.queues.get_mut(&unsettled.queue) else {
            return;
        };
        let consumer = queue
            .consumers
            .iter_mut()
            .find(|consumer| consumer.channel == channel && consumer.name == unsettled.consumer);
        if let Some(credit) = consumer.and_then(|consumer| consumer.credit.as_mut()) {
            *credit += 1;
        }
        if requeue {
            queue.ready.push_front(Stored {
                redelivered: true,
                ..unsettled.stored
            });
        }
        self.deliver(&unsettled.queue);
    }

    /// Ends a channel's consumers and requeues what it had not settled, in the old order.
    fn close_channel(&mut self, id: u64) {
        let Some(channel) = self.channels.remove(&id) else {
            return;
        };
        for queue in self.queues.values_mut() {
            queue.consumers.retain(|consumer| consumer.channel != id);
        }
        let mut touched = Vec::new();
        for (_, unsettled) in channel.unsettled.into_iter().rev() {
            if let Some(queue) = self.queues.get_mut(&unsettled.queue) {
                queue.ready.push_front(Stored {
                    redelivered: true,
                    ..unsettled.stored
                });
                touched.push(unsettled.queue);
            }
        }
        touched.dedup();
        for queue in touched {
            self.deliver(&queue);
        }
    }

    fn close_link(&mut self, id: u64) {
        if let Some(status) = self.links.remove(&id) {
            status.send_replace(LinkStatus::Lost(closed()));
        }
        let channels: Vec<u64> = self
            .channels
            .iter()
            .filter(|(_, channel)| channel.link == id)
            .map(|(channel, _)| *channel)
            .collect();
        for channel in channels {
            self.close_channel(channel);
        }
        self.queues.retain(|_, queue| queue.owner != Some(id));
    }
}

/// Links to a broker of this process.
#[derive(Debug)]
pub(crate) struct MemoryTransport(pub(crate) Arc<Broker>);

impl Transport for MemoryTransport {
    fn connect(&self) -> BoxFuture<'_, Result<Arc<dyn Link>, OpenError>> {
        ready(Ok(self.0.clone().connect())).boxed()
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
        let channel = ChannelState {
            link: self.id,
            last_tag: 0,
            unsettled: BTreeMap::new(),
            returns: sender,
        };
        state.channels.insert(id, channel);
        let channel: Arc<dyn Channel> = Arc::new(MemoryChannel {
            id,
            link: self.id,
            mode,
            broker: self.broker.clone(),
            returns: Mutex::new(Some(returns)),
        });
        ready(Ok(channel)).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.broker.state().close_link(self.id);
        ready(()).boxed()
    }
}

impl Drop for MemoryLink {
    fn drop(&mut self) {
        self.broker.state().close_link(self.id);
    }
}

#[derive(Debug)]
struct MemoryChannel {
    id: u64,
    link: u64,
    mode: ChannelMode,
    broker: Arc<Broker>,
    returns: Mutex<Option<mpsc::UnboundedReceiver<Message>>>,
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

    fn try_declare(&self, name: &str, kind: QueueKind) -> Result<(), TransportError> {
        let mut state = self.open()?;
        let owner = (kind == QueueKind::Exclusive).then_some(self.link);
        match state.queues.get(name) {
            Some(queue) if queue.owner == owner => Ok(()),
            Some(_) => {
                state.close_channel(self.id);
                Err(refused(format!(
                    "queue '{name}' exists and is exclusive to another connection, or is not exclusive"
                )))
            }
            None => {
                let queue = Queue {
                    owner,
                    ready: VecDeque::new(),
                    consumers: VecDeque::new(),
                };
                state.queues.insert(name.to_owned(), queue);
                Ok(())
            }
        }
    }

    fn try_consume(
        &self,
        queue: &str,
        consumer: &str,
        acknowledge: Acknowledge,
    ) -> Result<Deliveries, TransportError> {
        let mut state = self.open()?;
        let Some(target) = state.queues.get_mut(queue) else {
            state.close_channel(self.id);
            return Err(refused(format!("there is no queue '{queue}'")));
        };
        if target.owner.is_some_and(|owner| owner != self.link) {
            state.close_channel(self.id);
            return Err(refused(format!(
                "queue '{queue}' is exclusive to another connection"
            )));
        }
        // Bounded by the consumer's prefetch, or, without acknowledgements, by the calls in flight.
        let (sender, receiver) = mpsc::unbounded_channel();
        target.consumers.push_back(Consumer {
            channel: self.id,
            name: consumer.to_owned(),
            credit: match acknowledge {
                Acknowledge::Each { prefetch } => Some(prefetch),
                Acknowledge::None => None,
            },
            deliveries: sender,
        });
        state.deliver(queue);
        Ok(stream::unfold(receiver, |mut receiver| async move {
            receiver
                .recv()
                .await
                .map(|delivery| (Ok(delivery), receiver))
        })
        .boxed())
    }

    fn try_publish(&self, queue: &str, message: Message) -> Result<(), TransportError> {
        let mut state = self.open()?;
        if self.mode == ChannelMode::Confirm {
            return state.route(queue, message);
        }
        if state.queues.contains_key(queue) {
            // Without confirms nobody learns of a refusal: the caller's deadline tells, as it does with RabbitMQ.
            let _ = state.route(queue, message);
        } else if let Some(channel) = state.channels.get(&self.id) {
            let _ = channel.returns.send(message); // Nobody listens: nobody wants to know.
        }
        Ok(())
    }
}

fn closed() -> TransportError {
    TransportError::lost("the connection to the embedded broker was closed")
}

fn refused(reason: String) -> TransportError {
    TransportError::Refused(Arc::new(reason.into()))
}

impl Channel for MemoryChannel {
    fn is_open(&self) -> bool {
        self.open().is_ok()
    }

    fn declare_queue<'a>(
        &'a self,
        queue: &'a str,
        kind: QueueKind,
    ) -> BoxFuture<'a, Result<(), TransportError>> {
        ready(self.try_declare(queue, kind)).boxed()
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
        for queue in self.broker.state().queues.values_mut() {
            queue
                .consumers
                .retain(|other| other.channel != self.id || other.name != consumer);
        }
        ready(()).boxed()
    }

    fn publish(
        &self,
        queue: String,
        message: Message,
    ) -> BoxFuture<'_, Result<Confirm, TransportError>> {
        async move {
            match self.try_publish(&queue, message) {
                Ok(()) => Ok(Confirm(None)),
                Err(error) => Err(error),
            }
        }
        .boxed()
    }

    fn reply(&self, tag: u64, queue: String, message: Message) -> BoxFuture<'_, ()> {
        async move {
            if let Ok(mut state) = self.open() {
                let _ = state.route(&queue, message); // The caller may be gone.
                state.settle(self.id, tag, false);
            }
        }
        .boxed()
    }

    fn flush(&self) -> BoxFuture<'_, ()> {
        ready(()).boxed()
    }

    fn ack(&self, tag: u64) {
        self.broker.state().settle(self.id, tag, false);
    }

    fn requeue(&self, tag: u64) {
        self.broker.state().settle(self.id, tag, true);
    }

    fn returns(&self) -> mpsc::UnboundedReceiver<Message> {
        let mut returns = self.returns.lock().unwrap_or_else(PoisonError::into_inner);
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
