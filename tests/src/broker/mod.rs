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
//! data, configuration, cookie and epmd of its own. It does not use or affect a system-wide RabbitMQ.
//! Its processes and its folder are gone after it is dropped, and after the process that owns it is killed.
//!
//! A start takes some seconds, so tests that do not break the broker share a node: [`shared_node`].
//!
//! A [`Cluster`] consists of several nodes. A [`Proxy`] stands between a client and a node and breaks the network.

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

/// The reason for a missing broker, with advice, as text.
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

/// The shared node of a test binary. The first caller starts the node; it ends with the process.
///
/// For tests that leave the broker unchanged: they use queues of their own, see [`crate::unique_queue`], and do not
/// kill, pause or configure the node. Other tests start a [`Node`] of their own.
///
/// # Panics
///
/// If the node cannot be started.
pub async fn shared_node() -> &'static Node {
    static SHARED: OnceCell<Node> = OnceCell::const_new();
    SHARED.get_or_init(Node::start).await
}
