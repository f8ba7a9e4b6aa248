//! Options of a client and their defaults.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::coalesce::{Coalescer, Settings};
use super::{Client, DEFAULT_TIMEOUT, Inner};
use crate::codec::ContentType;
use crate::connection::Connection;
use crate::headers::{HeaderValue, Headers};
use crate::message::Request;
use crate::middleware::RetryPolicy;

/// How many calls may be in flight, unless set: some hundred megabytes of waiting callers.
const DEFAULT_MAX_IN_FLIGHT: usize = 262_144;

/// Options of a [`Client`].
///
/// Each setting says what it is worth and what it costs. The figures are shares of the rate with 64 calls of 10 bytes in flight, on
/// RabbitMQ 3.10 and two cores, and carry over as orders of magnitude; `BENCHMARKS.md` in the repository says how to repeat them.
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
///     .header("tenant", "a")
///     .build();
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct ClientBuilder {
    connection: Connection,
    timeout: Duration,
    defaults: Defaults,
    content_type: ContentType,
    confirms: bool,
    cancellation: bool,
    mandatory: bool,
    expiration: bool,
    retry: RetryPolicy,
    coalesce: Option<usize>,
    max_in_flight: usize,
}

/// What requests get that they do not have of their own, beside their deadline.
#[derive(Clone, Default)]
pub(super) struct Defaults {
    headers: Headers,
    propagating: BTreeSet<String>,
    priority: Option<u8>,
    persistent: bool,
}

impl Defaults {
    pub(super) fn complete(&self, request: &mut Request) {
        for (name, value) in self.headers.iter() {
            if request.0.headers.get(name).is_none() {
                request.set_header(name.to_owned(), value.clone());
            }
        }
        for name in &self.propagating {
            request.propagate_header(name);
        }
        request.0.priority = request.0.priority.or(self.priority);
        request.0.persistent |= self.persistent;
    }
}

impl fmt::Debug for Defaults {
    /// Leaves out the values of headers, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("Defaults")
            .field("headers", &names)
            .field("propagating", &self.propagating)
            .field("priority", &self.priority)
            .field("persistent", &self.persistent)
            .finish()
    }
}

impl ClientBuilder {
    pub(crate) fn new(connection: Connection) -> Self {
        Self {
            connection,
            timeout: DEFAULT_TIMEOUT,
            defaults: Defaults::default(),
            content_type: ContentType::MessagePack,
            confirms: false,
            cancellation: true,
            mandatory: true,
            expiration: true,
            retry: RetryPolicy::new(),
            coalesce: None,
            max_in_flight: DEFAULT_MAX_IN_FLIGHT,
        }
    }

    /// How long calls may take for which neither the call nor the method says so. Default: 30 seconds: every call ends, and few
    /// handlers that still work on something take longer. The timer is 2 % of what a call takes the client.
    ///
    /// Zero makes such calls fail at once; more than 30 years counts as 30 years. Layers around the client do not know of it, see
    /// [`middleware`](crate::middleware).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sends a header with every request that does not have one of that name, its own or one that it inherits from the call
    /// in whose handler it is made. Call it once for each header. Default: none.
    ///
    /// It is added after the client's layers. The limits are those of [`Call::header`](crate::Call::header): beyond them every call
    /// fails.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<HeaderValue>) -> Self {
        self.defaults.headers.insert(name, value);
        self
    }

    /// Sends a header, like [`header`](Self::header), and marks it as
    /// [`Call::propagating_header`](crate::Call::propagating_header) does, whatever its value.
    pub fn propagating_header(
        mut self,
        name: impl Into<String>,
        value: impl Into<HeaderValue>,
    ) -> Self {
        let name = name.into();
        self.defaults.propagating.insert(name.clone());
        self.header(name, value)
    }

    /// Sends requests with this priority if neither the call nor the method has one; see
    /// [`Call::priority`](crate::Call::priority). Default: none, which counts as 0.
    pub fn priority(mut self, priority: u8) -> Self {
        self.defaults.priority = Some(priority);
        self
    }

    /// Lets every request survive a restart of the broker, as [`Call::persistent`](crate::Call::persistent) does. Default:
    /// those whose method or call says so, as it costs 32 to 39 % of the rate and a caller who still waits can call again.
    pub fn persistent(mut self) -> Self {
        self.defaults.persistent = true;
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
    /// a queue is full, fails at once instead of at its deadline. Requests that are `oneway` or `persistent` are always
    /// confirmed.
    ///
    /// Default: `false`: a reply confirms its request, and a confirm for each costs 14 to 22 % of the rate.
    pub fn confirms(mut self, confirms: bool) -> Self {
        self.confirms = confirms;
        self
    }

    /// How many calls may be in flight at once, on this client and its clones. Further calls wait for one of them to end, which
    /// counts as part of their time. 0 counts as 1.
    ///
    /// Default: 262,144. A waiting call takes 1 KiB, and an `idempotent` one its request as well, so that memory stays bounded, by 256
    /// MiB or so, whatever the broker does. How many wait makes no difference to the speed of each.
    pub fn max_in_flight(mut self, calls: usize) -> Self {
        self.max_in_flight = calls.clamp(1, Semaphore::MAX_PERMITS);
        self
    }

    /// Whether the broker is asked to return a request that no queue takes, so that its call fails at once with
    /// [`ErrorKind::Unroutable`](crate::ErrorKind::Unroutable). Without, such a call ends at its deadline; a `oneway` or
    /// `persistent` one, or one of a client that [`confirms`](Self::confirms), resolves as if it had arrived.
    ///
    /// Default: `true`, for an error that tells the truth at once. It costs less than measurements differ by.
    pub fn mandatory(mut self, mandatory: bool) -> Self {
        self.mandatory = mandatory;
        self
    }

    /// Whether requests expire in the queue with their deadline (AMQP's `expiration`). Without, a request whose caller has gone stays
    /// in the queue until a server takes it, and refuses it: RabbitMQ has less to do for each, and more once servers fall behind.
    ///
    /// Default: `true`, so that a queue that nobody serves empties itself. It costs less than measurements differ by;
    /// without it and [`mandatory`](Self::mandatory) together calls were 18 % faster.
    pub fn expiration(mut self, expiration: bool) -> Self {
        self.expiration = expiration;
        self
    }

    /// Whether servers are told when a call is dropped, so that they do not run it, or stop its handler.
    ///
    /// Default: `true`, so that nobody works for callers who have gone. It costs nothing until one goes: nothing is sent for calls that
    /// end, at their deadline included. The notice goes to all servers of the queue, through the exchange `amq.direct`, which the user
    /// needs the right to write to. Without it a warning is logged, and nothing is sent any more until the connection is made anew.
    pub fn cancellation(mut self, tell: bool) -> Self {
        self.cancellation = tell;
        self
    }

    /// How calls of `idempotent` methods are sent again. Default: as often as the deadline allows, after pauses that double from
    /// 10 milliseconds to 1 second: an outage is survived without a herd of calls. It costs nothing until a call fails, but for the
    /// memory of the request, which is kept. [`RetryPolicy::never`] switches that off.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// How many calls may share a message.
    ///
    /// Default: replies share messages, requests do not. The first gives 1.2 to 1.4 times the rate from 16 in flight on, and the same one
    /// by one; the second 2, 5 and 8 times that with 64, 256 and 1,024 in flight, but changes what is redelivered (below).
    ///
    /// With many calls in flight, messages are what a broker's time is spent on. Replies that servers have at the same time for the
    /// same client always travel together, which costs no guarantee and no time. With a limit above 1, requests of `idempotent`
    /// methods do so too: with nothing unanswered, a call goes out alone and at once; calls that come at the same moment share
    /// two messages to a queue; those that come while two are unanswered go together when one is answered, when they fill a
    /// message and less than four are unanswered, or when none was answered for a millisecond. A good limit is 64, or 256 for
    /// a thousand calls in flight.
    ///
    /// Each call keeps its own deadline, headers, trace, errors and cancellation; what is redelivered, counted and given up is the
    /// call. What changes:
    ///
    /// - A batch is acknowledged as a whole. A server that dies has all of its calls run again, those that were answered too:
    ///   hence `idempotent`.
    /// - A server gets several calls at once. It takes a quarter of its [`prefetch`](crate::ServerBuilder::prefetch) in one message,
    ///   so that one with a prefetch below 8 is only sent single calls; and it holds more than its prefetch, once several clients
    ///   do this. It works on all of them at the same time, but what a handler computes before it first waits for anything may hold
    ///   up seven others of the same message: a method that computes for long is better `blocking`.
    /// - Calls that are `persistent` or have a priority, and those of more than 8 KiB, go alone.
    ///
    /// Servers that do not know batches refuse them; the calls go alone then, and those after them, until the connection is
    /// made anew. [`plain`](Self::plain) clients never send batches.
    ///
    /// 1 switches all of it off, replies included: for tests that look at single messages, and to find out what it is worth. 0
    /// counts as 1.
    pub fn coalesce(mut self, limit: usize) -> Self {
        self.coalesce = Some(limit.max(1));
        self
    }

    /// Makes the client. Sends nothing yet.
    pub fn build(self) -> Client {
        let may_coalesce = self.content_type != ContentType::Plain;
        let limit = self.coalesce.filter(|limit| may_coalesce && *limit > 1);
        let coalescer = limit.map(|limit| {
            Coalescer::new(Settings {
                limit,
                app_id: self.connection.app_id(),
                mandatory: self.mandatory,
                confirms: self.confirms,
            })
        });
        Client(Arc::new(Inner {
            connection: self.connection,
            timeout: self.timeout,
            defaults: self.defaults,
            content_type: self.content_type,
            confirms: self.confirms,
            cancellation: self.cancellation,
            mandatory: self.mandatory,
            expiration: self.expiration,
            retry: self.retry,
            batches: self.coalesce != Some(1),
            coalescer,
            slots: Semaphore::new(self.max_in_flight),
            max_in_flight: self.max_in_flight,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition::{Method, Service};

    const PLAIN: &Method = &Method::new("plain", &[]);
    const URGENT: &Method = &Method::new("urgent", &[]).priority(9);
    const SERVICE: &Service = &Service::new("Jobs", "jobs", &[PLAIN, URGENT]);

    #[tokio::test]
    async fn a_clients_defaults_are_for_what_neither_call_nor_method_says() {
        let connection = Connection::open("memory:").await.unwrap();
        let builder = connection.client_builder().priority(1).persistent();
        let defaults = builder.propagating_header("tenant", "a").defaults;
        let mut plain = Request::new(SERVICE, PLAIN, "jobs", &()).unwrap();
        defaults.complete(&mut plain);
        assert_eq!((plain.0.priority, plain.0.persistent), (Some(1), true));
        assert_eq!(plain.0.headers.get_as("tenant"), Some("a"));
        assert!(plain.0.propagating.contains("tenant"));
        let mut urgent = Request::new(SERVICE, URGENT, "jobs", &()).unwrap();
        urgent.0.headers.insert("tenant", "b");
        defaults.complete(&mut urgent);
        assert_eq!(urgent.0.priority, Some(9));
        assert_eq!(urgent.0.headers.get_as("tenant"), Some("b"));
        assert!(!format!("{defaults:?}").contains("\"a\""), "{defaults:?}");
    }
}
