//! Everything that generated code names. Not part of the public API: it may change with any version.
pub use std::string::String;
pub use std::sync::Arc;

pub use serde;
pub use tower_service;

pub use crate::client::Stub;
pub use crate::definition::{Method, Service};
pub use crate::exchange::{
    Answer, Exchange, FromContext, NotResult, Probe, Unsendable, check_answer, check_argument,
    check_context, check_is_plain, unnamed,
};
pub use crate::server::{Dispatcher, DispatcherInfo, Handler, Invocation, Route};
