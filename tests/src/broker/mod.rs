//! Private, throw-away RabbitMQ nodes.
//!
//! ```no_run
//! # async fn example() {
//! let node = rpc_tests::broker::Node::start().await;
//! let url = node.url(); // amqp://guest:guest@127.0.0.1:…/%2f
//! # }
//! ```
//!
//! A [`Node`] runs the RabbitMQ that is installed on this machine, as the current user, on free loopback ports, with
//! data, configuration, cookie and epmd of its own. It reads nothing of a system-wide RabbitMQ and touches none.
//! Its processes and its folder are gone when it is dropped, and also when the process that owns it is killed.
//!
//! Starting one takes some seconds, so tests that do not break the broker share one: [`shared_node`].
//!
//! A [`Cluster`] is several of them; a [`Proxy`] stands between a client and a node and breaks the network.

mod certificates;
mod cluster;
mod installation;
mod node;
mod node_builder;
mod ports;
mod proxy;
mod questions;
mod settings;
mod watchdog;

use std::fmt;

use tokio::sync::OnceCell;

pub use certificates::{Authority, Identity};
pub use cluster::Cluster;
pub use node::Node;
pub use node_builder::NodeBuilder;
pub use proxy::{Cut, Direction, Proxy};
pub use questions::{Census, QueueCount, QueueInfo};

/// Why there is no broker, and what to do about it: a text for a person.
#[derive(Debug)]
pub struct BrokerError(String);

impl BrokerError {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for BrokerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BrokerError {}

/// The node that the tests of one binary share. The first to ask starts it; it ends with the process.
///
/// For tests that leave the broker as it is: they make queues of their own, see [`crate::unique_queue`], and do not
/// kill, pause or configure it. The others start a [`Node`] of their own.
///
/// # Panics
///
/// When no node can be started.
pub async fn shared_node() -> &'static Node {
    static SHARED: OnceCell<Node> = OnceCell::const_new();
    SHARED.get_or_init(Node::start).await
}
