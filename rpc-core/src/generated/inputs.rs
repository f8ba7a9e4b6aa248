//! Arguments of a call: those that the request carries, and the stream that the caller sends.

use std::fmt;
use std::pin::Pin;

use futures_util::stream::{Stream, StreamExt as _};

use super::types::Value;
use crate::codec;
use crate::error::{ErrorKind, RpcError};
use crate::message::{ItemSource, Request, Slot, StreamError};
use crate::server::Incoming;

/// The arguments of a method.
pub trait Inputs: Send + 'static {
    /// The arguments that the request carries.
    type Arguments: Value;
    /// All arguments, as the handler receives them.
    type Received: Send + 'static;

    /// Separates the arguments that the request carries from the source of the caller's items.
    fn into_parts(self) -> (Self::Arguments, Option<ItemSource>);

    /// Adds the caller's items to the decoded arguments of a request.
    fn receive(arguments: Self::Arguments, request: &Request) -> Result<Self::Received, RpcError>;
}

impl<A: Value> Inputs for A {
    type Arguments = A;
    type Received = A;

    fn into_parts(self) -> (A, Option<ItemSource>) {
        (self, None)
    }

    fn receive(arguments: A, _: &Request) -> Result<A, RpcError> {
        Ok(arguments)
    }
}

/// Arguments of a method with a stream of `T` among them.
pub struct WithItems<A, T> {
    arguments: A,
    items: Pin<Box<dyn Stream<Item = T> + Send>>,
}

impl<A, T> WithItems<A, T> {
    /// Adds the caller's stream to the other arguments.
    pub fn new(arguments: A, items: impl Stream<Item = T> + Send + 'static) -> Self {
        Self {
            arguments,
            items: Box::pin(items),
        }
    }
}

impl<A: Value, T: Value> Inputs for WithItems<A, T> {
    type Arguments = A;
    type Received = (A, Incoming<T>);

    fn into_parts(self) -> (A, Option<ItemSource>) {
        let items = self.items;
        let source: ItemSource = Box::new(move |content_type| {
            Box::pin(items.map(move |item| {
                codec::encode(&item, content_type).map_err(|cause| {
                    let reason =
                        format!("an item of the caller's stream could not be encoded: {cause}");
                    StreamError::Rpc(RpcError::new(ErrorKind::Encode, reason))
                })
            }))
        });
        (self.arguments, Some(source))
    }

    fn receive(arguments: A, request: &Request) -> Result<(A, Incoming<T>), RpcError> {
        let streams = request
            .0
            .streams
            .as_ref()
            .ok_or_else(|| no_streams(request))?;
        let source = streams.items.as_ref().and_then(Slot::take);
        let source = source.ok_or_else(|| taken(request))?;
        let content_type = request.0.content_type;
        Ok((arguments, Incoming::new(source(content_type), content_type)))
    }
}

impl<A, T> fmt::Debug for WithItems<A, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WithItems").finish_non_exhaustive()
    }
}

/// Fault of a request that opens no stream, for a method with streams.
pub(super) fn no_streams(request: &Request) -> RpcError {
    let (service, method) = (request.service(), request.method().unwrap_or_default());
    RpcError::new(
        ErrorKind::BadRequest,
        format!(
            "{service}.{method} has a stream, and the request opens none: call it with a client that knows streams, such as a generated one"
        ),
    )
    .not_executed()
}

/// Fault of a request whose items went to an earlier attempt.
fn taken(request: &Request) -> RpcError {
    let (service, method) = (request.service(), request.method().unwrap_or_default());
    RpcError::new(
        ErrorKind::BadRequest,
        format!(
            "{service}.{method} cannot be sent again by a layer: an earlier attempt has taken the caller's stream"
        ),
    )
    .not_executed()
}
