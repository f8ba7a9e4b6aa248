//! AsyncAPI 3.0.0 document of a service, from the view of its server.

mod headers;
mod messages;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use rpc_core::instances::{MethodInfo, MethodKind, ServiceInfo};
use serde_json::{Map, Value, json};

use self::messages::Messages;
use super::payloads::{self, Body};
use super::schemas::{Dialect, Schemas, plain_name, unique};
use super::server::BrokerAddress;

/// Name of the channel for replies.
const REPLIES: &str = "replies";

/// Name of the channel for the messages of a caller in an open stream.
const INSTANCE: &str = "instance";

/// Returns the document. A broker that is known becomes its server.
pub(super) fn document(service: &ServiceInfo, broker: Option<&BrokerAddress>) -> Value {
    let mut schemas = Schemas::new(Dialect::AsyncApi);
    let mut messages = Messages::new(service, &mut schemas);
    let mut channels = Channels::of(service, broker);
    let mut operations = Map::new();
    for (name, method) in payloads::named_methods(service) {
        for body in payloads::bodies(method) {
            messages.add_body(&name, method, body, &mut schemas);
        }
        operations.insert(name.clone(), operation(&name, method, &mut channels));
        if method.kind.has_stream() {
            let stream = stream_operation(&name, method, &mut channels);
            operations.insert(format!("{name}.stream"), stream);
        }
    }
    let mut document = json!({
        "asyncapi": "3.0.0",
        "info": info(service),
        "defaultContentType": "application/msgpack",
        "channels": channels.into_json(),
        "operations": operations,
        "components": {
            "messages": messages.into_json(),
            "schemas": schemas.into_named(),
        },
    });
    if let Some(broker) = broker {
        document["servers"] = json!({ "broker": broker.server() });
    }
    document
}

fn info(service: &ServiceInfo) -> Value {
    let mut info = json!({
        "title": service.name,
        "version": service.version,
        "x-rpc-contract": service.contract,
    });
    if let Some(docs) = &service.docs {
        info["description"] = docs.as_str().into();
    }
    info
}

/// The channels of a document, with the messages that operations use.
struct Channels {
    /// Names of channels by queue.
    queues: BTreeMap<String, String>,
    channels: BTreeMap<String, Channel>,
    common_queue: String,
}

struct Channel {
    definition: Value,
    messages: Map<String, Value>,
}

impl Channels {
    fn of(service: &ServiceInfo, broker: Option<&BrokerAddress>) -> Self {
        let vhost = broker.map(BrokerAddress::vhost);
        let mut this = Self {
            queues: BTreeMap::new(),
            channels: BTreeMap::new(),
            common_queue: service.queue.clone(),
        };
        this.add(REPLIES, replies());
        this.add(INSTANCE, instance());
        let own = service
            .methods
            .iter()
            .filter_map(|method| method.queue.as_deref());
        for queue in own.chain([&*service.queue]) {
            if this.queues.contains_key(queue) {
                continue;
            }
            let name = plain_name(queue);
            let name = unique(&name, |name| this.channels.contains_key(name));
            this.add(&name, requests(queue, vhost.as_deref()));
            this.queues.insert(queue.to_owned(), name);
        }
        this
    }

    fn add(&mut self, name: &str, definition: Value) {
        let messages = Map::new();
        let channel = Channel {
            definition,
            messages,
        };
        self.channels.insert(name.to_owned(), channel);
    }

    /// Returns the name of the channel for the requests of a method.
    fn requests(&self, method: &MethodInfo) -> String {
        let queue = method.queue.as_ref().unwrap_or(&self.common_queue);
        self.queues.get(queue).cloned().unwrap_or_default()
    }

    /// Returns references to messages in a channel, which the channel has from then on.
    fn messages(&mut self, channel: &str, names: &[String]) -> Vec<Value> {
        if let Some(channel) = self.channels.get_mut(channel) {
            let messages = names.iter().map(|name| {
                let message = json!({ "$ref": format!("#/components/messages/{name}") });
                (name.clone(), message)
            });
            channel.messages.extend(messages);
        }
        let reference = |name| json!({ "$ref": format!("#/channels/{channel}/messages/{name}") });
        names.iter().map(reference).collect()
    }

    /// Returns the channels that have messages.
    fn into_json(self) -> Map<String, Value> {
        let used = self
            .channels
            .into_iter()
            .filter(|(_, it)| !it.messages.is_empty());
        let json = |(name, channel): (String, Channel)| {
            let mut definition = channel.definition;
            definition["messages"] = channel.messages.into();
            (name, definition)
        };
        used.map(json).collect()
    }
}

fn requests(queue: &str, vhost: Option<&str>) -> Value {
    let mut binding =
        json!({ "name": queue, "durable": true, "exclusive": false, "autoDelete": false });
    if let Some(vhost) = vhost {
        binding["vhost"] = vhost.into();
    }
    json!({
        "address": queue,
        "title": format!("Requests in {queue}"),
        "description": "The request queue. Servers declare it, and clients publish through the default exchange.",
        "bindings": { "amqp": { "is": "queue", "queue": binding, "bindingVersion": "0.3.0" } },
    })
}

fn replies() -> Value {
    json!({
        "address": null,
        "title": "Replies to a caller",
        "description": "The reply queue of the caller, which the property reply_to of a request names.",
        "bindings": { "amqp": {
            "is": "queue",
            "queue": { "durable": false, "exclusive": true, "autoDelete": true },
            "bindingVersion": "0.3.0",
        } },
    })
}

fn instance() -> Value {
    json!({
        "address": null,
        "title": "Messages of callers in open streams",
        "description": "The private queue of one instance, which the property reply_to of the message accepted names.",
        "bindings": { "amqp": {
            "is": "queue",
            "queue": { "durable": false, "exclusive": true, "autoDelete": true },
            "bindingVersion": "0.3.0",
        } },
    })
}

/// Returns the operation that receives the requests of a method, with the replies.
fn operation(name: &str, method: &MethodInfo, channels: &mut Channels) -> Value {
    let channel = channels.requests(method);
    let requests = channels.messages(&channel, &messages::both(name, Body::Request));
    let mut amqp = json!({ "ack": true, "mandatory": true, "bindingVersion": "0.3.0" });
    if method.persistent {
        amqp["deliveryMode"] = 2.into();
    }
    if let Some(priority) = method.priority {
        amqp["priority"] = priority.into();
    }
    if let Some(timeout) = method.timeout {
        let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        amqp["expiration"] = millis.into();
    }
    let mut operation = json!({
        "action": "receive",
        "channel": { "$ref": format!("#/channels/{channel}") },
        "title": method.name,
        "messages": requests,
        "bindings": { "amqp": amqp },
        "x-rpc-kind": method.kind.to_string(),
        "x-rpc-signature": payloads::signature(method),
        "x-rpc-idempotent": method.idempotent,
        "x-rpc-at-most-once": method.at_most_once,
        "x-rpc-default": method.default,
    });
    if let Some(docs) = &method.docs {
        operation["summary"] = docs.lines().next().unwrap_or_default().into();
        operation["description"] = docs.as_str().into();
    }
    if method.kind == MethodKind::Oneway {
        return operation;
    }
    if let Some(sequence) = sequence(name, method) {
        operation["x-rpc-sequence"] = sequence;
    }
    let replies = channels.messages(REPLIES, &messages::replies(name, method));
    operation["reply"] = json!({
        "address": {
            "location": "$message.header#/reply_to",
            "description": "The property reply_to of the request.",
        },
        "channel": { "$ref": format!("#/channels/{REPLIES}") },
        "messages": replies,
    });
    operation
}

/// Returns the operation that receives the messages of a caller in an open stream.
fn stream_operation(name: &str, method: &MethodInfo, channels: &mut Channels) -> Value {
    let names = messages::of_caller(name, method);
    let messages = channels.messages(INSTANCE, &names);
    json!({
        "action": "receive",
        "channel": { "$ref": format!("#/channels/{INSTANCE}") },
        "title": format!("Messages of the caller in an open stream of {}", method.name),
        "messages": messages,
        "bindings": { "amqp": { "mandatory": true, "ack": true, "bindingVersion": "0.3.0" } },
    })
}

/// Returns the order of messages in a stream, which AsyncAPI has no words for. The messages `credit` and `alive` may stand anywhere after
/// `accepted`, and `stop` of the caller ends the stream.
fn sequence(name: &str, method: &MethodInfo) -> Option<Value> {
    let step = |from: &str, one_of: &[&str]| json!({ "from": from, "one-of": one_of });
    let items =
        |from: &str, message: &str| json!({ "from": from, "one-of": [message], "repeated": true });
    let with_error = |first: &str| {
        let mut one_of = vec![first.to_owned()];
        one_of.extend(method.error.as_ref().map(|_| format!("{name}.error")));
        one_of.push("rpc.fault".to_owned());
        json!({ "from": "server", "one-of": one_of })
    };
    let (request, result) = (format!("{name}.request"), format!("{name}.result"));
    let (sent, received) = (format!("{name}.items"), format!("{name}.caller-items"));
    let end = || {
        let mut one_of = vec!["rpc.end".to_owned()];
        one_of.extend(
            method
                .item_error
                .as_ref()
                .map(|_| format!("{name}.item-error")),
        );
        one_of.push("rpc.fault".to_owned());
        json!({ "from": "server", "one-of": one_of })
    };
    let caller = [items("caller", &received), step("caller", &["rpc.end"])];
    let opened = step("server", &["rpc.accepted", "rpc.fault"]);
    let steps = match method.kind {
        MethodKind::ServerStreaming => {
            vec![with_error("rpc.accepted"), items("server", &sent), end()]
        }
        MethodKind::ClientStreaming => {
            let [items, ended] = caller;
            vec![opened, items, ended, with_error(&result)]
        }
        MethodKind::Bidirectional => {
            let server = vec![with_error("rpc.started"), items("server", &sent), end()];
            vec![opened, json!({ "at-once": [caller, server] })]
        }
        _ => return None,
    };
    let mut all = vec![step("caller", &[&request])];
    all.extend(steps);
    Some(all.into())
}
