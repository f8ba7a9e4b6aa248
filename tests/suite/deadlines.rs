//! Calls end by their deadlines, and servers do no work for callers that are gone.

use std::time::{Duration, Instant};

use rpc_core::ErrorKind;
use rpc_tests::unique_queue;

use super::{Probe, SampleClient, client, client_builder, serve, until_late};
use crate::broker;

#[tokio::test]
async fn a_deadline_ends_the_call_and_its_handler() {
    let setup = broker().await.sample().await;
    // Opens the reply queue before the timed call.
    setup.sample.add(1, 2).await.unwrap();
    let started = Instant::now();
    let error = setup
        .sample
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
        setup.sample.add(1, 1).await.unwrap(),
        2,
        "the client still works"
    );
}

#[tokio::test]
async fn a_methods_timeout_applies_unless_the_call_sets_its_own() {
    let setup = broker().await.sample().await;
    let error = setup.sample.hold_briefly().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    // The first handler has started or not, depending on the load of the machine.
    let begun = setup.probe.begun();
    let patient = tokio::spawn(
        setup
            .sample
            .hold_briefly()
            .timeout(Duration::from_secs(20))
            .into_future(),
    );
    setup.probe.until_begun(begun + 1).await;
    tokio::time::sleep(Duration::from_millis(100)).await; // Twice the timeout of the method.
    setup.probe.release(2);
    patient.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_clients_timeout_applies_by_default() {
    let setup = broker().await.sample().await;
    let client = client_builder(&setup.connection)
        .timeout(Duration::from_millis(50))
        .build();
    let sample = SampleClient::new(client).with_queue(&setup.queue);
    assert_eq!(sample.hold().await.unwrap_err().kind(), ErrorKind::Timeout);
}

#[tokio::test]
async fn a_call_may_set_a_deadline() {
    let setup = broker().await.sample().await;
    let deadline = Instant::now() + Duration::from_millis(50);
    let error = setup.sample.hold().deadline(deadline).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(Instant::now() >= deadline);
}

#[tokio::test]
async fn a_call_without_time_left_is_not_sent() {
    let setup = broker().await.sample().await;
    let calls = [
        setup.sample.hold().timeout(Duration::ZERO),
        setup
            .sample
            .hold()
            .deadline(Instant::now() - Duration::from_secs(1)),
    ];
    for call in calls {
        let error = call.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(!error.may_have_executed());
    }
    setup.sample.add(1, 1).await.unwrap();
    assert_eq!(setup.probe.begun(), 0);
}

#[tokio::test]
async fn the_longest_timeout_is_accepted() {
    let setup = broker().await.sample().await;
    assert_eq!(
        setup.sample.add(1, 1).timeout(Duration::MAX).await.unwrap(),
        2
    );
}

#[tokio::test]
async fn a_request_that_expired_in_the_queue_does_not_run() {
    let broker = broker().await;
    let setup = broker.sample().await;
    setup.server.shutdown().await.unwrap();
    let error = setup
        .sample
        .hold()
        .timeout(Duration::from_millis(50))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    let _server = serve(&setup.connection, &setup.queue, &setup.probe, |server| {
        server
    })
    .await;
    assert_eq!(setup.sample.add(1, 1).await.unwrap(), 2);
    assert_eq!(setup.probe.begun(), 0);
}

#[tokio::test]
async fn a_request_that_expired_behind_others_does_not_run() {
    let setup = broker()
        .await
        .sample_with(|server| server.prefetch(1))
        .await;
    let first = tokio::spawn(setup.sample.hold().into_future());
    setup.probe.until_begun(1).await;
    setup
        .sample
        .hold()
        .timeout(Duration::from_millis(50))
        .await
        .unwrap_err();
    setup.probe.release(1);
    assert_eq!(first.await.unwrap().unwrap(), 1);
    assert_eq!(setup.sample.add(1, 1).await.unwrap(), 2);
    assert_eq!(setup.probe.begun(), 1);
}

#[tokio::test]
async fn dropping_a_call_does_not_affect_other_calls() {
    let setup = broker().await.sample().await;
    let dropped = tokio::spawn(setup.sample.hold().into_future());
    setup.probe.until_begun(1).await;
    dropped.abort();
    assert!(dropped.await.unwrap_err().is_cancelled());
    let kept = tokio::spawn(setup.sample.hold().into_future());
    setup.probe.until_begun(2).await;
    setup.probe.release(2);
    assert_eq!(kept.await.unwrap().unwrap(), 2);
    until_late(&client(&setup.connection), 1).await;
}

#[tokio::test]
async fn a_call_that_is_never_polled_sends_nothing() {
    let broker = broker().await;
    let connection = broker.connect().await;
    let queue = unique_queue("unawaited");
    let probe = Probe::default();
    let _server = serve(&connection, &queue, &probe, |server| server).await;
    let sample = SampleClient::new(client(&connection)).with_queue(&queue);
    drop(sample.hold());
    sample.add(1, 1).await.unwrap();
    assert_eq!(probe.begun(), 0);
}
