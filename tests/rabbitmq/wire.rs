//! Bytes on the wire, as peers without this crate send and see them.

use std::time::{SystemTime, UNIX_EPOCH};

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use rpc_core::Connection;
use rpc_tests::broker::shared_node;
use rpc_tests::unique_queue;

use super::peer::{Peer, parts};
use super::{AdderClient, serve};

fn json() -> BasicProperties {
    BasicProperties::default().with_content_type("application/json".into())
}

#[tokio::test]
async fn answers_of_an_instance_follow_the_protocol() {
    let node = shared_node().await;
    let queue = unique_queue("asked");
    let connection = Connection::builder(node.url()).name("billing").open();
    let server = serve(&connection.await.unwrap(), &queue).await;
    let id = server.instance_id();
    let mut peer = Peer::with_queue(node).await;
    let question = json()
        .with_type("rpc.ping".into())
        .with_correlation_id("7".into());
    let answer = peer.call(&queue, question.clone(), b"{}").await;
    assert_eq!(parts(&answer).0, "result");
    let properties = &answer.properties;
    let text =
        |property: &Option<lapin::types::ShortString>| property.as_ref().unwrap().to_string();
    assert_eq!(text(properties.correlation_id()), "7");
    assert_eq!(text(properties.content_type()), "application/json");
    assert_eq!(text(properties.app_id()), "billing");
    let private_queue = text(properties.reply_to());
    let prefix = format!("rpc.instance.{id}.");
    assert!(private_queue.starts_with(&prefix), "{private_queue}");
    let headers = properties.headers().as_ref().unwrap().inner();
    assert_eq!(headers["rpc-instance"], AMQPValue::LongString(id.into()));
    assert_eq!(headers.len(), 1);
    let infos: serde_json::Value = serde_json::from_slice(&answer.data).unwrap();
    let info = &infos[0];
    assert!(info["started"]["secs_since_epoch"].is_u64(), "{info}");
    assert_eq!(
        infos,
        serde_json::json!([{
            "id": id,
            "name": "billing",
            "service": "Adder",
            "version": info["version"],
            "queues": [queue],
            "started": info["started"],
            "crate_version": info["crate_version"],
            "protocol": 1,
            "contract": info["contract"],
            "round_trip": {"secs": 0, "nanos": 0},
        }])
    );
    let by_name = peer.call(&private_queue, question, b"{}").await;
    assert_eq!(by_name.data, answer.data);

    let call = json()
        .with_type("add".into())
        .with_correlation_id("8".into())
        .with_reply_to(peer.queue.as_str().into());
    let topic = format!("rpc.all.{queue}");
    let options = lapin::options::BasicPublishOptions::default();
    let publishing = peer.channel.basic_publish(
        "amq.direct".into(),
        topic.as_str().into(),
        options,
        b"[1, 2]",
        call,
    );
    publishing.await.unwrap();
    let reply = peer.receive().await;
    assert_eq!(parts(&reply), ("result", "3"));
    let headers = reply.properties.headers().as_ref().unwrap().inner();
    assert_eq!(headers["rpc-instance"], AMQPValue::LongString(id.into()));
    assert_eq!(*reply.properties.reply_to(), None);
}

#[tokio::test]
async fn a_request_follows_the_protocol() {
    let node = shared_node().await;
    let queue = unique_queue("captured");
    let mut server = Peer::serving(node, &queue).await;
    let connection = Connection::builder(node.url())
        .name("billing")
        .open()
        .await
        .unwrap();
    let adder = AdderClient::new(connection.client()).with_queue(&queue);
    let call = tokio::spawn(
        adder
            .add(1, 2)
            .timeout(std::time::Duration::from_secs(10))
            .header("tenant", "a")
            .priority(3)
            .into_future(),
    );
    let request = server.receive().await;
    assert_eq!(
        request.data, b"\x82\xa1a\x01\xa1b\x02",
        "arguments are a map by name"
    );
    let properties = &request.properties;
    let text =
        |property: &Option<lapin::types::ShortString>| property.as_ref().unwrap().to_string();
    assert_eq!(text(properties.kind()), "add");
    assert_eq!(text(properties.content_type()), "application/msgpack");
    assert_eq!(text(properties.app_id()), "billing");
    assert_eq!(*properties.priority(), Some(3));
    assert_eq!(*properties.delivery_mode(), None);
    let id = text(properties.correlation_id());
    assert_eq!(
        (id.len(), id.as_bytes()[14]),
        (36, b'4'),
        "a UUID of version 4"
    );
    let expiration: u64 = text(properties.expiration()).parse().unwrap();
    assert!((9000..=10_000).contains(&expiration), "{expiration}");
    let headers = properties.headers().as_ref().unwrap().inner();
    assert_eq!(headers["tenant"], AMQPValue::LongString("a".into()));
    let AMQPValue::LongLongInt(deadline) = headers["rpc-deadline"] else {
        panic!("{headers:?}")
    };
    let now = i64::try_from(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_millis(),
    )
    .unwrap();
    assert!(
        (5000..=10_001).contains(&(deadline - now)),
        "{deadline} at {now}"
    );

    // A reply of a foreign server: an array would be as valid as a map, and a number needs neither.
    let reply_to = text(properties.reply_to());
    assert!(reply_to.starts_with("rpc.reply."), "{reply_to}");
    let reply = BasicProperties::default()
        .with_correlation_id(id.into())
        .with_type("result".into())
        .with_content_type("application/msgpack".into());
    server.publish(&reply_to, reply, b"\x03").await;
    assert_eq!(call.await.unwrap().unwrap(), 3);
}

#[tokio::test]
async fn persistent_requests_have_delivery_mode_2_and_oneway_requests_no_reply_to() {
    #[rpc_core::rpc]
    trait Notes {
        #[rpc(oneway)]
        async fn note(text: String);
    }
    let node = shared_node().await;
    let queue = unique_queue("captured");
    let mut server = Peer::serving(node, &queue).await;
    let connection = Connection::open(&node.url()).await.unwrap();
    NotesClient::new(connection.client())
        .with_queue(&queue)
        .note("a".to_owned())
        .persistent()
        .await
        .unwrap();
    let request = server.receive().await;
    assert_eq!(*request.properties.delivery_mode(), Some(2));
    assert!(request.properties.reply_to().is_none());
}

#[tokio::test]
async fn a_json_peer_gets_json_replies() {
    let node = shared_node().await;
    let queue = unique_queue("adder");
    let connection = Connection::builder(node.url())
        .name("adder")
        .open()
        .await
        .unwrap();
    let _server = serve(&connection, &queue).await;
    let mut peer = Peer::with_queue(node).await;
    // A correlation id of any form, up to the maximum length, comes back byte for byte.
    for id in ["1".to_owned(), "ü/ß".to_owned(), "x".repeat(255)] {
        let request = json()
            .with_type("add".into())
            .with_correlation_id(id.as_str().into());
        let reply = peer.call(&queue, request, br#"{"a": 1, "b": 2}"#).await;
        assert_eq!(parts(&reply), ("result", "3"));
        assert_eq!(
            reply.properties.correlation_id().as_ref().unwrap().as_str(),
            id
        );
        assert_eq!(
            reply.properties.content_type().as_ref().unwrap().as_str(),
            "application/json"
        );
        assert_eq!(
            reply.properties.app_id().as_ref().unwrap().as_str(),
            "adder"
        );
    }
    let reply = peer
        .call(&queue, json().with_type("add".into()), b"[3, 4]")
        .await;
    assert_eq!(
        parts(&reply),
        ("result", "7"),
        "arguments in declaration order"
    );
    assert!(reply.properties.correlation_id().is_none());
    let reply = peer
        .call(
            &queue,
            json().with_type("negate".into()),
            br#"{"n": -9223372036854775808}"#,
        )
        .await;
    assert_eq!(parts(&reply), ("error", "\"too small\""));
}

#[tokio::test]
async fn a_plain_peer_calls_the_default_method_with_a_bare_argument() {
    let node = shared_node().await;
    let queue = unique_queue("adder");
    let connection = Connection::open(&node.url()).await.unwrap();
    let _server = serve(&connection, &queue).await;
    let mut peer = Peer::with_queue(node).await;
    for properties in [
        BasicProperties::default(),
        BasicProperties::default().with_content_type("text/plain".into()),
    ] {
        let reply = peer.call(&queue, properties, b"30").await;
        assert_eq!(parts(&reply), ("result", "-30"));
    }
}

#[tokio::test]
async fn bad_requests_get_faults_and_are_acknowledged() {
    let node = shared_node().await;
    let queue = unique_queue("adder");
    let connection = Connection::open(&node.url()).await.unwrap();
    let server = serve(&connection, &queue).await;
    let mut peer = Peer::with_queue(node).await;
    let typed = |kind: &str, content_type: &str| {
        BasicProperties::default()
            .with_type(kind.into())
            .with_content_type(content_type.into())
    };
    for (properties, body, code) in [
        (
            json().with_type("multiply".into()),
            &b"{}"[..],
            "unknown_method",
        ),
        (json().with_type("add".into()), b"{\"a\": 1}", "bad_request"),
        (json().with_type("add".into()), b"not json", "bad_request"),
        (json().with_type("add".into()), b"", "bad_request"),
        (json().with_type("add".into()), b"[1, 2] 3", "bad_request"),
        (
            typed("add", "text/xml"),
            b"<a/>",
            "unsupported_content_type",
        ),
        (BasicProperties::default(), b"thirty", "bad_request"),
    ] {
        let reply = peer.call(&queue, properties, body).await;
        let (kind, fault) = parts(&reply);
        assert_eq!(kind, "fault", "{fault}");
        assert!(
            fault.starts_with(&format!("{{\"code\":\"{code}\",\"message\":\"")),
            "{fault}"
        );
    }
    // Bytes that claim four gigabytes, or a thousand levels.
    for body in [&[0xdd, 0xff, 0xff, 0xff, 0xff][..], &[0x91; 100_000]] {
        let reply = peer
            .call(&queue, typed("add", "application/msgpack"), body)
            .await;
        assert_eq!(parts(&reply).0, "fault");
    }
    assert_eq!(
        AdderClient::new(connection.client())
            .with_queue(&queue)
            .add(1, 2)
            .await
            .unwrap(),
        3
    );
    server.shutdown().await.unwrap();
    assert_eq!(
        node.queue(&queue).await.unwrap().messages,
        0,
        "all deliveries are acknowledged"
    );
}

#[tokio::test]
async fn any_value_of_the_deadline_header_gets_a_reply() {
    let node = shared_node().await;
    let queue = unique_queue("adder");
    let connection = Connection::open(&node.url()).await.unwrap();
    let _server = serve(&connection, &queue).await;
    let mut peer = Peer::with_queue(node).await;
    let with_deadline = |deadline: AMQPValue| {
        let mut headers = FieldTable::default();
        headers.insert("rpc-deadline".into(), deadline);
        json().with_type("add".into()).with_headers(headers)
    };
    for (deadline, kind) in [
        (AMQPValue::LongLongInt(i64::MIN), "fault"),
        (AMQPValue::LongLongInt(-1), "fault"),
        (AMQPValue::LongInt(0), "fault"),
        (AMQPValue::LongLongInt(i64::MAX), "result"),
        (AMQPValue::LongString("soon".into()), "result"),
        (AMQPValue::Void, "result"),
        (AMQPValue::FieldTable(FieldTable::default()), "result"),
    ] {
        let reply = peer
            .call(&queue, with_deadline(deadline.clone()), b"[1, 2]")
            .await;
        assert_eq!(parts(&reply).0, kind, "{deadline:?}");
    }
}

#[tokio::test]
async fn a_request_without_reply_to_runs_and_is_acknowledged() {
    let node = shared_node().await;
    let queue = unique_queue("adder");
    let connection = Connection::open(&node.url()).await.unwrap();
    let server = serve(&connection, &queue).await;
    let mut peer = Peer::with_queue(node).await;
    peer.publish(&queue, json().with_type("add".into()), b"[1, 2]")
        .await;
    peer.publish(&queue, json().with_type("no such".into()), b"?")
        .await;
    let reply = peer
        .call(&queue, json().with_type("add".into()), b"[1, 2]")
        .await;
    assert_eq!(parts(&reply), ("result", "3"));
    server.shutdown().await.unwrap();
    assert_eq!(node.queue(&queue).await.unwrap().messages, 0);
}

#[tokio::test]
async fn unroutable_replies_are_dropped_and_their_requests_acknowledged() {
    let node = shared_node().await;
    let queue = unique_queue("adder");
    let connection = Connection::open(&node.url()).await.unwrap();
    let server = serve(&connection, &queue).await;
    let mut peer = Peer::with_queue(node).await;
    for reply_to in ["gone", "", "q with spaces", &"x".repeat(255)] {
        peer.publish(
            &queue,
            json()
                .with_type("add".into())
                .with_reply_to(reply_to.into()),
            b"[1, 2]",
        )
        .await;
    }
    assert_eq!(
        parts(
            &peer
                .call(&queue, json().with_type("add".into()), b"[1, 2]")
                .await
        ),
        ("result", "3")
    );
    server.shutdown().await.unwrap();
    assert_eq!(node.queue(&queue).await.unwrap().messages, 0);
}

#[tokio::test]
async fn direct_reply_to_requests_get_replies() {
    let node = shared_node().await;
    let queue = unique_queue("adder");
    let connection = Connection::open(&node.url()).await.unwrap();
    let server = serve(&connection, &queue).await;
    let mut peer = Peer::with_direct_replies(node).await;
    for n in 0..50 {
        let body = format!("[{n}, 1]");
        let reply = peer
            .call(&queue, json().with_type("add".into()), body.as_bytes())
            .await;
        assert_eq!(parts(&reply), ("result", (n + 1).to_string().as_str()));
    }
    server.shutdown().await.unwrap();
    assert_eq!(node.queue(&queue).await.unwrap().messages, 0);
}

#[tokio::test]
async fn arguments_nested_too_deep_or_named_by_numbers_are_refused() {
    let node = shared_node().await;
    let queue = unique_queue("adder");
    let connection = Connection::open(&node.url()).await.unwrap();
    let _server = serve(&connection, &queue).await;
    let mut peer = Peer::with_queue(node).await;
    let mut call = async |properties: BasicProperties, body: &[u8]| {
        let reply = peer.call(&queue, properties, body).await;
        let (kind, body) = parts(&reply);
        (kind.to_owned(), body.to_owned())
    };
    let unknown = |depth: usize| {
        let (opening, closing) = ("[".repeat(depth), "]".repeat(depth));
        format!(r#"{{"a":1,"b":2,"x":{opening}{closing}}}"#)
    };
    let add = json().with_type("add".into());
    let (kind, _) = call(add.clone(), unknown(126).as_bytes()).await;
    assert_eq!(kind, "result");
    for depth in [127, 100_000] {
        let (kind, body) = call(add.clone(), unknown(depth).as_bytes()).await;
        assert_eq!(kind, "fault");
        assert!(body.contains("bad_request"), "{body}");
    }
    let packed = || add.clone().with_content_type("application/msgpack".into());
    let (kind, body) = call(packed(), b"\x83\xa1a\x01\xa1b\x02\x00\x09").await;
    assert_eq!((kind.as_str(), body.as_str()), ("result", "\u{3}"));
    let (kind, _) = call(packed(), b"\x82\x00\x01\x01\x02").await;
    assert_eq!(kind, "fault", "numbers are not names of arguments");
}

#[tokio::test]
async fn a_forged_direct_reply_to_address_affects_no_other_call() {
    let node = shared_node().await;
    let queue = unique_queue("adder");
    let connection = Connection::open(&node.url()).await.unwrap();
    let server = serve(&connection, &queue).await;
    let adder = AdderClient::new(connection.client()).with_queue(&queue);
    let stuck = tokio::spawn(adder.stick().into_future());
    let mut peer = Peer::with_direct_replies(node).await;
    for address in [
        "amq.rabbitmq.reply-to.QUJD.QUJD",
        "amq.rabbitmq.reply-to",
        "amq.rabbitmq.reply-to.",
    ] {
        for n in 0..3 {
            let forged = json().with_type("add".into()).with_reply_to(address.into());
            // RabbitMQ refuses the bare name unless its publisher consumes from it. This peer does.
            peer.publish(&queue, forged, b"[1, 2]").await;
            let body = format!("[{n}, 1]");
            let honest = peer.call(&queue, json().with_type("add".into()), body.as_bytes());
            let reply = honest.await;
            assert_eq!(parts(&reply).0, "result", "{address}");
        }
        assert_eq!(adder.add(1, 2).await.unwrap(), 3, "{address}");
    }
    assert!(
        !stuck.is_finished(),
        "the server's connection must stay open"
    );
    stuck.abort();
    drop(server);
}

#[tokio::test]
async fn foreign_and_malformed_replies_are_dropped_and_counted() {
    let recorder: &'static DebuggingRecorder = Box::leak(Box::default());
    let _recording = metrics::set_default_local_recorder(recorder);
    let node = shared_node().await;
    let queue = unique_queue("captured");
    let mut server = Peer::serving(node, &queue).await;
    let connection = Connection::open(&node.url()).await.unwrap();
    let adder = AdderClient::new(connection.client()).with_queue(&queue);
    let call = tokio::spawn(adder.add(1, 2).into_future());
    let request = server.receive().await;
    let reply_to = request.properties.reply_to().as_ref().unwrap().to_string();
    let id = request.properties.correlation_id().clone().unwrap();
    let reply = |id: Option<&str>| {
        let properties = BasicProperties::default().with_type("result".into());
        match id {
            Some(id) => properties.with_correlation_id(id.into()),
            None => properties,
        }
    };
    server.publish(&reply_to, reply(None), b"9").await;
    server.publish(&reply_to, reply(Some("7")), b"9").await;
    server
        .publish(
            &reply_to,
            reply(Some("00000000-0000-4000-8000-000000000000")),
            b"9",
        )
        .await;
    server
        .publish(&reply_to, reply(Some(id.as_str())), b"3")
        .await;
    assert_eq!(call.await.unwrap().unwrap(), 3);
    server
        .publish(&reply_to, reply(Some(id.as_str())), b"4")
        .await;
    let client = connection.client();
    rpc_tests::eventually("the duplicate is counted", async || {
        (client.dropped_replies().late == 2).then_some(())
    })
    .await;
    let dropped = client.dropped_replies();
    assert_eq!((dropped.malformed, dropped.foreign), (1, 1));
    let counted = recorder.snapshotter().snapshot().into_vec();
    let mut counted: Vec<_> = counted
        .into_iter()
        .filter(|(key, ..)| key.key().name() == "rpc.client.dropped_replies")
        .map(|(key, _, _, value)| {
            let reason = key.key().labels().next().expect("a reason");
            (reason.value().to_owned(), value)
        })
        .collect();
    counted.sort_by(|(one, _), (other, _)| one.cmp(other));
    let times = |reason: &str, times| (reason.to_owned(), DebugValue::Counter(times));
    let expected = [times("foreign", 1), times("late", 2), times("malformed", 1)];
    assert_eq!(counted, expected);
}

fn unix_millis() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since_epoch.as_millis()).unwrap()
}

#[tokio::test]
async fn a_server_clock_that_is_ahead_is_detected() {
    let node = shared_node().await;
    let queue = unique_queue("captured");
    let mut server = Peer::serving(node, &queue).await;
    let connection = Connection::open(&node.url()).await.unwrap();
    let adder = AdderClient::new(connection.client()).with_queue(&queue);
    let call = tokio::spawn(adder.add(1, 2).into_future());
    let request = server.receive().await;
    let mut headers = FieldTable::default();
    headers.insert("rpc-time".into(), (unix_millis() + 3_600_000).into());
    let fault = json()
        .with_type("fault".into())
        .with_correlation_id(request.properties.correlation_id().clone().unwrap())
        .with_headers(headers);
    let reply_to = request.properties.reply_to().as_ref().unwrap().to_string();
    let body = br#"{"code": "deadline_exceeded", "message": "late"}"#;
    server.publish(&reply_to, fault, body).await;
    let error = call.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), rpc_core::ErrorKind::DeadlineExceeded);
    let text = error.to_string();
    assert!(text.contains("probably is about 3"), "{text}");
    assert!(text.contains("ahead of this machine's"), "{text}");
}

#[tokio::test]
async fn a_fault_for_a_passed_deadline_contains_the_servers_time() {
    let node = shared_node().await;
    let queue = unique_queue("adder");
    let connection = Connection::open(&node.url()).await.unwrap();
    let _server = serve(&connection, &queue).await;
    let mut peer = Peer::with_queue(node).await;
    let mut headers = FieldTable::default();
    headers.insert("rpc-deadline".into(), (unix_millis() - 3_600_000).into());
    let request = json().with_type("add".into()).with_headers(headers);
    let reply = peer.call(&queue, request, b"[1, 2]").await;
    assert_eq!(parts(&reply).0, "fault");
    let headers = reply.properties.headers().as_ref().unwrap().inner();
    let AMQPValue::LongLongInt(time) = headers["rpc-time"] else {
        panic!("{headers:?}")
    };
    assert!((unix_millis() - time).abs() < 20_000, "{time}");
}

#[tokio::test]
async fn propagating_headers_are_listed_and_a_clients_defaults_are_sent() {
    let node = shared_node().await;
    let queue = unique_queue("captured");
    let mut server = Peer::serving(node, &queue).await;
    let connection = Connection::open(&node.url()).await.unwrap();
    let client = connection.client_builder().header("version", 2);
    let client = client.priority(4).persistent().build();
    let adder = AdderClient::new(client).with_queue(&queue);
    let call = adder.add(1, 2).propagating_header("tenant", "a");
    let call = tokio::spawn(call.into_future());
    let request = server.receive().await;
    assert_eq!(*request.properties.priority(), Some(4));
    assert_eq!(*request.properties.delivery_mode(), Some(2));
    let headers = request.properties.headers().as_ref().unwrap().inner();
    assert_eq!(headers["tenant"], AMQPValue::LongString("a".into()));
    assert_eq!(headers["version"], AMQPValue::LongLongInt(2));
    let names = vec![AMQPValue::LongString("tenant".into())];
    assert_eq!(
        headers["rpc-propagate"],
        AMQPValue::FieldArray(names.into())
    );
    call.abort();
}

#[tokio::test]
async fn reply_queues_are_deleted_with_their_connection() {
    let node = shared_node().await;
    let queue = unique_queue("captured");
    let mut server = Peer::serving(node, &queue).await;
    let mut names = Vec::new();
    for _ in 0..2 {
        let connection = Connection::open(&node.url()).await.unwrap();
        let adder = AdderClient::new(connection.client()).with_queue(&queue);
        let call = tokio::spawn(adder.add(1, 2).into_future());
        let request = server.receive().await;
        let reply_to = request.properties.reply_to().as_ref().unwrap().to_string();
        assert!(node.has_queue(&reply_to).await);
        connection.close().await;
        call.await.unwrap().unwrap_err();
        rpc_tests::eventually("the reply queue is gone", async || {
            (!node.has_queue(&reply_to).await).then_some(())
        })
        .await;
        names.push(reply_to);
    }
    assert_ne!(names[0], names[1]);
}
