//! Descriptions for tests.

use rpc_core::instances::ServiceInfo;
use serde_json::{Value, json};

use crate::samples::{self, argument, ty};

fn with_schema(rust: &str, schema: Value) -> Value {
    let mut schema = schema;
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    json!({ "rust": rust, "schema": schema.to_string() })
}

fn method(name: &str, kind: &str, arguments: &[Value], result: Value, changes: Value) -> Value {
    let mut method = samples::method(
        name,
        json!({
            "docs": format!("Runs {name}.\n\nSecond paragraph with `code`."),
            "kind": kind,
            "arguments": arguments,
            "result": result,
        }),
    );
    if let (Value::Object(method), Value::Object(changes)) = (&mut method, changes) {
        method.extend(changes);
    }
    method
}

fn service(name: &str, methods: &[Value]) -> ServiceInfo {
    let mut service = samples::service(name, &format!("rpc.{name}"), methods);
    service.version = "1.2.0".to_owned();
    service.docs = Some("A service.\n\nWith docs.".to_owned());
    service.contract = "be130c8f-8aad-5d47-9aa9-38cf4dc7bb26".to_owned();
    service
}

/// Schema of a recursive type, as schemars writes it for the type itself.
fn node() -> Value {
    json!({
        "title": "Node",
        "type": "object",
        "properties": {
            "value": { "type": "integer", "format": "int32" },
            "children": { "type": "array", "items": { "$ref": "#" } },
        },
        "required": ["value", "children"],
    })
}

fn item(extra: bool) -> Value {
    let mut item = json!({
        "title": "Item",
        "type": "object",
        "properties": {
            "id": { "type": "integer", "format": "uint64", "minimum": 0 },
            "color": { "description": "The color.", "$ref": "#/$defs/Color" },
            "place": {
                "type": "array",
                "prefixItems": [{ "type": "number" }, { "type": "number" }],
                "minItems": 2,
                "maxItems": 2,
            },
        },
        "required": ["id"],
        "$defs": { "Color": { "oneOf": [
            { "type": "string", "const": "Red" },
            { "type": "object", "properties": { "Mixed": { "type": "array", "items": { "$ref": "#/$defs/Color" } } }, "required": ["Mixed"] },
        ] } },
    });
    if extra {
        item["properties"]["note"] = json!({ "type": ["string", "null"], "default": "" });
    }
    item
}

/// A service with every kind of method and type.
pub(super) fn everything() -> ServiceInfo {
    let stream = |name: &str, ty: Value| json!({ "name": name, "ty": ty, "optional": false, "stream": true });
    let items = json!({
        "title": "Array_of_Item",
        "type": "array",
        "items": { "$ref": "#/$defs/Item" },
        "$defs": {
            "Item": { "type": "object", "properties": item(false)["properties"], "required": ["id"] },
            "Color": item(false)["$defs"]["Color"],
        },
    });
    let other = json!({ "title": "Item", "type": "object", "properties": { "$ref": { "type": "string" }, "weight": { "$ref": "https://example.com/weight" } } });
    service(
        "Shop",
        &[
            method(
                "unary",
                "Unary",
                &[argument("n", ty("u64"))],
                ty("u64"),
                json!({ "idempotent": true, "default": true }),
            ),
            method(
                "fallible",
                "Unary",
                &[argument("item", with_schema("Item", item(false)))],
                with_schema("Vec<Item>", items),
                json!({ "error": ty("ShopError"), "priority": 3, "timeout": { "secs": 2, "nanos": 0 } }),
            ),
            method(
                "again",
                "Unary",
                &[argument("item", with_schema("Item", item(true)))],
                with_schema("Item", item(false)),
                json!({}),
            ),
            method(
                "other",
                "Unary",
                &[argument("item", with_schema("Item", other))],
                ty("()"),
                json!({}),
            ),
            method(
                "log",
                "Oneway",
                &[argument("text", ty("&str"))],
                ty("()"),
                json!({ "persistent": true, "at_most_once": true }),
            ),
            method(
                "optional",
                "Unary",
                &[
                    json!({ "name": "limit", "ty": ty("Option<u32>"), "optional": true, "stream": false }),
                    argument("pair", ty("(u8, HashMap<String, [f64; 2]>)")),
                ],
                ty("Page<Item>"),
                json!({ "queue": "shop pages/2" }),
            ),
            method(
                "tree",
                "Unary",
                &[argument("node", with_schema("Node", node()))],
                with_schema(
                    "Option<Node>",
                    json!({
                        "anyOf": [{ "$ref": "#/$defs/Node" }, { "type": "null" }],
                        "$defs": { "Node": {
                            "type": "object",
                            "properties": {
                                "value": { "type": "integer", "format": "int32" },
                                "children": { "type": "array", "items": { "$ref": "#/$defs/Node" } },
                            },
                            "required": ["value", "children"],
                        } },
                    }),
                ),
                json!({}),
            ),
            method(
                "count",
                "ServerStreaming",
                &[argument("to", ty("u64"))],
                ty("u64"),
                json!({ "error": ty("String") }),
            ),
            method(
                "fails",
                "ServerStreaming",
                &[],
                with_schema("Item", item(false)),
                json!({ "item_error": ty("String"), "queue": "replies" }),
            ),
            method(
                "sum",
                "ClientStreaming",
                &[stream("numbers", ty("u64"))],
                ty("u64"),
                json!({ "error": ty("String") }),
            ),
            method(
                "chat",
                "Bidirectional",
                &[
                    argument("room", ty("String")),
                    stream("lines", with_schema("Item", item(false))),
                ],
                ty("String"),
                json!({ "item_error": ty("ChatError"), "error": ty("ChatError") }),
            ),
            method(
                "naïve name/x",
                "Unary",
                &[argument("größe", ty("bool"))],
                with_schema("Broken", json!({ "type": 7 })),
                json!({}),
            ),
            method("na_ve_name_x", "Unary", &[], ty("char"), json!({})),
        ],
    )
}

/// A service with neither docs nor schemas.
pub(super) fn bare() -> ServiceInfo {
    let mut service = service(
        "Bare",
        &[method(
            "get",
            "Unary",
            &[argument("key", ty("Key"))],
            ty("Value"),
            json!({ "docs": null }),
        )],
    );
    service.docs = None;
    service
}

/// A service whose methods send no replies.
pub(super) fn oneway() -> ServiceInfo {
    service("Log", &[method("log", "Oneway", &[], ty("()"), json!({}))])
}

/// A service without methods.
pub(super) fn empty() -> ServiceInfo {
    service("Empty", &[])
}

/// All services.
pub(super) fn all() -> [ServiceInfo; 4] {
    [everything(), bare(), oneway(), empty()]
}
