//! Clusters of several nodes.

use std::hash::{BuildHasher, RandomState};

use super::Node;
use super::node::unique_name;

/// The membership of a node in a cluster.
#[derive(Debug, Clone)]
pub(super) struct Membership {
    /// The name of the cluster. All nodes state it, because RabbitMQ keeps the name that was stated last.
    pub(super) cluster: String,
    /// `None` for the first node, whose epmd serves all nodes.
    pub(super) join: Option<Join>,
}

/// The entry point of a node that joins a cluster.
#[derive(Debug, Clone)]
pub(super) struct Join {
    /// The full name of a running node.
    pub(super) seed: String,
    pub(super) epmd: u16,
}

/// A RabbitMQ cluster: nodes that share queues, each with a port of its own. Dropping it drops the nodes.
///
/// A cluster of three takes about three times as long to start as a [`Node`].
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
}

impl Cluster {
    /// Starts that many nodes and waits until they form a cluster.
    ///
    /// # Panics
    ///
    /// If a node does not start or does not find the others.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the nodes.
    pub async fn start(size: usize) -> Self {
        let cluster = unique_name();
        let random = RandomState::new();
        let cookie = format!("{:016X}{:016X}", random.hash_one(0), random.hash_one(1));
        let member = |join| {
            Node::builder()
                .cookie(cookie.clone())
                .member_of(Membership {
                    cluster: cluster.clone(),
                    join,
                })
                .start()
        };
        let first = member(None).await;
        let join = Join {
            seed: first.name(),
            epmd: first.epmd_port(),
        };
        let mut nodes = vec![first];
        // One after the other: nodes that join at the same moment may have to retry, which takes longer.
        for _ in 1..size {
            nodes.push(member(Some(join.clone())).await);
        }
        let size = size.to_string();
        nodes[0].ctl(&["-q", "await_online_nodes", &size]).await;
        Self { nodes }
    }

    /// The nodes, always in the same order.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node that leads a quorum queue, as seen by the running nodes; `None` if there is no such queue, or if its leader does
    /// not run.
    ///
    /// # Panics
    ///
    /// If no node runs, or `rabbitmqctl` fails.
    ///
    /// # Cancel safety
    ///
    /// Read-only: the future may be dropped at any time.
    pub async fn leader_of(&self, queue: &str) -> Option<&Node> {
        let mut running = self.nodes.iter().filter(|node| node.is_running());
        let asked = running.next().expect("a running node");
        let listed = asked
            .ctl(&["list_queues", "--silent", "name", "leader"])
            .await;
        let leader = listed
            .lines()
            .find_map(|line| line.strip_prefix(queue)?.strip_prefix('\t'))?;
        self.nodes
            .iter()
            .find(|node| node.name() == leader && node.is_running())
    }
}
