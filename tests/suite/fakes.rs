//! Instances that are made by hand: they answer as a test tells them, also wrongly.

use rpc_core::Connection;
use rpc_core::testing::{Peer, PeerMessage};
use tokio::time::timeout;

use super::LONG;

/// An instance with a private queue that is bound to topics.
pub(crate) struct FakeInstance {
    pub(crate) id: String,
    pub(crate) private_queue: String,
    peer: Peer,
}

impl FakeInstance {
    pub(crate) async fn start(connection: &Connection, id: &str, topics: &[String]) -> Self {
        let private_queue = rpc_tests::unique_queue(&format!("rpc.instance.{id}."));
        let peer = Peer::open(connection, &private_queue, topics);
        Self {
            id: id.to_owned(),
            peer: peer.await.expect("the broker allows everything"),
            private_queue,
        }
    }

    /// Instances `a`, `b`, … with the same topic.
    pub(crate) async fn several<const N: usize>(connection: &Connection, topic: &str) -> [Self; N] {
        let mut instances = Vec::new();
        for id in ["a", "b", "c"].into_iter().take(N) {
            instances.push(Self::start(connection, id, &[topic.to_owned()]).await);
        }
        let instances: [Self; N] = instances.try_into().ok().expect("at most three");
        instances
    }

    pub(crate) async fn next(&mut self) -> PeerMessage {
        let next = timeout(LONG, self.peer.next());
        next.await.expect("a message in time").expect("a queue")
    }

    /// An answer in JSON with the headers and properties of an instance.
    pub(crate) fn answer(&self, request: &PeerMessage, body: impl Into<String>) -> PeerMessage {
        let mut answer = PeerMessage {
            kind: Some("result".to_owned()),
            correlation_id: request.correlation_id.clone(),
            reply_to: Some(self.private_queue.clone()),
            content_type: Some("application/json".to_owned()),
            body: body.into().into(),
            ..PeerMessage::default()
        };
        answer.headers.insert("rpc-instance", self.id.as_str());
        answer
    }

    /// Sends a message to the caller of a request.
    pub(crate) async fn send(&self, request: &PeerMessage, message: PeerMessage) {
        let queue = request.reply_to.as_deref().expect("an address");
        let sent = self.peer.publish(queue, message).await;
        sent.expect("the caller's queue exists");
    }

    /// Takes a request and answers it.
    pub(crate) async fn serve(&mut self, body: &str) -> PeerMessage {
        let request = self.next().await;
        self.send(&request, self.answer(&request, body)).await;
        request
    }
}
