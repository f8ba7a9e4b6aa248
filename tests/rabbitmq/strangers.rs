//! Requests of foreign programs: headers that the broker interprets, and batches that no client of this crate sends.

use std::time::Duration;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldArray, FieldTable};
use rpc_core::{Connection, Context, Server, rpc};
use rpc_tests::broker::shared_node;
use rpc_tests::hostile::{batch, batched, batches, call};
use rpc_tests::unique_queue;

use super::peer::{Peer, parts};
use super::{AdderClient, serve};

/// A service whose handler calls another service.
#[rpc]
trait Relay {
    async fn relay(#[ctx] cx: Context) -> u64;
}

struct Forwards(AdderClient);

impl Relay for Forwards {
    async fn relay(&self, _: Context) -> u64 {
        self.0.add(1, 2).await.unwrap_or_default()
    }
}

#[tokio::test]
async fn a_copy_header_of_a_foreign_request_is_not_propagated() {
    let node = shared_node().await;
    let connection = Connection::open(&node.url()).await.unwrap();
    let (relay, adder) = (unique_queue("relay"), unique_queue("adder"));
    let _adder = serve(&connection, &adder).await;
    let forwards = Forwards(AdderClient::new(connection.client()).with_queue(&adder));
    let dispatcher = RelayDispatcher::new(forwards).with_queue(&relay);
    let server = Server::builder(&connection)
        .service(dispatcher)
        .propagate_header("CC");
    let _relay = server.build().start().await.unwrap();

    let mut spy = Peer::with_queue(node).await;
    let mut caller = Peer::with_queue(node).await;
    // RabbitMQ copies this request on behalf of its sender.
    let copies = FieldArray::from(vec![AMQPValue::LongString(spy.queue.as_str().into())]);
    let names = FieldArray::from(vec![AMQPValue::LongString("CC".into())]);
    let mut headers = FieldTable::default();
    headers.insert("CC".into(), AMQPValue::FieldArray(copies));
    headers.insert("rpc-propagate".into(), AMQPValue::FieldArray(names));
    let request = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_headers(headers);
    let reply = caller.call(&relay, request, b"{}").await;
    assert_eq!(parts(&reply), ("result", "3"));
    let copy = spy.receive().await;
    assert_eq!(copy.data, b"{}");
    // The next message is not a copy of the nested call.
    caller
        .publish(&spy.queue, BasicProperties::default(), b"marker")
        .await;
    assert_eq!(spy.receive().await.data, b"marker");
}

#[tokio::test]
async fn a_hostile_batch_is_refused_as_a_whole_and_affects_no_other_call() {
    let node = shared_node().await;
    let connection = Connection::open(&node.url()).await.unwrap();
    let queue = unique_queue("adder");
    let _server = serve(&connection, &queue).await;
    let adder = AdderClient::new(connection.client()).with_queue(&queue);
    let held = tokio::spawn(adder.wait_for_release().into_future());
    let mut peer = Peer::with_queue(node).await;
    // A valid batch gets a batch as its reply.
    let reply = peer
        .call(&queue, batched(), &batch(&[call(b"1", b"add", &[0xc0])]))
        .await;
    assert_eq!(parts(&reply).0, "batch");
    for (what, body) in batches() {
        let reply = peer.call(&queue, batched(), &body).await;
        let (kind, body) = parts(&reply);
        assert_eq!(kind, "fault", "{what}: {body}");
        assert!(body.contains("bad_request"), "{what}: {body}");
        assert_eq!(adder.add(1, 2).await.unwrap(), 3, "{what}");
    }
    // More batches than the prefetch leave nothing unacknowledged.
    for _ in 0..6 {
        for (_, body) in batches()
            .into_iter()
            .filter(|(_, body)| body.len() < 1 << 20)
        {
            peer.publish(&queue, batched(), &body).await;
        }
    }
    let call = adder.add(1, 2).timeout(Duration::from_secs(10));
    assert_eq!(call.await.unwrap(), 3);
    adder.release().await.unwrap();
    held.await.unwrap().unwrap();
}
