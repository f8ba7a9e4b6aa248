//! Consumers of a session: the queue that each reads, and its deliveries.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::stream::{Stream, StreamExt};

use super::served::QueueRole;
use crate::transport::{Deliveries, Delivery, TransportError};

/// A consumer of a session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Consumer {
    /// Index of the queue in the instance.
    pub(super) queue: usize,
    pub(super) role: QueueRole,
    /// 0 for the first consumer of a queue, which is always there.
    pub(super) number: u32,
}

impl Consumer {
    pub(super) fn first(queue: usize, role: QueueRole) -> Self {
        Self {
            queue,
            role,
            number: 0,
        }
    }

    /// A consumer of a retry queue.
    pub(super) fn of_retries(queue: usize, number: u32) -> Self {
        Self {
            queue,
            role: QueueRole::Retry,
            number,
        }
    }

    /// Name of the consumer on its channel.
    pub(super) fn name(self) -> String {
        let queue = self.queue;
        match (self.role, self.number) {
            (QueueRole::Main, _) => format!("rpc-{queue}"),
            (QueueRole::Retry, 0) => format!("rpc-{queue}-retry"),
            (QueueRole::Retry, number) => format!("rpc-{queue}-retry-{number}"),
        }
    }
}

/// Deliveries to a consumer. The last item is an error, with the reason if it is known: either side cancelled the consumer, or its channel
/// closed.
pub(super) struct ConsumerStream {
    consumer: Consumer,
    /// `None` after the last item.
    deliveries: Option<Deliveries>,
}

impl ConsumerStream {
    pub(super) fn new(consumer: Consumer, deliveries: Deliveries) -> Self {
        Self {
            consumer,
            deliveries: Some(deliveries),
        }
    }
}

impl Stream for ConsumerStream {
    type Item = (Consumer, Result<Delivery, Option<TransportError>>);

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(deliveries) = &mut self.deliveries else {
            return Poll::Ready(None);
        };
        let delivery = match ready!(deliveries.poll_next_unpin(cx)) {
            Some(Ok(delivery)) => Ok(delivery),
            ended => {
                self.deliveries = None;
                Err(ended.and_then(Result::err))
            }
        };
        Poll::Ready(Some((self.consumer, delivery)))
    }
}
