//! Lost connections: no call hangs.

use std::time::{Duration, Instant};

use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use rpc_core::testing::{Peer, PeerMessage};
use rpc_core::{Connection, ConnectionState, ErrorKind, Health, Server};
use rpc_tests::broker::{Direction, Node, Proxy};
use rpc_tests::{eventually, unique_queue};

use super::{Abacus, AdderClient, AdderDispatcher, serve};

/// Far less than the default timeout of 30 seconds.
const AT_ONCE: Duration = Duration::from_secs(5);

#[tokio::test]
async fn calls_fail_at_once_when_the_broker_is_killed_and_resume_after_its_restart() {
    let recorder: &'static DebuggingRecorder = Box::leak(Box::default());
    let _recording = metrics::set_default_local_recorder(recorder);
    let node = Node::start().await;
    let serving = Connection::open(&node.url()).await.unwrap();
    let calling = Connection::open(&node.url()).await.unwrap();
    let mut state = calling.state();
    let queue = unique_queue("killed");
    let server = serve(&serving, &queue).await;
    let adder = AdderClient::new(calling.client()).with_queue(&queue);
    assert_eq!(adder.add(1, 2).await.unwrap(), 3);
    let stuck: Vec<_> = (0..20)
        .map(|_| tokio::spawn(adder.stick().into_future()))
        .collect();
    // This reply comes after the requests before it, so those are in flight.
    assert_eq!(adder.add(1, 2).await.unwrap(), 3);
    assert_eq!(state.current(), ConnectionState::Connected);

    node.kill().await;
    let killed = Instant::now();
    for call in stuck {
        let error = call.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Disconnected);
        assert!(error.may_have_executed() && error.is_retryable());
    }
    assert!(killed.elapsed() < AT_ONCE, "{:?}", killed.elapsed());
    assert!(matches!(
        state.changed().await,
        Some(ConnectionState::Reconnecting { .. })
    ));

    // A new call waits for the connection, within its deadline.
    let error = adder
        .add(1, 2)
        .timeout(Duration::from_millis(200))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(!error.may_have_executed());
    assert!(
        error
            .to_string()
            .contains("the connection to the broker is down"),
        "{error}"
    );
    let waiting = tokio::spawn(
        adder
            .add(2, 2)
            .timeout(Duration::from_secs(60))
            .into_future(),
    );

    node.restart().await;
    let answer = waiting.await.unwrap();
    // The client may reconnect before the server.
    if let Err(error) = &answer {
        assert_eq!(error.kind(), ErrorKind::Unroutable);
    }
    let sum = eventually("the server is back", async || adder.add(2, 2).await.ok()).await;
    assert_eq!(sum, 4);
    let reconnects = recorder.snapshotter().snapshot().into_vec();
    let reconnects = reconnects.iter().find_map(|(key, _, _, value)| {
        (key.key().name() == "rpc.connection.reconnects").then_some(value)
    });
    assert_eq!(reconnects, Some(&DebugValue::Counter(2)));
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_idempotent_call_survives_a_restart_of_the_broker() {
    let node = Node::start().await;
    let serving = Connection::open(&node.url()).await.unwrap();
    let calling = Connection::open(&node.url()).await.unwrap();
    let queue = unique_queue("idempotent");
    let _server = serve(&serving, &queue).await;
    let adder = AdderClient::new(calling.client()).with_queue(&queue);
    let call = tokio::spawn(
        adder
            .wait_twice()
            .timeout(Duration::from_secs(60))
            .into_future(),
    );
    // This reply comes after the request before it, so that one is in flight.
    assert_eq!(adder.add(1, 2).await.unwrap(), 3);
    node.kill().await;
    node.restart().await;
    assert_eq!(call.await.unwrap().unwrap(), 2);
}

#[tokio::test]
async fn a_connection_closed_by_an_operator_is_restored() {
    let node = Node::start().await;
    let serving = Connection::open(&node.url()).await.unwrap();
    let calling = Connection::open(&node.url()).await.unwrap();
    let queue = unique_queue("closed");
    let _server = serve(&serving, &queue).await;
    let adder = AdderClient::new(calling.client()).with_queue(&queue);
    for _ in 0..3 {
        assert_eq!(adder.add(1, 2).await.unwrap(), 3);
        let mut states = [serving.state(), calling.state()];
        for state in &mut states {
            assert_eq!(state.current(), ConnectionState::Connected);
        }
        node.close_connections("by an operator").await;
        for state in &mut states {
            while !matches!(state.changed().await, Some(ConnectionState::Connected)) {}
        }
        let sum = eventually("client and server are connected again", async || {
            adder.add(1, 2).await.ok()
        })
        .await;
        assert_eq!(sum, 3);
    }
}

#[tokio::test]
async fn waiting_requests_survive_a_clean_restart_of_the_broker() {
    let node = Node::start().await;
    let connection = Connection::open(&node.url()).await.unwrap();
    let queue = unique_queue("stopped");
    let _server = serve(&connection, &queue).await;
    let adder = AdderClient::new(connection.client()).with_queue(&queue);
    assert_eq!(adder.add(1, 2).await.unwrap(), 3);
    let mut state = connection.state();
    node.stop().await;
    assert!(matches!(
        state.changed().await,
        Some(ConnectionState::Reconnecting { .. })
    ));
    // A server that cannot start yet still reacts to its signal.
    let waiting = Server::builder(&connection)
        .service(AdderDispatcher::new(Abacus::default()))
        .build();
    tokio::time::timeout(AT_ONCE, waiting.run_until(async {}))
        .await
        .expect("it does not wait for the broker")
        .unwrap();
    node.restart().await;
    let sum = eventually("client and server are connected again", async || {
        adder.add(2, 2).await.ok()
    })
    .await;
    assert_eq!(sum, 4);
}

#[tokio::test]
async fn a_deleted_request_queue_is_declared_again() {
    let node = Node::start().await;
    let connection = Connection::open(&node.url()).await.unwrap();
    let queue = unique_queue("deleted");
    let _server = serve(&connection, &queue).await;
    let adder = AdderClient::new(connection.client()).with_queue(&queue);
    let stuck = tokio::spawn(adder.wait_for_release().into_future());
    assert_eq!(adder.add(1, 2).await.unwrap(), 3);
    let channel = node.connect().await.create_channel().await.unwrap();
    channel
        .queue_delete(
            queue.as_str().into(),
            lapin::options::QueueDeleteOptions::default(),
        )
        .await
        .unwrap();
    let sum = eventually("the queue is back", async || adder.add(2, 2).await.ok()).await;
    assert_eq!(sum, 4);
    adder.release().await.unwrap();
    stuck
        .await
        .unwrap()
        .expect("what ran went on and was answered");
}

#[tokio::test]
async fn another_endpoint_is_used_when_one_is_down() {
    let (first, second) = tokio::join!(Node::start(), Node::start());
    let connection = Connection::builder(first.url())
        .endpoint(second.url())
        .open()
        .await
        .unwrap();
    let queue = unique_queue("endpoints");
    let _server = serve(&connection, &queue).await;
    let adder = AdderClient::new(connection.client()).with_queue(&queue);
    assert_eq!(adder.add(1, 2).await.unwrap(), 3);
    first.kill().await;
    let sum = eventually("the other endpoint", async || adder.add(2, 2).await.ok()).await;
    assert_eq!(sum, 4);
    assert!(second.queue(&queue).await.is_some());
}

#[tokio::test]
async fn opening_waits_for_a_broker_that_starts_later() {
    let node = Node::start().await;
    let url = node.url();
    node.stop().await;
    Connection::open(&url).await.unwrap_err();
    let opening = tokio::spawn(
        Connection::builder(&url)
            .wait_for_broker(Duration::from_secs(60))
            .open(),
    );
    node.restart().await;
    opening.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_health_of_a_server_follows_its_connection() {
    let node = Node::start().await;
    let connection = Connection::open(&node.url()).await.unwrap();
    let server = serve(&connection, &unique_queue("health")).await;
    let mut health = server.health();
    node.kill().await;
    assert_eq!(health.changed().await, Some(Health::Reconnecting));
    let reason = health.reason().unwrap();
    assert!(!reason.is_empty());
    let same = tokio::time::timeout(Duration::from_millis(300), health.changed()).await;
    assert!(same.is_err(), "{same:?}");
    node.restart().await;
    assert_eq!(health.changed().await, Some(Health::Serving));
    server.shutdown().await.unwrap();
    assert_eq!(health.current(), Health::Stopped);
}

#[tokio::test]
async fn a_deleted_private_queue_is_opened_again() {
    let node = Node::start().await;
    let connection = Connection::open(&node.url()).await.unwrap();
    let queue = unique_queue("requests");
    let server = serve(&connection, &queue).await;
    let own = format!("rpc.instance.{}.", server.instance_id());
    let private_queue = async || {
        let listed = node.ctl(&["list_queues", "--silent", "name"]).await;
        let mut own = listed.lines().filter(|name| name.starts_with(&own));
        own.next().map(str::to_owned)
    };
    let first = private_queue().await.expect("a private queue");
    node.ctl(&["delete_queue", &first]).await;
    eventually("the server has another private queue", async || {
        private_queue().await.filter(|second| *second != first)
    })
    .await;
    let replies = unique_queue("peer");
    let mut peer = Peer::open(&connection, &replies, &[]).await.unwrap();
    let call = PeerMessage {
        kind: Some("add".to_owned()),
        content_type: Some("application/json".to_owned()),
        reply_to: Some(replies),
        correlation_id: Some("1".to_owned()),
        body: "[1, 2]".into(),
        ..PeerMessage::default()
    };
    // The queue exists before it is bound and consumed.
    eventually("calls to all instances arrive", async || {
        peer.publish_to_topic(&format!("rpc.all.{queue}"), call.clone())
            .await
            .ok()
    })
    .await;
    assert_eq!(peer.next().await.unwrap().body, "3");
}

#[tokio::test]
async fn a_lost_reply_queue_fails_calls_in_flight_and_is_replaced() {
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
async fn a_paused_broker_does_not_delay_calls_beyond_their_deadlines() {
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

#[tokio::test]
async fn a_timeout_names_the_memory_alarm_of_the_broker() {
    let node = Node::start().await;
    let connection = Connection::open(&node.url()).await.unwrap();
    let queue = unique_queue("blocked");
    let server = serve(&connection, &queue).await;
    let adder = AdderClient::new(connection.client()).with_queue(&queue);
    assert_eq!(adder.add(1, 2).await.unwrap(), 3);
    let mut state = connection.state();
    assert_eq!(state.current(), ConnectionState::Connected);
    node.ctl(&["set_vm_memory_high_watermark", "0.0000001"])
        .await;

    // The broker notifies clients that publish.
    let first = tokio::spawn(adder.add(1, 2).into_future());
    let Some(ConnectionState::Blocked { reason }) = state.changed().await else {
        panic!("{:?}", state.current());
    };
    assert!(reason.contains("memory"), "{reason}");
    let limit = Duration::from_millis(300);
    let error = adder.add(1, 2).timeout(limit).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    let told = error.to_string();
    assert!(
        told.contains("blocking publishers: low on memory"),
        "{told}"
    );

    node.ctl(&["set_vm_memory_high_watermark", "0.6"]).await;
    assert_eq!(state.changed().await, Some(ConnectionState::Connected));
    assert_eq!(
        first.await.unwrap().unwrap(),
        3,
        "the call waits for the broker"
    );
    assert_eq!(adder.add(2, 2).await.unwrap(), 4);
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_server_stops_although_its_broker_blocks_publishers() {
    let node = Node::start().await;
    let queue = unique_queue("blocked");
    let serving = Connection::open(&node.url()).await.unwrap();
    let server = Server::builder(&serving)
        .service(AdderDispatcher::new(Abacus::default()).with_queue(&queue))
        .concurrency(2)
        .drain_timeout(Duration::from_secs(1))
        .build()
        .start()
        .await
        .unwrap();
    // One request reaches its deadline, so that the server has a fault to send. Another runs on, and three wait in the server.
    let calling = Connection::open(&node.url()).await.unwrap();
    let adder = AdderClient::new(calling.client()).with_queue(&queue);
    let ends = [5, 60, 60, 60, 60].map(Duration::from_secs);
    let calls = ends.map(|end| tokio::spawn(adder.stick().timeout(end).into_future()));
    eventually("the server has all requests", async || {
        let queues = node.census().await?.queues;
        let counted = queues.into_iter().find(|counted| counted.name == queue)?;
        (counted.unacknowledged == 5).then_some(())
    })
    .await;
    let mut state = serving.state();
    node.ctl(&["set_vm_memory_high_watermark", "0.0000001"])
        .await;
    while !matches!(state.current(), ConnectionState::Blocked { .. }) {
        state.changed().await.expect("the connection is open");
    }

    // Three limited waits for a broker that does not respond: cancelling the consumers, closing the channel and the connection.
    let started = Instant::now();
    server.shutdown().await.unwrap();
    serving.close().await;
    assert!(started.elapsed() < 4 * AT_ONCE, "{:?}", started.elapsed());
    calls.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn a_dead_network_is_detected_although_the_broker_disables_heartbeats() {
    let node = Node::builder().conf("heartbeat = 0").start().await;
    let proxy = Proxy::start(node.port()).await;
    let by_setting = Connection::builder(proxy.url()).heartbeat(Duration::from_secs(1));
    let by_url = Connection::builder(proxy.url() + "?heartbeat=1");
    for builder in [by_setting, by_url] {
        let connection = builder.open().await.unwrap();
        let mut state = connection.state();
        // An idle connection stays open while the network works: here for three times the tolerated silence.
        let quiet = Duration::from_secs(6);
        let changed = tokio::time::timeout(quiet, state.changed()).await;
        assert!(changed.is_err(), "{changed:?}");
        proxy.blackhole(Direction::ToClient);
        proxy.blackhole(Direction::ToBroker);
        let lost = tokio::time::timeout(AT_ONCE, state.changed()).await;
        assert!(
            matches!(lost, Ok(Some(ConnectionState::Reconnecting { .. }))),
            "{lost:?}"
        );
        proxy.lift_blackholes();
        assert_eq!(state.changed().await, Some(ConnectionState::Connected));
    }
}
