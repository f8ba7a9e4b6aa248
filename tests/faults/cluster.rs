//! Faults of a node in a cluster.

use std::time::Duration;

use rpc_core::QueueOptions;
use rpc_tests::broker::{Cluster, Node};

use super::deployment::{Deployment, Plan};
use super::verdict::{Expected, Verdict};

/// The clients are connected to the other nodes. A client that opens a channel while the queue has no leader would wait for the
/// dead node's return: before the first publish of a channel, RabbitMQ 3.10 asks the last known leader for its version, and
/// retries while that node is gone.
pub(crate) async fn kills_the_leader_of_a_quorum_queue(_: &Node) -> Verdict {
    let cluster = Cluster::start(3).await;
    let mut plan = Plan::on_nodes(cluster.nodes())
        .queue(QueueOptions::quorum())
        .patience(Duration::from_secs(20));
    let mut deployment = Deployment::prepare(&plan).await;
    let leader = cluster.leader_of(&deployment.queue.name).await;
    let leader = leader.expect("a leader");
    plan.client_urls.retain(|url| *url != leader.url());
    deployment.begin(&plan).await;
    leader.kill().await;
    deployment.load.recovers().await;
    leader.restart().await;
    deployment.load.recovers().await;
    deployment.finish(leader, Expected::outage()).await
}
