//! Servers over time and over losses of their connections.

use std::time::Duration;

use rpc_core::testing::EmbeddedBroker;
use rpc_core::{Connection, Health, ServerBuilder};
use rpc_tests::unique_queue;

use crate::suite::warnings::Warnings;
use crate::suite::{Probe, SampleClient, client, serve};

/// The warnings about a held call, which ends after three minutes.
async fn warnings_of_a_held_call(
    options: impl FnOnce(ServerBuilder) -> ServerBuilder,
) -> Vec<(u64, String)> {
    let warnings = Warnings::listen();
    let connection = Connection::open("memory:").await.unwrap();
    let probe = Probe::default();
    let server = serve(&connection, "slow", &probe, options).await;
    let sample = SampleClient::new(client(&connection)).with_queue("slow");
    let held = sample.hold().timeout(Duration::from_secs(300));
    let held = tokio::spawn(held.into_future());
    probe.until_begun(1).await;
    let mut seen = Vec::new();
    for second in 1..=180 {
        // A call that ends in time.
        assert_eq!(sample.add(1, 1).await.unwrap(), 2);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let lines = warnings.lines().into_iter().skip(seen.len());
        let lines: Vec<_> = lines.map(|line| (second, line)).collect();
        seen.extend(lines);
    }
    probe.release(1);
    held.await.unwrap().unwrap();
    server.shutdown().await.unwrap();
    seen
}

#[tokio::test(start_paused = true)]
async fn a_slow_handler_is_logged_once() {
    let seen = warnings_of_a_held_call(|server| server).await;
    let [(second, line)] = &seen[..] else {
        panic!("{seen:?}");
    };
    assert!((60..=66).contains(second), "{second}");
    for part in [
        "service=\"Sample\"",
        "method=\"hold\"",
        "age=6",
        "correlation_id=",
    ] {
        assert!(line.contains(part), "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn slow_handlers_are_logged_without_introspection_too() {
    let limit = Duration::from_secs(10);
    let seen = warnings_of_a_held_call(|server| server.introspection(false).slow_handler(limit));
    let seen = seen.await;
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert!((10..=11).contains(&seen[0].0), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn handlers_that_do_not_end_before_their_server_are_named() {
    let warnings = Warnings::listen();
    let connection = Connection::open("memory:").await.unwrap();
    let probe = Probe::default();
    let limit = Duration::from_secs(2);
    let server = serve(&connection, "slow", &probe, |server| {
        server.drain_timeout(limit)
    });
    let server = server.await;
    let sample = SampleClient::new(client(&connection)).with_queue("slow");
    let held = tokio::spawn(sample.hold().into_future());
    probe.until_begun(1).await;
    server.shutdown().await.unwrap();
    let lines = warnings.lines();
    let [_, named] = &lines[..] else {
        panic!("{lines:?}");
    };
    for part in ["method=\"hold\"", "correlation_id=", "drain timeout"] {
        assert!(named.contains(part), "{named}");
    }
    held.abort();
}

#[tokio::test(start_paused = true)]
async fn warnings_about_slow_handlers_can_be_switched_off() {
    let seen = warnings_of_a_held_call(|server| server.slow_handler(Duration::ZERO));
    assert_eq!(seen.await, []);
}

#[tokio::test]
async fn health_and_private_queue_follow_the_connection() {
    let broker = EmbeddedBroker::named(unique_queue("health"));
    let connection = Connection::open(&broker.url()).await.unwrap();
    let probe = Probe::default();
    let server = serve(&connection, "sample", &probe, |server| server).await;
    let private_queues = || {
        let mut queues = broker.queues();
        queues.retain(|name| name.starts_with("rpc.instance."));
        queues
    };
    let first = private_queues();
    assert_eq!(first.len(), 1, "{first:?}");
    let mut health = server.health();
    broker.refuse_connections(true);
    broker.drop_connections();
    assert_eq!(health.changed().await, Some(Health::Reconnecting));
    let reason = health.reason().unwrap();
    assert!(reason.contains("embedded broker"), "{reason}");
    broker.refuse_connections(false);
    assert_eq!(health.changed().await, Some(Health::Serving));
    assert_eq!(health.reason(), None);
    let second = private_queues();
    assert_eq!(second.len(), 1, "{second:?}");
    assert_ne!(first, second);

    // A server may be told to stop while it has no connection.
    broker.refuse_connections(true);
    broker.drop_connections();
    assert_eq!(health.changed().await, Some(Health::Reconnecting));
    server.shutdown().await.unwrap();
    assert_eq!(health.current(), Health::Stopped);
}
