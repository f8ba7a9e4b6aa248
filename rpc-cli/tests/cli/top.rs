//! `rpc top`, in a pseudo-terminal.

use rpc_tests::broker::{Cut, Proxy, shared_node};

use crate::sample::{Calculator, FibClient, FibDispatcher};
use crate::stage::Stage;
use crate::terminal::{Size, Terminal};

const TOP: [&str; 5] = ["top", "--interval", "10ms", "--within", "500ms"];

/// Lines of the screen that begin with these texts, in this order.
fn has_order(screen: &str, starts: &[&str]) -> bool {
    let lines = screen
        .lines()
        .filter_map(|line| starts.iter().position(|start| line.starts_with(start)));
    lines.eq(0..starts.len())
}

/// Asserts that the terminal is as it was before the program.
fn assert_given_back(terminal: &Terminal) {
    assert!(!terminal.is_alternate(), "{}", terminal.screen());
    assert!(!terminal.hides_cursor(), "{}", terminal.screen());
}

#[tokio::test]
async fn services_are_shown_sorted_filtered_and_in_detail() {
    let stage = Stage::new().await;
    let _shops = [stage.shop("shop-1").await, stage.shop("shop-2").await];
    let _fib = stage.serve("fib-1", FibDispatcher::new(Calculator)).await;
    let mut terminal = stage.terminal(&TOP, Size::USUAL);
    let screen = terminal.wait_for("services: 2, instances: 3").await;
    assert!(has_order(&screen, &["Fib", "Shop"]), "{screen}");
    assert!(terminal.is_alternate() && terminal.hides_cursor());

    // Another order.
    terminal.type_keys("n");
    terminal
        .wait("reversed", |screen| has_order(screen, &["Shop", "Fib"]))
        .await;
    terminal.type_keys("n/ib");
    terminal
        .wait("filtered", |screen| {
            has_order(screen, &["Fib"]) && !screen.contains("Shop")
        })
        .await;
    terminal.type_keys("\r");
    terminal.wait_for("filter: ib").await;
    terminal.type_keys("\r");
    let screen = terminal.wait_for("METHOD").await;
    assert!(
        screen.contains("Fib, version 0.9") && screen.contains("fib-1"),
        "{screen}"
    );
    // Calls are counted while the page is shown.
    let caller = stage.connect("caller").await;
    let fib = FibClient::new(caller.client());
    for _ in 0..5 {
        fib.fib(10).await.unwrap();
    }
    let is_counted = |screen: &str| {
        let row = screen.lines().find(|line| line.starts_with("fib "));
        row.is_some_and(|row| row.split_whitespace().nth(1) == Some("5"))
    };
    terminal.wait("five calls", is_counted).await;
    terminal.type_keys("?");
    terminal.wait_for("pauses, and goes on").await;
    terminal.type_keys("?");
    terminal.wait_for("SERVICE").await;
    terminal.type_keys("q");
    assert_eq!(terminal.end().await, 0);
    assert_given_back(&terminal);
}

#[tokio::test]
async fn a_server_that_starts_or_ends_is_seen() {
    let stage = Stage::new().await;
    let mut terminal = stage.terminal(&TOP, Size::USUAL);
    terminal.wait_for("no server answers").await;
    let server = stage.shop("shop-1").await;
    terminal.wait_for("services: 1, instances: 1").await;
    terminal.type_keys(" ");
    terminal.wait_for("PAUSED").await;
    server.shutdown().await.unwrap();
    terminal.type_keys(" ");
    terminal.wait_for("services: 0, instances: 0").await;
    terminal.type_keys("\x03");
    assert_eq!(terminal.end().await, 130);
    assert_given_back(&terminal);
}

#[tokio::test]
async fn a_lost_connection_is_told_and_comes_back() {
    let stage = Stage::new().await;
    let _server = stage.shop("shop-1").await;
    let proxy = Proxy::start(shared_node().await.port()).await;
    let url = stage.url_through(&proxy);
    let rpc = stage.rpc(&TOP).env("RPC_URL", &url);
    let mut terminal = Terminal::start(&rpc, Size::USUAL);
    terminal.wait_for("services: 1").await;
    proxy.refuse().await;
    proxy.cut(Cut::Reset).await;
    let is_told = |screen: &str| {
        let title = screen.lines().next().unwrap_or_default();
        title.contains("services: 1") && title.contains("connection")
    };
    terminal
        .wait("the loss, with the last numbers", is_told)
        .await;
    proxy.accept().await;
    terminal
        .wait("the end of the loss", |screen| !is_told(screen))
        .await;
    let screen = terminal.wait_for("Shop").await;
    assert!(screen.contains("services: 1"), "{screen}");
    terminal.type_keys("q");
    assert_eq!(terminal.end().await, 0);
    assert_given_back(&terminal);
}

#[tokio::test]
async fn a_terminal_may_change_its_size_and_be_tiny() {
    let stage = Stage::new().await;
    let _server = stage.shop("shop-1").await;
    let mut terminal = stage.terminal(
        &TOP,
        Size {
            rows: 1,
            columns: 3,
        },
    );
    terminal
        .wait("the beginning of the title", |screen| {
            screen.starts_with("rpc")
        })
        .await;
    terminal.resize(Size::USUAL);
    terminal.wait_for("services: 1, instances: 1").await;
    terminal.wait_for("CALLS/S").await;
    terminal.resize(Size {
        rows: 2,
        columns: 20,
    });
    terminal
        .wait("a small screen", |screen| !screen.contains("CALLS/S"))
        .await;
    terminal.type_keys("q");
    assert_eq!(terminal.end().await, 0);
    assert_given_back(&terminal);
}

#[tokio::test]
async fn a_key_that_comes_together_with_a_change_of_size_is_not_lost() {
    let stage = Stage::new().await;
    let mut terminal = stage.terminal(&TOP, Size::USUAL);
    terminal.wait_for("no server answers").await;
    // The stopped program finds both when it goes on.
    terminal.signal("STOP").await;
    terminal.resize(Size {
        rows: 20,
        columns: 80,
    });
    terminal.type_keys("?");
    terminal.signal("CONT").await;
    terminal.wait_for("pauses, and goes on").await;
    terminal.type_keys("q");
    assert_eq!(terminal.end().await, 0);
    assert_given_back(&terminal);
}

#[tokio::test]
async fn a_signal_gives_the_terminal_back() {
    let stage = Stage::new().await;
    let mut terminal = stage.terminal(&TOP, Size::USUAL);
    terminal.wait_for("no server answers").await;
    terminal.signal("TERM").await;
    assert_eq!(terminal.end().await, 143);
    assert_given_back(&terminal);
}

#[tokio::test]
async fn no_color_removes_the_colours() {
    let stage = Stage::new().await;
    let user = stage
        .user("^rpc[.]reply", "^amq[.]direct$", "^rpc[.]reply")
        .await;
    let _server = stage.shop("shop-1").await;
    for (name, has_colours) in [("NO_COLOR", false), ("OTHER", true)] {
        let rpc = stage.rpc(&TOP).env("RPC_URL", &user).env(name, "1");
        let mut terminal = Terminal::start(&rpc, Size::USUAL);
        terminal.wait_for("services: 1").await;
        let caller = stage.connect("caller").await;
        // An error is shown in red.
        let shop = crate::sample::ShopClient::new(caller.client());
        let mut is_red = false;
        for _ in 0..100 {
            shop.burn().await.unwrap_err();
            let errors = |screen: &str| {
                let row = screen
                    .lines()
                    .find(|line| line.starts_with("Shop"))
                    .unwrap_or_default();
                row.split_whitespace()
                    .nth(4)
                    .is_some_and(|rate| rate != "0" && rate != "-")
            };
            terminal.wait("a rate of errors", errors).await;
            is_red = terminal.written().contains("\x1b[38;5;1");
            if is_red || !has_colours {
                break;
            }
        }
        assert_eq!(is_red, has_colours, "{name}");
        terminal.type_keys("q");
        assert_eq!(terminal.end().await, 0);
    }
}

#[tokio::test]
async fn failures_come_before_the_screen_changes() {
    let stage = Stage::new().await;
    let piped = stage.rpc(&["top"]).run().await.exits(2);
    piped.snapshot("top/no-terminal");
    stage
        .rpc(&["top", "--json"])
        .run()
        .await
        .exits(2)
        .says("--watch --json");
    let wrong = stage.rpc(&["top"]).env("RPC_URL", "amqp://127.0.0.1:1");
    let mut terminal = Terminal::start(&wrong, Size::USUAL);
    assert_eq!(terminal.end().await, 7);
    terminal.wait_for("127.0.0.1:1").await;
    assert!(
        !terminal.written().contains("\x1b[?1049h"),
        "{}",
        terminal.screen()
    );
    let denied = stage.user("^rpc[.]reply", "", "^rpc[.]reply").await;
    let denied = stage.rpc(&["top"]).env("RPC_URL", &denied);
    let mut terminal = Terminal::start(&denied, Size::USUAL);
    assert_eq!(terminal.end().await, 8);
    terminal.wait_for("amq.direct").await;
    assert_given_back(&terminal);
}
