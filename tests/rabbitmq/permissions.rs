//! Users without permissions: errors name the missing ones, and other calls are not affected.

use std::error::Error;
use std::time::Duration;

use rpc_core::testing::{Peer, PeerMessage};
use rpc_core::{Connection, ErrorKind, Health, RpcError};
use rpc_tests::broker::Node;
use rpc_tests::{eventually, unique_queue};

use super::giving_up::Log;
use super::{AdderClient, serve};

const ALL: &str = ".*";

/// A node with a user who has a limited set of permissions.
struct Limited(Node);

impl Limited {
    async fn new(permissions: [&str; 3]) -> Self {
        let node = Node::start().await;
        node.ctl(&["add_user", "limited", "secret"]).await;
        let limited = Self(node);
        limited.permit(permissions).await;
        limited
    }

    /// Sets the permissions to configure, write and read.
    async fn permit(&self, [configure, write, read]: [&str; 3]) {
        let set = ["set_permissions", "limited", configure, write, read];
        self.0.ctl(&set).await;
    }

    async fn connect(&self) -> Connection {
        let url = self.0.url_with("limited", "secret", "%2f");
        Connection::open(&url).await.unwrap()
    }

    /// A client of that user, and a server with all permissions.
    async fn adder(&self) -> (AdderClient, rpc_core::ServerHandle) {
        let queue = unique_queue("limited");
        let serving = Connection::open(&self.0.url()).await.unwrap();
        let server = serve(&serving, &queue).await;
        let client = self.connect().await.client();
        (AdderClient::new(client).with_queue(&queue), server)
    }
}

/// A pattern of all names but one.
fn all_but(name: &str) -> String {
    format!("^(?!{}$).*", name.replace('.', "\\."))
}

/// Asserts that a call was not permitted and that its error names the missing permission.
fn assert_denied(error: &RpcError, missing: &str) {
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:?}");
    assert!(error.to_string().contains(missing), "{error}");
    assert!(error.to_string().contains("grant"), "{error}");
    assert!(!error.is_retryable());
    let cause = error.source().expect("the broker's words").to_string();
    assert!(
        cause.contains("ACCESS_REFUSED") && cause.contains("limited"),
        "{cause}"
    );
}

#[tokio::test]
async fn a_missing_permission_to_publish_is_named() {
    let limited = Limited::new([ALL, &all_but("amq.default"), ALL]).await;
    let (adder, _server) = limited.adder().await;
    let error = adder.add(1, 2).await.unwrap_err();
    assert_denied(&error, "'amq.default'");
    assert!(!error.may_have_executed());
    // Confirmed requests use a channel of their own.
    let error = adder.add(1, 2).persistent().await.unwrap_err();
    assert_denied(&error, "'amq.default'");
    assert!(!error.may_have_executed());
    // An idempotent call is not retried.
    let error = adder.wait_twice().await.unwrap_err();
    assert_denied(&error, "'amq.default'");
    let together = futures_util::future::join_all((0..10).map(|n| adder.add(n, n))).await;
    for answer in together {
        assert_denied(&answer.unwrap_err(), "'amq.default'");
    }
    limited.permit([ALL; 3]).await;
    assert_eq!(adder.add(1, 2).await.unwrap(), 3);
    assert_eq!(adder.add(1, 2).persistent().await.unwrap(), 3);
}

#[tokio::test]
async fn a_call_that_ends_with_a_forbidden_one_may_have_run() {
    let limited = Limited::new([ALL; 3]).await;
    let (adder, _server) = limited.adder().await;
    let held = tokio::spawn(adder.wait_for_release());
    assert_eq!(adder.add(1, 2).await.unwrap(), 3);
    limited.permit([ALL, &all_but("amq.default"), ALL]).await;
    let forbidden = eventually("the broker applies the new permissions", async || {
        // The broker caches permissions while the channel is busy.
        tokio::time::sleep(Duration::from_secs(2)).await;
        adder.add(1, 2).await.err()
    })
    .await;
    assert_denied(&forbidden, "'amq.default'");
    assert!(!forbidden.may_have_executed());
    let ended = held.await.unwrap().unwrap_err();
    assert_denied(&ended, "'amq.default'");
    assert!(ended.may_have_executed());
}

#[tokio::test]
async fn missing_permissions_for_a_reply_queue_are_named() {
    let replies = r"^(?!rpc\.reply\.).*";
    let limited = Limited::new([replies, ALL, ALL]).await;
    let (adder, _server) = limited.adder().await;
    for permissions in [[replies, ALL, ALL], [ALL, ALL, replies]] {
        limited.permit(permissions).await;
        let error = adder.add(1, 2).await.unwrap_err();
        assert_denied(&error, "'rpc.reply.'");
        assert!(!error.may_have_executed());
    }
    limited.permit([ALL; 3]).await;
    assert_eq!(adder.add(1, 2).await.unwrap(), 3);
}

#[tokio::test]
async fn a_missing_permission_to_call_all_instances_is_named() {
    let limited = Limited::new([ALL, &all_but("amq.direct"), ALL]).await;
    let (adder, _server) = limited.adder().await;
    let held = tokio::spawn(adder.wait_for_release());
    assert_eq!(adder.add(1, 2).await.unwrap(), 3);
    let client = limited.connect().await.client();
    for _ in 0..2 {
        let call = adder.add(1, 2).to_all_instances();
        let error = call.send().await.unwrap_err();
        assert_denied(&error, "'amq.direct'");
        assert!(!error.may_have_executed());
        let error = client.instances("Adder").await.unwrap_err();
        assert_denied(&error, "'amq.direct'");
    }
    // The channel of the requests is not affected.
    adder.release().await.unwrap();
    held.await.unwrap().unwrap();
}

#[tokio::test]
async fn users_without_permission_for_cancel_notices_can_call_and_serve() {
    let no_notices = all_but("amq.direct");
    let limited = Limited::new([ALL, &no_notices, &no_notices]).await;
    let connection = limited.connect().await;
    let queue = unique_queue("limited");
    let log = Log::default();
    let _logging = log.keep();
    let _server = serve(&connection, &queue).await;
    let adder = AdderClient::new(connection.client()).with_queue(&queue);
    let others: Vec<_> = (0..10)
        .map(|_| tokio::spawn(adder.wait_for_release()))
        .collect();
    assert_eq!(adder.add(1, 2).await.unwrap(), 3);
    let warnings = || {
        log.text()
            .matches("servers are not told of dropped calls")
            .count()
    };
    for _ in 0..3 {
        let dropped = tokio::spawn(adder.stick());
        assert_eq!(adder.add(1, 2).await.unwrap(), 3);
        dropped.abort();
        assert!(dropped.await.unwrap_err().is_cancelled());
        eventually("the log contains the warning", async || {
            (warnings() > 0).then_some(())
        })
        .await;
    }
    for call in others {
        adder.release().await.unwrap();
        call.await
            .unwrap()
            .expect("the refusal affects no other call");
    }
    assert_eq!(warnings(), 1);
    let told = log.text();
    assert!(
        told.contains("'amq.direct'") && told.contains("cancellation(false)"),
        "{told}"
    );
}

#[tokio::test]
async fn missing_permissions_for_the_private_queue_are_logged_once() {
    let (serves, writes) = ("limited.*", "amq\\.default|limited.*");
    let private = "|rpc\\.instance\\..*";
    let limited = Limited::new([serves, writes, serves]).await;
    let log = Log::default();
    let _logging = log.keep();
    let serving = limited.connect().await;
    let queue = unique_queue("limited");
    let server = serve(&serving, &queue).await;
    let told = log.text();
    for part in [
        "will not be cancelled",
        "does not list the server",
        "do not reach it",
        "'rpc.instance.'",
        "'amq.direct'",
        "grant",
    ] {
        assert!(told.contains(part), "{told}");
    }

    // The server serves all the same, and answers questions about itself through its own queue.
    let asking = Connection::open(&limited.0.url()).await.unwrap();
    let adder = AdderClient::new(asking.client()).with_queue(&queue);
    assert_eq!(adder.add(1, 2).await.unwrap(), 3);
    let replies = unique_queue("peer");
    let mut peer = Peer::open(&asking, &replies, &[]).await.unwrap();
    limited.permit([serves, ".*", serves]).await;
    let ping = || PeerMessage {
        kind: Some("rpc.ping".to_owned()),
        content_type: Some("application/json".to_owned()),
        reply_to: Some(replies.clone()),
        correlation_id: Some("1".to_owned()),
        body: "{}".into(),
        ..PeerMessage::default()
    };
    let answer = eventually("the broker applies the new permissions", async || {
        peer.publish(&queue, ping()).await.unwrap();
        let answer = tokio::time::timeout(Duration::from_secs(1), peer.next());
        answer.await.ok()?
    })
    .await;
    assert_eq!(answer.kind.as_deref(), Some("result"));
    assert_eq!(answer.reply_to, None);

    // Neither the line nor the attempt, which lapin logs as an error, is repeated after a loss of the connection.
    // The broker names the queue, and so the instance.
    let refusals = |id: &str| {
        limited
            .0
            .log()
            .matches(&format!("rpc.instance.{id}"))
            .count()
    };
    let logged = async |id: &str| {
        eventually("the broker logs the refusal", async || {
            Some(refusals(id)).filter(|refusals| *refusals > 0)
        })
        .await
    };
    let before = logged(server.instance_id()).await;
    let warnings = |text: &str| text.matches("has no private queue").count();
    assert_eq!(warnings(&told), 1);
    let mut health = server.health();
    limited.0.close_connections("by an operator").await;
    while health.changed().await != Some(Health::Serving) {}
    assert_eq!(warnings(&log.text()), 1);
    assert_eq!(adder.add(1, 2).await.unwrap(), 3);
    // The log keeps the order.
    let other = serve(&limited.connect().await, &unique_queue("limited")).await;
    logged(other.instance_id()).await;
    assert_eq!(refusals(server.instance_id()), before);

    // The permissions in the log line are sufficient.
    let permissions = [
        format!("{serves}{private}"),
        format!("{writes}{private}"),
        format!("{serves}{private}|amq\\.direct"),
    ];
    limited
        .permit(permissions.each_ref().map(String::as_str))
        .await;
    let _server = serve(&limited.connect().await, &unique_queue("limited")).await;
    assert_eq!(
        warnings(&log.text()),
        2,
        "one of each server without permissions"
    );
}

#[tokio::test]
async fn the_status_of_a_queue_needs_no_permission_or_names_it() {
    let limited = Limited::new([ALL; 3]).await;
    let queue = unique_queue("status");
    let serving = Connection::open(&limited.0.url()).await.unwrap();
    let _server = serve(&serving, &queue).await;
    let none = "^$";
    limited.permit([none; 3]).await;
    // RabbitMQ 3 does not check permissions here.
    match limited.connect().await.queue_status(&queue).await {
        Ok(status) => assert_eq!(status.unwrap().consumers, 1),
        Err(error) => assert_denied(&error, "read"),
    }
    limited.permit([none, none, ALL]).await;
    let status = limited.connect().await.queue_status(&queue).await.unwrap();
    assert_eq!(status.unwrap().consumers, 1);
}

#[tokio::test]
async fn watching_calls_needs_the_permissions_to_ask_and_to_open_streams() {
    let limited = Limited::new([ALL; 3]).await;
    let serving = Connection::open(&limited.0.url()).await.unwrap();
    let queue = unique_queue("watched");
    let dispatcher = super::AdderDispatcher::new(super::Abacus::default()).with_queue(&queue);
    let server = rpc_core::Server::builder(&serving).service(dispatcher);
    let _server = server.tap(true).build().start().await.unwrap();
    let client = limited.connect().await.client();
    for forbidden in ["amq.direct", "amq.default"] {
        limited.permit([ALL, &all_but(forbidden), ALL]).await;
        let error = client.tap("Adder").expect(1).await.unwrap_err();
        assert_denied(&error, &format!("'{forbidden}'"));
    }
    limited.permit([ALL; 3]).await;
    let mut tap = client.tap("Adder").expect(1).await.unwrap();
    let adder = AdderClient::new(client).with_queue(&queue);
    assert_eq!(adder.add(1, 2).await.unwrap(), 3);
    assert!(tap.next().await.unwrap().call.is_some());
}
