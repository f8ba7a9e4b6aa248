//! Work on one request: decodes it, acknowledges it first if its method is `at_most_once`, runs it, and replies.

use std::pin::pin;

use futures_util::FutureExt;
use tracing::{debug, warn};

use super::cancellation::RegisteredCall;
use super::received::{ReceivedRequest, Source};
use super::redelivery::Verdict;
use super::served::Endpoint;
use super::statistics::Recording;
use crate::batching::AckToken;
use crate::context::{ExecutionLimit, catching_panics};
use crate::error::ErrorKind;
use crate::service;
use crate::telemetry::Observed;
use crate::wire::{self, DeliveryFacts, Execution, History};

impl ReceivedRequest {
    /// Works on a request until it is settled.
    pub(super) async fn work(mut self) {
        let Source {
            instance,
            redelivered,
            ..
        } = &self.source;
        let reply_to = self.message.reply_to.as_deref();
        if reply_to.is_some_and(|name| !instance.may_reply_to(name)) {
            warn!(
                queue = &*self.served().queue,
                ?reply_to,
                "refusing a request: replies to its reply queue are not allowed"
            );
            instance.count_refused();
            return self.ack();
        }
        if self.is_question() {
            // Boxed, because it is rare and would enlarge the task of every delivery.
            return Box::pin(self.answer()).await;
        }
        if !(*redelivered && self.served().counts_deliveries()) {
            wire::remove_forged_counts(&mut self.message);
        }
        if self.verdict != Verdict::Run {
            // Boxed, because it is rare and would enlarge the task of every delivery.
            self = match Box::pin(self.pass_on()).await {
                Some(request) => request,
                None => return,
            };
        }
        self.run().await;
    }

    /// Runs the handler, sends the reply and settles the request.
    async fn run(mut self) {
        let is_at_most_once = self.is_at_most_once();
        let Self {
            source,
            token,
            history: History { deliveries, .. },
            method,
            refusal,
            message,
            ..
        } = &mut self;
        let Source {
            instance,
            outbox,
            revived,
            default_deadline,
            ..
        } = &*source;
        let served = source.served();
        let redelivered = source.redelivered || *revived;
        let was_delivered = redelivered || *deliveries > 0;
        let requests = token.as_ref().map_or(1, AckToken::requests);
        let observed = Observed::by_server(
            served.service,
            *method,
            &served.queue,
            message,
            was_delivered,
            requests,
        );
        let call = match &instance.calls {
            // Notices concern the original call, not a dead letter that was moved back.
            Some(calls) if !*revived => calls.register(message),
            _ => RegisteredCall::default(),
        };
        let recording = match (*method, &instance.in_flight) {
            (Some(method), Some(in_flight)) => {
                let statistics = served.statistics.as_deref();
                let id = message.correlation_id.as_ref();
                Recording::begin(statistics, in_flight, source.queue, method, id)
            }
            _ => Recording::default(),
        };
        let request = match refusal.take() {
            Some(refusal) => Err(refusal),
            None => {
                let facts = DeliveryFacts {
                    redelivered,
                    deliveries: *deliveries,
                    cancellation: call.cancellation.clone(),
                };
                let queue = served.queue.clone();
                wire::request_from_message(served.service, queue, message, facts)
            }
        };
        let request = request.map(|mut request| {
            request.0.definition = *method;
            request.0.deadline.set_default(*default_deadline);
            request.propagating(&instance.options.propagated_headers)
        });
        let settled = if is_at_most_once
            && request.is_ok()
            && let Some(token) = token.take()
        {
            outbox.ack(token);
            outbox.settled().await
        } else if *deliveries > 0 {
            outbox.until_replaced().boxed().await
        } else {
            Ok(())
        };
        if let Err(error) = settled {
            // The broker may not have handled the acknowledgement, so the request does not run here. If it may run at all, the broker
            // delivers it again.
            drop(recording);
            return self.requeue_later(error).boxed().await;
        }
        let result = {
            let answering = pin!(async {
                let request = request?;
                let response = match &served.endpoint {
                    Endpoint::Dispatcher(dispatch) => {
                        let response = async { dispatch(request).await };
                        catching_panics(
                            "the code that decodes arguments or encodes the result",
                            response,
                        )
                        .await?
                    }
                    Endpoint::Layered(service) => {
                        let limit =
                            ExecutionLimit::of_delivered(&request, call.cancellation.clone());
                        let response = service::call(service.clone(), request);
                        let response = catching_panics("a layer of the server", response);
                        limit.apply_until_begun(response).boxed().await??
                    }
                };
                let limit = instance.connection.max_message_size();
                wire::check_reply(&response, limit, outbox.frame_max())?;
                Ok(response)
            });
            observed.watch(answering).await
        };
        let executed = if was_delivered {
            Execution::Unknown
        } else if call.cancellation.has_begun() {
            Execution::Started
        } else {
            Execution::NotStarted
        };
        drop(call);
        recording.ended(&result);
        if let Err(error) = &result {
            debug!(service = served.service, kind = ?error.kind(), error = ?error.to_string(), "answering with a fault");
            if is_refusal(error.kind()) {
                instance.count_refused();
            }
        }
        self.reply(result, executed).await;
    }
}

/// Returns `true` for faults of requests that no handler can serve.
fn is_refusal(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::BadRequest | ErrorKind::UnknownMethod | ErrorKind::UnsupportedContentType
    )
}
