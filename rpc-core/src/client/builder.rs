//! The builder of a client, and the methods of a connection that make clients.

use std::time::Duration;

use tokio::sync::Semaphore;

use super::options::ClientOptions;
use super::service::Client;
#[cfg(feature = "json")]
use crate::codec::ContentType;
use crate::connection::Connection;
use crate::headers::HeaderValue;
use crate::middleware::RetryPolicy;

impl Connection {
    /// Returns a client with the default options. The call is cheap: all clients of a connection share a channel and a reply queue.
    pub fn client(&self) -> Client {
        self.client_builder().build()
    }

    /// Returns a builder, to set options before making a client.
    pub fn client_builder(&self) -> ClientBuilder {
        ClientBuilder::new(self.clone())
    }
}

/// Options of a [`Client`].
///
/// Each setter states its benefit and its cost. The figures are shares of the rate with 64 calls of 10 bytes in flight, on
/// RabbitMQ 3.10 and two cores, and carry over as orders of magnitude. `BENCHMARKS.md` in the repository explains how to repeat them.
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
    options: ClientOptions,
}

impl ClientBuilder {
    fn new(connection: Connection) -> Self {
        Self {
            connection,
            options: ClientOptions::default(),
        }
    }

    /// Sets the timeout of calls for which neither the call nor the method sets one. Default: 30 seconds, because few handlers that make
    /// progress take longer. Every call has a timeout. The timer is 2 % of the client's work for a call.
    ///
    /// With zero such calls fail at once; more than 30 years counts as 30 years. Layers around the client do not know this timeout,
    /// see [`middleware`](crate::middleware).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options.timeout = timeout;
        self
    }

    /// Sends a header with every request, unless the call sets or inherits a header of that name. Call this method once for each
    /// header. Default: none.
    ///
    /// The client adds the header after its layers. The limits of [`Call::header`](crate::Call::header) apply: every call with a header
    /// beyond them fails.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<HeaderValue>) -> Self {
        self.options.defaults.headers.insert(name, value);
        self
    }

    /// Sends a header, like [`header`](Self::header), and marks the header of that name, with any value, as
    /// [`Call::propagating_header`](crate::Call::propagating_header) does.
    pub fn propagating_header(
        mut self,
        name: impl Into<String>,
        value: impl Into<HeaderValue>,
    ) -> Self {
        let name = name.into();
        self.options.defaults.propagating.insert(name.clone());
        self.header(name, value)
    }

    /// Sets the priority of requests for which neither the call nor the method sets one; see
    /// [`Call::priority`](crate::Call::priority). Default: none, which counts as 0.
    pub fn priority(mut self, priority: u8) -> Self {
        self.options.defaults.priority = Some(priority);
        self
    }

    /// Makes every request persistent, like [`Call::persistent`](crate::Call::persistent), so that it survives a restart of the broker.
    /// Default: only requests whose method or call is persistent, because persistence costs 32 to 39 % of the rate, and a caller that
    /// still waits can call again.
    pub fn persistent(mut self) -> Self {
        self.options.defaults.persistent = true;
        self
    }

    /// Sends JSON instead of MessagePack, for servers in languages where JSON is easier. Default: MessagePack.
    #[cfg(feature = "json")]
    pub fn json(mut self) -> Self {
        self.options.content_type = ContentType::Json;
        self
    }

    /// Sends requests like the clients of RabbitMQ's RPC tutorial: a bare JSON argument, and no method name. Default: off.
    ///
    /// Any server that answers such requests with JSON can then be called through a trait: the tutorial's own server
    /// (<https://www.rabbitmq.com/tutorials/tutorial-six-python>), and servers of this crate, which run the service's only or `default`
    /// method. A method with several arguments sends them as a JSON object.
    #[cfg(feature = "json")]
    pub fn plain(mut self) -> Self {
        self.options.content_type = ContentType::Plain;
        self
    }

    /// Lets the broker confirm every request (<https://www.rabbitmq.com/docs/confirms>), so that a refused request, such as one for a
    /// full queue, fails at once instead of at its deadline. Requests that are `oneway` or `persistent` are always
    /// confirmed.
    ///
    /// Default: `false`. A reply confirms its request, and a confirm for each request costs 14 to 22 % of the rate.
    pub fn confirms(mut self, confirms: bool) -> Self {
        self.options.confirms = confirms;
        self
    }

    /// Limits the calls in flight, on this client and its clones. Further calls wait until another call ends; the wait counts as part of
    /// their time. A call to all instances counts as one, until the end of its answers, and a stream counts as one until its end has arrived. 0
    /// counts as 1.
    ///
    /// Default: 262,144. A waiting call takes 1 KiB, and an `idempotent` one its request as well, so memory stays bounded, by about 256
    /// MiB, in any state of the broker. The number of waiting calls makes no difference to the speed of each.
    pub fn max_in_flight(mut self, calls: usize) -> Self {
        self.options.max_in_flight = calls.clamp(1, Semaphore::MAX_PERMITS);
        self
    }

    /// Asks the broker to return a request that no queue takes, so that its call fails at once with
    /// [`ErrorKind::Unroutable`](crate::ErrorKind::Unroutable). With `false` such a call ends at its deadline; a `oneway` or
    /// `persistent` one, or one of a client that [`confirms`](Self::confirms), resolves as if the request had arrived.
    ///
    /// Default: `true`, so that the caller learns the cause at once. The cost is smaller than the differences between measurements.
    pub fn mandatory(mut self, mandatory: bool) -> Self {
        self.options.mandatory = mandatory;
        self
    }

    /// Lets requests expire in the queue at their deadline (AMQP's `expiration`). With `false` a request whose caller is gone stays
    /// in the queue until a server takes and refuses it: RabbitMQ has less to do for each request, and more once servers fall behind.
    ///
    /// Default: `true`, so that a queue without servers empties itself. The cost is smaller than the differences between measurements;
    /// with `false` here and for [`mandatory`](Self::mandatory) together, calls were 18 % faster.
    pub fn expiration(mut self, expiration: bool) -> Self {
        self.options.expiration = expiration;
        self
    }

    /// Limits the items of a stream that the program has not read yet, on their way and in this client, for streams whose call does not set a
    /// window. After that number, the server waits until half of them are read. Default: 1,024. 0 counts as 1, and more than 2^20 as
    /// 2^20.
    ///
    /// A larger window keeps a fast stream busy over a slow network, and takes more memory while the program does not read. With 1, each item waits
    /// until the one before is read.
    pub fn window(mut self, items: usize) -> Self {
        self.options.window.items = items.max(1) as u64;
        self
    }

    /// Limits the unread items of a stream by their encoded length in bytes, beside their [number](Self::window). Default: 1 MiB. 0 counts as 1,
    /// and more than 64 MiB as 64 MiB.
    ///
    /// An item that is longer than what is left of the window is still sent once more than half of the window is free. So a stream
    /// takes at most the larger of the window and half of the window with one item.
    pub fn window_bytes(mut self, bytes: usize) -> Self {
        self.options.window.bytes = bytes.max(1) as u64;
        self
    }

    /// Tells servers when a call is dropped, so that they do not run its request, or stop its handler.
    ///
    /// Default: `true`, so that servers do no work for callers that are gone. The cost is zero until a call is dropped: nothing is sent
    /// for calls that end, not even at their deadline. The notice goes to all servers of the queue, through the exchange `amq.direct`,
    /// to which the user needs the permission to write. Without the permission a warning is logged, and no more notices are sent until the
    /// next connection.
    pub fn cancellation(mut self, tell: bool) -> Self {
        self.options.cancellation = tell;
        self
    }

    /// Sets the policy by which calls of `idempotent` methods are sent again. Default: as often as the deadline allows, after pauses that
    /// double from 10 milliseconds to 1 second, so that calls survive an outage and do not come back all at once. The cost is zero until
    /// a call fails, except for the memory of the request, which is kept. [`RetryPolicy::never`] switches the repetition off.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.options.retry = policy;
        self
    }

    /// Limits the number of calls that share a message.
    ///
    /// Default: replies share messages, requests do not. Shared replies give 1.2 to 1.4 times the rate from 16 calls in flight on, and the
    /// same rate for calls one by one. Shared requests give 2, 5 and 8 times that rate with 64, 256 and 1,024 calls in flight, but change
    /// what is redelivered (below).
    ///
    /// With many calls in flight, a broker spends its time on messages. Replies that a server has at the same time for the
    /// same client always travel together, which costs no guarantee and no time. With a limit above 1, requests of `idempotent`
    /// methods travel together, too. While no message is unanswered, a call is sent alone and at once. Calls that come at the same moment
    /// share two messages to a queue. Calls that come while two messages are unanswered wait. They are sent together as soon as one message
    /// is answered, or they fill a message and fewer than four are unanswered, or no message was sent or answered for a millisecond. A good
    /// limit is 64, or 256 for a thousand calls in flight.
    ///
    /// Each call keeps its own deadline, headers, trace, errors and cancellation, and is redelivered, counted and given up by itself. The
    /// differences:
    ///
    /// - A batch is acknowledged as a whole. If a server dies, all of its calls run again, including answered ones:
    ///   hence `idempotent`.
    /// - A server gets several calls at once. It accepts a quarter of its [`prefetch`](crate::ServerBuilder::prefetch) in one message, so a
    ///   server with a prefetch below 8 only gets single calls; and it holds more than its prefetch once several clients
    ///   send batches. It works on all calls of a message at the same time, but the computation of a handler before its first wait may
    ///   hold up seven others: a method that computes for long is better `blocking`.
    /// - Calls that are `persistent` or have a priority, and calls of more than 8 KiB, are sent alone.
    ///
    /// Servers that do not know batches refuse them. The refused calls, and later ones, are sent alone until the next connection.
    /// [`plain`](Self::plain) clients never send batches.
    ///
    /// 1 switches all sharing off, including that of replies, for tests that look at single messages and for measurements. 0 counts as 1.
    pub fn coalesce(mut self, limit: usize) -> Self {
        self.options.coalesce = Some(limit.max(1));
        self
    }

    /// Makes the client. Sends nothing yet.
    pub fn build(self) -> Client {
        Client::new(self.connection, self.options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition::{Method, Service};
    use crate::message::Request;

    const PLAIN: &Method = &Method::new("plain", &[]);
    const URGENT: &Method = &Method::new("urgent", &[]).priority(9);
    const SERVICE: &Service = &Service::new("Jobs", "jobs", &[PLAIN, URGENT]);

    #[tokio::test]
    async fn defaults_of_a_client_yield_to_settings_of_calls_and_methods() {
        let connection = Connection::open("memory:").await.unwrap();
        let builder = connection.client_builder().priority(1).persistent();
        let options = builder.propagating_header("tenant", "a").options;
        let defaults = &options.defaults;
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
        assert!(!format!("{options:?}").contains("\"a\""), "{options:?}");
    }
}
