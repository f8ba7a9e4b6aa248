//! The caller's items, lent to one attempt after another until an item is taken.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;

use crate::codec::ContentType;
use crate::error::{ErrorKind, RpcError};
use crate::message::{ItemSource, ItemStream, Slot, StreamError};

/// Takes the items out of a slot; `None` if they were taken before. Items that are dropped before one was taken are put back.
pub(super) fn lend(slot: &Slot<ItemSource>, content_type: ContentType) -> Option<ItemStream> {
    let source = slot.take()?;
    Some(Box::pin(Lent {
        items: Some(source(content_type)),
        content_type,
        is_taken: false,
        owner: slot.clone(),
    }))
}

/// Error of a call whose items another attempt has taken, such as one by a layer that sends calls again.
pub(super) fn taken() -> RpcError {
    RpcError::new(
        ErrorKind::Encode,
        "an earlier attempt has taken the items of the caller's stream: such a call cannot be sent again",
    )
}

/// Items in the use of one attempt.
struct Lent {
    /// `None` after a panic.
    items: Option<ItemStream>,
    content_type: ContentType,
    is_taken: bool,
    owner: Slot<ItemSource>,
}

impl Stream for Lent {
    type Item = Result<Bytes, StreamError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(items) = &mut self.items else {
            return Poll::Ready(None);
        };
        // The stream runs in a task of the library, where no caller would see its panic.
        let polled = catch_unwind(AssertUnwindSafe(|| items.as_mut().poll_next(cx)));
        if let Ok(Poll::Pending) = polled {
            return Poll::Pending;
        }
        self.is_taken = true;
        polled.unwrap_or_else(|_| {
            if let Some(items) = self.items.take() {
                discard(items);
            }
            let message = "the stream of the caller's items panicked";
            let error = RpcError::new(ErrorKind::Panicked, message);
            Poll::Ready(Some(Err(error.into())))
        })
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(items) = self.items.take() else {
            return;
        };
        if self.is_taken {
            return discard(items);
        }
        let content_type = self.content_type;
        self.owner.put(Box::new(move |other| {
            if other == content_type {
                items
            } else {
                let format = format!("the items are encoded as {content_type} already");
                let error = RpcError::new(ErrorKind::Encode, format);
                Box::pin(futures_util::stream::iter([Err(error.into())]))
            }
        }));
    }
}

/// Drops the caller's items. A panic of their destructor does not end the task of the library, which has the server to tell of the end.
fn discard(items: ItemStream) {
    let _ = catch_unwind(AssertUnwindSafe(|| drop(items)));
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, StreamExt, stream};

    use super::*;

    const FORMAT: ContentType = ContentType::MessagePack;

    fn slot(
        items: impl Stream<Item = Result<Bytes, StreamError>> + Send + 'static,
    ) -> Slot<ItemSource> {
        Slot::new(Box::new(move |_| Box::pin(items) as ItemStream))
    }

    #[test]
    fn items_come_back_until_one_is_taken() {
        let slot = slot(stream::iter([Ok(Bytes::from_static(b"a"))]));
        drop(lend(&slot, FORMAT).unwrap());
        let mut items = lend(&slot, FORMAT).unwrap();
        assert!(slot.is_empty());
        assert_eq!(
            &items.next().now_or_never().unwrap().unwrap().unwrap()[..],
            b"a"
        );
        drop(items);
        assert!(lend(&slot, FORMAT).is_none());
    }

    #[test]
    fn items_that_were_waited_for_come_back() {
        let slot = slot(stream::pending());
        let mut items = lend(&slot, FORMAT).unwrap();
        assert!(items.next().now_or_never().is_none());
        drop(items);
        assert!(!slot.is_empty());
    }

    #[test]
    fn a_panic_of_the_items_is_an_error() {
        let slot = slot(stream::poll_fn(|_| panic!("as the test wants")));
        let mut items = lend(&slot, FORMAT).unwrap();
        let Some(Err(StreamError::Rpc(error))) = items.next().now_or_never().unwrap() else {
            panic!("no error");
        };
        assert_eq!(error.kind(), ErrorKind::Panicked);
        assert!(items.next().now_or_never().unwrap().is_none());
    }
}
