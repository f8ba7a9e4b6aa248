//! Bodies of the messages of a method.

use rpc_core::instances::{MethodInfo, MethodKind, ServiceInfo};
use serde_json::{Map, Value, json};

use super::schemas::{Schemas, plain_name, unique};
use crate::description::returned_type;

/// The methods of a service, each with a name for documents and files.
pub(super) fn named_methods(service: &ServiceInfo) -> Vec<(String, &MethodInfo)> {
    let mut named: Vec<(String, &MethodInfo)> = Vec::new();
    for method in &service.methods {
        let is_taken = |name: &str| named.iter().any(|(other, _)| other == name);
        let name = unique(&plain_name(&method.name), is_taken);
        named.push((name, method));
    }
    named
}

/// Message of a method, by its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// The arguments.
    Request,
    /// The value of a method without a stream of results.
    Result,
    /// The service's own error.
    Error,
    /// An item of the stream of results.
    Item,
    /// The error that ends the stream of results.
    ItemError,
    /// An item of the caller's stream.
    CallerItem,
}

impl Body {
    /// Returns the name for people.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Request => "Request",
            Self::Result => "Result",
            Self::Error => "Error",
            Self::Item => "Item",
            Self::ItemError => "Error in the stream",
            Self::CallerItem => "Item of the caller",
        }
    }

    /// Returns the last part of the names of messages.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Result => "result",
            Self::Error => "error",
            Self::Item => "item",
            Self::ItemError => "item-error",
            Self::CallerItem => "caller-item",
        }
    }
}

/// Returns the messages of a method.
pub(super) fn bodies(method: &MethodInfo) -> Vec<Body> {
    let result = match method.kind {
        MethodKind::Oneway => None,
        kind if kind.returns_items() => Some(Body::Item),
        _ => Some(Body::Result),
    };
    let bodies = [
        Some(Body::Request),
        method.kind.takes_items().then_some(Body::CallerItem),
        result,
        method.error.is_some().then_some(Body::Error),
        method.item_error.is_some().then_some(Body::ItemError),
    ];
    bodies.into_iter().flatten().collect()
}

/// Returns the schema of the body of a message.
pub(super) fn schema(method: &MethodInfo, body: Body, schemas: &mut Schemas) -> Value {
    let ty = match body {
        Body::Request => return request(method, schemas),
        Body::CallerItem => {
            let mut arguments = method.arguments.iter();
            arguments.find(|it| it.stream).map(|it| &it.ty)
        }
        Body::Result | Body::Item => Some(&method.result),
        Body::Error => method.error.as_ref(),
        Body::ItemError => method.item_error.as_ref(),
    };
    ty.map_or(Value::Bool(true), |ty| schemas.of(ty))
}

/// Returns the schema of the arguments. A server ignores arguments that it does not know.
fn request(method: &MethodInfo, schemas: &mut Schemas) -> Value {
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for argument in method.arguments.iter().filter(|argument| !argument.stream) {
        properties.insert(argument.name.clone(), schemas.of(&argument.ty));
        if !argument.optional {
            required.push(argument.name.as_str());
        }
    }
    json!({ "type": "object", "properties": properties, "required": required })
}

/// Returns the schema of a fault.
pub(super) fn fault() -> Value {
    json!({
        "type": "object",
        "title": "Fault",
        "description": "A failure of the call outside of the service: the handler's value or error did not arrive.",
        "properties": {
            "code": {
                "type": "string",
                "description": "The reason. Further codes may be added.",
                "examples": [
                    "unknown_method", "bad_request", "unsupported_content_type", "deadline_exceeded", "panicked", "cancelled",
                    "permission_denied", "overloaded", "too_large", "bad_reply",
                ],
            },
            "message": { "type": "string", "description": "The reason for people." },
        },
        "required": ["code", "message"],
    })
}

/// Returns a method as it is in the trait, with the Rust types of the description.
pub(super) fn signature(method: &MethodInfo) -> String {
    let arguments = method.arguments.iter().map(|argument| {
        let rust = &argument.ty.rust;
        match argument.stream {
            true => format!("{}: impl Stream<Item = {rust}>", argument.name),
            false => format!("{}: {rust}", argument.name),
        }
    });
    let arguments: Vec<_> = arguments.collect();
    let result = match returned_type(method) {
        None => String::new(),
        Some(result) => format!(" -> {result}"),
    };
    format!("{}({}){result}", method.name, arguments.join(", "))
}
