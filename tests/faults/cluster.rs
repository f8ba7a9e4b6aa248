//! What happens to a node of a cluster.

use std::time::Duration;

use rpc_core::QueueOptions;
use rpc_tests::broker::{Cluster, Node};

use super::bench::{Bench, Plan};
use super::verdict::{Expected, Verdict};

/// The clients are on the other nodes. One that opened a channel while the queue has no leader would wait until the node is
/// back: RabbitMQ 3.10 asks the leader that it knows of for its version before the first publish of a channel, again and
/// again if it is gone.
pub(crate) async fn kills_the_leader_of_a_quorum_queue(_: &Node) -> Verdict {
    let cluster = Cluster::start(3).await;
    let mut plan = Plan::on_nodes(cluster.nodes())
        .queue(QueueOptions::quorum())
        .patience(Duration::from_secs(20));
    let mut bench = Bench::prepare(&plan).await;
    let leader = cluster.leader_of(&bench.queue.name).await;
    let leader = leader.expect("a leader");
    plan.client_urls.retain(|url| *url != leader.url());
    bench.begin(&plan).await;
    leader.kill().await;
    bench.load.recovers().await;
    leader.restart().await;
    bench.load.recovers().await;
    bench.finish(leader, Expected::outage()).await
}
