//! The embedded broker itself: its state, under one lock.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::panic::RefUnwindSafe;
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, MutexGuard};
use rustc_hash::FxHashMap;
use smol_str::SmolStr;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

use super::hooks::Decide;
use super::queue::{Channels, Consumer, Queue, Unsettled};
use crate::headers::{HeaderValue, Headers};
use crate::names::BROKER_DEATHS_HEADER;
use crate::transport::error::TransportError;
use crate::transport::link::LinkStatus;
use crate::transport::message::{Delivery, Message};

/// Brokers that are shared by name.
static NAMED: Mutex<BTreeMap<String, Weak<Broker>>> = Mutex::new(BTreeMap::new());

/// An in-process broker. It lives as long as a link to it.
pub(crate) struct Broker(Mutex<State>);

/// A panic leaves no state half changed. (The lock itself does not implement this trait.)
impl RefUnwindSafe for Broker {}

#[derive(Default)]
pub(crate) struct State {
    pub(super) links: BTreeMap<u64, watch::Sender<LinkStatus>>,
    pub(super) queues: FxHashMap<String, Queue>,
    pub(super) channels: Channels,
    /// Queues that are bound to a topic.
    pub(super) bindings: HashMap<String, Vec<String>>,
    pub(crate) decide: Option<Decide>,
    pub(crate) refuses_links: bool,
    /// The reason for which no messages are accepted at the moment.
    pub(super) blocked: Option<String>,
    /// Messages that arrived while the broker was blocked. Unbounded, as publishers of a blocked RabbitMQ keep their messages.
    pub(super) stalled: Vec<Stalled>,
    last_id: u64,
}

/// Receiver of the outcome of a message.
pub(super) enum Publisher {
    /// A channel. A mandatory message without a queue is returned to the channel. The channel does not learn of a refusal: the
    /// caller's deadline ends the call, as with RabbitMQ.
    Channel(u64),
    /// A publisher that waits for the confirm.
    Confirmed(oneshot::Sender<Result<(), TransportError>>),
}

/// A message that waits until the broker accepts messages again.
pub(super) struct Stalled {
    pub(super) queue: SmolStr,
    pub(super) message: Message,
    pub(super) publisher: Publisher,
    /// Runtime of the publisher, for tasks that the message starts later.
    pub(super) runtime: Handle,
}

impl Broker {
    /// Returns the broker of that name; without a name, a new one.
    pub(crate) fn open(name: &str) -> Arc<Self> {
        let new = || Arc::new(Self(Mutex::default()));
        if name.is_empty() {
            return new();
        }
        let mut named = NAMED.lock();
        named.retain(|_, broker| broker.strong_count() > 0);
        if let Some(broker) = named.get(name).and_then(Weak::upgrade) {
            return broker;
        }
        let broker = new();
        named.insert(name.to_owned(), Arc::downgrade(&broker));
        broker
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // Only an allocation could panic under the lock; the state is whole between statements.
        self.0.lock()
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Broker")
    }
}

impl State {
    pub(super) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Puts a message into a queue.
    pub(super) fn route(&mut self, name: &str, message: Message) -> Result<(), TransportError> {
        let queue = self.queues.get_mut(name);
        let Some(queue) = queue.filter(|queue| !queue.is_expired()) else {
            return Err(TransportError::Unroutable);
        };
        // Expired messages do not count against the limit.
        let mut expired = queue.deliver(&mut self.channels);
        let outcome = if queue.is_full() {
            Err(TransportError::Rejected)
        } else {
            expired.append(&mut queue.accept(&mut self.channels, message));
            Ok(())
        };
        self.dead_letter(name, expired);
        outcome
    }

    /// The queue of that name, unless it has expired.
    pub(super) fn queue(&mut self, name: &str) -> Option<&mut Queue> {
        if self.has_queue(name) {
            self.queues.get_mut(name)
        } else {
            None
        }
    }

    /// Returns `true` if there is a queue of that name; removes an expired one.
    pub(super) fn has_queue(&mut self, name: &str) -> bool {
        let Some(queue) = self.queues.get(name) else {
            return false;
        };
        let is_expired = queue.is_expired();
        if is_expired {
            self.queues.remove(name);
        }
        !is_expired
    }

    /// Number of unsettled deliveries from a queue.
    pub(super) fn unsettled(&self, queue: &str) -> usize {
        let channels = self.channels.values();
        let unsettled = channels.flat_map(|channel| channel.unsettled.values());
        unsettled
            .filter(|delivery| &*delivery.queue == queue)
            .count()
    }

    /// Binds a queue to a topic.
    pub(super) fn bind(&mut self, queue: &str, topic: &str) {
        let Self {
            bindings, queues, ..
        } = self;
        // Bindings end with their queues.
        bindings.retain(|_, bound| {
            bound.retain(|queue| queues.contains_key(queue));
            !bound.is_empty()
        });
        let bound = bindings.entry(topic.to_owned()).or_default();
        if !bound.iter().any(|other| other == queue) {
            bound.push(queue.to_owned());
        }
    }

    /// Puts a copy of a message into each queue that is bound to a topic. Returns `false` if there is none.
    pub(super) fn route_to_topic(&mut self, topic: &str, mut message: Message) -> bool {
        let bound = self.bindings.get(topic).cloned().unwrap_or_default();
        message.topic = Some(topic.into());
        let routed = bound.iter().filter(|queue| {
            let outcome = self.route(queue, message.clone());
            !matches!(outcome, Err(TransportError::Unroutable))
        });
        routed.count() > 0
    }

    /// Moves expired messages to the queue's dead-letter queue, if it has one.
    fn dead_letter(&mut self, queue: &str, expired: Vec<Message>) {
        if expired.is_empty() {
            return;
        }
        let target = self
            .queues
            .get(queue)
            .and_then(|queue| queue.options.dead_letter_queue.clone());
        let Some(target) = target else { return };
        for mut message in expired {
            message.expiration = None; // As RabbitMQ does, so that the message does not expire again.
            let death = [("queue", queue), ("reason", "expired")]
                .map(|(name, value)| (name.to_owned(), value.into()));
            let mut deaths = match message.headers.remove(BROKER_DEATHS_HEADER) {
                Some(HeaderValue::List(deaths)) => deaths,
                _ => Vec::new(),
            };
            deaths.insert(0, HeaderValue::Table(Headers::from_iter(death)));
            message
                .headers
                .insert(BROKER_DEATHS_HEADER, HeaderValue::List(deaths));
            let _ = self.route(&target, message); // Dropped if there is no such queue, as with RabbitMQ.
        }
    }

    /// Delivers ready messages of a queue.
    pub(super) fn deliver(&mut self, name: &str) {
        if let Some(queue) = self.queues.get_mut(name) {
            let expired = queue.deliver(&mut self.channels);
            self.dead_letter(name, expired);
        }
    }

    /// Settles a delivery, and gives its consumer the credit for another.
    pub(super) fn settle(&mut self, channel: u64, tag: u64, requeue: bool) {
        let Some(unsettled) = self
            .channels
            .get_mut(&channel)
            .and_then(|channel| channel.unsettled.remove(&tag))
        else {
            return;
        };
        let Some(queue) = self.queues.get_mut(&*unsettled.queue) else {
            return;
        };
        let mut consumers = queue.consumers.iter_mut();
        let consumer = consumers.find(|consumer| consumer.id == unsettled.consumer);
        if let Some(credit) = consumer.and_then(|consumer| consumer.credit.as_mut()) {
            *credit += 1;
        }
        if requeue {
            queue.give_back(unsettled.stored);
        }
        let expired = queue.deliver(&mut self.channels);
        self.dead_letter(&unsettled.queue, expired);
    }

    /// Takes the oldest message of a queue, for a channel. Returns the number of messages that are left, too.
    pub(super) fn get(&mut self, channel: u64, name: &str) -> Option<(Delivery, u32)> {
        let queue = self.queues.get_mut(name)?;
        let channel = self.channels.get_mut(&channel)?;
        let (expired, delivery) = queue.get(channel);
        let left = u32::try_from(queue.ready.len()).unwrap_or(u32::MAX);
        self.dead_letter(name, expired);
        Some((delivery?, left))
    }

    /// Requeues the unsettled deliveries of a channel, in the old order.
    pub(super) fn requeue_all(&mut self, channel: u64) {
        if let Some(channel) = self.channels.get_mut(&channel) {
            let unsettled = std::mem::take(&mut channel.unsettled);
            self.give_back(unsettled);
        }
    }

    /// Ends consumers.
    pub(super) fn remove_consumers(&mut self, gone: impl Fn(&Consumer) -> bool) {
        self.queues.retain(|_, queue| {
            let consumers = queue.consumers.len();
            queue.consumers.retain(|consumer| !gone(consumer));
            let has_lost = queue.consumers.len() < consumers;
            if has_lost {
                queue.touch();
            }
            // An exclusive queue is deleted with its last consumer.
            !(has_lost && queue.owner.is_some() && queue.consumers.is_empty())
        });
    }

    /// Ends the consumers of a channel and requeues its unsettled deliveries, in the old order.
    pub(super) fn close_channel(&mut self, id: u64) {
        let Some(channel) = self.channels.remove(&id) else {
            return;
        };
        self.remove_consumers(|consumer| consumer.channel == id);
        self.give_back(channel.unsettled);
    }

    /// Puts deliveries back into their queues, in the old order.
    fn give_back(&mut self, unsettled: FxHashMap<u64, Unsettled>) {
        let mut touched = Vec::new();
        let mut unsettled: Vec<_> = unsettled.into_iter().collect();
        unsettled.sort_unstable_by_key(|(tag, _)| Reverse(*tag));
        for (_, unsettled) in unsettled {
            if let Some(queue) = self.queues.get_mut(&*unsettled.queue) {
                queue.give_back(unsettled.stored);
                touched.push(unsettled.queue);
            }
        }
        touched.dedup();
        for queue in touched {
            self.deliver(&queue);
        }
    }

    pub(super) fn close_link(&mut self, id: u64) {
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

/// The error of a closed link.
pub(super) fn closed() -> TransportError {
    TransportError::lost("the connection to the embedded broker was closed")
}
