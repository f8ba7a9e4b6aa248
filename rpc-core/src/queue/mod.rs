//! Options of a request queue, and the broker's refusals of queues.

mod refusal;
mod status;

use std::time::Duration;

pub(crate) use self::refusal::Refusal;
pub use self::status::QueueStatus;
use crate::headers::{HeaderValue, Headers};

/// Options of a service's request queue: `FibDispatcher::new(handler).with_queue_options(options)`.
///
/// Without options, the queue is a durable classic queue with no arguments. The options become RabbitMQ's queue arguments
/// (<https://www.rabbitmq.com/docs/queues#optional-arguments>).
///
/// All servers of a queue, and all other programs that declare it, must use the same arguments. Otherwise the server fails with
/// [`ServeError::QueueRefused`](crate::ServeError), which names the queue, the argument and both values.
/// [`existing`](Self::existing) accepts a queue with any arguments.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use rpc_core::{Connection, QueueOptions, Server, rpc};
///
/// #[rpc]
/// trait Greeter {
///     async fn greet(name: String) -> String;
/// }
///
/// struct Polite;
/// impl Greeter for Polite {
///     async fn greet(&self, name: String) -> String {
///         format!("Good day, {name}")
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let connection = Connection::open("memory:").await?;
/// let options = QueueOptions::quorum().max_length(10_000);
/// let server = Server::builder(&connection)
///     .service(GreeterDispatcher::new(Polite).with_queue_options(options))
///     .build()
///     .start()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "options have no effect until they are passed to a dispatcher"]
pub struct QueueOptions {
    pub(crate) kind: QueueType,
    pub(crate) declares: Declares,
    pub(crate) max_length: Option<u32>,
    pub(crate) message_ttl: Option<Duration>,
    pub(crate) expires: Option<Duration>,
    pub(crate) max_priority: Option<u8>,
    pub(crate) dead_letter_queue: Option<String>,
}

/// RabbitMQ's type of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum QueueType {
    #[default]
    Classic,
    Quorum,
}

/// Cases in which a server declares a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Declares {
    /// In every case; an existing queue must have the same arguments.
    #[default]
    Always,
    /// If the queue does not exist.
    IfMissing,
    Never,
}

impl QueueOptions {
    /// Creates the options of a durable classic queue, which lives on one node (<https://www.rabbitmq.com/docs/classic-queues>).
    /// These are the default options.
    pub fn classic() -> Self {
        Self::default()
    }

    /// Creates the options of a quorum queue, which is replicated among the nodes of a cluster
    /// (<https://www.rabbitmq.com/docs/quorum-queues>).
    ///
    /// Requests survive the death of a node. The cost is about 40 % of the throughput. A quorum queue counts deliveries, so the limit of
    /// [`ServerBuilder::delivery_limit`](crate::ServerBuilder::delivery_limit) is exact.
    pub fn quorum() -> Self {
        Self {
            kind: QueueType::Quorum,
            ..Self::default()
        }
    }

    /// Creates options with which the server declares nothing: the queue must exist, with any arguments. For brokers whose queues an
    /// operator creates, and for users without the permission to declare. The other options have no effect.
    pub fn passive() -> Self {
        Self {
            declares: Declares::Never,
            ..Self::default()
        }
    }

    /// Creates options with which the server uses an existing queue, of any type and with any arguments. If the queue does not exist,
    /// the server declares it like [`classic`](Self::classic), with the other options that are set. For a queue that other programs
    /// declare with their own arguments, such as the `rpc_queue` of RabbitMQ's tutorial.
    ///
    /// The other options have no effect on an existing queue, except [`dead_letter_queue`](Self::dead_letter_queue), where the server
    /// puts requests that were delivered too often. Deliveries are counted as on a classic queue, by republishing requests, even if the
    /// queue is a quorum queue, because the server cannot see the type of a queue. `<queue>.retry` is a classic queue. Servers that use
    /// [`quorum`](Self::quorum) for the same queue may run beside this one. If the queue is a stream, requests of a server that dies
    /// are lost, because a stream does not redeliver.
    pub fn existing() -> Self {
        Self {
            declares: Declares::IfMissing,
            ..Self::default()
        }
    }

    /// Returns the options of the queue where requests wait for their last attempt.
    pub(crate) fn of_retries(&self) -> Self {
        Self {
            kind: self.kind,
            expires: self.expires,
            dead_letter_queue: self.dead_letter_queue.clone(),
            ..Self::default()
        }
    }

    pub(crate) fn is_passive(&self) -> bool {
        self.declares == Declares::Never
    }

    /// Sets the maximum number of requests that wait in the queue (`x-max-length`, with `x-overflow` as `reject-publish`:
    /// <https://www.rabbitmq.com/docs/maxlength>). With 0, the queue rejects all requests. Default: no limit, on the embedded broker a
    /// million.
    ///
    /// A request beyond the limit fails at once with [`ErrorKind::Rejected`](crate::ErrorKind::Rejected) if its client uses confirms
    /// ([`ClientBuilder::confirms`](crate::ClientBuilder::confirms)) or its method is `oneway` or `persistent`. The broker does not
    /// report the rejection of other requests, so those calls end at their deadlines.
    ///
    /// A quorum queue checks its length with a delay, so it accepts some requests beyond the limit; on RabbitMQ 3, a whole burst.
    pub fn max_length(mut self, requests: u32) -> Self {
        self.max_length = Some(requests);
        self
    }

    /// Sets the maximum time that a request waits in the queue, even if its deadline is later (`x-message-ttl`, cut to whole
    /// milliseconds, at most ten years: <https://www.rabbitmq.com/docs/ttl>). Default: requests wait until their deadlines.
    ///
    /// With zero, a request expires unless a server is ready to take it at that moment.
    pub fn message_ttl(mut self, limit: Duration) -> Self {
        self.message_ttl = Some(whole_millis(limit));
        self
    }

    /// Sets the time without use, that is without a consumer or a declaration, after which the broker deletes the queue and its
    /// requests (`x-expires`, at least a millisecond, at most ten years: <https://www.rabbitmq.com/docs/ttl#queue-ttl>). Default: never.
    ///
    /// `<queue>.retry`, which servers declare beside the queue, expires in the same way, unless it existed before without this option.
    /// A dead-letter queue never expires, so that an operator can inspect its messages.
    pub fn expires(mut self, after: Duration) -> Self {
        self.expires = Some(whole_millis(after.max(Duration::from_millis(1))));
        self
    }

    /// Sets the highest priority that the queue distinguishes; requests of higher priority are delivered first (`x-max-priority`, 1 to
    /// 255, 0 counts as 1, values above 10 cost resources: <https://www.rabbitmq.com/docs/priority>). Default: priorities are ignored.
    ///
    /// Quorum queues refuse this option. From RabbitMQ 4 on, they deliver priorities above 4 before the others without it.
    pub fn max_priority(mut self, highest: u8) -> Self {
        self.max_priority = Some(highest.max(1));
        self
    }

    /// Sets the queue for requests that expired in this one (moved by the broker, `x-dead-letter-*`:
    /// <https://www.rabbitmq.com/docs/dlx>) or were delivered too often (moved by the server, see
    /// [`ServerBuilder::delivery_limit`](crate::ServerBuilder::delivery_limit)). Servers declare the dead-letter queue as a durable
    /// classic queue unless it exists. Default: expired requests are dropped, the others go to `<queue>.dead`.
    ///
    /// Every request whose deadline passes while it waits in the queue, or in `<queue>.retry`, leaves a message in the dead-letter queue.
    /// A `<queue>.retry` that existed before without this option drops such requests.
    pub fn dead_letter_queue(mut self, queue: impl Into<String>) -> Self {
        self.dead_letter_queue = Some(queue.into());
        self
    }

    /// Returns the arguments of the declaration (<https://www.rabbitmq.com/docs/queues#optional-arguments>).
    pub(crate) fn arguments(&self) -> Headers {
        let mut arguments = Headers::new();
        let mut set = |name: &str, value: Option<HeaderValue>| {
            if let Some(value) = value {
                arguments.insert(name, value);
            }
        };
        let millis = |duration: Duration| {
            HeaderValue::Int(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX))
        };
        let target = self.dead_letter_queue.as_deref();
        set(
            "x-queue-type",
            (self.kind == QueueType::Quorum).then(|| "quorum".into()),
        );
        set("x-max-length", self.max_length.map(Into::into));
        set(
            "x-overflow",
            self.max_length.map(|_| "reject-publish".into()),
        );
        set("x-message-ttl", self.message_ttl.map(millis));
        set("x-expires", self.expires.map(millis));
        set("x-max-priority", self.max_priority.map(Into::into));
        // The default exchange, which routes by the queue's name.
        set("x-dead-letter-exchange", target.map(|_| "".into()));
        set("x-dead-letter-routing-key", target.map(Into::into));
        arguments
    }
}

/// Cuts a time to whole milliseconds, the broker's unit.
fn whole_millis(time: Duration) -> Duration {
    time - Duration::from_nanos((time.subsec_nanos() % 1_000_000).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(options: &QueueOptions) -> Vec<String> {
        let arguments = options.arguments();
        arguments
            .iter()
            .map(|(name, value)| format!("{name}={value:?}"))
            .collect()
    }

    #[test]
    fn default_options_have_no_arguments() {
        assert_eq!(written(&QueueOptions::classic()), Vec::<String>::new());
    }

    #[test]
    fn each_option_becomes_a_rabbitmq_argument() {
        let options = QueueOptions::quorum()
            .max_length(5)
            .message_ttl(Duration::from_secs(1))
            .expires(Duration::ZERO)
            .max_priority(0)
            .dead_letter_queue("dead");
        assert_eq!(
            written(&options),
            [
                r#"x-dead-letter-exchange=String("")"#,
                r#"x-dead-letter-routing-key=String("dead")"#,
                "x-expires=Int(1)",
                "x-max-length=Int(5)",
                "x-max-priority=Int(1)",
                "x-message-ttl=Int(1000)",
                r#"x-overflow=String("reject-publish")"#,
                r#"x-queue-type=String("quorum")"#,
            ]
        );
    }
}
