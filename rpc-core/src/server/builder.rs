//! Builder of a server: its services, layers and options.

use std::any::type_name;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tower::ServiceExt;
use tower::util::BoxCloneSyncService;
use tower_layer::Layer;

use super::Server;
use super::dispatchers::{Dispatch, FoundDispatcher, Serve, find_dispatchers};
use super::options::ServerOptions;
use super::served::{Endpoint, LayeredService, ServedQueue};
use super::statistics::Statistics;
use crate::connection::Connection;
use crate::definition::Service as Definition;
use crate::error::RpcError;
use crate::instances::ServiceInfo;
use crate::names::{DEAD_LETTER_SUFFIX, RETRY_SUFFIX};
use crate::queue::QueueOptions;
use crate::service::RpcService;

/// Builder of a [`Server`]: its services, layers and options.
#[must_use = "a builder does nothing until `build` is called"]
pub struct ServerBuilder {
    connection: Connection,
    services: Vec<AddedService>,
    /// The reason why a service cannot be served; the first one, if there are several.
    flaw: Option<String>,
    layers: Vec<Arc<dyn Fn(LayeredService) -> LayeredService + Send + Sync>>,
    options: ServerOptions,
}

/// A service that was added.
struct AddedService {
    service: &'static str,
    definition: &'static Definition,
    queues: Vec<String>,
    queue_options: QueueOptions,
    description: ServiceInfo,
    client_description: ServiceInfo,
    endpoint: Endpoint,
}

impl fmt::Debug for AddedService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddedService")
            .field("service", &self.service)
            .field("queues", &self.queues)
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
            options: ServerOptions::default(),
        }
    }

    /// Adds a service, to be served at the trait's queue and at the queues that methods have of their own. A queue belongs to
    /// one service: two services on one queue are an error when the server starts. If servers of different services share a queue,
    /// the broker gives each server requests of the other service, which the server answers with
    /// [`ErrorKind::UnknownMethod`](crate::ErrorKind::UnknownMethod).
    ///
    /// `service` is a dispatcher, or one with tower layers around it, which are this service's alone. The server finds the dispatcher
    /// inside, with its queues and options, through all layers except those whose clones share one service, such as
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
        let mut found = find_dispatchers(&service);
        let Some(first) = found.pop() else {
            let reason = "it contains no dispatcher that the server can find: a layer hides the service inside, as `BufferLayer` does. Give \
                          dispatcher and layers to `ServerBuilder::layered_service`";
            return self.refusing(reason.to_owned());
        };
        let differs = |other: &FoundDispatcher| {
            (other.definition.name, &other.queues) != (first.definition.name, &first.queues)
        };
        if let Some(other) = found.iter().find(|other| differs(other)) {
            let names = (first.definition.name, other.definition.name);
            let reason = format!(
                "it contains dispatchers of {} and {}: add each with its own call of `service`",
                names.0, names.1
            );
            return self.refusing(reason);
        }
        let endpoint = if first.type_name == type_name::<S>() {
            Endpoint::dispatcher(service)
        } else {
            Endpoint::layered(service)
        };
        self.adding(AddedService {
            service: first.definition.name,
            definition: first.definition,
            queues: first.queues,
            queue_options: first.queue_options,
            description: first.description,
            client_description: first.client_description,
            endpoint,
        })
    }

    /// Adds a service with a layer around its dispatcher, or with several in a `tower::ServiceBuilder`, like
    /// [`service`](Self::service), for any layers.
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
        let definition = info.definition();
        let (queues, description) = (info.queues(), info.describe());
        let client_description = info.describe_client();
        let queue_options = info.queue_options().clone();
        self.adding(AddedService {
            service: definition.name,
            definition,
            queues,
            queue_options,
            description,
            client_description,
            endpoint: Endpoint::layered(layer.layer(dispatcher)),
        })
    }

    fn adding(mut self, service: AddedService) -> Self {
        self.services.push(service);
        self
    }

    /// Makes the start fail for a reason.
    fn refusing(mut self, reason: String) -> Self {
        self.flaw.get_or_insert(reason);
        self
    }

    /// Puts a tower layer around every service of this server, including services that are added later. The layer added first sees
    /// a request first. An error that the layer makes reaches the caller as a fault.
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

    /// Limits the requests of each queue that the broker hands to this server before they are answered, and so the handlers of a
    /// queue that run at a time (<https://www.rabbitmq.com/docs/consumer-prefetch>). 0 counts as 1: there is always a limit.
    ///
    /// 1 gives the fair dispatch of RabbitMQ's RPC tutorial: a busy server is given nothing. More keeps a fast handler
    /// busy while replies are under way.
    ///
    /// Requests of `at_most_once` methods are acknowledged before they run, so a running handler of such a method takes no place of the
    /// prefetch: with a prefetch of 4, a server that is busy with these requests holds 8, of which 4 run and 4 wait unacknowledged. The
    /// waiting ones are given back when the server stops, and given up when it dies. With a prefetch of 1, one request runs and one
    /// waits, so a busy server holds up one request that an idle server could run.
    ///
    /// Calls to all instances count together like the requests of one more queue.
    ///
    /// Default: 64. With handlers that answer at once and 256 calls in flight, a prefetch of 1, 4 and 16 reached 13, 38 and 78 % of its
    /// rate, 256 and 1,024 reached 114 and 108 %, while a server that dies leaves as many requests to be run again.
    pub fn prefetch(mut self, prefetch: u16) -> Self {
        self.options.prefetch = prefetch.max(1);
        self
    }

    /// Limits the handlers that run at a time, of all services together. Further requests wait in the server, may expire or be
    /// cancelled there, and are given back unrun when the server stops. 0 counts as 1.
    ///
    /// Default: no limit besides the prefetch of each queue. The prefetch bounds memory already, and leaves further requests to other
    /// servers.
    pub fn concurrency(mut self, handlers: usize) -> Self {
        self.options.concurrency = handlers.max(1);
        self
    }

    /// Limits the streams that are open at a time, of all services together. A stream counts from the start of its request to its end. A request
    /// beyond the limit gets the fault [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded), and its handler does not run. With 0, all
    /// requests for methods with streams are refused.
    ///
    /// The request of a stream is acknowledged when the server accepts the stream. So an open stream counts neither against
    /// [`prefetch`](Self::prefetch) nor against [`concurrency`](Self::concurrency). A handler that has not returned its stream yet counts like
    /// any other handler; a handler that receives a stream counts as a stream alone.
    ///
    /// Default: 1,024.
    pub fn max_streams(mut self, streams: usize) -> Self {
        self.options.max_streams = streams;
        self
    }

    /// Sets the number of a caller's items that may be on their way to a handler or wait there, for each stream that a handler receives. The
    /// caller sends no more until the handler has read half of them. 0 counts as 1, and more than 2^20 as 2^20.
    ///
    /// Default: 1,024. A window bounds the memory of a stream, together with [`window_bytes`](Self::window_bytes), and limits the
    /// number of items in a round trip.
    pub fn window(mut self, items: usize) -> Self {
        self.options.window.items = items.max(1) as u64;
        self
    }

    /// Sets the size in bytes of a caller's items that may be on their way to a handler or wait there, for each stream that a handler receives.
    /// 0 counts as 1, and more than 64 MiB as 64 MiB. An item that is longer than what is left of the window is still sent once more than half
    /// of the window is free.
    ///
    /// Default: 1 MiB.
    pub fn window_bytes(mut self, bytes: usize) -> Self {
        self.options.window.bytes = bytes.max(1) as u64;
        self
    }

    /// Limits the deliveries of a request before it is given up. Poison messages, whose handlers take the process down with them, are
    /// quarantined. 0 sets no limit. With 1, no request is delivered twice.
    ///
    /// Default: 3, because two servers may die for other reasons. The limit costs nothing until a server dies.
    ///
    /// A delivery counts if its server died, or lost its connection, before the acknowledgement. A quorum queue counts deliveries
    /// itself; the server republishes a request of a classic queue after each delivery, with the count in a header. For its last
    /// attempt, unless that is the only one, a request waits in the queue `<queue>.retry`, from which each server takes one request at
    /// a time, so that no other request on its last attempt can cause it to be given up. For each attempt that has run for five seconds
    /// the server takes one more, 16 at most, so that a slow request does not hold up the others. A request from `<queue>`, or for
    /// another service, that kills the server meanwhile still ends the attempt.
    ///
    /// After its last attempt a request goes to the dead-letter queue (`<queue>.dead`, or [`QueueOptions::dead_letter_queue`]) with the headers
    /// `rpc-death-reason` (`delivery-limit`), `rpc-death-queue`, `rpc-death-time` and `rpc-delivery-count`, and its caller gets
    /// the fault [`ErrorKind::Panicked`](crate::ErrorKind::Panicked). Headers that do not fit into a message beside those are
    /// dropped, and named in `rpc-headers-dropped`. A request that the dead-letter queue does not take in three attempts is dropped:
    /// an error in the log names the request, the metric `rpc.server.dropped_dead_letters` counts it, and its caller is told.
    ///
    /// A batch of requests ([`ClientBuilder::coalesce`](crate::ClientBuilder::coalesce)) is counted as one until it is taken apart.
    ///
    /// RabbitMQ 4 has a limit of its own for quorum queues, 20 deliveries unless a policy sets another, and drops requests that exceed
    /// it (<https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling>): set the policy if there is no limit here, or a higher
    /// one.
    ///
    /// Requests of `at_most_once` methods are given up at their second delivery, for any value of this limit (reason `at-most-once`,
    /// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled)). A queue that is not declared by the server
    /// ([`QueueOptions::passive`]) has no `.retry`, and its dead-letter queue has to exist or the request is dropped.
    pub fn delivery_limit(mut self, deliveries: u32) -> Self {
        self.options.delivery_limit = (deliveries > 0).then_some(deliveries);
        self
    }

    /// Sets the time for requests that come without a deadline, counted from their delivery. After that time the handler is stopped, and
    /// the caller, if there is one, gets the fault [`ErrorKind::DeadlineExceeded`](crate::ErrorKind::DeadlineExceeded). Without a limit a
    /// few requests whose handlers do not end would use up the [`prefetch`](Self::prefetch). `None` sets no limit. Zero refuses
    /// all such requests.
    ///
    /// Clients of this crate always send a deadline, for `oneway` methods too; other clients may not. A dead letter that was moved back to a
    /// request queue counts as a request without one.
    ///
    /// Default: 15 minutes.
    pub fn default_deadline(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.options.default_deadline = limit.into();
        self
    }

    /// Accepts requests by the names of their reply queues. A request that is not accepted is neither run nor answered, but
    /// counted ([`ServerHandle::refused_requests`](crate::ServerHandle::refused_requests)) and acknowledged. Default: every
    /// name, except those of this server's own queues and those that begin with `rpc.instance.`, the private queues of instances, which
    /// no policy can allow.
    ///
    /// A caller can name any queue of the virtual host, and the server's user may publish to all queues that its permissions allow:
    /// restrict the names if callers are not trusted. Reply queues of this crate's clients are named `rpc.reply.<uuid>`, those of
    /// RabbitMQ's tutorial `amq.gen-…`; addresses of direct reply-to are `amq.rabbitmq.reply-to.…`.
    pub fn reply_policy(mut self, allows: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        self.options.reply_policy = Arc::new(allows);
        self
    }

    /// Sends this header of a request on with the calls that its handler makes, even if the caller did not mark the header as
    /// propagating; the handlers of those calls do the same. Call this once for each name. Default: the headers that
    /// callers mark ([`Call::propagating_header`](crate::Call::propagating_header)).
    ///
    /// The option is for callers that cannot mark headers, such as those in other languages. A server layer can do the same for single requests,
    /// with [`Request::propagate_header`](crate::Request::propagate_header).
    pub fn propagate_header(mut self, name: impl Into<String>) -> Self {
        self.options.propagated_headers.push(name.into());
        self
    }

    /// Stops handlers, and does not run requests, whose callers have dropped the call.
    ///
    /// Clients publish a notice to the exchange `amq.direct` when a caller drops a call. The server takes notices from its private queue
    /// `rpc.instance.<id>.<uuid>`.
    ///
    /// Default: `true`: no work for callers that are gone. This costs the server 2 % of a call's instructions.
    pub fn cancellation(mut self, listen: bool) -> Self {
        self.options.cancellation = listen;
        self
    }

    /// Limits the time for which a stopping server waits for its handlers. Handlers that still run then are dropped, and the broker
    /// gives their requests to other servers. Zero does not wait. Default: 30 seconds, the default timeout of calls.
    pub fn drain_timeout(mut self, limit: Duration) -> Self {
        self.options.drain_timeout = limit;
        self
    }

    /// Answers questions about this instance, and records statistics for the answers: the built-in methods `rpc.ping`, `rpc.describe` and
    /// `rpc.stats`. The answers hold names, numbers, ages and correlation ids, never arguments, headers or reply addresses. Callers who
    /// may publish to the exchange `amq.direct`, or to a request queue, may ask. The [`reply_policy`](Self::reply_policy) holds for
    /// answers too, and an instance sends at most 100 answers in a second, or 200 after a quiet time.
    ///
    /// With `false`, nothing is recorded, questions are ignored, and those that come through a request queue get the fault
    /// [`ErrorKind::PermissionDenied`](crate::ErrorKind::PermissionDenied). Calls to all instances still reach the server.
    ///
    /// Default: `true`. The statistics cost a few hundred instructions for each call, about 1 % of a server's, and 11 KiB for each method
    /// that was called.
    pub fn introspection(mut self, answer: bool) -> Self {
        self.options.introspection = answer;
        self
    }

    /// Shows the calls of this instance to programs that ask for them with [`Client::tap`](crate::Client::tap) or `rpc tail`: each request with its
    /// headers and arguments, and each answer with its result or error.
    ///
    /// Watching changes nothing: calls, their order, their acknowledgements and their answers stay the same, and no call waits for a watcher. An instance shows at most 1,000 events and 1 MiB in a second, to at most 8 watchers, for at most 10 minutes each, the first
    /// 16 KiB of a body, and 16 KiB of headers. Events beyond the limits are left out and counted.
    ///
    /// **Arguments, results and headers become visible to every program that may publish to the exchange `amq.direct` and to the default exchange**,
    /// which every caller of a method with streams may. The values of secret headers are hidden: `authorization` and the others of
    /// [`Headers`](crate::Headers), and those added with [`secret_header`](crate::ConnectionBuilder::secret_header). Secrets in arguments and
    /// results are not. Allow the tap while you need it, or on a virtual host whose users may see everything. The
    /// [`reply_policy`](Self::reply_policy) holds for watchers too.
    ///
    /// With [`introspection(false)`](Self::introspection) nothing is shown. Streams of watchers do not count for
    /// [`max_streams`](Self::max_streams), in the statistics, or in the telemetry.
    ///
    /// Default: `false`. Without a watcher a call costs the read of a flag, whatever the setting.
    pub fn tap(mut self, allow: bool) -> Self {
        self.options.tap = allow;
        self
    }

    /// Warns in the log about each call whose handler runs longer than this time, once for each call, with service, method, age and
    /// correlation id. The warning is late by a tenth of the time at most. The handler goes on: deadlines stop handlers. Zero gives no
    /// warnings.
    ///
    /// Default: 1 minute, twice the default timeout of calls. The check costs one task for each server, which looks at the calls in flight
    /// at most ten times within the limit, and usually once.
    pub fn slow_handler(mut self, limit: Duration) -> Self {
        self.options.slow_handler = (!limit.is_zero()).then_some(limit);
        self
    }

    /// Builds the server. Nothing is sent before the server is started.
    pub fn build(self) -> Server {
        let Self {
            connection,
            services,
            flaw,
            layers,
            options,
        } = self;
        let queues = services.into_iter().flat_map(|added| {
            // Once for each service, so that all its queues share the state of a layer.
            let endpoint = layers.iter().rev().fold(added.endpoint, |endpoint, layer| {
                Endpoint::Layered(layer(endpoint.into_service()))
            });
            let description = Arc::new(added.description);
            let client_description = Arc::new(added.client_description);
            let statistics = options
                .introspection
                .then(|| Arc::new(Statistics::new(added.definition)));
            added.queues.into_iter().map(move |queue| ServedQueue {
                service: added.service,
                definition: added.definition,
                description: description.clone(),
                client_description: client_description.clone(),
                statistics: statistics.clone(),
                retry_queue: format!("{queue}{RETRY_SUFFIX}"),
                dead_letter_queue: match &added.queue_options.dead_letter_queue {
                    Some(named) => named.clone(),
                    None => format!("{queue}{DEAD_LETTER_SUFFIX}"),
                },
                queue: queue.into(),
                options: added.queue_options.clone(),
                endpoint: endpoint.clone(),
            })
        });
        let queues = queues.collect();
        Server {
            connection,
            queues,
            flaw,
            options,
        }
    }
}

impl fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerBuilder")
            .field("services", &self.services)
            .field("layers", &self.layers.len())
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
