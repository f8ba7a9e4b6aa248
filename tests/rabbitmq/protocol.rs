//! The examples of PROTOCOL.md, byte for byte: sent to a server, expected from a client, and sent to it as replies.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream;
use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::options::{BasicPublishOptions, QueueBindOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use rpc_core::instances::{TapEvent, TapEventKind};
use rpc_core::{
    CallError, Client, Connection, ErrorKind, Incoming, Server, ServerHandle, Stream, rpc,
};
use rpc_tests::broker::shared_node;
use rpc_tests::unique_queue;

use super::peer::Peer;
use super::{AdderClient, Event, serve};

#[rpc]
trait Shelf {
    #[rpc(idempotent)]
    async fn twice(n: u64) -> u64;
}

/// An example message of PROTOCOL.md.
#[derive(Clone, Default, Debug, PartialEq)]
struct Example {
    properties: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Example {
    /// All examples by title.
    fn all() -> BTreeMap<String, Self> {
        let document = include_str!("../../PROTOCOL.md");
        let blocks = document.split("```message\n").skip(1);
        let examples: BTreeMap<_, _> = blocks
            .map(|block| {
                let (example, _) = block.split_once("```").expect("the end of an example");
                let (title, message) = example.split_once('\n').expect("a title");
                (title.to_owned(), Self::parse(message))
            })
            .collect();
        assert_eq!(examples.len(), 33, "two examples have one title");
        examples
    }

    fn parse(text: &str) -> Self {
        let mut example = Self::default();
        for line in text.lines() {
            let (name, value) = line.split_once(": ").expect("a name and a value");
            match name {
                "bytes" => {
                    let byte = |text| u8::from_str_radix(text, 16).expect("a byte");
                    example.body = value.split(' ').map(byte).collect();
                }
                "text" => example.body = value.as_bytes().to_vec(),
                name => {
                    let (names, name) = match name.strip_prefix("header ") {
                        Some(name) => (&mut example.headers, name),
                        None => (&mut example.properties, name),
                    };
                    names.insert(name.to_owned(), value.to_owned());
                }
            }
        }
        example
    }

    fn of(delivery: &Delivery) -> Self {
        let given = &delivery.properties;
        let mut properties = BTreeMap::new();
        for (name, value) in [
            ("type", given.kind()),
            ("content_type", given.content_type()),
            ("correlation_id", given.correlation_id()),
            ("reply_to", given.reply_to()),
            ("expiration", given.expiration()),
            ("message_id", given.message_id()),
            ("app_id", given.app_id()),
        ] {
            if let Some(value) = value {
                properties.insert(name.to_owned(), value.to_string());
            }
        }
        let headers = given.headers().iter().flat_map(FieldTable::inner);
        Self {
            properties,
            headers: headers
                .map(|(name, value)| match value {
                    AMQPValue::Boolean(flag) => (name.to_string(), flag.to_string()),
                    AMQPValue::LongLongInt(number) => (name.to_string(), number.to_string()),
                    AMQPValue::LongString(text) => (name.to_string(), text.to_string()),
                    other => panic!("{name}: {other:?}"),
                })
                .collect(),
            body: delivery.data.clone(),
        }
    }

    /// Without values that differ from call to call: only their presence counts.
    fn timeless(mut self) -> Self {
        for name in ["correlation_id", "reply_to", "expiration"] {
            self.properties
                .entry(name.to_owned())
                .and_modify(String::clear);
        }
        self.headers
            .entry("rpc-deadline".to_owned())
            .and_modify(String::clear);
        self
    }

    /// The same message of the call that an example belongs to, with the call's own id.
    fn of_call(mut self, correlation_id: &str) -> Self {
        let name = "correlation_id".to_owned();
        self.properties.insert(name, correlation_id.to_owned());
        self
    }

    /// The same message of the stream that an example belongs to, with the stream's own id.
    fn of_stream(mut self, id: &str) -> Self {
        let name = "message_id".to_owned();
        self.properties.insert(name, id.to_owned());
        self
    }

    /// The message as a server sends it that is named "counting".
    fn sent_by_server(mut self) -> Self {
        let name = "app_id".to_owned();
        self.properties.insert(name, "counting".to_owned());
        self
    }

    fn properties(&self) -> BasicProperties {
        let property = |name: &str| self.properties.get(name).map(|value| value.as_str().into());
        let mut properties = BasicProperties::default();
        type Set = fn(BasicProperties, ShortString) -> BasicProperties;
        let setters: [(&str, Set); 5] = [
            ("type", BasicProperties::with_type),
            ("content_type", BasicProperties::with_content_type),
            ("correlation_id", BasicProperties::with_correlation_id),
            ("expiration", BasicProperties::with_expiration),
            ("message_id", BasicProperties::with_message_id),
        ];
        for (name, set) in setters {
            if let Some(value) = property(name) {
                properties = set(properties, value);
            }
        }
        let mut headers = FieldTable::default();
        for (name, value) in &self.headers {
            let value = match value.parse() {
                Ok(number) => AMQPValue::LongLongInt(number),
                Err(_) => match value.parse() {
                    Ok(flag) => AMQPValue::Boolean(flag),
                    Err(_) => AMQPValue::LongString(value.as_str().into()),
                },
            };
            headers.insert(name.as_str().into(), value);
        }
        properties.with_headers(headers)
    }
}

#[tokio::test]
async fn a_server_replies_to_example_requests_with_example_replies() {
    let node = shared_node().await;
    let queue = unique_queue("adder");
    let connection = Connection::open(&node.url()).await.unwrap();
    let _server = serve(&connection, &queue).await;
    let mut peer = Peer::with_queue(node).await;
    let examples = Example::all();
    for name in ["add", "negate", "replay", "unknown", "plain"] {
        let request = &examples[&format!("request {name}")];
        let reply = peer.call(&queue, request.properties(), &request.body).await;
        let mut reply = Example::of(&reply);
        reply
            .properties
            .remove("app_id")
            .expect("the server's name");
        assert_eq!(reply, examples[&format!("reply {name}")], "{name}");
    }
}

#[tokio::test]
async fn a_server_handles_the_example_batch_and_replies_in_batches() {
    let node = shared_node().await;
    let queue = unique_queue("adder");
    let connection = Connection::open(&node.url()).await.unwrap();
    let server = serve(&connection, &queue).await;
    let mut peer = Peer::with_queue(node).await;
    let examples = Example::all();
    let (request, expected) = (&examples["request batch"], &examples["reply batch"]);
    peer.request(&queue, request.properties(), &request.body)
        .await;
    // The array of two and the number of calls: replies may come together or not.
    const HEAD: usize = 7;
    let second = expected
        .body
        .windows(3)
        .rposition(|entry| entry == b"\x96\xa1b");
    let (first, second) = expected.body[HEAD..].split_at(second.expect("two") - HEAD);
    let mut received = Vec::new();
    while received.len() < first.len() + second.len() {
        let batch = Example::of(&peer.receive().await);
        assert_eq!(batch.properties["type"], expected.properties["type"]);
        assert_eq!(
            batch.properties["content_type"],
            expected.properties["content_type"]
        );
        assert_eq!(batch.body[..HEAD - 1], expected.body[..HEAD - 1]);
        received.extend_from_slice(&batch.body[HEAD..]);
    }
    let orders = [[first, second].concat(), [second, first].concat()];
    assert!(orders.contains(&received), "{received:x?}");
    server.shutdown().await.unwrap();
    let left = node.queue(&queue).await.expect("the queue");
    assert_eq!(left.messages, 0);
}

#[tokio::test]
async fn malformed_batches_are_refused() {
    let node = shared_node().await;
    let queue = unique_queue("adder");
    let connection = Connection::open(&node.url()).await.unwrap();
    let server = serve(&connection, &queue).await;
    let mut peer = Peer::with_queue(node).await;
    let batch = &Example::all()["request batch"];
    for body in [&batch.body[..20], b"", b"\x92\x00\x90", b"\xc1"] {
        let reply = peer.call(&queue, batch.properties(), body).await;
        let reply = Example::of(&reply);
        assert_eq!(reply.properties["type"], "fault");
        let id = &batch.properties["correlation_id"];
        assert_eq!(reply.properties["correlation_id"], *id);
        let body = String::from_utf8_lossy(&reply.body);
        assert!(body.contains("bad_request"), "{body}");
    }
    assert_eq!(server.refused_requests(), 4);
}

/// The peer is a server without support for batches.
#[tokio::test]
async fn a_client_whose_batch_is_refused_sends_single_requests_from_then_on() {
    let node = shared_node().await;
    let queue = unique_queue("captured");
    let mut server = Peer::serving(node, &queue).await;
    let connection = Connection::open(&node.url()).await.unwrap();
    let client = connection.client_builder().coalesce(64).build();
    let shelf = ShelfClient::new(client).with_queue(&queue);
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..40 {
        calls.spawn(shelf.twice(n).into_future());
    }
    let (mut singles, mut batches) = (0, 0);
    while singles < 40 {
        let request = server.receive().await;
        let properties = Example::of(&request).properties;
        let reply_to = &properties["reply_to"];
        let reply = BasicProperties::default()
            .with_correlation_id(properties["correlation_id"].as_str().into());
        if properties["content_type"] == "application/msgpack" {
            singles += 1;
            let reply = reply
                .with_type("result".into())
                .with_content_type("application/msgpack".into());
            server.publish(reply_to, reply, b"\x07").await;
        } else {
            batches += 1;
            let reply = reply
                .with_type("fault".into())
                .with_content_type("application/json".into());
            let fault = br#"{"code":"unsupported_content_type","message":"what is that?"}"#;
            server.publish(reply_to, reply, fault).await;
        }
    }
    while let Some(answer) = calls.join_next().await {
        assert_eq!(answer.unwrap().unwrap(), 7);
    }
    assert!(batches > 0);
    // The client remembers the refusal, even if other servers accept batches.
    for n in 0..20 {
        calls.spawn(
            shelf
                .twice(n)
                .timeout(Duration::from_millis(500))
                .into_future(),
        );
    }
    for _ in 0..20 {
        let properties = Example::of(&server.receive().await).properties;
        assert_eq!(properties["content_type"], "application/msgpack");
    }
}

/// Asserts that the client sends the example request, and gives it the example reply.
async fn exchange<T: Debug + Send + 'static>(
    name: &str,
    client: impl AsyncFnOnce(&Connection) -> Client,
    call: impl AsyncFnOnce(AdderClient) -> T,
) -> T {
    let node = shared_node().await;
    let queue = unique_queue("captured");
    let mut server = Peer::serving(node, &queue).await;
    let connection = Connection::builder(node.url()).name("billing");
    let connection = connection.open().await.unwrap();
    let adder = AdderClient::new(client(&connection).await).with_queue(&queue);
    let examples = Example::all();
    let serving = async {
        let request = Example::of(&server.receive().await);
        let expected = examples[&format!("request {name}")].clone();
        assert_eq!(request.clone().timeless(), expected.timeless(), "{name}");
        let mut reply = examples[&format!("reply {name}")].clone();
        let id = request.properties["correlation_id"].clone();
        reply.properties.insert("correlation_id".to_owned(), id);
        let reply_to = &request.properties["reply_to"];
        server
            .publish(reply_to, reply.properties(), &reply.body)
            .await;
    };
    let (answer, ()) = tokio::join!(call(adder), serving);
    answer
}

#[tokio::test]
async fn a_client_sends_example_requests_and_decodes_example_replies() {
    let sum = exchange(
        "add",
        async |connection| connection.client(),
        async |adder| adder.add(1, 2).await,
    );
    assert_eq!(sum.await.unwrap(), 3);
    let json = async |connection: &Connection| connection.client_builder().json().build();
    let negated = exchange("negate", json, async |adder| adder.negate(i64::MIN).await);
    match negated.await {
        Err(CallError::App(error)) => assert_eq!(error, "too small"),
        other => panic!("{other:?}"),
    }
    let event = Event::Login {
        ip: [10, 0, 0, 1].into(),
        key: vec![0, 0xff].into(),
    };
    let sent = event.clone();
    let replayed = exchange(
        "replay",
        async |connection| connection.client(),
        async |adder| adder.replay(sent).await,
    );
    assert_eq!(replayed.await.unwrap(), event);
}

#[tokio::test]
async fn a_client_sends_the_example_cancel_notice() {
    let node = shared_node().await;
    let queue = unique_queue("captured");
    let mut server = Peer::serving(node, &queue).await;
    let notices = unique_queue("notices");
    let mut listener = Peer::serving(node, &notices).await;
    listener
        .channel
        .queue_bind(
            notices.as_str().into(),
            "amq.direct".into(),
            format!("rpc.cancel.{queue}").as_str().into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
        .unwrap();
    let connection = Connection::open(&node.url()).await.unwrap();
    let adder = AdderClient::new(connection.client()).with_queue(&queue);
    let call = tokio::spawn(adder.add(1, 2).into_future());
    let request = Example::of(&server.receive().await);
    call.abort();
    let mut notice = Example::of(&listener.receive().await);
    notice
        .properties
        .remove("message_id")
        .expect("the id of a confirmed message");
    let mut expected = Example::all()["notice"].clone();
    let (reply_to, id) = (
        &request.properties["reply_to"],
        &request.properties["correlation_id"],
    );
    assert_eq!(notice.properties["reply_to"], *reply_to);
    assert_eq!(notice.body[3..], *id.as_bytes());
    expected.body.truncate(3);
    expected.body.extend(id.as_bytes());
    assert_eq!(notice.timeless(), expected.timeless());
}

#[tokio::test]
async fn a_client_decodes_the_example_fault() {
    let node = shared_node().await;
    let queue = unique_queue("captured");
    let mut server = Peer::serving(node, &queue).await;
    let connection = Connection::open(&node.url()).await.unwrap();
    let adder = AdderClient::new(connection.client()).with_queue(&queue);
    let call = tokio::spawn(adder.add(1, 2).into_future());
    let request = Example::of(&server.receive().await);
    let mut fault = Example::all()["reply unknown"].clone();
    let id = request.properties["correlation_id"].clone();
    fault.properties.insert("correlation_id".to_owned(), id);
    let reply_to = &request.properties["reply_to"];
    server
        .publish(reply_to, fault.properties(), &fault.body)
        .await;
    let error = call.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnknownMethod);
    assert!(!error.may_have_executed());
    assert!(
        error.to_string().contains("no method 'subtract'"),
        "{error}"
    );
}

/// A counter.
#[rpc(version = "1.0.0")]
trait Counter {
    /// Adds to the counter, and returns its value.
    async fn count(#[serde(default)] by: u64) -> u64;
}

struct Counting(AtomicU64);

impl Counter for Counting {
    async fn count(&self, by: u64) -> u64 {
        self.0.fetch_add(by, Ordering::Relaxed) + by
    }
}

/// A server of the counter, and a peer that asks it.
struct Asked {
    server: ServerHandle,
    queue: String,
    peer: Peer,
}

impl Asked {
    async fn start() -> Self {
        let node = shared_node().await;
        let queue = unique_queue("counter");
        let connection = Connection::builder(node.url()).name("counting");
        let connection = connection.open().await.unwrap();
        let counter = CounterDispatcher::new(Counting(AtomicU64::new(0))).with_queue(&queue);
        let server = Server::builder(&connection).service(counter).tap(true);
        Self {
            server: server.build().start().await.unwrap(),
            queue,
            peer: Peer::with_queue(node).await,
        }
    }

    /// Sends an example question to a queue, and asserts that the answer is the example answer, apart from values that differ from
    /// server to server, which are named by JSON pointers. Returns the server's private queue.
    async fn answers(&mut self, name: &str, queue: &str, differing: &[&str]) -> String {
        let examples = Example::all();
        let (request, expected) = (
            &examples[&format!("request {name}")],
            &examples[&format!("reply {name}")],
        );
        let reply = self.peer.call(queue, request.properties(), &request.body);
        let mut reply = Example::of(&reply.await);
        reply
            .properties
            .remove("app_id")
            .expect("the server's name");
        let private_queue = reply.properties["reply_to"].clone();
        let id = self.server.instance_id();
        assert!(private_queue.starts_with(&format!("rpc.instance.{id}.")));
        assert_eq!(reply.headers["rpc-instance"], id);
        let without = |example: &Example| {
            let mut example = example.clone().timeless();
            let id = example.headers.get_mut("rpc-instance").expect("an id");
            id.clear();
            let mut body: serde_json::Value = serde_json::from_slice(&example.body).unwrap();
            for pointer in differing {
                let value = body.pointer_mut(pointer);
                *value.unwrap_or_else(|| panic!("no {pointer} in {name}")) = "differs".into();
            }
            example.body.clear();
            (example, body)
        };
        assert_eq!(without(&reply), without(expected), "{name}");
        private_queue
    }
}

#[tokio::test]
async fn an_instance_answers_example_questions_with_example_answers() {
    let mut asked = Asked::start().await;
    let queue = asked.queue.clone();
    let differing = ["/0/id", "/0/queues", "/0/started", "/0/crate_version"];
    let private_queue = asked.answers("ping", &queue, &differing).await;
    // Without the feature `schema` there are no schemas.
    let differing = [
        "/0/queue",
        "/0/methods/0/arguments/0/ty/schema",
        "/0/methods/0/result/schema",
    ];
    asked.answers("describe", &private_queue, &differing).await;
    let count = br#"{"by":2}"#;
    let properties = BasicProperties::default().with_content_type("application/json".into());
    let reply = asked
        .peer
        .call(&queue, properties.with_type("count".into()), count)
        .await;
    assert_eq!(reply.data, b"2");
    let durations = ["mean", "p50", "p90", "p99", "max"];
    let durations = durations.map(|name| format!("/0/methods/0/{name}"));
    let mut differing = vec!["/0/id", "/0/since"];
    differing.extend(durations.iter().map(String::as_str));
    asked.answers("stats", &private_queue, &differing).await;
}

/// The example events of PROTOCOL.md.
fn example_events() -> Vec<TapEvent> {
    let document = include_str!("../../PROTOCOL.md");
    let (_, section) = document
        .split_once("### Calls watched from outside")
        .expect("the section");
    let (_, events) = section.split_once("```json\n").expect("the events");
    let (events, _) = events.split_once("```").expect("the end of the events");
    let events = serde_json::Deserializer::from_str(events).into_iter();
    events.map(|event| event.expect("an event")).collect()
}

#[tokio::test]
async fn an_instance_shows_its_calls_in_the_example_stream() {
    let mut asked = Asked::start().await;
    let queue = asked.queue.clone();
    let ping = &Example::all()["request ping"];
    let reply = asked.peer.call(&queue, ping.properties(), &ping.body).await;
    let private_queue = Example::of(&reply).properties["reply_to"].clone();
    let request = &Example::all()["request tap"];
    let accepted = asked
        .peer
        .call(&private_queue, request.properties(), &request.body);
    let accepted = Example::of(&accepted.await);
    let id = accepted.properties["message_id"].clone();
    let mut expected = Example::all()["accepted tap"].clone();
    let name = "reply_to".to_owned();
    expected.properties.insert(name, private_queue.clone());
    let instance = asked.server.instance_id().to_owned();
    expected.headers.insert("rpc-instance".to_owned(), instance);
    let expected = expected.of_stream(&id).sent_by_server();
    assert_eq!(accepted, expected);

    let properties = BasicProperties::default().with_content_type("application/json".into());
    let mut tenant = FieldTable::default();
    tenant.insert("tenant".into(), AMQPValue::LongString("a".into()));
    let properties = properties.with_type("count".into()).with_headers(tenant);
    let properties = properties.with_correlation_id("8d2f0b4e-3c5a-4b7d-8e9f-2a1b3c4d5e6f".into());
    let properties = properties.with_expiration("30000".into());
    asked.peer.request(&queue, properties, br#"{"by":2}"#).await;
    let mut events = Vec::new();
    while events.len() < 2 {
        let message = Example::of(&asked.peer.receive().await);
        if message.properties.get("type").map(String::as_str) != Some("items") {
            continue; // The reply to the call, and signs of life.
        }
        let mut rest = &message.body[..];
        while let Some((len, item)) = rest.split_first_chunk() {
            let (item, others) = item.split_at(u32::from_be_bytes(*len) as usize);
            events.push(serde_json::from_slice::<TapEvent>(item).unwrap());
            rest = others;
        }
    }
    let mut expected = example_events();
    assert!(matches!(
        expected.pop().unwrap().kind,
        TapEventKind::Skipped { events: 7 }
    ));
    for (event, expected) in events.iter_mut().zip(&mut expected) {
        assert_eq!(event.instance, asked.server.instance_id());
        event.instance = expected.instance.clone();
        event.time = expected.time;
        match (&mut event.kind, &mut expected.kind) {
            (TapEventKind::Request(shown), TapEventKind::Request(example)) => {
                shown.queue = example.queue.clone();
                assert!(shown.remaining.is_some());
                shown.remaining = example.remaining;
            }
            (TapEventKind::Answer(shown), TapEventKind::Answer(example)) => {
                shown.duration = example.duration;
            }
            kinds => panic!("{kinds:?}"),
        }
    }
    assert_eq!(events, expected);
}

#[tokio::test]
async fn an_instance_runs_the_example_call_to_all_instances() {
    let mut asked = Asked::start().await;
    let (request, mut expected) = {
        let mut examples = Example::all();
        (
            examples.remove("request all").unwrap(),
            examples.remove("reply all").unwrap(),
        )
    };
    let mut properties = request
        .properties()
        .with_reply_to(asked.peer.queue.as_str().into());
    // In the example, the deadline is far away.
    properties = properties.with_expiration("30000".into());
    asked
        .peer
        .channel
        .basic_publish(
            "amq.direct".into(),
            format!("rpc.all.{}", asked.queue).as_str().into(),
            BasicPublishOptions::default(),
            &request.body,
            properties,
        )
        .await
        .unwrap();
    let mut reply = Example::of(&asked.peer.receive().await);
    reply
        .properties
        .remove("app_id")
        .expect("the server's name");
    let id = asked.server.instance_id().to_owned();
    expected.headers.insert("rpc-instance".to_owned(), id);
    assert_eq!(reply, expected);
}

#[tokio::test]
async fn a_client_sends_the_example_call_to_all_instances() {
    let node = shared_node().await;
    let queue = unique_queue("captured");
    let mut instance = Peer::with_queue(node).await;
    instance
        .channel
        .queue_bind(
            instance.queue.as_str().into(),
            "amq.direct".into(),
            format!("rpc.all.{queue}").as_str().into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
        .unwrap();
    let connection = Connection::builder(node.url()).name("billing");
    let connection = connection.open().await.unwrap();
    let counter = CounterClient::new(connection.client()).with_queue(&queue);
    let mut answers = counter.count(2).to_all_instances().send().await.unwrap();
    let mut request = Example::of(&instance.receive().await);
    request
        .properties
        .remove("message_id")
        .expect("the id of a confirmed message");
    let examples = Example::all();
    assert_eq!(
        request.clone().timeless(),
        examples["request all"].clone().timeless()
    );
    let mut reply = examples["reply all"].clone();
    let id = request.properties["correlation_id"].clone();
    reply.properties.insert("correlation_id".to_owned(), id);
    let reply_to = &request.properties["reply_to"];
    instance
        .publish(reply_to, reply.properties(), &reply.body)
        .await;
    let (from, answer) = answers.next().await.expect("an answer");
    assert_eq!(
        (from, answer.unwrap()),
        (reply.headers["rpc-instance"].clone(), 2)
    );
}

#[rpc]
trait Numbers {
    /// Returns the numbers below `to`.
    async fn count(to: u64) -> impl Stream<Item = u64>;
    /// Adds the numbers of the caller.
    async fn sum(numbers: impl Stream<Item = u64>) -> u64;
}

struct Calculator;

impl Numbers for Calculator {
    async fn count(&self, to: u64) -> impl Stream<Item = u64> {
        stream::iter(0..to)
    }

    async fn sum(&self, mut numbers: Incoming<u64>) -> u64 {
        let mut sum = 0;
        while let Some(Ok(number)) = numbers.next().await {
            sum += number;
        }
        sum
    }
}

/// Receives the items of one direction, and the message that ends them. The items may come in several messages, which are put together.
async fn receive_items(peer: &mut Peer) -> (Example, Example) {
    let mut items: Option<Example> = None;
    let mut received = 0;
    loop {
        let message = Example::of(&peer.receive().await);
        assert_eq!(message.headers["rpc-sequence"], received.to_string());
        if message.properties["type"] != "items" {
            return (items.expect("items"), message);
        }
        let mut rest = &message.body[..];
        while let Some((len, item)) = rest.split_first_chunk() {
            received += 1;
            rest = &item[u32::from_be_bytes(*len) as usize..];
        }
        match &mut items {
            None => items = Some(message),
            Some(items) => {
                items.body.extend(&message.body);
                assert_eq!(message.properties, items.properties);
            }
        }
    }
}

/// A server with streams, and a peer that opens them.
struct StreamServer {
    server: ServerHandle,
    queue: String,
    peer: Peer,
}

impl StreamServer {
    async fn start() -> Self {
        let node = shared_node().await;
        let queue = unique_queue("numbers");
        let connection = Connection::builder(node.url()).name("counting");
        let connection = connection.open().await.unwrap();
        let numbers = NumbersDispatcher::new(Calculator).with_queue(&queue);
        let server = Server::builder(&connection).service(numbers).build();
        Self {
            server: server.start().await.unwrap(),
            queue,
            peer: Peer::with_queue(node).await,
        }
    }

    /// Sends an example request, and asserts that the server accepts it as in the example. Returns the private queue and the stream's id.
    async fn accepts(&mut self, name: &str) -> (String, String) {
        let examples = Example::all();
        let request = &examples[&format!("request {name}")];
        let mut expected = examples[&format!("accepted {name}")].clone();
        let accepted = self
            .peer
            .call(&self.queue, request.properties(), &request.body);
        let accepted = Example::of(&accepted.await);
        let (private_queue, instance) = (
            accepted.properties["reply_to"].clone(),
            accepted.headers["rpc-instance"].clone(),
        );
        assert!(private_queue.starts_with(&format!("rpc.instance.{instance}.")));
        assert_eq!(self.server.instance_id(), instance);
        let id = accepted.properties["message_id"].clone();
        let name_of_queue = "reply_to".to_owned();
        expected
            .properties
            .insert(name_of_queue, private_queue.clone());
        expected.headers.insert("rpc-instance".to_owned(), instance);
        let expected = expected.of_stream(&id).sent_by_server();
        assert_eq!(accepted, expected, "{name}");
        (private_queue, id)
    }
}

#[tokio::test]
async fn a_server_sends_the_example_stream() {
    let mut server = StreamServer::start().await;
    let (_, id) = server.accepts("count").await;
    let (items, end) = receive_items(&mut server.peer).await;
    let examples = Example::all();
    for (message, name) in [(items, "items count"), (end, "end count")] {
        let expected = examples[name].clone().of_stream(&id).sent_by_server();
        assert_eq!(message, expected, "{name}");
    }
}

#[tokio::test]
async fn a_server_takes_the_example_stream() {
    let mut server = StreamServer::start().await;
    let (private_queue, id) = server.accepts("sum").await;
    let examples = Example::all();
    for name in ["items sum", "end sum"] {
        let message = examples[name].clone().of_stream(&id);
        let properties = message.properties();
        server
            .peer
            .publish(&private_queue, properties, &message.body)
            .await;
    }
    let reply = Example::of(&server.peer.receive().await);
    assert_eq!(reply, examples["reply sum"].clone().sent_by_server());
}

/// A client with streams, and the peers that serve it: one has the request queue, the other the private queue.
struct StreamClient {
    numbers: NumbersClient,
    server: Peer,
    instance: Peer,
    /// The address and the id of the call.
    call: Option<(String, String)>,
}

impl StreamClient {
    async fn start() -> Self {
        let node = shared_node().await;
        let queue = unique_queue("captured");
        let id = &Example::all()["accepted count"].headers["rpc-instance"];
        let private_queue = unique_queue(&format!("rpc.instance.{id}."));
        let connection = Connection::builder(node.url()).name("billing");
        let connection = connection.open().await.unwrap();
        Self {
            numbers: NumbersClient::new(connection.client()).with_queue(&queue),
            server: Peer::serving(node, &queue).await,
            instance: Peer::serving(node, &private_queue).await,
            call: None,
        }
    }

    /// Receives the example request, and sends the example acceptance.
    async fn accept(&mut self, name: &str) {
        let request = Example::of(&self.server.receive().await);
        let expected = Example::all()[&format!("request {name}")].clone();
        assert_eq!(request.clone().timeless(), expected.timeless(), "{name}");
        let property = |name: &str| request.properties[name].clone();
        self.call = Some((property("reply_to"), property("correlation_id")));
        self.send(&format!("accepted {name}")).await;
    }

    /// Sends an example message to the client.
    async fn send(&self, name: &str) {
        self.publish(Example::all()[name].clone()).await;
    }

    async fn publish(&self, message: Example) {
        let (reply_to, id) = self.call.as_ref().expect("a call");
        let message = message.of_call(id);
        let mut properties = message.properties();
        if message.properties["type"] == "accepted" {
            properties = properties.with_reply_to(self.instance.queue.as_str().into());
        }
        self.server
            .publish(reply_to, properties, &message.body)
            .await;
    }

    /// Returns an example message as the client has to send it.
    fn expected(&self, name: &str) -> Example {
        let (_, id) = self.call.as_ref().expect("a call");
        Example::all()[name].clone().of_call(id)
    }
}

#[tokio::test]
async fn a_client_opens_the_example_stream_and_reads_its_items() {
    let mut peers = StreamClient::start().await;
    let opening = tokio::spawn(peers.numbers.count(3).into_future());
    peers.accept("count").await;
    let mut items = opening.await.unwrap().unwrap();
    for name in ["items count", "end count"] {
        peers.send(name).await;
    }
    for number in 0..3 {
        assert_eq!(items.next().await.unwrap().unwrap(), number);
    }
    assert!(items.next().await.is_none());
}

#[tokio::test]
async fn a_client_sends_the_example_stream_and_decodes_the_reply() {
    let mut peers = StreamClient::start().await;
    let numbers = stream::iter([7, 200]);
    let sum = tokio::spawn(peers.numbers.sum(numbers).into_future());
    peers.accept("sum").await;
    let (items, end) = receive_items(&mut peers.instance).await;
    assert_eq!(items, peers.expected("items sum"));
    assert_eq!(end, peers.expected("end sum"));
    peers.send("reply sum").await;
    assert_eq!(sum.await.unwrap().unwrap(), 207);
}

/// Half of the default window was read.
#[tokio::test]
async fn a_client_gives_the_example_credit() {
    let mut peers = StreamClient::start().await;
    let opening = tokio::spawn(peers.numbers.count(3).into_future());
    peers.accept("count").await;
    let mut items = opening.await.unwrap().unwrap();
    let mut message = Example::all()["items count"].clone();
    message.body = message.body.repeat(100);
    peers.publish(message.clone()).await;
    message
        .headers
        .insert("rpc-sequence".to_owned(), "300".to_owned());
    message.body = [0, 0, 0, 1, 7].repeat(212);
    peers.publish(message).await;
    for _ in 0..512 {
        items.next().await.unwrap().unwrap();
    }
    let credit = Example::of(&peers.instance.receive().await);
    assert_eq!(credit, peers.expected("credit"));
}
