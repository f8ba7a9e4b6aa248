//! The streams of a call on their way through layers, which see the request and the first answer.

use std::fmt;
use std::panic::RefUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use parking_lot::Mutex;

use crate::codec::ContentType;
use crate::error::RpcError;

/// Encoded items of one direction. `None` is the end that the sender intended. An error is the last item.
pub(crate) type ItemStream = Pin<Box<dyn Stream<Item = Result<Bytes, StreamError>> + Send>>;

/// Source of a caller's items, which are encoded in the format of the call.
pub(crate) type ItemSource = Box<dyn FnOnce(ContentType) -> ItemStream + Send>;

/// Early end of a stream.
#[derive(Debug)]
pub enum StreamError {
    /// The service's own error, encoded like an item.
    Own(Bytes),
    Rpc(RpcError),
}

impl From<RpcError> for StreamError {
    fn from(error: RpcError) -> Self {
        Self::Rpc(error)
    }
}

/// Settings and items of a call with streams.
#[derive(Clone, Debug, Default)]
pub(crate) struct StreamCall {
    /// On a client: the method returns a stream.
    pub(crate) returns_items: bool,
    /// On a client: the caller sends a stream.
    pub(crate) sends_items: bool,
    /// The longest silence of the other side; `None` on a client means the client's timeout.
    pub(crate) silence: Option<Duration>,
    /// The caller's window; `None` on a client means the client's window.
    pub(crate) window_items: Option<u64>,
    pub(crate) window_bytes: Option<u64>,
    /// The caller's items. The service that sends them, or the dispatcher that gives them to a handler, takes them.
    pub(crate) items: Option<Slot<ItemSource>>,
}

/// A place for something that cannot be cloned, shared by the clones of a request or a response. The first taker gets it.
pub(crate) struct Slot<T>(Arc<Mutex<Option<T>>>);

/// A panic leaves no slot half changed. (The lock itself does not implement this trait.)
impl<T> RefUnwindSafe for Slot<T> {}

impl<T> std::panic::UnwindSafe for Slot<T> {}

impl<T> Slot<T> {
    pub(crate) fn new(content: T) -> Self {
        Self(Arc::new(Mutex::new(Some(content))))
    }

    pub(crate) fn empty() -> Self {
        Self(Arc::new(Mutex::new(None)))
    }

    /// Takes the content; `None` if it was taken before.
    pub(crate) fn take(&self) -> Option<T> {
        self.0.lock().take()
    }

    /// Puts content into the place, for the next taker. Former content is dropped.
    pub(crate) fn put(&self, content: T) {
        let former = self.0.lock().replace(content);
        drop(former); // Without holding the lock.
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().is_none()
    }
}

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> fmt::Debug for Slot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slot")
    }
}
