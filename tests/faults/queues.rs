//! Queues that are deleted while they are used.

use std::time::Duration;

use lapin::options::QueueDeleteOptions;
use rpc_core::ErrorKind;
use rpc_tests::broker::Node;

use super::deployment::{Deployment, Plan};
use super::verdict::{Expected, Verdict};

pub(crate) async fn deletes_the_request_queue(node: &Node) -> Verdict {
    let plan = Plan::on(node.url()).patience(Duration::from_secs(10));
    let deployment = Deployment::start(plan).await;
    let connection = node.connect().await;
    let channel = connection.create_channel().await.expect("a channel");
    for _ in 0..3 {
        let queue = deployment.queue.name.as_str().into();
        let deleted = channel.queue_delete(queue, QueueDeleteOptions::default());
        deleted.await.expect("the broker deletes the queue");
        deployment.load.recovers().await;
    }
    let closed = connection.close(200, "done".into()).await;
    closed.expect("an open connection");
    // While no queue exists, requests are unroutable. Requests that waited in a deleted queue are lost, and their callers time
    // out.
    let failures = [ErrorKind::Unroutable, ErrorKind::Timeout];
    let expected = Expected::failures(&failures).idempotent_too(&failures);
    deployment.finish(node, expected).await
}

pub(crate) async fn deletes_the_reply_queues(node: &Node) -> Verdict {
    let deployment = Deployment::start(Plan::on(node.url())).await;
    let census = node.census().await.expect("the queues' counts");
    for queue in census.queues {
        if queue.name.starts_with("rpc.reply.") {
            node.ctl(&["delete_queue", &queue.name]).await;
        }
    }
    deployment.load.recovers().await;
    let failures = [ErrorKind::Disconnected];
    deployment.finish(node, Expected::failures(&failures)).await
}
