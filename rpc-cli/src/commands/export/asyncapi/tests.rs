use jsonschema::{Draft, Validator};

use super::super::{json_schema, samples};
use super::*;

/// The official schema of AsyncAPI 3.0.0: see `tests/asyncapi/README.md`.
const OFFICIAL: &str = include_str!("../../../../tests/asyncapi/3.0.0-without-id.json");

fn official() -> Validator {
    let schema: Value = serde_json::from_str(OFFICIAL).expect("JSON");
    let options = jsonschema::options().with_draft(Draft::Draft7);
    options
        .offline()
        .build(&schema)
        .expect("the official schema")
}

fn assert_valid(validator: &Validator, document: &Value) {
    let errors = validator.iter_errors(document);
    let errors: Vec<_> = errors
        .map(|error| format!("{}: {error:.300}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

/// Calls a function for each reference in a document, wherever it is.
fn each_reference(value: &Value, visit: &mut dyn FnMut(&str)) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get("$ref") {
                visit(reference);
            }
            map.values().for_each(|value| each_reference(value, visit));
        }
        Value::Array(array) => array.iter().for_each(|value| each_reference(value, visit)),
        _ => {}
    }
}

fn assert_resolved(document: &Value) {
    each_reference(document, &mut |reference| {
        let pointer = reference.strip_prefix('#').expect(reference);
        assert!(document.pointer(pointer).is_some(), "{reference}");
    });
}

fn broker() -> BrokerAddress {
    BrokerAddress::of("amqps://user:secret@host:5671/shop").expect("an address")
}

#[test]
fn documents_fit_the_official_schema() {
    let official = official();
    for service in samples::all() {
        for broker in [None, Some(broker())] {
            let document = document(&service, broker.as_ref());
            assert_valid(&official, &document);
            assert_resolved(&document);
        }
    }
}

/// The test above can fail.
#[test]
fn the_official_schema_refuses_other_documents() {
    let official = official();
    for (pointer, wrong) in [
        ("/asyncapi", json!("2.0.0")),
        ("/operations/unary/action", json!("call")),
        ("/channels/replies/bindings/amqp/queue/durable", json!("no")),
        ("/components/schemas/unary.request/properties", json!(5)),
        (
            "/operations/unary/reply/address/location",
            json!("reply_to"),
        ),
    ] {
        let mut document = document(&samples::everything(), None);
        *document.pointer_mut(pointer).expect(pointer) = wrong;
        assert!(!official.is_valid(&document), "{pointer}");
    }
}

#[test]
fn operations_name_messages_of_their_channels() {
    let document = document(&samples::everything(), None);
    let operations = document["operations"].as_object().expect("operations");
    for (name, operation) in operations {
        for (part, channel) in [
            (Some(operation), &operation["channel"]["$ref"]),
            (
                operation.get("reply"),
                &operation["reply"]["channel"]["$ref"],
            ),
        ] {
            let Some(part) = part else { continue };
            let prefix = format!("{}/messages/", channel.as_str().expect(name));
            for message in part["messages"].as_array().expect(name) {
                let message = message["$ref"].as_str().expect(name);
                assert!(message.starts_with(&prefix), "{message}");
            }
        }
    }
    assert!(operations["log"].get("reply").is_none());
    assert!(operations["unary"].get("reply").is_some());
    assert_eq!(operations["log"]["bindings"]["amqp"]["deliveryMode"], 2);
    assert_eq!(operations["fallible"]["bindings"]["amqp"]["priority"], 3);
    assert_eq!(
        operations["fallible"]["bindings"]["amqp"]["expiration"],
        2000
    );
    assert_eq!(
        operations["chat"]["x-rpc-signature"],
        "chat(room: String, lines: impl Stream<Item = Item>) -> Result<impl Stream<Item = Result<String, ChatError>>, ChatError>"
    );
}

/// Names of queues may be those of other channels, and may have any characters.
#[test]
fn every_queue_has_a_channel() {
    let document = document(&samples::everything(), Some(&broker()));
    let channels = document["channels"].as_object().expect("channels");
    let addresses = channels
        .iter()
        .map(|(name, channel)| (&**name, channel["address"].as_str()));
    let addresses: Vec<_> = addresses.collect();
    assert_eq!(
        addresses,
        [
            ("instance", None),
            ("replies", None),
            ("replies_2", Some("replies")),
            ("rpc_Shop", Some("rpc.Shop")),
            ("shop_pages_2", Some("shop pages/2")),
        ]
    );
    assert_eq!(
        channels["rpc_Shop"]["bindings"]["amqp"]["queue"]["vhost"],
        "shop"
    );
}

#[test]
fn a_service_without_replies_or_streams_has_no_messages_for_them() {
    let oneway = document(&samples::oneway(), None);
    let messages = oneway["components"]["messages"]
        .as_object()
        .expect("messages");
    assert_eq!(
        messages.keys().collect::<Vec<_>>(),
        ["log.request", "log.request.json"]
    );
    let channels = oneway["channels"].as_object().expect("channels");
    assert_eq!(channels.keys().collect::<Vec<_>>(), ["rpc_Log"]);
    let bare = document(&samples::bare(), None);
    assert!(!bare.to_string().contains("rpc-silence"));
}

/// Every message and every schema of the document is used: nothing is left over.
#[test]
fn all_messages_and_schemas_are_used() {
    for service in samples::all() {
        let document = document(&service, None);
        let mut used = std::collections::BTreeSet::new();
        each_reference(&document, &mut |reference| {
            used.insert(reference.to_owned());
        });
        for part in ["messages", "schemas"] {
            for name in document["components"][part].as_object().expect(part).keys() {
                assert!(
                    used.contains(&format!("#/components/{part}/{name}")),
                    "{part} {name}"
                );
            }
        }
    }
}

#[test]
fn no_document_has_a_password() {
    let document = document(&samples::bare(), Some(&broker()));
    assert_eq!(document["servers"]["broker"]["host"], "host:5671");
    assert_eq!(document["servers"]["broker"]["protocol"], "amqps");
    assert!(!document.to_string().contains("secret"));
}

#[test]
fn json_schemas_are_valid_and_check_messages() {
    for service in samples::all() {
        let documents = json_schema::files(&service)
            .into_iter()
            .map(|(_, document)| document);
        for document in documents.chain([json_schema::document(&service)]) {
            jsonschema::draft202012::meta::validate(&document).expect("a schema");
            assert_resolved(&document);
        }
    }
    let files = json_schema::files(&samples::everything());
    let file = |name: &str| {
        let (_, document) = files.iter().find(|(file, _)| file == name).expect(name);
        jsonschema::draft202012::new(document).expect(name)
    };
    let request = file("fallible.request.json");
    assert!(
        request.is_valid(
            &json!({ "item": { "id": 1, "color": { "Mixed": ["Red"] }, "place": [1, 2] } })
        )
    );
    assert!(!request.is_valid(&json!({ "item": { "id": 1, "color": { "Mixed": ["Blue"] } } })));
    assert!(!request.is_valid(&json!({})));
    assert!(file("optional.request.json").is_valid(&json!({ "pair": [1, { "a": [1.5, 2] }] })));
    assert!(!file("optional.request.json").is_valid(&json!({ "pair": [1] })));
    let tree = file("tree.result.json");
    assert!(tree.is_valid(&json!({ "value": 1, "children": [{ "value": 2, "children": [] }] })));
    assert!(!tree.is_valid(&json!({ "value": 1, "children": [5] })));
    assert!(file("rpc.fault.json").is_valid(&json!({ "code": "new", "message": "text" })));
}

/// The types of a request mean the same in both formats.
#[test]
fn schemas_of_asyncapi_check_the_same_values() {
    let document = document(&samples::everything(), None);
    let schema = json!({
        "$ref": "#/components/schemas/fallible.request",
        "components": { "schemas": document["components"]["schemas"] },
    });
    let options = jsonschema::options().with_draft(Draft::Draft7);
    let request = options.offline().build(&schema).expect("a schema");
    assert!(request.is_valid(&json!({ "item": { "id": 1, "color": "Red", "place": [1, 2] } })));
    assert!(!request.is_valid(&json!({ "item": { "id": 1, "color": "Blue" } })));
    assert!(!request.is_valid(&json!({ "item": { "id": 1, "place": ["x", 2] } })));
}

/// `make asyncapi` installs the validator, and names the script that runs it.
#[test]
#[ignore = "needs npm: run `make asyncapi`"]
fn the_official_validator_accepts_the_documents() {
    let script = std::env::var("ASYNCAPI_VALIDATOR").expect("ASYNCAPI_VALIDATOR names a script");
    let directory = std::env::temp_dir().join(format!("rpc-asyncapi-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let mut validator = std::process::Command::new("node");
    validator.arg(script);
    for service in samples::all() {
        for broker in [None, Some(broker())] {
            let kind = broker.as_ref().map_or("file", |_| "broker");
            let file = directory.join(format!("{}-{kind}.json", service.name));
            let document = document(&service, broker.as_ref());
            std::fs::write(&file, document.to_string()).expect("a file");
            validator.arg(file);
        }
    }
    let status = validator.status().expect("node");
    std::fs::remove_dir_all(&directory).expect("the directory");
    assert!(status.success(), "{status}");
}
