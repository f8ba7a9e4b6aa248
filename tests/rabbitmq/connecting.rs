//! Opening connections and declaring queues: success, and errors that advise.

use std::error::Error;
use std::time::{Duration, Instant};

use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use rpc_core::{Connection, OpenError, QueueOptions, ServeError, Server};
use rpc_tests::broker::{Node, shared_node};
use rpc_tests::{eventually, unique_queue};
use tokio::net::TcpListener;
use tracing::Level;

use super::log_lines::Log;
use super::{Abacus, AdderClient, AdderDispatcher, serve};

/// The text of an error and of its causes.
pub(super) fn story(error: &dyn Error) -> String {
    let mut story = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        story += &format!(": {error}");
        cause = error.source();
    }
    story
}

#[tokio::test]
async fn a_wrong_password_is_named_without_revealing_it() {
    let url = shared_node().await.url_with("guest", "wr0ng-s3cret", "/");
    let error = Connection::open(&url).await.unwrap_err();
    assert!(
        matches!(error, OpenError::CredentialsRefused { .. }),
        "{error:?}"
    );
    let all = format!("{} {error:?}", story(&error));
    assert!(
        all.contains("user 'guest'") && !all.contains("wr0ng-s3cret"),
        "{all}"
    );
}

#[tokio::test]
async fn an_unknown_virtual_host_is_named() {
    let node = shared_node().await;
    let error = Connection::open(&node.url_with("guest", "guest", "nowhere"))
        .await
        .unwrap_err();
    assert!(
        matches!(error, OpenError::VirtualHostRefused { .. }),
        "{error:?}"
    );
    assert!(story(&error).contains("'nowhere'"), "{}", story(&error));
    let error = Connection::open(&node.url_with("guest", "guest", ""))
        .await
        .unwrap_err();
    assert!(story(&error).contains("written %2f"), "{}", story(&error));
}

#[tokio::test]
async fn an_unreachable_broker_is_named_with_the_cause() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let error = Connection::open(&format!("amqp://127.0.0.1:{port}/%2f"))
        .await
        .unwrap_err();
    assert!(matches!(error, OpenError::Unreachable { .. }), "{error:?}");
    let story = story(&error);
    assert!(
        story.contains(&format!("127.0.0.1:{port}")) && story.contains("refused"),
        "{story}"
    );
    assert_eq!(story.matches("refused").count(), 1, "{story}");
}

#[tokio::test]
async fn a_silent_broker_is_abandoned_after_a_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let started = Instant::now();
    let url = format!("amqp://127.0.0.1:{port}/%2f?connection_timeout=200");
    let error = Connection::open(&url).await.unwrap_err();
    assert!(matches!(error, OpenError::TimedOut { .. }), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_peer_that_does_not_speak_amqp_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.try_write(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let error = Connection::open(&format!(
        "amqp://127.0.0.1:{port}/%2f?connection_timeout=2000"
    ))
    .await
    .unwrap_err();
    assert!(
        matches!(
            error,
            OpenError::Unreachable { .. } | OpenError::TimedOut { .. }
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_peer_that_closes_at_once_is_not_taken_for_another_protocol() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let error = Connection::open(&format!("amqp://127.0.0.1:{port}/%2f"))
        .await
        .unwrap_err();
    let story = story(&error);
    assert!(matches!(error, OpenError::Unreachable { .. }), "{story}");
    assert!(
        story.contains("starting or stopping") && !story.contains("does not speak AMQP"),
        "{story}"
    );
}

#[tokio::test]
async fn a_mismatched_queue_property_is_named() {
    let node = shared_node().await;
    let queue = unique_queue("otherwise");
    let channel = node.connect().await.create_channel().await.unwrap();
    let transient = QueueDeclareOptions {
        auto_delete: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare(queue.as_str().into(), transient, FieldTable::default())
        .await
        .unwrap();
    let connection = Connection::open(&node.url()).await.unwrap();
    let dispatcher = AdderDispatcher::new(Abacus::default()).with_queue(&queue);
    let error = Server::builder(&connection)
        .service(dispatcher)
        .build()
        .run()
        .await
        .unwrap_err();
    assert!(
        matches!(error, ServeError::QueueRefused { .. }),
        "{error:?}"
    );
    let story = story(&error);
    assert!(
        story.contains(&queue) && story.contains("durable"),
        "{story}"
    );
    // The connection still works.
    let other = unique_queue("other");
    let _server = serve(&connection, &other).await;
    assert_eq!(
        AdderClient::new(connection.client())
            .with_queue(&other)
            .add(1, 2)
            .await
            .unwrap(),
        3
    );
}

#[tokio::test]
async fn a_refused_queue_is_named_with_reason_and_advice() {
    let node = Node::start().await;
    node.ctl(&["add_user", "limited", "secret"]).await;
    let connection = Connection::open(&node.url()).await.unwrap();
    let queue = unique_queue("refused");
    let told = async |connection: &Connection, queue: &str, options: QueueOptions| {
        let dispatcher = AdderDispatcher::new(Abacus::default())
            .with_queue(queue)
            .with_queue_options(options);
        let server = Server::builder(connection).service(dispatcher).build();
        let error = server.start().await.unwrap_err();
        // The broker's own text follows once.
        let whole = format!("{error:?}");
        let words = error.source().unwrap().to_string();
        assert_eq!(whole.matches(&words).count(), 1, "{whole}");
        assert!(!whole.contains("soft error"), "{whole}");
        error.to_string()
    };
    let _server = serve(&connection, &queue).await;
    let type_of = told(&connection, &queue, QueueOptions::quorum()).await;
    assert_eq!(
        type_of,
        format!(
            "the broker refused queue '{queue}': it exists with x-queue-type 'classic', and this server declares 'quorum'; declare it with `QueueOptions::classic()`, use it as it is with `QueueOptions::existing()`, or delete it once it is empty"
        )
    );
    let missing = told(&connection, "nowhere", QueueOptions::passive()).await;
    assert!(
        missing.contains("'nowhere': it does not exist; declare it"),
        "{missing}"
    );
    let invalid = QueueOptions::quorum().max_priority(3);
    let invalid = told(&connection, &unique_queue("invalid"), invalid).await;
    assert!(invalid.contains("it takes no x-max-priority"), "{invalid}");
    let reserved = told(&connection, "amq.rpc", QueueOptions::classic()).await;
    assert!(reserved.contains("choose another name"), "{reserved}");

    node.ctl(&["set_permissions", "limited", "^$", ".*", ".*"])
        .await;
    let url = node.url_with("limited", "secret", "%2f");
    let limited = Connection::open(&url).await.unwrap();
    let forbidden = told(
        &limited,
        &unique_queue("forbidden"),
        QueueOptions::existing(),
    )
    .await;
    assert!(
        forbidden.contains("user 'limited' lacks a permission; grant `configure` and `read`"),
        "{forbidden}"
    );
}

#[tokio::test]
async fn amqps_works_with_a_private_certificate_authority() {
    let node = Node::builder().tls().start().await;
    let connection = Connection::builder(node.tls_url())
        .root_certificates(node.ca_pem())
        .open()
        .await
        .unwrap();
    let queue = unique_queue("tls");
    let _server = serve(&connection, &queue).await;
    assert_eq!(
        AdderClient::new(connection.client())
            .with_queue(&queue)
            .add(1, 2)
            .await
            .unwrap(),
        3
    );
    let error = Connection::open(&node.tls_url()).await.unwrap_err();
    assert!(
        matches!(error, OpenError::TlsRefused { .. }),
        "the certificate must not be trusted without its authority: {error:?}"
    );
    assert!(
        story(&error).to_lowercase().contains("certificate"),
        "{}",
        story(&error)
    );
}

#[tokio::test]
async fn a_connection_ends_with_its_runtime() {
    let node = shared_node().await;
    let name = unique_queue("runtime");
    let other = tokio::runtime::Runtime::new().unwrap();
    let builder = Connection::builder(node.url()).name(&name);
    let connection = other.spawn(builder.open()).await.unwrap().unwrap();
    let is_there = async || {
        let listed = node
            .ctl(&["list_connections", "client_properties", "--quiet"])
            .await;
        listed.contains(&name)
    };
    assert!(is_there().await);
    other.shutdown_background();
    eventually("the broker has no such connection", async || {
        (!is_there().await).then_some(())
    })
    .await;
    drop(connection);
}

#[tokio::test]
async fn the_log_says_why_a_reconnect_fails() {
    let (log, _logging) = Log::of_this_thread(Level::INFO);
    let node = Node::start().await;
    let _connection = Connection::open(&node.url()).await.unwrap();
    node.kill().await;
    let line = eventually("an attempt fails", async || {
        let said = log.text();
        let line = said.lines().find(|line| line.contains("trying again"));
        line.map(str::to_owned)
    })
    .await;
    let place = format!("127.0.0.1:{}", node.port());
    assert!(line.contains(&place) && line.contains("refused"), "{line}");
}

#[tokio::test]
async fn refusals_take_precedence_over_unreachable_endpoints() {
    let (log, _logging) = Log::of_this_thread(Level::INFO);
    let node = shared_node().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let down = format!("amqp://{}/%2f", listener.local_addr().unwrap());
    drop(listener);
    let wrong = node.url_with("guest", "wr0ng-s3cret", "/");
    for [first, second] in [[&wrong, &down], [&down, &wrong]] {
        let opened = Connection::builder(first).endpoint(second).open().await;
        let error = opened.unwrap_err();
        assert!(
            matches!(error, OpenError::CredentialsRefused { .. }),
            "{error:?}"
        );
    }
    // Another endpoint works, and the log names the one that does not.
    let connected = Connection::builder(&wrong).endpoint(node.url()).open();
    connected.await.unwrap();
    let text = log.text();
    let refused = |line: &&str| {
        line.contains("WARN") && line.contains("an endpoint refuses") && line.contains("'guest'")
    };
    assert_eq!(text.lines().filter(refused).count(), 3, "{text}");
    assert!(!text.contains("wr0ng-s3cret"), "{text}");
}
