//! The stream that a call returns, and the parts of the call that live as long as the stream.

use std::fmt;
use std::pin::Pin;
use std::task::{self, Poll, ready};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FusedStream, Stream};

use crate::codec::ContentType;
use crate::context::Context;
use crate::error::{ErrorKind, RpcError};
use crate::headers::Headers;
use crate::message::{ItemStream, Request, Response, Slot, StreamError};
use crate::telemetry::Observed;

/// Function that decodes an item, or the error that ends a stream. It sets the flag if that is not possible.
pub(crate) type DecodeItem<T, E> =
    fn(Result<Bytes, StreamError>, ContentType, &mut bool) -> Result<T, E>;

/// A call while its response is decoded. A stream takes over the rest of the call.
#[derive(Debug, Default)]
pub struct Reading {
    observed: Option<Box<Observed>>,
    /// The handler in which a call with streams was made.
    parent: Option<Parent>,
}

impl Reading {
    pub(super) fn of(
        observed: Option<Box<Observed>>,
        parent: Option<&Context>,
        request: &Request,
    ) -> Self {
        let parent = match request.0.streams {
            None => None,
            Some(_) => parent.map(|context| Parent {
                context: context.clone(),
                is_inherited: request.0.deadline.is_inherited(),
            }),
        };
        Self { observed, parent }
    }

    /// Returns the telemetry of the call, if it is recorded.
    pub(super) fn observed(&mut self) -> Option<&mut Observed> {
        self.observed.as_deref_mut()
    }

    /// Records that the response could not be decoded.
    pub(crate) fn unreadable(&mut self) {
        if let Some(observed) = &mut self.observed {
            observed.unreadable();
        }
    }
}

/// The handler in which a call was made.
#[derive(Debug)]
struct Parent {
    context: Context,
    /// The handler's deadline is the call's.
    is_inherited: bool,
}

/// The stream that a method returns: items of type `T`, and at most one error of type `E`, which is the last item.
///
/// `None` comes only after the handler's stream has ended by itself. Any other end is an error before the `None`: the service's own error,
/// or an [`RpcError`], such as [`ErrorKind::Timeout`] or [`ErrorKind::Disconnected`]. Items that the handler made before an error, or before a
/// panic, come before the error.
///
/// | the trait says | `E` |
/// |---|---|
/// | `impl Stream<Item = T>` | [`RpcError`] |
/// | `impl Stream<Item = Result<T, F>>` | [`CallError<F>`](crate::CallError) |
///
/// Items that arrive wait to be read within the [window](crate::Call::window). A program that stops reading stops the handler, too.
///
/// In a handler, the stream ends with the handler's deadline, and with [`ErrorKind::Cancelled`] when the handler's caller is gone.
///
/// # Cancel safety
///
/// Dropping the future of [`next`](Self::next) loses no item. Dropping the stream before its end cancels the handler.
///
/// # Examples
///
/// ```
/// use futures_util::stream;
/// use rpc_core::{RpcError, Stream, rpc};
///
/// #[rpc]
/// trait Count {
///     async fn count(to: u64) -> impl Stream<Item = u64>;
/// }
///
/// struct Counter;
/// impl Count for Counter {
///     async fn count(&self, to: u64) -> impl Stream<Item = u64> {
///         stream::iter(0..to)
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), RpcError> {
/// let client = CountClient::new(CountDispatcher::new(Counter));
/// let mut numbers = client.count(3).await?;
/// let mut sum = 0;
/// while let Some(number) = numbers.next().await {
///     sum += number?;
/// }
/// assert_eq!(sum, 3);
/// # Ok(())
/// # }
/// ```
#[must_use = "dropping a stream before its end cancels the handler"]
pub struct Streaming<T, E> {
    /// `None` after the end.
    items: Option<ItemStream>,
    content_type: ContentType,
    decode: DecodeItem<T, E>,
    headers: Headers,
    /// Number of items that were read.
    received: u64,
    observed: Option<Box<Observed>>,
    parent: Option<Parent>,
    /// Resolves when the handler that made the call is cancelled.
    abandoned: Option<BoxFuture<'static, RpcError>>,
}

impl<T, E> Streaming<T, E> {
    /// Takes over a call whose response has brought its items.
    fn new(
        items: ItemStream,
        content_type: ContentType,
        headers: Headers,
        decode: DecodeItem<T, E>,
        call: &mut Reading,
    ) -> Self {
        let Reading {
            mut observed,
            parent,
        } = std::mem::take(call);
        if let Some(observed) = &mut observed {
            observed.goes_on();
        }
        let abandoned = parent
            .as_ref()
            .map(|parent| parent.context.clone().until_abandoned().boxed());
        Self {
            items: Some(items),
            content_type,
            decode,
            headers,
            received: 0,
            observed,
            parent,
            abandoned,
        }
    }

    /// Takes the stream out of a response that is not the service's own error.
    pub(crate) fn from_response(
        response: Response,
        decode: DecodeItem<T, E>,
        call: &mut Reading,
    ) -> Result<Self, RpcError> {
        let Response {
            content_type,
            headers,
            items,
            ..
        } = response;
        let Some(items) = items.as_ref().and_then(Slot::take) else {
            call.unreadable();
            let reason = "the server answered with one value, and the method returns a stream: the server has another version of the trait";
            return Err(RpcError::new(ErrorKind::BadReply, reason));
        };
        Ok(Self::new(items, content_type, headers, decode, call))
    }

    /// Waits for the next item. Returns `None` after the end, which is the handler's own or an error.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no item.
    pub async fn next(&mut self) -> Option<Result<T, E>> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// Returns the headers of the reply, which the handler set before it returned its stream.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    fn poll_items(
        &mut self,
        cx: &mut task::Context<'_>,
    ) -> Poll<Option<Result<Bytes, StreamError>>> {
        let Some(items) = &mut self.items else {
            return Poll::Ready(None);
        };
        if let Poll::Ready(next) = items.as_mut().poll_next(cx) {
            return Poll::Ready(next.map(|item| item.map_err(|error| self.explained(error))));
        }
        match &mut self.abandoned {
            Some(abandoned) => abandoned
                .poll_unpin(cx)
                .map(|error| Some(Err(error.into()))),
            None => Poll::Pending,
        }
    }

    fn explained(&self, error: StreamError) -> StreamError {
        match (error, &self.parent) {
            (StreamError::Rpc(error), Some(parent)) => {
                let explained = parent.context.explained(parent.is_inherited, error);
                StreamError::Rpc(explained)
            }
            (error, _) => error,
        }
    }

    /// Ends the stream, and records the outcome of the call.
    fn end(&mut self, status: &'static str) {
        if let Some(mut observed) = self.observed.take() {
            observed.items_read(self.received);
            observed.stream_ended(status);
        }
        self.items = None;
        self.parent = None;
        self.abandoned = None;
    }
}

impl<T, E> Stream for Streaming<T, E> {
    type Item = Result<T, E>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> Poll<Option<Result<T, E>>> {
        let Some(next) = ready!(self.poll_items(cx)) else {
            self.end("result");
            return Poll::Ready(None);
        };
        let end = match &next {
            Ok(_) => {
                self.received += 1;
                None
            }
            Err(StreamError::Own(_)) => Some("error"),
            Err(StreamError::Rpc(error)) => Some(error.kind().as_str()),
        };
        let mut is_unreadable = false;
        let item = (self.decode)(next, self.content_type, &mut is_unreadable);
        if is_unreadable {
            self.end(ErrorKind::BadReply.as_str());
        } else if let Some(status) = end {
            self.end(status);
        }
        Poll::Ready(Some(item))
    }
}

impl<T, E> Drop for Streaming<T, E> {
    fn drop(&mut self) {
        if let Some(observed) = &self.observed {
            observed.items_read(self.received);
        }
    }
}

impl<T, E> FusedStream for Streaming<T, E> {
    fn is_terminated(&self) -> bool {
        self.items.is_none()
    }
}

impl<T, E> fmt::Debug for Streaming<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streaming")
            .field("received", &self.received)
            .field("is_terminated", &self.is_terminated())
            .finish_non_exhaustive()
    }
}
