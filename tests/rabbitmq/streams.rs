//! Streams over a real broker: they end within the stated time, or go on, when queues, nodes, users and processes change.

use std::env;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::stream;
use lapin::BasicProperties;
use lapin::options::QueueDeleteOptions;
use lapin::types::{AMQPValue, FieldTable};
use rpc_core::{
    Connection, ConnectionState, Credentials, ErrorKind, Incoming, QueueOptions, RpcError, Server,
    ServerHandle, Stream, Streaming, rpc,
};
use rpc_tests::broker::{Node, shared_node};
use rpc_tests::program::Program;
use rpc_tests::{eventually, unique_queue};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::credentials::{Vault, add_user, connections, node};
use super::peer::{Peer, parts};

/// The shortest timeout of streams that may pause, and the time between their signs of life.
const SHORT: Duration = Duration::from_secs(3);
const THIRD: Duration = Duration::from_secs(1);

/// A longer timeout. If a side is killed, the other side learns of it by a sign of life that comes back, `BY_RETURN` after it at the latest:
/// earlier than by its silence, which begins with its last sign of life.
const LONGER: Duration = Duration::from_secs(6);
const BY_RETURN: Duration = Duration::from_secs(4);

/// A timeout that no test waits for.
const LONG: Duration = Duration::from_secs(60);

/// Tolerance of a time on a slow machine, far less than `LONG`.
const TOLERANCE: Duration = Duration::from_secs(5);

#[rpc]
trait Feed {
    /// Returns the number 0, and the next number each time that the source is released.
    async fn numbers() -> impl Stream<Item = u64>;
    /// Adds the numbers of the caller.
    async fn sum(numbers: impl Stream<Item = u64>) -> u64;
}

/// The handlers of a feed, and what they have seen. Clones share it.
#[derive(Clone)]
struct Source(Arc<State>);

struct State {
    releases: Semaphore,
    /// Numbers of callers.
    taken: AtomicU64,
    /// Number of handlers that were dropped, or told that no number follows.
    stopped: AtomicUsize,
    /// The errors that told them.
    told: Mutex<Vec<ErrorKind>>,
}

/// Counts a handler as stopped when it is dropped.
struct Stopped(Source);

impl Drop for Stopped {
    fn drop(&mut self) {
        self.0.0.stopped.fetch_add(1, Ordering::SeqCst);
    }
}

impl Source {
    fn new() -> Self {
        Self(Arc::new(State {
            releases: Semaphore::new(0),
            taken: AtomicU64::new(0),
            stopped: AtomicUsize::new(0),
            told: Mutex::default(),
        }))
    }

    fn release(&self) {
        self.0.releases.add_permits(1);
    }

    fn taken(&self) -> u64 {
        self.0.taken.load(Ordering::SeqCst)
    }

    async fn until_taken(&self, numbers: u64) {
        eventually("the handler takes the numbers", async || {
            (self.taken() == numbers).then_some(())
        })
        .await;
    }

    async fn until_stopped(&self, handlers: usize) {
        eventually("the handlers stop", async || {
            (self.0.stopped.load(Ordering::SeqCst) == handlers).then_some(())
        })
        .await;
    }

    async fn serve(&self, connection: &Connection, queue: &str) -> ServerHandle {
        let dispatcher = FeedDispatcher::new(self.clone()).with_queue(queue);
        let server = Server::builder(connection).service(dispatcher).build();
        server.start().await.unwrap()
    }
}

impl Feed for Source {
    async fn numbers(&self) -> impl Stream<Item = u64> {
        stream::unfold((0, Stopped(self.clone())), async |(number, stopped)| {
            if number > 0 {
                stopped.0.0.releases.acquire().await.unwrap().forget();
            }
            Some((number, (number + 1, stopped)))
        })
    }

    async fn sum(&self, mut numbers: Incoming<u64>) -> u64 {
        let mut sum = 0;
        while let Some(number) = numbers.next().await {
            match number {
                Ok(number) => {
                    sum += number;
                    self.0.taken.fetch_add(1, Ordering::SeqCst);
                }
                Err(error) => {
                    self.0.told.lock().unwrap().push(error.kind());
                    drop(Stopped(self.clone()));
                }
            }
        }
        sum
    }
}

/// Sends ones to a handler that adds them.
struct Adding {
    ones: mpsc::UnboundedSender<u64>,
    sum: JoinHandle<Result<u64, RpcError>>,
}

impl Adding {
    fn start(feed: &FeedClient, timeout: Duration) -> Self {
        let (ones, mut sent) = mpsc::unbounded_channel();
        let numbers = stream::poll_fn(move |cx| sent.poll_recv(cx));
        let sum = feed.sum(numbers).timeout(timeout);
        Self {
            ones,
            sum: tokio::spawn(sum.into_future()),
        }
    }
}

/// A served feed with two open streams: one in each direction.
struct Open {
    feed: FeedClient,
    queue: String,
    source: Source,
    numbers: Streaming<u64, RpcError>,
    /// Number of the numbers that were read.
    read: u64,
    adding: Adding,
    _server: ServerHandle,
}

impl Open {
    async fn on(node: &Node, timeout: Duration) -> Self {
        let serving = Connection::open(&node.url()).await.unwrap();
        let calling = Connection::open(&node.url()).await.unwrap();
        Self::between(&serving, &calling, timeout).await
    }

    async fn between(serving: &Connection, calling: &Connection, timeout: Duration) -> Self {
        let (queue, source) = (unique_queue("feed"), Source::new());
        let server = source.serve(serving, &queue).await;
        let feed = FeedClient::new(calling.client()).with_queue(&queue);
        let mut open = Self {
            numbers: feed.numbers().timeout(timeout).await.unwrap(),
            adding: Adding::start(&feed, timeout),
            feed,
            queue,
            source,
            read: 0,
            _server: server,
        };
        open.source.release();
        open.read().await;
        open.go_on().await;
        open
    }

    async fn read(&mut self) {
        let number = next(&mut self.numbers).await.unwrap().unwrap();
        assert_eq!(number, self.read);
        self.read += 1;
    }

    /// Asserts that both streams work.
    async fn go_on(&mut self) {
        self.source.release();
        self.read().await;
        let taken = self.source.taken();
        if self.adding.ones.send(1).is_err() {
            panic!("the sum has ended: {:?}", (&mut self.adding.sum).await);
        }
        self.source.until_taken(taken + 1).await;
    }

    /// Asserts that both streams fail on the caller's side, and their handlers stop. Returns the last items.
    async fn fail(&mut self, kind: ErrorKind) -> [RpcError; 2] {
        let last = loop {
            // Items that were sent before the failure come before it.
            match next(&mut self.numbers)
                .await
                .expect("no end of the handler")
            {
                Ok(number) => assert_eq!(number, self.read),
                Err(error) => break error,
            }
            self.read += 1;
        };
        assert!(next(&mut self.numbers).await.is_none());
        let sum = timeout(LONG, &mut self.adding.sum).await;
        let errors = [last, sum.expect("an answer").unwrap().unwrap_err()];
        for error in &errors {
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.may_have_executed());
        }
        errors
    }

    /// Ends both streams as their sides intend.
    async fn end(self) {
        drop(self.numbers);
        self.source.until_stopped(1).await;
        drop(self.adding.ones);
        assert_eq!(self.adding.sum.await.unwrap().unwrap(), self.source.taken());
    }
}

async fn next<T, E>(items: &mut Streaming<T, E>) -> Option<Result<T, E>> {
    let next = timeout(LONG, items.next()).await;
    next.expect("an item or the end")
}

/// The request of a stream by another program.
fn numbers() -> BasicProperties {
    let mut headers = FieldTable::default();
    for (name, value) in [
        ("rpc-items", 10),
        ("rpc-bytes", 1_000),
        ("rpc-silence", 60_000),
    ] {
        headers.insert(name.into(), AMQPValue::LongLongInt(value));
    }
    BasicProperties::default()
        .with_type("numbers".into())
        .with_content_type("application/json".into())
        .with_correlation_id("1".into())
        .with_headers(headers)
}

#[tokio::test]
async fn items_that_come_back_stop_the_handler() {
    let node = shared_node().await;
    let (queue, source) = (unique_queue("feed"), Source::new());
    let serving = Connection::open(&node.url()).await.unwrap();
    let _server = source.serve(&serving, &queue).await;
    let mut peer = Peer::with_queue(node).await;
    let accepted = peer.call(&queue, numbers(), b"{}").await;
    assert_eq!(parts(&accepted).0, "accepted");
    assert_eq!(parts(&peer.receive().await).0, "items");
    let deleted = QueueDeleteOptions::default();
    let reply_queue = peer.queue.as_str().into();
    peer.channel
        .queue_delete(reply_queue, deleted)
        .await
        .unwrap();
    let begun = Instant::now();
    source.release();
    source.until_stopped(1).await;
    assert!(begun.elapsed() < TOLERANCE, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_stream_request_with_direct_reply_to_gets_a_fault() {
    let node = shared_node().await;
    let queue = unique_queue("feed");
    let serving = Connection::open(&node.url()).await.unwrap();
    let _server = Source::new().serve(&serving, &queue).await;
    let mut peer = Peer::with_direct_replies(node).await;
    let reply = peer.call(&queue, numbers(), b"{}").await;
    let (kind, body) = parts(&reply);
    assert_eq!(kind, "fault");
    assert!(
        body.contains("bad_request") && body.contains("direct reply-to"),
        "{body}"
    );
}

#[tokio::test]
async fn a_server_without_permission_for_a_private_queue_refuses_streams() {
    let node = node().await;
    let queue = unique_queue("feed");
    add_user(node, "max", "one").await;
    let own = format!("amq\\.default|{queue}");
    let own = ["set_permissions", "max", &own, &own, &own];
    node.ctl(&own).await;
    let url = node.url_with("max", "one", "%2f");
    let serving = Connection::open(&url).await.unwrap();
    let _server = Source::new().serve(&serving, &queue).await;
    let calling = Connection::open(&node.url()).await.unwrap();
    let feed = FeedClient::new(calling.client()).with_queue(&queue);
    let sum = feed.sum(stream::iter([1])).await.unwrap_err();
    for error in [feed.numbers().await.unwrap_err(), sum] {
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert!(!error.may_have_executed());
        let text = error.to_string();
        for part in ["grant", "'rpc.instance.'", "'amq.direct'"] {
            assert!(text.contains(part), "{text}");
        }
    }
}

#[tokio::test]
async fn changing_the_user_ends_no_stream() {
    let node = node().await;
    add_user(node, "sue", "one").await;
    add_user(node, "tom", "two").await;
    let given = |user, password| Credentials::new(user, password).valid_for(Duration::from_secs(1));
    let vault = Vault::new(given("sue", "one"));
    let (serving, calling) = (vault.open(node).await, vault.open(node).await);
    let mut open = Open::between(&serving, &calling, SHORT).await;
    vault.set(Some(given("tom", "two")));
    eventually("both are logged in as the other user", async || {
        (connections(node, "tom").await == 2).then_some(())
    })
    .await;
    open.go_on().await;
    // The signs of life still arrive.
    tokio::time::sleep(SHORT + THIRD).await;
    open.go_on().await;
    assert_eq!(connections(node, "sue").await, 2);
    open.end().await;
    eventually("the old connections are closed", async || {
        (connections(node, "sue").await == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn deleting_the_request_queue_ends_no_stream() {
    let node = shared_node().await;
    let mut open = Open::on(node, LONG).await;
    let channel = node.connect().await.create_channel().await.unwrap();
    channel
        .queue_delete(open.queue.as_str().into(), QueueDeleteOptions::default())
        .await
        .unwrap();
    open.go_on().await;
    let mut other = eventually("the queue is back", async || open.feed.numbers().await.ok()).await;
    assert_eq!(next(&mut other).await.unwrap().unwrap(), 0);
    drop(other);
    open.source.until_stopped(1).await;
    open.go_on().await;
}

#[tokio::test]
async fn streams_go_through_a_quorum_queue() {
    let node = shared_node().await;
    let connection = Connection::open(&node.url()).await.unwrap();
    let (queue, source) = (unique_queue("feed"), Source::new());
    let dispatcher = FeedDispatcher::new(source.clone())
        .with_queue(&queue)
        .with_queue_options(QueueOptions::quorum());
    let server = Server::builder(&connection).service(dispatcher).build();
    let _server = server.start().await.unwrap();
    let feed = FeedClient::new(connection.client()).with_queue(&queue);
    let mut numbers = feed.numbers().await.unwrap();
    assert_eq!(next(&mut numbers).await.unwrap().unwrap(), 0);
    assert_eq!(feed.sum(stream::iter(0..2_000)).await.unwrap(), 1_999_000);
    source.release();
    assert_eq!(next(&mut numbers).await.unwrap().unwrap(), 1);
    // Open streams hold no request.
    eventually("no request is left", async || {
        let queues = node.census().await?.queues;
        let counted = queues.into_iter().find(|counted| counted.name == queue)?;
        (counted.unacknowledged == 0 && counted.ready == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_lost_broker_ends_streams_on_both_sides_at_once() {
    let node = Node::start().await;
    let mut open = Open::on(&node, LONG).await;
    let begun = Instant::now();
    node.kill().await;
    open.fail(ErrorKind::Disconnected).await;
    open.source.until_stopped(2).await;
    assert!(begun.elapsed() < TOLERANCE, "{:?}", begun.elapsed());
    assert_eq!(
        *open.source.0.told.lock().unwrap(),
        [ErrorKind::Disconnected]
    );
    node.restart().await;
    let mut numbers = eventually("both sides are back", async || {
        open.feed.numbers().await.ok()
    })
    .await;
    assert_eq!(next(&mut numbers).await.unwrap().unwrap(), 0);
}

#[tokio::test]
async fn a_paused_broker_ends_streams_at_their_timeouts() {
    let node = Node::start().await;
    let (mut short, mut long) = tokio::join!(Open::on(&node, SHORT), Open::on(&node, LONG));
    node.pause().await;
    let begun = Instant::now();
    short.fail(ErrorKind::Timeout).await;
    let took = begun.elapsed();
    // The last sign of life came before the pause.
    assert!(
        (SHORT - THIRD * 2..SHORT + TOLERANCE).contains(&took),
        "{took:?}"
    );
    short.source.until_stopped(2).await;
    assert_eq!(*short.source.0.told.lock().unwrap(), [ErrorKind::Cancelled]);
    node.resume().await;
    long.go_on().await;
    long.end().await;
}

/// A memory alarm of 12 seconds: more than three timeouts of one pair of streams, and more than one of the other.
const ALARM: &str = "vm_memory_monitor:set_vm_memory_high_watermark(0.0000001), timer:sleep(12000), \
                     vm_memory_monitor:set_vm_memory_high_watermark(0.6).";

#[tokio::test]
async fn streams_outlive_a_blocked_broker_for_three_timeouts() {
    let node = Node::start().await;
    let serving = Connection::open(&node.url()).await.unwrap();
    let calling = Connection::open(&node.url()).await.unwrap();
    let (mut short, mut long) = tokio::join!(
        Open::between(&serving, &calling, SHORT),
        Open::between(&serving, &calling, LONGER)
    );
    let mut state = calling.state();
    let ends = async {
        while !matches!(state.current(), ConnectionState::Blocked { .. }) {
            state.changed().await.expect("an open connection");
        }
        let begun = Instant::now();
        for error in short.fail(ErrorKind::Timeout).await {
            let told = error.to_string();
            assert!(
                told.contains("blocking publishers: low on memory"),
                "{told}"
            );
        }
        let took = begun.elapsed();
        assert!((LONGER..SHORT * 3 + TOLERANCE).contains(&took), "{took:?}");
        short.source.until_stopped(2).await;
    };
    tokio::join!(node.ctl(&["eval", ALARM]), ends);
    long.go_on().await;
    long.end().await;
}

/// The variables that give another process of this program its part.
const PART: &str = "RPC_TEST_STREAMS_PART";
const URL: &str = "RPC_TEST_STREAMS_URL";
const QUEUE: &str = "RPC_TEST_STREAMS_QUEUE";

/// Starts another process with a part, and waits until it has begun.
async fn start(part: &str, node: &Node, queue: &str) -> Program {
    let mut command = std::process::Command::new(env::current_exe().unwrap());
    command
        .args(["--exact", "--nocapture"])
        .arg("streams::streams_end_in_time_after_the_death_or_pause_of_a_process")
        .env(PART, part)
        .env(URL, node.url())
        .env(QUEUE, queue);
    let mut program = Program::start(command.into());
    program.line("begun").await;
    program
}

/// Serves until the end of the process.
async fn server_process(connection: &Connection, queue: &str) {
    let source = Source::new();
    let _server = source.serve(connection, queue).await;
    println!("begun");
    source.until_taken(1).await;
    println!("taken");
    std::future::pending::<()>().await;
}

/// Opens a stream in each direction, and prints how they end.
async fn client_process(connection: &Connection, queue: &str, timeout: Duration) {
    let feed = FeedClient::new(connection.client()).with_queue(queue);
    let mut numbers = feed.numbers().timeout(timeout).await.unwrap();
    let adding = Adding::start(&feed, timeout);
    adding.ones.send(1).unwrap();
    println!("begun");
    while let Some(number) = numbers.next().await {
        match number {
            Ok(number) => println!("number {number}"),
            Err(error) => println!("the numbers end: {:?}", error.kind()),
        }
    }
    let sum = adding.sum.await.unwrap();
    println!("the sum ends: {:?}", sum.map_err(|error| error.kind()));
}

async fn a_killed_server(node: &Node) {
    let queue = unique_queue("feed");
    let mut server = start("server", node, &queue).await;
    let calling = Connection::open(&node.url()).await.unwrap();
    let feed = FeedClient::new(calling.client()).with_queue(&queue);
    let mut numbers = feed.numbers().timeout(LONGER).await.unwrap();
    let adding = Adding::start(&feed, LONGER);
    assert_eq!(next(&mut numbers).await.unwrap().unwrap(), 0);
    adding.ones.send(1).unwrap();
    server.line("taken").await;
    server.kill().await;
    let begun = Instant::now();
    let last = next(&mut numbers).await.expect("no end of the handler");
    for error in [last.unwrap_err(), adding.sum.await.unwrap().unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Disconnected, "{error}");
        assert!(error.may_have_executed());
    }
    let took = begun.elapsed();
    assert!(took < BY_RETURN, "{took:?}");
}

async fn a_killed_client(node: &Node) {
    let (queue, source) = (unique_queue("feed"), Source::new());
    let serving = Connection::open(&node.url()).await.unwrap();
    let _server = source.serve(&serving, &queue).await;
    let mut client = start("patient client", node, &queue).await;
    client.line("number 0").await;
    source.until_taken(1).await;
    client.kill().await;
    let begun = Instant::now();
    source.until_stopped(2).await;
    let took = begun.elapsed();
    assert!(took < BY_RETURN, "{took:?}");
    assert_eq!(*source.0.told.lock().unwrap(), [ErrorKind::Cancelled]);
}

async fn a_paused_client(node: &Node) {
    let (queue, source) = (unique_queue("feed"), Source::new());
    let serving = Connection::open(&node.url()).await.unwrap();
    let _server = source.serve(&serving, &queue).await;
    let mut client = start("client", node, &queue).await;
    client.line("number 0").await;
    source.until_taken(1).await;
    client.pause().await;
    source.release();
    source.until_stopped(2).await;
    client.resume().await;
    let (status, lines) = client.end().await;
    assert!(status.success());
    for line in [
        "number 1",
        "the numbers end: Timeout",
        "the sum ends: Err(Timeout)",
    ] {
        assert!(lines.iter().any(|printed| printed == line), "{lines:?}");
    }
}

#[tokio::test]
async fn streams_end_in_time_after_the_death_or_pause_of_a_process() {
    // Other processes run this test again.
    if let (Ok(part), Ok(url), Ok(queue)) = (env::var(PART), env::var(URL), env::var(QUEUE)) {
        let connection = Connection::open(&url).await.unwrap();
        match part.as_str() {
            "server" => server_process(&connection, &queue).await,
            "patient client" => client_process(&connection, &queue, LONGER).await,
            _ => client_process(&connection, &queue, SHORT).await,
        }
        return;
    }
    let node = shared_node().await;
    tokio::join!(
        a_killed_server(node),
        a_killed_client(node),
        a_paused_client(node)
    );
}
