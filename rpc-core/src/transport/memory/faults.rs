//! What a test can do to the embedded broker.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::broker::{Broker, State};
use crate::testing::{Fate, Published, QueueState};
use crate::transport::{LinkStatus, Message, TransportError};

/// Decides what becomes of each message.
pub(crate) type Decide = Box<dyn FnMut(&Published<'_>) -> Fate + Send>;

/// A message that waits until the broker takes messages again.
pub(super) struct Stalled {
    queue: String,
    message: Message,
    /// Who wants to know what became of it.
    waiting: Option<oneshot::Sender<Result<(), TransportError>>>,
}

impl State {
    pub(crate) fn lose_links(&mut self) {
        let links: Vec<u64> = self.links.keys().copied().collect();
        for link in links {
            self.close_link(link);
        }
    }

    pub(crate) fn block(&mut self, reason: String) {
        for status in self.links.values() {
            status.send_replace(LinkStatus::Blocked(reason.clone()));
        }
        self.blocked = Some(reason);
    }

    pub(crate) fn unblock(&mut self) {
        self.blocked = None;
        for status in self.links.values() {
            status.send_replace(LinkStatus::Up);
        }
        for stalled in std::mem::take(&mut self.stalled) {
            let outcome = self.route(&stalled.queue, stalled.message);
            if let Some(waiting) = stalled.waiting {
                let _ = waiting.send(outcome); // The call may be over.
            }
        }
    }

    pub(crate) fn look_into(&self, name: &str) -> Option<QueueState> {
        let queue = self.queues.get(name)?;
        Some(QueueState {
            ready: queue.ready.len(),
            unsettled: self.unsettled(name),
            consumers: queue.consumers.len(),
        })
    }

    /// Publishes a message as the test has it; without one, simply to its queue.
    pub(super) fn publish(
        &mut self,
        broker: &Arc<Broker>,
        queue: &str,
        message: Message,
        waiting: Option<oneshot::Sender<Result<(), TransportError>>>,
    ) {
        if self.blocked.is_some() {
            self.stalled.push(Stalled {
                queue: queue.to_owned(),
                message,
                waiting,
            });
            return;
        }
        let outcome = self.publish_now(broker, queue, message);
        if let Some(waiting) = waiting {
            let _ = waiting.send(outcome);
        }
    }

    fn publish_now(
        &mut self,
        broker: &Arc<Broker>,
        queue: &str,
        message: Message,
    ) -> Result<(), TransportError> {
        let fate = match &mut self.decide {
            None => Fate::Deliver,
            Some(decide) => decide(&Published {
                queue,
                kind: message.kind.as_deref(),
                correlation_id: message.correlation_id.as_deref(),
                reply_to: message.reply_to.as_deref(),
                body: &message.body,
            }),
        };
        match fate {
            Fate::Deliver => self.route(queue, message),
            Fate::Duplicate => {
                let _ = self.route(queue, message.clone());
                self.route(queue, message)
            }
            Fate::Lose => Ok(()),
            Fate::Delay(pause) => {
                let (broker, queue) = (Arc::downgrade(broker), queue.to_owned());
                // Ends by itself, after the pause; nobody needs to hear of a queue that is gone by then.
                tokio::spawn(async move {
                    tokio::time::sleep(pause).await;
                    if let Some(broker) = broker.upgrade() {
                        let _ = broker.state().route(&queue, message);
                    }
                });
                Ok(())
            }
        }
    }
}
