//! Dropped calls: nobody works for callers who have gone, unless they are told to.

use std::time::Duration;

use rpc_core::{Client, ErrorKind};
use rpc_tests::eventually;

use super::{
    BenchClient, BenchDispatcher, Probe, Setup, client, client_builder, serve, until_late,
};
use crate::broker;

/// Sends a call that is held, waits until it has begun, and drops it.
async fn drop_a_held_call(bench: &BenchClient, probe: &Probe) {
    let begun = probe.begun();
    let call = tokio::spawn(bench.hold().into_future());
    probe.until_begun(begun + 1).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
}

#[tokio::test]
async fn the_handler_of_a_dropped_call_is_stopped() {
    let setup = broker().await.bench().await;
    drop_a_held_call(&setup.bench, &setup.probe).await;
    setup.probe.until_dropped(1).await;
    assert_eq!(setup.bench.add(1, 1).await.unwrap(), 2);
}

#[tokio::test]
async fn every_server_of_the_queue_is_told() {
    let broker = broker().await;
    let Setup {
        bench,
        probe,
        queue,
        connection,
        server: _server,
    } = broker.bench_with(|server| server.prefetch(1)).await;
    let other = broker.connect().await;
    let _other = serve(&other, &queue, &probe, |server| server.prefetch(1)).await;
    let calls: Vec<_> = (0..2)
        .map(|_| tokio::spawn(bench.hold().into_future()))
        .collect();
    probe.until_begun(2).await;
    for call in &calls {
        call.abort();
    }
    probe.until_dropped(2).await;
    drop(connection);
}

#[tokio::test]
async fn a_dropped_call_that_waits_in_the_queue_is_not_run() {
    let setup = broker().await.bench_with(|server| server.prefetch(1)).await;
    not_run_behind_another(&setup).await;
}

#[tokio::test]
async fn a_dropped_call_that_waits_in_the_server_is_not_run() {
    let setup = broker()
        .await
        .bench_with(|server| server.concurrency(1))
        .await;
    not_run_behind_another(&setup).await;
}

/// On a server that runs one handler at a time.
async fn not_run_behind_another(setup: &Setup) {
    let first = tokio::spawn(setup.bench.hold().into_future());
    setup.probe.until_begun(1).await;
    let dropped = tokio::spawn(setup.bench.hold().into_future());
    let behind = tokio::spawn(setup.bench.add(1, 1).into_future());
    // Sent after the two, and known to be at the broker when it comes back.
    let returned = BenchClient::new(client(&setup.connection)).with_queue("nobody's");
    assert_eq!(
        returned.hold().await.unwrap_err().kind(),
        ErrorKind::Unroutable
    );
    dropped.abort();
    assert!(dropped.await.unwrap_err().is_cancelled());
    // The notice has a channel of its own, so nothing that can be sent here comes surely behind it.
    tokio::time::sleep(Duration::from_millis(300)).await;
    setup.probe.release(2);
    assert_eq!(first.await.unwrap().unwrap(), 1);
    assert_eq!(behind.await.unwrap().unwrap(), 2);
    assert_eq!(setup.probe.begun(), 1);
}

#[tokio::test]
async fn a_blocking_handler_sees_that_its_call_was_dropped() {
    let setup = broker().await.bench().await;
    let call = tokio::spawn(setup.bench.block_until_cancelled().into_future());
    setup.probe.until_begun(1).await;
    call.abort();
    setup.probe.until_dropped(1).await;
}

#[tokio::test]
async fn a_blocking_handler_sees_that_its_deadline_has_passed() {
    let setup = broker().await.bench().await;
    // So that no time is spent on the reply queue.
    setup.bench.add(1, 2).await.unwrap();
    let call = setup.bench.block_until_cancelled();
    // Its answer may be in time, just: the two ends do not see the deadline in the same instant.
    let _ = call.timeout(Duration::from_millis(200)).await;
    setup.probe.until_dropped(1).await;
}

#[tokio::test]
async fn without_a_broker_a_dropped_call_is_cancelled_too() {
    let probe = Probe::default();
    let bench = BenchClient::new(BenchDispatcher::new(probe.clone()));
    let held = tokio::spawn(bench.hold().into_future());
    let blocked = tokio::spawn(bench.block_until_cancelled().into_future());
    probe.until_begun(2).await;
    held.abort();
    blocked.abort();
    probe.until_dropped(2).await;
}

#[tokio::test]
async fn a_client_may_leave_dropped_calls_alone() {
    let setup = broker().await.bench().await;
    let client = client_builder(&setup.connection).cancellation(false);
    leaves_it_alone(&setup, client.build()).await;
}

#[tokio::test]
async fn a_server_may_ignore_that_calls_were_dropped() {
    let setup = broker()
        .await
        .bench_with(|server| server.cancellation(false))
        .await;
    leaves_it_alone(&setup, client(&setup.connection)).await;
}

async fn leaves_it_alone(setup: &Setup, client: Client) {
    let bench = BenchClient::new(client).with_queue(&setup.queue);
    drop_a_held_call(&bench, &setup.probe).await;
    // Time for a notice, if there were one.
    tokio::time::sleep(Duration::from_millis(300)).await;
    setup.probe.release(1);
    until_late(&super::client(&setup.connection), 1).await;
    assert_eq!(setup.bench.add(1, 1).await.unwrap(), 2);
}

#[tokio::test]
async fn many_calls_dropped_at_once_are_all_cancelled() {
    const CALLS: usize = 6_000;
    let setup = broker()
        .await
        .bench_with(|server| server.prefetch(u16::try_from(CALLS).unwrap()))
        .await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..CALLS {
        calls.spawn(setup.bench.hold().into_future());
    }
    setup.probe.until_begun(CALLS).await;
    calls.shutdown().await;
    setup.probe.until_dropped(CALLS).await;
    eventually("the server is free again", async || {
        setup.bench.add(1, 1).await.ok()
    })
    .await;
}
