//! Limits of calls in flight, of concurrent handlers and of reply addresses.

use std::time::{Duration, Instant};

use rpc_core::{ErrorKind, Request, RpcError, rpc};
use rpc_tests::eventually;

use super::{SampleClient, client, client_builder, serve};
use crate::broker;

#[tokio::test]
async fn a_server_uses_its_full_concurrency_and_no_more() {
    let setup = broker()
        .await
        .sample_with(|server| server.concurrency(2))
        .await;
    let calls: Vec<_> = (0..10)
        .map(|_| tokio::spawn(setup.sample.hold().into_future()))
        .collect();
    for begun in 1..=10 {
        setup.probe.until_begun(begun.max(2)).await;
        setup.probe.release(1);
    }
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(setup.probe.most_running(), 2);
}

#[tokio::test]
async fn a_request_that_expired_in_the_server_does_not_run() {
    let setup = broker()
        .await
        .sample_with(|server| server.concurrency(1))
        .await;
    let first = tokio::spawn(setup.sample.hold().into_future());
    setup.probe.until_begun(1).await;
    let late = setup.sample.hold().timeout(Duration::from_millis(50));
    late.await.unwrap_err();
    setup.probe.release(1);
    assert_eq!(first.await.unwrap().unwrap(), 1);
    assert_eq!(setup.sample.add(1, 1).await.unwrap(), 2);
    assert_eq!(setup.probe.begun(), 1);
}

#[tokio::test]
async fn a_refusal_by_a_server_layer_says_that_nothing_ran() {
    let setup = broker()
        .await
        .sample_with(|server| server.layer(tower::filter::FilterLayer::new(refuse)))
        .await;
    let error = setup.sample.hold().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(!error.may_have_executed());
    assert_eq!(setup.probe.begun(), 0);
}

fn refuse(_: Request) -> Result<Request, RpcError> {
    Err(RpcError::new(ErrorKind::Cancelled, "not now"))
}

#[tokio::test]
async fn a_stopping_server_returns_waiting_requests() {
    let setup = broker()
        .await
        .sample_with(|server| server.concurrency(1))
        .await;
    let calls: Vec<_> = (0..5)
        .map(|_| tokio::spawn(setup.sample.hold().into_future()))
        .collect();
    setup.probe.until_begun(1).await;
    let stopping = tokio::spawn(setup.server.shutdown());
    let _next = serve(&setup.connection, &setup.queue, &setup.probe, |server| {
        server
    })
    .await;
    setup.probe.release(5);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    stopping.await.unwrap().unwrap();
    assert_eq!(setup.probe.begun(), 5);
}

#[tokio::test]
async fn a_client_limits_its_calls_in_flight() {
    let setup = broker().await.sample().await;
    let client = client_builder(&setup.connection).max_in_flight(2).build();
    let sample = SampleClient::new(client).with_queue(&setup.queue);
    let held: Vec<_> = (0..2)
        .map(|_| tokio::spawn(sample.hold().into_future()))
        .collect();
    setup.probe.until_begun(2).await;

    let started = Instant::now();
    let limit = Duration::from_millis(100);
    let error = sample.add(1, 1).timeout(limit).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(!error.may_have_executed());
    assert!(error.to_string().contains("2 calls in flight"), "{error}");
    assert!(started.elapsed() >= limit);

    let waiting = tokio::spawn(sample.add(1, 1).into_future());
    setup.probe.release(2);
    assert_eq!(waiting.await.unwrap().unwrap(), 2);
    for call in held {
        call.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn dropping_a_call_frees_its_place() {
    let setup = broker().await.sample().await;
    let client = client_builder(&setup.connection).max_in_flight(1).build();
    let sample = SampleClient::new(client).with_queue(&setup.queue);
    for begun in 1..=3 {
        let call = tokio::spawn(sample.hold().into_future());
        setup.probe.until_begun(begun).await;
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
    }
    assert_eq!(sample.add(1, 1).await.unwrap(), 2);
}

#[tokio::test]
async fn requests_with_forbidden_reply_addresses_are_refused() {
    let setup = broker()
        .await
        .sample_with(|server| server.reply_policy(|name| !name.starts_with("rpc.reply.")))
        .await;
    let call = setup.sample.hold().timeout(Duration::from_millis(300));
    assert_eq!(call.await.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(setup.probe.begun(), 0);
    eventually("the refusal is counted", async || {
        (setup.server.refused_requests() == 1).then_some(())
    })
    .await;
    // A request without a reply address is served.
    setup.sample.note("still served".to_owned()).await.unwrap();
    setup.probe.until_noted("still served").await;
}

#[rpc]
trait Stranger {
    async fn unknown();
}

#[tokio::test]
async fn undecodable_requests_are_counted() {
    let setup = broker().await.sample().await;
    let stranger = StrangerClient::new(client(&setup.connection)).with_queue(&setup.queue);
    for refused in 0..3 {
        assert_eq!(setup.server.refused_requests(), refused);
        let error = stranger.unknown().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnknownMethod);
    }
    setup.sample.divide(1, 0).await.unwrap_err();
    assert_eq!(setup.server.refused_requests(), 3);
}
