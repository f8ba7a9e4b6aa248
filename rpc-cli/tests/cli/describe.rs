//! `rpc describe`.

use crate::sample::{Calculator, FibDispatcher, later};
use crate::stage::Stage;

/// The trait of a sample service in its source, without what a description does not have.
fn source(of: &str) -> String {
    let source = include_str!("sample.rs");
    let start = source.find(&format!("pub(crate) trait {of} {{")).unwrap();
    let end = start + source[start..].find("\n}").unwrap() + 2;
    words(&source[start..end].replace("pub(crate)", "pub"))
}

/// Removes the parts that have no meaning: spaces and commas at ends of lists.
fn words(text: &str) -> String {
    let text: Vec<_> = text.split_whitespace().collect();
    text.join(" ").replace("( ", "(").replace(", )", ")")
}

#[tokio::test]
async fn the_trait_is_that_of_the_source() {
    let stage = Stage::new().await;
    let _shop = stage.shop("shop-1").await;
    let described = stage.rpc(&["describe", "Shop"]).run().await;
    let described = described.exits(0).quietly();
    described.snapshot("describe/shop");
    let text = &described.stdout;
    let body = &text[text.find("pub trait").unwrap()..];
    // An `Option` may be left out without the attribute.
    let written = source("Shop").replace("#[serde(default)] ", "");
    assert_eq!(words(body), written);
}

#[tokio::test]
async fn a_description_in_a_file_needs_no_broker() {
    let stage = Stage::new().await;
    let shop = stage.shop("shop-1").await;
    let asked = stage.rpc(&["describe", "Shop"]).run().await.exits(0);
    let json = stage.rpc(&["describe", "Shop", "--json"]).run().await;
    let json = json.exits(0).quietly();
    let order = &json.json()["methods"][1];
    assert_eq!(order["name"], "order");
    let schema = order["arguments"][0]["ty"]["schema"].as_str().unwrap();
    assert!(schema.contains("Number of pieces"), "{schema}");
    shop.shutdown().await.unwrap();

    std::fs::write(stage.home().join("shop.json"), &json.stdout).unwrap();
    let offline = |args: &[&str]| stage.rpc(args).without_env("RPC_URL");
    let args = ["describe", "--schema", "shop.json"];
    let read = offline(&args).run().await.exits(0).quietly();
    assert_eq!(read.stdout, asked.stdout);
    let args = ["describe", "Shop", "--schema", "-"];
    let piped = offline(&args).stdin(json.stdout.clone()).run().await;
    assert_eq!(piped.exits(0).quietly().stdout, asked.stdout);

    let args = ["describe", "Fib", "--schema", "shop.json"];
    let other = offline(&args).run().await.exits(2);
    other.says("describes the service Shop, not Fib");
    let args = ["describe", "--schema", "none.json"];
    offline(&args)
        .run()
        .await
        .exits(1)
        .says("cannot read none.json");
    let args = ["describe", "--schema", "-"];
    let broken = offline(&args).stdin("{}").run().await.exits(2);
    broken.snapshot("describe/not-a-description");
    offline(&["describe"])
        .run()
        .await
        .exits(2)
        .says("<SERVICE>");
}

#[tokio::test]
async fn one_of_several_contracts_can_be_chosen() {
    let stage = Stage::new().await;
    let olds = [
        stage.serve("fib-1", FibDispatcher::new(Calculator)).await,
        stage.serve("fib-2", FibDispatcher::new(Calculator)).await,
    ];
    let newer = later::FibDispatcher::new(Calculator);
    let newer = stage.serve("fib-3", newer).await;
    let most = stage.rpc(&["describe", "Fib"]).run().await.exits(0);
    most.snapshot("describe/several-contracts");
    assert!(!most.stdout.contains("sum"), "{most}");
    let id = newer.instance_id();
    for args in [
        ["describe", "Fib", "--instance", id],
        ["describe", "Fib", "--instance", &id[..13]],
    ] {
        let chosen = stage.rpc(&args).run().await.exits(0).quietly();
        chosen.prints("async fn sum(n: u64) -> u64;");
    }
    let list = stage.rpc(&["list", "Fib", "--json"]).run().await.json();
    let list = list.as_array().unwrap();
    let hash = list.iter().find(|it| it["id"] == id).unwrap()["contract"].clone();
    let by_hash = ["describe", "Fib", "--contract", hash.as_str().unwrap()];
    stage
        .rpc(&by_hash)
        .run()
        .await
        .exits(0)
        .prints("async fn sum");

    let ids = [olds[0].instance_id(), olds[1].instance_id(), id];
    // A beginning that no id has: all digits differ from those of the ids.
    let free = "0123456789abcdef"
        .chars()
        .find(|c| ids.iter().all(|id| !id.starts_with(*c)));
    let none = ["describe", "Fib", "--instance", &free.unwrap().to_string()];
    stage
        .rpc(&none)
        .run()
        .await
        .exits(6)
        .says("no running instance starts with");
    let all = ["describe", "Fib", "--contract", ""];
    let ambiguous = stage.rpc(&all).run().await.exits(2);
    ambiguous.says("more than one contract");
}

#[tokio::test]
async fn a_service_that_does_not_run_cannot_be_described() {
    let stage = Stage::new().await;
    let none = stage.rpc(&["describe", "Shop"]).run().await.exits(6);
    none.says("no instance of Shop answers");
}
