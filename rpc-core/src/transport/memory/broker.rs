//! The embedded broker itself: queues and who consumes them, under one lock.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::transport::{Delivery, LinkStatus, Message, TransportError};

/// The brokers that are shared by name.
static NAMED: Mutex<BTreeMap<String, Weak<Broker>>> = Mutex::new(BTreeMap::new());

/// How many messages one queue holds at most; beyond that publishes are refused, so that memory stays bounded.
const MAX_QUEUE_LEN: usize = 1_000_000;

/// An in-process broker. It lives as long as a link to it.
pub(crate) struct Broker(Mutex<State>);

#[derive(Default)]
pub(super) struct State {
    pub(super) links: HashMap<u64, watch::Sender<LinkStatus>>,
    pub(super) queues: HashMap<String, Queue>,
    pub(super) channels: HashMap<u64, ChannelState>,
    last_id: u64,
}

pub(super) struct Queue {
    /// The link that it belongs to, for an exclusive queue.
    pub(super) owner: Option<u64>,
    pub(super) ready: VecDeque<Stored>,
    /// In the order in which they are served next.
    pub(super) consumers: VecDeque<Consumer>,
}

pub(super) struct Stored {
    message: Message,
    redelivered: bool,
    expires: Option<Instant>,
}

pub(super) struct Consumer {
    pub(super) channel: u64,
    pub(super) name: String,
    /// How many more unacknowledged deliveries it takes; `None` if it acknowledges nothing.
    pub(super) credit: Option<u16>,
    pub(super) deliveries: mpsc::UnboundedSender<Delivery>,
}

/// What a channel holds: its unsettled deliveries by tag, which grow with age.
pub(super) struct ChannelState {
    link: u64,
    last_tag: u64,
    unsettled: BTreeMap<u64, Unsettled>,
    pub(super) returns: mpsc::UnboundedSender<Message>,
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

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
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
    pub(super) fn new(owner: Option<u64>) -> Self {
        Self {
            owner,
            ready: VecDeque::new(),
            consumers: VecDeque::new(),
        }
    }
}

impl ChannelState {
    pub(super) fn new(link: u64, returns: mpsc::UnboundedSender<Message>) -> Self {
        Self {
            link,
            last_tag: 0,
            unsettled: BTreeMap::new(),
            returns,
        }
    }
}

impl State {
    pub(super) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Puts a message into a queue.
    pub(super) fn route(&mut self, queue: &str, message: Message) -> Result<(), TransportError> {
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
    pub(super) fn deliver(&mut self, name: &str) {
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
    pub(super) fn settle(&mut self, channel: u64, tag: u64, requeue: bool) {
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
    pub(super) fn close_channel(&mut self, id: u64) {
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
