//! State of a received request.

use std::sync::Arc;

use tokio::time::Instant;

use super::instance::Instance;
use super::last_attempts::Attempt;
use super::outbox::{Outbox, OutgoingReply};
use super::redelivery::{DeliveryLimit, Verdict};
use super::served::{QueueRole, ServedQueue};
use crate::batching::{AckToken, ReplyForm};
use crate::definition::Method;
use crate::error::RpcError;
use crate::message::Response;
use crate::names::INSTANCE_HEADER;
use crate::transport::{Message, Reply};
use crate::wire::{self, Execution, History};

/// Source of requests: the circumstances of one delivery.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) instance: Arc<Instance>,
    pub(super) outbox: Arc<Outbox>,
    /// Index of the queue in the instance.
    pub(super) queue: usize,
    pub(super) role: QueueRole,
    pub(super) redelivered: bool,
    /// Set for a dead letter that was moved back to a request queue: servers may have run the request before.
    pub(super) revived: bool,
    /// Set for a call to all instances, which came through the private queue.
    pub(super) to_all: bool,
    /// Deadline of a request that comes without one.
    pub(super) default_deadline: Option<Instant>,
    /// Guard of the last attempt, if the delivery is one.
    pub(super) _last_attempt: Option<Attempt>,
}

impl Source {
    pub(super) fn served(&self) -> &ServedQueue {
        &self.instance.queues[self.queue]
    }

    pub(super) fn delivery_limit(&self) -> DeliveryLimit {
        let deliveries = self.instance.options.delivery_limit;
        DeliveryLimit {
            deliveries,
            isolates: self.served().isolates(deliveries),
        }
    }

    /// Returns `true` for the first delivery of a message.
    pub(super) fn is_first_delivery(&self, history: History) -> bool {
        !self.redelivered && history.deliveries == 0
    }
}

/// A request with everything that is needed to work on it.
pub(super) struct ReceivedRequest {
    pub(super) source: Source,
    /// Right to settle the delivery; `None` once the request is settled, and for a call to all instances.
    pub(super) token: Option<AckToken>,
    pub(super) history: History,
    pub(super) verdict: Verdict,
    /// Set if the request may run although its deliveries cannot be counted.
    pub(super) may_run_uncounted: bool,
    /// The method that the request names, if the service has it.
    pub(super) method: Option<&'static Method>,
    /// The fault of a request that must not run.
    pub(super) refusal: Option<RpcError>,
    pub(super) reply_form: ReplyForm,
    pub(super) message: Message,
}

impl ReceivedRequest {
    /// Makes the request of a call to all instances.
    pub(super) fn to_all(source: Source, message: Message) -> Self {
        Self {
            token: None,
            history: History::NONE,
            verdict: Verdict::Run,
            may_run_uncounted: true,
            method: source.served().method(&message),
            refusal: None,
            reply_form: ReplyForm::Alone,
            message,
            source,
        }
    }

    pub(super) fn served(&self) -> &ServedQueue {
        self.source.served()
    }

    pub(super) fn is_streaming(&self) -> bool {
        self.method.is_some_and(Method::is_streaming)
    }

    pub(super) fn is_at_most_once(&self) -> bool {
        self.method.is_some_and(|method| method.at_most_once)
    }

    /// Settles the request without a reply.
    pub(super) fn ack(&mut self) {
        if let Some(token) = self.token.take() {
            self.source.outbox.ack(token);
        }
    }

    /// Has the request delivered again.
    pub(super) fn requeue(&mut self) {
        if let Some(token) = self.token.take() {
            self.source.outbox.requeue(token);
        }
    }

    /// Sends the reply, if the caller wants one, and settles the request.
    pub(super) async fn reply(mut self, result: Result<Response, RpcError>, executed: Execution) {
        let Some(queue) = self.message.reply_to.take() else {
            return self.ack();
        };
        let app_id = self.source.instance.connection.app_id();
        let mut message = wire::reply_from_result(result, self.message, executed, app_id);
        if self.source.to_all {
            let id = &*self.source.instance.id;
            message.headers.insert(INSTANCE_HEADER, id);
        }
        let reply = OutgoingReply {
            reply: Reply { queue, message },
            form: self.reply_form,
            token: self.token,
        };
        self.source.outbox.reply(reply).wait().await;
    }
}
