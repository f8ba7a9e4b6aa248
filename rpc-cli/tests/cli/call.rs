//! `rpc call`.

use rpc_core::{Server, rpc};

use crate::sample::{Calculator, Clocks, FibDispatcher, ShopDispatcher};
use crate::stage::Stage;

#[tokio::test]
async fn a_call_prints_its_result() {
    let stage = Stage::new().await;
    let _fib = stage.serve("fib-1", FibDispatcher::new(Calculator)).await;
    for arguments in [&["30"][..], &["n=30"], &["{\"n\":30}"], &["[30]"]] {
        let words = [&["call", "Fib", "fib"], arguments].concat();
        let outcome = stage.rpc(&words).run().await.exits(0).quietly();
        assert_eq!(outcome.stdout, "832040\n");
    }
    let stdin = stage.rpc(&["call", "Fib", "fib", "-"]).stdin("{\"n\":30}");
    let outcome = stdin.run().await.exits(0).quietly();
    assert_eq!(outcome.stdout, "832040\n");
    let msgpack = ["call", "Fib", "fib", "30", "--format", "msgpack"];
    let outcome = stage.rpc(&msgpack).run().await.exits(0).quietly();
    assert_eq!(outcome.stdout, "832040\n");
    let three = ["call", "Fib", "fib", "3", "--count", "3"];
    let outcome = stage.rpc(&three).run().await.exits(0).quietly();
    assert_eq!(outcome.stdout, "2\n2\n2\n");
}

#[tokio::test]
async fn arguments_are_checked_before_anything_is_sent() {
    let stage = Stage::new().await;
    let server = stage.shop("shop-1").await;
    for (name, words) in [
        ("missing", &["price"][..]),
        ("unknown", &["price", "artcle=7"]),
        ("wrong-type", &["price", "seven", "--", "-1"]),
        ("wrong-field", &["order", "{\"article\":\"x\",\"count\":2}"]),
        ("no-method", &["prize", "7"]),
        ("not-json", &["price", "-"]),
    ] {
        let words = [&["call", "Shop"], words].concat();
        let outcome = stage.rpc(&words).stdin("{").run().await.exits(2);
        assert_eq!(outcome.stdout, "");
        outcome.snapshot(&format!("call/{name}"));
    }
    let stats = stage
        .connect("asker")
        .await
        .client()
        .stats("Shop")
        .expect(1);
    let stats = stats.await.unwrap();
    assert!(stats[0].methods.iter().all(|method| method.calls == 0));
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn exit_codes_tell_the_outcomes_apart() {
    let stage = Stage::new().await;
    let server = stage.shop("shop-1").await;
    for (code, name, words) in [
        (
            3,
            "own-error",
            &["Shop", "order", "{\"article\":13,\"count\":1}"][..],
        ),
        (4, "fault", &["Shop", "burn"]),
        (5, "timeout", &["Shop", "wait", "--timeout", "300ms"]),
        (2, "usage", &["Shop", "price", "7", "--timeout", "soon"]),
    ] {
        let words = [&["call"], words].concat();
        let outcome = stage.rpc(&words).run().await.exits(code);
        assert_eq!(outcome.stdout, "");
        outcome.snapshot(&format!("call/{name}"));
    }
    server.shutdown().await.unwrap();
    let unknown = ["call", "Missing", "get"];
    let outcome = stage.rpc(&unknown).run().await.exits(6);
    outcome.snapshot("call/no-service");
}

#[tokio::test]
async fn a_broker_that_cannot_be_used_has_an_exit_code() {
    let stage = Stage::new().await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    let nowhere = format!("amqp://guest:guest@127.0.0.1:{port}/%2f");
    let call = stage.rpc(&["call", "Fib", "fib", "30"]);
    call.clone()
        .env("RPC_URL", &nowhere)
        .run()
        .await
        .exits(7)
        .snapshot("call/no-broker");
    let wrong = stage.url_as("guest", "wrong").await;
    call.clone()
        .env("RPC_URL", &wrong)
        .run()
        .await
        .exits(7)
        .snapshot("call/wrong-password");
    call.clone()
        .env("RPC_URL", "memory:")
        .run()
        .await
        .exits(2)
        .snapshot("call/memory");
    call.without_env("RPC_URL").run().await.exits(2);
}

#[tokio::test]
async fn streams_are_lines_of_json_in_both_directions() {
    let stage = Stage::new().await;
    let _shop = stage.shop("shop-1").await;
    let call = |words: &[&str]| stage.rpc(&[&["call", "Shop"], words].concat());
    let outcome = call(&["count", "3"]).run().await.exits(0).quietly();
    assert_eq!(outcome.stdout, "1\n2\n3\n");
    let outcome = call(&["endless", "--take", "4"]).run().await.exits(0);
    assert_eq!(outcome.quietly().stdout, "1\n2\n3\n4\n");
    let outcome = call(&["sum"]).stdin("1\n2 3").run().await.exits(0);
    assert_eq!(outcome.quietly().stdout, "6\n");
    let outcome = call(&["double"]).stdin("1 -2\n").run().await.exits(0);
    assert_eq!(outcome.quietly().stdout, "2\n-4\n");
    // Refused before the stream, and failed in the stream.
    call(&["follow", "13"])
        .run()
        .await
        .exits(3)
        .snapshot("call/refused-stream");
    call(&["follow", "14"])
        .run()
        .await
        .exits(3)
        .snapshot("call/failed-stream");
}

#[tokio::test]
async fn items_pass_while_the_stream_is_open() {
    let stage = Stage::new().await;
    let _shop = stage.shop("shop-1").await;
    let mut running = stage.rpc(&["call", "Shop", "double"]).start();
    for number in 1..=3 {
        running.write(format!("{number}\n").as_bytes()).await;
        assert_eq!(running.line().await.unwrap(), (2 * number).to_string());
    }
    running.end().await.exits(0).quietly();
}

#[tokio::test]
async fn an_item_that_is_not_valid_fails_the_call() {
    let stage = Stage::new().await;
    let _shop = stage.shop("shop-1").await;
    let sum = stage.rpc(&["call", "Shop", "sum"]);
    let outcome = sum.clone().stdin("1 2 -3 4").run().await.exits(2);
    assert_eq!(outcome.stdout, "");
    outcome.snapshot("call/wrong-item");
    let outcome = sum.clone().stdin("1 2 x").run().await.exits(2);
    outcome.says("item 3 of standard input is not JSON");
    let both = stage.rpc(&["call", "Shop", "sum", "-"]).run().await;
    both.exits(2).says("standard input");
}

#[tokio::test]
async fn headers_go_both_ways() {
    use rpc_core::Context;

    #[rpc]
    trait Echo {
        async fn echo(#[ctx] cx: Context) -> String;
    }
    struct Wall;
    impl Echo for Wall {
        async fn echo(&self, cx: Context) -> String {
            cx.set_reply_header("seen", 7);
            format!("{:?} {:?}", cx.header("tenant"), cx.header("n"))
        }
    }
    let stage = Stage::new().await;
    let _wall = stage.serve("wall", EchoDispatcher::new(Wall)).await;
    let words = [
        "call",
        "Echo",
        "echo",
        "--header",
        "tenant=a b",
        "--header",
        "n:=5",
        "--raw",
        "--reply-headers",
    ];
    let outcome = stage.rpc(&words).run().await.exits(0);
    assert_eq!(outcome.stdout, "Some(String(\"a b\")) Some(Int(5))\n");
    assert_eq!(outcome.stderr, "seen: 7\n");
}

#[tokio::test]
async fn all_instances_answer() {
    let stage = Stage::new().await;
    let _one = stage.shop("shop-1").await;
    let _two = stage.shop("shop-2").await;
    let words = [
        "call", "Shop", "price", "7", "--all", "--expect", "2", "--within", "20s",
    ];
    let outcome = stage.rpc(&words).run().await.exits(0).quietly();
    let answers = outcome.json_lines();
    assert_eq!(answers.len(), 2);
    assert!(
        answers
            .iter()
            .all(|answer| answer["result"] == 7 && answer["instance"].is_string())
    );
    assert_ne!(answers[0]["instance"], answers[1]["instance"]);
    let words = [
        "call",
        "Shop",
        "order",
        "{\"article\":13,\"count\":1}",
        "--all",
        "--expect",
        "2",
        "--within",
        "20s",
    ];
    let outcome = stage.rpc(&words).run().await.exits(3);
    assert!(
        outcome
            .json_lines()
            .iter()
            .all(|answer| answer["error"]["SoldOut"]["article"] == 13)
    );
}

#[tokio::test]
async fn a_service_that_does_not_describe_itself_can_be_called() {
    let stage = Stage::new().await;
    let connection = stage.connect("hidden").await;
    let server = Server::builder(&connection)
        .service(ShopDispatcher::new(Clocks))
        .introspection(false)
        .build();
    let _server = server.start().await.unwrap();
    let call = |words: &[&str]| stage.rpc(&[&["call", "Shop"], words].concat());
    let outcome = call(&["price", "7", "2"]).run().await.exits(0);
    assert_eq!(outcome.stdout, "14\n");
    outcome.snapshot("call/undescribed");
    let outcome = call(&["count", "2", "--kind", "server-streaming"])
        .run()
        .await
        .exits(0);
    assert_eq!(outcome.stdout, "1\n2\n");
    call(&["count", "2"]).run().await.exits(4);
}

#[tokio::test]
async fn a_description_from_a_file_spares_the_question() {
    let stage = Stage::new().await;
    let fib = stage.serve("fib-1", FibDispatcher::new(Calculator)).await;
    let described = stage
        .rpc(&["describe", "Fib", "--json"])
        .run()
        .await
        .exits(0);
    std::fs::write(stage.home().join("fib.json"), &described.stdout).unwrap();
    let words = ["call", "Fib", "fib", "30", "--schema", "fib.json"];
    assert_eq!(
        stage.rpc(&words).run().await.exits(0).quietly().stdout,
        "832040\n"
    );
    fib.shutdown().await.unwrap();
    let words = ["call", "Fib", "fib", "x", "--schema", "fib.json"];
    stage.rpc(&words).run().await.exits(2);
}

#[tokio::test]
async fn plain_requests_reach_servers_of_other_kinds() {
    let stage = Stage::new().await;
    let tutorial = FibDispatcher::new(Calculator).with_queue("rpc_queue");
    let _fib = stage.serve("tutorial", tutorial).await;
    let words = [
        "call",
        "Fib",
        "fib",
        "30",
        "--plain",
        "--queue",
        "rpc_queue",
    ];
    let outcome = stage.rpc(&words).run().await.exits(0).quietly();
    assert_eq!(outcome.stdout, "832040\n");
}

#[tokio::test]
async fn a_user_with_few_permissions_is_told_of_the_missing_one() {
    let stage = Stage::new().await;
    let _fib = stage.serve("fib-1", FibDispatcher::new(Calculator)).await;
    // Without the exchange of questions: the call works, unchecked.
    let caller = stage
        .user(
            "^rpc\\.reply\\..*",
            "^(rpc\\.reply\\..*|amq\\.default)$",
            "^rpc\\.reply\\..*",
        )
        .await;
    let call = stage.rpc(&["call", "Fib", "fib", "30"]);
    let outcome = call.clone().env("RPC_URL", &caller).run().await.exits(0);
    assert_eq!(outcome.stdout, "832040\n");
    outcome.says("the arguments are not checked");
    let nothing = stage.user("^$", "^$", "^$").await;
    call.env("RPC_URL", &nothing)
        .run()
        .await
        .exits(8)
        .snapshot("call/no-permission");
}

#[tokio::test]
async fn an_interrupt_ends_a_call_and_its_handler() {
    let stage = Stage::new().await;
    let server = stage.shop("shop-1").await;
    let client = stage.connect("asker").await.client();
    let in_flight = async || {
        let stats = client.stats("Shop").expect(1).await.unwrap();
        let methods = stats[0].methods.iter();
        methods
            .map(|method| method.in_flight + method.streams)
            .sum::<u64>()
    };
    for (signal, code, method) in [
        ("INT", 130, "wait"),
        ("TERM", 143, "wait"),
        ("INT", 130, "endless"),
    ] {
        let running = stage
            .rpc(&["call", "Shop", method, "--timeout", "40s"])
            .start();
        rpc_tests::eventually("the call runs", async || {
            (in_flight().await == 1).then_some(())
        })
        .await;
        running.signal(signal).await;
        running.end().await.exits(code);
        rpc_tests::eventually("the handler stops", async || {
            (in_flight().await == 0).then_some(())
        })
        .await;
    }
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_closed_pipe_ends_a_stream() {
    let stage = Stage::new().await;
    let _shop = stage.shop("shop-1").await;
    let mut running = stage.rpc(&["call", "Shop", "endless"]).start();
    assert_eq!(running.line().await.unwrap(), "1");
    let outcome = running.end_with_closed_output().await;
    outcome.exits(0).quietly();
}
