//! Sends the items of one direction within the credit of the other side.

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use tokio::task::yield_now;
use tokio::time::Instant;

use super::Outlet;
use super::inbox::{Inbox, Side};
use crate::error::{ErrorKind, RpcError};
use crate::message::StreamError;
use crate::wire::{Amount, Frame, ITEM_PREFIX, push_item};

/// A message with this number of items, or this length in bytes, is sent without waiting for further items.
const MAX_ITEMS: u64 = 256;
const MAX_LEN: usize = 64 << 10;

/// A message is sent without waiting for further items after this time. The clock is read once for several items.
const MAX_GATHERING: Duration = Duration::from_micros(200);
const ITEMS_PER_READING: u64 = 8;

/// Items that are sent in one message, and the end of the items.
struct Batch {
    body: BytesMut,
    items: u64,
    end: Option<Option<StreamError>>,
    /// Further items may be ready.
    is_full: bool,
}

/// Sends items, and their end, as fast as the other side gives credit. Resolves once the end is sent.
///
/// A caller does not tell the server why its items end early: the error is returned, after the items before it were sent, and the caller stops
/// the stream.
///
/// Items that are ready together share a message. A future that is dropped earlier leaves in [`Inbox::sent`] the number of items that were sent.
pub(crate) async fn send_items(
    inbox: &Inbox,
    outlet: &impl Outlet,
    items: impl Stream<Item = Result<Bytes, StreamError>> + Unpin,
) -> Result<(), RpcError> {
    let mut source = Source {
        inbox,
        items,
        held: None,
        max_len: outlet.max_len(),
    };
    loop {
        let batch = std::future::poll_fn(|cx| source.poll_batch(cx)).await;
        let shared = inbox.shared();
        if batch.items > 0 {
            let first = shared.state.lock().sent;
            let body = batch.body.freeze();
            let bytes = body.len() as u64 - batch.items * ITEM_PREFIX as u64;
            outlet.send(Frame::Items { first, body }).await?;
            shared.meter.sent(batch.items, bytes);
            let mut state = shared.state.lock();
            state.sent += batch.items;
            state.spoken = Instant::now();
        }
        if let Some(error) = batch.end {
            let error = match (inbox.side(), error) {
                (Side::Caller, Some(error)) => return Err(of_caller(error)),
                (_, error) => error,
            };
            let items = inbox.sent();
            outlet.send(Frame::End { items, error }).await?;
            shared.state.lock().sent_end = Some(Instant::now());
            shared.changed.notify_one();
            return Ok(());
        }
        if batch.is_full {
            // A source that is always ready does not keep other tasks from running.
            yield_now().await;
        }
    }
}

/// Returns the reason why the items of a caller have ended early. The handler may have run.
fn of_caller(error: StreamError) -> RpcError {
    match error {
        StreamError::Rpc(error) => error.executed_if(true),
        StreamError::Own(_) => RpcError::new(
            ErrorKind::Encode,
            "the items of the caller ended in an error, which a caller cannot send",
        )
        .executed_if(true),
    }
}

/// Items that wait for credit.
struct Source<'a, S> {
    inbox: &'a Inbox,
    items: S,
    /// An item that is longer than the credit.
    held: Option<Bytes>,
    /// Length of the longest message.
    max_len: usize,
}

impl<S: Stream<Item = Result<Bytes, StreamError>> + Unpin> Source<'_, S> {
    /// Gathers the items that are ready and have credit; waits if there is none.
    fn poll_batch(&mut self, cx: &mut Context<'_>) -> Poll<Batch> {
        let mut batch = Batch {
            body: BytesMut::new(),
            items: 0,
            end: None,
            is_full: false,
        };
        let begun = Instant::now();
        let Some(mut credit) = self.inbox.shared().state.lock().credit.clone() else {
            return Poll::Pending; // The other side takes no items.
        };
        let mut paid = Amount::default();
        let mut waits_for_credit = false;
        loop {
            if !credit.is_open() {
                waits_for_credit = true;
                break;
            }
            let item = match self.held.take() {
                Some(held) => held,
                None => match self.items.poll_next_unpin(cx) {
                    Poll::Pending => break,
                    Poll::Ready(Some(Ok(item))) if item.len() + ITEM_PREFIX > self.max_len => {
                        batch.end = Some(Some(self.too_long(item.len()).into()));
                        break;
                    }
                    Poll::Ready(Some(Ok(item))) => item,
                    Poll::Ready(Some(Err(error))) => {
                        batch.end = Some(Some(error));
                        break;
                    }
                    Poll::Ready(None) => {
                        batch.end = Some(None);
                        break;
                    }
                },
            };
            let len = ITEM_PREFIX + item.len();
            // A message is no longer than the connection allows.
            let fits = batch.body.len() + len <= self.max_len;
            if !credit.allows(item.len()) || !fits {
                waits_for_credit = fits;
                batch.is_full = !fits;
                self.held = Some(item);
                break;
            }
            credit.pay(item.len());
            paid.add(Amount::of_item(item.len()));
            batch.items += 1;
            push_item(&mut batch.body, &item);
            if batch.items == MAX_ITEMS
                || batch.body.len() >= MAX_LEN
                || (batch.items.is_multiple_of(ITEMS_PER_READING)
                    && begun.elapsed() >= MAX_GATHERING)
            {
                batch.is_full = true;
                break;
            }
        }
        let mut state = self.inbox.shared().state.lock();
        let Some(own) = &mut state.credit else {
            return Poll::Pending;
        };
        // Credit may have come meanwhile, so the copy does not take the place of the original.
        own.pay_all(paid);
        if batch.items > 0 || batch.end.is_some() {
            return Poll::Ready(batch);
        }
        if waits_for_credit {
            let may_go_on = match &self.held {
                Some(item) => own.allows(item.len()),
                None => own.is_open(),
            };
            match may_go_on {
                true => cx.waker().wake_by_ref(),
                false => state.sender = Some(cx.waker().clone()),
            }
        }
        Poll::Pending
    }

    fn too_long(&self, len: usize) -> RpcError {
        RpcError::new(
            ErrorKind::TooLarge,
            format!(
                "an item of the stream has {len} bytes; the limit of the connection is {} (`ConnectionBuilder::max_message_size`)",
                self.max_len.saturating_sub(ITEM_PREFIX)
            ),
        )
    }
}
