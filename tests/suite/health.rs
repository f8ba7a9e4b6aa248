//! Health of servers.

use std::time::Duration;

use rpc_core::Health;

use super::Setup;
use crate::broker;

#[tokio::test]
async fn a_server_that_stops_drains_first() {
    let setup = broker().await.sample().await;
    let mut health = setup.server.health();
    assert_eq!(health.current(), Health::Serving);
    assert_eq!(health.reason(), None);
    let held = tokio::spawn(setup.sample.hold().into_future());
    setup.probe.until_begun(1).await;
    let stopping = tokio::spawn(setup.server.shutdown());
    assert_eq!(health.changed().await, Some(Health::Draining));
    assert_eq!(health.reason().as_deref(), Some("shutdown was requested"));
    let early = tokio::time::timeout(Duration::from_millis(50), health.changed()).await;
    assert!(early.is_err(), "{early:?}");
    setup.probe.release(1);
    assert_eq!(health.changed().await, Some(Health::Stopped));
    assert_eq!(health.reason().as_deref(), Some("shutdown was requested"));
    assert_eq!(health.changed().await, None);
    stopping.await.unwrap().unwrap();
    held.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_server_whose_handle_is_dropped_has_stopped() {
    let setup = broker().await.sample().await;
    let mut health = setup.server.health();
    drop(setup.server);
    assert_eq!(health.changed().await, Some(Health::Stopped));
    let reason = health.reason().unwrap();
    assert!(reason.contains("dropped"), "{reason}");
    assert_eq!(health.changed().await, None);
}

#[tokio::test]
async fn a_server_whose_connection_is_closed_has_stopped() {
    let Setup {
        mut server,
        connection,
        ..
    } = broker().await.sample().await;
    let mut health = server.health();
    connection.close().await;
    server.ended().await.unwrap_err();
    assert_eq!(health.current(), Health::Stopped);
    let reason = health.reason().unwrap();
    assert!(reason.contains("closed by this process"), "{reason}");
}

#[test]
fn a_server_whose_runtime_ends_has_stopped() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let serving = runtime();
    let setup = serving.block_on(async { broker().await.sample().await });
    let mut health = setup.server.health();
    drop(serving);
    let ended = runtime().block_on(health.changed());
    assert_eq!(ended, Some(Health::Stopped));
    assert!(health.reason().unwrap().contains("runtime has ended"));
}
