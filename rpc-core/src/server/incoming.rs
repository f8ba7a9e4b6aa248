//! The stream of items that a caller sends to a handler.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::stream::{FusedStream, Stream, StreamExt};
use serde::de::DeserializeOwned;

use crate::codec::{self, ContentType};
use crate::error::{BoxError, ErrorKind, RpcError};
use crate::message::{ItemStream, StreamError};

/// The items that the caller of a method sends, for the handler: the argument `parts: impl Stream<Item = T>` of the trait is an
/// `Incoming<T>` in the handler.
///
/// `None` comes only after the caller's stream has ended by itself. Any other end is an error before the `None`, such as
/// [`ErrorKind::Disconnected`] for a caller that is gone, or [`ErrorKind::BadRequest`] for an item that cannot be decoded.
///
/// Items that arrive wait to be read within a window. A handler that stops reading stops the caller's stream, too.
///
/// # Cancel safety
///
/// Dropping the future of [`next`](Self::next) loses no item. Dropping the stream before its end stops the caller's stream, and the handler may
/// return its result nevertheless.
///
/// # Examples
///
/// ```
/// use futures_util::stream;
/// use rpc_core::{CallError, Incoming, Stream, rpc};
///
/// #[rpc]
/// trait Sums {
///     async fn sum(numbers: impl Stream<Item = u64>) -> Result<u64, String>;
/// }
///
/// struct Calculator;
/// impl Sums for Calculator {
///     async fn sum(&self, mut numbers: Incoming<u64>) -> Result<u64, String> {
///         let mut sum = 0;
///         while let Some(number) = numbers.next().await {
///             sum += number.map_err(|error| format!("the numbers ended early: {error}"))?;
///         }
///         Ok(sum)
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), CallError<String>> {
/// let sums = SumsClient::new(SumsDispatcher::new(Calculator));
/// assert_eq!(sums.sum(stream::iter(1..4)).await?, 6);
/// # Ok(())
/// # }
/// ```
pub struct Incoming<T>(Option<Items<T>>);

/// An item of a stream that is made by hand: see [`Incoming::from_stream`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no item of an `Incoming<{T}>`",
    note = "give `Incoming::from_stream` a stream of `{T}`, or of `Result<{T}, RpcError>`"
)]
pub trait IncomingItem<T> {
    /// Returns what the handler reads.
    fn into_result(self) -> Result<T, RpcError>;
}

impl<T> IncomingItem<T> for T {
    fn into_result(self) -> Result<T, RpcError> {
        Ok(self)
    }
}

impl<T> IncomingItem<T> for Result<T, RpcError> {
    fn into_result(self) -> Result<T, RpcError> {
        self
    }
}

/// Items before the end of a stream.
enum Items<T> {
    Encoded {
        items: ItemStream,
        content_type: ContentType,
        decode: DecodeFn<T>,
    },
    Given(Pin<Box<dyn Stream<Item = Result<T, RpcError>> + Send>>),
}

type DecodeFn<T> = fn(&[u8], ContentType) -> Result<T, BoxError>;

impl<T> Incoming<T> {
    /// Makes the stream of items in a format.
    pub(crate) fn new(items: ItemStream, content_type: ContentType) -> Self
    where
        T: DeserializeOwned,
    {
        Self(Some(Items::Encoded {
            items,
            content_type,
            decode: |item, content_type| codec::decode(item, content_type),
        }))
    }

    /// Makes a stream by hand, for tests that call a handler directly: from items of type `T`, or from items of type `Result<T, RpcError>`, of
    /// which an error is the last.
    ///
    /// # Examples
    ///
    /// ```
    /// use futures_util::stream;
    /// use rpc_core::{ErrorKind, Incoming, RpcError};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let mut numbers: Incoming<u64> = Incoming::from_stream(stream::iter([1, 2]));
    /// assert_eq!(numbers.next().await.unwrap().unwrap(), 1);
    ///
    /// let gone = RpcError::new(ErrorKind::Disconnected, "the caller is gone");
    /// let mut numbers: Incoming<u64> = Incoming::from_stream(stream::iter([Ok(1), Err(gone), Ok(2)]));
    /// assert_eq!(numbers.next().await.unwrap().unwrap(), 1);
    /// assert!(numbers.next().await.unwrap().is_err());
    /// assert!(numbers.next().await.is_none());
    /// # }
    /// ```
    pub fn from_stream<S>(items: S) -> Self
    where
        T: 'static,
        S: Stream<Item: IncomingItem<T>> + Send + 'static,
    {
        let items = items.map(IncomingItem::<T>::into_result);
        Self(Some(Items::Given(Box::pin(items))))
    }

    /// Waits for the next item. Returns `None` after the end, which is the caller's own or an error.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no item.
    pub async fn next(&mut self) -> Option<Result<T, RpcError>> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl<T> Items<T> {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<T, RpcError>>> {
        match self {
            Self::Given(items) => items.as_mut().poll_next(cx),
            Self::Encoded {
                items,
                content_type,
                decode,
            } => Poll::Ready(ready!(items.as_mut().poll_next(cx)).map(|item| match item {
                Ok(item) => decode(&item, *content_type).map_err(|cause| undecodable(&cause)),
                Err(StreamError::Rpc(error)) => Err(error),
                Err(StreamError::Own(_)) => {
                    Err(undecodable(&"a caller has no errors of its own".into()))
                }
            })),
        }
    }
}

fn undecodable(cause: &BoxError) -> RpcError {
    RpcError::new(
        ErrorKind::BadRequest,
        format!("an item from the caller could not be decoded: {cause}"),
    )
}

impl<T> Stream for Incoming<T> {
    type Item = Result<T, RpcError>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<T, RpcError>>> {
        let Some(items) = &mut self.0 else {
            return Poll::Ready(None);
        };
        let next = ready!(items.poll_next(cx));
        if !matches!(next, Some(Ok(_))) {
            self.0 = None;
        }
        Poll::Ready(next)
    }
}

impl<T> FusedStream for Incoming<T> {
    fn is_terminated(&self) -> bool {
        self.0.is_none()
    }
}

impl<T> fmt::Debug for Incoming<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming")
            .field("is_terminated", &self.is_terminated())
            .finish_non_exhaustive()
    }
}
