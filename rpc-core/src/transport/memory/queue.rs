//! Queues of the embedded broker, their consumers, and the deliveries that channels hold.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::names::DELIVERY_COUNT;
use crate::queue::{QueueOptions, QueueType};
use crate::transport::message::{Delivery, Message};

/// Channels by their ids. There are few, so this is faster than hashing.
pub(super) type Channels = BTreeMap<u64, ChannelState>;

/// Limit of messages in a queue. A full queue refuses publishes, so that memory stays bounded.
const MAX_QUEUE_LEN: usize = 1_000_000;

/// In place of the id of a consumer, for a message that was taken without one.
const NO_CONSUMER: u64 = 0;

pub(super) struct Queue {
    name: Arc<str>,
    /// The link that owns the queue, if the queue is exclusive.
    pub(super) owner: Option<u64>,
    pub(super) options: QueueOptions,
    /// Time of the last declaration or consumption.
    last_used: Instant,
    pub(super) ready: VecDeque<Stored>,
    /// Consumers in the order in which they are served next.
    pub(super) consumers: VecDeque<Consumer>,
}

pub(super) struct Stored {
    message: Message,
    redelivered: bool,
    /// Number of times that the message was delivered and came back.
    deliveries: u32,
    expires: Option<Instant>,
}

pub(super) struct Consumer {
    pub(super) id: u64,
    pub(super) channel: u64,
    pub(super) name: String,
    /// Number of further unacknowledged deliveries that the consumer takes; `None` without acknowledgements.
    pub(super) credit: Option<u16>,
    /// `true` if the queue counts deliveries, as quorum queues do.
    pub(super) counts_deliveries: bool,
    pub(super) deliveries: mpsc::UnboundedSender<Delivery>,
}

/// State of a channel: its unsettled deliveries by tag. Tags grow with time.
pub(super) struct ChannelState {
    pub(super) link: u64,
    last_tag: u64,
    pub(super) unsettled: FxHashMap<u64, Unsettled>,
    pub(super) returns: mpsc::UnboundedSender<Message>,
}

pub(super) struct Unsettled {
    pub(super) queue: Arc<str>,
    pub(super) consumer: u64,
    pub(super) stored: Stored,
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

    /// Returns `true` if the queue was unused for as long as its options say.
    pub(super) fn is_expired(&self) -> bool {
        self.consumers.is_empty()
            && self
                .options
                .expires
                .is_some_and(|after| self.last_used.elapsed() >= after)
    }

    pub(super) fn is_full(&self) -> bool {
        let limit = self
            .options
            .max_length
            .and_then(|limit| usize::try_from(limit).ok())
            .unwrap_or(MAX_QUEUE_LEN);
        self.ready.len() >= limit.min(MAX_QUEUE_LEN)
    }

    /// The priority that counts for a message.
    fn priority(&self, message: &Message) -> u8 {
        let highest = self.options.max_priority.unwrap_or(0);
        message.priority.unwrap_or(0).min(highest)
    }

    /// Puts a message behind those of its priority and of higher ones.
    fn push(&mut self, stored: Stored) {
        let priority = self.priority(&stored.message);
        let before = self
            .ready
            .iter()
            .rposition(|other| self.priority(&other.message) >= priority);
        self.ready
            .insert(before.map_or(0, |index| index + 1), stored);
    }

    /// Takes a new message, for a consumer or to keep. Returns expired messages.
    pub(super) fn accept(&mut self, channels: &mut Channels, message: Message) -> Vec<Message> {
        let own = message
            .expiration
            .map(|ms| Duration::from_millis(ms.into()));
        let limit = own.into_iter().chain(self.options.message_ttl).min();
        let stored = Stored {
            message,
            redelivered: false,
            deliveries: 0,
            // Both limits are at most ten years.
            expires: limit.map(|limit| Instant::now() + limit),
        };
        // A consumer with credit gets the message, however short its expiration is: no other message waits then.
        match self.hand_out(channels, stored) {
            None => Vec::new(),
            Some(stored) => {
                self.push(stored);
                self.deliver(channels)
            }
        }
    }

    /// Delivers ready messages to consumers with credit, each in its turn. Returns expired messages.
    pub(super) fn deliver(&mut self, channels: &mut Channels) -> Vec<Message> {
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

    /// Takes the oldest message for a channel. Returns expired messages, too.
    pub(super) fn get(&mut self, channel: &mut ChannelState) -> (Vec<Message>, Option<Delivery>) {
        let (mut expired, now) = (Vec::new(), Instant::now());
        while let Some(stored) = self.ready.pop_front() {
            if stored.expires.is_some_and(|at| at <= now) {
                expired.push(stored.message);
            } else {
                let is_counted = self.options.kind == QueueType::Quorum;
                let delivery = channel.hold(&self.name, NO_CONSUMER, is_counted, stored);
                return (expired, Some(delivery));
            }
        }
        (expired, None)
    }

    /// Delivers a message to the next consumer with credit; returns the message if there is none.
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

    /// Puts a message back before those of its priority and of lower ones.
    pub(super) fn give_back(&mut self, stored: Stored) {
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
            unsettled: FxHashMap::default(),
            returns,
        }
    }

    /// Delivers a message to a consumer of this channel.
    fn hand_out(&mut self, queue: &Arc<str>, consumer: &mut Consumer, stored: Stored) {
        let delivery = match &mut consumer.credit {
            None => Delivery {
                tag: self.next_tag(),
                redelivered: stored.redelivered,
                message: stored.message,
            },
            Some(credit) => {
                *credit -= 1;
                self.hold(queue, consumer.id, consumer.counts_deliveries, stored)
            }
        };
        // Sending fails when the receiver was dropped but the channel was not: the message stays unsettled, as with RabbitMQ.
        let _ = consumer.deliveries.send(delivery);
    }

    /// Delivers a message that has to be settled.
    fn hold(
        &mut self,
        queue: &Arc<str>,
        consumer: u64,
        is_counted: bool,
        stored: Stored,
    ) -> Delivery {
        let mut message = stored.message.clone();
        if stored.deliveries > 0 && is_counted {
            message.headers.insert(DELIVERY_COUNT, stored.deliveries);
        }
        let (tag, redelivered) = (self.next_tag(), stored.redelivered);
        let unsettled = Unsettled {
            queue: queue.clone(),
            consumer,
            stored,
        };
        self.unsettled.insert(tag, unsettled);
        Delivery {
            tag,
            redelivered,
            message,
        }
    }

    fn next_tag(&mut self) -> u64 {
        self.last_tag += 1;
        self.last_tag
    }
}
