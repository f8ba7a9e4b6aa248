//! Schemas of the properties and headers of messages. PROTOCOL.md describes them.

use rpc_core::instances::{MethodKind, ServiceInfo};
use serde_json::{Map, Value, json};

use super::super::schemas::Schemas;

/// Returns the reference to a schema of headers.
pub(super) fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/rpc.headers.{name}") })
}

/// Adds the schemas that the methods of a service need.
pub(super) fn insert(service: &ServiceInfo, schemas: &mut Schemas) {
    let kinds = || service.methods.iter().map(|method| method.kind);
    let mut insert = |name: &str, schema| {
        schemas.insert(&format!("rpc.headers.{name}"), schema);
    };
    if kinds().any(|kind| !kind.has_stream()) {
        let batches = [(
            "rpc-batches",
            json!({ "type": "boolean", "description": "true if several replies may arrive in one message." }),
        )];
        insert("request", headers(request().chain(batches), &[]));
    }
    if kinds().any(|kind| kind != MethodKind::Oneway) {
        insert("reply", headers(reply(), &[]));
        insert("fault", headers(reply().chain(fault()), &[]));
    }
    if kinds().any(MethodKind::has_stream) {
        let required = [
            "correlation_id",
            "reply_to",
            "rpc-items",
            "rpc-bytes",
            "rpc-silence",
        ];
        insert(
            "stream-request",
            headers(request().chain(windows()), &required),
        );
        let required = ["correlation_id", "message_id"];
        insert("stream", headers(reply().chain(stream()), &required));
    }
}

type Header = (&'static str, Value);

fn headers(properties: impl Iterator<Item = Header>, required: &[&str]) -> Value {
    let properties = properties.map(|(name, schema)| (name.to_owned(), schema));
    json!({
        "type": "object",
        "description": "Properties of the AMQP message, and its headers.",
        "properties": properties.collect::<Map<_, _>>(),
        "required": required,
    })
}

fn text(name: &'static str, description: &str) -> Header {
    (
        name,
        json!({ "type": "string", "description": description }),
    )
}

fn integer(name: &'static str, description: &str) -> Header {
    (
        name,
        json!({ "type": "integer", "description": description }),
    )
}

fn request() -> impl Iterator<Item = Header> {
    let names = json!({
        "type": "array",
        "items": { "type": "string" },
        "description": "Names of the headers that the calls of the handler send too.",
    });
    [
        text(
            "correlation_id",
            "Property: unique among the calls of the reply queue.",
        ),
        text(
            "reply_to",
            "Property: the reply queue of the caller. Absent if no reply is wanted.",
        ),
        text(
            "expiration",
            "Property: the time until the deadline in milliseconds.",
        ),
        text("app_id", "Property: the name of the caller's connection."),
        integer(
            "rpc-deadline",
            "The deadline: milliseconds since the Unix epoch.",
        ),
        ("rpc-propagate", names),
        text("traceparent", "W3C Trace Context."),
        text("tracestate", "W3C Trace Context."),
    ]
    .into_iter()
}

fn windows() -> impl Iterator<Item = Header> {
    [
        integer(
            "rpc-items",
            "The number of items that may be on their way to the caller.",
        ),
        integer(
            "rpc-bytes",
            "The sum of the lengths of these items, in bytes.",
        ),
        integer(
            "rpc-silence",
            "The longest silence of either side, in milliseconds.",
        ),
    ]
    .into_iter()
}

fn reply() -> impl Iterator<Item = Header> {
    [
        text("correlation_id", "Property: that of the request."),
        text("app_id", "Property: the name of the sender's connection."),
    ]
    .into_iter()
}

fn fault() -> impl Iterator<Item = Header> {
    let executed = json!({ "const": false, "description": "No handler has seen the request." });
    let redelivered =
        json!({ "const": true, "description": "Another server may have run the request." });
    [
        ("rpc-executed", executed),
        ("rpc-redelivered", redelivered),
        integer("rpc-time", "The time of the server's clock, with the code deadline_exceeded: milliseconds since the Unix epoch."),
    ]
    .into_iter()
}

fn stream() -> impl Iterator<Item = Header> {
    [
        text("message_id", "Property: the id of the stream."),
        text(
            "reply_to",
            "Property of accepted: the private queue of the instance.",
        ),
        text("rpc-instance", "In accepted: the id of the instance."),
        integer(
            "rpc-sequence",
            "In items, end and error: the number of items in earlier messages.",
        ),
        integer("rpc-items", "In accepted and credit: a number of items."),
        integer("rpc-bytes", "In accepted and credit: a number of bytes."),
    ]
    .into_iter()
}
