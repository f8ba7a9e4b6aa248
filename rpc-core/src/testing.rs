//! The embedded broker as a test wants it: to look into, and to break.
//!
//! With tokio's paused time (`#[tokio::test(start_paused = true)]`) even long outages take no time.
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

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::transport::memory::Broker;

/// The embedded broker behind the connections to `memory:<name>`. It lives as long as this or one of them.
#[derive(Clone)]
pub struct EmbeddedBroker {
    name: String,
    broker: Arc<Broker>,
}

/// A message on its way into a queue.
#[derive(Debug)]
#[non_exhaustive]
pub struct Published<'a> {
    /// The queue that it goes to.
    pub queue: &'a str,
    /// Its `type`: of a request the method's name, of a reply `result`, `error` or `fault`; `batch` if calls
    /// [share it](crate::ClientBuilder::coalesce).
    pub kind: Option<&'a str>,
    /// The id of the call that it belongs to.
    pub correlation_id: Option<&'a str>,
    /// Where the reply to it goes, if it is a request.
    pub reply_to: Option<&'a str>,
    /// Its body.
    pub body: &'a [u8],
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fate {
    /// It goes to its queue.
    Deliver,
    /// It goes to its queue twice.
    Duplicate,
    /// It goes there later, so that others overtake it.
    Delay(Duration),
    /// It is lost, though its publisher is told that it arrived.
    Lose,
}

/// What a queue holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueState {
    /// Messages that wait for a consumer.
    pub ready: usize,
    /// Messages that a consumer has and has not settled.
    pub unsettled: usize,
    /// Who consumes it.
    pub consumers: usize,
}

impl EmbeddedBroker {
    /// The broker of that name in this process.
    ///
    /// # Panics
    ///
    /// If the name is empty: `memory:` is another broker each time.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        let name = name.into();
        assert!(
            !name.is_empty(),
            "a broker without a name cannot be shared: give it one"
        );
        Self {
            broker: Broker::open(&name),
            name,
        }
    }

    /// What to open a connection with.
    #[must_use]
    pub fn url(&self) -> String {
        format!("memory:{}", self.name)
    }

    /// Loses all connections, as a broker that is killed. Queues and what is in them stay.
    pub fn drop_connections(&self) {
        self.broker.state().lose_links();
    }

    /// Refuses new connections, or accepts them again.
    pub fn refuse_connections(&self, refuse: bool) {
        self.broker.state().refuses_links = refuse;
    }

    /// Takes no more messages, for a reason such as RabbitMQ's "low on memory", until [`unblock`](Self::unblock). What is
    /// published meanwhile waits, and its [fate](Self::on_publish) is decided then.
    pub fn block(&self, reason: impl Into<String>) {
        self.broker.state().block(reason.into());
    }

    /// Takes messages again.
    pub fn unblock(&self) {
        self.broker.state().unblock(&self.broker);
    }

    /// Has the fate of each message for which there is a queue decided, in place of an earlier decision. It is called while the
    /// broker is locked: it must not use the broker. If it panics, which is reported as any panic but fails no test, that
    /// message is delivered.
    pub fn on_publish(&self, decide: impl FnMut(&Published<'_>) -> Fate + Send + 'static) {
        let former = self.broker.state().decide.replace(Box::new(decide));
        drop(former); // Once the broker is unlocked: it may own what uses the broker.
    }

    /// What a queue holds; `None` if there is none of that name.
    #[must_use]
    pub fn queue(&self, name: &str) -> Option<QueueState> {
        self.broker.state().look_into(name)
    }

    /// The names of all queues.
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
