//! Metrics of calls, through the `metrics` facade.

use std::borrow::Cow;
use std::time::Instant;

use metrics::{Counter, Gauge, Label, Unit, counter, gauge, histogram};

use super::attributes::{SYSTEM, Side, path};
use crate::deadline;
use crate::transport::Message;

const CLIENT_DURATION: &str = "rpc.client.call.duration";
const CLIENT_ACTIVE: &str = "rpc.client.active_calls";
const RETRIES: &str = "rpc.client.retries";
const DROPPED_REPLIES: &str = "rpc.client.dropped_replies";
const SERVER_DURATION: &str = "rpc.server.call.duration";
const SERVER_ACTIVE: &str = "rpc.server.active_calls";
const QUEUE_DURATION: &str = "rpc.server.queue.duration";
const REDELIVERIES: &str = "rpc.server.redeliveries";
const GIVEN_UP: &str = "rpc.server.given_up";
const DROPPED_LETTERS: &str = "rpc.server.dropped_dead_letters";
const REQUESTS: &str = "rpc.client.batch.size";
const REPLIES: &str = "rpc.server.batch.size";
const CLIENT_STREAMS: StreamNames = StreamNames {
    open: "rpc.client.open_streams",
    items: "rpc.client.stream.items",
    bytes: "rpc.client.stream.bytes",
};
const SERVER_STREAMS: StreamNames = StreamNames {
    open: "rpc.server.open_streams",
    items: "rpc.server.stream.items",
    bytes: "rpc.server.stream.bytes",
};
const RECONNECTS: &str = "rpc.connection.reconnects";

/// Names of the metrics of streams on one side.
struct StreamNames {
    open: &'static str,
    items: &'static str,
    bytes: &'static str,
}

/// Sends the descriptions of all metrics to the recorder.
pub(crate) fn describe() {
    let seconds = Unit::Seconds;
    metrics::describe_histogram!(CLIENT_DURATION, seconds, "Calls, from await to outcome.");
    metrics::describe_gauge!(CLIENT_ACTIVE, "Calls in flight.");
    metrics::describe_counter!(RETRIES, "Attempts of calls after their first.");
    metrics::describe_counter!(DROPPED_REPLIES, "Replies that no call waited for.");
    metrics::describe_histogram!(SERVER_DURATION, seconds, "Requests, from start to outcome.");
    metrics::describe_gauge!(SERVER_ACTIVE, "Requests in progress.");
    metrics::describe_histogram!(QUEUE_DURATION, seconds, "Requests, from publish to start.");
    metrics::describe_counter!(REDELIVERIES, "Requests that had been delivered before.");
    metrics::describe_counter!(
        GIVEN_UP,
        "Requests that were given up; they go to the dead-letter queue."
    );
    metrics::describe_counter!(
        DROPPED_LETTERS,
        "Dead letters that the dead-letter queue did not accept."
    );
    metrics::describe_histogram!(REQUESTS, "Requests in a message.");
    metrics::describe_histogram!(REPLIES, "Replies in a message.");
    for StreamNames { open, items, bytes } in [CLIENT_STREAMS, SERVER_STREAMS] {
        metrics::describe_gauge!(open, "Open streams.");
        metrics::describe_counter!(items, "Items of streams.");
        metrics::describe_counter!(bytes, Unit::Bytes, "Encoded items of streams.");
    }
    metrics::describe_counter!(RECONNECTS, "Reconnects after a loss.");
}

/// `true` in builds that record metrics.
pub(super) const ARE_KEPT: bool = true;

/// Measurement of a call, from its start to its end.
#[derive(Debug)]
pub(crate) struct Measured {
    side: Side,
    service: Cow<'static, str>,
    method: String,
    begun: Instant,
}

impl Measured {
    pub(super) fn begin(side: Side, service: impl Into<Cow<'static, str>>, method: &str) -> Self {
        let service = service.into();
        let measured = Self {
            side,
            method: path(&service, method),
            service,
            begun: Instant::now(),
        };
        gauge!(measured.active(), measured.labels()).increment(1.0);
        measured
    }

    /// Records the time that a request waited in its queue, and its redelivery.
    pub(super) fn started(&self, message: &Message, redelivered: bool) {
        if let Some(waited) = deadline::waited(message.deadline, message.expiration) {
            histogram!(QUEUE_DURATION, self.labels()).record(waited);
        }
        if redelivered {
            counter!(REDELIVERIES, self.labels()).increment(1);
        }
    }

    pub(super) fn ended(&self, status: &'static str) {
        gauge!(self.active(), self.labels()).decrement(1.0);
        let duration = match self.side {
            Side::Client => CLIENT_DURATION,
            Side::Server => SERVER_DURATION,
        };
        let mut labels = self.labels();
        labels.push(Label::from_static_parts("rpc.response.status_code", status));
        if status != "result" {
            labels.push(Label::from_static_parts("error.type", status));
        }
        histogram!(duration, labels).record(self.begun.elapsed());
    }

    fn active(&self) -> &'static str {
        match self.side {
            Side::Client => CLIENT_ACTIVE,
            Side::Server => SERVER_ACTIVE,
        }
    }

    fn labels(&self) -> Vec<Label> {
        labels(self.service.clone(), self.method.clone())
    }
}

/// Metrics of a stream over a broker.
pub(crate) struct StreamMeter {
    open: Gauge,
    sent: DirectionMeter,
    received: DirectionMeter,
}

/// Metrics of the items in one direction.
struct DirectionMeter {
    items: Counter,
    bytes: Counter,
}

impl StreamMeter {
    pub(crate) fn of_client(service: impl Into<Cow<'static, str>>, method: &str) -> Self {
        Self::of(&CLIENT_STREAMS, service.into(), method)
    }

    pub(crate) fn of_server(service: &'static str, method: &str) -> Self {
        Self::of(&SERVER_STREAMS, service.into(), method)
    }

    /// Returns the meter of a stream that is no call of a service.
    pub(crate) fn none() -> Self {
        let nothing = || DirectionMeter {
            items: Counter::noop(),
            bytes: Counter::noop(),
        };
        Self {
            sent: nothing(),
            received: nothing(),
            open: Gauge::noop(),
        }
    }

    fn of(names: &StreamNames, service: Cow<'static, str>, method: &str) -> Self {
        let path = path(&service, method);
        let labels = labels(service, path);
        let direction = |direction| {
            let mut labels = labels.clone();
            labels.push(Label::from_static_parts("direction", direction));
            DirectionMeter {
                items: counter!(names.items, labels.clone()),
                bytes: counter!(names.bytes, labels),
            }
        };
        Self {
            sent: direction("sent"),
            received: direction("received"),
            open: gauge!(names.open, labels),
        }
    }

    pub(crate) fn opened(&self) {
        self.open.increment(1.0);
    }

    pub(crate) fn closed(&self) {
        self.open.decrement(1.0);
    }

    pub(crate) fn sent(&self, items: u64, bytes: u64) {
        self.sent.add(items, bytes);
    }

    pub(crate) fn received(&self, items: u64, bytes: u64) {
        self.received.add(items, bytes);
    }
}

impl DirectionMeter {
    fn add(&self, items: u64, bytes: u64) {
        self.items.increment(items);
        self.bytes.increment(bytes);
    }
}

impl std::fmt::Debug for StreamMeter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StreamMeter")
    }
}

fn labels(service: impl Into<Cow<'static, str>>, path: String) -> Vec<Label> {
    vec![
        Label::from_static_parts("rpc.system.name", SYSTEM),
        Label::new("rpc.service", service.into()),
        Label::new("rpc.method", path),
    ]
}

pub(crate) fn retried(service: impl Into<Cow<'static, str>>, method: &str) {
    let service = service.into();
    let path = path(&service, method);
    counter!(RETRIES, labels(service, path)).increment(1);
}

pub(crate) fn given_up(service: &'static str, method: &str, reason: &'static str) {
    counter!(GIVEN_UP, labels_with(service, method, reason)).increment(1);
}

pub(crate) fn dead_letter_dropped(service: &'static str, method: &str, reason: &'static str) {
    counter!(DROPPED_LETTERS, labels_with(service, method, reason)).increment(1);
}

fn labels_with(service: &'static str, method: &str, reason: &'static str) -> Vec<Label> {
    let mut labels = labels(service, path(service, method));
    labels.push(Label::from_static_parts("reason", reason));
    labels
}

pub(crate) fn reply_dropped(reason: &'static str) {
    counter!(DROPPED_REPLIES, "reason" => reason).increment(1);
}

pub(crate) fn requests_sent(calls: usize) {
    histogram!(REQUESTS).record(calls as f64);
}

pub(crate) fn replies_sent(calls: usize) {
    histogram!(REPLIES).record(calls as f64);
}

pub(crate) fn reconnected() {
    counter!(RECONNECTS).increment(1);
}
