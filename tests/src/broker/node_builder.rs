//! Options of a node.

use std::path::PathBuf;

use super::BrokerError;
use super::certificates::{Authority, Certificates, Identity};
use super::cluster::{Join, Membership};
use super::node::Node;

/// Options of a [`Node`]. Without options, a node is RabbitMQ as installed, without plugins.
#[derive(Debug, Clone, Default)]
#[must_use = "a node is started by `start`"]
pub struct NodeBuilder {
    pub(super) name: Option<String>,
    pub(super) cookie: Option<String>,
    pub(super) folder: Option<PathBuf>,
    pub(super) conf: Vec<String>,
    pub(super) plugins: Vec<String>,
    pub(super) management: bool,
    pub(super) tls: Option<Certificates>,
    pub(super) membership: Option<Membership>,
}

impl NodeBuilder {
    /// Names the node `name@localhost`. Default: a unique name.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets the secret by which nodes and `rabbitmqctl` authenticate to each other. Default: a random one.
    pub fn cookie(mut self, cookie: impl Into<String>) -> Self {
        self.cookie = Some(cookie.into());
        self
    }

    /// Sets the folder of the node's files. It must not exist yet, and is removed at the end. Default: a folder in the system's
    /// temporary folder.
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Adds a line to `rabbitmq.conf`, such as `consumer_timeout = 1000`.
    pub fn conf(mut self, line: impl Into<String>) -> Self {
        self.conf.push(line.into());
        self
    }

    /// Enables a plugin. The port of a plugin with a listener has to be set with [`conf`](Self::conf).
    pub fn plugin(mut self, name: impl Into<String>) -> Self {
        self.plugins.push(name.into());
        self
    }

    /// Enables the management plugin on a free port, see [`Node::management_url`]. It adds about a second to the start.
    pub fn management(mut self) -> Self {
        self.management = true;
        self.plugin("rabbitmq_management")
    }

    /// Adds a TLS listener on a free port with a generated certificate, see [`Node::tls_url`].
    pub fn tls(mut self) -> Self {
        self.tls = Some(Certificates::new());
        self
    }

    /// Adds a TLS listener on a free port with this certificate. The node trusts client certificates of this authority.
    pub fn tls_as(mut self, server: Identity, authority: &Authority) -> Self {
        self.tls = Some(Certificates {
            ca: authority.pem(),
            server,
        });
        self
    }

    pub(super) fn member_of(mut self, membership: Membership) -> Self {
        self.membership = Some(membership);
        self
    }

    /// Starts the node and waits until it accepts connections.
    ///
    /// # Panics
    ///
    /// With advice if RabbitMQ is not installed, and with the end of its log if it does not start.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the node.
    pub async fn start(self) -> Node {
        match self.try_start().await {
            Ok(node) => node,
            Err(error) => panic!("{error}"),
        }
    }

    /// The entry point into a cluster, if the node joins one.
    pub(super) fn joins(&self) -> Option<&Join> {
        self.membership.as_ref()?.join.as_ref()
    }

    /// The name that a node states to clients.
    pub(super) fn greeting<'a>(&'a self, name: &'a str) -> &'a str {
        self.membership
            .as_ref()
            .map_or(name, |membership| &membership.cluster)
    }

    /// Starts the node and waits until it accepts connections.
    ///
    /// # Errors
    ///
    /// If RabbitMQ is not installed or does not start.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the node.
    pub async fn try_start(self) -> Result<Node, BrokerError> {
        const TRIES: u32 = 3;
        for _ in 1..TRIES {
            match Node::launch(&self).await {
                // Another process took one of the ports between the choice and the start.
                Err(error) if error.to_string().contains("eaddrinuse") => {}
                outcome => return outcome,
            }
        }
        Node::launch(&self).await
    }
}
