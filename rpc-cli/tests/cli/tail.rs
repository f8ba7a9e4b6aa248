//! `rpc tail`.

use rpc_core::{Connection, Encoded, Server, ServerHandle, UntypedClient};
use rpc_tests::broker::{Direction, Proxy, shared_node};
use serde_json::{Value, json};

use crate::program::Running;
use crate::sample::{Clocks, Order, ShopClient, ShopDispatcher};
use crate::stage::Stage;
use crate::terminal::Size;

impl Stage {
    /// Starts an instance of the sample service that allows to watch its calls.
    async fn watched_shop(&self) -> ServerHandle {
        watched_shop_on(&self.connect("shop-1").await).await
    }

    /// Starts `rpc tail Shop` with further arguments, and waits until the service is watched.
    async fn tail(&self, arguments: &[&str]) -> Running {
        let all = [&["tail", "Shop"], arguments].concat();
        let mut running = self.rpc(&all).start();
        running.until_said("watching 1 instance of Shop").await;
        running
    }

    async fn caller(&self) -> ShopClient {
        ShopClient::new(self.connect("caller").await.client())
    }
}

async fn watched_shop_on(connection: &Connection) -> ServerHandle {
    let server = Server::builder(connection).service(ShopDispatcher::new(Clocks));
    server.tap(true).build().start().await.unwrap()
}

/// The next line, as JSON.
async fn json_line(running: &mut Running) -> Value {
    serde_json::from_str(&running.line().await.unwrap()).unwrap()
}

fn order(article: u64) -> Order {
    Order {
        article,
        count: 2,
        remark: None,
    }
}

#[tokio::test]
async fn calls_are_lines_with_arguments_results_and_outcomes() {
    let stage = Stage::new().await;
    let server = stage.watched_shop().await;
    let shop = stage.caller().await;
    let mut tail = stage.tail(&["--take", "6"]).await;
    shop.price(7, Some(3)).await.unwrap();
    shop.order(order(13)).await.unwrap_err();
    shop.burn().await.unwrap_err();
    let id = &server.instance_id()[..8];
    for (begin, end) in [
        ("→ #0 price", r#"{"article":7,"count":3}"#),
        ("← #0 price result", "21"),
        (
            "→ #1 order",
            r#"{"order":{"article":13,"count":2,"remark":null}}"#,
        ),
        ("← #1 order error", r#"{"SoldOut":{"article":13}}"#),
        ("→ #2 burn", "{}"),
        (
            "← #2 burn fault",
            "panicked: the handler panicked; the server's log says why",
        ),
    ] {
        let line = tail.line().await.unwrap();
        assert!(line.contains(&format!("{id} {begin}")), "{line}");
        assert!(line.ends_with(end), "{line}");
    }
    tail.end().await.exits(0);
}

#[tokio::test]
async fn programs_read_one_object_in_each_line() {
    let stage = Stage::new().await;
    let server = stage.watched_shop().await;
    let shop = stage.caller().await;
    let mut tail = stage.tail(&["--json", "--take", "2"]).await;
    let call = shop.price(7, None).header("tenant", "a");
    call.header("token", "s3cret").await.unwrap();
    let (request, answer) = (json_line(&mut tail).await, json_line(&mut tail).await);
    tail.end().await.exits(0);
    for event in [&request, &answer] {
        assert_eq!(event["instance"], server.instance_id());
        assert_eq!(event["service"], "Shop");
        assert_eq!(
            (&event["call"], &event["method"]),
            (&json!(0), &json!("price"))
        );
        assert!(event["time"].as_str().unwrap().ends_with('Z'));
        assert_eq!(event["correlation_id"], request["correlation_id"]);
    }
    assert_eq!(request["event"], "request");
    assert_eq!(request["arguments"], json!({"article": 7, "count": null}));
    assert_eq!(
        request["headers"],
        json!({"tenant": "a", "token": "<hidden>"})
    );
    assert_eq!(request["app_id"], "caller");
    assert!(request["remaining_ms"].as_f64().unwrap() > 0.0);
    assert_eq!(
        (&answer["event"], &answer["outcome"]),
        (&json!("answer"), &json!("result"))
    );
    assert_eq!(answer["result"], 7);
    assert!(answer["duration_ms"].as_f64().unwrap() > 0.0);
}

#[tokio::test]
async fn bodies_of_strangers_stay_in_their_line() {
    let stage = Stage::new().await;
    let _server = stage.watched_shop().await;
    let shop = UntypedClient::new(stage.connect("stranger").await.client(), "Shop");
    let pretty = "{\r\n  \"article\": 7,\n  \"\u{9b}2J\u{7f}\": \"\\n\"\n}";
    let arguments = Encoded::from_json(pretty).unwrap();
    let mut json = stage.tail(&["--json", "--take", "2"]).await;
    let mut text = stage.tail(&["--take", "2"]).await;
    shop.call("price", arguments).await.unwrap();
    let line = json.line().await.unwrap();
    let request: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        request["arguments"],
        json!({"article": 7, "\u{9b}2J\u{7f}": "\n"})
    );
    let shown = text.line().await.unwrap();
    assert!(shown.contains(r#""\u{9b}2J\u{7f}""#), "{shown}");
    for line in [line, shown] {
        assert!(!line.contains(char::is_control), "{line:?}");
    }
    json_line(&mut json).await;
    json.end().await.exits(0);
    text.end().await.exits(0);
}

#[tokio::test]
async fn calls_are_selected_by_method_header_outcome_and_instance() {
    let stage = Stage::new().await;
    let server = stage.watched_shop().await;
    let shop = stage.caller().await;
    let id = &server.instance_id()[..8];
    let first = ["--json", "--take", "1"];
    let of_order = ["--method", "order", "--instance", id];
    let tail = async |arguments: &[&str]| stage.tail(&[&first, arguments].concat()).await;
    let (mut methods, mut headers, mut values, mut outcomes) = tokio::join!(
        tail(&of_order),
        tail(&["--header", "tenant"]),
        tail(&["--header", "tenant=b"]),
        stage.tail(&["--json", "--take", "2", "--outcome", "error"]),
    );
    shop.price(1, None).await.unwrap();
    shop.price(2, None).header("tenant", "a").await.unwrap();
    shop.price(3, None).header("tenant", "b").await.unwrap();
    shop.order(order(13)).await.unwrap_err();
    assert_eq!(json_line(&mut methods).await["method"], "order");
    assert_eq!(json_line(&mut headers).await["arguments"]["article"], 2);
    assert_eq!(json_line(&mut values).await["arguments"]["article"], 3);
    let request = json_line(&mut outcomes).await;
    assert_eq!(request["arguments"]["order"]["article"], 13);
    let error = json_line(&mut outcomes).await;
    assert_eq!(error["error"], json!({"SoldOut": {"article": 13}}));
    for tail in [methods, headers, values, outcomes] {
        tail.end().await.exits(0);
    }
}

#[tokio::test]
async fn the_end_comes_with_the_time_a_signal_a_closed_pipe_or_the_server() {
    let stage = Stage::new().await;
    let server = stage.watched_shop().await;
    let shop = stage.caller().await;
    let (timed, interrupted, piped, last) = tokio::join!(
        stage.tail(&["--duration", "300ms"]),
        stage.tail(&[]),
        stage.tail(&[]),
        stage.tail(&[]),
    );
    timed.end().await.exits(0);
    interrupted.signal("INT").await;
    interrupted.end().await.exits(130);
    let (piped, call) = tokio::join!(piped.end_with_closed_output(), shop.price(1, None));
    call.unwrap();
    assert_eq!(piped.stderr, "");
    piped.exits(0);
    server.shutdown().await.unwrap();
    let outcome = last.end().await.exits(6);
    assert!(
        outcome.stderr.contains("the server is stopping"),
        "{}",
        outcome.stderr
    );
}

#[tokio::test]
async fn an_instance_that_hangs_does_not_extend_the_time() {
    let stage = Stage::new().await;
    let proxy = Proxy::start(shared_node().await.port()).await;
    let url = stage.url_through(&proxy);
    let connection = Connection::builder(&url).name("shop-1").open();
    let _server = watched_shop_on(&connection.await.unwrap()).await;
    let tail = stage.tail(&["--duration", "1s"]).await;
    proxy.blackhole(Direction::ToBroker);
    let outcome = tail.end().await.exits(0);
    assert!(
        outcome.stderr.contains("an instance did not end in time"),
        "{}",
        outcome.stderr
    );
}

#[tokio::test]
async fn the_remedy_for_a_server_that_shows_no_calls_is_named() {
    let stage = Stage::new().await;
    let _shop = stage.shop("shop-1").await;
    let outcome = stage.rpc(&["tail", "Shop"]).run().await.exits(8);
    assert!(
        outcome.stderr.contains("ServerBuilder::tap(true)"),
        "{}",
        outcome.stderr
    );
    assert_eq!(outcome.stdout, "");
    let outcome = stage.rpc(&["tail", "Nothing"]).run().await.exits(6);
    assert!(outcome.stderr.contains("Nothing"), "{}", outcome.stderr);
    let arguments = ["tail", "Shop", "--instance", "zzz"];
    stage.rpc(&arguments).run().await.exits(6);
    for usage in [
        &["tail"][..],
        &["tail", "Shop", "--outcome", "well"],
        &["tail", "Shop", "--take", "0"],
    ] {
        stage.rpc(usage).run().await.exits(2);
    }
}

#[tokio::test]
async fn lines_fit_into_the_terminal() {
    let stage = Stage::new().await;
    let _server = stage.watched_shop().await;
    let shop = stage.caller().await;
    let mut terminal = stage.terminal(&["tail", "Shop", "--take", "2"], Size::USUAL);
    terminal.wait_for("watching 1 instance").await;
    shop.note("x".repeat(1000)).await.unwrap();
    let screen = terminal.wait_for("note result").await;
    let mut lines = screen
        .lines()
        .skip_while(|line| !line.contains("→ #0 note"));
    let request = lines.next().unwrap();
    assert!(request.ends_with("xxx"), "{request}");
    assert!(
        lines.next().unwrap().contains("← #0 note result"),
        "{screen}"
    );
    assert_eq!(terminal.end().await, 0);
}
