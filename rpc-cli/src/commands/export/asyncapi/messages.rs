//! Messages of an AsyncAPI document. PROTOCOL.md describes them.

use rpc_core::instances::{MethodInfo, MethodKind, ServiceInfo};
use serde_json::{Map, Value, json};

use super::super::payloads::{self, Body};
use super::super::schemas::Schemas;
use super::headers;

/// Formats of bodies, with the ends of the names of messages.
const FORMATS: [(&str, &str); 2] = [("", "application/msgpack"), (".json", "application/json")];

/// Messages of open streams without a body: type, and description.
const CONTROLS: [(&str, &str); 6] = [
    (
        "accepted",
        "The server has accepted the stream. message_id is the id of the stream, which all later messages have, and reply_to is the private \
         queue of the instance. rpc-items and rpc-bytes are the server's window, if the method takes a stream.",
    ),
    ("started", "The handler has returned its stream."),
    (
        "end",
        "The end of the stream, as its sender intended. rpc-sequence is the number of all items.",
    ),
    (
        "credit",
        "Permission to send as many items and bytes again.",
    ),
    ("alive", "A sign of life."),
    ("stop", "The caller abandons the stream."),
];

/// Returns the name of the message with a body.
fn base(method: &str, body: Body) -> String {
    match body {
        Body::Item => format!("{method}.items"),
        Body::CallerItem => format!("{method}.caller-items"),
        body => format!("{method}.{}", body.suffix()),
    }
}

/// Returns the names of a message in both formats.
pub(super) fn both(method: &str, body: Body) -> Vec<String> {
    in_formats(&base(method, body))
}

fn in_formats(base: &str) -> Vec<String> {
    let name = |(end, _): &(&str, &str)| format!("{base}{end}");
    FORMATS.iter().map(name).collect()
}

fn control(name: &str) -> String {
    format!("rpc.{name}")
}

/// Returns the names of the messages that answer a request of a method.
pub(super) fn replies(name: &str, method: &MethodInfo) -> Vec<String> {
    let bodies = payloads::bodies(method).into_iter();
    let answers = bodies.filter(|body| !matches!(body, Body::Request | Body::CallerItem));
    let mut names: Vec<_> = answers.flat_map(|body| both(name, body)).collect();
    names.extend(in_formats("rpc.fault"));
    let controls: &[&str] = match method.kind {
        MethodKind::ServerStreaming => &["accepted", "end", "alive"],
        MethodKind::ClientStreaming => &["accepted", "credit", "alive"],
        MethodKind::Bidirectional => &["accepted", "started", "end", "credit", "alive"],
        _ => &[],
    };
    names.extend(controls.iter().map(|name| control(name)));
    names
}

/// Returns the names of the messages of a caller in an open stream.
pub(super) fn of_caller(name: &str, method: &MethodInfo) -> Vec<String> {
    let mut names = Vec::new();
    if method.kind.takes_items() {
        names.extend(both(name, Body::CallerItem));
        names.push(control("end"));
    }
    if method.kind.returns_items() {
        names.push(control("credit"));
    }
    names.extend(["alive", "stop"].map(control));
    names
}

/// The messages of a document by their names.
#[derive(Debug)]
pub(super) struct Messages(Map<String, Value>);

impl Messages {
    /// Makes the messages that the methods share. Adds the schemas of all headers.
    pub(super) fn new(service: &ServiceInfo, schemas: &mut Schemas) -> Self {
        let mut messages = Self(Map::new());
        let kinds = || service.methods.iter().map(|method| method.kind);
        headers::insert(service, schemas);
        if kinds().any(|kind| kind != MethodKind::Oneway) {
            let fault = json!({
                "name": "rpc.fault",
                "title": "Fault",
                "summary": "The request has no response of the service.",
                "headers": headers::reference("fault"),
                "payload": schemas.insert("rpc.fault", payloads::fault()),
            });
            messages.add("rpc.fault", "fault", &fault);
        }
        for (name, description) in CONTROLS {
            let needed = match name {
                "started" => kinds().any(|kind| kind == MethodKind::Bidirectional),
                _ => kinds().any(MethodKind::has_stream),
            };
            if needed {
                messages.0.insert(
                    control(name),
                    json!({
                        "name": control(name),
                        "title": format!("Message {name} of a stream"),
                        "description": description,
                        "headers": headers::reference("stream"),
                        "correlationId": correlation_id(),
                        "bindings": binding(name),
                    }),
                );
            }
        }
        messages
    }

    /// Adds the message with a body of a method.
    pub(super) fn add_body(
        &mut self,
        name: &str,
        method: &MethodInfo,
        body: Body,
        schemas: &mut Schemas,
    ) {
        let schema = payloads::schema(method, body, schemas);
        let schema = schemas.insert(&format!("{name}.{}", body.suffix()), schema);
        let (message_type, headers) = match body {
            Body::Request if method.kind.has_stream() => (&*method.name, "stream-request"),
            Body::Request => (&*method.name, "request"),
            Body::Result => ("result", "reply"),
            Body::Error => ("error", "reply"),
            Body::ItemError => ("error", "stream"),
            Body::Item | Body::CallerItem => ("items", "stream"),
        };
        let mut message = json!({
            "name": base(name, body),
            "title": format!("{} of {}", body.title(), method.name),
            "headers": headers::reference(headers),
            "payload": schema,
        });
        if matches!(body, Body::Item | Body::CallerItem) {
            message["description"] =
                "One or more items. The body holds for each item its length in bytes, as a big-endian integer of 32 bits, and the item: a value \
                 in the format of the request. rpc-sequence is the number of items in earlier messages."
                    .into();
            message["payload"] =
                json!({ "type": "string", "format": "binary", "x-rpc-item": schema });
        }
        self.add(&base(name, body), message_type, &message);
    }

    /// Adds a message in both formats.
    fn add(&mut self, base: &str, message_type: &str, message: &Value) {
        for (end, content_type) in FORMATS {
            let mut message = message.clone();
            message["contentType"] = content_type.into();
            message["correlationId"] = correlation_id();
            message["bindings"] = binding(message_type);
            self.0.insert(format!("{base}{end}"), message);
        }
    }

    pub(super) fn into_json(self) -> Map<String, Value> {
        self.0
    }
}

fn correlation_id() -> Value {
    json!({
        "location": "$message.header#/correlation_id",
        "description": "The property correlation_id, which a reply repeats.",
    })
}

/// Returns the bindings of a message by its AMQP type.
fn binding(message_type: &str) -> Value {
    json!({ "amqp": { "messageType": message_type, "bindingVersion": "0.3.0" } })
}
