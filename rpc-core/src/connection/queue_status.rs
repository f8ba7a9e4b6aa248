//! Numbers of a queue, asked of the broker.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::{Connection, ConnectionState};
use crate::backoff::pauses;
use crate::deadline;
use crate::error::{ErrorKind, NO_CHANNEL, RpcError};
use crate::queue::{QueueStatus, Refusal};
use crate::task;
use crate::transport::{ChannelMode, TransportError};

/// Longest wait for the broker's answer, and for the connection before.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// Pauses between attempts while the connection is being lost.
const MIN_PAUSE: Duration = Duration::from_millis(10);
const MAX_PAUSE: Duration = Duration::from_millis(500);

impl Connection {
    /// Asks the broker for the numbers of a queue: the messages that wait in the queue, and its consumers. Returns `None` if there is no such
    /// queue. Nothing is created, changed or taken.
    ///
    /// The answer describes one moment. It takes one round trip on a channel of its own, and at most 10 seconds, in which the question waits
    /// for a lost connection.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::PermissionDenied`]: the broker wants a permission on the queue that the user lacks. RabbitMQ 3 wants none.
    /// - [`ErrorKind::Rejected`]: the queue exists and cannot be asked. It is exclusive to another connection, or its node is down.
    /// - [`ErrorKind::Timeout`]: no answer came within 10 seconds.
    /// - [`ErrorKind::Encode`]: the name is longer than 255 bytes.
    /// - [`ErrorKind::Closed`]: the connection was closed by this program.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect on the queue.
    ///
    /// # Examples
    ///
    /// ```
    /// # use rpc_core::{Connection, Server, rpc};
    /// # #[rpc] trait Fib { async fn fib(n: u64) -> u64; }
    /// # struct Calculator;
    /// # impl Fib for Calculator { async fn fib(&self, n: u64) -> u64 { n } }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let connection = Connection::open("memory:").await?;
    /// # let server = Server::builder(&connection).service(FibDispatcher::new(Calculator)).build().start().await?;
    /// match connection.queue_status("rpc.Fib").await? {
    ///     Some(queue) => println!("{} requests wait for {} servers", queue.messages, queue.consumers),
    ///     None => println!("no server has ever run here"),
    /// }
    /// # assert_eq!(connection.queue_status("rpc.Fib").await?.map(|queue| queue.consumers), Some(1));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn queue_status(&self, queue: &str) -> Result<Option<QueueStatus>, RpcError> {
        if !task::in_runtime() {
            return Err(RpcError::no_runtime());
        }
        let asking = async {
            let mut pauses = pauses(MIN_PAUSE, MAX_PAUSE);
            loop {
                let link = self.link().await?;
                let asked = async {
                    let channel = link.open_channel(ChannelMode::Plain).await?;
                    channel.queue_status(queue).await
                };
                match asked.await {
                    Ok(status) => return Ok(Some(status)),
                    Err(error) if is_missing(queue, &error) => return Ok(None),
                    // Asking again is harmless.
                    Err(TransportError::Lost(_)) => {
                        sleep(pauses.next().unwrap_or(MAX_PAUSE)).await;
                    }
                    Err(error) => return Err(not_told(queue, error)),
                }
            }
        };
        let asked = timeout_at(Instant::now() + TIME_LIMIT, asking).await;
        asked.unwrap_or_else(|_| Err(self.no_answer()))
    }

    fn no_answer(&self) -> RpcError {
        let limit = deadline::shown(TIME_LIMIT);
        let mut message = format!("the broker told no numbers of the queue within {limit}");
        if let ConnectionState::Reconnecting { error } = self.state_now() {
            message += &format!("; the connection to the broker is down: {error}");
        }
        RpcError::new(ErrorKind::Timeout, message).not_executed()
    }
}

/// Returns `true` for the refusal of a queue that does not exist.
fn is_missing(queue: &str, error: &TransportError) -> bool {
    matches!(error, TransportError::Unavailable(words)
        if Refusal::new(queue, &words.to_string()).is_of_missing_queue())
}

/// Error of a question that the broker refused.
fn not_told(queue: &str, error: TransportError) -> RpcError {
    let queue = queue.escape_debug();
    let (kind, message) = match &error {
        TransportError::Invalid(reason) => return RpcError::new(ErrorKind::Encode, reason),
        TransportError::Forbidden(_) => (
            ErrorKind::PermissionDenied,
            format!(
                "the user may not ask for the numbers of queue '{queue}': grant the user the permission to read the queue"
            ),
        ),
        TransportError::NoChannel(_) => (ErrorKind::PermissionDenied, NO_CHANNEL.to_owned()),
        _ => (
            ErrorKind::Rejected,
            format!("the broker does not tell the numbers of queue '{queue}'"),
        ),
    };
    RpcError::new(kind, message)
        .with_source(error)
        .not_executed()
}
