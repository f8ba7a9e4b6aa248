//! What is inside a generated client: a service to call through, and where to send the requests.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::client::call::{Call, Decode};
use crate::definition::{Method, Queues, Service};
use crate::message::Request;
use crate::service::RpcService;

/// The inside of a generated client.
#[derive(Clone)]
pub struct Stub<S> {
    service: S,
    definition: &'static Service,
    queues: Queues,
}

impl<S> Stub<S> {
    /// Calls through `service`, to the queues that the trait names.
    pub fn new(service: S, definition: &'static Service) -> Self {
        Self {
            service,
            definition,
            queues: Queues::of(definition),
        }
    }

    /// Calls the methods that have no queue of their own on another queue than the trait's.
    #[must_use]
    pub fn with_queue(mut self, queue: impl Into<String>) -> Self {
        self.queues = self.queues.with_common(queue.into());
        self
    }

    /// Calls on queues whose names begin with this.
    #[must_use]
    pub fn with_queue_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.queues = self.queues.with_prefix(prefix.into());
        self
    }
}

impl<S: RpcService> Stub<S> {
    /// Encodes the arguments, so that the call owns nothing of the caller's.
    pub fn call<A, R>(&self, method: &'static Method, arguments: A, decode: Decode<R>) -> Call<R, S>
    where
        A: Serialize + DeserializeOwned,
    {
        let queue = self.queues.shared_of_method(method);
        let request = Request::new(self.definition, method, queue, &arguments);
        Call::new(self.service.clone(), request, method.timeout, decode)
    }
}

impl<S> fmt::Debug for Stub<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stub")
            .field("service", &self.definition.name)
            .field("queues", &self.queues)
            .finish_non_exhaustive()
    }
}
