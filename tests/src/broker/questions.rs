//! What a node can be asked, by AMQP or with `rabbitmqctl`.

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

/// What a queue's declaration tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueInfo {
    /// Messages ready for delivery, those held by consumers not counted.
    pub messages: u32,
    /// Consumers subscribed.
    pub consumers: u32,
}

/// A queue with all its messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueCount {
    /// The queue.
    pub name: String,
    /// Messages that wait for a consumer.
    pub ready: u64,
    /// Messages that consumers have and have not acknowledged.
    pub unacknowledged: u64,
}

/// All that clients have on a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Census {
    /// The queues of all virtual hosts, exclusive ones included.
    pub queues: Vec<QueueCount>,
    /// Open connections, on all nodes of a cluster.
    pub connections: usize,
    /// Open channels, on all nodes of a cluster.
    pub channels: usize,
}

/// Prints a line for each queue, then the numbers of connections and channels.
const CENSUS: &str = r#"
    [io:format("~s ~w ~w~n", [element(4, Name), Ready, Unacknowledged])
        || Host <- rabbit_vhost:list_names(),
           [{_, Name}, {_, Ready}, {_, Unacknowledged}]
               <- rabbit_amqqueue:info_all(Host, [name, messages_ready, messages_unacknowledged])],
    io:format("~w ~w~n", [length(rabbit_networking:connections()), length(rabbit_channel:list())])."#;

impl Census {
    fn parse(printed: &str) -> Option<Self> {
        // The last line is what `io:format` returns.
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
    /// A connection of a plain AMQP client, for what only another client can do or see.
    ///
    /// # Panics
    ///
    /// If the node does not accept the connection.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future abandons the attempt.
    pub async fn connect(&self) -> Connection {
        // lapin leaves a task asleep until the next heartbeat, which a test that counts tasks would wait for.
        let url = self.url() + "?heartbeat=4";
        Connection::connect(&url, ConnectionProperties::default())
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

    /// A shell script that runs `rabbitmqctl` against the node, with the arguments that the script is given.
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

    /// Counts what clients have on the broker. The numbers are those of the moment, not statistics that lag behind.
    ///
    /// `None` while a queue cannot tell, such as one without a leader.
    ///
    /// # Panics
    ///
    /// When `rabbitmqctl` fails.
    ///
    /// # Cancel safety
    ///
    /// Only asks, so it may be dropped at any time.
    pub async fn census(&self) -> Option<Census> {
        Census::parse(&self.ctl(&["-q", "eval", CENSUS]).await)
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
