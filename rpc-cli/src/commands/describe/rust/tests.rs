use serde_json::{Value, json};

use super::*;
use crate::samples::{method, service, ty};

fn argument(name: &str, rust: &str, optional: bool) -> Value {
    json!({ "name": name, "ty": ty(rust), "optional": optional, "stream": false })
}

/// Writes the trait, and asserts that it is Rust.
fn rust(service: &ServiceInfo) -> String {
    let text = text(service);
    syn::parse_file(&text).unwrap_or_else(|error| panic!("{error}:\n{text}"));
    text
}

#[test]
fn an_option_stands_only_where_it_says_something() {
    let service = service(
        "Fib",
        "rpc.Fib",
        &[method("fib", json!({ "default": true }))],
    );
    let expected = "use rpc_core::rpc;\n\n#[rpc(version = \"1.2\")]\npub trait Fib {\n    async fn fib();\n}\n";
    assert_eq!(rust(&service), expected);
}

#[test]
fn all_options_are_told() {
    let options = json!({
        "docs": "First.\n\n  code",
        "queue": "slow",
        "timeout": { "secs": 1, "nanos": 500_000_000 },
        "kind": "Oneway",
        "default": true,
        "at_most_once": true,
        "persistent": true,
        "priority": 5,
    });
    let service = service(
        "Fib",
        "staging.rpc.Fib",
        &[
            method("one", options),
            method("two", json!({ "idempotent": true })),
        ],
    );
    let text = rust(&service);
    let expected = "#[rpc(queue = \"staging.rpc.Fib\", version = \"1.2\")]
pub trait Fib {
    /// First.
    ///
    ///   code
    #[rpc(queue = \"slow\", timeout = \"1500ms\", oneway, default, at_most_once, persistent, priority = 5)]
    async fn one();

    #[rpc(idempotent)]
    async fn two();
}
";
    assert!(text.ends_with(expected), "{text}");
}

#[test]
fn the_timeout_of_most_methods_is_that_of_the_trait() {
    let written = |timeouts: &[Option<u64>]| {
        let methods = timeouts.iter().map(|timeout| {
            let timeout = timeout.map(|secs| json!({ "secs": secs, "nanos": 0 }));
            method("a", json!({ "timeout": timeout }))
        });
        rust(&service("Fib", "rpc.Fib", &methods.collect::<Vec<_>>()))
    };
    let most = written(&[Some(7200), Some(45), Some(7200)]);
    assert!(
        most.contains("#[rpc(timeout = \"2h\", version = \"1.2\")]"),
        "{most}"
    );
    assert_eq!(most.matches("timeout").count(), 2);
    assert!(
        most.contains("    #[rpc(timeout = \"45s\")]\n    async fn a();"),
        "{most}"
    );
    for timeouts in [&[Some(120), Some(45)][..], &[Some(120), Some(120), None]] {
        let own = written(timeouts);
        assert!(own.contains("#[rpc(version = \"1.2\")]"), "{own}");
        assert!(
            own.contains("    #[rpc(timeout = \"2m\")]\n    async fn a();"),
            "{own}"
        );
    }
}

#[test]
fn names_that_rust_does_not_accept_are_renamed() {
    let arguments = json!({ "arguments": [
        argument("from-date", "u64", true),
        argument("type", "Option<u64>", true),
        argument("self", "String", false),
        argument("1st", "String", false),
    ]});
    let methods = [
        method("price.of", arguments),
        method("loop", json!({})),
        method("naïve", json!({})),
    ];
    let text = rust(&service("web-shop", "rpc.web-shop", &methods));
    for expected in [
        "#[rpc(name = \"web-shop\", version = \"1.2\")]\npub trait web_shop {",
        "#[rpc(name = \"price.of\")]\n    async fn price_of(\n",
        "        #[serde(rename = \"from-date\", default)] from_date: u64,\n",
        "        r#type: Option<u64>,\n",
        "        #[serde(rename = \"self\")] self_: String,\n",
        "        #[serde(rename = \"1st\")] n1st: String,\n    );\n",
        "    async fn r#loop();\n",
        "    #[rpc(name = \"naïve\")]\n    async fn na_ve();\n",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
}

#[test]
fn streams_and_errors_have_their_places() {
    let numbers = json!({ "name": "numbers", "ty": ty("u64"), "optional": false, "stream": true });
    let methods = [
        method(
            "a",
            json!({ "kind": "ServerStreaming", "result": ty("u64") }),
        ),
        method(
            "b",
            json!({ "kind": "Bidirectional", "result": ty("u64"), "item_error": ty("Broken"), "error": ty("Refused"), "arguments": [numbers] }),
        ),
        method(
            "c",
            json!({ "kind": "ClientStreaming", "arguments": [numbers], "error": ty("Refused") }),
        ),
    ];
    let text = rust(&service("Feed", "rpc.Feed", &methods));
    for expected in [
        "use rpc_core::{Stream, rpc};\n",
        "    async fn a() -> impl Stream<Item = u64>;\n",
        "    async fn b(\n        numbers: impl Stream<Item = u64>,\n    ) -> Result<impl Stream<Item = Result<u64, Broken>>, Refused>;\n",
        "    async fn c(numbers: impl Stream<Item = u64>) -> Result<(), Refused>;\n",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
}

#[test]
fn texts_of_strangers_cannot_leave_their_places() {
    let hostile = json!({ "docs": "a\r} fn b() {\u{1b}[2J", "queue": "a\")] fn c() {" });
    let text = rust(&service("x\u{1b}[2J", "rpc.x", &[method("a(){}", hostile)]));
    assert!(!text.contains(['\u{1b}', '\r']), "{text:?}");
    let file = syn::parse_file(&text).unwrap();
    assert_eq!(file.items.len(), 2, "an import and a trait: {text}");
}
