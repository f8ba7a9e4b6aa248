//! `rpc ping`.

use rpc_core::{Connection, Server};
use rpc_tests::broker::Node;

use crate::program::Rpc;
use crate::sample::{Clocks, ShopDispatcher};
use crate::stage::Stage;

#[tokio::test]
async fn every_instance_answers_once_in_a_round() {
    let stage = Stage::new().await;
    let shops = [stage.shop("shop-1").await, stage.shop("shop-2").await];
    let once = stage.rpc(&["ping", "Shop"]).run().await.exits(0).quietly();
    assert_eq!(once.stdout.lines().count(), 2, "{once}");
    for shop in &shops {
        assert_eq!(once.stdout.matches(shop.instance_id()).count(), 1, "{once}");
    }
    let one = [
        "ping",
        "Shop",
        "--instance",
        &shops[0].instance_id()[..18],
        "--count",
        "2",
        "-i",
        "1ms",
    ];
    let one = stage.rpc(&one).run().await.exits(0).quietly();
    assert!(one.stdout.contains(shops[0].instance_id()), "{one}");
    assert!(!one.stdout.contains(shops[1].instance_id()), "{one}");
    let one = crate::program::Outcome {
        typed: "rpc ping Shop --instance [start] --count 2 -i 1ms".to_owned(),
        ..one
    };
    one.snapshot("ping/one-instance");
}

#[tokio::test]
async fn the_expected_instances_end_a_round() {
    let stage = Stage::new().await;
    let _shops = [stage.shop("shop-1").await, stage.shop("shop-2").await];
    // The test ends although the time limit is longer than its patience.
    let two = [
        "ping", "Shop", "--expect", "2", "--within", "1h", "--json", "--count", "2", "-i", "0s",
    ];
    let two = stage.rpc(&two).run().await.exits(0).quietly();
    let lines = two.json_lines();
    assert_eq!(lines.len(), 5, "{two}");
    assert_eq!(
        (&lines[0]["round"], &lines[2]["round"]),
        (&1.into(), &2.into())
    );
    assert!(lines[0]["round_trip_ms"].as_f64().unwrap() > 0.0, "{two}");
    assert_eq!(lines[4]["summary"][0]["answers"], 2);
    assert_eq!(lines[4]["summary"][1]["lost"], 0);

    let three = [
        "ping", "Shop", "--expect", "3", "--quiet", "--count", "2", "--within", "1s", "-i", "1ms",
    ];
    let three = stage.rpc(&three).run().await.exits(6);
    assert_eq!(three.stdout, "");
    three.says("2 of 3 instances of Shop answered in round 1");
    let probe = ["ping", "Shop", "--expect", "1", "--quiet"];
    let probe = stage.rpc(&probe).run().await.exits(0).quietly();
    assert_eq!(probe.stdout, "");
}

#[tokio::test]
async fn an_instance_that_ends_loses_the_rounds_after() {
    let stage = Stage::new().await;
    let (shop, gone) = (stage.shop("shop-1").await, stage.shop("shop-2").await);
    let args = [
        "ping",
        "Shop",
        "--count",
        "4",
        "--within",
        "1s",
        "--interval",
        "10ms",
        "--json",
    ];
    let mut ping = stage.rpc(&args).start();
    for _ in 0..2 {
        ping.line().await.unwrap();
    }
    let (shop, id) = (shop, gone.instance_id().to_owned());
    gone.shutdown().await.unwrap();
    let end = ping.end().await.exits(0).quietly();
    let summary = end.json_lines().pop().unwrap()["summary"].clone();
    let lost = |id: &str| {
        let instances = summary.as_array().unwrap();
        instances.iter().find(|it| it["instance"] == id).unwrap()["lost"].as_u64()
    };
    assert_eq!(lost(shop.instance_id()), Some(0));
    assert!(lost(&id) >= Some(1), "{summary}");
}

#[tokio::test]
async fn instances_and_services_that_are_not_there_are_unroutable() {
    let stage = Stage::new().await;
    let none = stage
        .rpc(&["ping", "Shop", "--count", "2", "-i", "1ms"])
        .run()
        .await
        .exits(6);
    none.snapshot("ping/no-such-service");
    let _shop = stage.shop("shop-1").await;
    // Ids have no such digit.
    let other = stage
        .rpc(&["ping", "Shop", "--instance", "x"])
        .run()
        .await
        .exits(6);
    other.snapshot("ping/no-such-instance");
    for args in [["--count", "0"], ["--expect", "0"], ["--interval", "1"]] {
        let usage = stage
            .rpc(&[&["ping", "Shop"], &args[..]].concat())
            .run()
            .await;
        usage.exits(2);
    }
}

#[tokio::test]
async fn a_broker_that_ends_is_the_reason_for_missing_answers() {
    let node = Node::start().await;
    let connection = Connection::open(&node.url()).await.unwrap();
    let server = Server::builder(&connection).service(ShopDispatcher::new(Clocks));
    let _server = server.build().start().await.unwrap();
    let home = tempfile::tempdir().unwrap();
    // The node ends between two rounds.
    let ping = ["ping", "Shop", "--expect", "1", "--count", "9", "-i", "2s"];
    let ping = Rpc::new(&ping, home.path()).env("RPC_URL", &node.url());
    let mut running = ping.start();
    running.line().await.unwrap();
    node.kill().await;
    let ended = running.end().await.exits(7);
    ended.says("the connection to the broker is down");
}
