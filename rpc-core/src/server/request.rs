//! Work on one request: decodes it, acknowledges it first if its method is `at_most_once`, runs it, and replies.

use std::pin::pin;

use futures_util::FutureExt;
use tracing::{debug, warn};

use super::cancellation::RegisteredCall;
use super::pool::Slot;
use super::received::{ReceivedRequest, Source};
use super::redelivery::Verdict;
use super::served::Endpoint;
use super::statistics::Recording;
use super::stream::StreamRequest;
use super::tapped::Tapped;
use crate::batching::AckToken;
use crate::cancellation::Cancellation;
use crate::context::{ExecutionLimit, catching_panics};
use crate::deadline;
use crate::definition::Method;
use crate::error::{ErrorKind, RpcError};
use crate::message::{Request, Response};
use crate::service;
use crate::telemetry::Observed;
use crate::transport::{Message, TransportError};
use crate::wire::{self, DeliveryFacts, Execution, History};

impl ReceivedRequest {
    /// Works on a request until it is settled. The slot is that of its handler. Returns a request for a method with streams that may run: its
    /// streams do not keep the memory of the steps before.
    pub(super) async fn work(mut self, slot: Slot) -> Option<StreamRequest> {
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
            self.ack();
            return None;
        }
        if self.is_question() {
            // Boxed, because it is rare and would enlarge the task of every delivery.
            Box::pin(self.answer()).await;
            return None;
        }
        if !(*redelivered && self.served().counts_deliveries()) {
            wire::remove_forged_counts(&mut self.message);
        }
        if self.verdict != Verdict::Run {
            // Boxed, because it is rare and would enlarge the task of every delivery.
            self = Box::pin(self.pass_on()).await?;
        }
        match self.method.filter(|method| method.is_streaming()) {
            Some(method) if self.refusal.is_none() => Some(StreamRequest {
                received: self,
                method,
                slot,
            }),
            _ => {
                self.run().await;
                drop(slot);
                None
            }
        }
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
        let (source, deliveries) = (&*source, *deliveries);
        let observed = source.observe(*method, message, token.as_ref(), deliveries);
        let call = source.register(message);
        let recording = source.record(*method, message);
        let tapped = source.tap(*method, message, deliveries);
        let request = match refusal.take() {
            Some(refusal) => Err(refusal),
            None => source.decode(*method, message, deliveries, &call.cancellation),
        };
        let request = request.map(|mut request| {
            if request.0.streams.take().is_some() {
                // The caller takes the method for one with streams, and reports the mismatch. The expiration of such a request is not its
                // deadline.
                let expiration = deadline::from_wire(None, message.expiration);
                request.0.deadline.set_default(expiration);
            }
            request.0.deadline.set_default(source.default_deadline);
            request
        });
        let settles_first = is_at_most_once && request.is_ok();
        if let Err(error) = source.settle_before(settles_first, token, deliveries).await {
            // The broker may not have handled the acknowledgement, so the request does not run here. If it may run at all, the broker
            // delivers it again.
            drop((recording, tapped));
            return self.requeue_later(error).boxed().await;
        }
        let result = {
            let answering = pin!(async { source.answer(request?, &call.cancellation).await });
            observed.watch(answering).await
        };
        let executed = source.execution(deliveries, &call.cancellation);
        drop(call);
        recording.ended(&result);
        Tapped::ended(tapped, &result);
        if let Err(error) = &result {
            source.report_fault(error);
        }
        self.reply(result, executed).await;
    }
}

/// The steps that requests with and without streams share.
impl Source {
    fn was_delivered(&self, deliveries: u32) -> bool {
        self.redelivered || self.revived || deliveries > 0
    }

    /// Starts the telemetry of a request.
    pub(super) fn observe(
        &self,
        method: Option<&'static Method>,
        message: &mut Message,
        token: Option<&AckToken>,
        deliveries: u32,
    ) -> Observed {
        let served = self.served();
        let was_delivered = self.was_delivered(deliveries);
        let requests = token.map_or(1, AckToken::requests);
        Observed::by_server(
            served.service,
            method,
            &served.queue,
            message,
            was_delivered,
            requests,
        )
    }

    /// Registers a request for notices.
    pub(super) fn register(&self, message: &Message) -> RegisteredCall {
        match &self.instance.calls {
            // Notices concern the original call, not a dead letter that was moved back.
            Some(calls) if !self.revived => calls.register(message),
            _ => RegisteredCall::default(),
        }
    }

    /// Starts the recording of a request.
    pub(super) fn record(
        &self,
        method: Option<&'static Method>,
        message: &Message,
    ) -> Recording<'_> {
        match (method, &self.instance.in_flight) {
            (Some(method), Some(in_flight)) => {
                let statistics = self.served().statistics.as_deref();
                let id = message.correlation_id.as_ref();
                Recording::begin(statistics, in_flight, self.queue, method, id)
            }
            _ => Recording::default(),
        }
    }

    /// Takes the request out of its message.
    pub(super) fn decode(
        &self,
        method: Option<&'static Method>,
        message: &mut Message,
        deliveries: u32,
        cancellation: &Cancellation,
    ) -> Result<Request, RpcError> {
        let served = self.served();
        let facts = DeliveryFacts {
            redelivered: self.redelivered || self.revived,
            deliveries,
            cancellation: cancellation.clone(),
        };
        let queue = served.queue.clone();
        let request = wire::request_from_message(served.service, queue, message, facts)?;
        let mut request = request.propagating(&self.instance.options.propagated_headers);
        request.0.definition = method;
        Ok(request)
    }

    /// Waits until a request may run: the broker has handled its acknowledgement, if the request is to be settled first, and those of the
    /// deliveries in place of which it came.
    pub(super) async fn settle_before(
        &self,
        settles_first: bool,
        token: &mut Option<AckToken>,
        deliveries: u32,
    ) -> Result<(), TransportError> {
        if settles_first && let Some(token) = token.take() {
            self.outbox.ack(token);
            self.outbox.settled().await
        } else if deliveries > 0 {
            self.outbox.until_replaced().boxed().await
        } else {
            Ok(())
        }
    }

    /// Passes a request to the service.
    pub(super) async fn answer(
        &self,
        request: Request,
        cancellation: &Cancellation,
    ) -> Result<Response, RpcError> {
        let response = match &self.served().endpoint {
            Endpoint::Dispatcher(dispatch) => {
                let response = async { dispatch(request).await };
                let who = "the code that decodes arguments or encodes the result";
                catching_panics(who, response).await?
            }
            Endpoint::Layered(service) => {
                let limit = ExecutionLimit::of_delivered(&request, cancellation.clone());
                let response = service::call(service.clone(), request);
                let response = catching_panics("a layer of the server", response);
                limit.apply_until_begun(response).boxed().await??
            }
        };
        let limit = self.instance.connection.max_message_size();
        wire::check_reply(&response, limit, self.outbox.frame_max())?;
        Ok(response)
    }

    /// Knowledge about the execution of a request, for a fault.
    pub(super) fn execution(&self, deliveries: u32, cancellation: &Cancellation) -> Execution {
        if self.was_delivered(deliveries) {
            Execution::Unknown
        } else if cancellation.has_begun() {
            Execution::Started
        } else {
            Execution::NotStarted
        }
    }

    /// Logs a fault, and counts the request if no handler could serve it.
    pub(super) fn report_fault(&self, error: &RpcError) {
        let service = self.served().service;
        debug!(service, kind = ?error.kind(), error = ?error.to_string(), "answering with a fault");
        if is_refusal(error.kind()) {
            self.instance.count_refused();
        }
    }
}

/// Returns `true` for faults of requests that no handler can serve.
fn is_refusal(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::BadRequest | ErrorKind::UnknownMethod | ErrorKind::UnsupportedContentType
    )
}
