//! The library's side of generated code: stubs, dispatchers, and the checks of a method's types.
//!
//! Generated code names these items through `__private`. This module names the client and the server; neither names this module.

mod dispatcher;
mod emitter;
mod inputs;
mod signature;
mod stub;
mod types;

pub use self::dispatcher::{Dispatcher, Handler, Invocation, Route};
pub use self::emitter::Emitter;
pub use self::inputs::WithItems;
pub use self::signature::{Signature, StreamSignature, Unsendable};
pub use self::stub::Stub;
pub use self::types::{
    FromContext, NotResult, Probe, Return, Undescribed, check_argument, check_context,
    check_is_plain, check_return, unnamed,
};
pub use crate::instances::description::{
    DescribedArgument, DescribedMethod, DescribedType, describe_client, describe_server,
};
pub use crate::server::DispatcherInfo;
