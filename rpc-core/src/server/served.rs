//! A queue that a server serves, and the service behind it.

use std::fmt;
use std::sync::Arc;

use tower::ServiceExt;
use tower::util::{BoxCloneSyncService, service_fn};

use super::dispatchers::Serve;
use super::statistics::Statistics;
use crate::definition::{Method, Service as Definition};
use crate::error::RpcError;
use crate::instances::ServiceInfo;
use crate::message::{Request, Response};
use crate::names::MAX_QUEUE_NAME;
use crate::queue::{Declares, QueueOptions, QueueType};
use crate::service::ResponseFuture;
use crate::transport::Message;

/// A dispatcher with layers around it.
pub(super) type LayeredService = BoxCloneSyncService<Request, Response, RpcError>;

/// The service that a request is passed to.
#[derive(Clone)]
pub(super) enum Endpoint {
    /// A dispatcher, which is always ready.
    Dispatcher(Arc<dyn Fn(Request) -> ResponseFuture + Send + Sync>),
    /// A dispatcher with layers around it.
    Layered(LayeredService),
}

impl Endpoint {
    /// Makes the endpoint of a dispatcher without layers.
    pub(super) fn dispatcher<S: Serve>(service: S) -> Self {
        Self::Dispatcher(Arc::new(move |request| {
            ResponseFuture::of(service.clone().call(request))
        }))
    }

    /// Makes the endpoint of a dispatcher with layers.
    pub(super) fn layered<S: Serve>(service: S) -> Self {
        let service = service.map_err(RpcError::from_layer);
        Self::Layered(BoxCloneSyncService::new(service))
    }

    pub(super) fn into_service(self) -> LayeredService {
        match self {
            Self::Dispatcher(dispatch) => {
                BoxCloneSyncService::new(service_fn(move |request| dispatch(request)))
            }
            Self::Layered(service) => service,
        }
    }
}

/// Role of a queue that requests of a service are delivered from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QueueRole {
    /// Clients send their requests here.
    Main,
    /// Requests wait here for their last attempt, one at a time.
    Retry,
}

/// A queue of a server.
pub(super) struct ServedQueue {
    /// Name of the service that the queue belongs to.
    pub(super) service: &'static str,
    pub(super) definition: &'static Definition,
    /// Description of the service, which its queues share.
    pub(super) description: Arc<ServiceInfo>,
    /// The same contract from the side of a client.
    pub(super) client_description: Arc<ServiceInfo>,
    /// Statistics of the service, which its queues share; `None` if they are not recorded.
    pub(super) statistics: Option<Arc<Statistics>>,
    pub(super) queue: Arc<str>,
    /// Queue in which requests wait for their last attempt.
    pub(super) retry_queue: String,
    /// Queue of requests that were given up.
    pub(super) dead_letter_queue: String,
    pub(super) options: QueueOptions,
    pub(super) endpoint: Endpoint,
}

impl ServedQueue {
    /// Returns `true` if the last of `delivery_limit` attempts is made alone. With a limit of one, no attempt is.
    pub(super) fn isolates(&self, delivery_limit: Option<u32>) -> bool {
        delivery_limit.is_some_and(|limit| limit > 1) && !self.options.is_passive()
    }

    /// Name of the queue of a role.
    pub(super) fn name_of(&self, role: QueueRole) -> &str {
        match role {
            QueueRole::Main => &self.queue,
            QueueRole::Retry => &self.retry_queue,
        }
    }

    /// Returns `true` if another queue belongs to the same service of the server.
    pub(super) fn shares_service_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.description, &other.description)
    }

    /// Resolves the method that a request names.
    pub(super) fn method(&self, request: &Message) -> Option<&'static Method> {
        let name = request.kind.as_deref().filter(|name| !name.is_empty());
        self.definition.resolve(name)
    }

    /// Returns `true` if the broker counts the deliveries of a request, as quorum queues do. Returns `false` for a queue that the server
    /// does not declare, because its type is not known.
    pub(super) fn counts_deliveries(&self) -> bool {
        self.options.kind == QueueType::Quorum && !self.options.is_passive()
    }

    /// Returns `true` if the queue may be a quorum queue: it is one, or others have declared it.
    pub(super) fn may_be_quorum(&self) -> bool {
        self.options.kind == QueueType::Quorum || self.options.declares != Declares::Always
    }

    /// Returns `true` if a name belongs to one of the service's own queues.
    pub(super) fn owns(&self, queue: &str) -> bool {
        queue == &*self.queue || queue == self.retry_queue || queue == self.dead_letter_queue
    }

    /// The reason why the queue can never be served, if there is one.
    pub(super) fn flaw(&self) -> Option<String> {
        let length = self.queue.len();
        let dead_letters = self.dead_letter_queue.as_str();
        if self.queue.is_empty() {
            // With an empty name, AMQP lets the broker choose a name.
            Some("it has no name".to_owned())
        } else if length > MAX_QUEUE_NAME {
            Some(format!(
                "its name has {length} bytes, and at most {MAX_QUEUE_NAME} are allowed, because servers derive longer names from it"
            ))
        } else if dead_letters.is_empty() {
            Some("its `dead_letter_queue` has no name".to_owned())
        } else if dead_letters == &*self.queue || dead_letters == self.retry_queue {
            Some(format!(
                "requests that it gives up would come back to it: its `dead_letter_queue` is '{dead_letters}'"
            ))
        } else {
            None
        }
    }
}

impl fmt::Debug for ServedQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServedQueue")
            .field("service", &self.service)
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}
