//! Requests that do not run now: republished with their count, given up, or given back.

use std::time::Duration;

use tracing::{debug, error, warn};

use super::publisher::is_transient;
use super::received::ReceivedRequest;
use super::redelivery::{Reason, Verdict};
use super::served::QueueRole;
use crate::error::{ErrorKind, RpcError};
use crate::telemetry::{self, metrics};
use crate::transport::TransportError;
use crate::wire::{self, Execution};

/// The time for which a server keeps a request that the broker does not accept at the moment, before the server requeues the request.
const STUCK_PAUSE: Duration = Duration::from_secs(1);

impl ReceivedRequest {
    /// Carries out the verdict. Returns the request if it has to run.
    pub(super) async fn pass_on(self) -> Option<Self> {
        let role = match self.verdict {
            Verdict::Run => return Some(self),
            Verdict::Record => self.source.role,
            Verdict::Isolate => QueueRole::Retry,
            Verdict::GiveUp(reason) => {
                self.give_up(reason).await;
                return None;
            }
        };
        self.redirect(role).await
    }

    /// Republishes the request with the number of its deliveries, in place of this delivery. Returns the request if that is
    /// impossible and the request may run uncounted.
    async fn redirect(mut self, mut role: QueueRole) -> Option<Self> {
        let error = loop {
            match self.republish(role).await {
                Ok(()) => return None,
                // A full queue must not keep this request from being counted. The queue where requests are tried alone has no limit.
                Err(TransportError::Rejected)
                    if role == QueueRole::Main && self.source.delivery_limit().isolates =>
                {
                    role = QueueRole::Retry;
                }
                Err(error) => break error,
            }
        };
        if is_transient(&error) {
            self.requeue_later(error).await;
            return None;
        }
        let queue = self.served().name_of(role);
        let reason = error.to_string();
        match error {
            TransportError::Rejected | TransportError::Unroutable | TransportError::Refused(_)
                if self.may_run_uncounted =>
            {
                warn!(
                    queue,
                    ?reason,
                    "the deliveries of a request could not be counted; running it"
                );
                Some(self)
            }
            _ => {
                warn!(
                    queue,
                    ?reason,
                    "the deliveries of a request could not be counted; giving it up"
                );
                self.give_up(Reason::NotCounted).await;
                None
            }
        }
    }

    async fn republish(&mut self, role: QueueRole) -> Result<(), TransportError> {
        let queue = self.source.served().name_of(role);
        let message = wire::redirected(self.message.clone(), self.history.deliveries);
        let outbox = &self.source.outbox;
        outbox.replace(&mut self.token, queue, message).await
    }

    /// Gives back a request that has not started.
    pub(super) async fn give_back(mut self) {
        // A new message takes the place of this delivery, so that the delivery does not count. An `at_most_once` request that was delivered
        // before is requeued as it is, and given up at its next delivery.
        if (!self.is_at_most_once() || self.source.is_first_delivery(self.history))
            && self.republish(self.source.role).await.is_ok()
        {
            return;
        }
        self.requeue();
    }

    /// Requeues the request after a pause, because the broker does not accept it from this server at the moment.
    ///
    /// If the channel of the delivery is closed, the broker delivers the request again anyway. The channel may be open while that of the
    /// publisher is lost.
    pub(super) async fn requeue_later(mut self, error: TransportError) {
        debug!(error = ?error.to_string(), "a request has to be delivered again");
        let outbox = self.source.outbox.clone();
        if outbox.is_open() {
            if !matches!(error, TransportError::Lost(_)) {
                outbox.publisher.log_refusal(&self.served().queue, &error);
            }
            tokio::time::sleep(STUCK_PAUSE).await;
            self.requeue();
        }
    }

    /// Moves the request to the dead-letter queue and tells its caller. A request that the dead-letter queue does not take is dropped,
    /// so that it does not stop others.
    async fn give_up(self, reason: Reason) {
        let deliveries = self.history.deliveries;
        let served = self.served();
        let dead_letter_queue = &served.dead_letter_queue;
        let message = self.message.clone();
        let letter = wire::dead_letter(message, deliveries, reason.as_str(), &served.queue);
        let method = telemetry::name_of(self.method);
        let may_declare = !served.options.is_passive();
        let outbox = &self.source.outbox;
        let kept = outbox
            .publisher
            .offer(dead_letter_queue, letter, may_declare)
            .await;
        let fate = match kept {
            Ok(()) => format!("it is in queue '{dead_letter_queue}'"),
            Err(error) if is_transient(&error) => return self.requeue_later(error).await,
            Err(error) => {
                metrics::dead_letter_dropped(served.service, method, reason.as_str());
                error!(
                    queue = &*served.queue,
                    dead_letter_queue,
                    correlation_id = ?self.message.correlation_id.as_deref(),
                    method = ?self.message.kind.as_deref(),
                    reason = reason.as_str(),
                    error = ?error.to_string(),
                    "a request that was given up is dropped: its dead-letter queue does not take it"
                );
                format!("it was dropped: queue '{dead_letter_queue}' did not take it ({error})")
            }
        };
        let fault = fault(reason, deliveries, &fate);
        metrics::given_up(served.service, method, reason.as_str());
        warn!(
            service = served.service,
            queue = &*served.queue,
            method = ?self.message.kind.as_deref(),
            correlation_id = ?self.message.correlation_id.as_deref(),
            reason = reason.as_str(),
            fault = ?fault.to_string(),
            "giving up a request"
        );
        self.reply(Err(fault), Execution::Unknown).await;
    }
}

/// The fault of a request that was given up.
fn fault(reason: Reason, deliveries: u32, fate: &str) -> RpcError {
    match reason {
        Reason::DeliveryLimit => RpcError::new(
            ErrorKind::Panicked,
            format!(
                "the request was delivered {deliveries} times to servers that did not finish it and is not run again; {fate}"
            ),
        ),
        Reason::AtMostOnce => RpcError::new(
            ErrorKind::Cancelled,
            format!(
                "the request was delivered before, to a server that did not finish it, and may not run twice; {fate}"
            ),
        ),
        Reason::NotCounted => RpcError::new(
            ErrorKind::Cancelled,
            format!(
                "the request was delivered before, to a server that did not finish it, and its deliveries cannot be counted; {fate}"
            ),
        ),
    }
}
