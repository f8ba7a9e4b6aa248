//! What a node can be asked, by AMQP or with `rabbitmqctl`.

use std::process::Stdio;
use std::time::Duration;

use lapin::options::QueueDeclareOptions;
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties, ErrorKind};
use tokio::process::Command;
use tokio::time::timeout;

use super::Node;

const TOOL_LIMIT: Duration = Duration::from_secs(60);

/// What a queue's declaration tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueInfo {
    /// Messages ready for delivery, those held by consumers not counted.
    pub messages: u32,
    /// Consumers subscribed.
    pub consumers: u32,
}

impl Node {
    /// A connection of a plain AMQP client, for what only another client can do or see.
    ///
    /// # Panics
    ///
    /// When the node does not accept it.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future abandons the attempt.
    pub async fn connect(&self) -> Connection {
        Connection::connect(&self.url(), ConnectionProperties::default())
            .await
            .expect("the node accepts a connection")
    }

    /// What there is of a queue, or `None` when there is no such queue.
    ///
    /// # Panics
    ///
    /// When the queue is exclusive to another connection, which keeps its numbers to itself.
    ///
    /// # Cancel safety
    ///
    /// Only asks, so it may be dropped at any time.
    pub async fn queue(&self, name: &str) -> Option<QueueInfo> {
        match self.declare_passively(name).await {
            Ok(info) => Some(info),
            Err(error) if is_soft(&error, AMQPSoftError::NOTFOUND) => None,
            Err(error) => panic!("cannot ask for queue {name:?}: {error}"),
        }
    }

    /// Whether there is such a queue, be it exclusive to another connection.
    ///
    /// # Panics
    ///
    /// When the node does not answer.
    ///
    /// # Cancel safety
    ///
    /// Only asks, so it may be dropped at any time.
    pub async fn has_queue(&self, name: &str) -> bool {
        match self.declare_passively(name).await {
            Ok(_) => true,
            Err(error) if is_soft(&error, AMQPSoftError::RESOURCELOCKED) => true,
            Err(error) if is_soft(&error, AMQPSoftError::NOTFOUND) => false,
            Err(error) => panic!("cannot ask for queue {name:?}: {error}"),
        }
    }

    /// Runs `rabbitmqctl` against the node and returns what it prints. Takes a second or two: where AMQP can ask, as
    /// [`queue`](Self::queue) does, it is faster.
    ///
    /// # Panics
    ///
    /// When it fails.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future kills the tool; the node may have done what was asked.
    pub async fn ctl(&self, arguments: &[&str]) -> String {
        let mut tool = Command::new(self.installation.tool("rabbitmqctl"));
        tool.args(arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        tool.current_dir("/")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = match timeout(TOOL_LIMIT, tool.output()).await {
            Ok(output) => output.expect("rabbitmqctl is installed beside rabbitmq-server"),
            Err(_) => panic!("rabbitmqctl {arguments:?} did not end within {TOOL_LIMIT:?}"),
        };
        let said = String::from_utf8_lossy(&output.stdout);
        let complained = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "rabbitmqctl {arguments:?} failed:\n{said}{complained}"
        );
        said.into_owned()
    }

    /// Closes every connection from the broker's side, as an operator would: they end with code 320 and `reason`.
    ///
    /// # Panics
    ///
    /// When `rabbitmqctl` fails.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may leave them open.
    pub async fn close_connections(&self, reason: &str) {
        self.ctl(&["close_all_connections", reason]).await;
    }

    async fn declare_passively(&self, queue: &str) -> lapin::Result<QueueInfo> {
        let connection = self.connect().await;
        let options = QueueDeclareOptions {
            passive: true,
            ..Default::default()
        };
        let channel = connection.create_channel().await?;
        let declared = channel
            .queue_declare(queue.into(), options, FieldTable::default())
            .await;
        // The answer is known, so a connection that cannot be closed in good manners does no harm.
        let _ = connection.close(200, "asked".into()).await;
        declared.map(|queue| QueueInfo {
            messages: queue.message_count(),
            consumers: queue.consumer_count(),
        })
    }
}

fn is_soft(error: &lapin::Error, soft: AMQPSoftError) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(error) if *error.kind() == AMQPErrorKind::Soft(soft))
}
