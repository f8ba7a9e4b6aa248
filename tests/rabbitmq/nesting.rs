//! Values nested deeper than this crate ever sends them.

use std::collections::BTreeMap;

use lapin::BasicProperties;
use rpc_core::{Connection, ErrorKind, Server, rpc};
use rpc_tests::broker::shared_node;
use rpc_tests::unique_queue;
use serde::{Deserialize, Serialize};

use super::peer::{Peer, parts};

/// A type whose values nest with nothing but variants, which not all readers count.
#[derive(Debug, Serialize, Deserialize)]
enum Tree {
    Leaf,
    One(Box<Tree>),
    Many(Vec<Tree>),
    Named(BTreeMap<String, Tree>),
}

#[rpc]
trait Forest {
    async fn plant(tree: Tree) -> u64;
    async fn pick() -> Tree;
}

struct Ranger;

impl Forest for Ranger {
    async fn plant(&self, _: Tree) -> u64 {
        7
    }

    async fn pick(&self) -> Tree {
        Tree::Leaf
    }
}

/// Trees with that many levels or more, in MessagePack and in JSON.
fn trees(levels: usize) -> [(&'static str, Vec<u8>); 5] {
    let message_pack = "application/msgpack";
    let json = "application/json";
    let of = |level: &[u8], leaf: &[u8], end: &[u8]| {
        [&level.repeat(levels)[..], leaf, &end.repeat(levels)].concat()
    };
    [
        (message_pack, of(b"\x81\xa3One", b"\xa4Leaf", b"")),
        (message_pack, of(b"\x81\x01", b"\xa4Leaf", b"")),
        (message_pack, of(b"\x81\xa4Many\x91", b"\xa4Leaf", b"")),
        (json, of(b"{\"One\":", b"\"Leaf\"", b"}")),
        (json, of(b"{\"Named\":{\"a\":", b"\"Leaf\"", b"}}")),
    ]
}

#[tokio::test]
async fn a_request_nested_too_deep_is_refused_alone() {
    let node = shared_node().await;
    let connection = Connection::open(&node.url()).await.unwrap();
    let queue = unique_queue("forest");
    let server = Server::builder(&connection)
        .service(ForestDispatcher::new(Ranger).with_queue(&queue))
        .build();
    let server = server.start().await.unwrap();
    let mut peer = Peer::with_queue(node).await;
    for (levels, answer) in [(60, "result"), (128, "fault"), (200_000, "fault")] {
        for (content_type, tree) in trees(levels) {
            let arguments = match content_type {
                "application/json" => [&b"{\"tree\":"[..], &tree, b"}"].concat(),
                _ => [&b"\x81\xa4tree"[..], &tree].concat(),
            };
            let properties = BasicProperties::default()
                .with_type("plant".into())
                .with_content_type(content_type.into());
            let reply = peer.call(&queue, properties, &arguments).await;
            assert_eq!(parts(&reply).0, answer, "{levels}");
            if answer == "fault" {
                let body = String::from_utf8_lossy(&reply.data);
                assert!(body.contains("bad_request"), "{body}");
                assert!(body.contains("nested deeper than 128 levels"), "{body}");
            }
        }
    }
    assert_eq!(server.refused_requests(), 10);
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_reply_nested_too_deep_fails_its_call_alone() {
    let node = shared_node().await;
    let queue = unique_queue("forest");
    let mut server = Peer::serving(node, &queue).await;
    let connection = Connection::open(&node.url()).await.unwrap();
    let clients = [
        ("application/msgpack", connection.client()),
        (
            "application/json",
            connection.client_builder().json().build(),
        ),
    ];
    for (format, client) in clients {
        let forest = ForestClient::new(client).with_queue(&queue);
        for (levels, is_read) in [(60, true), (200_000, false)] {
            for (content_type, tree) in trees(levels) {
                if content_type != format {
                    continue;
                }
                let call = tokio::spawn(forest.pick().into_future());
                let request = server.receive().await.properties;
                let reply = BasicProperties::default()
                    .with_type("result".into())
                    .with_content_type(content_type.into())
                    .with_correlation_id(request.correlation_id().clone().unwrap());
                let reply_to = request.reply_to().clone().unwrap();
                server.publish(reply_to.as_str(), reply, &tree).await;
                match call.await.unwrap() {
                    Ok(_) => assert!(is_read),
                    Err(error) => {
                        assert!(!is_read, "{error}");
                        assert_eq!(error.kind(), ErrorKind::BadReply);
                        let text = error.to_string();
                        assert!(text.contains("nested deeper than 128 levels"), "{text}");
                    }
                }
            }
        }
    }
}
