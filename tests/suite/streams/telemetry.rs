//! Spans and metrics of streams.

use futures_util::{StreamExt, stream};
use rpc_tests::eventually;

use super::super::telemetry::{Spans, record};
use super::{Setup, all, next};

#[tokio::test]
async fn items_open_streams_and_their_ends_are_counted() {
    let setup = Setup::new().await;
    let (numbers, _recording) = record();
    assert_eq!(all(setup.feed.count(300).await.unwrap()).await.0.len(), 300);
    all(setup.feed.fail_at(2).await.unwrap()).await;
    let mut held = setup.feed.held().await.unwrap();
    next(&mut held).await.unwrap().unwrap();
    assert_eq!(setup.feed.sum(stream::iter(0..10)).await.unwrap(), 45);
    let mut seen = std::collections::BTreeMap::new();
    let number = |name: &str, seen: &std::collections::BTreeMap<String, f64>| {
        seen.get(name).copied().unwrap_or_default()
    };
    eventually("all ends are recorded", async || {
        // Counters and histograms hold what is new since the last look.
        for (name, value) in numbers.take() {
            match name.contains("open_streams") || name.contains("active_calls") {
                true => seen.insert(name, value),
                false => {
                    let before = number(&name, &seen);
                    seen.insert(name, before + value)
                }
            };
        }
        let open = |side: &str, method: &str| {
            number(&format!("rpc.{side}.open_streams Feed/{method}"), &seen)
        };
        let ended = ["count", "fail_at", "sum"]
            .map(|method| open("client", method) + open("server", method));
        (ended == [0.0; 3] && open("client", "held") + open("server", "held") == 2.0).then_some(())
    })
    .await;
    for (name, expected) in [
        ("rpc.client.stream.items Feed/count received", 300.0),
        ("rpc.server.stream.items Feed/count sent", 300.0),
        // 128 numbers take one byte, those below 256 two, the others three.
        (
            "rpc.client.stream.bytes Feed/count received",
            128.0 + 256.0 + 132.0,
        ),
        (
            "rpc.server.stream.bytes Feed/count sent",
            128.0 + 256.0 + 132.0,
        ),
        ("rpc.client.stream.items Feed/sum sent", 10.0),
        ("rpc.server.stream.items Feed/sum received", 10.0),
        ("rpc.client.call.duration Feed/count result", 1.0),
        ("rpc.server.call.duration Feed/count result", 1.0),
        ("rpc.client.call.duration Feed/fail_at error", 1.0),
        ("rpc.server.call.duration Feed/fail_at error", 1.0),
        ("rpc.client.call.duration Feed/held result", 0.0),
    ] {
        assert_eq!(number(name, &seen), expected, "{name}: {seen:?}");
    }
}

#[tokio::test]
async fn a_stream_has_one_span_on_each_side_with_the_number_of_items() {
    let spans = Spans::default();
    let setup = Setup::new().await;
    let _listening = spans.listen();
    let said = stream::iter(["a", "b"]).map(str::to_owned);
    let (heard, error) = all(setup.feed.echo(said).await.unwrap()).await;
    assert!(error.is_none() && heard.len() == 2);
    let ended = async || {
        let server = spans.only("rpc.server").fields;
        server
            .contains_key("rpc.stream.items.sent")
            .then_some(server)
    };
    let server = eventually("the server's span ends", ended).await;
    let client = spans.only("rpc.client").fields;
    for (name, fields) in [("client", client), ("server", server)] {
        let field = |name: &str| fields.get(name).map(String::as_str);
        assert_eq!(
            field("rpc.stream.items.sent"),
            Some("2"),
            "{name}: {fields:?}"
        );
        assert_eq!(
            field("rpc.stream.items.received"),
            Some("2"),
            "{name}: {fields:?}"
        );
        assert!(
            field("rpc.response.status_code").is_some_and(|status| status.contains("result")),
            "{name}: {fields:?}"
        );
    }
}
