//! Hooks of tests into the embedded broker's messages.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rpc_core::testing::{EmbeddedBroker, Fate, QueueState};
use rpc_core::{Connection, ErrorKind, rpc};
use rpc_tests::{eventually, unique_queue};
use tokio::task::JoinSet;

use crate::suite::{Probe, SampleClient, Setup, client, serve, start};

async fn setup() -> (EmbeddedBroker, Setup) {
    let broker = EmbeddedBroker::named(unique_queue("hooks"));
    let connection = Connection::open(&broker.url()).await.unwrap();
    let queue = unique_queue("sample");
    let probe = Probe::default();
    let server = serve(&connection, &queue, &probe, |server| server.prefetch(1)).await;
    let sample = SampleClient::new(client(&connection)).with_queue(&queue);
    let setup = Setup {
        sample,
        probe,
        server,
        queue,
        connection,
    };
    (broker, setup)
}

#[tokio::test(start_paused = true)]
async fn the_hook_decides_on_messages_that_waited_for_a_blocked_broker() {
    let (broker, setup) = setup().await;
    assert_eq!(setup.sample.add(1, 1).await.unwrap(), 2);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kinds = seen.clone();
    broker.on_publish(move |message| {
        let kind = message.kind.unwrap_or_default();
        kinds.lock().unwrap().push(kind.to_owned());
        match kind {
            "add" => Fate::Lose,
            "result" => Fate::Delay(Duration::from_secs(1)),
            _ => Fate::Deliver,
        }
    });
    broker.block("low on memory");
    let lost = tokio::spawn(setup.sample.add(1, 1).into_future());
    let late = tokio::spawn(setup.sample.renamed().into_future());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(seen.lock().unwrap().is_empty());
    // Unblocks from outside of the runtime of the delayed delivery.
    let unblocking = std::thread::spawn(move || broker.unblock());
    unblocking.join().unwrap();
    assert_eq!(late.await.unwrap().unwrap(), "renamed");
    let error = lost.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(
        *seen.lock().unwrap(),
        ["add", "renamed.on-the-wire", "result"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_blocked_broker_returns_no_unroutable_requests() {
    let (broker, setup) = setup().await;
    assert_eq!(setup.sample.add(1, 1).await.unwrap(), 2);
    broker.block("low on memory");
    let nowhere = setup.sample.clone().with_queue("nowhere");
    let early = nowhere.add(1, 1).timeout(Duration::from_secs(1));
    assert_eq!(early.await.unwrap_err().kind(), ErrorKind::Timeout);
    let waiting = tokio::spawn(nowhere.add(1, 1).into_future());
    let confirmed = tokio::spawn(nowhere.note("unroutable".to_owned()).into_future());
    tokio::time::sleep(Duration::from_secs(1)).await;
    broker.unblock();
    for error in [
        waiting.await.unwrap().unwrap_err(),
        confirmed.await.unwrap().unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unroutable);
    }
}

#[tokio::test]
async fn a_panicking_hook_delivers_the_message() {
    let (broker, setup) = setup().await;
    let mut left = 4;
    broker.on_publish(move |message| {
        if left > 0 {
            left -= 1;
            panic!("a {:?} is unexpected", message.kind);
        }
        Fate::Lose
    });
    // The requests and replies of two calls: the server takes one request at a time, and acknowledges it.
    assert_eq!(setup.sample.add(1, 1).await.unwrap(), 2);
    assert_eq!(setup.sample.add(2, 2).await.unwrap(), 4);
    let lost = setup.sample.add(3, 3).timeout(Duration::from_millis(50));
    assert_eq!(lost.await.unwrap_err().kind(), ErrorKind::Timeout);
    broker.on_publish(|_| Fate::Deliver);
    assert_eq!(setup.sample.add(4, 4).await.unwrap(), 8);
    eventually("all deliveries are acknowledged", async || {
        let state = broker.queue(&setup.queue).unwrap();
        let QueueState {
            ready, unsettled, ..
        } = state;
        ((ready, unsettled) == (0, 0)).then_some(())
    })
    .await;
    setup.server.shutdown().await.unwrap();
}

#[rpc]
trait Twice {
    #[rpc(idempotent)]
    async fn twice(n: u64) -> u64;
}

struct Doubling;
impl Twice for Doubling {
    async fn twice(&self, n: u64) -> u64 {
        2 * n
    }
}

/// Numbers of request messages and reply messages for a hundred concurrent calls.
async fn messages(coalesce: Option<usize>) -> (usize, usize) {
    let broker = EmbeddedBroker::named(unique_queue("hooks"));
    let connection = Connection::open(&broker.url()).await.unwrap();
    let dispatcher = TwiceDispatcher::new(Doubling).with_queue("twice");
    let _server = start(&connection, dispatcher).await;
    let builder = connection.client_builder();
    let builder = match coalesce {
        None => builder,
        Some(limit) => builder.coalesce(limit),
    };
    let twice = TwiceClient::new(builder.build()).with_queue("twice");
    let counts = Arc::new(Mutex::new((0, 0)));
    let counted = counts.clone();
    broker.on_publish(move |message| {
        let mut counted = counted.lock().unwrap();
        match message.queue {
            "twice" => counted.0 += 1,
            _ => counted.1 += 1,
        }
        Fate::Deliver
    });
    let mut calls = JoinSet::new();
    for n in 0..100 {
        calls.spawn(twice.twice(n).into_future());
    }
    while let Some(call) = calls.join_next().await {
        call.unwrap().unwrap();
    }
    *counts.lock().unwrap()
}

#[tokio::test]
async fn calls_share_messages_within_the_limit_of_their_client() {
    assert_eq!(messages(Some(1)).await, (100, 100));
    let (requests, replies) = messages(None).await;
    assert_eq!(requests, 100);
    assert!(replies <= 25, "{replies}");
    let (requests, replies) = messages(Some(64)).await;
    assert!(requests <= 25 && replies <= 25, "{requests} {replies}");
}

#[tokio::test(start_paused = true)]
async fn batching_delays_no_call() {
    let begun = tokio::time::Instant::now();
    for _ in 0..100 {
        messages(Some(64)).await;
    }
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn a_replaced_hook_may_own_a_connection() {
    let (broker, setup) = setup().await;
    let owned = Connection::open(&broker.url()).await.unwrap();
    broker.on_publish(move |_| {
        let _ = &owned;
        Fate::Deliver
    });
    assert_eq!(setup.sample.add(1, 1).await.unwrap(), 2);
    broker.on_publish(|_| Fate::Deliver);
    assert_eq!(setup.sample.add(2, 2).await.unwrap(), 4);
}
