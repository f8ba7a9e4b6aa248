//! The state of an open stream that the task which receives its messages shares with the side's own task and with the reader.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures_util::Stream;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::Span;

use super::window::{Credit, Intake, Violation};
use crate::error::{ErrorKind, RpcError};
use crate::message::{ItemStream, StreamError};
use crate::telemetry::{self, StreamMeter};
use crate::wire::{Amount, Frame, item_lens, split_item};

/// The two sides of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Ends with the items that it receives, or with their reader.
    Caller,
    /// Ends with its handler.
    Server,
}

/// One side of an open stream. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Inbox(Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    side: Side,
    pub(super) meter: StreamMeter,
    pub(super) state: Mutex<State>,
    /// Wakes [`watch`](super::watch).
    pub(super) changed: Notify,
    /// Wakes [`send_controls`](super::send_controls).
    pub(super) due: Notify,
}

#[derive(Debug)]
pub(super) struct State {
    /// Packed items that the reader has not taken; `None` if this side receives no items.
    receiving: Option<Receiving>,
    /// Credit of this side's items.
    pub(super) credit: Option<Credit>,
    /// Wakes [`send_items`](super::send_items) when there is credit.
    pub(super) sender: Option<Waker>,
    /// Number of items that this side has sent.
    pub(super) sent: u64,
    /// Number of items that the reader has read.
    read: u64,
    /// Set once this side has sent its last item.
    pub(super) sent_end: Option<Instant>,
    /// Credit that the other side gets.
    pub(super) due: Option<Amount>,
    /// Time of the last message from the other side, and to it.
    pub(super) heard: Instant,
    pub(super) spoken: Instant,
    /// Set once the other side has stopped the stream.
    pub(super) stopped: bool,
    /// Set once the other side has ended the stream by a message that is not a [`Frame`].
    is_finished: bool,
    reader_is_gone: bool,
    /// Set once the stream has failed on this side.
    pub(super) failure: Option<RpcError>,
}

#[derive(Debug)]
struct Receiving {
    unread: VecDeque<Bytes>,
    intake: Intake,
    /// The end: the other side's own, or an error.
    end: Option<Result<(), StreamError>>,
    reader: Option<Waker>,
}

impl Inbox {
    /// Makes a side that receives items within a window. It sends none before [`open`](Self::open).
    pub(crate) fn new(side: Side, receives: Option<Amount>, meter: StreamMeter) -> Self {
        let now = Instant::now();
        let receiving = receives.map(|window| Receiving {
            unread: VecDeque::new(),
            intake: Intake::new(window),
            end: None,
            reader: None,
        });
        Self(Arc::new(Shared {
            side,
            meter,
            state: Mutex::new(State {
                receiving,
                credit: None,
                sender: None,
                sent: 0,
                read: 0,
                sent_end: None,
                due: None,
                heard: now,
                spoken: now,
                stopped: false,
                is_finished: false,
                reader_is_gone: false,
                failure: None,
            }),
            changed: Notify::new(),
            due: Notify::new(),
        }))
    }

    pub(super) fn side(&self) -> Side {
        self.0.side
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.0
    }

    /// Lets this side send items within the other side's window. Its first message has arrived.
    pub(crate) fn open(&self, window: Option<Amount>) {
        let mut state = self.0.state.lock();
        state.credit = window.map(Credit::of);
        state.heard = Instant::now();
        state.spoken = state.heard;
    }

    /// Counts the stream as open, until the returned value is dropped. The numbers of items are then recorded on the span.
    pub(crate) fn count_as_open(&self, span: Span) -> CountedStream {
        self.0.meter.opened();
        CountedStream {
            inbox: self.clone(),
            span,
        }
    }

    /// Returns the number of items that this side has sent.
    pub(crate) fn sent(&self) -> u64 {
        self.0.state.lock().sent
    }

    /// Returns the number of items that the reader has read.
    pub(crate) fn read(&self) -> u64 {
        self.0.state.lock().read
    }

    /// Records a message of the other side that is not a [`Frame`].
    pub(crate) fn heard(&self) {
        self.0.state.lock().heard = Instant::now();
    }

    /// Ends the stream because of a message of the other side that is not a [`Frame`]: its reply.
    pub(crate) fn finish(&self) {
        self.0.state.lock().is_finished = true;
        self.0.changed.notify_one();
    }

    /// Takes a message of the other side. Never waits.
    pub(crate) fn take(&self, frame: Frame) {
        let mut state = self.0.state.lock();
        state.heard = Instant::now();
        let is_change = matches!(frame, Frame::Stop | Frame::End { .. });
        let taken = state.take(frame);
        drop(state);
        match taken {
            Ok(waker) => {
                if is_change {
                    self.0.changed.notify_one();
                }
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            Err(violation) => self.fail(self.broken(&violation)),
        }
    }

    /// Ends the stream because of a message of the other side that cannot be read. Without the message, the stream could go on without an end.
    pub(crate) fn take_malformed(&self) {
        self.fail(self.broken(&Violation::Malformed));
    }

    fn broken(&self, violation: &Violation) -> RpcError {
        let kind = match self.0.side {
            Side::Caller => ErrorKind::BadReply,
            Side::Server => ErrorKind::BadRequest,
        };
        RpcError::new(kind, format!("the stream is broken: {violation}")).executed_if(true)
    }

    /// Ends the stream on this side. What arrived before is read first, and the error is the last item.
    pub(crate) fn fail(&self, error: RpcError) {
        let mut state = self.0.state.lock();
        // Both under one lock, so that the end is not taken for the other side's.
        let reader = state.end_items(error.copied());
        if state.failure.is_none() {
            state.failure = Some(error);
        }
        drop(state);
        self.0.changed.notify_one();
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Returns `true` if all items of the other side have arrived, with the end that it intended.
    pub(crate) fn is_complete(&self) -> bool {
        let state = self.0.state.lock();
        let receiving = state.receiving.as_ref();
        receiving.is_some_and(|receiving| matches!(receiving.end, Some(Ok(()))))
    }

    /// Returns the items that arrive; none if this side receives no items. There is one reader. A caller's side ends when the reader is dropped.
    pub(crate) fn reader(&self) -> ItemStream {
        Box::pin(Reader {
            shared: self.0.clone(),
            current: Bytes::new(),
            read: Amount::default(),
            is_over: false,
        })
    }
}

impl State {
    /// Takes a message of the other side. Returns the task to wake.
    fn take(&mut self, frame: Frame) -> Result<Option<Waker>, Violation> {
        match frame {
            Frame::Alive => Ok(None),
            Frame::Credit(amount) => {
                if let Some(credit) = &mut self.credit {
                    credit.refill(amount);
                }
                Ok(self.sender.take())
            }
            Frame::Stop => {
                self.stopped = true;
                Ok(None)
            }
            Frame::Items { first, body } => {
                let Some(receiving) = self.receiving.as_mut().filter(|to| to.end.is_none()) else {
                    return Ok(None);
                };
                receiving.intake.take(first, item_lens(&body))?;
                if !self.reader_is_gone {
                    receiving.unread.push_back(body);
                }
                Ok(receiving.reader.take())
            }
            Frame::End { items, error } => {
                let Some(receiving) = self.receiving.as_mut().filter(|to| to.end.is_none()) else {
                    return Ok(None);
                };
                receiving.intake.expect(items)?;
                receiving.end = Some(error.map_or(Ok(()), Err));
                Ok(receiving.reader.take())
            }
        }
    }

    /// Ends the items that arrive with an error, unless they have ended. Returns the task to wake.
    fn end_items(&mut self, error: RpcError) -> Option<Waker> {
        let receiving = self.receiving.as_mut().filter(|to| to.end.is_none())?;
        receiving.end = Some(Err(StreamError::Rpc(error)));
        receiving.reader.take()
    }

    /// Returns `true` once the other side has ended its items, or the stream.
    pub(super) fn has_ended(&self) -> bool {
        let receiving = self.receiving.as_ref();
        self.is_finished || receiving.is_some_and(|receiving| receiving.end.is_some())
    }

    pub(super) fn reader_is_gone(&self) -> bool {
        self.reader_is_gone
    }
}

/// A stream that counts as open.
#[derive(Debug)]
pub(crate) struct CountedStream {
    inbox: Inbox,
    span: Span,
}

impl Drop for CountedStream {
    fn drop(&mut self) {
        let Shared {
            side, meter, state, ..
        } = &*self.inbox.0;
        meter.closed();
        let (sent, read) = {
            let state = state.lock();
            (state.sent, state.read)
        };
        telemetry::items_sent(&self.span, sent);
        // The reader of a caller may still read, and records the number itself.
        if *side == Side::Server {
            telemetry::items_received(&self.span, read);
        }
    }
}

/// The items of an inbox.
struct Reader {
    shared: Arc<Shared>,
    /// The rest of the message that is read.
    current: Bytes,
    /// The amount of the message that was read.
    read: Amount,
    is_over: bool,
}

impl Reader {
    /// Counts the items of the message that were read, and gives the sender credit once enough was read.
    fn give_credit(&mut self) {
        let read = std::mem::take(&mut self.read);
        self.shared.meter.received(read.items, read.bytes);
        let mut state = self.shared.state.lock();
        state.read += read.items;
        let State { receiving, due, .. } = &mut *state;
        let credit = receiving
            .as_mut()
            .and_then(|receiving| receiving.intake.read(read));
        if let Some(amount) = credit {
            due.get_or_insert_default().add(amount);
            drop(state);
            self.shared.due.notify_one();
        }
    }
}

impl Stream for Reader {
    type Item = Result<Bytes, StreamError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let reader = &mut *self;
        loop {
            // Without the lock, because most items end here. The inbox has checked the lengths.
            if let Some(item) = split_item(&mut reader.current) {
                reader.read.add(Amount::of_item(item.len()));
                if reader.current.is_empty() {
                    reader.give_credit();
                }
                return Poll::Ready(Some(Ok(item)));
            }
            if reader.is_over {
                return Poll::Ready(None);
            }
            let mut state = reader.shared.state.lock();
            let Some(receiving) = &mut state.receiving else {
                return Poll::Ready(None);
            };
            if let Some(next) = receiving.unread.pop_front() {
                reader.current = next;
            } else if let Some(end) = &mut receiving.end {
                reader.is_over = true;
                let end = std::mem::replace(end, Ok(()));
                return Poll::Ready(end.err().map(Err));
            } else {
                receiving.reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if self.read != Amount::default() {
            self.give_credit();
        }
        let mut state = self.shared.state.lock();
        state.reader_is_gone = true;
        let receiving = state.receiving.as_mut();
        let unread = receiving.map(|receiving| std::mem::take(&mut receiving.unread));
        drop(state);
        drop(unread); // Without holding the lock.
        self.shared.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::task::Wake;

    use futures_util::{FutureExt, StreamExt};

    use super::*;
    use crate::streaming::DEFAULT_WINDOW;

    /// Notes, when the reader is woken, if the reason of the failure is known.
    struct Woken {
        inbox: Inbox,
        knows: Mutex<Option<bool>>,
    }

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            let knows = self.inbox.0.state.lock().failure.is_some();
            *self.knows.lock() = Some(knows);
        }
    }

    #[test]
    fn a_failed_side_never_looks_as_if_the_other_had_ended() {
        let meter = StreamMeter::of_client("Service", "method");
        let inbox = Inbox::new(Side::Caller, Some(DEFAULT_WINDOW), meter);
        let woken = Arc::new(Woken {
            inbox: inbox.clone(),
            knows: Mutex::new(None),
        });
        let mut reader = inbox.reader();
        let waker = woken.clone().into();
        let polled = reader.poll_next_unpin(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
        inbox.fail(RpcError::new(ErrorKind::BadReply, "broken"));
        assert_eq!(*woken.knows.lock(), Some(true));
        assert!(reader.next().now_or_never().is_some());
    }

    #[test]
    fn items_are_complete_after_the_end_of_the_other_side_alone() {
        let meter = StreamMeter::of_server("Service", "method");
        let inbox = Inbox::new(Side::Server, Some(DEFAULT_WINDOW), meter);
        assert!(!inbox.is_complete());
        let end = |items| Frame::End { items, error: None };
        inbox.take(end(0));
        assert!(inbox.is_complete());
        let meter = StreamMeter::of_server("Service", "method");
        let failed = Inbox::new(Side::Server, Some(DEFAULT_WINDOW), meter);
        failed.fail(RpcError::new(ErrorKind::Cancelled, "no more"));
        failed.take(end(0));
        assert!(!failed.is_complete());
    }
}
