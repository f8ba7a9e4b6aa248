//! Limits: how much is in flight, how much runs, and who may be replied to.

use std::time::{Duration, Instant};

use rpc_core::{ErrorKind, Request, RpcError, rpc};
use rpc_tests::eventually;

use super::{BenchClient, client, client_builder, serve};
use crate::broker;

#[tokio::test]
async fn a_server_runs_as_many_handlers_at_once_as_it_may() {
    let setup = broker()
        .await
        .bench_with(|server| server.concurrency(2))
        .await;
    let calls: Vec<_> = (0..10)
        .map(|_| tokio::spawn(setup.bench.hold().into_future()))
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
async fn a_request_that_expired_while_it_waited_in_the_server_is_not_run() {
    let setup = broker()
        .await
        .bench_with(|server| server.concurrency(1))
        .await;
    let first = tokio::spawn(setup.bench.hold().into_future());
    setup.probe.until_begun(1).await;
    let late = setup.bench.hold().timeout(Duration::from_millis(50));
    late.await.unwrap_err();
    setup.probe.release(1);
    assert_eq!(first.await.unwrap().unwrap(), 1);
    assert_eq!(setup.bench.add(1, 1).await.unwrap(), 2);
    assert_eq!(setup.probe.begun(), 1);
}

#[tokio::test]
async fn a_server_that_refuses_without_running_anything_says_so() {
    let setup = broker()
        .await
        .bench_with(|server| server.layer(tower::filter::FilterLayer::new(refuse)))
        .await;
    let error = setup.bench.hold().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(!error.may_have_executed());
    assert_eq!(setup.probe.begun(), 0);
}

fn refuse(_: Request) -> Result<Request, RpcError> {
    Err(RpcError::new(ErrorKind::Cancelled, "not now"))
}

#[tokio::test]
async fn what_waits_in_a_stopping_server_is_given_back() {
    let setup = broker()
        .await
        .bench_with(|server| server.concurrency(1))
        .await;
    let calls: Vec<_> = (0..5)
        .map(|_| tokio::spawn(setup.bench.hold().into_future()))
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
async fn a_client_has_as_many_calls_in_flight_as_it_may() {
    let setup = broker().await.bench().await;
    let client = client_builder(&setup.connection).max_in_flight(2).build();
    let bench = BenchClient::new(client).with_queue(&setup.queue);
    let held: Vec<_> = (0..2)
        .map(|_| tokio::spawn(bench.hold().into_future()))
        .collect();
    setup.probe.until_begun(2).await;

    let started = Instant::now();
    let limit = Duration::from_millis(100);
    let error = bench.add(1, 1).timeout(limit).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(!error.may_have_executed());
    assert!(error.to_string().contains("2 calls in flight"), "{error}");
    assert!(started.elapsed() >= limit);

    let waiting = tokio::spawn(bench.add(1, 1).into_future());
    setup.probe.release(2);
    assert_eq!(waiting.await.unwrap().unwrap(), 2);
    for call in held {
        call.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_dropped_call_gives_its_place_to_another() {
    let setup = broker().await.bench().await;
    let client = client_builder(&setup.connection).max_in_flight(1).build();
    let bench = BenchClient::new(client).with_queue(&setup.queue);
    for begun in 1..=3 {
        let call = tokio::spawn(bench.hold().into_future());
        setup.probe.until_begun(begun).await;
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
    }
    assert_eq!(bench.add(1, 1).await.unwrap(), 2);
}

#[tokio::test]
async fn a_request_that_wants_its_reply_where_none_may_go_is_refused() {
    let setup = broker()
        .await
        .bench_with(|server| server.reply_policy(|name| !name.starts_with("rpc.reply.")))
        .await;
    let call = setup.bench.hold().timeout(Duration::from_millis(300));
    assert_eq!(call.await.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(setup.probe.begun(), 0);
    eventually("it is counted", async || {
        (setup.server.refused_requests() == 1).then_some(())
    })
    .await;
    // What wants no reply goes nowhere it should not.
    setup.bench.note("still served".to_owned()).await.unwrap();
    setup.probe.until_noted("still served").await;
}

#[rpc]
trait Stranger {
    async fn unknown();
}

#[tokio::test]
async fn requests_that_no_handler_can_read_are_counted() {
    let setup = broker().await.bench().await;
    let stranger = StrangerClient::new(client(&setup.connection)).with_queue(&setup.queue);
    for refused in 0..3 {
        assert_eq!(setup.server.refused_requests(), refused);
        let error = stranger.unknown().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnknownMethod);
    }
    setup.bench.divide(1, 0).await.unwrap_err();
    assert_eq!(setup.server.refused_requests(), 3);
}
