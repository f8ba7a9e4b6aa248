//! Options of a server and their defaults.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tower::ServiceExt;
use tower::util::BoxCloneSyncService;
use tower_layer::Layer;
use tower_service::Service;

use super::{Dispatch, Server};
use crate::connection::Connection;
use crate::error::{BoxError, RpcError};
use crate::message::{Request, Response};

/// How many requests of a queue a server works on at once, unless set.
const DEFAULT_PREFETCH: u16 = 64;

/// How long a stopping server waits for its handlers, unless set.
const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// A dispatcher with the server's layers around it.
pub(super) type LayeredService = BoxCloneSyncService<Request, Response, RpcError>;

/// Options of a [`Server`], and what it serves.
#[must_use = "a builder does nothing until `build` is called"]
pub struct ServerBuilder {
    connection: Connection,
    services: Vec<Added>,
    layers: Vec<Arc<dyn Fn(LayeredService) -> LayeredService + Send + Sync>>,
    prefetch: u16,
    drain_timeout: Duration,
}

/// A service that was added.
struct Added {
    service: &'static str,
    queues: Vec<String>,
    handler: LayeredService,
}

impl fmt::Debug for Added {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Added")
            .field("service", &self.service)
            .field("queues", &self.queues)
            .finish_non_exhaustive()
    }
}

/// A service of a server at one of its queues.
pub(super) struct ServiceEntry {
    pub(super) service: &'static str,
    pub(super) queue: Arc<str>,
    pub(super) handler: LayeredService,
}

impl fmt::Debug for ServiceEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceEntry")
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
            layers: Vec::new(),
            prefetch: DEFAULT_PREFETCH,
            drain_timeout: DEFAULT_DRAIN_TIMEOUT,
        }
    }

    /// Adds a service, to be served at the trait's queue and at those that methods have of their own. A queue belongs to
    /// one service: two on one queue are an error when the server starts. Servers of different services that share a queue
    /// cannot be told apart by anyone; each would be given the other's requests, and answer them with
    /// [`ErrorKind::UnknownMethod`](crate::ErrorKind::UnknownMethod).
    pub fn service(mut self, dispatcher: impl Dispatch) -> Self {
        let info = dispatcher.dispatcher();
        let (service, queues) = (info.definition().name, info.queues());
        self.services.push(Added {
            service,
            queues,
            handler: BoxCloneSyncService::new(dispatcher),
        });
        self
    }

    /// Puts a tower layer around every service of this server, those added later included. The layer added first sees a
    /// request first. An error of the layer's own reaches the caller as a fault.
    pub fn layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<LayeredService> + Send + Sync + 'static,
        L::Service: Service<Request, Response = Response, Error: Into<BoxError>, Future: Send + 'static>
            + Clone
            + Send
            + Sync
            + 'static,
    {
        self.layers.push(Arc::new(move |service| {
            BoxCloneSyncService::new(layer.layer(service).map_err(RpcError::from_layer))
        }));
        self
    }

    /// How many requests of each queue the broker hands to this server before they are answered, which is also how many
    /// handlers of a queue run at once (<https://www.rabbitmq.com/docs/consumer-prefetch>). Default: 64.
    ///
    /// 1 gives the fair dispatch of RabbitMQ's RPC tutorial: a busy server is given nothing. More keeps a fast handler
    /// busy while replies are under way. 0 counts as 1: there is always a limit.
    pub fn prefetch(mut self, prefetch: u16) -> Self {
        self.prefetch = prefetch.max(1);
        self
    }

    /// How long a stopping server waits for its handlers; those that still run then are dropped, and the broker gives
    /// their requests to other servers. Default: 30 seconds. Zero waits for nothing.
    pub fn drain_timeout(mut self, limit: Duration) -> Self {
        self.drain_timeout = limit;
        self
    }

    /// Puts the server together. Nothing is sent before it is started.
    pub fn build(self) -> Server {
        let Self {
            connection,
            services,
            layers,
            prefetch,
            drain_timeout,
        } = self;
        let entries = services.into_iter().flat_map(|added| {
            // Once, so that what a layer keeps is the service's, whichever queue a request came through.
            let handler = layers
                .iter()
                .rev()
                .fold(added.handler, |handler, layer| layer(handler));
            added.queues.into_iter().map(move |queue| ServiceEntry {
                service: added.service,
                queue: queue.into(),
                handler: handler.clone(),
            })
        });
        Server {
            connection,
            services: entries.collect(),
            prefetch,
            drain_timeout,
        }
    }
}

impl fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerBuilder")
            .field("services", &self.services)
            .field("layers", &self.layers.len())
            .field("prefetch", &self.prefetch)
            .field("drain_timeout", &self.drain_timeout)
            .finish_non_exhaustive()
    }
}
