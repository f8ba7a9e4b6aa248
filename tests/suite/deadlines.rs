//! Calls end by their deadline, and nobody works for callers who have gone.

use std::time::{Duration, Instant};

use rpc_core::ErrorKind;
use rpc_tests::unique_queue;

use super::{BenchClient, Probe, client, client_builder, serve, until_late};
use crate::broker;

#[tokio::test]
async fn a_call_ends_at_its_deadline_and_its_handler_with_it() {
    let setup = broker().await.bench().await;
    // So that no time is spent on the reply queue.
    setup.bench.add(1, 2).await.unwrap();
    let started = Instant::now();
    let error = setup
        .bench
        .hold()
        .timeout(Duration::from_millis(100))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.is_timeout() && error.may_have_executed());
    assert!(started.elapsed() >= Duration::from_millis(100));
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
    setup.probe.until_dropped(1).await;
    assert_eq!(
        setup.bench.add(1, 1).await.unwrap(),
        2,
        "the client goes on"
    );
}

#[tokio::test]
async fn the_methods_timeout_holds_unless_the_call_has_its_own() {
    let setup = broker().await.bench().await;
    let error = setup.bench.hold_briefly().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    // Whether the first has begun depends on how busy the machine is.
    let begun = setup.probe.begun();
    let patient = tokio::spawn(
        setup
            .bench
            .hold_briefly()
            .timeout(Duration::from_secs(20))
            .into_future(),
    );
    setup.probe.until_begun(begun + 1).await;
    tokio::time::sleep(Duration::from_millis(100)).await; // Twice the method's own timeout.
    setup.probe.release(2);
    patient.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_clients_timeout_holds_where_nothing_else_is_said() {
    let setup = broker().await.bench().await;
    let client = client_builder(&setup.connection)
        .timeout(Duration::from_millis(50))
        .build();
    let bench = BenchClient::new(client).with_queue(&setup.queue);
    assert_eq!(bench.hold().await.unwrap_err().kind(), ErrorKind::Timeout);
}

#[tokio::test]
async fn a_deadline_is_a_moment() {
    let setup = broker().await.bench().await;
    let deadline = Instant::now() + Duration::from_millis(50);
    let error = setup.bench.hold().deadline(deadline).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(Instant::now() >= deadline);
}

#[tokio::test]
async fn a_call_without_time_is_never_sent() {
    let setup = broker().await.bench().await;
    let calls = [
        setup.bench.hold().timeout(Duration::ZERO),
        setup
            .bench
            .hold()
            .deadline(Instant::now() - Duration::from_secs(1)),
    ];
    for call in calls {
        let error = call.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(!error.may_have_executed());
    }
    setup.bench.add(1, 1).await.unwrap();
    assert_eq!(setup.probe.begun(), 0);
}

#[tokio::test]
async fn the_longest_timeout_is_no_problem() {
    let setup = broker().await.bench().await;
    assert_eq!(
        setup.bench.add(1, 1).timeout(Duration::MAX).await.unwrap(),
        2
    );
}

#[tokio::test]
async fn a_request_that_expired_in_the_queue_is_not_run() {
    let broker = broker().await;
    let setup = broker.bench().await;
    setup.server.shutdown().await.unwrap();
    let error = setup
        .bench
        .hold()
        .timeout(Duration::from_millis(50))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    let _server = serve(&setup.connection, &setup.queue, &setup.probe, |server| {
        server
    })
    .await;
    assert_eq!(setup.bench.add(1, 1).await.unwrap(), 2);
    assert_eq!(setup.probe.begun(), 0);
}

#[tokio::test]
async fn a_request_that_expired_behind_others_is_not_run() {
    let setup = broker().await.bench_with(|server| server.prefetch(1)).await;
    let first = tokio::spawn(setup.bench.hold().into_future());
    setup.probe.until_begun(1).await;
    setup
        .bench
        .hold()
        .timeout(Duration::from_millis(50))
        .await
        .unwrap_err();
    setup.probe.release(1);
    assert_eq!(first.await.unwrap().unwrap(), 1);
    assert_eq!(setup.bench.add(1, 1).await.unwrap(), 2);
    assert_eq!(setup.probe.begun(), 1);
}

#[tokio::test]
async fn a_dropped_call_leaves_the_others_alone() {
    let setup = broker().await.bench().await;
    let dropped = tokio::spawn(setup.bench.hold().into_future());
    setup.probe.until_begun(1).await;
    dropped.abort();
    assert!(dropped.await.unwrap_err().is_cancelled());
    let kept = tokio::spawn(setup.bench.hold().into_future());
    setup.probe.until_begun(2).await;
    setup.probe.release(2);
    assert_eq!(kept.await.unwrap().unwrap(), 2);
    until_late(&client(&setup.connection), 1).await;
}

#[tokio::test]
async fn a_call_that_was_never_awaited_sends_nothing() {
    let broker = broker().await;
    let connection = broker.connect().await;
    let queue = unique_queue("unawaited");
    let probe = Probe::default();
    let _server = serve(&connection, &queue, &probe, |server| server).await;
    let bench = BenchClient::new(client(&connection)).with_queue(&queue);
    drop(bench.hold());
    bench.add(1, 1).await.unwrap();
    assert_eq!(probe.begun(), 0);
}
