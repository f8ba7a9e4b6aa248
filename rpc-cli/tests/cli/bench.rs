//! `rpc bench`.

use crate::stage::Stage;
use crate::terminal::Size;

const PRICE: [&str; 4] = ["bench", "Shop", "price", "article=7"];

fn words<'a>(first: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [first, more].concat()
}

#[tokio::test]
async fn a_run_prints_rates_outcomes_percentiles_and_a_histogram() {
    let stage = Stage::new().await;
    let _shop = stage.shop("shop-1").await;
    let args = words(&PRICE, &["--count", "200", "--concurrency", "8"]);
    let text = stage.rpc(&args).run().await.exits(0).quietly();
    for part in [
        "Shop.price, 8 callers: 200 calls in",
        "result",
        "100.00 %",
        "P99.99",
        "█",
    ] {
        assert!(text.stdout.contains(part), "{part}: {text}");
    }
    let json = stage.rpc(&words(&args, &["--json"])).run().await;
    let json = json.exits(0).quietly().json();
    assert_eq!(json["method"], "Shop.price");
    assert_eq!(json["calls"], 200);
    assert_eq!(json["outcomes"]["result"], 200);
    let latency = |name: &str| json["latency_seconds"][name].as_f64().unwrap();
    assert!(0.0 < latency("p50") && latency("p50") <= latency("max"));
    let csv = stage
        .rpc(&words(&args, &["--csv", "--plot", "p.svg"]))
        .run()
        .await;
    let csv = csv.exits(0).quietly().stdout;
    assert!(
        csv.starts_with("percentile,latency_seconds,calls\n"),
        "{csv}"
    );
    assert!(csv.trim_end().ends_with(",200"), "{csv}");
    let svg = std::fs::read_to_string(stage.home().join("p.svg")).unwrap();
    assert!(svg.contains("Shop.price"), "{svg}");
}

#[tokio::test]
async fn an_open_loop_keeps_its_rate() {
    let stage = Stage::new().await;
    let _shop = stage.shop("shop-1").await;
    let args = [
        "--rate",
        "200",
        "--duration",
        "500ms",
        "--warm-up",
        "50ms",
        "--json",
    ];
    let json = stage.rpc(&words(&PRICE, &args)).run().await.exits(0).json();
    // No start is left out, however slow the machine is.
    assert_eq!(json["calls"], 100);
    assert_eq!(json["load"]["open"]["per_second"], 200.0);
}

#[tokio::test]
async fn a_method_with_effects_needs_consent() {
    let stage = Stage::new().await;
    let _shop = stage.shop("shop-1").await;
    let order = [
        "bench",
        "Shop",
        "order",
        r#"order={"article":13,"count":1}"#,
        "--count",
        "3",
    ];
    let asked = stage.rpc(&order).run().await.exits(2);
    asked
        .says("Shop.order is not marked as idempotent")
        .says("with --yes");
    // Every call ends with the service's own error, so that its exit code is that of the run.
    let consent = stage.rpc(&words(&order, &["--yes"])).run().await.exits(3);
    consent.says("SoldOut").prints("error of the service");

    let mut terminal = stage.terminal(&["bench", "Shop", "note", "text=x", "-n", "3"], Size::USUAL);
    terminal.wait_for("Continue? [y/N]").await;
    terminal.type_keys("n\r");
    assert_eq!(terminal.end().await, 1);
    let mut terminal = stage.terminal(&["bench", "Shop", "note", "text=x", "-n", "3"], Size::USUAL);
    terminal.wait_for("Continue? [y/N]").await;
    terminal.type_keys("y\r");
    assert_eq!(terminal.end().await, 0);
    terminal.wait_for("3 calls in").await;
}

#[tokio::test]
async fn an_interrupted_run_prints_its_numbers() {
    let stage = Stage::new().await;
    let _shop = stage.shop("shop-1").await;
    let args = words(&PRICE, &["--duration", "1h", "--warm-up", "0ms"]);
    let mut terminal = stage.terminal(&args, Size::USUAL);
    // The progress shows the first calls.
    let is_measured = |screen: &str| screen.contains("p99 ") && !screen.contains("p99 -");
    terminal.wait("the first calls", is_measured).await;
    terminal.type_keys("\x03");
    assert_eq!(terminal.end().await, 130);
    let screen = terminal.wait_for("P99.99").await;
    assert!(screen.contains("result"), "{screen}");
}

#[tokio::test]
async fn calls_without_an_answer_are_counted_by_kind() {
    let stage = Stage::new().await;
    let _shop = stage.shop("shop-1").await;
    let wait = [
        "bench",
        "Shop",
        "wait",
        "--count",
        "4",
        "-c",
        "4",
        "--yes",
        "--timeout",
        "200ms",
    ];
    let outcome = stage.rpc(&wait).run().await.exits(5);
    outcome.prints("100.00 %").says("no call had a result");
    let stream = ["bench", "Shop", "count", "3", "--yes"];
    stage.rpc(&stream).run().await.exits(2).says("has a stream");
    let wrong = ["bench", "Shop", "price", "many"];
    stage.rpc(&wrong).run().await.exits(2).says("expected u64");
}
