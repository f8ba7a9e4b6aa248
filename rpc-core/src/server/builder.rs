//! Options of a server and their defaults.

use std::any::type_name;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tower::ServiceExt;
use tower::util::{BoxCloneSyncService, service_fn};
use tower_layer::Layer;

use super::consume::Limits;
use super::dispatch::{Found, found_in};
use super::{Dispatch, Serve, Server};
use crate::connection::Connection;
use crate::definition::{Method, Service as Definition};
use crate::error::RpcError;
use crate::message::{Request, Response};
use crate::queue::{Declares, QueueOptions, QueueType};
use crate::service::{ResponseFuture, RpcService};
use crate::transport::Message;
use crate::wire::{self, NOTICE_PREFIX};

/// How many requests of a queue a server works on at once, unless set.
const DEFAULT_PREFETCH: u16 = 64;

/// How often a request is delivered, unless set.
const DEFAULT_DELIVERY_LIMIT: u32 = 3;

/// The time that a request without a deadline may take, unless set.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(15 * 60);

/// How long a queue's name may be, in bytes: AMQP's limit for names, without the longest addition.
const MAX_QUEUE_NAME: usize = 255 - NOTICE_PREFIX.len();

/// How long a stopping server waits for its handlers, unless set.
const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// A dispatcher with the server's layers around it.
pub(super) type LayeredService = BoxCloneSyncService<Request, Response, RpcError>;

/// Decides by its name whether a queue may be replied to.
pub(super) type ReplyPolicy = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// Options of a [`Server`], and what it serves.
#[must_use = "a builder does nothing until `build` is called"]
pub struct ServerBuilder {
    connection: Connection,
    services: Vec<Added>,
    /// The reason why the first of them that cannot be served cannot.
    flaw: Option<String>,
    layers: Vec<Arc<dyn Fn(LayeredService) -> LayeredService + Send + Sync>>,
    limits: Limits,
    reply_policy: ReplyPolicy,
    propagated_headers: Vec<String>,
    cancellation: bool,
    drain_timeout: Duration,
}

/// A service that was added.
struct Added {
    service: &'static str,
    definition: &'static Definition,
    queues: Vec<String>,
    options: QueueOptions,
    handler: Handler,
}

/// What runs the requests of a service.
#[derive(Clone)]
pub(super) enum Handler {
    /// Its dispatcher, which is always ready.
    Dispatcher(Arc<dyn Fn(Request) -> ResponseFuture + Send + Sync>),
    /// The dispatcher with the server's layers around it.
    Layered(LayeredService),
}

impl Handler {
    /// A service that is a dispatcher.
    fn dispatcher<S: Serve>(service: S) -> Self {
        Self::Dispatcher(Arc::new(move |request| {
            ResponseFuture::of(service.clone().call(request))
        }))
    }

    /// A dispatcher with layers of its own.
    fn layered<S: Serve>(service: S) -> Self {
        let service = service.map_err(RpcError::from_layer);
        Self::Layered(BoxCloneSyncService::new(service))
    }

    fn into_service(self) -> LayeredService {
        match self {
            Self::Dispatcher(dispatch) => {
                BoxCloneSyncService::new(service_fn(move |request| dispatch(request)))
            }
            Self::Layered(service) => service,
        }
    }
}

impl fmt::Debug for Added {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Added")
            .field("service", &self.service)
            .field("queues", &self.queues)
            .finish_non_exhaustive()
    }
}

/// A queue of a server, and the service that it belongs to.
pub(super) struct QueueEntry {
    pub(super) service: &'static str,
    pub(super) definition: &'static Definition,
    pub(super) queue: Arc<str>,
    /// Where requests wait for their last attempt.
    pub(super) retry_queue: String,
    /// Where requests go that are not run again.
    pub(super) dead_letter_queue: String,
    pub(super) options: QueueOptions,
    pub(super) handler: Handler,
}

impl QueueEntry {
    /// Whether the last of so many attempts is made alone; the only one is not.
    pub(super) fn isolates(&self, deliveries: Option<u32>) -> bool {
        deliveries.is_some_and(|limit| limit > 1) && !self.options.is_passive()
    }

    /// The method that a message is for, if there is one of that name; a batch is for none.
    pub(super) fn method(&self, message: &Message) -> Option<&'static Method> {
        if wire::is_batch(message) {
            return None;
        }
        let name = message.kind.as_deref().filter(|name| !name.is_empty());
        self.definition.resolve(name)
    }

    /// Tells whether the broker counts the deliveries of a request, as quorum queues do. A queue that was declared by others counts as
    /// one that does not.
    pub(super) fn counts(&self) -> bool {
        self.options.kind == QueueType::Quorum && !self.options.is_passive()
    }

    /// Tells whether the queue may be a quorum queue: it is one, or others have declared it.
    pub(super) fn may_be_quorum(&self) -> bool {
        self.options.kind == QueueType::Quorum || self.options.declares != Declares::Always
    }

    /// Whether a name is that of one of its queues.
    pub(super) fn owns(&self, queue: &str) -> bool {
        queue == &*self.queue || queue == self.retry_queue || queue == self.dead_letter_queue
    }

    /// Why it cannot be served, whatever the broker says.
    pub(super) fn flaw(&self) -> Option<String> {
        let length = self.queue.len();
        let dead_letters = self.dead_letter_queue.as_str();
        if self.queue.is_empty() {
            // Which AMQP takes for the wish that the broker invents one.
            Some("it has no name".to_owned())
        } else if length > MAX_QUEUE_NAME {
            Some(format!(
                "its name has {length} bytes, and more than {MAX_QUEUE_NAME} leave no room for the names made from it"
            ))
        } else if dead_letters.is_empty() {
            Some("its `dead_letter_queue` has no name".to_owned())
        } else if dead_letters == &*self.queue || dead_letters == self.retry_queue {
            Some(format!(
                "what it gives up would come back to it: its `dead_letter_queue` is '{dead_letters}'"
            ))
        } else {
            None
        }
    }
}

impl fmt::Debug for QueueEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueEntry")
            .field("service", &self.service)
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}

impl ServerBuilder {
    pub(super) fn new(connection: Connection) -> Self {
        Self {
            connection,
            services: Vec::new(),
            flaw: None,
            layers: Vec::new(),
            limits: Limits {
                prefetch: DEFAULT_PREFETCH,
                concurrency: usize::MAX,
                deliveries: Some(DEFAULT_DELIVERY_LIMIT),
                deadline: Some(DEFAULT_DEADLINE),
            },
            reply_policy: Arc::new(|_| true),
            propagated_headers: Vec::new(),
            cancellation: true,
            drain_timeout: DEFAULT_DRAIN_TIMEOUT,
        }
    }

    /// Adds a service, to be served at the trait's queue and at those that methods have of their own. A queue belongs to
    /// one service: two on one queue are an error when the server starts. Servers of different services that share a queue
    /// cannot be told apart by anyone; each would be given the other's requests, and answer them with
    /// [`ErrorKind::UnknownMethod`](crate::ErrorKind::UnknownMethod).
    ///
    /// It is a dispatcher, or one with tower layers around it, which are this service's alone. The dispatcher inside is found whatever
    /// the layers do with requests, and its queues and options are kept. Only layers whose clones share one service hide it, such as
    /// `BufferLayer`: use [`layered_service`](Self::layered_service) for those. The server's own layers
    /// ([`layer`](Self::layer)) are around these.
    ///
    /// # Examples
    ///
    /// ```
    /// # use rpc_core::{Connection, ErrorKind, Request, RpcError, Server, rpc};
    /// use tower::ServiceBuilder;
    ///
    /// # #[rpc] pub trait Fib { async fn fib(n: u64) -> u64; }
    /// # #[rpc] pub trait Admin { async fn reload(); }
    /// # struct Calculator;
    /// # impl Fib for Calculator { async fn fib(&self, n: u64) -> u64 { n } }
    /// # impl Admin for Calculator { async fn reload(&self) {} }
    /// fn known(request: Request) -> Result<Request, RpcError> {
    ///     match request.headers().get_as("token") {
    ///         Some("sesame") => Ok(request),
    ///         _ => Err(RpcError::new(ErrorKind::PermissionDenied, "the token is not known")),
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let connection = Connection::open("memory:").await?;
    /// let server = Server::builder(&connection)
    ///     .service(FibDispatcher::new(Calculator))
    ///     .service(ServiceBuilder::new().filter(known).service(AdminDispatcher::new(Calculator)))
    ///     .build()
    ///     .start()
    ///     .await?;
    ///
    /// let admin = AdminClient::new(connection.client());
    /// assert_eq!(admin.reload().await.unwrap_err().kind(), ErrorKind::PermissionDenied);
    /// admin.reload().header("token", "sesame").await?;
    /// assert_eq!(FibClient::new(connection.client()).fib(1).await?, 1);
    /// # server.shutdown().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn service<S: Serve>(self, service: S) -> Self {
        let mut found = found_in(&service);
        let Some(first) = found.pop() else {
            let reason = "no dispatcher is found in it, because a layer around it hides what it holds, as `BufferLayer` does: give \
                          dispatcher and layers to `ServerBuilder::layered_service`";
            return self.refusing(reason.to_owned());
        };
        let differs = |other: &Found| {
            (other.definition.name, &other.queues) != (first.definition.name, &first.queues)
        };
        if let Some(other) = found.iter().find(|other| differs(other)) {
            let names = (first.definition.name, other.definition.name);
            let reason = format!(
                "dispatchers of {} and {} are in it: add each by a `service` of its own",
                names.0, names.1
            );
            return self.refusing(reason);
        }
        let handler = if first.type_name == type_name::<S>() {
            Handler::dispatcher(service)
        } else {
            Handler::layered(service)
        };
        self.adding(first.definition, first.queues, first.queue_options, handler)
    }

    /// Adds a service with a layer around its dispatcher, or with several in a `tower::ServiceBuilder`, like
    /// [`service`](Self::service), whatever the layers are.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use rpc_core::{Connection, Server, rpc};
    /// use tower::ServiceBuilder;
    ///
    /// # #[rpc] pub trait Fib { async fn fib(n: u64) -> u64; }
    /// # struct Calculator;
    /// # impl Fib for Calculator { async fn fib(&self, n: u64) -> u64 { n } }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let connection = Connection::open("memory:").await?;
    /// // A rate limit is not `Clone`, and the buffer that makes it so hides the dispatcher.
    /// let limit = ServiceBuilder::new().buffer(64).rate_limit(100, Duration::from_secs(1));
    /// let server = Server::builder(&connection)
    ///     .layered_service(FibDispatcher::new(Calculator), limit)
    ///     .build()
    ///     .start()
    ///     .await?;
    /// # assert_eq!(FibClient::new(connection.client()).fib(1).await?, 1);
    /// # server.shutdown().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn layered_service<D: Dispatch, L>(self, dispatcher: D, layer: L) -> Self
    where
        L: Layer<D>,
        L::Service: Serve,
    {
        let info = dispatcher.dispatcher();
        let (definition, queues) = (info.definition(), info.queues());
        let options = info.queue_options().clone();
        let handler = Handler::layered(layer.layer(dispatcher));
        self.adding(definition, queues, options, handler)
    }

    fn adding(
        mut self,
        definition: &'static Definition,
        queues: Vec<String>,
        options: QueueOptions,
        handler: Handler,
    ) -> Self {
        self.services.push(Added {
            service: definition.name,
            definition,
            queues,
            options,
            handler,
        });
        self
    }

    /// Has the start fail for this reason.
    fn refusing(mut self, reason: String) -> Self {
        self.flaw.get_or_insert(reason);
        self
    }

    /// Puts a tower layer around every service of this server, those added later included. The layer added first sees a
    /// request first. An error of the layer's own reaches the caller as a fault.
    pub fn layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<LayeredService> + Send + Sync + 'static,
        L::Service: RpcService + Sync,
    {
        self.layers.push(Arc::new(move |service| {
            BoxCloneSyncService::new(layer.layer(service).map_err(RpcError::from_layer))
        }));
        self
    }

    /// How many requests of each queue the broker hands to this server before they are answered, which is also how many
    /// handlers of a queue run at once (<https://www.rabbitmq.com/docs/consumer-prefetch>). 0 counts as 1: there is always a limit.
    ///
    /// 1 gives the fair dispatch of RabbitMQ's RPC tutorial: a busy server is given nothing. More keeps a fast handler
    /// busy while replies are under way.
    ///
    /// Requests of `at_most_once` methods are acknowledged before they run, so a handler of one takes no place of these: with a prefetch
    /// of 4, a server that is busy with them holds 8, of which 4 run and 4 wait unacknowledged. Those that wait are given back when
    /// the server stops, and given up when it dies. A prefetch of 1 is then 1 that runs and 1 that waits, so a busy server holds up one
    /// request that an idle server could run.
    ///
    /// Default: 64. With handlers that answer at once and 256 calls in flight, a prefetch of 1, 4 and 16 reached 13, 38 and 78 % of its
    /// rate, 256 and 1,024 reached 114 and 108 %, while a server that dies leaves as many requests to be run again.
    pub fn prefetch(mut self, prefetch: u16) -> Self {
        self.limits.prefetch = prefetch.max(1);
        self
    }

    /// How many handlers run at once, of all services together. What was handed to the server beyond that waits in it, may
    /// expire or be cancelled there, and is given back unrun when it stops. 0 counts as 1.
    ///
    /// Default: no limit but the prefetch of each queue, which bounds memory already, and leaves other requests to other servers.
    pub fn concurrency(mut self, handlers: usize) -> Self {
        self.limits.concurrency = handlers.max(1);
        self
    }

    /// How often a request is delivered before it is given up, so that one whose handler takes the process down with it does
    /// not do so for ever. 0: no limit. 1: nothing is delivered twice.
    ///
    /// Default: 3: two servers may die for reasons of their own before a request is given up. It costs nothing until one does.
    ///
    /// A delivery counts when the server that had it died, or lost its connection, before it acknowledged. A quorum queue
    /// counts by itself; a request of a classic queue is published anew for each, with its count in a header. For its last
    /// attempt, unless that is the only one, a request waits in the queue `<queue>.retry`, of which each server takes one at a
    /// time, so another deadly request cannot cause it to be given up. For each that has run for five seconds the server takes one
    /// more, 16 at most, so that a slow one does not hold up the others. What else the server works on meanwhile, from
    /// `<queue>` or for other services, can still take it along.
    ///
    /// After that it goes to the dead-letter queue (`<queue>.dead`, or [`QueueOptions::dead_letter_queue`]) with the headers
    /// `rpc-death-reason` (`delivery-limit`), `rpc-death-queue`, `rpc-death-time` and `rpc-delivery-count`, and its caller gets
    /// the fault [`ErrorKind::Panicked`](crate::ErrorKind::Panicked). Headers that do not fit into a message beside those are
    /// dropped, and named in `rpc-headers-dropped`. A request that the dead-letter queue does not take in three attempts is dropped:
    /// an error in the log says which, the metric `rpc.server.dropped_dead_letters` counts it, and its caller is told.
    ///
    /// A batch of requests ([`ClientBuilder::coalesce`](crate::ClientBuilder::coalesce)) is counted as one until it is taken apart.
    ///
    /// RabbitMQ 4 has a limit of its own for quorum queues, 20 deliveries unless a policy sets another, and drops what exceeds
    /// it (<https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling>): without a limit here, or with one above
    /// that, set the policy.
    ///
    /// Requests of `at_most_once` methods are given up at their second delivery, whatever this limit (`at-most-once`;
    /// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled)). A queue that is not declared by the server
    /// ([`QueueOptions::passive`]) has no `.retry`, and its dead-letter queue has to exist or the request is dropped.
    pub fn delivery_limit(mut self, deliveries: u32) -> Self {
        self.limits.deliveries = (deliveries > 0).then_some(deliveries);
        self
    }

    /// Sets the deadline of requests that come without one, counted from their delivery. When it passes, the handler is stopped, and the
    /// caller, if there is one, gets the fault [`ErrorKind::DeadlineExceeded`](crate::ErrorKind::DeadlineExceeded). Otherwise a few
    /// requests with handlers that do not end would use up the [`prefetch`](Self::prefetch). `None` sets no deadline. Zero refuses
    /// all such requests.
    ///
    /// Clients of this crate always send a deadline, for `oneway` methods too; others may not. A dead letter that was moved back to a
    /// request queue counts as a request without one.
    ///
    /// Default: 15 minutes.
    pub fn default_deadline(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.limits.deadline = limit.into();
        self
    }

    /// Decides by the name of its reply queue whether a request is accepted; one that is not is neither run nor answered, but
    /// counted ([`ServerHandle::refused_requests`](crate::ServerHandle::refused_requests)) and acknowledged. Default: every
    /// name, but those of this server's own queues, which no policy can allow.
    ///
    /// A caller can name any queue of the virtual host, and the server's user may publish to all that its permissions allow:
    /// restrict this where callers are not trusted. Clients of this crate name theirs `rpc.reply.<uuid>`, those of RabbitMQ's
    /// tutorial `amq.gen-…`, direct reply-to is `amq.rabbitmq.reply-to.…`.
    pub fn reply_policy(mut self, allows: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        self.reply_policy = Arc::new(allows);
        self
    }

    /// Has the calls that handlers make send this header on, if a request comes with it, whether or not the caller marked it
    /// as propagating; so do their handlers' calls, and so forth. Call it once for each name. Default: the headers that
    /// callers mark ([`Call::propagating_header`](crate::Call::propagating_header)).
    ///
    /// For callers that cannot mark headers, such as those in other languages. A server layer can do so for single requests,
    /// with [`Request::propagate_header`].
    pub fn propagate_header(mut self, name: impl Into<String>) -> Self {
        self.propagated_headers.push(name.into());
        self
    }

    /// Whether handlers are stopped, and requests not run, when their callers drop the call.
    ///
    /// Clients publish a notice to the exchange `amq.direct` when that happens; each server has an exclusive queue for those.
    ///
    /// Default: `true`, so that nobody works for callers who have gone. It costs the server 2 % of a call's instructions.
    pub fn cancellation(mut self, listen: bool) -> Self {
        self.cancellation = listen;
        self
    }

    /// How long a stopping server waits for its handlers; those that still run then are dropped, and the broker gives
    /// their requests to other servers. Zero waits for nothing. Default: 30 seconds, as long as calls take at most unless set.
    pub fn drain_timeout(mut self, limit: Duration) -> Self {
        self.drain_timeout = limit;
        self
    }

    /// Puts the server together. Nothing is sent before it is started.
    pub fn build(self) -> Server {
        let Self {
            connection,
            services,
            flaw,
            layers,
            limits,
            reply_policy,
            propagated_headers,
            cancellation,
            drain_timeout,
        } = self;
        let queues = services.into_iter().flat_map(|added| {
            // Once, so that what a layer keeps is the service's, whichever queue a request came through.
            let handler = layers.iter().rev().fold(added.handler, |handler, layer| {
                Handler::Layered(layer(handler.into_service()))
            });
            added.queues.into_iter().map(move |queue| QueueEntry {
                service: added.service,
                definition: added.definition,
                retry_queue: format!("{queue}.retry"),
                dead_letter_queue: match &added.options.dead_letter_queue {
                    Some(named) => named.clone(),
                    None => format!("{queue}.dead"),
                },
                queue: queue.into(),
                options: added.options.clone(),
                handler: handler.clone(),
            })
        });
        Server {
            connection,
            queues: queues.collect(),
            flaw,
            limits,
            reply_policy,
            propagated_headers,
            cancellation,
            drain_timeout,
        }
    }
}

impl fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerBuilder")
            .field("services", &self.services)
            .field("layers", &self.layers.len())
            .field("limits", &self.limits)
            .field("drain_timeout", &self.drain_timeout)
            .finish_non_exhaustive()
    }
}
