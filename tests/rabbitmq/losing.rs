//! Lost connections: nothing hangs.

use std::time::{Duration, Instant};

use rpc_core::{Connection, ErrorKind, ServeError};
use rpc_tests::broker::Node;
use rpc_tests::unique_queue;

use super::{AdderClient, serve};

/// Far less than the 30 seconds that a call may take.
const AT_ONCE: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_killed_broker_ends_calls_and_servers_at_once() {
    let node = Node::start().await;
    let serving = Connection::open(&node.url()).await.unwrap();
    let calling = Connection::open(&node.url()).await.unwrap();
    let queue = unique_queue("killed");
    let mut server = serve(&serving, &queue).await;
    let adder = AdderClient::new(calling.client()).with_queue(&queue);
    assert_eq!(adder.add(1, 2).await.unwrap(), 3);
    let stuck: Vec<_> = (0..20)
        .map(|_| tokio::spawn(adder.stick().into_future()))
        .collect();
    // Answered behind the others, so those are in flight.
    assert_eq!(adder.add(1, 2).await.unwrap(), 3);

    node.kill().await;
    let killed = Instant::now();
    for call in stuck {
        let error = call.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Disconnected);
        assert!(error.may_have_executed() && error.is_retryable());
    }
    assert!(matches!(
        server.ended().await,
        Err(ServeError::Disconnected(_))
    ));
    let error = adder.add(1, 2).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Disconnected);
    assert!(!error.may_have_executed());
    assert!(killed.elapsed() < AT_ONCE, "{:?}", killed.elapsed());
    calling.close().await;
    assert!(killed.elapsed() < AT_ONCE, "{:?}", killed.elapsed());
}

#[tokio::test]
async fn a_deleted_request_queue_ends_its_server() {
    let node = Node::start().await;
    let connection = Connection::open(&node.url()).await.unwrap();
    let queue = unique_queue("deleted");
    let mut server = serve(&connection, &queue).await;
    let channel = node.connect().await.create_channel().await.unwrap();
    channel
        .queue_delete(
            queue.as_str().into(),
            lapin::options::QueueDeleteOptions::default(),
        )
        .await
        .unwrap();
    assert!(matches!(
        server.ended().await,
        Err(ServeError::Disconnected(_))
    ));
}

#[tokio::test]
async fn a_lost_reply_queue_fails_the_calls_in_flight_and_the_next_call_has_another() {
    let node = Node::start().await;
    let serving = Connection::open(&node.url()).await.unwrap();
    let calling = Connection::open(&node.url()).await.unwrap();
    let queue = unique_queue("requests");
    let _server = serve(&serving, &queue).await;
    let adder = AdderClient::new(calling.client()).with_queue(&queue);
    assert_eq!(adder.add(1, 2).await.unwrap(), 3);
    let stuck = tokio::spawn(adder.stick().into_future());
    assert_eq!(adder.add(1, 2).await.unwrap(), 3);
    let listed = node.ctl(&["list_queues", "--silent", "name"]).await;
    let reply_queue = listed
        .lines()
        .find(|name| name.starts_with("rpc.reply."))
        .expect("a reply queue")
        .to_owned();
    node.ctl(&["delete_queue", &reply_queue]).await;
    assert_eq!(
        stuck.await.unwrap().unwrap_err().kind(),
        ErrorKind::Disconnected
    );
    assert_eq!(adder.add(2, 2).await.unwrap(), 4);
}

#[tokio::test]
async fn a_paused_broker_does_not_hold_calls_beyond_their_deadline() {
    let node = Node::start().await;
    let connection = Connection::open(&node.url()).await.unwrap();
    let queue = unique_queue("paused");
    let _server = serve(&connection, &queue).await;
    let adder = AdderClient::new(connection.client()).with_queue(&queue);
    assert_eq!(adder.add(1, 2).await.unwrap(), 3);
    node.pause().await;
    let started = Instant::now();
    let calls: Vec<_> = (0..50)
        .map(|n| {
            tokio::spawn(
                adder
                    .add(n, 1)
                    .timeout(Duration::from_millis(300))
                    .into_future(),
            )
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap_err().kind(), ErrorKind::Timeout);
    }
    assert!(started.elapsed() < AT_ONCE, "{:?}", started.elapsed());
    node.resume().await;
    assert_eq!(adder.add(2, 2).await.unwrap(), 4);
}
