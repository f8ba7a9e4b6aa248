//! Answers of instances, for tests.

use rpc_core::instances::{InstanceInfo, InstanceStats, ServiceInfo};
use serde_json::{Value, json};

/// Returns an instance, with changes of its fields.
pub(crate) fn instance(id: &str, service: &str, changes: Value) -> InstanceInfo {
    let info = json!({
        "id": id,
        "name": "worker",
        "service": service,
        "version": "1",
        "queues": [],
        "started": { "secs_since_epoch": 100, "nanos_since_epoch": 0 },
        "crate_version": "0.1.0",
        "protocol": 1,
        "contract": "hash",
    });
    serde_json::from_value(changed(info, changes)).unwrap()
}

/// Returns the statistics of an instance with one method.
pub(crate) fn stats(id: &str, service: &str, calls: u64, panics: u64) -> InstanceStats {
    let time = |micros: u32| json!({ "secs": 0, "nanos": micros * 1000 });
    let stats = json!({
        "id": id,
        "name": "worker",
        "service": service,
        "since": { "secs_since_epoch": 100, "nanos_since_epoch": 0 },
        "methods": [{
            "name": "fib",
            "calls": calls,
            "results": calls - panics,
            "errors": 0,
            "faults": { "panicked": panics },
            "in_flight": 1,
            "streams": 0,
            "mean": time(10),
            "p50": time(20),
            "p90": time(30),
            "p99": time(40),
            "max": time(50),
        }],
        "oldest": [{
            "method": "fib",
            "age": { "secs": 75, "nanos": 0 },
            "correlation_id": "c-1",
        }],
    });
    serde_json::from_value(stats).unwrap()
}

/// Returns a description of a service.
pub(crate) fn service(name: &str, queue: &str, methods: &[Value]) -> ServiceInfo {
    let service = json!({
        "name": name,
        "version": "1.2",
        "docs": null,
        "queue": queue,
        "contract": "hash",
        "methods": methods,
    });
    serde_json::from_value(service).unwrap()
}

/// Returns the description of a unary method that takes and returns nothing, with changes of its fields.
pub(crate) fn method(name: &str, changes: Value) -> Value {
    let method = json!({
        "name": name,
        "docs": null,
        "kind": "Unary",
        "queue": null,
        "arguments": [],
        "result": ty("()"),
        "error": null,
        "item_error": null,
        "idempotent": false,
        "at_most_once": false,
        "persistent": false,
        "default": false,
        "priority": null,
        "timeout": null,
    });
    changed(method, changes)
}

/// Returns the description of an argument.
pub(crate) fn argument(name: &str, ty: Value) -> Value {
    json!({ "name": name, "ty": ty, "optional": false, "stream": false })
}

/// Returns the description of a type without a schema.
pub(crate) fn ty(rust: &str) -> Value {
    json!({ "rust": rust, "schema": null })
}

fn changed(mut value: Value, changes: Value) -> Value {
    if let (Value::Object(fields), Value::Object(changes)) = (&mut value, changes) {
        fields.extend(changes);
    }
    value
}
