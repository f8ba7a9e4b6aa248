//! What a server does with one delivery: runs it, passes it on or gives it up, answers, settles.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::Instant;
use tracing::{debug, error, warn};

use super::builder::{Handler, QueueEntry};
use super::cancel::Registered;
use super::consume::Serving;
use super::dispatch::{Limit, panicked};
use super::last_attempts::Attempt;
use super::lines::{Lines, may_pass};
use super::receipt::Receipt;
use super::replies::{Answer, Form};
use crate::definition::Method;
use crate::error::{ErrorKind, RpcError};
use crate::message::Response;
use crate::service;
use crate::telemetry::{self, Observed, metrics};
use crate::transport::{Message, Reply, TransportError};
use crate::wire::{self, Arrived, History, Ran};

/// The time for which a server keeps a request that its broker takes nowhere at the moment, before it is delivered again.
const STUCK_PAUSE: Duration = Duration::from_secs(1);

/// Which of a service's queues a delivery came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// Where its clients send requests.
    Main,
    /// Where requests wait for a last attempt, one at a time.
    Retry,
}

/// A delivery, and all it takes to work on it.
pub(super) struct Arrival {
    pub(super) serving: Arc<Serving>,
    pub(super) lines: Arc<Lines>,
    /// The number of the queue.
    pub(super) queue: usize,
    pub(super) lane: Lane,
    /// Until it is settled.
    pub(super) receipt: Option<Receipt>,
    pub(super) redelivered: bool,
    /// Tells whether it was a dead letter: in an earlier life servers may have run it.
    pub(super) revived: bool,
    /// The method that it is for, if there is one of that name.
    pub(super) method: Option<&'static Method>,
    /// The end of a request that comes without a deadline.
    pub(super) default_deadline: Option<Instant>,
    pub(super) last_attempt: Option<Attempt>,
    pub(super) message: Message,
}

/// What is to become of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Run,
    /// To the queue where it came from, with the number of its deliveries.
    Record,
    /// To the queue where requests are tried alone.
    Isolate,
    GiveUp(Reason),
}

/// Why a request is not run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    DeliveryLimit,
    AtMostOnce,
    /// Its deliveries cannot be counted, and without that it might never be given up.
    NotCounted,
}

impl Reason {
    fn as_str(self) -> &'static str {
        match self {
            Self::DeliveryLimit => "delivery-limit",
            Self::AtMostOnce => "at-most-once",
            Self::NotCounted => "not-counted",
        }
    }
}

impl Arrival {
    pub(super) async fn work(mut self) {
        let reply_to = self.message.reply_to.as_deref();
        if reply_to.is_some_and(|name| !self.serving.may_reply_to(name)) {
            warn!(
                queue = &*self.entry().queue,
                ?reply_to,
                "refusing a request: replies to there are not allowed"
            );
            self.serving.refused.fetch_add(1, Ordering::Relaxed);
            return self.settle();
        }
        let history = self.history();
        if !(self.redelivered && self.entry().counts()) {
            wire::remove_forged_counts(&mut self.message);
        }
        match self.verdict(history) {
            Verdict::Run => self.run(history.deliveries).await,
            // Boxed, because it is rare and would make every delivery's task as large as its own.
            verdict => Box::pin(self.pass_on(verdict, history)).await,
        }
    }

    /// Does with a request that was delivered before what is to become of it.
    async fn pass_on(self, verdict: Verdict, history: History) {
        match verdict {
            Verdict::Run => self.run(history.deliveries).await,
            Verdict::Record => {
                let queue = self.queue_of(self.lane);
                self.redirect(queue, history.deliveries).await;
            }
            Verdict::Isolate => {
                let queue = self.queue_of(Lane::Retry);
                self.redirect(queue, history.deliveries).await;
            }
            Verdict::GiveUp(reason) => self.give_up(reason, history.deliveries).await,
        }
    }

    /// Takes a batch apart into its requests. Any other message stays whole, and so does a batch that cannot be read, which is refused
    /// like any other request.
    pub(super) fn taken_apart(self) -> Result<impl Iterator<Item = Self>, Self> {
        let tag = match &self.receipt {
            Some(Receipt::Whole(tag)) if wire::is_batch(&self.message) => *tag,
            _ => return Err(self),
        };
        let Some(deliveries) = self.may_be_taken_apart() else {
            return Err(self);
        };
        let Ok(requests) = wire::requests_of(&self.message) else {
            return Err(self);
        };
        let shares = Receipt::shares(tag, requests.len());
        Ok(requests
            .into_iter()
            .zip(shares)
            .map(move |(mut message, receipt)| {
                if deliveries > 0 {
                    wire::count_as_delivered(&mut message, deliveries);
                }
                Self {
                    serving: self.serving.clone(),
                    lines: self.lines.clone(),
                    receipt: Some(receipt),
                    method: self.entry().method(&message),
                    last_attempt: self.last_attempt.clone(),
                    message,
                    ..self
                }
            }))
    }

    /// Counts the earlier deliveries of a batch, if it may be decoded. Decoding may be what servers die of.
    fn may_be_taken_apart(&self) -> Option<u32> {
        let history = self.history();
        let is_first = !self.redelivered && history.deliveries == 0;
        let verdict = self.serving.verdict(self.queue, self.lane, history);
        (is_first || verdict == Verdict::Run).then_some(history.deliveries)
    }

    /// Tells whether it takes one of the places that the prefetch of a queue gives.
    pub(super) fn fills(&self, queue: usize) -> bool {
        self.queue == queue && self.lane == Lane::Main && !self.is_batched()
    }

    /// Gives back what has not started.
    pub(super) async fn give_back(mut self) {
        let history = self.history();
        // In its place goes a request that nobody was given: that this delivery was in vain must not be held against it. What
        // may not be delivered twice and was stays what it is.
        if !self.is_at_most_once() || (!self.redelivered && history.deliveries == 0) {
            let queue = self.queue_of(self.lane);
            if self.publish_anew(&queue, history.deliveries).await.is_ok() {
                return;
            }
        }
        self.requeue();
    }

    fn settle(&mut self) {
        if let Some(receipt) = self.receipt.take() {
            self.lines.settle(receipt.settle());
        }
    }

    fn requeue(&mut self) {
        if let Some(receipt) = self.receipt.take() {
            self.lines.settle(receipt.give_back());
        }
    }

    /// Whether it came in a batch, which is delivered again as a whole.
    fn is_batched(&self) -> bool {
        self.receipt.as_ref().is_some_and(Receipt::is_share)
    }

    /// The earlier deliveries, as far as they are known.
    fn history(&self) -> History {
        if !self.is_batched() {
            return History::of(&self.message, self.redelivered, self.entry().counts());
        }
        // It has the count of its batch, and goes its own way from the second delivery on.
        let History { deliveries, .. } = History::of(&self.message, false, false);
        History {
            deliveries,
            recorded: deliveries == 0,
        }
    }

    fn entry(&self) -> &QueueEntry {
        &self.serving.queues[self.queue]
    }

    fn queue_of(&self, lane: Lane) -> String {
        match lane {
            Lane::Main => self.entry().queue.to_string(),
            Lane::Retry => self.entry().retry_queue.clone(),
        }
    }

    fn is_at_most_once(&self) -> bool {
        self.method.is_some_and(|method| method.at_most_once)
    }

    fn verdict(&self, history: History) -> Verdict {
        let is_first = !self.redelivered && history.deliveries == 0;
        if is_first {
            Verdict::Run
        } else if wire::is_batch(&self.message) {
            self.serving.verdict(self.queue, self.lane, history)
        } else if wire::is_expired(&self.message) {
            Verdict::Run // Which only says so to its caller.
        } else if self.is_at_most_once() {
            match self.is_batched() {
                true => Verdict::Run, // Which refuses it.
                false => Verdict::GiveUp(Reason::AtMostOnce),
            }
        } else {
            self.serving.verdict(self.queue, self.lane, history)
        }
    }

    /// Runs the handler and sends its answer. Whatever the request is like, it is answered and settled.
    async fn run(mut self, deliveries: u32) {
        let at_most_once = self.is_at_most_once();
        let is_batched = self.is_batched();
        let requests = self.receipt.as_ref().map_or(1, Receipt::requests);
        let Self {
            serving,
            lines,
            queue,
            receipt,
            redelivered,
            revived,
            method,
            default_deadline,
            message,
            ..
        } = &mut self;
        let entry = &serving.queues[*queue];
        let redelivered = *redelivered || *revived;
        let was_delivered = redelivered || deliveries > 0;
        let queue_name = &entry.queue;
        let observed = Observed::by_server(
            entry.service,
            *method,
            queue_name,
            message,
            was_delivered,
            requests,
        );
        let registered = match &serving.calls {
            // The caller of its first life, who has dropped the call, does not decide about the second.
            Some(calls) if !*revived => calls.register(message),
            _ => Registered::default(),
        };
        let arrived = Arrived {
            redelivered,
            deliveries,
            cancellation: registered.cancellation.clone(),
        };
        let request =
            wire::request_from_message(entry.service, entry.queue.clone(), message, arrived)
                .and_then(|mut request| match at_most_once && is_batched {
                    // To run it at most once its delivery would have to be acknowledged first, and with it the others'.
                    true => Err(in_a_batch()),
                    false => {
                        request.0.deadline = request.0.deadline.or(*default_deadline);
                        Ok(request.propagating(&serving.propagated_headers))
                    }
                });
        let settled = if at_most_once && request.is_ok() {
            lines.settle(receipt.take().and_then(Receipt::settle));
            lines.channel.settled().await
        } else if deliveries > 0 {
            lines.until_replaced().boxed().await
        } else {
            Ok(())
        };
        if let Err(error) = settled {
            // What the broker knows of it is not known here, so it is not run. If it can be run, it will be delivered again.
            return self.give_back_later(error).boxed().await;
        }
        let answer = {
            let answering = pin!(async {
                let request = request?;
                let response = match &entry.handler {
                    Handler::Dispatcher(dispatch) => {
                        let answering = async { dispatch(request).await };
                        caught("the code of an argument or an answer", answering).await?
                    }
                    Handler::Layered(service) => {
                        let limit = Limit::of_broker(&request, registered.cancellation.clone());
                        let answering = service::call(service.clone(), request);
                        let answer = caught("a layer of the server", answering);
                        limit.apply_until_begun(answer).boxed().await??
                    }
                };
                let limit = serving.connection.max_message_size();
                wire::check_reply(&response, limit, lines.channel.frame_max())?;
                Ok(response)
            });
            observed.watch(answering).await
        };
        let ran = if was_delivered {
            Ran::Earlier
        } else if registered.cancellation.has_begun() {
            Ran::Here
        } else {
            Ran::No
        };
        drop(registered);
        if let Err(error) = &answer {
            debug!(service = entry.service, kind = ?error.kind(), error = ?error.to_string(), "answering with a fault");
            if is_refusal(error.kind()) {
                serving.refused.fetch_add(1, Ordering::Relaxed);
            }
        }
        let form = Form::of(message, is_batched);
        self.answer(answer, ran, form).await;
    }

    /// Sends the answer, if somebody wants it, and settles the delivery.
    async fn answer(mut self, answer: Result<Response, RpcError>, ran: Ran, form: Form) {
        let Some(queue) = self.message.reply_to.take() else {
            return self.settle();
        };
        let app_id = self.serving.connection.app_id();
        let message = wire::message_from_answer(answer, self.message, ran, app_id);
        let answer = Answer {
            reply: Reply { queue, message },
            form,
            receipt: self.receipt,
        };
        self.lines.replies.send(answer).wait().await;
    }

    /// Publishes the request anew, with the number of its deliveries, in place of this delivery.
    async fn redirect(mut self, mut queue: String, deliveries: u32) {
        let error = loop {
            match self.publish_anew(&queue, deliveries).await {
                Ok(()) => return,
                // There is always room where requests are tried alone. A full queue must not keep this one from being counted.
                Err(TransportError::Rejected) if self.may_be_isolated_from(&queue) => {
                    queue = self.queue_of(Lane::Retry);
                }
                Err(error) => break error,
            }
        };
        if may_pass(&error) {
            return self.give_back_later(error).await;
        }
        let reason = error.to_string();
        match error {
            TransportError::Rejected | TransportError::Unroutable | TransportError::Refused(_)
                if !wire::is_batch(&self.message) =>
            {
                warn!(
                    queue,
                    ?reason,
                    "the deliveries of a request could not be counted; running it"
                );
                self.run(deliveries).await;
            }
            _ => {
                warn!(
                    queue,
                    ?reason,
                    "the deliveries of a request could not be counted; giving it up"
                );
                self.give_up(Reason::NotCounted, deliveries).await;
            }
        }
    }

    fn may_be_isolated_from(&self, queue: &str) -> bool {
        let entry = self.entry();
        entry.isolates(self.serving.limits.deliveries) && queue != entry.retry_queue
    }

    async fn publish_anew(&mut self, queue: &str, deliveries: u32) -> Result<(), TransportError> {
        let message = wire::redirected(self.message.clone(), deliveries);
        self.lines.replace(&mut self.receipt, queue, message).await
    }

    /// Has a request delivered again, here or elsewhere, which the broker does not take from this server at the moment. Without the
    /// channel that it came through, the broker does so by itself; but that may be there when another one is lost.
    async fn give_back_later(mut self, error: TransportError) {
        debug!(error = ?error.to_string(), "a request has to be delivered again");
        if self.lines.channel.is_open() {
            if !matches!(error, TransportError::Lost(_)) {
                self.lines.tell(&self.entry().queue, &error);
            }
            tokio::time::sleep(STUCK_PAUSE).await;
            self.requeue();
        }
    }

    /// Moves the request to the dead-letter queue and tells its caller. One that nothing takes is dropped: it must not stop others.
    async fn give_up(self, reason: Reason, deliveries: u32) {
        let entry = self.entry();
        let dead_letter_queue = &entry.dead_letter_queue;
        let letter = wire::dead_letter(
            self.message.clone(),
            deliveries,
            reason.as_str(),
            &entry.queue,
        );
        let method = telemetry::name_of(self.method);
        let declares = !entry.options.is_passive();
        let kept = self.lines.offer(dead_letter_queue, letter, declares).await;
        let fate = match kept {
            Ok(()) => format!("it is in queue '{dead_letter_queue}'"),
            Err(error) if may_pass(&error) => return self.give_back_later(error).await,
            Err(error) => {
                metrics::dead_letter_dropped(entry.service, method, reason.as_str());
                error!(
                    queue = &*entry.queue,
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
        let fault = match reason {
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
                    "the request was delivered before, to a server that did not finish it, and that cannot be counted; {fate}"
                ),
            ),
        };
        metrics::given_up(entry.service, method, reason.as_str());
        warn!(
            service = entry.service,
            queue = &*entry.queue,
            method = ?self.message.kind.as_deref(),
            correlation_id = ?self.message.correlation_id.as_deref(),
            reason = reason.as_str(),
            fault = ?fault.to_string(),
            "giving up a request"
        );
        let form = Form::of(&self.message, false);
        self.answer(Err(fault), Ran::Earlier, form).await;
    }
}

/// An answer, or the fault that `who` panicked. What handlers do is caught where they run.
async fn caught(
    who: &str,
    answering: impl Future<Output = Result<Response, RpcError>>,
) -> Result<Response, RpcError> {
    let answer = AssertUnwindSafe(answering).catch_unwind().await;
    answer.unwrap_or_else(|panic| Err(panicked(who, &*panic)))
}

/// The fault of a request that has no place in a batch.
fn in_a_batch() -> RpcError {
    RpcError::new(
        ErrorKind::BadRequest,
        "a request of an `at_most_once` method cannot be in a batch",
    )
}

impl Serving {
    /// Decides about a request, or a batch, that may be delivered more than once.
    fn verdict(&self, queue: usize, lane: Lane, history: History) -> Verdict {
        let limit = self.limits.deliveries;
        verdict(history, limit, lane, self.queues[queue].isolates(limit))
    }
}

fn verdict(history: History, limit: Option<u32>, lane: Lane, isolates: bool) -> Verdict {
    let Some(limit) = limit else {
        return Verdict::Run;
    };
    if history.deliveries >= limit {
        Verdict::GiveUp(Reason::DeliveryLimit)
    } else if isolates && lane == Lane::Main && history.deliveries + 1 == limit {
        Verdict::Isolate
    } else if history.recorded {
        Verdict::Run
    } else {
        Verdict::Record
    }
}

/// Whether a request was answered without being looked at by a handler, because of what it is like.
fn is_refusal(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::BadRequest | ErrorKind::UnknownMethod | ErrorKind::UnsupportedContentType
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(deliveries: u32, recorded: bool, lane: Lane) -> Verdict {
        let history = History {
            deliveries,
            recorded,
        };
        verdict(history, Some(3), lane, true)
    }

    #[test]
    fn a_request_is_tried_three_times_the_last_time_alone() {
        assert_eq!(after(0, true, Lane::Main), Verdict::Run);
        assert_eq!(after(1, false, Lane::Main), Verdict::Record);
        assert_eq!(after(1, true, Lane::Main), Verdict::Run);
        assert_eq!(after(2, false, Lane::Main), Verdict::Isolate);
        assert_eq!(after(2, true, Lane::Retry), Verdict::Run);
        let given_up = Verdict::GiveUp(Reason::DeliveryLimit);
        assert_eq!(after(3, false, Lane::Retry), given_up);
        assert_eq!(after(u32::MAX, true, Lane::Main), given_up);
    }

    #[test]
    fn without_a_limit_nothing_is_given_up() {
        let history = History {
            deliveries: 9,
            recorded: false,
        };
        assert_eq!(verdict(history, None, Lane::Main, false), Verdict::Run);
    }

    #[test]
    fn a_limit_of_one_forbids_every_second_delivery() {
        let history = |deliveries| History {
            deliveries,
            recorded: true,
        };
        assert_eq!(
            verdict(history(0), Some(1), Lane::Main, false),
            Verdict::Run
        );
        assert_eq!(
            verdict(history(1), Some(1), Lane::Main, false),
            Verdict::GiveUp(Reason::DeliveryLimit)
        );
    }
}
