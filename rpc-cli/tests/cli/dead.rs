//! `rpc dead`.

use std::ops::Range;

use rpc_core::testing::{Peer, PeerMessage};
use rpc_core::{Connection, HeaderValue, Headers, Server};
use rpc_tests::{eventually, unique_queue};

use crate::sample::{Clocks, ShopDispatcher};
use crate::stage::Stage;
use crate::terminal::Size;

const DEAD: &str = "rpc.Shop.dead";

/// A stage with the request queue and the dead-letter queue of the sample service, without a server.
struct DeadLetterQueue {
    stage: Stage,
    connection: Connection,
    peer: Peer,
}

impl DeadLetterQueue {
    async fn new() -> Self {
        let stage = Stage::new().await;
        let connection = stage.connect("writer").await;
        for queue in ["rpc.Shop", DEAD] {
            let dispatcher = ShopDispatcher::new(Clocks).with_queue(queue);
            let server = Server::builder(&connection).service(dispatcher).build();
            server.start().await.unwrap().shutdown().await.unwrap();
        }
        let peer = unique_queue("rpc.instance.peer");
        let peer = Peer::open(&connection, &peer, &[]).await.unwrap();
        Self {
            stage,
            connection,
            peer,
        }
    }

    /// Writes requests for prices as a server gives them up.
    async fn add(&self, articles: Range<u64>) {
        for article in articles {
            let body = format!(r#"{{"article":{article},"count":2}}"#);
            self.add_as("application/json", body.into_bytes()).await;
        }
    }

    async fn add_as(&self, content_type: &str, body: Vec<u8>) {
        let mut headers = Headers::new();
        headers.insert("rpc-death-reason", "delivery-limit");
        headers.insert("rpc-death-queue", "rpc.Shop");
        headers.insert("rpc-death-time", HeaderValue::Timestamp(1_700_000_000));
        headers.insert("rpc-delivery-count", 3);
        headers.insert("tenant", "a");
        headers.insert("token", "sesame");
        let letter = PeerMessage {
            kind: Some("price".to_owned()),
            content_type: Some(content_type.to_owned()),
            correlation_id: Some("call-1".to_owned()),
            headers,
            body: body.into(),
            ..PeerMessage::default()
        };
        self.peer.publish(DEAD, letter).await.unwrap();
    }

    /// Numbers of waiting requests and of letters.
    async fn counts(&self) -> (u32, u32) {
        let count = async |queue: &str| {
            let status = self.connection.queue_status(queue).await.unwrap();
            status.unwrap().messages
        };
        (count("rpc.Shop").await, count(DEAD).await)
    }

    async fn ids(&self) -> Vec<String> {
        let list = self.stage.rpc(&["dead", "Shop", "--json"]).run().await;
        let list = list.exits(0).json();
        let letters = list.as_array().unwrap().iter();
        letters
            .map(|letter| letter["id"].as_str().unwrap().to_owned())
            .collect()
    }
}

#[tokio::test]
async fn letters_are_listed_and_shown_in_every_order_of_words() {
    let dead = DeadLetterQueue::new().await;
    let stage = &dead.stage;
    dead.add(7..10).await;
    let ids = dead.ids().await;
    assert_eq!(ids.len(), 3);
    for words in [
        &["dead", "Shop"] as &[&str],
        &["dead", "Shop", "list"],
        &["dead", "list", "Shop"],
        &["dead", "--queue", DEAD],
        &["dead", "list", "--queue", DEAD],
    ] {
        let list = stage.rpc(words).run().await.exits(0).quietly();
        let list = list.prints("delivery-limit").prints("price");
        assert!(ids.iter().all(|id| list.stdout.contains(id)), "{list}");
    }
    let words = ["dead", "Shop", "list", "--limit", "2"];
    let limited = stage.rpc(&words).run().await.exits(0).says("3 letters");
    assert!(!limited.stdout.contains(&ids[2]), "{limited}");

    let show = stage.rpc(&["dead", "Shop", "show", &ids[1]]).run().await;
    let show = show.exits(0).quietly();
    let show = show
        .prints("delivery-limit")
        .prints("\"article\": 8")
        .prints("call-1");
    let show = show.prints("\"tenant\":\"a\"").prints("<hidden>");
    assert!(!show.stdout.contains("sesame"), "{show}");
    let words = ["dead", "Shop", "show", &ids[1], "--json"];
    let json = stage.rpc(&words).run().await.exits(0).json();
    assert_eq!(json["arguments"]["article"], 8);
    assert_eq!(
        (&json["deaths"], &json["deliveries"]),
        (&1.into(), &3.into())
    );
    assert_eq!(dead.counts().await, (0, 3));
}

#[tokio::test]
async fn arguments_of_every_content_type_are_shown() {
    let dead = DeadLetterQueue::new().await;
    // {"article": 5} in MessagePack, then no format, then broken JSON.
    let msgpack = [b"\x81\xa7article".as_slice(), b"\x05"].concat();
    dead.add_as("application/msgpack", msgpack).await;
    dead.add_as("image/png", b"\x89PNG".to_vec()).await;
    dead.add_as("application/json", b"{".to_vec()).await;
    let ids = dead.ids().await;
    let show = async |id: &str| {
        let rpc = dead.stage.rpc(&["dead", "Shop", "show", id]);
        rpc.run().await.exits(0)
    };
    show(&ids[0]).await.prints("\"article\": 5");
    show(&ids[1]).await.prints("89504e47").prints("image/png");
    show(&ids[2]).await.prints("7b");
}

#[tokio::test]
async fn letters_are_retried_and_run() {
    let dead = DeadLetterQueue::new().await;
    let stage = &dead.stage;
    dead.add(7..10).await;
    let ids = dead.ids().await;
    let dry = ["dead", "Shop", "retry", &ids[0], "--dry-run"];
    let dry = stage.rpc(&dry).run().await.exits(0);
    dry.says("nothing was changed").prints(&ids[0]);
    assert_eq!(dead.counts().await, (0, 3));
    let one = stage.rpc(&["dead", "Shop", "retry", &ids[1]]).run().await;
    one.exits(0).quietly().prints("1 letter retried");
    assert_eq!(dead.counts().await, (1, 2));
    let all = ["dead", "Shop", "retry", "--all", "--json"];
    let all = stage.rpc(&all).run().await.exits(0).json();
    assert_eq!(
        all[0]["outcome"]["retried"],
        serde_json::json!([ids[0], ids[2]])
    );
    assert_eq!(dead.counts().await, (3, 0));
    let _shop = stage.shop("shop-1").await;
    eventually("the requests run", async || {
        (dead.counts().await == (0, 0)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn nothing_is_dropped_without_a_confirmation() {
    let dead = DeadLetterQueue::new().await;
    let stage = &dead.stage;
    dead.add(7..10).await;
    let ids = dead.ids().await;
    let refused = stage.rpc(&["dead", "Shop", "drop", "--all"]).run().await;
    refused.exits(2).says("--yes");
    let dry = ["dead", "Shop", "drop", "--all", "--dry-run"];
    stage.rpc(&dry).run().await.exits(0).says("3 letters");
    assert_eq!(dead.counts().await, (0, 3));

    for (answer, code, left) in [("n\r", 1, 3), ("y\r", 0, 2)] {
        let words = ["dead", "Shop", "drop", &ids[0]];
        let mut terminal = stage.terminal(&words, Size::USUAL);
        terminal
            .wait_for("Destroy 1 letter in rpc.Shop.dead?")
            .await;
        terminal.type_keys(answer);
        assert_eq!(terminal.end().await, code);
        assert_eq!(dead.counts().await, (0, left));
    }
    let yes = ["dead", "Shop", "drop", &ids[2], "--yes"];
    let yes = stage.rpc(&yes).run().await.exits(0).quietly();
    yes.prints("1 letter dropped");
    assert_eq!(dead.ids().await, [ids[1].clone()]);
}

#[tokio::test]
async fn wrong_words_and_missing_queues_have_their_exit_codes() {
    let dead = DeadLetterQueue::new().await;
    let stage = &dead.stage;
    dead.add(7..8).await;
    let unknown = stage.rpc(&["dead", "Fib"]).run().await.exits(6);
    unknown.says("there is no service Fib");
    let missing = stage.rpc(&["dead", "--queue", "missing"]).run().await;
    missing.exits(6).says("missing");
    for words in [
        &["dead"] as &[&str],
        &["dead", "list"],
        &["dead", "retry", "1234"],
        &["dead", "Shop", "retry"],
        &["dead", "Shop", "drop", "--yes"],
        &["dead", "Shop", "retry", "1234", "--all"],
    ] {
        stage.rpc(words).run().await.exits(2);
    }
    for words in [
        &["dead", "Shop", "show", "1234"] as &[&str],
        &["dead", "Shop", "retry", "1234"],
        &["dead", "Shop", "drop", "1234", "--yes"],
    ] {
        let unknown = stage.rpc(words).run().await.exits(1);
        unknown.says("no dead letter has the id 1234");
    }
    assert_eq!(dead.counts().await, (0, 1));
    // A letter whose request queue is gone.
    let mut headers = Headers::new();
    headers.insert("rpc-death-reason", "delivery-limit");
    headers.insert("rpc-death-queue", "rpc.Gone");
    let letter = PeerMessage {
        headers,
        ..PeerMessage::default()
    };
    dead.peer.publish(DEAD, letter).await.unwrap();
    let kept = stage.rpc(&["dead", "Shop", "retry", "--all"]).run().await;
    let kept = kept.exits(1).says("'rpc.Gone' does not exist");
    kept.prints("1 letter retried").says("1 letter not retried");
    assert_eq!(dead.counts().await, (1, 1));
}

#[tokio::test]
async fn a_service_that_does_not_exist_has_no_dead_letters() {
    let stage = Stage::new().await;
    let list = stage.rpc(&["dead", "Missing"]).run().await.exits(6);
    assert_eq!(list.stdout, "");
    list.says("there is no service Missing");
    let _shop = stage.shop("shop-1").await;
    let list = stage.rpc(&["dead", "Shop"]).run().await.exits(0);
    assert_eq!(list.stdout, "");
    list.says("no dead-letter queue");
}

#[tokio::test]
async fn operators_without_permissions_are_told_which_are_missing() {
    let dead = DeadLetterQueue::new().await;
    dead.add(7..8).await;
    let run = async |url: &str, action: &[&str]| {
        let words = [&["dead", "--queue", DEAD, "--url", url], action].concat();
        dead.stage.rpc(&words).run().await
    };
    let url = dead.stage.user("", "", "").await;
    run(&url, &[]).await.exits(8).says("grant the user");
    let url = dead.stage.user("", "", ".*").await;
    run(&url, &[]).await.exits(0);
    let denied = run(&url, &["retry", "--all"]).await.exits(8);
    denied.says("amq.default");
    let url = dead.stage.user("", "^amq.default$", ".*").await;
    run(&url, &["retry", "--all"]).await.exits(0);
    assert_eq!(dead.counts().await, (1, 0));
}

#[tokio::test]
async fn a_retry_that_is_killed_loses_and_doubles_no_letter() {
    const LETTERS: u32 = 1500;
    let dead = DeadLetterQueue::new().await;
    dead.add(0..LETTERS.into()).await;
    let words = ["dead", "--queue", DEAD, "retry", "--all"];
    let retry = dead.stage.rpc(&words).start();
    eventually("some letters are retried", async || {
        (dead.counts().await.0 > 0).then_some(())
    })
    .await;
    retry.kill().await;
    let (retried, _) = dead.counts().await;
    assert!(retried < LETTERS, "the retry was complete before its kill");
    eventually("the other letters are in their queue", async || {
        let (retried, left) = dead.counts().await;
        (retried + left == LETTERS).then_some(())
    })
    .await;
    let rest = dead.stage.rpc(&words).run().await.exits(0);
    rest.prints("letters retried");
    assert_eq!(dead.counts().await, (LETTERS, 0));
}
