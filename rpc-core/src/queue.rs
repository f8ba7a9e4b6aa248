//! What a request queue is declared with.

mod refusal;

use std::time::Duration;

pub(crate) use self::refusal::Refusal;
use crate::headers::{HeaderValue, Headers};

/// How a service's request queue is declared: `FibDispatcher::new(handler).with_queue_options(options)`.
///
/// Without options it is a durable classic queue with no arguments. All servers of a queue, and whoever else declares it,
/// have to agree: a queue that exists with other arguments is an error ([`ServeError::QueueRefused`](crate::ServeError))
/// that names the queue, the argument and both values, unless it is used as it is ([`existing`](Self::existing)). The arguments are RabbitMQ's
/// (<https://www.rabbitmq.com/docs/queues#optional-arguments>).
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
#[must_use = "options do nothing until they are given to a dispatcher"]
pub struct QueueOptions {
    pub(crate) kind: QueueType,
    pub(crate) declares: Declares,
    pub(crate) max_length: Option<u32>,
    pub(crate) message_ttl: Option<Duration>,
    pub(crate) expires: Option<Duration>,
    pub(crate) max_priority: Option<u8>,
    pub(crate) dead_letter_queue: Option<String>,
}

/// How the broker keeps a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum QueueType {
    #[default]
    Classic,
    Quorum,
}

/// When a server declares a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Declares {
    /// Every time; one that exists has to be the same.
    #[default]
    Always,
    /// If there is none of that name.
    IfMissing,
    Never,
}

impl QueueOptions {
    /// A durable classic queue, which lives on one node (<https://www.rabbitmq.com/docs/classic-queues>). The default.
    pub fn classic() -> Self {
        Self::default()
    }

    /// A quorum queue, replicated among the nodes of a cluster (<https://www.rabbitmq.com/docs/quorum-queues>): requests
    /// survive the death of a node, for about 40 % less throughput. It counts deliveries, so the limit of
    /// [`ServerBuilder::delivery_limit`](crate::ServerBuilder::delivery_limit) is exact.
    pub fn quorum() -> Self {
        Self {
            kind: QueueType::Quorum,
            ..Self::default()
        }
    }

    /// Declares nothing: the queue has to exist, however it was declared. For brokers whose queues an operator makes, and
    /// for users without the right to declare. The other options then say nothing.
    pub fn passive() -> Self {
        Self {
            declares: Declares::Never,
            ..Self::default()
        }
    }

    /// Uses the queue as it is where it exists, whatever its type and its arguments, and declares it otherwise: as
    /// [`classic`](Self::classic) does, with the other options that are set. For a queue that other programs declare as well, in their
    /// own way, such as the `rpc_queue` of RabbitMQ's tutorial.
    ///
    /// The other options say nothing about a queue that exists, but for [`dead_letter_queue`](Self::dead_letter_queue), where the server
    /// puts what was delivered too often. Deliveries are counted as on a classic queue, by publishing requests anew, on a quorum
    /// queue too: the server cannot know that the queue is one. `<queue>.retry` is a classic queue. Servers that use
    /// [`quorum`](Self::quorum) for the same queue may run beside this one. A stream gives no request again: those of a server that dies
    /// are lost.
    pub fn existing() -> Self {
        Self {
            declares: Declares::IfMissing,
            ..Self::default()
        }
    }

    /// The options of the queue where requests wait for their last attempt.
    pub(crate) fn of_retries(&self) -> Self {
        Self {
            kind: self.kind,
            expires: self.expires,
            ..Self::default()
        }
    }

    pub(crate) fn is_passive(&self) -> bool {
        self.declares == Declares::Never
    }

    /// The most requests that may wait in the queue (`x-max-length`, with `x-overflow` as `reject-publish`:
    /// <https://www.rabbitmq.com/docs/maxlength>). A queue for 0 rejects all. Default: no limit, on the embedded broker a million.
    ///
    /// A request beyond it fails at once with [`ErrorKind::Rejected`](crate::ErrorKind::Rejected) if its client confirms
    /// requests ([`ClientBuilder::confirms`](crate::ClientBuilder::confirms)) or its method is `oneway` or `persistent`;
    /// of others the broker says nothing, and they end at their deadline.
    ///
    /// A quorum queue takes some more than this before it refuses, RabbitMQ 3 a whole burst: it learns its length late.
    pub fn max_length(mut self, requests: u32) -> Self {
        self.max_length = Some(requests);
        self
    }

    /// How long a request may wait in the queue at most, whatever its caller's deadline (`x-message-ttl`, cut to whole
    /// milliseconds, at most ten years: <https://www.rabbitmq.com/docs/ttl>). Default: until its deadline.
    ///
    /// Without any time, a request is served at once or not at all: it expires unless a server takes it at that moment.
    pub fn message_ttl(mut self, limit: Duration) -> Self {
        self.message_ttl = Some(whole_millis(limit));
        self
    }

    /// Removes the queue, and what is in it, when it was not used for this long: no consumer, no declaration (`x-expires`,
    /// at least a millisecond, at most ten years: <https://www.rabbitmq.com/docs/ttl#queue-ttl>). Default: never.
    ///
    /// `<queue>.retry`, which servers declare beside it, goes in the same way, unless it existed before without this option. A
    /// dead-letter queue stays until somebody deletes it: what is in it is to be looked at.
    pub fn expires(mut self, after: Duration) -> Self {
        self.expires = Some(whole_millis(after.max(Duration::from_millis(1))));
        self
    }

    /// Serves requests of higher priority first, up to this one (`x-max-priority`, 1 to 255, 0 counts as 1, more than 10
    /// cost: <https://www.rabbitmq.com/docs/priority>). Default: priorities are ignored.
    ///
    /// Quorum queues refuse it; from RabbitMQ 4 on they tell priorities above 4 from the others without it.
    pub fn max_priority(mut self, highest: u8) -> Self {
        self.max_priority = Some(highest.max(1));
        self
    }

    /// The queue for requests that this one gives up: those that expired in it (moved by the broker, `x-dead-letter-*`:
    /// <https://www.rabbitmq.com/docs/dlx>) and those that were delivered too often (moved by the server, see
    /// [`ServerBuilder::delivery_limit`](crate::ServerBuilder::delivery_limit)). Servers declare it as a durable classic
    /// queue unless it exists. Default: expired requests are dropped, the others go to `<queue>.dead`.
    ///
    /// Every call that ends at its deadline while it waits leaves a message there.
    pub fn dead_letter_queue(mut self, queue: impl Into<String>) -> Self {
        self.dead_letter_queue = Some(queue.into());
        self
    }

    /// What the broker is told (<https://www.rabbitmq.com/docs/queues#optional-arguments>).
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

/// Cuts a time to what the broker is told of it.
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
    fn by_default_a_queue_has_no_arguments() {
        assert_eq!(written(&QueueOptions::classic()), Vec::<String>::new());
    }

    #[test]
    fn each_option_is_an_argument_of_rabbitmqs() {
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
