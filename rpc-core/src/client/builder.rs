//! Options of a client and their defaults.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::{Client, DEFAULT_TIMEOUT, Inner};
use crate::codec::ContentType;
use crate::connection::Connection;
use crate::middleware::RetryPolicy;

/// How many calls may be in flight, unless set: some hundred megabytes of waiting callers.
const DEFAULT_MAX_IN_FLIGHT: usize = 262_144;

/// Options of a [`Client`].
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), rpc_core::OpenError> {
/// # let connection = rpc_core::Connection::open("memory:").await?;
/// let client = connection
///     .client_builder()
///     .timeout(std::time::Duration::from_secs(5))
///     .build();
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct ClientBuilder {
    connection: Connection,
    timeout: Duration,
    content_type: ContentType,
    confirms: bool,
    cancellation: bool,
    retry: RetryPolicy,
    max_in_flight: usize,
}

impl ClientBuilder {
    pub(crate) fn new(connection: Connection) -> Self {
        Self {
            connection,
            timeout: DEFAULT_TIMEOUT,
            content_type: ContentType::MessagePack,
            confirms: false,
            cancellation: true,
            retry: RetryPolicy::new(),
            max_in_flight: DEFAULT_MAX_IN_FLIGHT,
        }
    }

    /// How long calls may take for which neither the call nor the method says so. Default: 30 seconds.
    ///
    /// Zero makes such calls fail at once; more than 30 years counts as 30 years.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sends JSON instead of MessagePack, for servers in languages where that is easier. Default: MessagePack.
    #[cfg(feature = "json")]
    pub fn json(mut self) -> Self {
        self.content_type = ContentType::Json;
        self
    }

    /// Speaks as the clients of RabbitMQ's RPC tutorial do: a bare JSON argument, no method name. Default: off.
    ///
    /// Any server that answers such requests with JSON can then be called through a trait, the tutorial's own
    /// (<https://www.rabbitmq.com/tutorials/tutorial-six-python>) and ours; ours runs the service's only or `default`
    /// method. A method with several arguments sends them as a JSON object.
    #[cfg(feature = "json")]
    pub fn plain(mut self) -> Self {
        self.content_type = ContentType::Plain;
        self
    }

    /// Has the broker confirm every request (<https://www.rabbitmq.com/docs/confirms>), so that one it refuses, because
    /// a queue is full, fails at once instead of at its deadline. Costs about a fifth of the throughput. Default:
    /// `false`: a reply confirms its request. Requests that are `oneway` or `persistent` are always confirmed.
    pub fn confirms(mut self, confirms: bool) -> Self {
        self.confirms = confirms;
        self
    }

    /// How many calls may be in flight at once, on this client and its clones. Further calls wait for one of them to end, which
    /// counts as part of their time. Default: 262,144. 0 counts as 1.
    pub fn max_in_flight(mut self, calls: usize) -> Self {
        self.max_in_flight = calls.clamp(1, Semaphore::MAX_PERMITS);
        self
    }

    /// Whether servers are told when a call is dropped, so that they do not run it, or stop its handler. Default: `true`.
    ///
    /// Nothing is sent for calls that end, at their deadline included. The notice goes to all servers of the queue, through the
    /// exchange `amq.direct`, which the user needs the right to write to; without it a warning is logged.
    pub fn cancellation(mut self, tell: bool) -> Self {
        self.cancellation = tell;
        self
    }

    /// How calls of `idempotent` methods are sent again. Default: as often as the deadline allows, after pauses that double from
    /// 10 milliseconds to 1 second. [`RetryPolicy::never`] switches that off.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// Makes the client. Sends nothing yet.
    pub fn build(self) -> Client {
        Client(Arc::new(Inner {
            connection: self.connection,
            timeout: self.timeout,
            content_type: self.content_type,
            confirms: self.confirms,
            cancellation: self.cancellation,
            retry: self.retry,
            slots: Semaphore::new(self.max_in_flight),
            max_in_flight: self.max_in_flight,
        }))
    }
}
