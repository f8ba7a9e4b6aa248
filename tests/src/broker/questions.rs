//! Queries to a node, by AMQP or with `rabbitmqctl`.

use std::process::{Output, Stdio};
use std::time::Duration;

use lapin::options::QueueDeclareOptions;
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties, ErrorKind};
use tokio::process::Command;
use tokio::time::timeout;

use super::Node;

const TOOL_LIMIT: Duration = Duration::from_secs(60);

/// The counts in the reply to a queue's declaration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueInfo {
    /// Messages ready for delivery, without unacknowledged ones.
    pub messages: u32,
    /// Number of consumers.
    pub consumers: u32,
}

/// A queue and all its messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueCount {
    /// The queue.
    pub name: String,
    /// Messages that wait for a consumer.
    pub ready: u64,
    /// Messages delivered and not acknowledged.
    pub unacknowledged: u64,
}

/// All queues, connections and channels of a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Census {
    /// The queues of all virtual hosts, exclusive ones included.
    pub queues: Vec<QueueCount>,
    /// Open connections, on all nodes of a cluster.
    pub connections: usize,
    /// Open channels, on all nodes of a cluster.
    pub channels: usize,
}

/// Erlang code that prints a line for each queue, then the numbers of connections and channels.
const CENSUS: &str = r#"
    [io:format("~s ~w ~w~n", [element(4, Name), Ready, Unacknowledged])
        || Host <- rabbit_vhost:list_names(),
           [{_, Name}, {_, Ready}, {_, Unacknowledged}]
               <- rabbit_amqqueue:info_all(Host, [name, messages_ready, messages_unacknowledged])],
    io:format("~w ~w~n", [length(rabbit_networking:connections()), length(rabbit_channel:list())])."#;

impl Census {
    fn parse(printed: &str) -> Option<Self> {
        // The last line is the result of `io:format`.
        let mut lines: Vec<&str> = printed.trim_end().strip_suffix("ok")?.lines().collect();
        let (connections, channels) = lines.pop()?.split_once(' ')?;
        let queue = |line: &str| {
            let mut parts = line.rsplitn(3, ' ');
            Some(QueueCount {
                unacknowledged: parts.next()?.parse().ok()?,
                ready: parts.next()?.parse().ok()?,
                name: parts.next()?.to_owned(),
            })
        };
        Some(Self {
            queues: lines.into_iter().map(queue).collect::<Option<_>>()?,
            connections: connections.parse().ok()?,
            channels: channels.parse().ok()?,
        })
    }
}

impl Node {
    /// Opens a connection of a plain AMQP client.
    ///
    /// # Panics
    ///
    /// If the node does not accept the connection.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future abandons the attempt.
    pub async fn connect(&self) -> Connection {
        // lapin keeps a task until the next heartbeat, which would disturb tests that count tasks.
        let url = self.url() + "?heartbeat=4";
        Connection::connect(&url, ConnectionProperties::default())
            .await
            .expect("the node accepts a connection")
    }

    /// The counts of a queue, or `None` if the queue does not exist.
    ///
    /// # Panics
    ///
    /// If the queue is exclusive to another connection, whose counts are hidden.
    ///
    /// # Cancel safety
    ///
    /// Read-only: the future may be dropped at any time.
    pub async fn queue(&self, name: &str) -> Option<QueueInfo> {
        match self.declare_passively(name).await {
            Ok(info) => Some(info),
            Err(error) if is_soft(&error, AMQPSoftError::NOTFOUND) => None,
            Err(error) => panic!("cannot ask for queue {name:?}: {error}"),
        }
    }

    /// Returns `true` if the queue exists, even if it is exclusive to another connection.
    ///
    /// # Panics
    ///
    /// If the node does not respond.
    ///
    /// # Cancel safety
    ///
    /// Read-only: the future may be dropped at any time.
    pub async fn has_queue(&self, name: &str) -> bool {
        match self.declare_passively(name).await {
            Ok(_) => true,
            Err(error) if is_soft(&error, AMQPSoftError::RESOURCELOCKED) => true,
            Err(error) if is_soft(&error, AMQPSoftError::NOTFOUND) => false,
            Err(error) => panic!("cannot ask for queue {name:?}: {error}"),
        }
    }

    /// Runs `rabbitmqctl` against the node and returns its output. Takes a second or two; AMQP queries such as
    /// [`queue`](Self::queue) are faster.
    ///
    /// # Panics
    ///
    /// If the command fails.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future kills the tool. The node may have executed the command.
    pub async fn ctl(&self, arguments: &[&str]) -> String {
        let asking = async {
            loop {
                let output = self.tool_output(arguments).await;
                let said = String::from_utf8_lossy(&output.stdout);
                if output.status.success() {
                    return said.into_owned();
                }
                let complaint = format!("{said}{}", String::from_utf8_lossy(&output.stderr));
                // A node listens a moment before it counts as running.
                assert!(
                    complaint.contains("requires the 'rabbit' app to be running"),
                    "rabbitmqctl {arguments:?} failed:\n{complaint}"
                );
            }
        };
        match timeout(TOOL_LIMIT, asking).await {
            Ok(said) => said,
            Err(_) => panic!("rabbitmqctl {arguments:?} did not end within {TOOL_LIMIT:?}"),
        }
    }

    /// A shell script that runs `rabbitmqctl` against the node, with the arguments of the script.
    #[must_use]
    pub fn ctl_script(&self) -> String {
        let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
        let mut script = "#!/bin/sh\ncd / && exec env -i".to_owned();
        for (name, value) in &self.environment {
            script += &format!(" \\\n    {name}={}", quoted(value));
        }
        let tool = self.installation.tool("rabbitmqctl");
        script + &format!(" \\\n    {} \"$@\"\n", quoted(&tool.to_string_lossy()))
    }

    async fn tool_output(&self, arguments: &[&str]) -> Output {
        let mut tool = Command::new(self.installation.tool("rabbitmqctl"));
        tool.args(arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        tool.current_dir("/")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = tool.output().await;
        output.expect("rabbitmqctl is installed beside rabbitmq-server")
    }

    /// Counts queues, connections and channels of the broker. The numbers are current, unlike the broker's statistics.
    ///
    /// `None` while a queue has no counts, such as one without a leader.
    ///
    /// # Panics
    ///
    /// If `rabbitmqctl` fails.
    ///
    /// # Cancel safety
    ///
    /// Read-only: the future may be dropped at any time.
    pub async fn census(&self) -> Option<Census> {
        Census::parse(&self.ctl(&["-q", "eval", CENSUS]).await)
    }

    /// Closes every connection from the broker's side, as an operator would, with code 320 and `reason`.
    ///
    /// # Panics
    ///
    /// If `rabbitmqctl` fails.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may leave connections open.
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
        // The result is known, so a failure to close the connection does no harm.
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
