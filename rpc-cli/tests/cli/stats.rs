//! `rpc stats`.

use serde_json::Value;

use crate::sample::{Calculator, FibClient, FibDispatcher, Order, ShopClient};
use crate::stage::Stage;
use crate::terminal::Size;

#[tokio::test]
async fn the_calls_of_each_method_are_counted() {
    let stage = Stage::new().await;
    let server = stage.shop("shop-1").await;
    let caller = stage.connect("caller").await;
    let shop = ShopClient::new(caller.client());
    for _ in 0..3 {
        shop.price(2, None).await.unwrap();
    }
    shop.burn().await.unwrap_err();
    let sold_out = Order {
        article: 13,
        count: 1,
        remark: None,
    };
    shop.order(sold_out).await.unwrap_err();
    let wait = tokio::spawn(shop.wait().into_future());
    let running = async || {
        let stats = caller.client().stats("Shop").expect(1).await.unwrap();
        (stats[0].oldest.len() == 1).then_some(())
    };
    rpc_tests::eventually("the call runs", running).await;

    let stats = stage.rpc(&["stats", "Shop"]).run().await.exits(0).quietly();
    let id = &server.instance_id()[..8];
    let correlation = stats
        .stdout
        .lines()
        .last()
        .unwrap()
        .split_whitespace()
        .last()
        .unwrap();
    let steady = crate::program::Outcome {
        stdout: stats
            .stdout
            .replace(id, "[instance]")
            .replace(correlation, "[correlation]"),
        ..stats.clone()
    };
    steady.snapshot("stats/shop");
    let json = stage.rpc(&["stats", "Shop", "--json"]).run().await.exits(0);
    let json = json.quietly().json();
    assert_eq!(json[0]["methods"][0]["calls"], 3);
    assert_eq!(json[0]["methods"][3]["faults"]["panicked"], 1);
    wait.abort();
    let none = stage.rpc(&["stats", "Fib"]).run().await.exits(6);
    none.says("no instance of Fib answers");
}

#[tokio::test]
async fn a_watch_prints_a_line_of_json_with_rates_for_each_round() {
    let stage = Stage::new().await;
    let first = stage.serve("fib-1", FibDispatcher::new(Calculator)).await;
    let caller = stage.connect("caller").await;
    let fib = FibClient::new(caller.client());
    let args = [
        "stats", "Fib", "--watch", "10ms", "--within", "500ms", "--json",
    ];
    let mut watch = stage.rpc(&args).start();
    let mut next = async || {
        let line = watch.line().await.unwrap();
        serde_json::from_str::<Value>(&line).unwrap()
    };
    let is_round = |value: &Value| value[0].is_object();
    let rate = |round: &Value| round[0]["methods"][0]["calls_per_second"].as_f64();
    // A busy machine may miss rounds.
    while !is_round(&next().await) {}
    fib.fib(10).await.unwrap();
    while rate(&next().await) <= Some(0.0) {}
    // A server that starts again counts from zero, and its first round has no rates.
    first.shutdown().await.unwrap();
    let is_gone = |it: &Value| {
        it["error"]
            .as_str()
            .is_some_and(|it| it.contains("no instance of Fib"))
    };
    while !is_gone(&next().await) {}
    let _second = stage.serve("fib-2", FibDispatcher::new(Calculator)).await;
    let round = loop {
        let round = next().await;
        if is_round(&round) {
            break round;
        }
    };
    assert_eq!(
        (&round[0]["methods"][0]["calls"], rate(&round)),
        (&0.into(), None)
    );
    let round = loop {
        let round = next().await;
        if is_round(&round) {
            break round;
        }
    };
    assert_eq!(rate(&round), Some(0.0));
    watch.signal("INT").await;
    watch.end().await.exits(130).quietly();
}

#[tokio::test]
async fn a_watch_redraws_the_terminal() {
    let stage = Stage::new().await;
    let _server = stage.serve("fib-1", FibDispatcher::new(Calculator)).await;
    let caller = stage.connect("caller").await;
    let fib = FibClient::new(caller.client());
    let args = ["stats", "Fib", "--watch", "10ms", "--within", "500ms"];
    let mut terminal = stage.terminal(&args, Size::USUAL);
    let screen = terminal.wait_for("CALLS/S").await;
    assert!(screen.starts_with("Fib, instances: 1"), "{screen}");
    for _ in 0..7 {
        fib.fib(10).await.unwrap();
    }
    let is_counted = |screen: &str| {
        let row = screen.lines().find(|line| line.contains("fib-1"));
        let row: Vec<_> = row
            .map(|row| row.split_whitespace().collect())
            .unwrap_or_default();
        row.get(5) == Some(&"7")
    };
    let screen = terminal.wait("seven calls", is_counted).await;
    assert_eq!(screen.matches("CALLS/S").count(), 1, "{screen}");
    let small = Size {
        rows: 3,
        columns: 120,
    };
    terminal.resize(small);
    let is_cut = |screen: &str| screen.starts_with("Fib") && screen.contains("… 2 more lines");
    terminal.wait("lines that have no room", is_cut).await;
    let narrow = Size {
        rows: 20,
        columns: 40,
    };
    terminal.resize(narrow);
    // Lines that the terminal has broken are one line here.
    let fits = |screen: &str| {
        let fits = screen.lines().all(|line| line.chars().count() <= 40);
        fits && screen.contains("INSTANCE")
    };
    terminal
        .wait("lines that fit into the terminal", fits)
        .await;
    terminal.type_keys("\x03");
    assert_eq!(terminal.end().await, 130);
}

#[tokio::test]
async fn a_watch_without_colours_redraws_too() {
    let stage = Stage::new().await;
    let _server = stage.serve("fib-1", FibDispatcher::new(Calculator)).await;
    let rpc = stage.rpc(&["stats", "Fib", "--watch", "10ms", "--within", "500ms"]);
    let mut terminal = crate::terminal::Terminal::start(&rpc.env("NO_COLOR", "1"), Size::USUAL);
    terminal.wait_for("CALLS/S").await;
    let first = terminal.written().len();
    let has_round = |_: &str| true;
    while !terminal.written()[first..].contains("CALLS/S") {
        terminal.wait("another round", has_round).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(terminal.screen().matches("CALLS/S").count(), 1);
    assert!(!terminal.written().contains("\x1b[1m"));
}

#[tokio::test]
async fn a_watch_ends_with_its_pipe() {
    let stage = Stage::new().await;
    let _server = stage.serve("fib-1", FibDispatcher::new(Calculator)).await;
    for json in [&["--json"][..], &[]] {
        let args = ["stats", "Fib", "--watch", "10ms", "--within", "500ms"];
        let mut watch = stage.rpc(&[&args, json].concat()).start();
        watch.line().await.unwrap();
        watch.end_with_closed_output().await.exits(0).quietly();
    }
}
