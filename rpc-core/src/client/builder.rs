//! Options of a client and their defaults.

use std::sync::Arc;
use std::time::Duration;

use super::{Client, DEFAULT_TIMEOUT, Inner};
use crate::codec::ContentType;
use crate::connection::Connection;

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
}

impl ClientBuilder {
    pub(crate) fn new(connection: Connection) -> Self {
        Self {
            connection,
            timeout: DEFAULT_TIMEOUT,
            content_type: ContentType::MessagePack,
            confirms: false,
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

    /// Makes the client. Sends nothing yet.
    pub fn build(self) -> Client {
        Client(Arc::new(Inner {
            connection: self.connection,
            timeout: self.timeout,
            content_type: self.content_type,
            confirms: self.confirms,
        }))
    }
}
