//! Stages, terminals and snapshots of the tests.

use crate::sample::{Calculator, FibDispatcher, later};
use crate::snapshot::steady;
use crate::stage::Stage;
use crate::terminal::{Size, Terminal};

#[tokio::test]
async fn stages_do_not_see_each_other() {
    let (one, other) = (Stage::new().await, Stage::new().await);
    let _fib = one.serve("fib-1", FibDispatcher::new(Calculator)).await;
    let _later = one
        .serve("fib-2", later::FibDispatcher::new(Calculator))
        .await;
    let _shop = one.shop("shop-1").await;
    let list = ["--json", "list", "--instances"];
    assert!(
        one.rpc(&list)
            .run()
            .await
            .exits(0)
            .stdout
            .contains("shop-1")
    );
    assert_eq!(
        other.rpc(&list).run().await.exits(0).json(),
        serde_json::json!([])
    );
}

#[tokio::test]
async fn programs_end_in_a_terminal() {
    let stage = Stage::new().await;
    let mut terminal = stage.terminal(&["exit-codes"], Size::USUAL);
    assert_eq!(terminal.end().await, 0);
    terminal.wait_for("130  interrupted by Ctrl-C").await;
}

#[test]
fn volatile_parts_of_a_text_are_replaced() {
    assert_eq!(
        steady("a  6ba7b810-9dad-11d1-80b4-00c04fd430c8    1.5 ms, 1 h 12s"),
        "a  [id]  [time], [time]"
    );
}

#[tokio::test]
async fn errors_are_coloured_on_a_terminal_unless_no_color_is_set() {
    let stage = Stage::new().await;
    let rpc = stage.rpc(&["list"]).without_env("RPC_URL");
    for (variable, has_colours) in [("NO_COLOR", false), ("OTHER", true)] {
        let mut terminal = Terminal::start(&rpc.clone().env(variable, "1"), Size::USUAL);
        assert_eq!(terminal.end().await, 2);
        let written = terminal.written();
        assert!(written.contains("no broker is named"), "{written}");
        assert_eq!(
            written.contains("\x1b["),
            has_colours,
            "{variable}: {written:?}"
        );
    }
    let piped = rpc.run().await.exits(2);
    assert!(!piped.stderr.contains('\x1b'), "{piped}");
}
