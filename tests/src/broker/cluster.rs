//! Several nodes that are one broker.

use std::hash::{BuildHasher, RandomState};

use super::Node;
use super::node::unique_name;

/// What the nodes of a cluster have in common.
#[derive(Debug, Clone)]
pub(super) struct Membership {
    /// What the cluster is called, by all its nodes: RabbitMQ keeps the name of whichever node said it last.
    pub(super) cluster: String,
    /// `None` for the first node, whose epmd serves them all.
    pub(super) join: Option<Join>,
}

/// How a node finds the cluster that it is to join.
#[derive(Debug, Clone)]
pub(super) struct Join {
    /// The full name of a node that is up.
    pub(super) seed: String,
    pub(super) epmd: u16,
}

/// A RabbitMQ cluster: nodes that share queues, each with a port of its own. Dropping it drops them.
///
/// It takes about three times as long to start as a [`Node`].
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
}

impl Cluster {
    /// Starts that many nodes and waits until they are one cluster.
    ///
    /// # Panics
    ///
    /// When one does not start, or does not find the others.
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
        // One after the other: nodes that join at the same moment may have to try again, which takes longer.
        for _ in 1..size {
            nodes.push(member(Some(join.clone())).await);
        }
        let size = size.to_string();
        nodes[0].ctl(&["-q", "await_online_nodes", &size]).await;
        Self { nodes }
    }

    /// Its nodes, always in the same order.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node that leads a quorum queue, as the nodes that run see it; `None` when there is no such queue, or when its
    /// leader is none that runs.
    ///
    /// # Panics
    ///
    /// When no node runs, or `rabbitmqctl` fails.
    ///
    /// # Cancel safety
    ///
    /// Only asks, so it may be dropped at any time.
    pub async fn leader_of(&self, queue: &str) -> Option<&Node> {
        let mut running = self.nodes.iter().filter(|node| node.is_running());
        let asked = running.next().expect("a node that runs");
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
