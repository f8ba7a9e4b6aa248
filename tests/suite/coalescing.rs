//! Calls that share messages: each call keeps its own response, deadline and fate.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use rpc_core::{CallError, Client, Connection, Context, ErrorKind, QueueOptions, Server, rpc};
use rpc_tests::unique_queue;
use serde::{Deserialize, Serialize};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::{Probe, start};
use crate::broker;

/// Number of unanswered messages beyond which calls wait to be batched.
const BUSY: usize = 4;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Odd(u64);

#[rpc]
trait Shelf {
    #[rpc(idempotent)]
    async fn half(n: u64) -> Result<u64, Odd>;
    #[rpc(idempotent)]
    async fn label(#[ctx] context: Context) -> Option<String>;
    #[rpc(idempotent)]
    async fn fall();
    /// Runs until the probe is released, and returns the number of earlier deliveries.
    #[rpc(idempotent)]
    async fn hold(#[ctx] context: Context) -> u32;
    /// Returns the id of its task once the probe is released.
    #[rpc(idempotent)]
    async fn task() -> String;
}

impl Shelf for Probe {
    async fn half(&self, n: u64) -> Result<u64, Odd> {
        match n.is_multiple_of(2) {
            true => Ok(n / 2),
            false => Err(Odd(n)),
        }
    }

    async fn label(&self, context: Context) -> Option<String> {
        let reply = context.header("label")?.as_str()?.to_owned();
        context.set_reply_header("label", reply.as_str());
        Some(reply)
    }

    async fn fall(&self) {
        panic!("as requested");
    }

    async fn hold(&self, context: Context) -> u32 {
        self.held().await;
        context.delivery_count()
    }

    async fn task(&self) -> String {
        self.held().await;
        tokio::task::id().to_string()
    }
}

fn coalescing(connection: &Connection) -> Client {
    connection.client_builder().coalesce(64).build()
}

/// A shelf service, its server, and a client that batches calls.
struct Setup {
    shelf: ShelfClient,
    probe: Probe,
    queue: String,
    connection: Connection,
    server: rpc_core::ServerHandle,
}

impl Setup {
    async fn new() -> Self {
        let connection = broker().await.connect().await;
        let (probe, queue) = (Probe::default(), unique_queue("shelf"));
        let server = serve(&connection, &queue, &probe).await;
        Self {
            shelf: ShelfClient::new(coalescing(&connection)).with_queue(&queue),
            probe,
            queue,
            connection,
            server,
        }
    }

    /// Calls to `hold`, all made at once: the first goes alone, the others share messages.
    async fn hold(&self, calls: usize) -> Vec<JoinHandle<Result<u32, rpc_core::RpcError>>> {
        let begun = self.probe.begun();
        let calls: Vec<_> = (0..calls)
            .map(|_| tokio::spawn(self.shelf.hold().into_future()))
            .collect();
        self.probe.until_begun(begun + calls.len()).await;
        calls
    }
}

async fn serve(connection: &Connection, queue: &str, probe: &Probe) -> rpc_core::ServerHandle {
    start(
        connection,
        ShelfDispatcher::new(probe.clone()).with_queue(queue),
    )
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batched_calls_get_their_own_responses() {
    let setup = Setup::new().await;
    let mut calls = JoinSet::new();
    for n in 0..400_u64 {
        let shelf = setup.shelf.clone();
        calls.spawn(async move {
            match shelf.half(n).await {
                Ok(half) => assert_eq!(2 * half, n),
                Err(CallError::App(odd)) => assert_eq!(odd, Odd(n)),
                Err(CallError::Rpc(error)) => panic!("{error}"),
            }
            let label = format!("label {n}");
            let call = shelf.label().header("label", label.as_str());
            let (answer, headers) = call.with_headers().await;
            assert_eq!(answer.unwrap().as_ref(), Some(&label));
            assert_eq!(headers.get_as("label"), Some(label.as_str()));
            let error = shelf.fall().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Panicked);
        });
    }
    while let Some(call) = calls.join_next().await {
        call.unwrap();
    }
    assert_eq!(
        coalescing(&setup.connection).dropped_replies(),
        Default::default()
    );
}

#[tokio::test]
async fn batched_calls_end_at_their_own_deadlines() {
    let setup = Setup::new().await;
    let patient = setup.hold(BUSY).await;
    let begun = setup.probe.begun();
    let made = Instant::now();
    let calls: Vec<_> = (0..8)
        .map(|n| {
            let limit = Duration::from_millis(if n % 2 == 0 { 300 } else { 20_000 });
            tokio::spawn(setup.shelf.hold().timeout(limit).into_future())
        })
        .collect();
    setup.probe.until_begun(begun + calls.len()).await;
    let (mut late, mut answered) = (0, 0);
    setup.probe.until_dropped(4).await;
    setup.probe.release(BUSY + 4);
    for call in calls {
        match call.await.unwrap() {
            Ok(_) => answered += 1,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Timeout);
                assert!(error.may_have_executed());
                late += 1;
            }
        }
    }
    assert_eq!((late, answered), (4, 4));
    assert!(made.elapsed() < Duration::from_secs(15));
    for call in patient {
        assert_eq!(call.await.unwrap().unwrap(), 0);
    }
}

#[tokio::test]
async fn dropping_a_batched_call_cancels_that_call_alone() {
    let setup = Setup::new().await;
    let calls = setup.hold(BUSY + 8).await;
    calls[BUSY].abort();
    setup.probe.until_dropped(1).await;
    setup.probe.release(calls.len());
    let mut answered = 0;
    for call in calls {
        answered += usize::from(call.await.is_ok_and(|answer| answer.is_ok()));
    }
    assert_eq!(answered, BUSY + 7);
}

#[tokio::test]
async fn slow_batched_calls_do_not_delay_other_calls() {
    let setup = Setup::new().await;
    let held = setup.hold(4 * BUSY).await;
    let made = Instant::now();
    for n in 0..20 {
        assert_eq!(setup.shelf.half(2 * n).await.unwrap(), n);
    }
    assert!(made.elapsed() < Duration::from_secs(5));
    setup.probe.release(held.len());
    for call in held {
        call.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn batched_calls_that_wait_run_in_tasks_of_their_own() {
    const CALLS: usize = 16;
    let setup = Setup::new().await;
    let calls = (0..CALLS).map(|_| setup.shelf.task().into_future());
    let releasing = async {
        setup.probe.until_begun(CALLS).await;
        setup.probe.release(CALLS);
    };
    let (tasks, ()) = tokio::join!(join_all(calls), releasing);
    let tasks: HashSet<String> = tasks.into_iter().map(Result::unwrap).collect();
    assert_eq!(tasks.len(), CALLS);
}

#[tokio::test]
async fn batched_calls_fail_at_once_without_a_queue() {
    let connection = broker().await.connect().await;
    let shelf = ShelfClient::new(coalescing(&connection)).with_queue(unique_queue("nowhere"));
    let mut calls = JoinSet::new();
    for n in 0..40 {
        calls.spawn(shelf.half(n).timeout(Duration::from_secs(20)).into_future());
    }
    let made = Instant::now();
    while let Some(answer) = calls.join_next().await {
        match answer.unwrap() {
            Err(CallError::Rpc(error)) => {
                assert_eq!(error.kind(), ErrorKind::Unroutable);
                assert!(!error.may_have_executed());
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(made.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn batched_calls_fail_at_once_if_the_queue_is_full() {
    let connection = broker().await.connect().await;
    let queue = unique_queue("full");
    let options = QueueOptions::classic().max_length(1);
    let dispatcher = ShelfDispatcher::new(Probe::default())
        .with_queue(&queue)
        .with_queue_options(options);
    // Declares the queue. No server consumes from it.
    start(&connection, dispatcher)
        .await
        .shutdown()
        .await
        .unwrap();
    let client = connection.client_builder().confirms(true).coalesce(64);
    let policy = rpc_core::middleware::RetryPolicy::never();
    let shelf = ShelfClient::new(client.retry(policy).build()).with_queue(&queue);
    let mut calls = JoinSet::new();
    for n in 0..40 {
        calls.spawn(shelf.half(n).timeout(Duration::from_secs(3)).into_future());
    }
    let (mut refused, mut waited) = (0, 0);
    while let Some(answer) = calls.join_next().await {
        match answer.unwrap() {
            Err(CallError::Rpc(error)) if error.kind() == ErrorKind::Rejected => {
                assert!(!error.may_have_executed());
                refused += 1;
            }
            Err(CallError::Rpc(error)) if error.kind() == ErrorKind::Timeout => waited += 1,
            other => panic!("{other:?}"),
        }
    }
    // Calls that the queue accepted before it was full.
    assert!(waited >= 1 && refused > waited, "{waited} {refused}");
}

#[tokio::test]
async fn batched_calls_of_a_dead_server_are_redelivered_and_counted_one_by_one() {
    let Setup {
        shelf,
        probe,
        queue,
        connection,
        server,
    } = Setup::new().await;
    let calls: Vec<_> = (0..BUSY + 8)
        .map(|_| tokio::spawn(shelf.hold().into_future()))
        .collect();
    probe.until_begun(calls.len()).await;
    drop(server);
    let _server = serve(&connection, &queue, &probe).await;
    probe.until_begun(2 * calls.len()).await;
    probe.release(calls.len());
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_server_fails_no_batched_call() {
    let Setup {
        shelf,
        probe,
        queue,
        connection,
        server,
    } = Setup::new().await;
    let answered = Arc::new(AtomicUsize::new(0));
    let mut callers = JoinSet::new();
    for caller in 0..50_u64 {
        let (shelf, answered) = (shelf.clone(), answered.clone());
        callers.spawn(async move {
            for n in 0..40 {
                let n = 2 * (100 * caller + n);
                assert_eq!(shelf.half(n).await.unwrap(), n / 2);
                answered.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    rpc_tests::eventually("some calls are answered", async || {
        (answered.load(Ordering::Relaxed) > 100).then_some(())
    })
    .await;
    let another = serve(&connection, &queue, &probe).await;
    server.shutdown().await.unwrap();
    while let Some(caller) = callers.join_next().await {
        caller.unwrap();
    }
    assert_eq!(answered.load(Ordering::Relaxed), 2000);
    another.shutdown().await.unwrap();
}

/// A handler that counts its runs.
#[derive(Clone, Default)]
struct Counting(Arc<AtomicUsize>);

#[rpc]
trait Counter {
    #[rpc(idempotent)]
    async fn count();
}

impl Counter for Counting {
    async fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_share_batched_calls() {
    let broker = broker().await;
    let queue = unique_queue("counter");
    let counters = [Counting::default(), Counting::default()];
    let mut servers = Vec::new();
    for counter in &counters {
        let connection = broker.connect().await;
        let dispatcher = CounterDispatcher::new(counter.clone()).with_queue(&queue);
        servers.push(start(&connection, dispatcher).await);
    }
    let connection = broker.connect().await;
    let counter = CounterClient::new(coalescing(&connection)).with_queue(&queue);
    let mut callers = JoinSet::new();
    for _ in 0..128 {
        let counter = counter.clone();
        callers.spawn(async move {
            for _ in 0..40 {
                counter.count().await.unwrap();
            }
        });
    }
    while let Some(caller) = callers.join_next().await {
        caller.unwrap();
    }
    let shares = counters.map(|counter| counter.0.load(Ordering::Relaxed));
    let all: usize = shares.iter().sum();
    assert_eq!(all, 128 * 40);
    assert!(
        shares.iter().all(|share| share * 10 >= all * 4),
        "{shares:?}"
    );
}

#[tokio::test]
async fn a_server_with_a_prefetch_of_one_gets_one_request_at_a_time() {
    let connection = broker().await.connect().await;
    let (probe, queue) = (Probe::default(), unique_queue("shelf"));
    let dispatcher = ShelfDispatcher::new(probe.clone()).with_queue(&queue);
    let server = Server::builder(&connection).service(dispatcher).prefetch(1);
    let server = server.build().start().await.unwrap();
    let shelf = ShelfClient::new(coalescing(&connection)).with_queue(&queue);
    // From these replies the client learns the server's prefetch.
    let first: Vec<_> = (0..8)
        .map(|n| tokio::spawn(shelf.half(n).into_future()))
        .collect();
    for call in first {
        let _ = call.await.unwrap();
    }
    let calls: Vec<_> = (0..8)
        .map(|_| tokio::spawn(shelf.hold().into_future()))
        .collect();
    probe.until_begun(1).await;
    // Another server can run the calls that the first one does not hold.
    let others = Probe::default();
    let _other = serve(&connection, &queue, &others).await;
    others.until_begun(7).await;
    others.release(7);
    probe.release(1);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!((probe.begun(), others.begun()), (1, 7));
    server.shutdown().await.unwrap();
}
