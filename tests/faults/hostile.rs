//! Malformed and malicious requests beside the load.

use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, DecimalValue, FieldArray, FieldTable};
use lapin::{BasicProperties, Channel};
use rpc_core::Connection;
use rpc_tests::broker::Node;
use rpc_tests::eventually;
use tokio::time::timeout;

use super::deployment::{Deployment, Plan};
use super::verdict::{Expected, Verdict};

const ROUNDS: usize = 3;

pub(crate) async fn sends_hostile_requests(node: &Node) -> Verdict {
    let deployment = Deployment::start(Plan::on(node.url())).await;
    let connection = node.connect().await;
    let channel = connection.create_channel().await.expect("a channel");
    let exclusive = QueueDeclareOptions {
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    let own = channel.queue_declare("".into(), exclusive, FieldTable::default());
    let own = own.await.expect("a queue for replies").name().to_string();
    let no_ack = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    let consuming = channel.basic_consume(
        own.as_str().into(),
        "hostile".into(),
        no_ack,
        FieldTable::default(),
    );
    let mut replies = consuming.await.expect("a consumer");
    let census = node.census().await.expect("queues that can tell");
    let foreign = census
        .queues
        .into_iter()
        .map(|queue| queue.name)
        .find(|name| name.starts_with("rpc.reply."))
        .expect("the reply queue of a client");

    let requests = &*deployment.queue.name;
    let mut sent = 0;
    for _ in 0..ROUNDS {
        for (properties, body) in to_be_answered() {
            let properties = properties.with_reply_to(own.as_str().into());
            publish(&channel, requests, properties, &body).await;
            sent += 1;
        }
        for reply_to in forged_addresses(requests, &foreign) {
            let properties = json()
                .with_correlation_id("00000000-0000-4000-8000-000000000000".into())
                .with_reply_to(reply_to.as_str().into());
            publish(&channel, requests, properties, REQUEST).await;
        }
        deployment.load.goes_on_for(100).await;
    }
    for number in 0..sent {
        let reply = timeout(Duration::from_secs(20), replies.next()).await;
        let reply = reply.unwrap_or_else(|_| panic!("{number} of {sent} requests were answered"));
        reply.expect("an open channel").expect("an open channel");
    }
    let clients = deployment.clients().iter().map(Connection::client);
    let clients: Vec<_> = clients.collect();
    eventually("the foreign replies are counted", async || {
        let foreign = clients.iter().map(|client| client.dropped_replies().late);
        (foreign.sum::<u64>() >= ROUNDS as u64).then_some(())
    })
    .await;
    let closed = connection.close(200, "done".into()).await;
    closed.expect("an open connection");
    deployment.load.recovers().await;
    deployment
        .finish(node, Expected::no_failures().once())
        .await
}

/// Arguments of a call that no client made.
const REQUEST: &[u8] = b"[18446744073709551615, 0]";

fn json() -> BasicProperties {
    BasicProperties::default()
        .with_content_type("application/json".into())
        .with_type("plain".into())
}

/// Requests with a valid reply address and an invalid or unusual part.
fn to_be_answered() -> Vec<(BasicProperties, Vec<u8>)> {
    let long = "x".repeat(255);
    let mut all = Vec::new();
    let mut add = |properties: BasicProperties, body: &[u8]| all.push((properties, body.to_vec()));

    for id in ["", &long, "\u{0}\n"] {
        add(json().with_correlation_id(id.into()), REQUEST);
    }
    let mut nested = FieldTable::default();
    for _ in 0..20 {
        let mut outer = FieldTable::default();
        outer.insert("deeper".into(), AMQPValue::FieldTable(nested));
        nested = outer;
    }
    let strange = [
        AMQPValue::LongLongInt(i64::MIN),
        AMQPValue::LongLongInt(i64::MAX),
        AMQPValue::LongLongInt(-1),
        AMQPValue::ShortShortInt(-1),
        AMQPValue::LongString("soon".into()),
        // RabbitMQ closes the connection of a publisher that sends NaN.
        AMQPValue::Double(f64::MAX),
        AMQPValue::Float(f32::MIN_POSITIVE),
        AMQPValue::Boolean(true),
        AMQPValue::Void,
        AMQPValue::Timestamp(u64::MAX),
        AMQPValue::DecimalValue(DecimalValue {
            scale: 255,
            value: u32::MAX,
        }),
        AMQPValue::ByteArray(vec![0xff; 100].into()),
        AMQPValue::FieldArray(FieldArray::from(vec![AMQPValue::Void; 100])),
        AMQPValue::FieldTable(nested),
    ];
    for name in ["rpc-deadline", "rpc-unknown", "x-death", &long] {
        for value in &strange {
            let mut headers = FieldTable::default();
            headers.insert(name.into(), value.clone());
            add(json().with_headers(headers), REQUEST);
        }
    }
    for content_type in [
        "",
        "text/xml",
        "application/",
        "application/json; q=1",
        &long,
    ] {
        add(json().with_content_type(content_type.into()), REQUEST);
    }
    for encoding in ["gzip", &long] {
        add(json().with_content_encoding(encoding.into()), REQUEST);
    }
    for method in ["", "no such method", "plain ", &long] {
        add(json().with_type(method.into()), REQUEST);
    }
    let message_pack = || json().with_content_type("application/msgpack".into());
    for body in [
        &[][..],
        &[0xc1],
        // Arrays, maps, strings and bytes with a length of four gigabytes.
        &[0xdd, 0xff, 0xff, 0xff, 0xff],
        &[0xdf, 0xff, 0xff, 0xff, 0xff],
        &[0xdb, 0xff, 0xff, 0xff, 0xff],
        &[0xc6, 0xff, 0xff, 0xff, 0xff],
        // Nested arrays.
        &[0x91; 100_000],
        &[0xff; 1_000_000],
    ] {
        add(message_pack(), body);
    }
    for body in [
        &b""[..],
        b"null",
        b"[-1, -1]",
        b"[1e400, 0]",
        b"[\"1\", []]",
        b"{\"id\": {}}",
        b"\xff\xfe",
        &[b'['; 100_000],
    ] {
        add(json(), body);
    }
    all
}

/// Reply addresses that do not exist or must not be used.
fn forged_addresses(requests: &str, foreign: &str) -> Vec<String> {
    [
        "amq.rabbitmq.reply-to.QUJD.QUJD",
        "amq.rabbitmq.reply-to.",
        "amq.rabbitmq.reply-to.%%%.",
        "amq.rabbitmq.reply-to.g1hkAA==.AAAA",
        "no such queue",
        "",
        // The reply queue of another client.
        foreign,
        // The request queue itself: a reply would be the next request.
        requests,
        &"x".repeat(255),
    ]
    .map(str::to_owned)
    .to_vec()
}

async fn publish(channel: &Channel, queue: &str, properties: BasicProperties, body: &[u8]) {
    let options = BasicPublishOptions::default();
    let published = channel.basic_publish("".into(), queue.into(), options, body, properties);
    published.await.expect("an open channel");
}
