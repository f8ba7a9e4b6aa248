//! Every name on the wire: headers, message types, content types, queues, topics, and the prefixes that are reserved.
//!
//! PROTOCOL.md lists the same names for programs in other languages.

/// The copy in rpc-macros, which cannot depend on this crate.
#[cfg(test)]
#[path = "../../rpc-macros/src/names.rs"]
mod macro_names;

/// The longest name of a queue, an exchange, a routing key or a method, in bytes: AMQP's short string.
pub(crate) const MAX_NAME: usize = 255;

/// Version of the protocol.
pub(crate) const PROTOCOL_VERSION: u32 = 1;

// Prefixes that are reserved.

/// Prefix of the names of built-in methods. The macro reserves it.
pub(crate) const METHOD_PREFIX: &str = "rpc.";

/// Prefix of headers that belong to the protocol.
pub(crate) const PROTOCOL_PREFIX: &str = "rpc-";

/// Prefix of headers that brokers may interpret.
pub(crate) const BROKER_PREFIX: &str = "x-";

/// Prefix of headers that carry parts of an AMQP 1.0 message through RabbitMQ.
pub(crate) const BROKER_PREFIXES: [&str; 3] = ["x-amqp-1.0-", "x-basic-", "x-opt-"];

/// Headers that RabbitMQ reads from every message, or writes itself: copies (`CC`, `BCC`), dead letters, deliveries, plugins that
/// move messages, message interceptors, and what it keeps of AMQP 1.0 (`rabbit_basic.erl`, `mc_amqpl.erl`, `rabbit_fifo_client.erl`
/// in its sources; <https://www.rabbitmq.com/docs/sender-selected>, <https://www.rabbitmq.com/docs/dlx>).
pub(crate) const BROKER_HEADERS: [&str; 21] = [
    "CC",
    "BCC",
    "timestamp_in_ms",
    ACQUIRED_COUNT,
    "x-cc",
    BROKER_DEATHS_HEADER,
    DELIVERY_COUNT,
    "x-exchange",
    "x-federation-upstream",
    "x-first-death-exchange",
    "x-first-death-queue",
    "x-first-death-reason",
    "x-invalid-headers",
    "x-last-death-exchange",
    "x-last-death-queue",
    "x-last-death-reason",
    "x-received-from",
    "x-routed-by",
    "x-routing-key",
    "x-shovelled",
    "x-shovelled-timestamp",
];

// Headers of the protocol.

/// Deadline of a request: a signed 64-bit integer, milliseconds since the Unix epoch.
pub(crate) const DEADLINE_HEADER: &str = "rpc-deadline";

/// Permission to put several replies into one message: a boolean.
pub(crate) const BATCHES_HEADER: &str = "rpc-batches";

/// Names of the request's headers that its server's own calls send on: a list of texts.
pub(crate) const PROPAGATE_HEADER: &str = "rpc-propagate";

/// Set on a message whose headers could not be read whole: the reason, as text. The receiver refuses the
/// message with this reason.
pub(crate) const UNREADABLE_HEADER: &str = "rpc-unreadable";

/// Set on a fault of a deadline that had passed: the time of the server's clock, in milliseconds since the Unix epoch.
pub(crate) const TIME_HEADER: &str = "rpc-time";

/// Set on a fault whose request had been delivered before: an earlier server may have run it.
pub(crate) const REDELIVERED_HEADER: &str = "rpc-redelivered";

/// Set, as `false`, on a fault whose request has not run anywhere.
pub(crate) const EXECUTED_HEADER: &str = "rpc-executed";

/// Set on a request that a server republished: the number of earlier deliveries that no server settled.
pub(crate) const DELIVERIES_HEADER: &str = "rpc-delivery-count";

/// Set on the answer of an instance to a question or to a call to all instances: the id of the instance, as text.
pub(crate) const INSTANCE_HEADER: &str = "rpc-instance";

/// Number of items before this message of a stream: an integer.
pub(crate) const SEQUENCE_HEADER: &str = "rpc-sequence";

/// Items that the sender of this message is ready to receive in a stream, or further ones: an integer.
pub(crate) const ITEMS_HEADER: &str = "rpc-items";

/// Bytes of items that the sender of this message is ready to receive in a stream, or further ones: an integer.
pub(crate) const BYTES_HEADER: &str = "rpc-bytes";

/// Set on a request that opens a stream: the longest silence of either side, in milliseconds.
pub(crate) const SILENCE_HEADER: &str = "rpc-silence";

/// Set on a request in a dead-letter queue: the reason.
pub(crate) const DEATH_REASON_HEADER: &str = "rpc-death-reason";

/// Set on a request in a dead-letter queue: the queue that it came from.
pub(crate) const DEATH_QUEUE_HEADER: &str = "rpc-death-queue";

/// Set on a request in a dead-letter queue: the time, as an AMQP timestamp.
pub(crate) const DEATH_TIME_HEADER: &str = "rpc-death-time";

/// Set on a message from which headers were dropped to make it fit: their names, or their number.
pub(crate) const DROPPED_HEADER: &str = "rpc-headers-dropped";

// Headers that other standards and RabbitMQ define.

/// Header in which quorum queues count how often a message was delivered and not settled
/// (<https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling>). RabbitMQ 4 does not count requeued deliveries.
pub(crate) const DELIVERY_COUNT: &str = "x-delivery-count";

/// Set by RabbitMQ 4 on every delivery of a quorum queue except the first.
pub(crate) const ACQUIRED_COUNT: &str = "x-acquired-count";

/// Set by the broker on a message that it moved to a dead-letter queue: a list of tables
/// (<https://www.rabbitmq.com/docs/dlx#effects>).
pub(crate) const BROKER_DEATHS_HEADER: &str = "x-death";

/// Trace and span of the caller (<https://www.w3.org/TR/trace-context/>).
pub(crate) const TRACEPARENT: &str = "traceparent";

/// Vendors' additions to [`TRACEPARENT`].
pub(crate) const TRACESTATE: &str = "tracestate";

/// Headers of the trace, which nested calls inherit together.
pub(crate) const TRACE_HEADERS: [&str; 2] = [TRACEPARENT, TRACESTATE];

// Built-in methods.

/// Asks an instance for its [`InstanceInfo`](crate::instances::InstanceInfo).
pub(crate) const PING: &str = "rpc.ping";

/// Asks an instance for its [`ServiceInfo`](crate::instances::ServiceInfo).
pub(crate) const DESCRIBE: &str = "rpc.describe";

/// Asks an instance for its [`InstanceStats`](crate::instances::InstanceStats).
pub(crate) const STATS: &str = "rpc.stats";

/// Opens a stream of the calls of an instance: [`TapEvent`](crate::instances::TapEvent)s.
pub(crate) const TAP: &str = "rpc.tap";

/// Tells the other instances of a service that an instance has started, and with which contract. Has no answer.
pub(crate) const ANNOUNCE: &str = "rpc.announce";

// Types of messages, beside the names of methods.

/// Type of a reply that holds the method's value.
pub(crate) const RESULT: &str = "result";

/// Type of a reply that holds the service's own error.
pub(crate) const ERROR: &str = "error";

/// Type of a reply that holds a fault.
pub(crate) const FAULT: &str = "fault";

/// Type of the first answer to a request that opens a stream: the server runs the request.
pub(crate) const ACCEPTED: &str = "accepted";

/// Type of the message that follows [`ACCEPTED`] once the handler of a method with streams in both directions has returned its stream.
pub(crate) const STARTED: &str = "started";

/// Type of a message with items of a stream.
pub(crate) const ITEMS: &str = "items";

/// Type of the message that ends a stream as its sender intended.
pub(crate) const END: &str = "end";

/// Type of a message that permits further items.
pub(crate) const CREDIT: &str = "credit";

/// Type of the sign of life of a silent side of a stream.
pub(crate) const ALIVE: &str = "alive";

/// Type of the message by which a caller abandons a stream.
pub(crate) const STOP: &str = "stop";

/// Type of a notice that calls were dropped.
pub(crate) const CANCEL: &str = "cancel";

/// Type of a batch, for people and for tools.
pub(crate) const BATCH: &str = "batch";

// Content types.

pub(crate) const MESSAGE_PACK: &str = "application/msgpack";
pub(crate) const JSON: &str = "application/json";

/// Content type of a batch. A server that does not know this content type refuses the whole batch, and runs none of its calls.
pub(crate) const BATCH_CONTENT_TYPE: &str = "application/vnd.rpc-batch+msgpack";

// Queues, topics and exchanges.

/// Prefix of the default name of a service's queue. The service's name follows.
pub(crate) const QUEUE_PREFIX: &str = "rpc.";

/// Prefix of the reply queue of a connection. A random UUID follows.
pub(crate) const REPLY_QUEUE_PREFIX: &str = "rpc.reply.";

/// Prefix of the private queue of an instance. The id of the instance follows, then a dot and a random UUID.
pub(crate) const INSTANCE_QUEUE_PREFIX: &str = "rpc.instance.";

/// Prefix of the topic of the notices for the servers of a queue. The queue's name follows.
pub(crate) const CANCEL_TOPIC_PREFIX: &str = "rpc.cancel.";

/// Prefix of the topic of calls to all servers of a queue. The queue's name follows.
pub(crate) const ALL_TOPIC_PREFIX: &str = "rpc.all.";

/// Topic of questions to all instances.
pub(crate) const INSTANCES_TOPIC: &str = "rpc.instances";

/// Prefix of the topic of questions to the instances of a service. The service's name follows.
pub(crate) const SERVICE_TOPIC_PREFIX: &str = "rpc.instances.";

/// Suffix of the queue in which requests wait for their last attempt, which each makes alone.
pub(crate) const RETRY_SUFFIX: &str = ".retry";

/// Suffix of the default name of a dead-letter queue.
pub(crate) const DEAD_LETTER_SUFFIX: &str = ".dead";

/// Longest name of a request queue, in bytes: the topic of its notices is the longest name derived from it.
pub(crate) const MAX_QUEUE_NAME: usize = MAX_NAME - CANCEL_TOPIC_PREFIX.len();

/// Longest name of a service, in bytes: the topic of questions to its instances is the longest name derived from it.
#[cfg_attr(not(test), expect(dead_code, reason = "read by the macro"))]
pub(crate) const MAX_SERVICE_NAME: usize = MAX_NAME - SERVICE_TOPIC_PREFIX.len();

/// Prefix of the broker's own names.
pub(crate) const BROKER_QUEUE_PREFIX: &str = "amq.";

/// Exchange for messages to several instances, which every virtual host has
/// (<https://www.rabbitmq.com/docs/exchanges#predeclared>): there is nothing to declare.
#[cfg(feature = "amqp")]
pub(crate) const TOPIC_EXCHANGE: &str = "amq.direct";

/// Prefix of direct reply-to addresses (<https://www.rabbitmq.com/docs/direct-reply-to>).
#[cfg(feature = "amqp")]
pub(crate) const DIRECT_REPLY_TO: &str = "amq.rabbitmq.reply-to";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macro_and_library_agree_on_names() {
        assert_eq!(macro_names::QUEUE_PREFIX, QUEUE_PREFIX);
        assert_eq!(macro_names::METHOD_PREFIX, METHOD_PREFIX);
        assert_eq!(macro_names::CANCEL_TOPIC_PREFIX, CANCEL_TOPIC_PREFIX);
        assert_eq!(macro_names::BROKER_QUEUE_PREFIX, BROKER_QUEUE_PREFIX);
        assert_eq!(macro_names::MAX_NAME, MAX_NAME);
        assert_eq!(macro_names::MAX_QUEUE_NAME, MAX_QUEUE_NAME);
        assert_eq!(macro_names::SERVICE_TOPIC_PREFIX, SERVICE_TOPIC_PREFIX);
        assert_eq!(macro_names::MAX_SERVICE_NAME, MAX_SERVICE_NAME);
    }
}
