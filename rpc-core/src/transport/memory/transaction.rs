//! Transactions of the embedded broker.

use std::sync::Arc;

use smol_str::SmolStr;
use tokio::sync::oneshot;

use super::broker::{Broker, Publisher, State};
use super::refused;
use crate::transport::error::TransportError;
use crate::transport::message::Message;

/// Publishes and settlements of a channel that wait for its commit.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    published: Vec<(SmolStr, Message)>,
    settled: Vec<(u64, Settlement)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settlement {
    Ack,
    Requeue,
}

impl Transaction {
    pub(super) fn publish(&mut self, queue: SmolStr, message: Message) {
        self.published.push((queue, message));
    }

    pub(super) fn settle(&mut self, tags: &[u64], settlement: Settlement) {
        self.settled
            .extend(tags.iter().map(|tag| (*tag, settlement)));
    }

    /// Publishes, then settles, as RabbitMQ does: although a message was returned or refused. Returns the returned messages.
    pub(super) fn commit(
        self,
        state: &mut State,
        broker: &Arc<Broker>,
        channel: u64,
    ) -> Result<Vec<Message>, TransportError> {
        let (mut returned, mut is_refused) = (Vec::new(), false);
        for (queue, message) in self.published {
            let (confirm, mut outcome) = oneshot::channel();
            let copy = message.clone();
            state.publish(broker, queue, message, Publisher::Confirmed(confirm));
            match outcome.try_recv() {
                Ok(Err(TransportError::Unroutable)) => returned.push(copy),
                Ok(Err(_)) => is_refused = true,
                // A message that waits for a blocked broker is neither returned nor refused.
                Ok(Ok(())) | Err(_) => {}
            }
        }
        for (tag, settlement) in self.settled {
            state.settle(channel, tag, settlement == Settlement::Requeue);
        }
        match is_refused {
            true => Err(refused(
                "PRECONDITION_FAILED - partial tx completion".to_owned(),
            )),
            false => Ok(returned),
        }
    }
}
