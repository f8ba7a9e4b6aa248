//! Streams under strict lints, without a prelude, and in all places.
#![no_implicit_prelude]
#![deny(
    warnings,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    unnameable_types,
    unused_qualifications,
    unused_lifetimes,
    unused_results,
    single_use_lifetimes,
    trivial_casts,
    elided_lifetimes_in_paths,
    let_underscore_drop,
    redundant_lifetimes,
    future_incompatible,
    rust_2018_idioms,
    rust_2024_compatibility
)]

use ::futures_util::stream;
use ::rpc_core::{Context, Incoming, rpc};
use ::std::clone::Clone;
use ::std::iter::Iterator as _;
use ::std::option::Option::{self, None, Some};
use ::std::result::Result::{self, Err, Ok};
use ::std::string::String;

/// A service with streams.
#[rpc(timeout = "1m")]
pub trait Feed<T, const N: usize>
where
    T: ::serde::Serialize + ::serde::de::DeserializeOwned + Clone + ::std::marker::Send + ::std::marker::Sync + 'static,
{
    /// Borrows from the handler.
    #[rpc(idempotent, timeout = "5s", queue = "feed")]
    async fn all(&self) -> impl ::rpc_core::Stream<Item = T>;
    /// Both directions.
    #[rpc(at_most_once)]
    async fn both(
        #[ctx] cx: Context,
        first: T,
        items: impl ::rpc_core::Stream<Item = [T; 2]> + ::std::marker::Send,
        #[serde(default)] last: Option<T>,
    ) -> Result<impl ::rpc_core::Stream<Item = Result<T, String>>, String>;
    /// With a body.
    async fn body(&self, #[allow(unused_variables)] n: u8) -> impl ::futures_util::Stream<Item = u8> {
        stream::iter([n])
    }
    /// Not compiled.
    #[cfg(any())]
    async fn absent() -> impl ::rpc_core::Stream<Item = Missing>;
    /// Named like the constructor.
    async fn new(items: impl ::futures_util::stream::Stream<Item = u8>) -> u8;
}

/// A handler.
#[derive(Debug)]
pub struct Handler(Option<String>);

impl Feed<String, 2> for Handler {
    async fn all(&self) -> impl ::rpc_core::Stream<Item = String> {
        stream::iter(self.0.iter().map(Clone::clone))
    }
    async fn both(
        &self,
        _: Context,
        first: String,
        items: Incoming<[String; 2]>,
        _: Option<String>,
    ) -> Result<impl ::rpc_core::Stream<Item = Result<String, String>>, String> {
        if first.is_empty() {
            return Err(first);
        }
        ::std::mem::drop(items);
        Ok(stream::iter([Ok(first)]))
    }
    async fn new(&self, _: Incoming<u8>) -> u8 {
        0
    }
}

fn main() {
    let client = FeedClient::<String, 2, _>::new(FeedDispatcher::new(Handler(None)));
    ::std::mem::drop(client.all());
    ::std::mem::drop(client.both(String::new(), stream::empty(), Some(String::new())));
    ::std::mem::drop(client.body(1));
    ::std::mem::drop(client.new(stream::empty()));
}
