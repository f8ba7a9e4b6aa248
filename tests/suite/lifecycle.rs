//! Start and end of servers, clients and connections.

use std::time::Duration;

use rpc_core::{ConnectionState, ErrorKind, ServeError, Server, rpc};
use tokio::sync::oneshot;

use super::{Probe, SampleClient, SampleDispatcher, client, serve, start};
use crate::broker;

#[tokio::test]
async fn a_stopping_server_finishes_running_calls() {
    let setup = broker().await.sample().await;
    let held = tokio::spawn(setup.sample.hold().into_future());
    setup.probe.until_begun(1).await;
    let stopping = tokio::spawn(setup.server.shutdown());
    setup.probe.release(1);
    stopping.await.unwrap().unwrap();
    assert_eq!(held.await.unwrap().unwrap(), 1);
}

#[tokio::test]
async fn a_stopping_server_returns_calls_that_have_not_started() {
    let broker = broker().await;
    let setup = broker.sample_with(|server| server.prefetch(1)).await;
    let first = tokio::spawn(setup.sample.hold().into_future());
    setup.probe.until_begun(1).await;
    let second = tokio::spawn(setup.sample.add(2, 2).into_future());
    let stopping = tokio::spawn(setup.server.shutdown());
    setup.probe.release(1);
    stopping.await.unwrap().unwrap();
    assert_eq!(first.await.unwrap().unwrap(), 1);
    assert!(!second.is_finished());
    let _server = serve(&setup.connection, &setup.queue, &setup.probe, |server| {
        server
    })
    .await;
    assert_eq!(second.await.unwrap().unwrap(), 4);
}

#[tokio::test]
async fn a_stopping_server_waits_no_longer_than_its_drain_limit() {
    let broker = broker().await;
    let setup = broker
        .sample_with(|server| server.drain_timeout(Duration::from_millis(50)))
        .await;
    let held = tokio::spawn(setup.sample.hold().into_future());
    setup.probe.until_begun(1).await;
    setup.server.shutdown().await.unwrap();
    setup.probe.until_dropped(1).await;
    let other = Probe::default();
    other.release(1);
    let _server = serve(&setup.connection, &setup.queue, &other, |server| server).await;
    assert_eq!(
        held.await.unwrap().unwrap(),
        1,
        "the other server has run it"
    );
}

#[tokio::test]
async fn run_until_serves_until_its_signal() {
    let connection = broker().await.connect().await;
    let queue = rpc_tests::unique_queue("until");
    let probe = Probe::default();
    let server = Server::builder(&connection)
        .service(SampleDispatcher::new(probe.clone()).with_queue(&queue))
        .build();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(server.run_until(async {
        stopped.await.ok();
    }));
    let sample = SampleClient::new(client(&connection)).with_queue(&queue);
    let sum =
        rpc_tests::eventually("the server answers", async || sample.add(1, 2).await.ok()).await;
    assert_eq!(sum, 3);
    stop.send(()).unwrap();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn requests_of_a_lost_server_are_redelivered() {
    let broker = broker().await;
    let setup = broker.sample().await;
    let held = tokio::spawn(setup.sample.hold().into_future());
    setup.probe.until_begun(1).await;
    drop(setup.server);
    setup.probe.until_dropped(1).await;
    let other = Probe::default();
    other.release(1);
    let _server = serve(&setup.connection, &setup.queue, &other, |server| server).await;
    assert_eq!(held.await.unwrap().unwrap(), 1);
    assert_eq!((other.begun(), other.redelivered()), (1, 1));
    assert_eq!(setup.probe.redelivered(), 0);
}

#[tokio::test]
async fn closing_a_connection_ends_its_calls_and_servers() {
    let broker = broker().await;
    let setup = broker.sample().await;
    let calling = broker.connect().await;
    let sample = SampleClient::new(client(&calling)).with_queue(&setup.queue);
    let held = tokio::spawn(sample.hold().into_future());
    setup.probe.until_begun(1).await;
    calling.close().await;
    let error = held.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    assert!(error.may_have_executed());
    let error = sample.add(1, 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    assert!(!error.may_have_executed());

    let mut server = setup.server;
    setup.connection.close().await;
    assert!(matches!(server.ended().await, Err(ServeError::Closed)));
    setup.connection.close().await;
    let again = Server::builder(&setup.connection)
        .service(SampleDispatcher::new(Probe::default()))
        .build();
    assert!(matches!(again.start().await, Err(ServeError::Closed)));
}

#[tokio::test]
async fn watchers_see_a_connection_state_only_after_a_change() {
    let connection = broker().await.connect().await;
    let mut state = connection.state();
    assert_eq!(state.current(), ConnectionState::Connected);
    let unchanged = tokio::time::timeout(Duration::from_millis(50), state.changed()).await;
    assert!(unchanged.is_err(), "{unchanged:?}");
    connection.close().await;
    assert_eq!(state.changed().await, Some(ConnectionState::Closed));
}

#[tokio::test]
async fn a_fault_for_a_redelivered_request_does_not_claim_that_nothing_ran() {
    /// The sample service as it was before `hold`.
    #[rpc(name = "Sample")]
    trait Former {
        async fn add(a: u64, b: u64) -> u64;
    }
    struct Adder;
    impl Former for Adder {
        async fn add(&self, a: u64, b: u64) -> u64 {
            a + b
        }
    }
    let setup = broker().await.sample().await;
    let held = tokio::spawn(setup.sample.hold().into_future());
    setup.probe.until_begun(1).await;
    drop(setup.server);
    let former = FormerDispatcher::new(Adder).with_queue(&setup.queue);
    let _server = start(&setup.connection, former).await;
    let error = held.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnknownMethod);
    assert!(error.may_have_executed());
}
