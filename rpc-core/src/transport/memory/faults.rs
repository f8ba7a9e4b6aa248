//! Faults that a test can cause in the embedded broker, and publishing through them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use smol_str::SmolStr;
use tokio::runtime::Handle;

use super::broker::{Broker, Publisher, Stalled, State};
use super::hooks::{Fate, Published, QueueState};
use crate::transport::error::TransportError;
use crate::transport::link::LinkStatus;
use crate::transport::message::Message;

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

    pub(crate) fn unblock(&mut self, broker: &Arc<Broker>) {
        self.blocked = None;
        for status in self.links.values() {
            status.send_replace(LinkStatus::Up);
        }
        for stalled in std::mem::take(&mut self.stalled) {
            let _runtime = stalled.runtime.enter();
            self.publish_now(broker, &stalled.queue, stalled.message, stalled.publisher);
        }
    }

    pub(crate) fn queue_names(&self) -> Vec<String> {
        self.queues.keys().cloned().collect()
    }

    pub(crate) fn look_into(&self, name: &str) -> Option<QueueState> {
        let queue = self.queues.get(name)?;
        Some(QueueState {
            ready: queue.ready.len(),
            unsettled: self.unsettled(name),
            consumers: queue.consumers.len(),
        })
    }

    /// Publishes a message, once the broker takes messages.
    pub(super) fn publish(
        &mut self,
        broker: &Arc<Broker>,
        queue: SmolStr,
        message: Message,
        publisher: Publisher,
    ) {
        if self.blocked.is_none() {
            self.publish_now(broker, &queue, message, publisher);
        } else {
            self.stalled.push(Stalled {
                queue,
                message,
                publisher,
                runtime: Handle::current(),
            });
        }
    }

    fn publish_now(
        &mut self,
        broker: &Arc<Broker>,
        queue: &str,
        message: Message,
        publisher: Publisher,
    ) {
        let outcome = if self.has_queue(queue) {
            self.publish_as_decided(broker, queue, message)
        } else if !message.mandatory {
            Ok(()) // The message is dropped, because it is not mandatory.
        } else {
            if let Publisher::Channel(channel) = publisher
                && let Some(channel) = self.channels.get(&channel)
            {
                let _ = channel.returns.send(message); // The receiver may be gone.
                return;
            }
            Err(TransportError::Unroutable)
        };
        if let Publisher::Confirmed(confirm) = publisher {
            let _ = confirm.send(outcome); // The call may be over.
        }
    }

    /// Publishes a message with the fate that the test decides; without a test's decision, delivers it.
    fn publish_as_decided(
        &mut self,
        broker: &Arc<Broker>,
        queue: &str,
        message: Message,
    ) -> Result<(), TransportError> {
        match self.decide(queue, &message) {
            Fate::Deliver => self.route(queue, message),
            Fate::Duplicate => {
                let _ = self.route(queue, message.clone());
                self.route(queue, message)
            }
            Fate::Lose => Ok(()),
            Fate::Delay(pause) => {
                let (broker, queue) = (Arc::downgrade(broker), queue.to_owned());
                // Ends by itself, after the pause. If the queue is gone by then, the message is dropped.
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

    fn decide(&mut self, queue: &str, message: &Message) -> Fate {
        let Some(decide) = &mut self.decide else {
            return Fate::Deliver;
        };
        let published = Published {
            queue,
            kind: message.kind.as_deref(),
            correlation_id: message.correlation_id.as_deref(),
            reply_to: message.reply_to.as_deref(),
            body: &message.body,
        };
        // The publisher must survive a panic of the test: a server still has to settle the delivery.
        catch_unwind(AssertUnwindSafe(|| decide(&published))).unwrap_or(Fate::Deliver)
    }
}
