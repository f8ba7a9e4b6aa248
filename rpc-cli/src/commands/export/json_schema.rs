//! JSON Schema (draft 2020-12) of every message of a service.

use rpc_core::instances::ServiceInfo;
use serde_json::{Value, json};

use super::payloads;
use super::schemas::{Dialect, Schemas};

const DRAFT: &str = "https://json-schema.org/draft/2020-12/schema";

/// Returns one document with the messages and the types among its definitions.
pub(super) fn document(service: &ServiceInfo) -> Value {
    let mut schemas = Schemas::new(Dialect::Draft202012);
    for (name, method) in payloads::named_methods(service) {
        for body in payloads::bodies(method) {
            let schema = payloads::schema(method, body, &mut schemas);
            schemas.insert(&format!("{name}.{}", body.suffix()), schema);
        }
    }
    schemas.insert("rpc.fault", payloads::fault());
    let mut document = json!({
        "$schema": DRAFT,
        "title": format!("Messages of {} {}", service.name, service.version),
        "$defs": schemas.into_named(),
    });
    if let Some(docs) = &service.docs {
        document["description"] = docs.as_str().into();
    }
    document
}

/// Returns the messages by the names of files, each as a document of its own with the types that the message needs.
pub(super) fn files(service: &ServiceInfo) -> Vec<(String, Value)> {
    let mut files = vec![(
        "rpc.fault.json".to_owned(),
        json!({ "$schema": DRAFT, "allOf": [payloads::fault()] }),
    )];
    for (name, method) in payloads::named_methods(service) {
        for body in payloads::bodies(method) {
            let mut schemas = Schemas::new(Dialect::Draft202012);
            let schema = payloads::schema(method, body, &mut schemas);
            let document = json!({
                "$schema": DRAFT,
                "title": format!("{} of {}.{}", body.title(), service.name, method.name),
                "allOf": [schema],
                "$defs": schemas.into_named(),
            });
            files.push((format!("{name}.{}.json", body.suffix()), document));
        }
    }
    files
}
