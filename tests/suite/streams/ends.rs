//! The ends of streams: each within its time, with a truthful last item.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use rpc_core::testing::Peer;
use rpc_core::{CallError, ErrorKind, Headers};
use rpc_tests::{eventually, unique_queue};
use tokio::time::Instant;

use super::super::client_builder;
use super::{FeedClient, FeedError, LONG, Probe, Setup, all, next, serve};
use crate::{broker, fragile_broker};

#[tokio::test]
async fn items_before_a_panic_arrive_before_it() {
    let setup = Setup::new().await;
    for n in [0, 3, 3_000] {
        let (read, error) = all(setup.feed.panic_at(n).await.unwrap()).await;
        assert_eq!(read, Vec::from_iter(0..n));
        let error = error.expect("a panic is no end");
        assert_eq!(error.kind(), ErrorKind::Panicked);
        assert!(error.may_have_executed());
    }
    assert_eq!(setup.feed.single(1).await.unwrap(), 1);
}

#[tokio::test]
async fn a_dropped_stream_stops_its_handler() {
    let setup = Setup::new().await;
    let mut items = setup.feed.held().await.unwrap();
    next(&mut items).await.unwrap().unwrap();
    drop(items);
    setup.probe.until_dropped(1).await;
    // Unread and full.
    let items = setup.feed.endless(10).await.unwrap();
    setup.probe.settled(Probe::produced).await;
    drop(items);
    setup.probe.until_dropped(2).await;
    // Before the server has answered.
    let call = tokio::spawn(setup.feed.late());
    setup.probe.until_begun(3).await;
    call.abort();
    setup.probe.until_dropped(3).await;
}

#[tokio::test]
async fn a_dropped_call_tells_the_handler_that_its_caller_is_gone() {
    let setup = Setup::new().await;
    let numbers = stream::iter([1, 2]).chain(stream::pending());
    let call = tokio::spawn(setup.feed.sum(numbers));
    setup.probe.until_taken(2).await;
    call.abort();
    setup.probe.until_dropped(1).await;
    assert_eq!(setup.probe.broken(), ["Cancelled"]);

    let said = stream::iter(["a".to_owned()]).chain(stream::pending());
    let mut heard = setup.feed.echo(said).await.unwrap();
    next(&mut heard).await.unwrap().unwrap();
    drop(heard);
    setup.probe.until_dropped(2).await;
}

#[tokio::test]
async fn the_deadline_bounds_the_whole_stream() {
    let setup = Setup::new().await;
    let limit = Duration::from_millis(700);
    let begun = Instant::now();
    let deadline = std::time::Instant::now() + limit;
    let items = setup.feed.held().deadline(deadline).await.unwrap();
    let (read, error) = all(items).await;
    let error = error.expect("the deadline is no end");
    assert_eq!((read, error.kind()), (vec![0], ErrorKind::Timeout));
    assert!(error.may_have_executed());
    assert!(
        (limit..limit * 4).contains(&begun.elapsed()),
        "{:?}",
        begun.elapsed()
    );
    setup.probe.until_dropped(1).await;

    let numbers = stream::iter([1]).chain(stream::pending());
    let deadline = std::time::Instant::now() + limit;
    let error = setup
        .feed
        .sum(numbers)
        .deadline(deadline)
        .await
        .unwrap_err();
    assert!(matches!(error, CallError::Rpc(error) if error.kind() == ErrorKind::Timeout));
    setup.probe.until_dropped(2).await;
}

#[tokio::test]
async fn the_timeout_bounds_the_wait_for_the_first_answer() {
    let setup = Setup::new().await;
    let limit = Duration::from_millis(500);
    let begun = Instant::now();
    let error = setup.feed.late().timeout(limit).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.may_have_executed());
    assert!(
        (limit..limit * 4).contains(&begun.elapsed()),
        "{:?}",
        begun.elapsed()
    );
    setup.probe.until_dropped(1).await;
}

#[tokio::test]
async fn an_idle_stream_outlives_its_timeout() {
    let setup = Setup::new().await;
    let timeout = Duration::from_secs(3);
    let mut items = setup.feed.held().timeout(timeout).await.unwrap();
    assert_eq!(next(&mut items).await.unwrap().unwrap(), 0);
    let numbers = stream::iter([1]).chain(stream::once(Box::pin(async {
        tokio::time::sleep(Duration::from_secs(7)).await;
        2
    })));
    let sum = tokio::spawn(setup.feed.sum(numbers).timeout(timeout));
    // Nothing is sent, and nothing is read, for longer than the timeout.
    tokio::time::sleep(Duration::from_secs(7)).await;
    setup.probe.release(1);
    assert_eq!(next(&mut items).await.unwrap().unwrap(), 1);
    assert_eq!(sum.await.unwrap().unwrap(), 3);
}

#[tokio::test]
async fn the_answer_to_a_callers_stream_is_due_within_the_timeout() {
    let setup = Setup::new().await;
    let limit = Duration::from_secs(3);
    let begun = Instant::now();
    let error = setup
        .feed
        .slowly(stream::iter([1]))
        .timeout(limit)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.may_have_executed());
    assert!(
        (limit..limit * 3).contains(&begun.elapsed()),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn a_stopping_server_ends_its_streams_after_their_items() {
    let setup = Setup::new().await;
    let held = setup.feed.held().await.unwrap();
    let unread = setup.feed.endless(10).await.unwrap();
    let produced = setup.probe.settled(Probe::produced).await;
    let numbers = stream::iter([1, 2]).chain(stream::pending());
    let sum = tokio::spawn(setup.feed.sum(numbers));
    setup.probe.until_taken(2).await;
    let said = stream::iter(["a".to_owned()]).chain(stream::pending());
    let heard = setup.feed.echo(said).await.unwrap();
    let begun = Instant::now();
    setup.server.shutdown().await.unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    let (read, error) = all(held).await;
    assert_eq!(read, [0]);
    assert_eq!(
        error.expect("a stop is no end").kind(),
        ErrorKind::Cancelled
    );
    let (read, error) = all(unread).await;
    assert!(read.len() >= produced - 1, "{} of {produced}", read.len());
    assert_eq!(
        error.expect("a stop is no end").kind(),
        ErrorKind::Cancelled
    );
    // A result would pretend that the handler got all items.
    let sum = tokio::time::timeout(LONG, sum).await.unwrap().unwrap();
    assert!(
        matches!(&sum, Err(CallError::Rpc(error)) if error.kind() == ErrorKind::Cancelled),
        "{sum:?}"
    );
    assert_eq!(setup.probe.broken()[0], "Cancelled");
    let (_, error) = all(heard).await;
    let error = error.map(|error| error.kind());
    assert!(
        matches!(error, None | Some(ErrorKind::Cancelled)),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_handler_with_all_items_gives_its_result_while_its_server_stops() {
    let setup = Setup::new().await;
    let sum = tokio::spawn(setup.feed.slowly(stream::iter([1, 2, 3])));
    setup.probe.until_begun(1).await;
    setup.probe.release(3);
    setup.probe.until_taken(3).await;
    // The handler has taken the items, and waits before it looks for the end, which was sent before this call.
    setup.feed.single(1).await.unwrap();
    let mut health = setup.server.health();
    let stopping = tokio::spawn(setup.server.shutdown());
    health.changed().await;
    setup.probe.release(1);
    assert_eq!(sum.await.unwrap().unwrap(), 6);
    stopping.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_server_that_dies_ends_its_streams() {
    let setup = Setup::new().await;
    let timeout = Duration::from_secs(6);
    let mut items = setup.feed.held().timeout(timeout).await.unwrap();
    next(&mut items).await.unwrap().unwrap();
    let numbers = stream::iter([1]).chain(stream::pending());
    let sum = tokio::spawn(setup.feed.sum(numbers).timeout(timeout));
    setup.probe.until_begun(2).await;
    let begun = Instant::now();
    drop(setup.server);
    setup.serving.close().await;
    let (_, error) = all(items).await;
    let error = error.expect("a death is no end");
    assert_eq!(error.kind(), ErrorKind::Disconnected, "{error}");
    assert!(error.may_have_executed());
    let error = sum.await.unwrap().unwrap_err();
    assert!(matches!(error, CallError::Rpc(error) if error.kind() == ErrorKind::Disconnected));
    assert!(begun.elapsed() < timeout, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_caller_that_dies_stops_its_handlers() {
    let setup = Setup::new().await;
    let timeout = Duration::from_secs(6);
    let mut items = setup.feed.held().timeout(timeout).await.unwrap();
    next(&mut items).await.unwrap().unwrap();
    let numbers = stream::iter([1]).chain(stream::pending());
    let sum = tokio::spawn(setup.feed.sum(numbers).timeout(timeout));
    setup.probe.until_taken(1).await;
    setup.connection.close().await;
    let (_, error) = all(items).await;
    let kind = error.expect("a cut is no end").kind();
    assert!(
        matches!(kind, ErrorKind::Closed | ErrorKind::Disconnected),
        "{kind:?}"
    );
    assert!(sum.await.unwrap().is_err());
    setup.probe.until_dropped(2).await;
}

#[tokio::test]
async fn a_cut_of_the_callers_connection_ends_its_streams_at_once() {
    let (fragile, cut) = fragile_broker().await;
    let connection = fragile.connect().await;
    let (queue, probe) = (unique_queue("feed"), Probe::default());
    let _server = serve(&connection, &queue, &probe, |server| server).await;
    let client = client_builder(&connection).build();
    let feed = FeedClient::new(client).with_queue(&queue);
    let mut items = feed.held().await.unwrap();
    next(&mut items).await.unwrap().unwrap();
    let mut once = feed.held_once().await.unwrap();
    next(&mut once).await.unwrap().unwrap();
    let begun = Instant::now();
    cut().await;
    for items in [items, once] {
        let error = all(items).await.1.expect("a cut is no end");
        assert_eq!(error.kind(), ErrorKind::Disconnected);
        assert!(error.may_have_executed());
    }
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    probe.until_dropped(2).await;
    // Not started again, on this server or another.
    assert_eq!(probe.begun(), 2);
    eventually("the connection heals", async || feed.single(1).await.ok()).await;
}

#[tokio::test]
async fn an_idempotent_stream_is_opened_again_before_its_first_item() {
    let broker = broker().await;
    let (connection, serving) = (broker.connect().await, broker.connect().await);
    let queue = unique_queue("feed");
    let (first, second) = (Probe::default(), Probe::default());
    let stopping = serve(&serving, &queue, &first, |server| server).await;
    let feed = FeedClient::new(connection.client()).with_queue(&queue);
    let mut again = feed.held_again().await.unwrap();
    let mut begun = feed.held_again().await.unwrap();
    // One of the two streams gets its first item.
    first.release(1);
    let read = tokio::select! {
        item = next(&mut again) => { std::mem::swap(&mut again, &mut begun); item }
        item = next(&mut begun) => item,
    };
    assert_eq!(read.unwrap().unwrap(), 0);
    let mut other = feed.held().await.unwrap();
    next(&mut other).await.unwrap().unwrap();
    let _other = serve(&broker.connect().await, &queue, &second, |server| server).await;
    stopping.shutdown().await.unwrap();
    for interrupted in [begun, other] {
        let (read, error) = all(interrupted).await;
        let kind = error.expect("a stop is no end").kind();
        assert_eq!((read.len(), kind), (0, ErrorKind::Cancelled));
    }
    second.release(2);
    assert_eq!(next(&mut again).await.unwrap().unwrap(), 0);
    assert_eq!(next(&mut again).await.unwrap().unwrap(), 1);
    assert_eq!((first.begun(), second.begun()), (3, 1));
}

#[tokio::test]
async fn a_stream_to_no_queue_is_unroutable() {
    let setup = Setup::new().await;
    let feed = FeedClient::new(client_builder(&setup.connection).build())
        .with_queue(unique_queue("nowhere"));
    let error = feed.count(1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unroutable);
    assert!(!error.may_have_executed());
    let error = feed.sum(stream::iter(0..3)).await.unwrap_err();
    assert!(matches!(error, CallError::Rpc(error) if error.kind() == ErrorKind::Unroutable));
}

#[tokio::test]
async fn an_item_that_cannot_be_decoded_is_the_last() {
    /// The same methods with other types of items.
    #[rpc_core::rpc(name = "Feed")]
    trait Other {
        async fn count(to: u64) -> impl rpc_core::Stream<Item = String>;
        async fn sum(numbers: impl rpc_core::Stream<Item = String>) -> Result<u64, FeedError>;
    }
    struct Unused;
    impl Other for Unused {
        async fn count(&self, _: u64) -> impl rpc_core::Stream<Item = String> {
            stream::empty()
        }
        async fn sum(&self, _: rpc_core::Incoming<String>) -> Result<u64, FeedError> {
            Ok(0)
        }
    }
    let _dispatcher = OtherDispatcher::new(Unused);
    let setup = Setup::new().await;
    let client = client_builder(&setup.connection).build();
    let other = OtherClient::new(client).with_queue(&setup.queue);
    let (read, error) = all(other.count(3).await.unwrap()).await;
    let error = error.expect("a wrong type is no end");
    assert_eq!((read.len(), error.kind()), (0, ErrorKind::BadReply));
    assert!(error.may_have_executed());
    let words = stream::iter(["one".to_owned()]).chain(stream::pending());
    let error = other.sum(words).await.unwrap_err();
    assert!(
        matches!(error, CallError::App(FeedError::Broken { at: 0 })),
        "{error:?}"
    );
    assert_eq!(setup.probe.broken(), ["BadRequest"]);
}

/// A reply queue that vanishes: the items come back, and the handler stops.
#[tokio::test]
async fn items_that_come_back_stop_the_handler() {
    let setup = Setup::new().await;
    let reply_to = unique_queue("rpc.reply.");
    let mut caller = Peer::open(&setup.connection, &reply_to, &[]).await.unwrap();
    let mut headers = Headers::new();
    for (name, value) in [
        ("rpc-items", 10_i64),
        ("rpc-bytes", 1_000),
        ("rpc-silence", 30_000),
    ] {
        headers.insert(name, value);
    }
    let request = rpc_core::testing::PeerMessage {
        kind: Some("held".to_owned()),
        correlation_id: Some("1".to_owned()),
        reply_to: Some(reply_to),
        content_type: Some("application/json".to_owned()),
        headers,
        body: "{}".into(),
        ..Default::default()
    };
    caller.publish(&setup.queue, request).await.unwrap();
    for kind in ["accepted", "items"] {
        let message = caller.next().await.unwrap();
        assert_eq!(message.kind.as_deref(), Some(kind));
    }
    drop(caller);
    setup.probe.release(1);
    setup.probe.until_dropped(1).await;
}
