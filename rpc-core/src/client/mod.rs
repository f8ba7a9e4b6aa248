//! The client: from a request to its response, within a deadline.
//!
//! [`Call`] is the future that the methods of generated clients return, and [`Client`] the service that sends requests over a
//! connection.

mod attempt;
mod builder;
mod call;
mod caller_items;
mod errors;
mod gather;
mod introspection;
mod keep_stream;
mod layers;
mod open_stream;
mod options;
mod repeat;
mod service;
mod stream_attempt;
mod streaming;
mod tap;
mod to_all;
mod untyped;

pub use self::builder::ClientBuilder;
pub(crate) use self::call::Decode;
pub use self::call::{Call, CallWithHeaders};
pub use self::gather::{Answers, Gather};
pub use self::introspection::{ContractQuery, DescriptionQuery, InstanceQuery};
pub use self::service::Client;
pub(crate) use self::streaming::Reading;
pub use self::streaming::Streaming;
pub use self::tap::{Tap, TapQuery};
pub use self::untyped::UntypedClient;
