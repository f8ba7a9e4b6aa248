//! Implementation of generated clients: the service that carries the calls, and the queues of the requests.

use std::fmt;

use super::inputs::Inputs;
use crate::client::{Call, Decode};
use crate::definition::{Method, Queues, Service};
use crate::message::{Request, Slot};
use crate::service::RpcService;

/// Implementation of a generated client.
#[derive(Clone)]
pub struct Stub<S> {
    service: S,
    definition: &'static Service,
    queues: Queues,
}

impl<S> Stub<S> {
    /// Sends requests through `service`, to the queues that the trait names.
    pub fn new(service: S, definition: &'static Service) -> Self {
        Self {
            service,
            definition,
            queues: Queues::of(definition),
        }
    }

    /// Replaces the trait's queue; methods with a queue of their own keep theirs.
    #[must_use]
    pub fn with_queue(mut self, queue: impl Into<String>) -> Self {
        self.queues = self.queues.with_common(queue.into());
        self
    }

    /// Puts a prefix before the name of every queue.
    #[must_use]
    pub fn with_queue_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.queues = self.queues.with_prefix(prefix.into());
        self
    }
}

impl<S: RpcService> Stub<S> {
    /// Makes a call. Encodes the arguments now, so that the call borrows nothing from the caller.
    pub fn call<I: Inputs, R>(
        &self,
        method: &'static Method,
        inputs: I,
        decode: Decode<R>,
    ) -> Call<R, S> {
        let queue = self.queues.shared_of_method(method);
        let (arguments, items) = inputs.into_parts();
        let mut request = Request::new(self.definition, method, queue, &arguments);
        if let (Ok(request), Some(items)) = (&mut request, items) {
            request.0.streams.get_or_insert_default().items = Some(Slot::new(items));
        }
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
