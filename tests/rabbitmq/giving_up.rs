//! Requests that are given up or published again, and the limits of both.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lapin::BasicProperties;
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use rpc_core::{
    Connection, ConnectionState, QueueOptions, ServeError, Server, ServerBuilder, ServerHandle,
};
use rpc_tests::broker::{Node, shared_node};
use rpc_tests::hostile;
use rpc_tests::{eventually, unique_queue};
use tracing::field::{Field, Visit};
use tracing::subscriber::{DefaultGuard, set_default};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::{Layer, Registry};

use super::peer::{Peer, parts};
use super::{Abacus, AdderClient, AdderDispatcher, serve};

async fn serve_with(
    connection: &Connection,
    queue: &str,
    options: impl FnOnce(ServerBuilder) -> ServerBuilder,
) -> ServerHandle {
    let dispatcher = AdderDispatcher::new(Abacus::default()).with_queue(queue);
    options(Server::builder(connection).service(dispatcher))
        .build()
        .start()
        .await
        .unwrap()
}

fn adder(connection: &Connection, queue: &str) -> AdderClient {
    AdderClient::new(connection.client()).with_queue(queue)
}

fn table<const N: usize>(headers: [(&str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in headers {
        table.insert(name.into(), value);
    }
    table
}

/// A request with a delivery count in its header.
fn delivered(times: i32, method: &str) -> BasicProperties {
    let headers = table([("rpc-delivery-count", AMQPValue::LongInt(times))]);
    request(method).with_headers(headers)
}

fn request(method: &str) -> BasicProperties {
    BasicProperties::default()
        .with_type(method.into())
        .with_content_type("application/json".into())
}

/// Waits until a queue holds that many messages and no further message is on its way.
async fn until_kept(node: &Node, queue: &str, messages: u64) {
    eventually("the messages are in the queue", async || {
        let census = node.census().await?.queues;
        let count = |name: &str| {
            let found = census.iter().find(|counted| counted.name == name);
            found.map_or(0, |counted| counted.ready + counted.unacknowledged)
        };
        let source = queue.strip_suffix(".dead")?;
        (count(queue) == messages && count(source) == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn requests_given_up_together_are_all_kept() {
    let node = shared_node().await;
    let connection = Connection::open(&node.url()).await.unwrap();
    for (requests, id) in [(64, None), (64, Some("the same")), (500, None)] {
        let queue = unique_queue("together");
        let sender = Peer::serving(node, &queue).await;
        // Reads the messages once all of them are in the queue.
        sender
            .channel
            .basic_cancel("peer".into(), lapin::options::BasicCancelOptions::default())
            .await
            .unwrap();
        for n in 0..requests {
            let properties = match id {
                None => delivered(3, "add"),
                Some(id) => delivered(3, "add").with_correlation_id(id.into()),
            };
            sender
                .publish(&queue, properties, n.to_string().as_bytes())
                .await;
        }
        let _server = serve_with(&connection, &queue, |server| server.prefetch(500)).await;
        let dead = format!("{queue}.dead");
        eventually("all requests are given up", async || {
            let census = node.census().await?.queues;
            let source = census.iter().find(|counted| counted.name == queue)?;
            (source.ready + source.unacknowledged == 0).then_some(())
        })
        .await;
        let mut operator = Peer::serving(node, &dead).await;
        let mut kept = Vec::new();
        for _ in 0..requests {
            let letter = operator.receive().await;
            kept.push(parts(&letter).1.parse::<u64>().unwrap());
        }
        kept.sort_unstable();
        assert_eq!(kept, (0..requests).collect::<Vec<u64>>());
        assert_eq!(node.queue(&dead).await.unwrap().messages, 0);
    }
}

#[tokio::test]
async fn requests_with_the_largest_headers_can_be_republished() {
    let node = shared_node().await;
    let connection = Connection::open(&node.url()).await.unwrap();
    let mut state = connection.state();
    let queue = unique_queue("fits");
    let _server = serve(&connection, &queue).await;
    let mut peer = Peer::with_queue(node).await;
    for (times, outcome) in [(2, "result"), (3, "fault")] {
        let headers = table([
            ("rpc-delivery-count", AMQPValue::LongInt(times)),
            ("long", AMQPValue::LongString("x".repeat(130_850).into())),
            ("small", AMQPValue::Boolean(true)),
        ]);
        let properties = request("add").with_headers(headers);
        let reply = peer.call(&queue, properties, br#"{"a":1,"b":2}"#).await;
        assert_eq!(parts(&reply).0, outcome, "{:?}", parts(&reply));
    }
    let mut operator = Peer::serving(node, &format!("{queue}.dead")).await;
    let letter = operator.receive().await;
    let headers = letter.properties.headers().as_ref().unwrap().inner();
    assert_eq!(headers["small"], AMQPValue::Boolean(true));
    let dropped = vec![AMQPValue::LongString("long".into())];
    assert_eq!(
        headers["rpc-headers-dropped"],
        AMQPValue::FieldArray(dropped.into())
    );
    assert_eq!(state.current(), ConnectionState::Connected);
    let changed = tokio::time::timeout(Duration::ZERO, state.changed()).await;
    assert!(changed.is_err(), "the connection was lost: {changed:?}");
}

#[tokio::test]
async fn headers_that_grow_by_republishing_delay_no_other_call() {
    let node = shared_node().await;
    let connection = Connection::open(&node.url()).await.unwrap();
    let queue = unique_queue("grows");
    let _server = serve(&connection, &queue).await;
    let adder = adder(&connection, &queue);
    let mut peer = Peer::with_queue(node).await;
    let numbers = vec![AMQPValue::ShortShortInt(1); 58_000];
    let names = (0..7_800).map(|n| AMQPValue::LongString(format!("name-{n:05}").into()));
    let names = names.collect::<Vec<_>>();
    for (name, list) in [("numbers", numbers), ("rpc-propagate", names)] {
        for times in [2, 3] {
            let headers = table([
                ("rpc-delivery-count", AMQPValue::LongInt(times)),
                (name, AMQPValue::FieldArray(list.clone().into())),
            ]);
            let properties = request("add").with_headers(headers);
            // The server may refuse this request.
            peer.call(&queue, properties, br#"{"a":1,"b":2}"#).await;
            assert_eq!(adder.add(1, 2).await.unwrap(), 3);
        }
    }
}

#[tokio::test]
async fn headers_that_the_broker_interprets_are_not_republished() {
    let node = shared_node().await;
    let connection = Connection::open(&node.url()).await.unwrap();
    let queue = unique_queue("obedient");
    let _server = serve(&connection, &queue).await;
    let mut spy = Peer::with_queue(node).await;
    let mut peer = Peer::with_queue(node).await;
    let spied =
        AMQPValue::FieldArray(vec![AMQPValue::LongString(spy.queue.as_str().into())].into());
    let headers = table([
        ("rpc-delivery-count", AMQPValue::LongInt(2)),
        ("CC", spied),
        ("x-death", AMQPValue::Boolean(true)),
    ]);
    let properties = request("add").with_headers(headers);
    let reply = peer.call(&queue, properties, br#"{"a":1,"b":2}"#).await;
    assert_eq!(parts(&reply), ("result", "3"));
    // The one copy comes from the peer's own request.
    spy.receive().await;
    peer.publish(&spy.queue, request("last"), b"").await;
    let last = spy.receive().await;
    assert_eq!(last.properties.kind().as_ref().unwrap().as_str(), "last");
}

#[tokio::test]
async fn a_dead_letter_queue_that_refuses_all_delays_no_other_call() {
    let node = shared_node().await;
    let connection = Connection::open(&node.url()).await.unwrap();
    let queue = unique_queue("refused");
    let dead = format!("{queue}.dead");
    let mut peer = Peer::with_queue(node).await;
    let durable = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    let full = table([
        ("x-max-length", AMQPValue::LongInt(0)),
        ("x-overflow", AMQPValue::LongString("reject-publish".into())),
    ]);
    peer.channel
        .queue_declare(dead.as_str().into(), durable, full)
        .await
        .unwrap();
    let _server = serve(&connection, &queue).await;
    for _ in 0..200 {
        peer.request(&queue, delivered(3, "add"), b"{}").await;
    }
    for _ in 0..200 {
        let fault = peer.receive().await;
        assert_eq!(parts(&fault).0, "fault");
        assert!(parts(&fault).1.contains("dropped"), "{:?}", parts(&fault));
    }
    assert_eq!(adder(&connection, &queue).add(1, 2).await.unwrap(), 3);
    until_kept(node, &dead, 0).await;
}

#[tokio::test]
async fn a_deleted_dead_letter_queue_is_declared_again() {
    let node = shared_node().await;
    let connection = Connection::open(&node.url()).await.unwrap();
    let queue = unique_queue("otherwise");
    let dead = format!("{queue}.dead");
    let peer = Peer::with_queue(node).await;
    let _server = serve(&connection, &queue).await;
    peer.publish(&queue, delivered(3, "add"), b"{}").await;
    until_kept(node, &dead, 1).await;
    peer.channel
        .queue_delete(
            dead.as_str().into(),
            lapin::options::QueueDeleteOptions::default(),
        )
        .await
        .unwrap();
    // The server declares a deleted queue again.
    peer.publish(&queue, delivered(3, "add"), b"{}").await;
    until_kept(node, &dead, 1).await;
}

#[tokio::test]
async fn a_server_without_permission_to_publish_resumes_once_it_is_granted() {
    let node = Node::start().await;
    node.ctl(&["add_user", "limited", "secret"]).await;
    let all_but_the_default_exchange = r"^(?!amq\.default$).*";
    let permit = async |write: &str| {
        node.ctl(&["set_permissions", "limited", ".*", write, ".*"])
            .await;
    };
    permit(all_but_the_default_exchange).await;
    let log = Log::default();
    let _logging = log.keep();
    let serving = Connection::open(&node.url_with("limited", "secret", "%2f"))
        .await
        .unwrap();
    let calling = Connection::open(&node.url()).await.unwrap();
    let queue = unique_queue("limited");
    let _server = serve_with(&serving, &queue, |server| server.prefetch(1)).await;
    let adder = adder(&calling, &queue);
    let call = tokio::spawn(
        adder
            .add(1, 2)
            .timeout(Duration::from_secs(60))
            .into_future(),
    );
    eventually("the log names the missing permission", async || {
        let told = log.text();
        (told.contains("ACCESS_REFUSED") && told.contains("amq.default")).then_some(())
    })
    .await;
    permit(".*").await;
    assert_eq!(call.await.unwrap().unwrap(), 3);
    assert_eq!(adder.add(2, 2).await.unwrap(), 4);
}

/// A subscriber that collects events of this thread at WARN and above.
#[derive(Clone, Default)]
pub(super) struct Log(Arc<Mutex<String>>);

impl Log {
    pub(super) fn keep(&self) -> DefaultGuard {
        set_default(Registry::default().with(self.clone()))
    }

    pub(super) fn text(&self) -> String {
        self.0.lock().unwrap().clone()
    }
}

impl<S: tracing::Subscriber> Layer<S> for Log {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        struct Fields<'a>(&'a mut String);
        impl Visit for Fields<'_> {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                *self.0 += &format!("{}={value:?} ", field.name());
            }
        }
        if *event.metadata().level() <= tracing::Level::WARN {
            let mut text = self.0.lock().unwrap();
            event.record(&mut Fields(&mut text));
            text.push('\n');
        }
    }
}

#[tokio::test]
async fn a_forged_delivery_count_does_not_evade_the_limit() {
    let node = shared_node().await;
    let connection = Connection::open(&node.url()).await.unwrap();
    let queue = unique_queue("forged");
    let mut peer = Peer::with_queue(node).await;
    let headers = table([
        ("x-delivery-count", AMQPValue::LongInt(0)),
        ("x-acquired-count", AMQPValue::LongInt(0)),
    ]);
    let request = request("stick").with_headers(headers);
    given_up_after_three_deaths(node, &connection, &mut peer, &queue, request).await;
}

/// Sends a request and kills the servers that get the request, three in a row.
async fn given_up_after_three_deaths(
    node: &Node,
    connection: &Connection,
    peer: &mut Peer,
    queue: &str,
    request: BasicProperties,
) {
    let mut server = serve(connection, queue).await;
    peer.request(queue, request, b"{}").await;
    for _ in 0..3 {
        let held = [queue.to_owned(), format!("{queue}.retry")];
        eventually("a server holds the request", async || {
            let census = node.census().await?.queues;
            let mut counted = census.iter().filter(|counted| held.contains(&counted.name));
            // Long enough for the handler to start, if the delivery has been counted before.
            tokio::time::sleep(Duration::from_millis(300)).await;
            counted
                .any(|counted| counted.unacknowledged == 1)
                .then_some(())
        })
        .await;
        drop(server);
        server = serve(connection, queue).await;
    }
    let fault = peer.receive().await;
    assert_eq!(parts(&fault).0, "fault");
    assert!(parts(&fault).1.contains("delivered 3 times"));
}

/// Moves a message as a shovel does: properties, headers and body stay as they are.
async fn move_back(peer: &Peer, queue: &str, letter: &lapin::message::Delivery) {
    peer.publish(queue, letter.properties.clone(), &letter.data)
        .await;
}

/// A deadline that passes soon.
fn soon() -> (Duration, AMQPValue) {
    let limit = Duration::from_secs(1);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let deadline = i64::try_from((now + limit).as_millis()).unwrap();
    (limit, AMQPValue::LongLongInt(deadline))
}

#[tokio::test]
async fn an_unchanged_dead_letter_that_is_moved_back_runs_after_its_deadline() {
    let node = shared_node().await;
    let connection = Connection::open(&node.url()).await.unwrap();
    let queue = unique_queue("moved");
    let _server = serve(&connection, &queue).await;
    let mut peer = Peer::with_queue(node).await;
    let (limit, deadline) = soon();
    let headers = table([
        ("rpc-delivery-count", AMQPValue::LongInt(3)),
        ("rpc-deadline", deadline.clone()),
    ]);
    let batch = hostile::batch(&[hostile::expired_call(b"1", b"add")]);
    for (properties, body) in [
        (request("add"), &br#"{"a":1,"b":2}"#[..]),
        (hostile::batched(), &batch),
    ] {
        let fault = peer
            .call(&queue, properties.with_headers(headers.clone()), body)
            .await;
        assert!(parts(&fault).1.contains("panicked"), "{:?}", parts(&fault));
    }
    tokio::time::sleep(limit).await;
    let mut operator = Peer::serving(node, &format!("{queue}.dead")).await;
    for kind in ["result", "batch"] {
        let letter = operator.receive().await;
        let headers = letter.properties.headers().as_ref().unwrap().inner();
        assert!(headers.contains_key("rpc-death-reason"));
        assert_eq!(headers["rpc-deadline"], deadline);
        move_back(&peer, &queue, &letter).await;
        let reply = peer.receive().await;
        assert_eq!(parts(&reply).0, kind);
        let text = String::from_utf8_lossy(&reply.data);
        assert!(!text.contains("deadline_exceeded"), "{text}");
    }
}

#[tokio::test]
async fn a_dead_lettered_batch_is_counted_and_does_not_expire() {
    let node = shared_node().await;
    let connection = Connection::open(&node.url()).await.unwrap();
    let queue = unique_queue("batch");
    let mut peer = Peer::with_queue(node).await;
    let headers = table([
        (
            "rpc-death-reason",
            AMQPValue::LongString("delivery-limit".into()),
        ),
        ("rpc-delivery-count", AMQPValue::LongInt(3)),
        ("rpc-deadline", AMQPValue::LongLongInt(1)),
    ]);
    let batch = hostile::batch(&[hostile::expired_call(b"1", b"wait")]);
    // This consumer does not acknowledge the batch, so the server gets it as a redelivery.
    let dying = node.connect().await;
    let channel = dying.create_channel().await.unwrap();
    let durable = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare(queue.as_str().into(), durable, FieldTable::default())
        .await
        .unwrap();
    let properties = hostile::batched().with_headers(headers);
    peer.request(&queue, properties, &batch).await;
    eventually("the batch is delivered", async || {
        let got = channel.basic_get(
            queue.as_str().into(),
            lapin::options::BasicGetOptions::default(),
        );
        got.await.unwrap()
    })
    .await;
    dying.close(200, "OK".into()).await.unwrap();
    let _server = serve(&connection, &queue).await;
    // After counting, the server publishes the requests of the batch one by one.
    let reply = peer.receive().await;
    assert_eq!(parts(&reply).0, "result", "{:?}", parts(&reply));
    assert_eq!(reply.data, [0xc3], "the handler must see the redelivery");
}

#[tokio::test]
async fn an_expired_request_that_is_moved_back_runs() {
    let node = shared_node().await;
    let connection = Connection::open(&node.url()).await.unwrap();
    let queue = unique_queue("expired");
    let dead = format!("{queue}-given-up");
    let dispatcher = AdderDispatcher::new(Abacus::default())
        .with_queue(&queue)
        .with_queue_options(QueueOptions::classic().dead_letter_queue(&dead));
    let serve = async || {
        let server = Server::builder(&connection).service(dispatcher.clone());
        server.build().start().await.unwrap()
    };
    serve().await.shutdown().await.unwrap();
    let mut peer = Peer::with_queue(node).await;
    let (_, deadline) = soon();
    let late = request("add")
        .with_headers(table([("rpc-deadline", deadline)]))
        .with_expiration("1000".into());
    peer.request(&queue, late, br#"{"a":1,"b":2}"#).await;
    let mut operator = Peer::serving(node, &dead).await;
    let letter = operator.receive().await;
    let headers = letter.properties.headers().as_ref().unwrap().inner();
    assert!(headers.contains_key("x-death"));
    move_back(&peer, &queue, &letter).await;
    let _server = serve().await;
    assert_eq!(parts(&peer.receive().await), ("result", "3"));
}

#[tokio::test]
async fn a_forged_death_header_does_not_evade_the_limit() {
    let node = shared_node().await;
    let connection = Connection::open(&node.url()).await.unwrap();
    let queue = unique_queue("forged");
    let mut peer = Peer::with_queue(node).await;
    let headers = table([
        (
            "rpc-death-reason",
            AMQPValue::LongString("delivery-limit".into()),
        ),
        ("rpc-delivery-count", AMQPValue::LongInt(-5)),
        ("rpc-deadline", AMQPValue::LongLongInt(1)),
    ]);
    let request = request("stick").with_headers(headers);
    given_up_after_three_deaths(node, &connection, &mut peer, &queue, request).await;
}

#[tokio::test]
async fn a_batch_delivered_too_often_is_given_up_as_a_whole() {
    let node = shared_node().await;
    let connection = Connection::open(&node.url()).await.unwrap();
    let queue = unique_queue("batch");
    let mut peer = Peer::with_queue(node).await;
    let _server = serve(&connection, &queue).await;
    // A call of `add` with 1 and 2.
    let mut body =
        b"\x92\xcd\x00\x00\xdc\x00\x01\x96\xa1a\xa3add\xb0application/json\xc0\xc0\xc4\x0d"
            .to_vec();
    body.extend(br#"{"a":1,"b":2}"#);
    let batch = |times| {
        delivered(times, "batch")
            .with_content_type("application/vnd.rpc-batch+msgpack".into())
            .with_correlation_id("the batch".into())
    };
    let reply = peer.call(&queue, batch(2), &body).await;
    assert_eq!(parts(&reply), ("result", "3"));
    let reply = peer.call(&queue, batch(3), &body).await;
    assert!(parts(&reply).1.contains("panicked"), "{:?}", parts(&reply));
    let id = reply.properties.correlation_id().as_ref().unwrap();
    assert_eq!(id.as_str(), "the batch");
    let mut operator = Peer::serving(node, &format!("{queue}.dead")).await;
    assert_eq!(operator.receive().await.data, body);
}

#[tokio::test]
async fn requests_without_a_deadline_get_the_default_one() {
    let node = shared_node().await;
    let connection = Connection::open(&node.url()).await.unwrap();
    let mut peer = Peer::with_queue(node).await;
    let queue = unique_queue("endless");
    let limit = Duration::from_millis(500);
    let server = serve_with(&connection, &queue, |server| {
        server.prefetch(1).default_deadline(limit)
    })
    .await;
    let reply = peer.call(&queue, request("stick"), b"{}").await;
    assert!(
        parts(&reply).1.contains("deadline_exceeded"),
        "{:?}",
        parts(&reply)
    );
    // A request without a caller ends at the default deadline as well.
    peer.publish(&queue, request("stick"), b"{}").await;
    // The deadline in a batch's headers is the sender's claim, and may be false.
    let mut headers = FieldTable::default();
    headers.insert("rpc-deadline".into(), AMQPValue::LongLongInt(i64::MAX));
    let properties = hostile::batched().with_headers(headers);
    let calls = hostile::batch(&[hostile::call(b"1", b"stick", &[0xc0])]);
    let reply = peer.call(&queue, properties, &calls).await;
    let told = String::from_utf8_lossy(&reply.data);
    assert!(told.contains("deadline_exceeded"), "{told}");
    let adder = adder(&connection, &queue);
    assert_eq!(adder.add(1, 2).await.unwrap(), 3);
    server.shutdown().await.unwrap();

    let _server = serve_with(&connection, &queue, |server| {
        server.default_deadline(None).drain_timeout(Duration::ZERO)
    })
    .await;
    peer.request(&queue, request("wait_for_release"), b"{}")
        .await;
    tokio::time::sleep(2 * limit).await;
    adder.release().await.unwrap();
    assert_eq!(parts(&peer.receive().await).0, "result");
}

#[tokio::test]
async fn a_slow_last_attempt_does_not_delay_others() {
    let node = shared_node().await;
    let connection = Connection::open(&node.url()).await.unwrap();
    let queue = unique_queue("lane");
    let retry = format!("{queue}.retry");
    let mut peer = Peer::with_queue(node).await;
    let _server = serve(&connection, &queue).await;
    let adder = adder(&connection, &queue);
    peer.request(&queue, delivered(2, "wait_for_release"), b"{}")
        .await;
    eventually("the request runs", async || {
        let census = node.census().await?.queues;
        let lane = census.iter().find(|counted| counted.name == retry)?;
        (lane.unacknowledged == 1).then_some(())
    })
    .await;
    let other = delivered(2, "add").with_correlation_id("other".into());
    let reply = peer.call(&queue, other, br#"{"a":1,"b":2}"#).await;
    assert_eq!(parts(&reply), ("result", "3"));
    assert_eq!(node.queue(&retry).await.unwrap().consumers, 2);
    adder.release().await.unwrap();
    assert_eq!(parts(&peer.receive().await).0, "result");
    eventually("last attempts run one at a time again", async || {
        (node.queue(&retry).await?.consumers == 1).then_some(())
    })
    .await;
    assert_eq!(adder.add(1, 2).await.unwrap(), 3);
}

#[tokio::test]
async fn a_server_waits_for_a_locked_queue() {
    let node = shared_node().await;
    let connection = Connection::open(&node.url()).await.unwrap();
    let queue = unique_queue("locked");
    let holder = node.connect().await;
    let channel = holder.create_channel().await.unwrap();
    let exclusive = QueueDeclareOptions {
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare(queue.as_str().into(), exclusive, FieldTable::default())
        .await
        .unwrap();
    let log = Log::default();
    let _logging = log.keep();
    let starting = tokio::spawn({
        let (connection, queue) = (connection.clone(), queue.clone());
        async move { serve(&connection, &queue).await }
    });
    eventually("the log names the reason", async || {
        log.text().contains("RESOURCE_LOCKED").then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!starting.is_finished());
    assert_eq!(log.text().matches("RESOURCE_LOCKED").count(), 1);
    holder.close(200, "OK".into()).await.unwrap();
    let server = starting.await.unwrap();
    assert_eq!(adder(&connection, &queue).add(1, 2).await.unwrap(), 3);
    server.shutdown().await.unwrap();

    // A server does not wait after a refusal.
    let dispatcher = AdderDispatcher::new(Abacus::default()).with_queue("amq.reserved");
    let server = Server::builder(&connection).service(dispatcher).build();
    let refused = server.start().await.unwrap_err();
    assert!(matches!(refused, ServeError::QueueRefused { .. }));
}
