//! Everything that generated code names. Not part of the public API: it may change with any version.
pub use std::string::String;
pub use std::sync::Arc;
pub use std::vec::Vec;

pub use serde;
pub use tower_service;

pub use crate::definition::{Method, Service};
pub use crate::generated::{
    DescribedArgument, DescribedMethod, DescribedType, Dispatcher, DispatcherInfo, Emitter,
    FromContext, Handler, Invocation, NotResult, Probe, Return, Route, Signature, StreamSignature,
    Stub, Undescribed, Unsendable, WithItems, check_argument, check_context, check_is_plain,
    check_return, describe_client, describe_server, unnamed,
};
