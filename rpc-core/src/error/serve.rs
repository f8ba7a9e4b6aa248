//! Error of starting or running a server.

use std::fmt;

use super::causes::{BoxError, with_causes};
use super::rpc::RUNTIME_ENDED;
use crate::queue::Refusal;

/// Error of starting or running a [`Server`](crate::Server).
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Two services of the server use the same queue. A queue belongs to one service, and so does its queue `<queue>.retry`, where
    /// requests wait for their last attempt.
    #[error(
        "services '{first}' and '{second}' both use queue '{queue}': give one of them another queue with `with_queue` or `with_queue_prefix`"
    )]
    QueueTaken {
        /// The queue.
        queue: String,
        /// The service that was added first.
        first: &'static str,
        /// The service that was added second.
        second: &'static str,
    },
    /// The name or the options of a queue are invalid on any broker.
    #[error("queue '{queue}' cannot be served: {reason}")]
    InvalidQueue {
        /// The queue.
        queue: String,
        /// The problem with the name or the options.
        reason: String,
    },
    /// A service holds no dispatcher that the server can find, or several dispatchers.
    #[error("a service cannot be served: {reason}")]
    InvalidService {
        /// The layers that may have caused the problem, and the remedy.
        reason: String,
    },
    /// The server has no service.
    #[error("the server has no service: add one with `service`")]
    NoService,
    /// The broker refused to declare or consume a queue, for instance because the queue exists with other arguments or the user lacks
    /// a permission.
    ///
    /// The message names the argument, both values and the remedy, as far as the broker reports them.
    #[error("{}", Refusal::new(queue, &source.to_string()))]
    QueueRefused {
        /// The queue.
        queue: String,
        /// The broker's error.
        source: BoxError,
    },
    /// The server may not open the channels that it needs: the connection, its user or the broker's node has reached its limit of
    /// channels.
    #[error("the server may not open another channel: {source}")]
    NoChannel {
        /// The limit, and the remedy.
        source: BoxError,
    },
    /// The connection was lost because the server's runtime is shutting down. After any other loss, the server waits for the next
    /// connection.
    #[error("the server lost its connection to the broker")]
    Disconnected(#[source] BoxError),
    /// The runtime that opened the connection has ended.
    #[error("{RUNTIME_ENDED}")]
    RuntimeEnded,
    /// The server was started outside of a Tokio runtime.
    #[error("a server needs a Tokio runtime: start it inside `Runtime::block_on`")]
    NoRuntime,
    /// The connection was closed on this side while the server was running.
    #[error("the connection was closed by this process")]
    Closed,
}

/// Writes the message with its causes, because `main` prints this form when it returns the error.
impl fmt::Debug for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&with_causes(self))
    }
}
