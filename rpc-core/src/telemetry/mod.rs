//! What calls tell of themselves: spans for `tracing` and OpenTelemetry, and numbers for the `metrics` facade.
//!
//! Nothing has to be called and no layer to be added: every client and every server tells, if somebody listens.
//!
//! # Spans
//!
//! Each call has a span on the caller's side, from its `.await` to its answer, all attempts and layers included, and each
//! request that is run has one on the server's side, around the layers and the handler. They are `tracing` spans of the level
//! `INFO` with the targets `rpc_core::client` and `rpc_core::server`; without a subscriber, or with one that filters these
//! targets out, they cost a comparison.
//!
//! Names and attributes follow OpenTelemetry's semantic conventions for RPC (1.45) and, as far as they go together, for
//! messaging:
//!
//! | field | value |
//! |---|---|
//! | `otel.name` | the span's name: `Fib/fib` |
//! | `otel.kind` | `client` or `server` |
//! | `otel.status_code` | `ERROR` if the call failed: for a client with anything but a result, for a server with a fault |
//! | `rpc.system.name` | `rpc-core` |
//! | `rpc.method` | `Fib/fib`; `_OTHER` for a request whose method the service does not have |
//! | `rpc.method_original` | the name in such a request |
//! | `rpc.response.status_code` | `result`, `error` (the service's own error), the code of a fault, or the snake_case name of an [`ErrorKind`]; `dropped` for a call that was dropped |
//! | `error.type` | the same, unless it is `result` |
//! | `messaging.system` | `rabbitmq`, the embedded broker included; on a client only once a request is published |
//! | `messaging.operation.type`, `messaging.operation.name` | `send` and `publish`, or `process` and `consume` |
//! | `messaging.destination.name` | the queue |
//! | `messaging.message.conversation_id` | the correlation id |
//! | `messaging.message.body.size` | the size of the request's body, in bytes |
//! | `messaging.batch.message_count` | how many requests share the message, if there are others |
//! | `trace_id`, `span_id`, `parent_span_id` | without OpenTelemetry: see below |
//!
//! # Traces
//!
//! A request carries its client span as the headers `traceparent` and `tracestate` of the
//! [W3C Trace Context](https://www.w3.org/TR/trace-context/), and the server's span becomes its child.
//!
//! With the feature `opentelemetry`, and a `tracing_opentelemetry` layer in the subscriber, the ids are OpenTelemetry's: calls
//! made in a handler are children of its span, and everything is exported as usual. Neither a global propagator nor a global
//! tracer is needed. `examples/tracing.rs` shows it. The layer has to be of the version that this crate uses, see
//! [`guide::observability`](crate::guide::observability#matching-versions-of-opentelemetry).
//!
//! With any other subscriber the ids are made here, and are fields of the spans, so that the logs of all programs that took
//! part in a call can be found by one `trace_id`. The parent is then taken from the request's own header `traceparent`, which
//! calls made in a handler inherit.
//!
//! A program without a subscriber makes no ids and passes on those that it was given.
//!
//! # Metrics
//!
//! With the feature `metrics`, through the recorder that the program installs (for descriptions: before it opens a
//! connection). `examples/metrics.rs` shows them as a Prometheus page. Exporters for Prometheus write `_` for each dot.
//!
//! | name | type | labels | |
//! |---|---|---|---|
//! | `rpc.client.call.duration` | histogram, seconds | method, outcome | calls, from `.await` to answer; its count is the number of calls, but for those whose arguments could not be encoded |
//! | `rpc.client.active_calls` | gauge | method | calls in flight |
//! | `rpc.client.retries` | counter | method | attempts after the first |
//! | `rpc.client.dropped_replies` | counter | `reason`: `late`, `foreign` or `malformed` | replies that no call waited for, see [`DroppedReplies`](crate::DroppedReplies); `late` are also the faults with which servers answer calls that ended before |
//! | `rpc.server.call.duration` | histogram, seconds | method, outcome | requests, from start to answer; its count is the number of requests |
//! | `rpc.server.active_calls` | gauge | method | requests being worked on |
//! | `rpc.server.queue.duration` | histogram, seconds | method | from publish to start; see below |
//! | `rpc.server.redeliveries` | counter | method | requests that were started and had been delivered before |
//! | `rpc.server.given_up` | counter | method, `reason`: `delivery-limit`, `at-most-once` or `not-counted` | requests that went to the dead-letter queue, or were to go there |
//! | `rpc.server.dropped_dead_letters` | counter | method, `reason`: the same | those of them that the dead-letter queue did not take |
//! | `rpc.client.batch.size` | histogram, calls | | calls whose requests share a message, for each message of a client that [coalesces](crate::ClientBuilder::coalesce) |
//! | `rpc.server.batch.size` | histogram, calls | | calls whose replies share a message, for each message to a client that reads such |
//! | `rpc.connection.reconnects` | counter | | connections made again after a loss |
//!
//! "Method" are the labels `rpc.system.name`, `rpc.service` (`Fib`) and `rpc.method` (`Fib/fib`), "outcome" are
//! `rpc.response.status_code` and, for a failure, `error.type`, with the values that the spans have. The two durations and
//! their labels are OpenTelemetry's; for the rest it has no names yet. The number of series is bounded: no label holds what a
//! caller can choose.
//!
//! When a request was published follows from the deadline and the expiration that it carries anyway, to the millisecond; no
//! header is spent on it. It is measured by two clocks: if the caller's is ahead of the server's, waits look shorter by that
//! (never less than zero), else longer. Requests without both, from clients of other kinds, are not measured.

mod context;
#[cfg_attr(not(feature = "metrics"), path = "no_metrics.rs")]
pub(crate) mod metrics;
mod trace;

use tracing::{Instrument, Span};

pub(crate) use self::context::TRACE_HEADERS;
#[cfg(all(any(test, fuzzing), feature = "amqp"))]
pub(crate) use self::context::fuzz;
use self::metrics::Measured;
use crate::definition::Method;
use crate::error::{ErrorKind, RpcError};
use crate::message::{Request, Response};
use crate::transport::Message;

/// The method of a request that the service does not have: an attacker's imagination must not become series and span names.
const OTHER: &str = "_OTHER";

/// What a request's method is called here.
pub(crate) fn name_of(method: Option<&'static Method>) -> &'static str {
    method.map_or(OTHER, |method| method.name)
}

/// Which end of a call tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// A call as one side sees it, from here to [`watch`](Self::watch)'s end.
#[derive(Debug)]
pub(crate) struct Observed {
    side: Side,
    span: Span,
    measured: Measured,
    /// How it ended; until then, that it was dropped.
    status: &'static str,
}

impl Observed {
    /// A call that is about to be made: gives its span, and the place of its span in the trace, to the request.
    /// There is nothing to keep for a call that nobody wants to hear of.
    pub(crate) fn by_client(request: &mut Request) -> Option<Box<Self>> {
        let span = trace::of_client(request);
        if span.is_disabled() && !metrics::ARE_KEPT {
            return None;
        }
        request.0.span = span.clone();
        let method = request.0.method.as_deref().unwrap_or(OTHER);
        let measured = Measured::begin(Side::Client, request.0.service, method);
        Some(Box::new(Self::begun(Side::Client, span, measured)))
    }

    /// A request that is about to be run, which came together with so many, itself included: gives the place of its span in the
    /// trace to the message.
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
        let span = trace::of_server(service, method, queue, message);
        trace::batched(&span, requests);
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

    /// Runs the call in its span, which ends with it, and takes note of how.
    pub(crate) async fn watch(
        mut self,
        call: impl Future<Output = Result<Response, RpcError>>,
    ) -> Result<Response, RpcError> {
        self.follow(call).await
    }

    /// Runs the call in its span, and takes note of how it ends.
    pub(crate) async fn follow(
        &mut self,
        call: impl Future<Output = Result<Response, RpcError>>,
    ) -> Result<Response, RpcError> {
        let answer = call.instrument(self.span.clone()).await;
        self.status = match &answer {
            Ok(response) if response.is_error() => "error",
            Ok(_) => "result",
            Err(error) => match self.side {
                Side::Client => error.kind().as_str(),
                Side::Server => error.kind().fault_code(),
            },
        };
        answer
    }

    /// Takes note that the reply was not what the caller expects.
    pub(crate) fn unreadable(&mut self) {
        self.status = ErrorKind::BadReply.as_str();
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        trace::ended(&self.span, self.side, self.status);
        self.measured.ended(self.status);
    }
}

/// Notes on a client's span how its request was published.
pub(crate) fn published(request: &Request, message: &Message) {
    trace::published(&request.0.span, &request.0.queue, message);
}

/// Notes on a client's span how many requests share its message.
pub(crate) fn shared(span: &Span, requests: usize) {
    trace::batched(span, requests);
}
