//! Dropped calls: no work for callers that are gone, except where cancellation is switched off.

use std::time::Duration;

use rpc_core::{Client, ErrorKind};
use rpc_tests::eventually;

use super::{
    Probe, SampleClient, SampleDispatcher, Setup, client, client_builder, serve, until_late,
};
use crate::broker;

/// Sends a call to `hold`, waits until its handler runs, and drops the call.
async fn drop_a_held_call(sample: &SampleClient, probe: &Probe) {
    let begun = probe.begun();
    let call = tokio::spawn(sample.hold().into_future());
    probe.until_begun(begun + 1).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
}

#[tokio::test]
async fn dropping_a_call_stops_its_handler() {
    let setup = broker().await.sample().await;
    drop_a_held_call(&setup.sample, &setup.probe).await;
    setup.probe.until_dropped(1).await;
    assert_eq!(setup.sample.add(1, 1).await.unwrap(), 2);
}

#[tokio::test]
async fn all_servers_of_a_queue_receive_cancel_notices() {
    let broker = broker().await;
    let Setup {
        sample,
        probe,
        queue,
        connection,
        server: _server,
    } = broker.sample_with(|server| server.prefetch(1)).await;
    let other = broker.connect().await;
    let _other = serve(&other, &queue, &probe, |server| server.prefetch(1)).await;
    let calls: Vec<_> = (0..2)
        .map(|_| tokio::spawn(sample.hold().into_future()))
        .collect();
    probe.until_begun(2).await;
    for call in &calls {
        call.abort();
    }
    probe.until_dropped(2).await;
    drop(connection);
}

#[tokio::test]
async fn a_dropped_call_in_the_queue_does_not_run() {
    let setup = broker()
        .await
        .sample_with(|server| server.prefetch(1))
        .await;
    not_run_behind_another(&setup).await;
}

#[tokio::test]
async fn a_dropped_call_that_waits_in_the_server_does_not_run() {
    let setup = broker()
        .await
        .sample_with(|server| server.concurrency(1))
        .await;
    not_run_behind_another(&setup).await;
}

/// Drops a call that waits at a server with a concurrency of one.
async fn not_run_behind_another(setup: &Setup) {
    let first = tokio::spawn(setup.sample.hold().into_future());
    setup.probe.until_begun(1).await;
    let dropped = tokio::spawn(setup.sample.hold().into_future());
    let behind = tokio::spawn(setup.sample.add(1, 1).into_future());
    // The broker receives this call after the two others.
    let returned = SampleClient::new(client(&setup.connection)).with_queue("missing");
    assert_eq!(
        returned.hold().await.unwrap_err().kind(),
        ErrorKind::Unroutable
    );
    dropped.abort();
    assert!(dropped.await.unwrap_err().is_cancelled());
    // Cancel notices have a channel of their own, so no message from here is certain to arrive after a notice.
    tokio::time::sleep(Duration::from_millis(300)).await;
    setup.probe.release(2);
    assert_eq!(first.await.unwrap().unwrap(), 1);
    assert_eq!(behind.await.unwrap().unwrap(), 2);
    assert_eq!(setup.probe.begun(), 1);
}

#[tokio::test]
async fn a_blocking_handler_sees_the_cancellation_of_its_call() {
    let setup = broker().await.sample().await;
    let call = tokio::spawn(setup.sample.block_until_cancelled().into_future());
    setup.probe.until_begun(1).await;
    call.abort();
    setup.probe.until_dropped(1).await;
}

#[tokio::test]
async fn a_blocking_handler_sees_that_its_deadline_has_passed() {
    let setup = broker().await.sample().await;
    // Opens the reply queue before the timed call.
    setup.sample.add(1, 2).await.unwrap();
    let call = setup.sample.block_until_cancelled();
    // The response may just be in time: client and server do not see the deadline in the same instant.
    let _ = call.timeout(Duration::from_millis(200)).await;
    setup.probe.until_dropped(1).await;
}

#[tokio::test]
async fn dropping_a_direct_call_cancels_it() {
    let probe = Probe::default();
    let sample = SampleClient::new(SampleDispatcher::new(probe.clone()));
    let held = tokio::spawn(sample.hold().into_future());
    let blocked = tokio::spawn(sample.block_until_cancelled().into_future());
    probe.until_begun(2).await;
    held.abort();
    blocked.abort();
    probe.until_dropped(2).await;
}

#[tokio::test]
async fn a_client_may_disable_cancellation() {
    let setup = broker().await.sample().await;
    let client = client_builder(&setup.connection).cancellation(false);
    leaves_it_alone(&setup, client.build()).await;
}

#[tokio::test]
async fn a_server_may_disable_cancellation() {
    let setup = broker()
        .await
        .sample_with(|server| server.cancellation(false))
        .await;
    leaves_it_alone(&setup, client(&setup.connection)).await;
}

async fn leaves_it_alone(setup: &Setup, client: Client) {
    let sample = SampleClient::new(client).with_queue(&setup.queue);
    drop_a_held_call(&sample, &setup.probe).await;
    // Long enough for a cancel notice to arrive.
    tokio::time::sleep(Duration::from_millis(300)).await;
    setup.probe.release(1);
    until_late(&super::client(&setup.connection), 1).await;
    assert_eq!(setup.sample.add(1, 1).await.unwrap(), 2);
}

#[tokio::test]
async fn calls_that_were_dropped_before_their_connection_was_closed_are_cancelled() {
    let broker = broker().await;
    let setup = broker.sample().await;
    for call in 1..=5 {
        let connection = broker.connect().await;
        let sample = SampleClient::new(client(&connection)).with_queue(&setup.queue);
        drop_a_held_call(&sample, &setup.probe).await;
        connection.close().await;
        setup.probe.until_dropped(call).await;
    }
}

#[tokio::test]
async fn many_calls_dropped_at_once_are_all_cancelled() {
    const CALLS: usize = 6_000;
    let setup = broker()
        .await
        .sample_with(|server| server.prefetch(u16::try_from(CALLS).unwrap()))
        .await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..CALLS {
        calls.spawn(setup.sample.hold().into_future());
    }
    setup.probe.until_begun(CALLS).await;
    calls.shutdown().await;
    setup.probe.until_dropped(CALLS).await;
    eventually("the server is free again", async || {
        setup.sample.add(1, 1).await.ok()
    })
    .await;
}
