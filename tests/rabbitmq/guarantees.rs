//! Guarantees under faults that only a real RabbitMQ can show.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lapin::BasicProperties;
use lapin::types::AMQPValue;
use rpc_core::{
    Connection, Context, ErrorKind, QueueOptions, Server, ServerBuilder, ServerHandle, rpc,
};
use rpc_tests::broker::{Node, shared_node};
use rpc_tests::{eventually, unique_queue};
use tokio::sync::Notify;

use super::peer::{Peer, parts};
use super::{AdderClient, serve};

/// A service that records its runs.
#[rpc]
trait Ledger {
    #[rpc(at_most_once)]
    async fn once(id: u64);
    #[rpc(oneway, persistent)]
    async fn keep(id: u64);
    async fn stick(id: u64);
    async fn user(#[ctx] context: Context) -> Option<String>;
}

#[derive(Clone, Default)]
struct Book(Arc<(Mutex<HashMap<u64, usize>>, Notify)>);

impl Book {
    fn enter(&self, id: u64) {
        *self.0.0.lock().unwrap().entry(id).or_default() += 1;
        self.0.1.notify_waiters();
    }

    fn entries(&self) -> HashMap<u64, usize> {
        self.0.0.lock().unwrap().clone()
    }

    async fn until(&self, entries: usize) {
        let wait = async {
            loop {
                let changed = self.0.1.notified();
                if self.entries().len() >= entries {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), wait)
            .await
            .expect("entries in time");
    }

    async fn serve(&self, connection: &Connection, queue: &str) -> ServerHandle {
        let dispatcher = LedgerDispatcher::new(self.clone()).with_queue(queue);
        Server::builder(connection)
            .service(dispatcher)
            .build()
            .start()
            .await
            .unwrap()
    }
}

impl Ledger for Book {
    async fn once(&self, id: u64) {
        self.enter(id);
    }

    async fn keep(&self, id: u64) {
        self.enter(id);
    }

    async fn stick(&self, id: u64) {
        self.enter(id);
        std::future::pending::<()>().await;
    }

    async fn user(&self, context: Context) -> Option<String> {
        context.user_id().map(str::to_owned)
    }
}

#[tokio::test]
async fn an_at_most_once_request_runs_once_even_if_the_broker_loses_its_ack() {
    const CALLS: u64 = 400;
    let node = Node::start().await;
    let connection = Connection::open(&node.url()).await.unwrap();
    let queue = unique_queue("once");
    let book = Book::default();
    let server = book.serve(&connection, &queue).await;
    let ledger = LedgerClient::new(connection.client()).with_queue(&queue);
    let mut calls = tokio::task::JoinSet::new();
    for id in 0..CALLS {
        // On the broker's disk, from which requests may come back.
        let call = ledger
            .once(id)
            .persistent()
            .timeout(Duration::from_secs(60));
        calls.spawn(call.into_future());
    }
    book.until(50).await;
    node.kill().await;
    node.restart().await;
    while let Some(call) = calls.join_next().await {
        if let Err(error) = call.unwrap() {
            assert!(
                matches!(
                    error.kind(),
                    ErrorKind::Disconnected | ErrorKind::Cancelled | ErrorKind::Unroutable
                ),
                "{error:?}"
            );
        }
    }
    eventually("requests that came back are acknowledged", async || {
        let left = node.queue(&queue).await?;
        (left.messages == 0 && left.consumers > 0).then_some(())
    })
    .await;
    // Waits for running handlers.
    server.shutdown().await.unwrap();
    let entries = book.entries();
    assert!(entries.len() >= 50);
    let twice: Vec<_> = entries.iter().filter(|(_, runs)| **runs > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
}

/// Servers are replaced under load, and no call is lost or runs twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_servers_of_a_quorum_queue_lose_no_at_most_once_call() {
    stop_one_after_the_other(12, 64, |server| server.prefetch(16)).await;
}

#[tokio::test]
async fn stopping_servers_of_a_quorum_queue_return_many_requests() {
    stop_one_after_the_other(6, 300, |server| server.prefetch(256).concurrency(8)).await;
}

/// Replaces servers of a quorum queue one by one under load. Each call has to run exactly once.
async fn stop_one_after_the_other(
    stops: usize,
    callers_at_once: usize,
    options: impl Fn(ServerBuilder) -> ServerBuilder,
) {
    let node = Node::start().await;
    let connection = Connection::open(&node.url()).await.unwrap();
    let queue = unique_queue("stops");
    let book = Book::default();
    let serve = async || {
        let dispatcher = LedgerDispatcher::new(book.clone())
            .with_queue(&queue)
            .with_queue_options(QueueOptions::quorum());
        let connection = Connection::open(&node.url()).await.unwrap();
        let server = Server::builder(&connection).service(dispatcher);
        options(server).build().start().await.unwrap()
    };
    let mut server = serve().await;
    let ledger = LedgerClient::new(connection.client()).with_queue(&queue);
    let stopped = Arc::new(AtomicBool::new(false));
    let ids = Arc::new(AtomicU64::new(0));
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..callers_at_once {
        let (ledger, stopped, ids) = (ledger.clone(), stopped.clone(), ids.clone());
        callers.spawn(async move {
            let mut errors = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let id = ids.fetch_add(1, Ordering::Relaxed);
                if let Err(error) = ledger.once(id).await {
                    errors.push((id, error));
                }
            }
            errors
        });
    }
    for _ in 0..stops {
        let next = serve().await;
        book.until(book.entries().len() + 100).await;
        std::mem::replace(&mut server, next)
            .shutdown()
            .await
            .unwrap();
    }
    stopped.store(true, Ordering::Relaxed);
    let lost: Vec<_> = callers.join_all().await.into_iter().flatten().collect();
    server.shutdown().await.unwrap();
    let entries = book.entries();
    assert!(
        lost.is_empty(),
        "{} of {}: {:?}",
        lost.len(),
        entries.len(),
        lost.first()
    );
    assert!(entries.values().all(|runs| *runs == 1));
}

#[tokio::test]
async fn persistent_requests_survive_a_crash_of_the_broker() {
    let node = Node::start().await;
    let connection = Connection::open(&node.url()).await.unwrap();
    let queue = unique_queue("kept");
    let book = Book::default();
    let server = book.serve(&connection, &queue).await;
    let ledger = LedgerClient::new(connection.client()).with_queue(&queue);
    server.shutdown().await.unwrap();
    for id in 0..20 {
        let call = ledger.keep(id).timeout(Duration::from_secs(300));
        call.await.expect("the broker accepts the request");
    }
    node.kill().await;
    node.restart().await;
    let _server = book.serve(&connection, &queue).await;
    book.until(20).await;
    assert!(book.entries().values().all(|runs| *runs == 1));
}

#[tokio::test]
async fn dead_letters_carry_the_reason() {
    let node = shared_node().await;
    let serving = Connection::open(&node.url()).await.unwrap();
    let queue = unique_queue("deadly");
    let book = Book::default();
    let mut caller = Peer::with_queue(node).await;
    let properties = BasicProperties::default()
        .with_correlation_id("its id".into())
        .with_type("stick".into())
        .with_content_type("application/json".into());
    let mut server = book.serve(&serving, &queue).await;
    caller.request(&queue, properties, br#"{"id":7}"#).await;
    for runs in 1..=3 {
        eventually("the request runs", async || {
            (book.entries().get(&7) == Some(&runs)).then_some(())
        })
        .await;
        drop(server);
        server = book.serve(&serving, &queue).await;
    }
    let fault = caller.receive().await;
    assert_eq!(parts(&fault).0, "fault");
    assert!(parts(&fault).1.contains(r#""code":"panicked""#));
    let id = fault.properties.correlation_id().as_ref();
    assert_eq!(id.map(ToString::to_string).as_deref(), Some("its id"));

    let mut operator = Peer::serving(node, &format!("{queue}.dead")).await;
    let letter = operator.receive().await;
    assert_eq!(letter.data, br#"{"id":7}"#);
    assert_eq!(*letter.properties.delivery_mode(), Some(2));
    let headers = letter.properties.headers().as_ref().unwrap().inner();
    let text = |text: &str| AMQPValue::LongString(text.into());
    assert_eq!(headers["rpc-death-reason"], text("delivery-limit"));
    assert_eq!(headers["rpc-death-queue"], text(&queue));
    assert_eq!(headers["rpc-delivery-count"], AMQPValue::LongLongInt(3));
    assert!(matches!(headers["rpc-death-time"], AMQPValue::Timestamp(_)));
    assert_eq!(book.entries()[&7], 3);
    for rest in [queue.clone(), format!("{queue}.retry")] {
        eventually("the queue is empty", async || {
            (node.queue(&rest).await?.messages == 0).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn republishing_a_request_drops_its_user_id() {
    let node = shared_node().await;
    let serving = Connection::open(&node.url()).await.unwrap();
    let queue = unique_queue("named");
    let book = Book::default();
    let mut caller = Peer::with_queue(node).await;
    let properties = || {
        BasicProperties::default()
            .with_content_type("application/json".into())
            .with_user_id("guest".into())
    };
    let server = book.serve(&serving, &queue).await;
    let reply = caller
        .call(&queue, properties().with_type("user".into()), b"{}")
        .await;
    assert_eq!(parts(&reply), ("result", r#""guest""#));
    let stick = properties().with_type("stick".into());
    caller.request(&queue, stick, br#"{"id":1}"#).await;
    book.until(1).await;
    drop(server);
    let _server = book.serve(&serving, &queue).await;
    eventually("the request runs again", async || {
        (book.entries()[&1] == 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_flood_of_forged_addresses_delays_no_honest_call() {
    let node = shared_node().await;
    let connection = Connection::open(&node.url()).await.unwrap();
    let queue = unique_queue("flooded");
    let _server = serve(&connection, &queue).await;
    let adder = AdderClient::new(connection.client()).with_queue(&queue);
    assert_eq!(adder.add(1, 2).await.unwrap(), 3);
    let attacker = Peer::with_queue(node).await;
    for n in 0..1000 {
        let properties = BasicProperties::default()
            .with_type("add".into())
            .with_reply_to(format!("amq.rabbitmq.reply-to.QUJD.{n}").into());
        attacker
            .publish(&queue, properties, br#"{"a":1,"b":2}"#)
            .await;
    }
    let started = Instant::now();
    assert_eq!(adder.add(1, 2).await.unwrap(), 3);
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn a_servers_own_queues_are_refused_as_reply_addresses() {
    let node = shared_node().await;
    let connection = Connection::open(&node.url()).await.unwrap();
    let queue = unique_queue("looped");
    let server = serve(&connection, &queue).await;
    let attacker = Peer::with_queue(node).await;
    for name in [
        queue.clone(),
        format!("{queue}.retry"),
        format!("{queue}.dead"),
    ] {
        let properties = BasicProperties::default()
            .with_type("add".into())
            .with_reply_to(name.into());
        attacker
            .publish(&queue, properties, br#"{"a":1,"b":2}"#)
            .await;
    }
    let adder = AdderClient::new(connection.client()).with_queue(&queue);
    assert_eq!(adder.add(1, 2).await.unwrap(), 3);
    assert_eq!(server.refused_requests(), 3);
}
