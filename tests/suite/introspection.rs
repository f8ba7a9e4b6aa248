//! Questions to instances and calls to all instances, as messages that are written by hand.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use rpc_core::instances::{InstanceInfo, InstanceStats, ServiceInfo};
use rpc_core::testing::{Peer, PeerMessage};
use rpc_core::{Connection, HeaderValue, Headers, Health, Request, Server, ServerHandle, rpc};
use rpc_tests::{eventually, unique_queue};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tower::util::MapRequestLayer;

use super::{LONG, Probe, SampleDispatcher, Setup, of_method, serve, start};
use crate::broker;

const MESSAGE_PACK: &str = "application/msgpack";
const JSON: &str = "application/json";

fn encode<T: Serialize>(value: &T, content_type: &str) -> Vec<u8> {
    if content_type == JSON {
        return serde_json::to_vec(value).unwrap();
    }
    let mut bytes = Vec::new();
    let mut serializer = rmp_serde::Serializer::new(&mut bytes)
        .with_struct_map()
        .with_human_readable();
    value.serialize(&mut serializer).unwrap();
    bytes
}

/// The value of a result.
fn decode<T: DeserializeOwned>(reply: &PeerMessage) -> T {
    assert_eq!(reply.kind.as_deref(), Some("result"), "{reply:?}");
    if reply.content_type.as_deref() == Some(JSON) {
        return serde_json::from_slice(&reply.body).unwrap();
    }
    let mut deserializer =
        rmp_serde::Deserializer::from_read_ref(&reply.body).with_human_readable();
    T::deserialize(&mut deserializer).unwrap()
}

/// The code of a fault in JSON.
fn fault(reply: &PeerMessage) -> String {
    assert_eq!(reply.kind.as_deref(), Some("fault"), "{reply:?}");
    let fault: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
    fault["code"].as_str().unwrap().to_owned()
}

/// The id of the instance that replied.
fn instance(reply: &PeerMessage) -> Option<&str> {
    reply.headers.get_as("rpc-instance")
}

fn unix_millis() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    i64::try_from(now.unwrap().as_millis()).unwrap()
}

/// A message with a deadline in a minute.
fn message(kind: &str, id: &str, body: &impl Serialize) -> PeerMessage {
    PeerMessage {
        kind: Some(kind.to_owned()),
        content_type: Some(JSON.to_owned()),
        correlation_id: Some(id.to_owned()),
        deadline: Some(unix_millis() + 60_000),
        body: encode(body, JSON).into(),
        ..PeerMessage::default()
    }
}

fn question(kind: &str, id: &str) -> PeerMessage {
    message(kind, id, &serde_json::json!({}))
}

/// A peer that asks and calls, with its reply queue.
struct Caller {
    peer: Peer,
    queue: String,
}

impl Caller {
    async fn open(connection: &Connection) -> Self {
        let queue = unique_queue("peer");
        let peer = Peer::open(connection, &queue, &[]).await.unwrap();
        Self { peer, queue }
    }

    /// Adds the reply queue to a message that has a correlation id and no reply queue.
    fn replying(&self, mut message: PeerMessage) -> PeerMessage {
        if message.reply_to.is_none() && message.correlation_id.is_some() {
            message.reply_to = Some(self.queue.clone());
        }
        message
    }

    async fn publish(&self, queue: &str, message: PeerMessage) {
        let message = self.replying(message);
        self.peer.publish(queue, message).await.unwrap();
    }

    /// Returns `false` if no queue is bound to the topic.
    async fn publish_to_topic(&self, topic: &str, message: PeerMessage) -> bool {
        let message = self.replying(message);
        self.peer.publish_to_topic(topic, message).await.is_ok()
    }

    async fn receive(&mut self) -> PeerMessage {
        tokio::time::timeout(LONG, self.peer.next())
            .await
            .expect("a message in time")
            .expect("an open channel")
    }
}

/// The answers of these servers. Other tests have servers of the same services on the same broker.
async fn answers_of<const N: usize>(
    peer: &mut Caller,
    servers: [&ServerHandle; N],
) -> [PeerMessage; N] {
    let mut answers = [(); N].map(|()| None);
    while answers.iter().any(Option::is_none) {
        let answer = peer.receive().await;
        let mut servers = servers.iter();
        if let Some(index) =
            servers.position(|server| instance(&answer) == Some(server.instance_id()))
        {
            assert!(answers[index].is_none(), "a second answer: {answer:?}");
            answers[index] = Some(answer);
        }
    }
    answers.map(Option::unwrap)
}

/// The next message with a correlation id. Other servers of the service answer the questions to a topic, too.
async fn of_call(peer: &mut Caller, id: &str) -> PeerMessage {
    loop {
        let message = peer.receive().await;
        if message.correlation_id.as_deref() == Some(id) {
            return message;
        }
    }
}

/// Asks through a queue and waits for the answer.
async fn ask(peer: &mut Caller, queue: &str, question: PeerMessage) -> PeerMessage {
    let id = question.correlation_id.clone().expect("a correlation id");
    peer.publish(queue, question).await;
    of_call(peer, &id).await
}

/// The name of the private queue of the instance that serves a queue.
async fn private_queue(peer: &mut Caller, queue: &str) -> String {
    let answer = ask(peer, queue, question("rpc.ping", "whose")).await;
    answer.reply_to.expect("the name of the private queue")
}

async fn stats(peer: &mut Caller, queue: &str) -> InstanceStats {
    let answer = ask(peer, queue, question("rpc.stats", "stats")).await;
    let [stats] = decode::<[InstanceStats; 1]>(&answer);
    stats
}

#[tokio::test]
async fn every_instance_of_a_service_answers_in_the_format_of_the_question() {
    let broker = broker().await;
    let setup = broker.sample().await;
    let other = broker.connect().await;
    let second = serve(&other, &setup.queue, &setup.probe, |server| server).await;
    let mut peer = Caller::open(&setup.connection).await;
    for content_type in [MESSAGE_PACK, JSON] {
        let before = SystemTime::now();
        let ping = PeerMessage {
            content_type: Some(content_type.to_owned()),
            body: encode(&serde_json::json!({}), content_type).into(),
            ..question("rpc.ping", content_type)
        };
        assert!(peer.publish_to_topic("rpc.instances.Sample", ping).await);
        let servers = [&setup.server, &second];
        for (answer, server) in answers_of(&mut peer, servers).await.iter().zip(servers) {
            assert_eq!(answer.correlation_id.as_deref(), Some(content_type));
            assert_eq!(answer.content_type.as_deref(), Some(content_type));
            let own = format!("rpc.instance.{}.", server.instance_id());
            assert!(answer.reply_to.as_ref().unwrap().starts_with(&own));
            let [info] = decode::<[InstanceInfo; 1]>(answer);
            assert_eq!(info.id, server.instance_id());
            assert_eq!((&*info.service, info.protocol), ("Sample", 1));
            assert_eq!(info.queues, [setup.queue.as_str()]);
            assert!(!info.crate_version.is_empty());
            assert!(info.started <= before, "{info:?}");
            assert_eq!(info.round_trip, Duration::ZERO);
        }
        let names = [setup.connection.name(), other.name()];
        assert!(names.iter().all(|name| !name.is_empty()));
    }
}

#[rpc]
trait Pair {
    async fn left();
    #[rpc(queue = "right")]
    async fn right();
}

impl Pair for Probe {
    async fn left(&self) {}
    async fn right(&self) {}
}

#[tokio::test]
async fn an_instance_answers_once_for_each_of_its_services() {
    let connection = broker().await.connect().await;
    let (sample, pair) = (unique_queue("sample"), unique_queue("pair"));
    let prefix = unique_queue("prefix.");
    let server = Server::builder(&connection)
        .service(SampleDispatcher::new(Probe::default()).with_queue(&sample))
        .service(
            PairDispatcher::new(Probe::default())
                .with_queue(&pair)
                .with_queue_prefix(&prefix),
        )
        .build()
        .start()
        .await
        .unwrap();
    let mut peer = Caller::open(&connection).await;
    let ping = question("rpc.ping", "1");
    assert!(peer.publish_to_topic("rpc.instances", ping).await);
    let [answer] = answers_of(&mut peer, [&server]).await;
    let infos: Vec<InstanceInfo> = decode(&answer);
    let services: Vec<&str> = infos.iter().map(|info| &*info.service).collect();
    assert_eq!(services, ["Sample", "Pair"]);
    assert_eq!(infos[0].queues, [sample.as_str()]);
    assert_eq!(infos[1].queues.len(), 2);
    assert!(infos[1].queues.is_sorted(), "{infos:?}");
    let by_name = answer.reply_to.unwrap();

    // One of the services: by its topic, by its queue, and as an argument.
    assert!(
        peer.publish_to_topic("rpc.instances.Pair", question("rpc.ping", "2"))
            .await
    );
    let [by_topic] = answers_of(&mut peer, [&server]).await;
    let by_queue = ask(&mut peer, &infos[1].queues[0], question("rpc.ping", "3")).await;
    let pair = serde_json::json!({"service": "Pair", "later": 1});
    let argument = ask(&mut peer, &by_name, message("rpc.ping", "4", &pair)).await;
    for answer in [by_topic, by_queue, argument] {
        assert_eq!(decode::<Vec<InstanceInfo>>(&answer), infos[1..]);
        assert_eq!(instance(&answer), Some(server.instance_id()));
    }
    let none = serde_json::json!({"service": "Other"});
    let none = ask(&mut peer, &by_name, message("rpc.ping", "5", &none)).await;
    assert_eq!(decode::<Vec<InstanceInfo>>(&none), []);

    let described = ask(&mut peer, &by_name, question("rpc.describe", "6")).await;
    let described: Vec<ServiceInfo> = decode(&described);
    let contracts = |contracts: Vec<(&str, &str)>| {
        contracts
            .iter()
            .map(|(a, b)| format!("{a} {b}"))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        contracts(
            described
                .iter()
                .map(|info| (&*info.name, &*info.contract))
                .collect()
        ),
        contracts(
            infos
                .iter()
                .map(|info| (&*info.service, &*info.contract))
                .collect()
        ),
    );
    let methods: Vec<&str> = described[1]
        .methods
        .iter()
        .map(|method| &*method.name)
        .collect();
    assert_eq!(methods, ["left", "right"]);
}

#[tokio::test]
async fn statistics_count_calls_by_outcome_and_list_those_in_flight() {
    let setup = broker().await.sample().await;
    let mut peer = Caller::open(&setup.connection).await;
    for _ in 0..3 {
        setup.sample.add(1, 2).await.unwrap();
    }
    setup.sample.divide(1, 1).await.unwrap();
    setup.sample.divide(1, 0).await.unwrap_err();
    setup.sample.panic().await.unwrap_err();
    let dropped = tokio::spawn(setup.sample.hold().into_future());
    setup.probe.until_begun(1).await;
    dropped.abort();
    setup.probe.until_dropped(1).await;
    let held = message("hold", "held", &serde_json::json!({}));
    peer.publish(&setup.queue, held).await;
    setup.probe.until_begun(2).await;

    let counted = stats(&mut peer, &setup.queue).await;
    assert_eq!(counted.id, setup.server.instance_id());
    assert_eq!(counted.service, "Sample");
    assert!(counted.since <= SystemTime::now());
    let add = of_method(&counted, "add");
    assert_eq!(
        (add.calls, add.results, add.errors, add.in_flight),
        (3, 3, 0, 0)
    );
    assert!(Duration::ZERO < add.mean && add.mean <= add.max, "{add:?}");
    assert!(
        add.p50 <= add.p90 && add.p90 <= add.p99 && add.p99 <= add.max,
        "{add:?}"
    );
    let divide = of_method(&counted, "divide");
    assert_eq!((divide.calls, divide.results, divide.errors), (2, 1, 1));
    let panic = of_method(&counted, "panic");
    assert_eq!((panic.calls, panic.faults.get("panicked")), (1, Some(&1)));
    let hold = of_method(&counted, "hold");
    assert_eq!(
        (hold.calls, hold.faults.get("cancelled"), hold.in_flight),
        (1, Some(&1), 1)
    );
    let [oldest] = &counted.oldest[..] else {
        panic!("{:?}", counted.oldest);
    };
    assert_eq!(
        (&*oldest.method, oldest.correlation_id.as_deref()),
        ("hold", Some("held"))
    );

    setup.probe.release(1);
    assert_eq!(peer.receive().await.correlation_id.as_deref(), Some("held"));
    let counted = stats(&mut peer, &setup.queue).await;
    assert_eq!(of_method(&counted, "hold").in_flight, 0);
    assert!(counted.oldest.is_empty());
}

#[tokio::test]
async fn questions_reach_neither_layers_nor_statistics() {
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = seen.clone();
    let layer = MapRequestLayer::new(move |request: Request| {
        counter.fetch_add(1, Ordering::SeqCst);
        request
    });
    let setup = broker()
        .await
        .sample_with(|server| server.layer(layer))
        .await;
    let mut peer = Caller::open(&setup.connection).await;
    for kind in ["rpc.ping", "rpc.describe", "rpc.stats", "rpc.later"] {
        ask(&mut peer, &setup.queue, question(kind, kind)).await;
    }
    assert_eq!(seen.load(Ordering::SeqCst), 0);
    setup.sample.add(1, 2).await.unwrap();
    assert_eq!(seen.load(Ordering::SeqCst), 1);
    let counted = stats(&mut peer, &setup.queue).await;
    let calls: u64 = counted.methods.iter().map(|method| method.calls).sum();
    assert_eq!(calls, 1);
    assert_eq!(setup.server.refused_requests(), 0);
}

#[tokio::test]
async fn questions_that_cannot_be_answered_get_a_fault() {
    let setup = broker().await.sample().await;
    let mut peer = Caller::open(&setup.connection).await;
    let private = private_queue(&mut peer, &setup.queue).await;
    for queue in [&setup.queue, &private] {
        let unknown = question("rpc.later", "1");
        let list = message("rpc.ping", "2", &[1, 2]);
        let number = message("rpc.stats", "3", &serde_json::json!({"service": 7}));
        let mut text = question("rpc.ping", "4");
        text.content_type = Some("text/xml".to_owned());
        for (question, code) in [
            (unknown, "unknown_method"),
            (list, "bad_request"),
            (number, "bad_request"),
            (text, "unsupported_content_type"),
        ] {
            let answer = ask(&mut peer, queue, question).await;
            assert_eq!(fault(&answer), code);
            assert_eq!(instance(&answer), Some(setup.server.instance_id()));
        }
    }
}

#[tokio::test]
async fn questions_for_calls_that_can_open_no_stream_get_a_fault() {
    let setup = broker().await.sample_with(|server| server.tap(true)).await;
    let mut peer = Caller::open(&setup.connection).await;
    let private = private_queue(&mut peer, &setup.queue).await;
    let tap = |id, body: serde_json::Value| {
        let mut question = message("rpc.tap", id, &body);
        question.headers.insert("rpc-items", 10);
        question.headers.insert("rpc-bytes", 10_000);
        question.headers.insert("rpc-silence", 10_000);
        question
    };
    let sample = serde_json::json!({"service": "Sample"});
    let mut without_terms = tap("1", sample.clone());
    without_terms.headers.remove("rpc-bytes");
    let other = tap("2", serde_json::json!({"service": "Other"}));
    let malformed = tap(
        "3",
        serde_json::json!({"service": "Sample", "outcome": "unknown"}),
    );
    for (question, reason) in [
        (without_terms, "lacks one of the headers"),
        (other, "does not serve 'Other'"),
        (malformed, "cannot be read"),
    ] {
        let answer = ask(&mut peer, &private, question).await;
        assert_eq!(fault(&answer), "bad_request");
        let body = String::from_utf8_lossy(&answer.body);
        assert!(body.contains(reason), "{body}");
    }
    // Several instances would answer with one correlation id.
    let answer = ask(&mut peer, &setup.queue, tap("4", sample.clone())).await;
    assert_eq!(fault(&answer), "bad_request");
    peer.publish_to_topic("rpc.instances.Sample", tap("5", sample.clone()))
        .await;
    let [answer] = answers_of(&mut peer, [&setup.server]).await;
    assert_eq!(fault(&answer), "bad_request");
    // The events have the format of the question.
    peer.publish(&private, tap("6", sample)).await;
    let accepted = of_call(&mut peer, "6").await;
    assert_eq!(accepted.kind.as_deref(), Some("accepted"));
    setup.sample.add(1, 2).await.unwrap();
    let items = of_call(&mut peer, "6").await;
    assert_eq!(items.kind.as_deref(), Some("items"));
    assert_eq!(items.message_id, accepted.message_id);
    let event: serde_json::Value = serde_json::Deserializer::from_slice(&items.body[4..])
        .into_iter()
        .next()
        .unwrap()
        .unwrap();
    assert_eq!(event["call"]["method"], "add");
    assert_eq!(event["kind"]["Request"]["queue"], setup.queue.as_str());
}

#[tokio::test]
async fn questions_that_no_caller_waits_for_are_not_answered() {
    let setup = broker().await.sample().await;
    let mut peer = Caller::open(&setup.connection).await;
    let private = private_queue(&mut peer, &setup.queue).await;
    for queue in [&setup.queue, &private] {
        let expired = PeerMessage {
            deadline: Some(unix_millis() - 60_000),
            ..question("rpc.ping", "expired")
        };
        let without_reply = PeerMessage {
            correlation_id: None,
            ..question("rpc.ping", "")
        };
        let large = message("rpc.ping", "large", &"x".repeat(5_000));
        peer.publish(queue, expired).await;
        peer.publish(queue, without_reply).await;
        if queue == &private {
            peer.publish(queue, large).await;
        }
        // One server answers the questions of a queue in their order.
        ask(&mut peer, queue, question("rpc.ping", "last")).await;
    }
    assert_eq!(setup.server.dropped_questions(), 1);
}

#[tokio::test]
async fn answers_respect_the_reply_policy() {
    let setup = broker()
        .await
        .sample_with(|server| server.reply_policy(|queue| queue.starts_with("peer")))
        .await;
    let mut peer = Caller::open(&setup.connection).await;
    let mut stranger = Caller::open(&setup.connection).await;
    let private = private_queue(&mut peer, &setup.queue).await;
    let mut refused = 0;
    for queue in [&setup.queue, &private] {
        for reply_to in ["rpc.reply.other", &setup.queue, &private] {
            let question = PeerMessage {
                reply_to: Some(reply_to.to_owned()),
                ..question("rpc.ping", "refused")
            };
            stranger.publish(queue, question).await;
            refused += 1;
        }
        ask(&mut stranger, queue, question("rpc.ping", "allowed")).await;
        assert_eq!(setup.server.refused_requests(), refused);
    }
}

#[rpc]
trait Silent {
    async fn one() -> u64;
}

impl Silent for Probe {
    async fn one(&self) -> u64 {
        1
    }
}

#[tokio::test]
async fn a_server_may_switch_introspection_off() {
    let connection = broker().await.connect().await;
    let queue = unique_queue("silent");
    let server = Server::builder(&connection)
        .service(SilentDispatcher::new(Probe::default()).with_queue(&queue))
        .introspection(false)
        .build()
        .start()
        .await
        .unwrap();
    let mut peer = Caller::open(&connection).await;
    let ping = question("rpc.ping", "1");
    assert!(!peer.publish_to_topic("rpc.instances.Silent", ping).await);
    let answer = ask(&mut peer, &queue, question("rpc.stats", "2")).await;
    assert_eq!(fault(&answer), "permission_denied");
    assert_eq!(
        (answer.reply_to.as_deref(), instance(&answer)),
        (None, None)
    );
    // A call to all instances comes through the private queue.
    let call = message("one", "4", &serde_json::json!({}));
    assert!(
        peer.publish_to_topic(&format!("rpc.all.{queue}"), call)
            .await
    );
    let reply = peer.receive().await;
    assert_eq!(reply.correlation_id.as_deref(), Some("4"));
    assert_eq!(decode::<u64>(&reply), 1);
    assert_eq!(instance(&reply), Some(server.instance_id()));
}

#[tokio::test]
async fn a_flood_of_questions_is_limited_and_calls_go_on() {
    const QUESTIONS: u64 = 2_000;
    let setup = broker().await.sample().await;
    let mut peer = Caller::open(&setup.connection).await;
    let private = private_queue(&mut peer, &setup.queue).await;
    for number in 0..QUESTIONS {
        let question = question("rpc.ping", &number.to_string());
        peer.publish(&private, question).await;
    }
    assert_eq!(setup.sample.add(1, 2).await.unwrap(), 3);
    let mut answered = 0;
    while answered + setup.server.dropped_questions() < QUESTIONS {
        if tokio::time::timeout(Duration::from_millis(200), peer.peer.next())
            .await
            .is_ok()
        {
            answered += 1;
        }
    }
    assert!(answered >= 1 && setup.server.dropped_questions() >= 1);

    // Through the request queue every question has an answer.
    for number in 0..QUESTIONS {
        let question = question("rpc.ping", &number.to_string());
        peer.publish(&setup.queue, question).await;
    }
    let mut overloaded = 0;
    for _ in 0..QUESTIONS {
        let answer = peer.receive().await;
        if answer.kind.as_deref() == Some("fault") {
            assert_eq!(fault(&answer), "overloaded");
            overloaded += 1;
        }
    }
    assert!(overloaded >= 1);
    assert_eq!(setup.sample.add(1, 2).await.unwrap(), 3);
}

/// A call to all servers of a queue.
async fn call_all(peer: &Caller, queue: &str, call: PeerMessage) {
    assert!(
        peer.publish_to_topic(&format!("rpc.all.{queue}"), call)
            .await
    );
}

fn add(id: &str) -> PeerMessage {
    message("add", id, &serde_json::json!({"a": 1, "b": 2}))
}

fn hold(id: &str) -> PeerMessage {
    message("hold", id, &serde_json::json!({}))
}

#[tokio::test]
async fn a_second_copy_of_a_call_to_all_instances_does_not_run() {
    let setup = broker().await.sample().await;
    let mut peer = Caller::open(&setup.connection).await;
    let number = message("number", "1", &serde_json::json!({"n": 7}));
    call_all(&peer, &setup.queue, number.clone()).await;
    call_all(&peer, &setup.queue, number).await;
    answers_of(&mut peer, [&setup.server]).await;
    // Later calls run.
    call_all(&peer, &setup.queue, add("2")).await;
    let [reply] = answers_of(&mut peer, [&setup.server]).await;
    assert_eq!(reply.correlation_id.as_deref(), Some("2"));
    assert_eq!(decode::<u64>(&reply), 3);
    assert_eq!(setup.probe.numbers(), [7]);
}

#[tokio::test]
async fn a_call_to_all_instances_is_like_any_other_call() {
    let setup = broker().await.sample().await;
    let mut peer = Caller::open(&setup.connection).await;
    let mut codes = Vec::new();
    for call in [
        message("panic", "1", &serde_json::json!({})),
        message("missing", "2", &serde_json::json!({})),
        message("add", "3", &serde_json::json!({"a": "x"})),
        PeerMessage {
            deadline: Some(unix_millis() - 60_000),
            ..add("4")
        },
        PeerMessage {
            content_type: Some("application/vnd.rpc-batch+msgpack".to_owned()),
            ..add("5")
        },
    ] {
        call_all(&peer, &setup.queue, call).await;
        let [reply] = answers_of(&mut peer, [&setup.server]).await;
        codes.push(fault(&reply));
    }
    assert_eq!(
        codes,
        [
            "panicked",
            "unknown_method",
            "bad_request",
            "deadline_exceeded",
            "unsupported_content_type"
        ]
    );
    let divide = serde_json::json!({"dividend": 1, "divisor": 0});
    call_all(&peer, &setup.queue, message("divide", "6", &divide)).await;
    let [error] = answers_of(&mut peer, [&setup.server]).await;
    assert_eq!(error.kind.as_deref(), Some("error"));
    // A question is no call.
    call_all(&peer, &setup.queue, question("rpc.ping", "7")).await;
    // An `at_most_once` method runs too.
    setup.probe.release(1);
    call_all(
        &peer,
        &setup.queue,
        message("hold_once", "8", &serde_json::json!({})),
    )
    .await;
    let [once] = answers_of(&mut peer, [&setup.server]).await;
    assert_eq!(once.correlation_id.as_deref(), Some("8"));
    assert_eq!(decode::<usize>(&once), 1);
    let counted = stats(&mut peer, &setup.queue).await;
    assert_eq!(of_method(&counted, "divide").errors, 1);
    assert_eq!(of_method(&counted, "add").faults.values().sum::<u64>(), 3);
}

#[tokio::test]
async fn forged_delivery_counts_of_a_call_to_all_instances_are_ignored() {
    let setup = broker().await.sample().await;
    let mut peer = Caller::open(&setup.connection).await;
    setup.probe.release(2);
    for (id, method) in [("1", "hold"), ("2", "hold_once")] {
        let mut headers = Headers::new();
        for name in ["rpc-delivery-count", "x-delivery-count"] {
            headers.insert(name, HeaderValue::Int(9));
        }
        let call = PeerMessage {
            headers,
            ..message(method, id, &serde_json::json!({}))
        };
        call_all(&peer, &setup.queue, call).await;
        let [reply] = answers_of(&mut peer, [&setup.server]).await;
        decode::<usize>(&reply);
    }
    assert_eq!(setup.probe.deliveries(), [0, 0]);
    assert_eq!(setup.probe.redelivered(), 0);
}

#[tokio::test]
async fn a_call_to_all_instances_without_a_correlation_id_does_not_run() {
    let setup = broker().await.sample().await;
    let mut peer = Caller::open(&setup.connection).await;
    let anonymous = PeerMessage {
        correlation_id: None,
        reply_to: Some(peer.queue.clone()),
        ..message("number", "", &serde_json::json!({"n": 1}))
    };
    call_all(&peer, &setup.queue, anonymous).await;
    call_all(&peer, &setup.queue, add("1")).await;
    let [reply] = answers_of(&mut peer, [&setup.server]).await;
    assert_eq!(reply.correlation_id.as_deref(), Some("1"));
    assert!(setup.probe.numbers().is_empty());
}

#[tokio::test]
async fn a_notice_stops_a_call_to_all_instances() {
    let broker = broker().await;
    let setup = broker.sample().await;
    let _second = serve(&setup.connection, &setup.queue, &setup.probe, |server| {
        server
    })
    .await;
    let peer = Caller::open(&setup.connection).await;
    call_all(&peer, &setup.queue, hold("1")).await;
    setup.probe.until_begun(2).await;
    let notice = PeerMessage {
        reply_to: Some(peer.queue.clone()),
        content_type: Some(MESSAGE_PACK.to_owned()),
        correlation_id: None,
        body: encode(&["1"], MESSAGE_PACK).into(),
        ..question("cancel", "")
    };
    assert!(
        peer.publish_to_topic(&format!("rpc.cancel.{}", setup.queue), notice)
            .await
    );
    setup.probe.until_dropped(2).await;
}

#[tokio::test]
async fn calls_to_all_instances_have_limits_like_those_of_a_queue() {
    const CALLS: usize = 200;
    let setup = broker()
        .await
        .sample_with(|server| server.prefetch(1))
        .await;
    let mut peer = Caller::open(&setup.connection).await;
    for number in 0..CALLS {
        call_all(&peer, &setup.queue, hold(&number.to_string())).await;
    }
    setup.probe.until_begun(1).await;
    // The request queue has places of its own.
    assert_eq!(setup.sample.add(1, 2).await.unwrap(), 3);
    // One runs, 64 wait for it, and 64 may be on their way to the delivery loop.
    let dropped = || usize::try_from(setup.server.dropped_questions()).unwrap();
    eventually("calls are dropped", async || {
        (dropped() >= CALLS - 129).then_some(())
    })
    .await;
    setup.probe.release(CALLS);
    let mut answered = BTreeSet::new();
    while answered.len() + dropped() < CALLS {
        let next = tokio::time::timeout(Duration::from_millis(200), peer.peer.next());
        if let Ok(reply) = next.await {
            let reply = reply.expect("an open channel");
            decode::<usize>(&reply);
            assert!(answered.insert(reply.correlation_id.unwrap()));
        }
    }
    assert!((65..=129).contains(&answered.len()), "{}", answered.len());
    assert_eq!(setup.probe.begun(), answered.len());
    assert_eq!(setup.probe.most_running(), 1);
}

#[tokio::test]
async fn calls_to_all_instances_count_against_the_concurrency() {
    let setup = broker()
        .await
        .sample_with(|server| server.concurrency(1))
        .await;
    let mut peer = Caller::open(&setup.connection).await;
    let held = tokio::spawn(setup.sample.hold().into_future());
    setup.probe.until_begun(1).await;
    call_all(&peer, &setup.queue, hold("1")).await;
    let behind = tokio::spawn(setup.sample.hold().into_future());
    setup.probe.release(3);
    let [reply] = answers_of(&mut peer, [&setup.server]).await;
    decode::<usize>(&reply);
    held.await.unwrap().unwrap();
    behind.await.unwrap().unwrap();
    assert_eq!(setup.probe.most_running(), 1);
}

#[tokio::test]
async fn a_draining_server_answers_questions() {
    let setup = broker().await.sample().await;
    let mut peer = Caller::open(&setup.connection).await;
    let private = private_queue(&mut peer, &setup.queue).await;
    let mut health = setup.server.health();
    let id = setup.server.instance_id().to_owned();
    call_all(&peer, &setup.queue, hold("1")).await;
    setup.probe.until_begun(1).await;
    let stopping = tokio::spawn(setup.server.shutdown());
    assert_eq!(health.changed().await, Some(Health::Draining));
    let answer = ask(&mut peer, &private, question("rpc.stats", "2")).await;
    assert_eq!(instance(&answer), Some(&*id));
    let stats: Vec<InstanceStats> = decode(&answer);
    assert_eq!(stats[0].oldest.len(), 1);
    setup.probe.release(1);
    stopping.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_stopping_server_drops_calls_to_all_instances_that_have_not_started() {
    let setup = broker()
        .await
        .sample_with(|server| server.prefetch(1))
        .await;
    let Setup {
        probe,
        queue,
        connection,
        server,
        ..
    } = setup;
    let mut peer = Caller::open(&connection).await;
    for id in ["1", "2"] {
        call_all(&peer, &queue, hold(id)).await;
    }
    probe.until_begun(1).await;
    let mut health = server.health();
    let stopping = tokio::spawn(server.shutdown());
    // From now on the server starts nothing.
    assert_eq!(health.changed().await, Some(Health::Draining));
    probe.release(2);
    stopping.await.unwrap().unwrap();
    assert_eq!(peer.receive().await.correlation_id.as_deref(), Some("1"));
    assert_eq!(probe.begun(), 1);
    // Another server has a private queue of its own, without the old calls.
    let server = start(
        &connection,
        SampleDispatcher::new(probe.clone()).with_queue(&queue),
    )
    .await;
    call_all(&peer, &queue, add("3")).await;
    let [reply] = answers_of(&mut peer, [&server]).await;
    assert_eq!(reply.correlation_id.as_deref(), Some("3"));
    assert_eq!(probe.begun(), 1);
}
