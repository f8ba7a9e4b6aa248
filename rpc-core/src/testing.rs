//! Access to the embedded broker for tests: its state, its faults, and the fate of each message.
//!
//! With tokio's paused time (`#[tokio::test(start_paused = true)]`), even long outages take no time.
//!
//! # Examples
//!
//! ```
//! use std::time::Duration;
//! use rpc_core::testing::{EmbeddedBroker, Fate};
//! use rpc_core::{Connection, ErrorKind, Server, rpc};
//!
//! #[rpc]
//! trait Greeter {
//!     async fn greet(name: String) -> String;
//! }
//!
//! struct Polite;
//! impl Greeter for Polite {
//!     async fn greet(&self, name: String) -> String {
//!         format!("Good day, {name}")
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let broker = EmbeddedBroker::named("greetings");
//! let connection = Connection::open(&broker.url()).await?;
//! let server = Server::builder(&connection).service(GreeterDispatcher::new(Polite)).build().start().await?;
//! let greeter = GreeterClient::new(connection.client());
//!
//! // The reply is lost on its way.
//! broker.on_publish(|message| if message.kind == Some("result") { Fate::Lose } else { Fate::Deliver });
//! let error = greeter.greet("Ada".to_owned()).timeout(Duration::from_millis(50)).await.unwrap_err();
//! assert_eq!(error.kind(), ErrorKind::Timeout);
//! assert!(error.may_have_executed());
//! # Ok(())
//! # }
//! ```

mod peer;

use std::fmt;
use std::sync::Arc;

#[doc(hidden)]
pub use self::peer::{Peer, PeerMessage};
use crate::transport::memory::Broker;
pub use crate::transport::memory::{Fate, Published, QueueState};

/// Embedded broker behind the connections to `memory:<name>`. It lives as long as this handle or one of the connections.
#[derive(Clone)]
pub struct EmbeddedBroker {
    name: String,
    broker: Arc<Broker>,
}

impl EmbeddedBroker {
    /// Returns the broker of that name in this process, and creates it if needed.
    ///
    /// # Panics
    ///
    /// Panics if the name is empty: each connection to `memory:` has a broker of its own.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        let name = name.into();
        assert!(!name.is_empty(), "a broker needs a name to be shared");
        Self {
            broker: Broker::open(&name),
            name,
        }
    }

    /// URL of the broker, for [`Connection::open`](crate::Connection::open).
    #[must_use]
    pub fn url(&self) -> String {
        format!("memory:{}", self.name)
    }

    /// Drops all connections, as if the broker had been killed. Queues and their messages stay.
    pub fn drop_connections(&self) {
        self.broker.state().lose_links();
    }

    /// Refuses new connections if `refuse` is `true`, else accepts them again. Default: accepts them.
    pub fn refuse_connections(&self, refuse: bool) {
        self.broker.state().refuses_links = refuse;
    }

    /// Accepts no more messages, for a reason such as RabbitMQ's "low on memory", until [`unblock`](Self::unblock). Messages that
    /// are published meanwhile wait, and their [fate](Self::on_publish) is decided after the wait.
    pub fn block(&self, reason: impl Into<String>) {
        self.broker.state().block(reason.into());
    }

    /// Accepts messages again.
    pub fn unblock(&self) {
        self.broker.state().unblock(&self.broker);
    }

    /// Sets a hook that decides the [`Fate`] of each message for which there is a queue. It replaces an earlier hook. Default:
    /// every message is delivered.
    ///
    /// The hook is called while the broker is locked: it must not use the broker. If it panics, the panic is reported as usual but
    /// fails no test, and the message is delivered.
    pub fn on_publish(&self, decide: impl FnMut(&Published<'_>) -> Fate + Send + 'static) {
        let former = self.broker.state().decide.replace(Box::new(decide));
        drop(former); // After the broker is unlocked: the hook may own a handle that uses the broker.
    }

    /// State of a queue; `None` if there is no queue of that name.
    #[must_use]
    pub fn queue(&self, name: &str) -> Option<QueueState> {
        self.broker.state().look_into(name)
    }

    /// Names of all queues.
    #[must_use]
    pub fn queues(&self) -> Vec<String> {
        self.broker.state().queue_names()
    }
}

impl fmt::Debug for EmbeddedBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedBroker")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
