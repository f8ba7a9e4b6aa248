//! Queues of single methods, and queue prefixes.

use rpc_core::testing::Peer;
use rpc_core::{Connection, ErrorKind, QueueOptions, ServeError, Server, ServerHandle, rpc};
use rpc_tests::{eventually, unique_queue};

use super::{Probe, client, client_builder, start};
use crate::broker;

/// A service with fast and slow methods.
#[rpc(queue = "fast")]
trait Workshop {
    #[rpc(default)]
    async fn add(a: u64, b: u64) -> u64;
    #[rpc(queue = "slow")]
    async fn hold() -> usize;
    #[rpc(queue = "slow", name = "hold-too")]
    async fn hold_too() -> usize;
    /// A method on the trait's queue.
    #[rpc(queue = "fast")]
    async fn double(n: u64) -> u64;
}

/// The service before its methods had queues of their own.
#[rpc(name = "Workshop", queue = "fast")]
trait FormerWorkshop {
    async fn add(a: u64, b: u64) -> u64;
    async fn hold() -> usize;
}

impl Workshop for Probe {
    async fn add(&self, a: u64, b: u64) -> u64 {
        a + b
    }

    async fn hold(&self) -> usize {
        self.held().await
    }

    async fn hold_too(&self) -> usize {
        self.held().await
    }

    async fn double(&self, n: u64) -> u64 {
        n * 2
    }
}

/// A server with a prefetch of one for each queue.
async fn serve(connection: &Connection, dispatcher: WorkshopDispatcher<Probe>) -> ServerHandle {
    Server::builder(connection)
        .service(dispatcher)
        .prefetch(1)
        .build()
        .start()
        .await
        .expect("the server starts")
}

/// Follows the steps of the guide.
#[tokio::test]
async fn a_prefix_moves_a_service_to_queues_of_another_type() {
    let connection = broker().await.connect().await;
    let probe = Probe::default();
    let (first, second) = (unique_queue("v1."), unique_queue("v2."));
    let dispatcher = || WorkshopDispatcher::new(probe.clone());
    let old = serve(&connection, dispatcher().with_queue_prefix(&first)).await;
    let workshop = WorkshopClient::new(client(&connection));
    let former = workshop.clone().with_queue_prefix(&first);
    let held = tokio::spawn(former.hold().into_future());
    probe.until_begun(1).await;

    // The existing queues cannot be declared with other options.
    let quorum = || dispatcher().with_queue_options(QueueOptions::quorum());
    let refused = Server::builder(&connection).service(quorum().with_queue_prefix(&first));
    let refused = refused.build().start().await.unwrap_err();
    assert!(refused.to_string().contains("'quorum'"), "{refused}");

    let new = serve(&connection, quorum().with_queue_prefix(&second)).await;
    let moved = workshop.with_queue_prefix(&second);
    let other = tokio::spawn(moved.hold().into_future());
    probe.until_begun(2).await;
    assert_eq!(former.add(1, 2).await.unwrap(), 3);
    assert_eq!(moved.add(1, 2).await.unwrap(), 3);
    probe.release(2);
    held.await.unwrap().unwrap();
    other.await.unwrap().unwrap();
    old.shutdown().await.unwrap();
    assert_eq!(moved.double(2).await.unwrap(), 4);
    new.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_slow_method_with_a_queue_of_its_own_does_not_delay_fast_ones() {
    let connection = broker().await.connect().await;
    let (probe, prefix) = (Probe::default(), unique_queue("workshop"));
    let dispatcher = WorkshopDispatcher::new(probe.clone()).with_queue_prefix(&prefix);
    let server = serve(&connection, dispatcher).await;
    let workshop = WorkshopClient::new(client(&connection)).with_queue_prefix(&prefix);
    let held = tokio::spawn(workshop.hold().into_future());
    probe.until_begun(1).await;
    assert_eq!(workshop.add(1, 2).await.unwrap(), 3);
    assert_eq!(workshop.double(4).await.unwrap(), 8);
    probe.release(1);
    held.await.unwrap().unwrap();
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn methods_with_the_same_queue_share_it() {
    let connection = broker().await.connect().await;
    let (probe, prefix) = (Probe::default(), unique_queue("workshop"));
    let dispatcher = WorkshopDispatcher::new(probe.clone()).with_queue_prefix(&prefix);
    let _server = serve(&connection, dispatcher).await;
    let workshop = WorkshopClient::new(client(&connection)).with_queue_prefix(&prefix);
    let calls = [
        tokio::spawn(workshop.hold().into_future()),
        tokio::spawn(workshop.hold_too().into_future()),
    ];
    probe.until_begun(1).await;
    assert_eq!(workshop.add(1, 2).await.unwrap(), 3);
    assert_eq!(probe.begun(), 1, "the other call waits");
    probe.release(2);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(probe.most_running(), 1);
}

#[tokio::test]
async fn with_queue_applies_to_methods_without_a_queue_of_their_own() {
    let connection = broker().await.connect().await;
    let (probe, prefix) = (Probe::default(), unique_queue("workshop"));
    let dispatcher = WorkshopDispatcher::new(probe.clone())
        .with_queue("moved")
        .with_queue_prefix(&prefix);
    let _server = serve(&connection, dispatcher).await;
    probe.release(1);
    let workshop = WorkshopClient::new(client(&connection)).with_queue_prefix(&prefix);
    assert_eq!(workshop.hold().await.unwrap(), 1);
    let error = workshop
        .add(1, 2)
        .await
        .expect_err("its server has another queue");
    assert_eq!(error.kind(), ErrorKind::Unroutable);
    assert_eq!(workshop.with_queue("moved").add(1, 2).await.unwrap(), 3);
}

#[tokio::test]
async fn deployments_with_different_prefixes_are_isolated() {
    let connection = broker().await.connect().await;
    let prefixes = [unique_queue("staging"), unique_queue("production")];
    let probes = [Probe::default(), Probe::default()];
    let mut servers = Vec::new();
    for (prefix, probe) in prefixes.iter().zip(&probes) {
        let dispatcher = WorkshopDispatcher::new(probe.clone()).with_queue_prefix(prefix);
        servers.push(start(&connection, dispatcher).await);
        probe.release(10);
    }
    for (prefix, calls) in prefixes.iter().zip([1, 2]) {
        let workshop = WorkshopClient::new(client(&connection)).with_queue_prefix(prefix);
        for number in 1..=calls {
            assert_eq!(workshop.hold().await.unwrap(), number);
        }
    }
    assert_eq!(probes.map(|probe| probe.begun()), [1, 2]);
}

#[tokio::test]
async fn a_method_is_served_from_every_queue_of_its_service() {
    let connection = broker().await.connect().await;
    let (probe, prefix) = (Probe::default(), unique_queue("workshop"));
    let dispatcher = WorkshopDispatcher::new(probe.clone()).with_queue_prefix(&prefix);
    let _server = start(&connection, dispatcher).await;
    probe.release(1);
    let former = FormerWorkshopClient::new(client(&connection)).with_queue_prefix(&prefix);
    assert_eq!(former.hold().await.unwrap(), 1, "through the fast queue");
    let slow = former.with_queue("slow");
    assert_eq!(slow.add(1, 2).await.unwrap(), 3, "through the slow queue");
}

#[tokio::test]
async fn a_plain_request_runs_the_default_method_from_every_queue() {
    let connection = broker().await.connect().await;
    let prefix = unique_queue("workshop");
    let dispatcher = WorkshopDispatcher::new(Probe::default()).with_queue_prefix(&prefix);
    let _server = start(&connection, dispatcher).await;
    let plain = client_builder(&connection).plain().build();
    let former = FormerWorkshopClient::new(plain).with_queue_prefix(&prefix);
    assert_eq!(former.add(1, 2).await.unwrap(), 3);
    assert_eq!(former.with_queue("slow").add(3, 4).await.unwrap(), 7);
}

#[tokio::test]
async fn two_services_of_a_server_cannot_share_a_method_queue() {
    #[rpc]
    trait Other {
        #[rpc(queue = "slow")]
        async fn other() -> u64;
    }
    struct Handler;
    impl Other for Handler {
        async fn other(&self) -> u64 {
            0
        }
    }
    let connection = broker().await.connect().await;
    let prefix = unique_queue("workshop");
    let server = Server::builder(&connection)
        .service(WorkshopDispatcher::new(Probe::default()).with_queue_prefix(&prefix))
        .service(OtherDispatcher::new(Handler).with_queue_prefix(&prefix))
        .build();
    match server.start().await {
        Err(ServeError::QueueTaken {
            queue,
            first,
            second,
        }) => {
            assert_eq!(queue, format!("{prefix}slow"));
            assert_eq!([first, second], ["Workshop", "Other"]);
        }
        other => panic!("{other:?}"),
    }
}

/// The outcome of an attempt to serve a queue.
async fn serve_queue(queue: &str, options: QueueOptions) -> Result<ServerHandle, ServeError> {
    let connection = broker().await.connect().await;
    let dispatcher = WorkshopDispatcher::new(Probe::default())
        .with_queue(queue)
        .with_queue_options(options);
    let server = Server::builder(&connection).service(dispatcher).build();
    server.start().await
}

#[tokio::test]
async fn invalid_queues_are_refused_with_the_reason() {
    let classic = QueueOptions::classic;
    let (name, long) = (unique_queue("flawed"), "q".repeat(245));
    let retry = format!("{name}.retry");
    for (queue, options, reason) in [
        ("", classic(), "it has no name"),
        (&long, classic(), "its name has 245 bytes, and at most 244"),
        (&name, classic().dead_letter_queue(""), "has no name"),
        (&name, classic().dead_letter_queue(&name), "come back"),
        (&name, classic().dead_letter_queue(&retry), "come back"),
    ] {
        match serve_queue(queue, options).await {
            Err(error @ ServeError::InvalidQueue { .. }) => {
                assert!(error.to_string().contains(reason), "{error}");
            }
            other => panic!("{queue}: {other:?}"),
        }
    }
    let longest = unique_queue(&"q".repeat(200));
    let longest = format!("{longest}{}", "q".repeat(244 - longest.len()));
    let server = serve_queue(&longest, classic()).await.unwrap();
    server.shutdown().await.unwrap();
}

/// The longest names that the macro accepts. A longer one is a compile error.
#[rpc(
    queue = "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123"
)]
trait Longest {
    #[rpc(
        name = "012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234"
    )]
    async fn length() -> usize;
}

impl Longest for Probe {
    async fn length(&self) -> usize {
        244
    }
}

#[tokio::test]
async fn the_longest_names_of_a_trait_are_served() {
    let connection = broker().await.connect().await;
    let dispatcher = LongestDispatcher::new(Probe::default());
    let server = Server::builder(&connection).service(dispatcher).build();
    let server = server.start().await.unwrap();
    let longest = LongestClient::new(connection.client());
    assert_eq!(longest.length().await.unwrap(), 244);
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_request_queue_cannot_be_the_last_attempt_queue_of_another() {
    let connection = broker().await.connect().await;
    let queue = unique_queue("workshop");
    let dispatcher = |queue: &str| WorkshopDispatcher::new(Probe::default()).with_queue(queue);
    let server = Server::builder(&connection)
        .service(dispatcher(&queue))
        .service(dispatcher(&format!("{queue}.retry")))
        .build();
    let error = server.start().await.unwrap_err();
    assert!(matches!(error, ServeError::QueueTaken { .. }), "{error:?}");
}

#[tokio::test]
async fn the_status_of_a_queue_counts_its_waiting_messages_and_its_consumers() {
    let broker = broker().await;
    let setup = broker.sample().await;
    let asking = broker.connect().await;
    let status = async || asking.queue_status(&setup.queue).await.unwrap().unwrap();
    assert_eq!((status().await.messages, status().await.consumers), (0, 1));
    setup.server.shutdown().await.unwrap();
    for _ in 0..3 {
        // A message each.
        setup.sample.note("waits".to_owned()).await.unwrap();
    }
    let waiting = status().await;
    assert_eq!((waiting.messages, waiting.consumers), (3, 0));
    let json = serde_json::to_value(&waiting).unwrap();
    assert_eq!(json, serde_json::json!({ "messages": 3, "consumers": 0 }));
    let _server = super::serve(&setup.connection, &setup.queue, &setup.probe, |server| {
        server
    })
    .await;
    let taken = eventually("a server takes the messages", async || {
        let status = status().await;
        (status.messages == 0).then_some(status)
    });
    assert_eq!(taken.await.consumers, 1);
}

#[tokio::test]
async fn a_queue_that_does_not_exist_has_no_status_and_is_not_created() {
    let setup = broker().await.sample().await;
    let connection = &setup.connection;
    let queue = unique_queue("missing");
    for _ in 0..2 {
        assert_eq!(connection.queue_status(&queue).await.unwrap(), None);
    }
    // The connection still works.
    let status = connection.queue_status(&setup.queue).await.unwrap();
    assert!(status.is_some());
}

#[tokio::test]
async fn a_queue_that_cannot_be_asked_is_an_error() {
    let broker = broker().await;
    let asking = broker.connect().await;
    let error = asking.queue_status(&"q".repeat(256)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Encode);
    let queue = unique_queue("exclusive");
    let other = broker.connect().await;
    let _peer = Peer::open(&other, &queue, &[]).await.unwrap();
    let error = asking.queue_status(&queue).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rejected, "{error:?}");
    asking.close().await;
    let error = asking.queue_status("any").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
}
