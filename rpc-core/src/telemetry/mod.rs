//! Telemetry of calls: spans for `tracing` and OpenTelemetry, and metrics for the `metrics` facade.
//!
//! Every client and server records telemetry once the program has installed a subscriber or a recorder. No layer has to be added.
//!
//! # Spans
//!
//! Each call has a span on the client's side, from its `.await` to its outcome, which includes all attempts and layers. The span of a call
//! to [all instances](crate::Call::to_all_instances) lasts from `send` to the end of the answers: its outcome is `result`, unless an error
//! ends the answers as a whole. The span of a call that returns a [stream](crate::Streaming) lasts until the stream ends or is dropped.
//! Each request that runs has a span on the server's side, around the layers and the handler. They are
//! `tracing` spans of level `INFO` with the targets `rpc_core::client` and `rpc_core::server`. Without a subscriber, or with one that
//! filters out these targets, a span costs a comparison.
//!
//! Names and attributes follow OpenTelemetry's semantic conventions for RPC (1.45) and, as far as the two are compatible, for
//! messaging:
//!
//! | field | value |
//! |---|---|
//! | `otel.name` | the span's name: `Fib/fib` |
//! | `otel.kind` | `client` or `server` |
//! | `otel.status_code` | `ERROR` if the call failed: on a client, with any outcome but a result; on a server, with a fault |
//! | `rpc.system.name` | `rpc-core` |
//! | `rpc.method` | `Fib/fib`; `_OTHER` for a request for an unknown method |
//! | `rpc.method_original` | the name of the unknown method |
//! | `rpc.response.status_code` | `result`, `error` (the service's own error), the code of a fault, or the snake_case name of an [`ErrorKind`]; `dropped` for a call that was dropped |
//! | `error.type` | the same value, unless the status is `result` |
//! | `messaging.system` | `rabbitmq`, also with the embedded broker; on a client only once a request is published |
//! | `messaging.operation.type`, `messaging.operation.name` | `send` and `publish`, or `process` and `consume` |
//! | `messaging.destination.name` | the queue |
//! | `messaging.message.conversation_id` | the correlation id |
//! | `messaging.message.body.size` | the size of the request's body, in bytes |
//! | `rpc.stream.items.sent`, `rpc.stream.items.received` | the number of items of a stream, recorded at its end; on a client, the received items are those that the program has read |
//! | `messaging.batch.message_count` | the number of requests in the message, if more than one |
//! | `trace_id`, `span_id`, `parent_span_id` | without OpenTelemetry only: see below |
//!
//! # Traces
//!
//! A request carries its client span as the headers `traceparent` and `tracestate` of the
//! [W3C Trace Context](https://www.w3.org/TR/trace-context/), and the server's span becomes its child.
//!
//! With the feature `opentelemetry`, and a `tracing_opentelemetry` layer in the subscriber, the ids are OpenTelemetry's. Calls made in
//! a handler are children of the handler's span, and all spans are exported as usual. No global propagator and no global tracer is
//! needed. `examples/tracing.rs` shows the setup. The version of the layer must match the version that this crate uses: see
//! [`guide::observability`](crate::guide::observability#matching-versions-of-opentelemetry).
//!
//! With any other subscriber, this crate creates the ids and records them as fields of the spans, so that one `trace_id` finds the logs
//! of all programs that took part in a call. The parent comes from the request's header `traceparent`, which calls made in a handler
//! inherit.
//!
//! A program without a subscriber creates no ids, and passes on the ids that it received.
//!
//! # Metrics
//!
//! The feature `metrics` records metrics through the recorder that the program installs. The recorder receives the descriptions of the
//! metrics if it is installed before the program opens a connection. `examples/metrics.rs` serves them as a Prometheus page. Exporters
//! for Prometheus write `_` for each dot.
//!
//! | name | type | labels | |
//! |---|---|---|---|
//! | `rpc.client.call.duration` | histogram, seconds | method, outcome | calls, from `.await` to outcome, or from `send` to the last answer of all instances; the count is the number of calls, except calls whose arguments could not be encoded |
//! | `rpc.client.active_calls` | gauge | method | calls in flight |
//! | `rpc.client.retries` | counter | method | attempts after the first |
//! | `rpc.client.dropped_replies` | counter | `reason`: `late`, `foreign` or `malformed` | replies that no call waited for: see [`DroppedReplies`](crate::DroppedReplies). `late` includes the faults that servers send to calls that have ended |
//! | `rpc.server.call.duration` | histogram, seconds | method, outcome | requests, from start to outcome; the count is the number of requests |
//! | `rpc.server.active_calls` | gauge | method | requests in progress |
//! | `rpc.server.queue.duration` | histogram, seconds | method | requests, from publish to start: see below |
//! | `rpc.server.redeliveries` | counter | method | requests that were started and had been delivered before |
//! | `rpc.server.given_up` | counter | method, `reason`: `delivery-limit`, `at-most-once` or `not-counted` | requests that were given up; they go to the dead-letter queue |
//! | `rpc.server.dropped_dead_letters` | counter | method, `reason`: the same | dead letters that the dead-letter queue did not accept |
//! | `rpc.client.open_streams`, `rpc.server.open_streams` | gauge | method | open streams |
//! | `rpc.client.stream.items`, `rpc.server.stream.items` | counter | method, `direction`: `sent` or `received` | items of streams |
//! | `rpc.client.stream.bytes`, `rpc.server.stream.bytes` | counter, bytes | method, `direction` | encoded items of streams |
//! | `rpc.client.batch.size` | histogram, calls | | requests in a message, for each message of a client that [coalesces](crate::ClientBuilder::coalesce) |
//! | `rpc.server.batch.size` | histogram, calls | | replies in a message, for each message to a client that accepts batches |
//! | `rpc.connection.reconnects` | counter | | reconnects after a loss |
//!
//! A call with streams lasts until its streams end: the two call durations count the ends of streams by their outcomes. In the direct form there
//! are no items on the way, and none are counted.
//!
//! "Method" stands for the labels `rpc.system.name`, `rpc.service` (`Fib`) and `rpc.method` (`Fib/fib`). "Outcome" stands for
//! `rpc.response.status_code` and, for a failure, `error.type`, with the same values as in spans. The two call durations and their
//! labels are OpenTelemetry's, which has no names for the other metrics yet. The number of series is bounded: no label holds a value
//! that a caller can choose.
//!
//! A server calculates the time at which a request was published from the request's deadline and expiration, to the millisecond, so no
//! further header is needed. Two clocks are involved: if the caller's clock is ahead of the server's, waits look shorter by the
//! difference (but not negative), otherwise longer. Requests without a deadline or an expiration, from clients of other kinds, are not
//! measured.

mod attributes;
#[cfg_attr(not(feature = "metrics"), path = "no_metrics.rs")]
pub(crate) mod metrics;
mod spans;
mod trace_context;

use tracing::{Instrument, Span};

use self::attributes::{OTHER, Side};
use self::metrics::Measured;
pub(crate) use self::metrics::StreamMeter;
#[cfg(all(any(test, fuzzing), feature = "amqp"))]
pub(crate) use self::trace_context::fuzz;
use crate::definition::Method;
use crate::error::{ErrorKind, RpcError};
use crate::message::{Request, Response};
use crate::transport::Message;

/// Returns the name of a request's method in telemetry.
pub(crate) fn name_of(method: Option<&'static Method>) -> &'static str {
    method.map_or(OTHER, |method| method.name)
}

/// Telemetry of a call on one side. Recorded when dropped.
#[derive(Debug)]
pub(crate) struct Observed {
    side: Side,
    span: Span,
    measured: Measured,
    /// The status of the response, and `dropped` until the call ends.
    status: &'static str,
}

impl Observed {
    /// Starts the telemetry of a call on a client. Stores the span in the request, and the span's trace context in the request's headers.
    /// Returns `None` if no subscriber and no metrics record the call.
    pub(crate) fn by_client(request: &mut Request) -> Option<Box<Self>> {
        let span = spans::of_client(request);
        if span.is_disabled() && !metrics::ARE_KEPT {
            return None;
        }
        request.0.span = span.clone();
        let method = request.0.method.as_deref().unwrap_or(OTHER);
        let measured = Measured::begin(Side::Client, request.0.service.clone(), method);
        Some(Box::new(Self::begun(Side::Client, span, measured)))
    }

    /// Starts the telemetry of a request on a server. Stores the span's trace context in the message's headers. `requests` is the number
    /// of requests in the same message.
    pub(crate) fn by_server(
        service: &'static str,
        method: Option<&'static Method>,
        queue: &str,
        message: &mut Message,
        redelivered: bool,
        requests: usize,
    ) -> Self {
        let method = name_of(method);
        let measured = Measured::begin(Side::Server, service, method);
        measured.started(message, redelivered);
        let span = spans::of_server(service, method, queue, message);
        spans::batched(&span, requests);
        Self::begun(Side::Server, span, measured)
    }

    fn begun(side: Side, span: Span, measured: Measured) -> Self {
        Self {
            side,
            span,
            measured,
            status: "dropped",
        }
    }

    /// Runs the call in its span, which ends with the call, and records the outcome.
    pub(crate) async fn watch(
        mut self,
        call: impl Future<Output = Result<Response, RpcError>>,
    ) -> Result<Response, RpcError> {
        self.follow(call).await
    }

    /// Runs the call in its span, and records the outcome.
    pub(crate) async fn follow(
        &mut self,
        call: impl Future<Output = Result<Response, RpcError>>,
    ) -> Result<Response, RpcError> {
        let outcome = call.instrument(self.span.clone()).await;
        self.status = self.status_of(&outcome);
        outcome
    }

    fn status_of(&self, outcome: &Result<Response, RpcError>) -> &'static str {
        match outcome {
            Ok(response) if response.is_error() => "error",
            Ok(_) => "result",
            Err(error) => match self.side {
                Side::Client => error.kind().as_str(),
                Side::Server => error.kind().fault_code(),
            },
        }
    }

    /// Returns the span of the call.
    pub(crate) fn span(&self) -> &Span {
        &self.span
    }

    /// Records that the call goes on after its response. Until [`ended`](Self::ended), it counts as dropped.
    pub(crate) fn goes_on(&mut self) {
        self.status = "dropped";
    }

    /// Records the end of a call to all instances: a result, unless something else ended it.
    pub(crate) fn ended(&mut self, outcome: Option<&Result<Response, RpcError>>) {
        self.status = outcome.map_or("result", |outcome| self.status_of(outcome));
    }

    /// Records the end of a stream: `result` for its own end, `error` for the service's own error, else the name of an [`ErrorKind`].
    pub(crate) fn stream_ended(&mut self, status: &'static str) {
        self.status = status;
    }

    /// Records the number of items that the program has read.
    pub(crate) fn items_read(&self, items: u64) {
        spans::received(&self.span, items);
    }

    /// Records that the client could not decode the reply.
    pub(crate) fn unreadable(&mut self) {
        self.status = ErrorKind::BadReply.as_str();
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        spans::ended(&self.span, self.side, self.status);
        self.measured.ended(self.status);
    }
}

/// Records on a client's span the message that carries the request.
pub(crate) fn published(request: &Request, message: &Message) {
    spans::published(&request.0.span, &request.0.queue, message);
}

/// Records on the span of a stream the number of items that were sent.
pub(crate) fn items_sent(span: &Span, items: u64) {
    spans::sent(span, items);
}

/// Records on the span of a stream the number of items that arrived.
pub(crate) fn items_received(span: &Span, items: u64) {
    spans::received(span, items);
}

/// Records on a client's span the number of requests in its message.
pub(crate) fn batched(span: &Span, requests: usize) {
    spans::batched(span, requests);
}
