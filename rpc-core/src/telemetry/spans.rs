//! Spans of a call, and their attributes.

use tracing::field::{Empty, display};
use tracing::subscriber::NoSubscriber;
use tracing::{Span, info_span};

use super::attributes::{OTHER, SYSTEM, Side, path};
use super::trace_context;
use crate::message::Request;
use crate::transport::Message;

pub(super) fn of_client(request: &mut Request) -> Span {
    let span = info_span!(
        target: "rpc_core::client",
        "rpc.client",
        otel.name = %path(request.service(), request.method().unwrap_or(OTHER)),
        otel.kind = "client",
        otel.status_code = Empty,
        rpc.system.name = SYSTEM,
        rpc.method = %path(request.service(), request.method().unwrap_or(OTHER)),
        rpc.response.status_code = Empty,
        error.type = Empty,
        messaging.system = Empty,
        messaging.operation.type = Empty,
        messaging.operation.name = Empty,
        messaging.destination.name = Empty,
        messaging.message.conversation_id = Empty,
        messaging.message.body.size = Empty,
        messaging.batch.message_count = Empty,
        rpc.stream.items.sent = Empty,
        rpc.stream.items.received = Empty,
        trace_id = Empty,
        span_id = Empty,
        parent_span_id = Empty,
    );
    if is_recorded(&span) {
        let is_root = Span::current().is_none();
        trace_context::enter(&span, &mut request.0.headers, is_root);
    }
    span
}

pub(super) fn of_server(
    service: &'static str,
    method: &'static str,
    queue: &str,
    message: &mut Message,
) -> Span {
    let span = info_span!(
        target: "rpc_core::server",
        parent: None,
        "rpc.server",
        otel.name = %path(service, method),
        otel.kind = "server",
        otel.status_code = Empty,
        rpc.system.name = SYSTEM,
        rpc.method = %path(service, method),
        rpc.method_original = Empty,
        rpc.response.status_code = Empty,
        error.type = Empty,
        messaging.system = "rabbitmq",
        messaging.operation.type = "process",
        messaging.operation.name = "consume",
        messaging.destination.name = queue,
        messaging.message.conversation_id = message.correlation_id.as_deref(),
        messaging.message.body.size = size(message),
        messaging.batch.message_count = Empty,
        rpc.stream.items.sent = Empty,
        rpc.stream.items.received = Empty,
        trace_id = Empty,
        span_id = Empty,
        parent_span_id = Empty,
    );
    if is_recorded(&span) {
        if method == OTHER {
            span.record("rpc.method_original", message.kind.as_deref());
        }
        trace_context::enter(&span, &mut message.headers, true);
    }
    span
}

pub(super) fn published(span: &Span, queue: &str, message: &Message) {
    if !is_recorded(span) {
        return;
    }
    span.record("messaging.system", "rabbitmq");
    span.record("messaging.operation.type", "send");
    span.record("messaging.operation.name", "publish");
    span.record("messaging.destination.name", queue);
    span.record("messaging.message.body.size", size(message));
    let id = message.correlation_id.as_deref();
    span.record("messaging.message.conversation_id", id);
}

/// Records the number of requests in a message, if more than one.
pub(super) fn batched(span: &Span, requests: usize) {
    if requests > 1 && is_recorded(span) {
        let count = i64::try_from(requests).unwrap_or(i64::MAX);
        span.record("messaging.batch.message_count", count);
    }
}

/// Records the number of items that were sent.
pub(super) fn sent(span: &Span, items: u64) {
    if is_recorded(span) {
        span.record("rpc.stream.items.sent", items);
    }
}

/// Records the number of items that were received.
pub(super) fn received(span: &Span, items: u64) {
    if is_recorded(span) {
        span.record("rpc.stream.items.received", items);
    }
}

pub(super) fn ended(span: &Span, side: Side, status: &'static str) {
    if !is_recorded(span) {
        return;
    }
    span.record("rpc.response.status_code", status);
    if status != "result" {
        span.record("error.type", status);
    }
    // The service's own error fails the call for its caller only. The server has worked as intended.
    let failed = match side {
        Side::Client => status != "result",
        Side::Server => !matches!(status, "result" | "error"),
    };
    if failed {
        span.record("otel.status_code", display("ERROR"));
    }
}

/// Returns `true` if a subscriber records the span. An enabled span is not enough: once every subscriber of the process wants spans of
/// a kind, such spans are also enabled in threads without a subscriber.
fn is_recorded(span: &Span) -> bool {
    span.with_subscriber(|(_, subscriber)| !subscriber.is::<NoSubscriber>())
        .unwrap_or(false)
}

/// Returns the size of a body as an `i64`, OpenTelemetry's only type of integers.
fn size(message: &Message) -> i64 {
    i64::try_from(message.body.len()).unwrap_or(i64::MAX)
}
