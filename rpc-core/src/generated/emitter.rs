//! The stream of a handler, as encoded items.
//!
//! A handler's stream may borrow from the handler. So one future owns the handler, calls its method and polls its stream ([`Emitter`]). The
//! reader of the items polls this future ([`Emission`]), which hands over one item at each poll.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{self, Poll, ready};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{Stream, StreamExt as _};
use futures_util::{FutureExt, future};
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep};
use tracing::{Instrument, Span};

use crate::cancellation::CancelOnDrop;
use crate::codec::ContentType;
use crate::context::{Context, ExecutionLimit, panic_fault};
use crate::deadline;
use crate::error::{ErrorKind, RpcError};
use crate::message::{Response, StreamError};

/// Functions that encode an item of a stream, and an error that comes in place of the stream.
pub struct Encoders<T, E> {
    pub(super) item: fn(T, ContentType) -> Result<Bytes, StreamError>,
    pub(super) refusal: fn(E, ContentType) -> Result<Response, RpcError>,
}

/// The way of a handler's stream of `T` to its reader. The handler may return an error `E` in place of the stream.
pub struct Emitter<T, E> {
    encoders: Encoders<T, E>,
    content_type: ContentType,
    next: Arc<NextEvent>,
}

/// The place for the next event of a stream.
#[derive(Default)]
pub(super) struct NextEvent(Mutex<Option<Event>>);

/// A step of a handler with a stream.
enum Event {
    /// The handler has returned its stream.
    Started,
    /// The handler has returned an error in place of the stream.
    Refused(Response),
    /// An item, or the error that ends the stream.
    Item(Result<Bytes, StreamError>),
}

impl<T, E> Emitter<T, E> {
    pub(super) fn new(
        encoders: Encoders<T, E>,
        content_type: ContentType,
        next: &Arc<NextEvent>,
    ) -> Self {
        Self {
            encoders,
            content_type,
            next: next.clone(),
        }
    }

    /// Polls the stream of a handler to its end.
    pub async fn emit(self, stream: impl Stream<Item = T> + Send) {
        self.next.give(Event::Started).await;
        let mut stream = pin!(stream);
        while let Some(item) = stream.next().await {
            let item = (self.encoders.item)(item, self.content_type);
            self.next.give(Event::Item(item)).await;
        }
    }

    /// Polls the stream of a handler to its end, unless the handler has returned an error.
    pub async fn emit_result(self, result: Result<impl Stream<Item = T> + Send, E>) {
        match result {
            Ok(stream) => self.emit(stream).await,
            Err(error) => {
                let refusal = (self.encoders.refusal)(error, self.content_type);
                let event =
                    refusal.map_or_else(|error| Event::Item(Err(error.into())), Event::Refused);
                self.next.give(event).await;
            }
        }
    }
}

impl NextEvent {
    /// Leaves an event for the reader. Resolves at the next poll, which comes once the reader wants the next event.
    fn give(&self, event: Event) -> impl Future<Output = ()> + Send {
        let mut event = Some(event);
        future::poll_fn(move |_| match event.take() {
            Some(event) => {
                *self.0.lock() = Some(event);
                Poll::Pending
            }
            None => Poll::Ready(()),
        })
    }
}

/// A handler that runs, and its stream: the encoded items.
pub(super) struct Emission {
    /// Runs in the handler's context and span; `None` after the end. A panic is an error.
    handling: Option<BoxFuture<'static, Result<(), RpcError>>>,
    next: Arc<NextEvent>,
    context: Context,
    /// Cancels the call if the items are dropped before their end.
    stopped: Option<CancelOnDrop>,
    /// Ends the stream of a direct call. A server ends the streams of others.
    deadline: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Emission {
    pub(super) fn new(
        handling: impl Future<Output = ()> + Send + 'static,
        next: Arc<NextEvent>,
        context: Context,
        limit: &ExecutionLimit,
    ) -> Self {
        let caught = AssertUnwindSafe(handling)
            .catch_unwind()
            .map(|outcome| outcome.map_err(|panic| panic_fault("the handler", &*panic)))
            .instrument(Span::current());
        Self {
            handling: Some(Box::pin(context.scope_future(caught))),
            next,
            context,
            stopped: Some(limit.cancel_on_drop()),
            deadline: None,
        }
    }

    /// Waits until the handler has returned, and returns its response.
    pub(super) async fn into_response(
        mut self,
        content_type: ContentType,
        limit: &ExecutionLimit,
    ) -> Result<Response, RpcError> {
        let first = limit
            .apply(future::poll_fn(|cx| self.poll_event(cx)))
            .await?;
        let headers = self.context.take_reply_headers();
        let mut response = match first {
            Some(Event::Started) => {
                let deadline = self.context.deadline().filter(|_| limit.is_direct());
                self.deadline = deadline.map(|deadline| {
                    let deadline = Instant::from(deadline);
                    (deadline, Box::pin(tokio::time::sleep_until(deadline)))
                });
                Response::streaming(content_type, Box::pin(self))
            }
            Some(Event::Refused(response)) => {
                self.end();
                response
            }
            Some(Event::Item(Err(StreamError::Rpc(error)))) => {
                self.end();
                return Err(error);
            }
            // The emitter begins with one of the other events.
            Some(Event::Item(_)) | None => {
                let reason = "the handler returned no stream";
                return Err(RpcError::new(ErrorKind::Panicked, reason));
            }
        };
        response.headers = headers;
        Ok(response)
    }

    /// Runs the handler up to its next event. `None` is the end.
    fn poll_event(&mut self, cx: &mut task::Context<'_>) -> Poll<Option<Event>> {
        let Some(handling) = &mut self.handling else {
            return Poll::Ready(None);
        };
        match handling.as_mut().poll(cx) {
            Poll::Pending => match self.next.0.lock().take() {
                None => Poll::Pending,
                event => Poll::Ready(event),
            },
            Poll::Ready(Ok(())) => Poll::Ready(None),
            Poll::Ready(Err(panic)) => Poll::Ready(Some(Event::Item(Err(panic.into())))),
        }
    }

    /// Ends a call that has not been cancelled.
    fn end(&mut self) {
        if let Some(stopped) = self.stopped.take() {
            stopped.disarm();
        }
        self.handling = None;
        self.deadline = None;
    }

    /// Resolves when the deadline has passed. A stream that is always ready leaves the timer no time, so the clock decides.
    fn poll_deadline(&mut self, cx: &mut task::Context<'_>) -> Poll<()> {
        match &mut self.deadline {
            None => Poll::Pending,
            Some((deadline, _)) if *deadline <= Instant::now() => Poll::Ready(()),
            Some((_, passed)) => passed.as_mut().poll(cx),
        }
    }
}

impl Stream for Emission {
    type Item = Result<Bytes, StreamError>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> Poll<Option<Result<Bytes, StreamError>>> {
        if self.poll_deadline(cx).is_ready() {
            // Dropping the guard cancels the call.
            self.stopped = None;
            self.end();
            let error = deadline::passed_in_a_direct_stream();
            return Poll::Ready(Some(Err(error.into())));
        }
        let item = match ready!(self.poll_event(cx)) {
            Some(Event::Item(item)) => Some(item),
            // The other events come before the stream.
            Some(Event::Started | Event::Refused(_)) | None => None,
        };
        if !matches!(item, Some(Ok(_))) {
            self.end();
        }
        Poll::Ready(item)
    }
}

impl<T, E> fmt::Debug for Emitter<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Emitter").finish_non_exhaustive()
    }
}

impl<T, E> fmt::Debug for Encoders<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoders").finish_non_exhaustive()
    }
}
