//! `rpc list`.

use crate::sample::{Calculator, FibDispatcher, later};
use crate::stage::Stage;

#[tokio::test]
async fn services_are_listed_with_their_versions_instances_and_queues() {
    let stage = Stage::new().await;
    let _shops = (stage.shop("shop-1").await, stage.shop("shop-2").await);
    let _fib = stage.serve("fib-1", FibDispatcher::new(Calculator)).await;
    let later = || later::FibDispatcher::new(Calculator);
    let _later = stage.serve("fib-2", later()).await;
    let staging = later().with_queue_prefix("staging.");
    let _staging = stage.serve("fib-3", staging).await;
    let list = stage.rpc(&["list"]).run().await.exits(0).quietly();
    list.snapshot("list/services");

    let json = stage
        .rpc(&["list", "--json"])
        .run()
        .await
        .exits(0)
        .quietly();
    let fib = &json.json()[0];
    assert_eq!(fib["service"], "Fib");
    assert_eq!(fib["versions"], serde_json::json!(["0.9", "1.0"]));
    assert_eq!(fib["contracts"].as_array().unwrap().len(), 2);
    assert_eq!(fib["consumers"], 2);
}

#[tokio::test]
async fn instances_of_a_service_are_listed() {
    let stage = Stage::new().await;
    let shop = stage.shop("shop-1").await;
    let _fib = stage.serve("fib-1", FibDispatcher::new(Calculator)).await;
    let of_shop = stage.rpc(&["list", "Shop"]).run().await.exits(0).quietly();
    of_shop.snapshot("list/instances-of-a-service");
    assert!(of_shop.stdout.contains(shop.instance_id()), "{of_shop}");
    let all = stage.rpc(&["list", "--instances"]).run().await;
    all.exits(0).quietly().snapshot("list/instances");
    let json = stage.rpc(&["list", "Shop", "--json"]).run().await.exits(0);
    let json = &json.json()[0];
    assert_eq!(json["id"], shop.instance_id());
    assert!(json["started"].as_str().unwrap().ends_with('Z'), "{json}");
    assert!(json["round_trip_ms"].as_f64().unwrap() > 0.0, "{json}");
}

#[tokio::test]
async fn a_service_that_does_not_run_is_unroutable() {
    let stage = Stage::new().await;
    let none = stage.rpc(&["list", "Shop"]).run().await.exits(6);
    none.snapshot("list/no-such-service");
    let empty = stage.rpc(&["list"]).run().await.exits(0);
    empty.says("no server answers").snapshot("list/no-service");
}

#[tokio::test]
async fn requests_that_wait_in_a_queue_are_counted() {
    let stage = Stage::new().await;
    let connection = stage.connect("slow").await;
    let server = rpc_core::Server::builder(&connection)
        .service(crate::sample::ShopDispatcher::new(crate::sample::Clocks))
        .prefetch(1)
        .build();
    let _server = server.start().await.unwrap();
    let caller = stage.connect("caller").await;
    let shop = crate::sample::ShopClient::new(caller.client());
    let calls: Vec<_> = (0..3)
        .map(|_| tokio::spawn(shop.wait().into_future()))
        .collect();
    let waiting = async || {
        let status = caller.queue_status("rpc.Shop").await.unwrap();
        status
            .is_some_and(|queue| queue.messages == 2)
            .then_some(())
    };
    rpc_tests::eventually("two requests wait", waiting).await;
    let json = stage.rpc(&["list", "--json"]).run().await.exits(0).json();
    assert_eq!(
        (&json[0]["ready"], &json[0]["consumers"]),
        (&2.into(), &1.into())
    );
    for call in calls {
        call.abort();
    }
}

#[tokio::test]
async fn a_user_without_permissions_is_told_which_are_missing() {
    let stage = Stage::new().await;
    let _shop = stage.shop("shop-1").await;
    let url = stage.user("", "", "").await;
    let denied = stage.rpc(&["list", "--url", &url]).run().await;
    assert!(matches!(denied.code, Some(8)), "{denied}");
    let denied = denied.says("grant the user");
    assert!(!denied.stderr.contains("secret"), "{denied}");
    let url = stage.user("^rpc[.]reply", "", "^rpc[.]reply").await;
    let denied = stage.rpc(&["list", "--url", &url]).run().await.exits(8);
    denied.says("amq.direct");
    // The permissions of a client that asks. The numbers of queues need another one on RabbitMQ 4.
    let url = stage
        .user("^rpc[.]reply", "^amq[.]direct$", "^rpc[.]reply")
        .await;
    let asks = stage.rpc(&["list", "--url", &url]).run().await.exits(0);
    let asks = asks.prints("rpc.Shop");
    let row = asks.stdout.lines().nth(1).unwrap().to_owned();
    match asks.stderr.is_empty() {
        true => assert!(row.ends_with("1"), "{asks}"),
        false => {
            assert!(row.ends_with("-"), "{asks}");
            asks.says("grant the user the permission to read");
        }
    }
}

#[tokio::test]
async fn a_broker_that_cannot_be_reached_and_a_wrong_password_are_told() {
    let stage = Stage::new().await;
    // A port of the loopback interface that no program listens to.
    let refused = stage.rpc(&["list", "--url", "amqp://127.0.0.1:1"]);
    refused.run().await.exits(7).says("127.0.0.1:1");
    let url = stage.url_as("guest", "wr0ng").await;
    let wrong = stage.rpc(&["list", "--url", &url]).run().await.exits(7);
    assert!(
        !wrong
            .to_string()
            .replace(&wrong.typed, "")
            .contains("wr0ng"),
        "{wrong}"
    );
    let none = stage.rpc(&["list"]).without_env("RPC_URL").run().await;
    none.exits(2).says("--url");
    let memory = stage.rpc(&["list", "--url", "memory:"]).run().await;
    memory.exits(2).says("memory:");
}

#[tokio::test]
async fn a_closed_pipe_is_a_success() {
    let stage = Stage::new().await;
    let _shop = stage.shop("shop-1").await;
    let running = stage.rpc(&["list"]).start();
    running.end_with_closed_output().await.exits(0).quietly();
}

#[tokio::test]
async fn an_interrupted_command_says_nothing() {
    let stage = Stage::new().await;
    let _shop = stage.shop("shop-1").await;
    let mut running = stage.rpc(&["list", "--within", "10m"]).start();
    // The second connection shows that the program runs.
    let connected = async || {
        let args = ["-q", "list_connections", "vhost"];
        let listed = rpc_tests::broker::shared_node().await.ctl(&args).await;
        let here = listed.lines().filter(|vhost| *vhost == stage.vhost());
        (here.count() == 2).then_some(())
    };
    rpc_tests::eventually("the program connects", connected).await;
    running.signal("INT").await;
    assert_eq!(running.line().await, None);
    running.end().await.exits(130).quietly();
}
