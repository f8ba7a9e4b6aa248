//! Mistakes and accidents of programs that use streams.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use rpc_core::{CallError, ErrorKind, Incoming, RpcError, Server, Stream, Streaming, rpc};
use rpc_tests::{eventually, unique_queue};
use serde::{Deserialize, Serialize, Serializer};
use tokio::time::Instant;

use super::super::client_builder;
use super::{FeedClient, LONG, Probe, Setup, all, next, serve};
use crate::broker;

/// A stream of the caller that panics when it is dropped, or polled.
struct Fragile {
    items: u64,
    in_poll: bool,
}

impl Stream for Fragile {
    type Item = u64;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<u64>> {
        if self.items == 0 {
            assert!(!self.in_poll, "as the test wants");
            return Poll::Pending;
        }
        self.items -= 1;
        Poll::Ready(Some(1))
    }
}

impl Drop for Fragile {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("as the test wants");
        }
    }
}

#[tokio::test]
async fn panics_of_the_callers_stream_end_the_call_and_nothing_else() {
    let setup = Setup::new().await;
    let polled = Fragile {
        items: 2,
        in_poll: true,
    };
    let error = call_error(setup.feed.sum(polled).await);
    assert_eq!(error.kind(), ErrorKind::Panicked, "{error}");
    setup.probe.until_dropped(1).await;
    let dropped = Fragile {
        items: 2,
        in_poll: false,
    };
    let call = tokio::spawn(setup.feed.sum(dropped));
    eventually("two items", async || {
        (setup.probe.taken() >= 4).then_some(())
    })
    .await;
    call.abort();
    setup.probe.until_dropped(2).await;
    // The server learned of the end from the caller, not from its silence.
    let dropped = Fragile {
        items: 2,
        in_poll: false,
    };
    let begun = Instant::now();
    let taken = setup.feed.take(1, dropped).await.unwrap();
    assert_eq!(taken, [1]);
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!(setup.feed.single(1).await.unwrap(), 1);
}

fn call_error<T: std::fmt::Debug, E: std::fmt::Debug>(result: Result<T, CallError<E>>) -> RpcError {
    match result.unwrap_err() {
        CallError::Rpc(error) => error,
        error => panic!("{error:?}"),
    }
}

/// A value that cannot be written.
#[derive(Debug, Deserialize)]
struct Bomb(u64);

impl Serialize for Bomb {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            0..3 => serializer.serialize_u64(self.0),
            3 => Err(serde::ser::Error::custom("as the test wants")),
            _ => panic!("as the test wants"),
        }
    }
}

#[rpc]
trait Mines {
    async fn give(first: u64) -> impl Stream<Item = Bomb>;
    #[rpc(idempotent)]
    async fn take(bombs: impl Stream<Item = Bomb>) -> u64;
    /// Panics in the destructor of its stream.
    async fn leave(to: u64) -> impl Stream<Item = u64>;
    #[rpc(idempotent)]
    async fn quiet() -> impl Stream<Item = u64>;
    /// Holds the thread, then goes on.
    async fn block(millis: u64) -> impl Stream<Item = u64>;
}

struct Field;

/// Panics when it is dropped.
struct Debris;

impl Drop for Debris {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("as the test wants");
        }
    }
}

impl Mines for Field {
    async fn give(&self, first: u64) -> impl Stream<Item = Bomb> {
        stream::iter(first..10).map(Bomb)
    }
    async fn take(&self, bombs: Incoming<Bomb>) -> u64 {
        bombs.count().await as u64
    }
    async fn leave(&self, to: u64) -> impl Stream<Item = u64> {
        let debris = Debris;
        stream::iter(0..to).chain(stream::pending()).map(move |n| {
            let _ = &debris;
            n
        })
    }
    async fn quiet(&self) -> impl Stream<Item = u64> {
        stream::pending()
    }
    async fn block(&self, millis: u64) -> impl Stream<Item = u64> {
        stream::iter(0..3).map(move |n| {
            std::thread::sleep(Duration::from_millis(millis));
            n
        })
    }
}

#[tokio::test]
async fn items_that_cannot_be_encoded_are_the_last() {
    let broker = broker().await;
    let (connection, serving) = (broker.connect().await, broker.connect().await);
    let queue = unique_queue("mines");
    let server = Server::builder(&serving).max_streams(1);
    let server = server.service(MinesDispatcher::new(Field).with_queue(&queue));
    let server = server.build().start().await.unwrap();
    let mines = MinesClient::new(client_builder(&connection).build()).with_queue(&queue);
    for (first, read_before, kind) in [(0, 3, ErrorKind::BadReply), (4, 0, ErrorKind::Panicked)] {
        let items = eventually("a place", async || mines.give(first).await.ok()).await;
        let (read, error) = all(items).await;
        let error = error.expect("no end");
        assert_eq!((read.len(), error.kind()), (read_before, kind), "{error}");
        assert!(error.may_have_executed());
    }
    for (first, kind) in [(0, ErrorKind::Encode), (4, ErrorKind::Panicked)] {
        let bombs = move || stream::iter(first..10).map(Bomb);
        let error = eventually("a place", async || {
            let error = mines.take(bombs()).await.unwrap_err();
            (error.kind() != ErrorKind::Overloaded).then_some(error)
        })
        .await;
        assert_eq!(error.kind(), kind, "{error}");
    }
    // The destructor of a handler's stream panics; the place is free all the same.
    for _ in 0..3 {
        let mut left = eventually("a place", async || mines.leave(1).await.ok()).await;
        assert_eq!(next(&mut left).await.unwrap().unwrap(), 0);
        drop(left);
    }
    let blocked = eventually("a place", async || {
        mines.block(300).timeout(Duration::from_secs(3)).await.ok()
    })
    .await;
    assert_eq!(all(blocked).await.0, [0, 1, 2]);
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn extreme_settings_are_those_of_a_stream() {
    let setup = Setup::new().await;
    let far = std::time::Instant::now() + Duration::from_secs(86_400 * 365 * 100);
    let client = client_builder(&setup.connection).timeout(Duration::MAX);
    let patient = FeedClient::new(client.build()).with_queue(&setup.queue);
    for window in [0, 1, usize::MAX] {
        let items = setup.feed.count(300).window(window).await.unwrap();
        assert_eq!(all(items).await.0.len(), 300, "{window}");
        let items = patient.count(300).window(window).deadline(far);
        let (read, error) = all(items.await.unwrap()).await;
        assert_eq!(
            (read.len(), error.map(|error| error.to_string())),
            (300, None)
        );
        let items = setup.feed.count(3).timeout(Duration::MAX).window(window);
        assert_eq!(all(items.await.unwrap()).await.0.len(), 3);
        assert_eq!(patient.sum(stream::iter(0..3)).await.unwrap(), 3);
        let said = stream::iter(["a".to_owned()]);
        let heard = patient.echo(said).timeout(Duration::MAX).window(window);
        assert_eq!(all(heard.await.unwrap()).await.0, ["a"]);
    }
    let error = setup.feed.count(1).timeout(Duration::ZERO).await;
    let error = error.expect_err("no time");
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(!error.may_have_executed());
}

#[tokio::test]
async fn streams_of_a_caller_may_end_at_once_or_always_be_ready() {
    let setup = Setup::new().await;
    assert_eq!(setup.feed.sum(stream::empty()).await.unwrap(), 0);
    let heard = setup.feed.echo(stream::empty()).await.unwrap();
    assert!(all(heard).await.0.is_empty());
    // Always ready, on a runtime of one thread: other calls go on, and the call can be dropped.
    let endless = tokio::spawn(setup.feed.sum(stream::repeat(1)));
    eventually("many items", async || {
        (setup.probe.taken() > 5_000).then_some(())
    })
    .await;
    assert_eq!(setup.feed.single(1).await.unwrap(), 1);
    endless.abort();
    setup.probe.until_dropped(3).await;
    let limit = Duration::from_millis(500);
    let deadline = std::time::Instant::now() + limit;
    let never = setup.feed.sum(stream::pending()).deadline(deadline);
    assert_eq!(call_error(never.await).kind(), ErrorKind::Timeout);
    setup.probe.until_dropped(4).await;
}

#[tokio::test]
async fn a_stream_is_read_and_dropped_outside_of_a_runtime() {
    let setup = Setup::new().await;
    let mut items = setup.feed.held().await.unwrap();
    let reading = std::thread::spawn(move || {
        let first = futures_util::FutureExt::now_or_never(items.next());
        drop(items);
        first
    });
    let _ = tokio::task::spawn_blocking(|| reading.join().unwrap()).await;
    setup.probe.until_dropped(1).await;
    // A runtime that ends with the stream in it.
    let other = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let feed = setup.feed.clone();
    let left = tokio::task::spawn_blocking(move || {
        let mut items = other.block_on(async { feed.held().await.unwrap() });
        other.block_on(next(&mut items)).unwrap().unwrap();
        drop(other);
        items
    })
    .await
    .unwrap();
    drop(left);
    setup.probe.until_dropped(2).await;
}

/// Opening a stream again takes a runtime, reading does not.
#[tokio::test]
async fn an_idempotent_stream_is_not_opened_again_outside_of_a_runtime() {
    let broker = broker().await;
    let (connection, serving) = (broker.connect().await, broker.connect().await);
    let queue = unique_queue("mines");
    let server = Server::builder(&serving);
    let server = server.service(MinesDispatcher::new(Field).with_queue(&queue));
    let server = server.build().start().await.unwrap();
    let mines = MinesClient::new(connection.client()).with_queue(&queue);
    let mut quiet = mines.quiet().await.unwrap();
    let (told, read) = tokio::sync::oneshot::channel();
    let reading = std::thread::spawn(move || {
        let item = block_on(quiet.next());
        let _ = told.send((item, block_on(quiet.next()).is_none()));
    });
    server.shutdown().await.unwrap();
    let (item, is_over) = tokio::time::timeout(LONG, read).await.unwrap().unwrap();
    let error = item.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(
        error.to_string().contains("outside of a Tokio runtime"),
        "{error}"
    );
    assert!(is_over);
    reading.join().unwrap();
}

/// Waits for a future without a runtime.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut future = std::pin::pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        std::thread::park();
    }
}

#[tokio::test]
async fn short_streams_leave_nothing_behind() {
    let setup = Setup::with(
        |server| server.max_streams(64),
        |client| client.max_in_flight(64),
    )
    .await;
    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let use_streams = async |streams: usize| {
        for number in 0..streams {
            match number % 5 {
                0 => drop(setup.feed.count(3).await.unwrap()),
                1 => assert_eq!(setup.feed.sum(stream::iter(0..3)).await.unwrap(), 3),
                2 => drop(setup.feed.echo(stream::pending()).await.unwrap()),
                3 => drop(tokio::time::timeout(Duration::ZERO, setup.feed.count(1)).await),
                _ => assert_eq!(all(setup.feed.count(3).await.unwrap()).await.0, [0, 1, 2]),
            }
        }
        // As many as the limits allow, unread.
        let held: Vec<_> = stream::iter(0..50)
            .then(async |_| eventually("a place", async || setup.feed.held().await.ok()).await)
            .collect()
            .await;
        drop(held);
    };
    // Opens the channels that streams, and notices of dropped calls, go through.
    use_streams(10).await;
    let mut before = tasks();
    eventually("the tasks settle", async || {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let last = std::mem::replace(&mut before, tasks());
        (last == before).then_some(())
    })
    .await;
    use_streams(500).await;
    eventually("the tasks end", async || (tasks() <= before).then_some(())).await;
}

/// Layers of clients and servers that do not know streams.
mod layers {
    use rpc_core::middleware::{RetryLayer, RetryPolicy};
    use rpc_core::{Request, Response};

    use super::*;

    #[tokio::test]
    async fn a_layer_may_drop_or_replace_the_response() {
        let setup = Setup::new().await;
        let client = client_builder(&setup.connection).build();
        let dropping = tower::ServiceBuilder::new()
            .then(|response: Result<Response, RpcError>| async move {
                drop(response);
                Err::<Response, _>(RpcError::new(ErrorKind::Cancelled, "refused by a layer"))
            })
            .service(client.clone());
        let feed = FeedClient::new(dropping).with_queue(&setup.queue);
        let error = feed.held().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        setup.probe.until_dropped(1).await;
    }

    /// A layer that sends each request twice, and drops the first response.
    #[tokio::test]
    async fn a_layer_may_send_the_request_twice() {
        let setup = Setup::new().await;
        let client = client_builder(&setup.connection).build();
        let twice = tower::service_fn(move |request: Request| {
            let mut client = client.clone();
            async move {
                let first = tower_service::Service::call(&mut client, request.clone()).await;
                let second = tower_service::Service::call(&mut client, request).await;
                drop(first);
                second
            }
        });
        let feed = FeedClient::new(twice).with_queue(&setup.queue);
        let mut held = feed.held().await.unwrap();
        assert_eq!(next(&mut held).await.unwrap().unwrap(), 0);
        setup.probe.until_dropped(1).await;
        setup.probe.release(1);
        assert_eq!(next(&mut held).await.unwrap().unwrap(), 1);
        let error = call_error(feed.sum(stream::iter(0..3)).await);
        assert_eq!(error.kind(), ErrorKind::Encode);
        assert!(
            error.to_string().contains("cannot be sent again"),
            "{error}"
        );
        assert_eq!(setup.probe.taken(), 3);
    }

    #[tokio::test]
    async fn a_retrying_layer_keeps_the_callers_stream_until_an_item_is_taken() {
        let broker = broker().await;
        let connection = broker.connect().await;
        let queue = unique_queue("mines");
        let server = Server::builder(&connection).max_streams(1);
        let server = server.service(MinesDispatcher::new(Field).with_queue(&queue));
        let _server = server.build().start().await.unwrap();
        let client = client_builder(&connection).build();
        let quiet = MinesClient::new(client.clone()).with_queue(&queue);
        let quiet = quiet.quiet().await.unwrap();
        let refused = Arc::new(AtomicUsize::new(0));
        let count = refused.clone();
        let retrying = tower::ServiceBuilder::new()
            .layer(RetryLayer::new(RetryPolicy::default()))
            .map_err(move |error: RpcError| {
                assert_eq!(error.kind(), ErrorKind::Overloaded);
                count.fetch_add(1, Ordering::SeqCst);
                error
            })
            .service(client);
        let mines = MinesClient::new(retrying).with_queue(&queue);
        let taken = tokio::spawn(mines.take(stream::iter(0..3).map(Bomb)));
        let refusals = async || (refused.load(Ordering::SeqCst) >= 2).then_some(());
        eventually("two attempts", refusals).await;
        drop(quiet);
        let taken = tokio::time::timeout(LONG, taken).await.unwrap().unwrap();
        assert!(matches!(taken, Ok(3)), "{taken:?}");
    }
}

/// Streams in handlers of streams, three deep.
#[rpc]
trait Nest {
    async fn nest(depth: u64) -> impl Stream<Item = Result<u64, String>>;
}

#[derive(Clone)]
struct Nested {
    client: NestClient,
    open: Arc<AtomicUsize>,
}

struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Nest for Nested {
    async fn nest(&self, depth: u64) -> impl Stream<Item = Result<u64, String>> {
        self.open.fetch_add(1, Ordering::SeqCst);
        let counted = Counted(self.open.clone());
        let inner: Pin<Box<dyn Stream<Item = Result<u64, String>> + Send>> = match depth {
            0 => Box::pin(stream::iter((0..).map(Ok))),
            _ => {
                let inner: Streaming<u64, CallError<String>> =
                    self.client.nest(depth - 1).await.unwrap();
                Box::pin(inner.map(|item| item.map_err(|error| error.to_string())))
            }
        };
        inner.map(move |item| {
            let _ = &counted;
            item.map(|n| n + depth)
        })
    }
}

#[tokio::test]
async fn streams_nest_and_end_together() {
    let broker = broker().await;
    let (connection, serving) = (broker.connect().await, broker.connect().await);
    let queue = unique_queue("nest");
    let client = client_builder(&serving).build();
    let nested = Nested {
        client: NestClient::new(client).with_queue(&queue),
        open: Arc::default(),
    };
    let open = nested.open.clone();
    let server = Server::builder(&serving);
    let server = server.service(NestDispatcher::new(nested).with_queue(&queue));
    let server = server.build().start().await.unwrap();
    let nest = NestClient::new(client_builder(&connection).build()).with_queue(&queue);
    let mut items = nest.nest(3).await.unwrap();
    for n in 6..3_000 {
        assert_eq!(next(&mut items).await.unwrap().unwrap(), n);
    }
    assert_eq!(open.load(Ordering::SeqCst), 4);
    drop(items);
    let closed = async || (open.load(Ordering::SeqCst) == 0).then_some(());
    eventually("all handlers stop", closed).await;
    let deadline = std::time::Instant::now() + Duration::from_millis(700);
    let (_, error) = all(nest.nest(3).deadline(deadline).await.unwrap()).await;
    assert!(error.is_some());
    eventually("all handlers stop", closed).await;
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_dropped_server_ends_its_streams_and_those_of_others_go_on() {
    let setup = Setup::new().await;
    let timeout = Duration::from_secs(3);
    let mut held = setup.feed.held().timeout(timeout).await.unwrap();
    next(&mut held).await.unwrap().unwrap();
    let numbers = stream::iter([1]).chain(stream::pending());
    let sum = tokio::spawn(setup.feed.sum(numbers).timeout(timeout));
    // Its caller sends items once the server has accepted the stream. Until then, a stream may start again.
    setup.probe.until_taken(1).await;
    let other = Probe::default();
    let begun = Instant::now();
    drop(setup.server);
    let _other = serve(&setup.serving, &setup.queue, &other, |server| server).await;
    let error = all(held).await.1.expect("no end");
    assert!(
        matches!(error.kind(), ErrorKind::Disconnected | ErrorKind::Timeout),
        "{error}"
    );
    let error = call_error(tokio::time::timeout(LONG, sum).await.unwrap().unwrap());
    assert!(
        matches!(error.kind(), ErrorKind::Disconnected | ErrorKind::Timeout),
        "{error}"
    );
    assert!(begun.elapsed() < timeout * 2, "{:?}", begun.elapsed());
    setup.probe.until_dropped(2).await;
    assert_eq!(other.begun(), 0, "a stream never starts again");
}

#[tokio::test]
async fn the_drain_timeout_bounds_a_stop_with_streams() {
    let drain = Duration::from_millis(500);
    let setup = Setup::with(|server| server.drain_timeout(drain), |client| client).await;
    // A handler that does not end when the items of its caller do.
    let numbers = stream::iter([1]).chain(stream::pending());
    let slow = tokio::spawn(setup.feed.slowly(numbers));
    let mut held = Vec::new();
    for _ in 0..100 {
        held.push(setup.feed.held().await.unwrap());
    }
    setup.probe.until_begun(101).await;
    let begun = Instant::now();
    setup.server.shutdown().await.unwrap();
    assert!(begun.elapsed() < drain * 6, "{:?}", begun.elapsed());
    for held in held {
        let error = all(held).await.1.expect("no end");
        assert_eq!(error.kind(), ErrorKind::Cancelled);
    }
    slow.abort();
}
