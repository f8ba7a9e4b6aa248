//! Dispatchers as a server sees them: their traits, and the search for dispatchers inside services with layers.

use std::any::type_name;
use std::cell::{Cell, RefCell};

use crate::definition::Service;
use crate::error::RpcError;
use crate::instances::ServiceInfo;
use crate::message::{Request, Response};
use crate::queue::QueueOptions;
use crate::service::{ResponseFuture, RpcService};

/// A generated dispatcher: routes requests to the methods of a handler.
///
/// `#[rpc]` implements this for the dispatcher of a trait; do not implement it by hand.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a dispatcher",
    note = "wrap the handler in the dispatcher that `#[rpc]` generates: for `trait Fib`, `FibDispatcher::new(handler)`"
)]
pub trait Dispatch:
    tower_service::Service<Request, Response = Response, Error = RpcError, Future = ResponseFuture>
    + Clone
    + Send
    + Sync
    + 'static
{
    #[doc(hidden)]
    fn dispatcher(&self) -> &dyn DispatcherInfo;
}

/// A dispatcher, or one with tower layers around it: everything that a server can serve.
///
/// The trait is implemented for all of these services; do not implement it by hand.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be served",
    label = "not a dispatcher",
    note = "wrap the handler in the dispatcher that `#[rpc]` generates: for `trait Fib`, `FibDispatcher::new(handler)`",
    note = "a service with layers has to be `Clone` and `Sync`: give a layer that is not, such as a rate limit, to `layered_service` with a tower `BufferLayer` around it"
)]
pub trait Serve: RpcService + Sync {}

#[diagnostic::do_not_recommend]
impl<S: RpcService + Sync> Serve for S {}

/// Facts about a dispatcher, for the server that serves it.
pub trait DispatcherInfo {
    /// Definition of the trait.
    fn definition(&self) -> &'static Service;

    /// The queues to serve, each once.
    fn queues(&self) -> Vec<String>;

    /// Options with which the queues are declared.
    fn queue_options(&self) -> &QueueOptions;

    /// Describes the service as this dispatcher serves it.
    fn describe(&self) -> ServiceInfo;

    /// Describes the service as clients with the same contract call it.
    fn describe_client(&self) -> ServiceInfo;
}

/// A dispatcher inside of a service.
pub(super) struct FoundDispatcher {
    /// Name of the generated type.
    pub(super) type_name: &'static str,
    pub(super) definition: &'static Service,
    pub(super) queues: Vec<String>,
    pub(super) queue_options: QueueOptions,
    pub(super) description: ServiceInfo,
    pub(super) client_description: ServiceInfo,
}

thread_local! {
    /// True while a service is cloned in order to find the dispatchers inside.
    static SEARCHING: Cell<bool> = const { Cell::new(false) };
    static FOUND: RefCell<Vec<FoundDispatcher>> = const { RefCell::new(Vec::new()) };
}

/// Finds the dispatchers inside of a service, through all layers around them. The types of layers are unknown here and need not let
/// a request through, but layers are `Clone`, and a clone of a layer clones the service inside. Layers whose clones share one
/// service, such as `BufferLayer`, hide that service.
pub(super) fn find_dispatchers(service: &impl Clone) -> Vec<FoundDispatcher> {
    /// Ends the search, even if the clone panics.
    struct Search;
    impl Drop for Search {
        fn drop(&mut self) {
            SEARCHING.set(false);
        }
    }
    SEARCHING.set(true);
    let search = Search;
    let clone = service.clone();
    drop(search);
    drop(clone);
    FOUND.take()
}

/// Takes part in a search: called by each dispatcher of the generated type `D` when it is cloned.
pub(crate) fn report_dispatcher<D>(dispatcher: &impl DispatcherInfo) {
    if SEARCHING.get() {
        FOUND.with_borrow_mut(|found| {
            found.push(FoundDispatcher {
                type_name: type_name::<D>(),
                definition: dispatcher.definition(),
                queues: dispatcher.queues(),
                queue_options: dispatcher.queue_options().clone(),
                description: dispatcher.describe(),
                client_description: dispatcher.describe_client(),
            });
        });
    }
}
