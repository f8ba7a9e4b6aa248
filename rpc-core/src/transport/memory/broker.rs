//! The embedded broker itself: queues and who consumes them, under one lock.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::faults::{Decide, Stalled};
use crate::fast_hash::FastMap;
use crate::headers::{HeaderValue, Headers};
use crate::queue::QueueOptions;
use crate::transport::{DELIVERY_COUNT, Delivery, LinkStatus, Message, TransportError};

/// The brokers that are shared by name.
static NAMED: Mutex<BTreeMap<String, Weak<Broker>>> = Mutex::new(BTreeMap::new());

/// How many messages one queue holds at most; beyond that publishes are refused, so that memory stays bounded.
const MAX_QUEUE_LEN: usize = 1_000_000;

/// An in-process broker. It lives as long as a link to it.
pub(crate) struct Broker(Mutex<State>);

#[derive(Default)]
pub(crate) struct State {
    pub(super) links: BTreeMap<u64, watch::Sender<LinkStatus>>,
    pub(super) queues: FastMap<String, Queue>,
    pub(super) channels: Channels,
    /// Who hears the notices for a topic.
    pub(super) listeners: HashMap<String, Vec<Listener>>,
    pub(crate) decide: Option<Decide>,
    pub(crate) refuses_links: bool,
    /// Why no messages are taken at the moment.
    pub(super) blocked: Option<String>,
    /// As unbounded as what publishers of a blocked RabbitMQ keep.
    pub(super) stalled: Vec<Stalled>,
    last_id: u64,
}

/// By their ids, of which there are few, so that this is faster than hashing.
type Channels = BTreeMap<u64, ChannelState>;

pub(super) struct Listener {
    pub(super) channel: u64,
    pub(super) notices: mpsc::UnboundedSender<Delivery>,
}

pub(crate) struct Queue {
    name: Arc<str>,
    /// The link that it belongs to, for an exclusive queue.
    pub(super) owner: Option<u64>,
    pub(super) options: QueueOptions,
    /// When it was last declared or consumed from.
    last_used: Instant,
    pub(super) ready: VecDeque<Stored>,
    /// In the order in which they are served next.
    pub(super) consumers: VecDeque<Consumer>,
}

pub(super) struct Stored {
    message: Message,
    redelivered: bool,
    /// How often it was delivered and came back.
    deliveries: u32,
    expires: Option<Instant>,
}

pub(super) struct Consumer {
    pub(super) id: u64,
    pub(super) channel: u64,
    pub(super) name: String,
    /// How many more unacknowledged deliveries it takes; `None` if it acknowledges nothing.
    pub(super) credit: Option<u16>,
    /// Whether its queue is one that counts, as quorum queues do.
    pub(super) counts_deliveries: bool,
    pub(super) deliveries: mpsc::UnboundedSender<Delivery>,
}

/// What a channel holds: its unsettled deliveries by tag, which grow with time.
pub(super) struct ChannelState {
    link: u64,
    last_tag: u64,
    unsettled: FastMap<u64, Unsettled>,
    pub(super) returns: mpsc::UnboundedSender<Message>,
}

struct Unsettled {
    queue: Arc<str>,
    consumer: u64,
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

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // A panic under the lock would have to come from an allocation; the state is whole between statements.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Broker")
    }
}

impl Queue {
    pub(super) fn new(name: &str, owner: Option<u64>, options: QueueOptions) -> Self {
        Self {
            name: name.into(),
            owner,
            options,
            last_used: Instant::now(),
            ready: VecDeque::new(),
            consumers: VecDeque::new(),
        }
    }

    pub(super) fn touch(&mut self) {
        self.last_used = Instant::now();
    }

    /// Whether nobody has used it for as long as its options say.
    fn is_expired(&self) -> bool {
        self.consumers.is_empty()
            && self
                .options
                .expires
                .is_some_and(|after| self.last_used.elapsed() >= after)
    }

    fn is_full(&self) -> bool {
        let limit = self
            .options
            .max_length
            .and_then(|limit| usize::try_from(limit).ok())
            .unwrap_or(MAX_QUEUE_LEN);
        self.ready.len() >= limit.min(MAX_QUEUE_LEN)
    }

    /// The priority that a message counts as.
    fn priority(&self, message: &Message) -> u8 {
        let highest = self.options.max_priority.unwrap_or(0);
        message.priority.unwrap_or(0).min(highest)
    }

    /// Puts a message behind those of its priority and higher ones.
    fn push(&mut self, stored: Stored) {
        let priority = self.priority(&stored.message);
        let before = self
            .ready
            .iter()
            .rposition(|other| self.priority(&other.message) >= priority);
        self.ready
            .insert(before.map_or(0, |index| index + 1), stored);
    }

    /// Takes a new message, for a consumer or to keep. Returns what has expired.
    fn accept(&mut self, channels: &mut Channels, message: Message) -> Vec<Message> {
        let own = message
            .expiration
            .map(|ms| Duration::from_millis(ms.into()));
        let limit = own.into_iter().chain(self.options.message_ttl).min();
        let stored = Stored {
            message,
            redelivered: false,
            deliveries: 0,
            // Both limits are ten years at most.
            expires: limit.map(|limit| Instant::now() + limit),
        };
        // A consumer that has credit is given it, however short its time is: nothing else waits then.
        match self.hand_out(channels, stored) {
            None => Vec::new(),
            Some(stored) => {
                self.push(stored);
                self.deliver(channels)
            }
        }
    }

    /// Hands out what is ready to the consumers that have credit, each in its turn. Returns what has expired.
    fn deliver(&mut self, channels: &mut Channels) -> Vec<Message> {
        let mut expired = Vec::new();
        if !self.ready.is_empty() {
            let now = Instant::now();
            while let Some(stored) = self.ready.pop_front() {
                if stored.expires.is_some_and(|at| at <= now) {
                    expired.push(stored.message);
                } else if let Some(stored) = self.hand_out(channels, stored) {
                    self.ready.push_front(stored);
                    break;
                }
            }
        }
        expired
    }

    /// Gives a message to the next consumer that has credit; returns it if there is none.
    fn hand_out(&mut self, channels: &mut Channels, stored: Stored) -> Option<Stored> {
        let has_credit = |consumer: &Consumer| consumer.credit != Some(0);
        let Some(next) = self.consumers.iter().position(has_credit) else {
            return Some(stored);
        };
        let consumer = &mut self.consumers[next];
        let Some(channel) = channels.get_mut(&consumer.channel) else {
            return Some(stored); // Consumers end with their channels.
        };
        channel.hand_out(&self.name, consumer, stored);
        self.consumers.rotate_left(next + 1);
        None
    }

    /// Puts a message back before those of its priority and lower ones.
    fn give_back(&mut self, stored: Stored) {
        let priority = self.priority(&stored.message);
        let place = self
            .ready
            .iter()
            .position(|other| self.priority(&other.message) <= priority);
        let stored = Stored {
            redelivered: true,
            deliveries: stored.deliveries + 1,
            ..stored
        };
        self.ready.insert(place.unwrap_or(self.ready.len()), stored);
    }
}

impl ChannelState {
    pub(super) fn new(link: u64, returns: mpsc::UnboundedSender<Message>) -> Self {
        Self {
            link,
            last_tag: 0,
            unsettled: FastMap::default(),
            returns,
        }
    }

    /// Delivers a message to a consumer of this channel.
    fn hand_out(&mut self, queue: &Arc<str>, consumer: &mut Consumer, stored: Stored) {
        self.last_tag += 1;
        let tag = self.last_tag;
        let redelivered = stored.redelivered;
        let message = match &mut consumer.credit {
            None => stored.message,
            Some(credit) => {
                *credit -= 1;
                let mut message = stored.message.clone();
                if stored.deliveries > 0 && consumer.counts_deliveries {
                    message.headers.insert(DELIVERY_COUNT, stored.deliveries);
                }
                let unsettled = Unsettled {
                    queue: queue.clone(),
                    consumer: consumer.id,
                    stored,
                };
                self.unsettled.insert(tag, unsettled);
                message
            }
        };
        // Sending fails when the receiver was dropped but the channel was not: the message stays unsettled, as it would with
        // a real broker.
        let _ = consumer.deliveries.send(Delivery {
            tag,
            redelivered,
            message,
        });
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
        // What has expired takes no room.
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

    /// Whether there is a queue of that name; removes one that has expired.
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

    /// How many deliveries from a queue have not been settled.
    pub(super) fn unsettled(&self, queue: &str) -> usize {
        let channels = self.channels.values();
        let unsettled = channels.flat_map(|channel| channel.unsettled.values());
        unsettled
            .filter(|delivery| &*delivery.queue == queue)
            .count()
    }

    /// Hands a notice to all who listen to its topic.
    pub(super) fn notify(&mut self, topic: &str, message: &Message) {
        for listener in self.listeners.get(topic).into_iter().flatten() {
            let delivery = Delivery {
                tag: 0,
                redelivered: false,
                message: message.clone(),
            };
            let _ = listener.notices.send(delivery); // It may have lost interest.
        }
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
            message.expiration = None; // As RabbitMQ does, so that it does not expire there too.
            let death = [("queue", queue), ("reason", "expired")]
                .map(|(name, value)| (name.to_owned(), value.into()));
            let mut deaths = match message.headers.remove("x-death") {
                Some(HeaderValue::List(deaths)) => deaths,
                _ => Vec::new(),
            };
            deaths.insert(0, HeaderValue::Table(Headers::from_iter(death)));
            message.headers.insert("x-death", HeaderValue::List(deaths));
            let _ = self.route(&target, message); // Lost without the queue, as with RabbitMQ.
        }
    }

    /// Hands out what is ready in a queue.
    pub(super) fn deliver(&mut self, name: &str) {
        if let Some(queue) = self.queues.get_mut(name) {
            let expired = queue.deliver(&mut self.channels);
            self.dead_letter(name, expired);
        }
    }

    /// Takes a delivery back from a channel, and gives its consumer the credit for another.
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

    /// Ends consumers.
    pub(super) fn remove_consumers(&mut self, gone: impl Fn(&Consumer) -> bool) {
        self.queues.retain(|_, queue| {
            let consumers = queue.consumers.len();
            queue.consumers.retain(|consumer| !gone(consumer));
            let has_lost = queue.consumers.len() < consumers;
            if has_lost {
                queue.touch();
            }
            // An exclusive queue goes with its last consumer.
            !(has_lost && queue.owner.is_some() && queue.consumers.is_empty())
        });
    }

    /// Ends a channel's consumers and requeues what it had not settled, in the old order.
    pub(super) fn close_channel(&mut self, id: u64) {
        let Some(channel) = self.channels.remove(&id) else {
            return;
        };
        self.listeners.retain(|_, listeners| {
            listeners.retain(|listener| listener.channel != id);
            !listeners.is_empty()
        });
        self.remove_consumers(|consumer| consumer.channel == id);
        let mut touched = Vec::new();
        let mut unsettled: Vec<_> = channel.unsettled.into_iter().collect();
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

/// What a closed link says.
pub(super) fn closed() -> TransportError {
    TransportError::lost("the connection to the embedded broker was closed")
}
