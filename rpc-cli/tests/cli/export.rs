//! `rpc export`.

use serde_json::{Value, json};

use crate::stage::Stage;

/// The official schema of AsyncAPI 3.0.0.
fn official() -> jsonschema::Validator {
    let schema = include_str!("../asyncapi/3.0.0-without-id.json");
    let schema: Value = serde_json::from_str(schema).unwrap();
    jsonschema::draft7::options().build(&schema).unwrap()
}

#[tokio::test]
async fn the_asyncapi_document_of_a_running_service_fits_the_official_schema() {
    let stage = Stage::new().await;
    let _shop = stage.shop("shop-1").await;
    let args = ["export", "Shop", "--format", "asyncapi"];
    let asked = stage.rpc(&args).run().await.exits(0).quietly();
    let document = asked.json();
    let errors = official();
    let errors: Vec<_> = errors
        .iter_errors(&document)
        .map(|error| error.to_string())
        .collect();
    assert!(errors.is_empty(), "{errors:#?}");
    assert_eq!(document["info"]["title"], "Shop");
    let server = &document["servers"]["broker"];
    assert_eq!(server["pathname"], format!("/{}", stage.vhost()));
    assert!(!asked.stdout.contains("guest"), "{}", asked.stdout);
    let order = &document["components"]["schemas"]["order.request"];
    assert_eq!(
        order["properties"]["order"]["$ref"],
        "#/components/schemas/Order"
    );
    let kinds = |name: &str| document["operations"][name]["x-rpc-kind"].clone();
    let names = ["price", "note", "count", "sum", "double"];
    assert_eq!(
        names.map(kinds),
        [
            "unary",
            "oneway",
            "server_streaming",
            "client_streaming",
            "bidirectional"
        ]
        .map(Value::from)
    );
}

#[tokio::test]
async fn a_description_in_a_file_gives_the_same_document_without_a_server() {
    let stage = Stage::new().await;
    let shop = stage.shop("shop-1").await;
    let args = ["export", "Shop", "--format", "asyncapi"];
    let mut asked = stage.rpc(&args).run().await.exits(0).json();
    let args = ["describe", "Shop", "--json"];
    let description = stage.rpc(&args).run().await.exits(0);
    std::fs::write(stage.home().join("shop.json"), &description.stdout).unwrap();
    shop.shutdown().await.unwrap();

    let args = [
        "export",
        "--format",
        "asyncapi",
        "--schema",
        "shop.json",
        "--output",
        "api.json",
    ];
    let written = stage.rpc(&args).without_env("RPC_URL").run().await;
    assert_eq!(written.exits(0).quietly().stdout, "");
    let text = std::fs::read_to_string(stage.home().join("api.json")).unwrap();
    let written: Value = serde_json::from_str(&text).unwrap();
    // No broker is known: neither its address nor its virtual host is in the document.
    asked.as_object_mut().unwrap().remove("servers");
    let queue = "/channels/rpc_Shop/bindings/amqp/queue";
    let queue = asked.pointer_mut(queue).unwrap().as_object_mut();
    queue.unwrap().remove("vhost");
    assert_eq!(written, asked);
}

#[tokio::test]
async fn json_schemas_are_one_document_or_one_file_for_each_message() {
    let stage = Stage::new().await;
    let _shop = stage.shop("shop-1").await;
    let args = ["export", "Shop", "--format", "json-schema"];
    let document = stage.rpc(&args).run().await.exits(0).quietly().json();
    let order = json!({ "article": 1, "count": 2 });
    let mut schema = document.clone();
    schema["$ref"] = "#/$defs/order.request".into();
    let request = jsonschema::draft202012::new(&schema).unwrap();
    assert!(request.is_valid(&json!({ "order": order })));
    assert!(!request.is_valid(&json!({ "order": { "article": 1 } })));

    let args = [
        "export",
        "Shop",
        "--format",
        "json-schema",
        "--output",
        "schemas/",
    ];
    let written = stage.rpc(&args).run().await.exits(0).quietly();
    assert_eq!(written.stdout, "");
    let files = std::fs::read_dir(stage.home().join("schemas")).unwrap();
    let mut files: Vec<_> = files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    let defs = document["$defs"].as_object().unwrap();
    let messages = defs.keys().filter(|name| name.contains('.'));
    let mut names: Vec<_> = messages.map(|name| format!("{name}.json")).collect();
    names.sort();
    assert_eq!(files, names);
    let text = std::fs::read_to_string(stage.home().join("schemas/order.request.json")).unwrap();
    let file = jsonschema::draft202012::new(&serde_json::from_str(&text).unwrap()).unwrap();
    assert!(file.is_valid(&json!({ "order": order })));
    assert!(!file.is_valid(&json!({})));
}

#[tokio::test]
async fn failures_name_the_cause() {
    let stage = Stage::new().await;
    stage.rpc(&["export", "Shop"]).run().await.exits(6);
    let args = ["export", "Shop", "--format", "yaml"];
    stage.rpc(&args).run().await.exits(2).says("json-schema");
    stage
        .rpc(&["export"])
        .run()
        .await
        .exits(2)
        .says("<SERVICE>");
    let _shop = stage.shop("shop-1").await;
    let args = [
        "export",
        "Shop",
        "--format",
        "asyncapi",
        "--output",
        "none/api.json",
    ];
    stage
        .rpc(&args)
        .run()
        .await
        .exits(1)
        .says("cannot write none/api.json");
}
