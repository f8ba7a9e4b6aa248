//! Text from other programs stays within its line of the log.

use std::io;
use std::sync::{Arc, Mutex};

use lapin::BasicProperties;
use lapin::options::BasicPublishOptions;
use rpc_core::{Connection, ErrorKind};
use rpc_tests::broker::shared_node;
use rpc_tests::{eventually, unique_queue};
use serde::Serialize;
use tracing::Level;
use tracing::subscriber::DefaultGuard;

use super::peer::{Peer, parts};
use super::{AdderClient, serve};

/// The text of a forged line.
const FORGED: &str = "2026-01-01T00:00:00Z  INFO all is well";

/// The output of the log.
#[derive(Clone, Default)]
pub(super) struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Collects events of this thread until the guard is dropped. All tasks of a test run on its thread.
    pub(super) fn of_this_thread(level: Level) -> (Self, DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

#[tokio::test]
async fn log_lines_cannot_be_forged() {
    let (log, _logging) = Log::of_this_thread(Level::DEBUG);
    let node = shared_node().await;
    let connection = Connection::open(&node.url()).await.unwrap();
    let queue = unique_queue("logged");
    let server = serve(&connection, &queue).await;
    let mut stranger = Peer::with_queue(node).await;
    let forging = |text: &str| format!("{text}\n{FORGED}");
    let request = || {
        BasicProperties::default()
            .with_type("add".into())
            .with_content_type("application/json".into())
            .with_correlation_id(forging("id").into())
            .with_app_id(forging("app").into())
    };
    for (properties, body) in [
        (request().with_type(forging("type").into()), "{}"),
        (request().with_content_type(forging("content").into()), "{}"),
        (request(), "\n"),
        (request(), r#"{"a":"b\n2026-01-01"}"#),
    ] {
        let reply = stranger.call(&queue, properties, body.as_bytes()).await;
        assert_eq!(parts(&reply).0, "fault");
    }
    for to in ["amq.rabbitmq.reply-to.", queue.as_str()] {
        let lost = request().with_reply_to(forging(to).into());
        stranger.publish(&queue, lost, b"[1, 2]").await;
    }
    eventually("all requests are refused or served", async || {
        (server.refused_requests() >= 4 && node.queue(&queue).await?.messages == 0).then_some(())
    })
    .await;
    server.shutdown().await.unwrap();

    let mut server = Peer::serving(node, &queue).await;
    let adder = AdderClient::new(connection.client()).with_queue(&queue);
    let fault = |code: &str| {
        let (code, message) = (forging(code), forging("message"));
        format!(r#"{{"code":{code:?},"message":{message:?}}}"#)
    };
    let reply = || BasicProperties::default().with_content_type("application/json".into());
    let fault_reply = || reply().with_type("fault".into());
    let known = format!(r#"{{"code":"bad_request","message":{:?}}}"#, forging("m"));
    for (properties, body) in [
        (reply().with_type(forging("type").into()), "3".to_owned()),
        (
            reply().with_content_type(forging("content").into()),
            "3".to_owned(),
        ),
        (fault_reply(), fault("code")),
        (fault_reply(), known),
        (
            reply().with_type("result".into()),
            format!("{:?}", forging("three")),
        ),
    ] {
        let call = tokio::spawn(adder.add(1, 2).into_future());
        let request = server.receive().await;
        let to = request.properties.reply_to().clone().unwrap();
        let id = request.properties.correlation_id().clone().unwrap();
        let properties = properties.with_correlation_id(id);
        server
            .publish(to.as_str(), properties, body.as_bytes())
            .await;
        let error = call.await.unwrap().unwrap_err();
        assert!(matches!(
            error.kind(),
            ErrorKind::BadReply | ErrorKind::BadRequest
        ));
        tracing::warn!(%error, "as a user logs it");
    }

    let log = log.text();
    assert!(log.contains("as a user logs it"), "{log}");
    assert!(
        log.contains(r"type\n"),
        "text from messages must be escaped: {log}"
    );
    let forged = log.lines().find(|line| line.starts_with("2026-01-01"));
    assert_eq!(forged, None, "{log}");
}

/// An announcement of another contract of [`Adder`](super::Adder), by an instance that reads a queue.
fn announcement(queue: &str, docs: &str) -> Vec<u8> {
    let announcement = serde_json::json!({
        "instance": format!("id\n{FORGED}"),
        "queues": [queue],
        "service": {
            "name": "Adder", "version": "1".repeat(50_000), "docs": docs, "queue": "rpc.Adder", "contract": "other", "methods": [],
        },
    });
    let mut bytes = Vec::new();
    let mut serializer = rmp_serde::Serializer::new(&mut bytes)
        .with_struct_map()
        .with_human_readable();
    announcement.serialize(&mut serializer).unwrap();
    bytes
}

#[tokio::test]
async fn announcements_of_another_contract_give_one_short_line() {
    let (log, _logging) = Log::of_this_thread(Level::WARN);
    let node = shared_node().await;
    let connection = Connection::open(&node.url()).await.unwrap();
    let queue = unique_queue("announced");
    let _server = serve(&connection, &queue).await;
    let stranger = Peer::with_queue(node).await;
    let properties = || {
        BasicProperties::default()
            .with_type("rpc.announce".into())
            .with_content_type("application/msgpack".into())
    };
    let options = BasicPublishOptions::default();
    for body in [
        b"\xc1".to_vec(),
        announcement("another queue", ""),
        announcement(&queue, ""),
        announcement(&queue, ""),
        announcement(&queue, "other docs"),
    ] {
        let topic = "rpc.instances.Adder".into();
        let published = stranger.channel.basic_publish(
            "amq.direct".into(),
            topic,
            options,
            &body,
            properties(),
        );
        published.await.unwrap();
    }
    let warning = "an instance with an incompatible contract reads the same queue";
    eventually("the log contains the warning", async || {
        log.text().contains(warning).then_some(())
    })
    .await;
    // The server reads announcements and questions in their order.
    let asking = connection.client();
    eventually("the server answers", async || {
        let found = asking.instances("Adder").await.ok()?;
        let own = found.iter().any(|it| it.queues == [queue.as_str()]);
        own.then_some(())
    })
    .await;
    let text = log.text();
    assert_eq!(text.matches(warning).count(), 1, "{text}");
    assert!(text.contains("only the client has the method"), "{text}");
    assert!(text.lines().all(|line| line.len() < 4_000));
    assert!(!text.lines().any(|line| line.starts_with("2026-01-01")));
}
