//! Messages that lapin's parser cannot read: sent to any queue, they must not affect other callers.

use futures_util::FutureExt;
use rpc_core::{Connection, ConnectionState, ServerHandle, StateWatch};
use rpc_tests::broker::Node;
use rpc_tests::hostile::unreadable;
use rpc_tests::raw::RawPublisher;
use rpc_tests::unique_queue;

use super::peer::Peer;
use super::{AdderClient, serve};

const REQUEST: &[u8] = b"[40, 2]";

/// A service, its client, and an attacker.
struct Scene {
    node: Node,
    queue: String,
    adder: AdderClient,
    states: [StateWatch; 2],
    raw: RawPublisher,
    victim: Peer,
    _connections: [Connection; 2],
    server: ServerHandle,
}

impl Scene {
    async fn set() -> Self {
        let node = Node::start().await;
        let queue = unique_queue("hostile");
        let connections = [
            Connection::open(&node.url()).await.unwrap(),
            Connection::open(&node.url()).await.unwrap(),
        ];
        let [serving, calling] = &connections;
        let server = serve(serving, &queue).await;
        let adder = AdderClient::new(calling.client()).with_queue(&queue);
        assert_eq!(adder.add(1, 2).await.unwrap(), 3);
        Self {
            states: [serving.state(), calling.state()],
            raw: RawPublisher::connect(&node).await,
            victim: Peer::with_queue(&node).await,
            node,
            queue,
            adder,
            _connections: connections,
            server,
        }
    }

    async fn goes_on(&mut self, what: &str) {
        for n in 0..10 {
            let sum = self.adder.add(n, 1).await;
            assert_eq!(sum.unwrap_or_else(|error| panic!("{what}: {error}")), n + 1);
        }
        for state in &mut self.states {
            assert_eq!(state.changed().now_or_never(), None, "{what}");
            assert_eq!(state.current(), ConnectionState::Connected, "{what}");
        }
    }

    /// Stops the server, which requeues unacknowledged deliveries.
    async fn ends_with_an_empty_queue(self) {
        self.server.shutdown().await.unwrap();
        let left = self.node.queue(&self.queue).await.unwrap();
        assert_eq!(left.messages, 0);
    }
}

/// Sends each message to every place that an attacker could use.
async fn hostile_messages_affect_no_other_call() {
    let mut scene = Scene::set().await;
    let queue = scene.queue.clone().into_bytes();
    let reply_queue = {
        let queues = scene.node.census().await.unwrap().queues;
        let mut names = queues.into_iter().map(|queue| queue.name);
        names.find(|name| name.starts_with("rpc.reply.")).unwrap()
    };
    let notices = format!("rpc.cancel.{}", scene.queue);

    for (what, properties) in unreadable(&scene.victim.queue) {
        // To the service, which replies where possible.
        scene.raw.publish(b"", &queue, &properties, REQUEST).await;
        if what != "reply to" {
            let reply = scene.victim.receive().await;
            let id = reply.properties.correlation_id().as_ref().unwrap();
            let expected = match what {
                "the correlation id" => "bad ??(",
                _ => "hostile",
            };
            assert_eq!(id.as_str(), expected, "{what}");
            let kind = reply.properties.kind().as_ref().unwrap().as_str();
            match what {
                "nested arrays" | "nested tables" | "many values" => assert_eq!(kind, "fault"),
                _ => assert!(kind == "fault" || reply.data == b"42", "{what}: {reply:?}"),
            }
        }
        scene.goes_on(what).await;

        // To the client, as a reply to no call in flight.
        let replies = reply_queue.as_bytes();
        scene.raw.publish(b"", replies, &properties, b"42").await;
        scene.goes_on(what).await;

        // To all servers of the service, as a cancel notice.
        let key = notices.as_bytes();
        scene
            .raw
            .publish(b"amq.direct", key, &properties, b"x")
            .await;
        scene.goes_on(what).await;
    }

    scene.ends_with_an_empty_queue().await;
}

#[tokio::test]
async fn unreadable_messages_affect_no_other_call_on_one_thread() {
    hostile_messages_affect_no_other_call().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreadable_messages_affect_no_other_call_on_several_threads() {
    hostile_messages_affect_no_other_call().await;
}
