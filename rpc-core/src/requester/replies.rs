//! The task that takes replies from the reply queue and hands them to the calls.

use std::sync::Arc;

use futures_util::stream::StreamExt;
use tokio::sync::mpsc;
use tokio::task::coop::cooperative;
use tokio::task::yield_now;
use tracing::debug;

use super::errors::unroutable;
use super::in_flight::{EndReason, InFlight};
use crate::batching;
use crate::transport::{Deliveries, Message};
use crate::wire::{self, Origin};

/// Longest batch of replies that is unpacked, in bytes. A server of this crate begins another batch after 64 KiB, so one
/// reply with large headers may still be added.
const MAX_BATCH_LEN: usize = 1 << 20;

/// Bytes of replies that are dispatched before timers and other tasks run.
const YIELD_AFTER: usize = 256 << 10;

/// Ends all calls when it is dropped.
struct EndOnDrop(Arc<InFlight>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end(EndReason::Lost(Arc::new(
            "the client's reply task ended".into(),
        )));
    }
}

/// Hands replies and returned requests to the calls until the reply queue is lost, then fails the calls that still wait.
pub(super) async fn receive(
    in_flight: Arc<InFlight>,
    mut replies: Deliveries,
    mut returns: mpsc::UnboundedReceiver<Message>,
) {
    // Calls fail at any end of the task, even when the runtime shuts down.
    let _guard = EndOnDrop(in_flight.clone());
    let mut len = 0;
    let reason = loop {
        tokio::select! {
            biased;
            // Pauses now and then, so that returned requests are seen during a flood of replies.
            reply = cooperative(replies.next()) => match reply {
                Some(Ok(delivery)) => {
                    len += delivery.message.body.len();
                    dispatch(&in_flight, delivery.message);
                    // `cooperative` counts replies, however long each takes.
                    if len >= YIELD_AFTER {
                        len = 0;
                        yield_now().await;
                    }
                }
                Some(Err(error)) => break EndReason::from(error),
                None => break EndReason::Lost(Arc::new("the reply queue is gone".into())),
            },
            // Requests have no message id.
            Some(request) = returns.recv() => {
                let correlation_id = request.correlation_id.as_deref();
                match &request.message_id {
                    None => in_flight.complete(correlation_id, Err(unroutable())),
                    Some(stream) => in_flight.returned_of_stream(correlation_id, stream),
                }
            }
        }
    };
    in_flight.end(reason);
}

/// Hands a reply, or the replies of a batch, to the waiting calls, and the message of a stream to its stream.
fn dispatch(in_flight: &InFlight, mut message: Message) {
    if message.message_id.is_some() {
        match in_flight.take_of_stream(message) {
            Some(reply) => message = reply,
            None => return,
        }
    }
    if !batching::is_batch(&message) {
        let correlation_id = message.correlation_id.take();
        let origin = Origin::take(&mut message);
        let result = wire::result_from_reply(message);
        return in_flight.complete_from(correlation_id.as_deref(), origin, result);
    }
    if message.body.len() > MAX_BATCH_LEN {
        let len = message.body.len();
        debug!(
            len,
            "a batch of replies was dropped: it is longer than {MAX_BATCH_LEN} bytes"
        );
        return in_flight.malformed();
    }
    match batching::replies_of(&message.body) {
        Ok((capacity, replies)) => {
            let results = replies.map(|reply| {
                let correlation_id = reply.correlation_id;
                (correlation_id, reply.into_result())
            });
            in_flight.complete_all(results, capacity);
        }
        Err(error) => {
            let error = error.to_string();
            debug!(error, "a batch of replies could not be read");
            in_flight.malformed();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio_util::task::AbortOnDropHandle;

    use super::super::dropped::DropCounter;
    use super::*;
    use crate::batching::format::Batch;
    use crate::transport::{Content, Delivery};

    fn reply(correlation_id: &str, len: usize) -> Message {
        Message::from(Content {
            correlation_id: Some(correlation_id.into()),
            content_type: Some("application/msgpack".into()),
            body: vec![0xc0; len].into(),
            ..Content::default()
        })
    }

    fn batch(ids: impl Iterator<Item = String>, len: usize) -> Message {
        let mut batch = Batch::new(1, 1);
        for id in ids {
            batch.push(&reply(&id, len)).unwrap();
        }
        batch.into_message()
    }

    #[tokio::test]
    async fn a_batch_longer_than_servers_make_is_dropped() {
        let dropped = Arc::new(DropCounter::default());
        let in_flight = Arc::new(InFlight::new(dropped.clone()));
        let mut waiter = in_flight.register(None).unwrap();
        let ids = || std::iter::repeat_n(waiter.correlation_id().to_string(), 200);
        let long = batch(ids(), 8 << 10);
        assert!(long.body.len() > MAX_BATCH_LEN);
        dispatch(&in_flight, long);
        assert_eq!(dropped.read().malformed, 1);
        let short = batch(ids(), 1);
        dispatch(&in_flight, short);
        assert_eq!(&waiter.result().await.unwrap().body[..], [0xc0]);
        let counted = dropped.read();
        assert_eq!((counted.malformed, counted.late), (1, 199));
    }

    /// Counts the replies of a length that are dispatched before another task runs.
    async fn dispatched_at_once(len: usize) -> usize {
        let taken = Arc::new(AtomicUsize::new(0));
        let count = taken.clone();
        let flood = futures_util::stream::repeat_with(move || {
            count.fetch_add(1, Ordering::Relaxed);
            Ok(Delivery {
                tag: 0,
                redelivered: false,
                message: reply("1", len),
            })
        });
        let in_flight = Arc::new(InFlight::new(Arc::default()));
        let (_returned, returns) = mpsc::unbounded_channel();
        let receiving =
            AbortOnDropHandle::new(tokio::spawn(receive(in_flight, flood.boxed(), returns)));
        let other = tokio::spawn(async move { taken.load(Ordering::Relaxed) });
        let taken = other.await.unwrap();
        drop(receiving);
        taken
    }

    #[tokio::test]
    async fn other_tasks_run_during_a_flood_of_replies() {
        let short = dispatched_at_once(10).await;
        assert!((2..1_000).contains(&short), "{short}");
        let long = dispatched_at_once(YIELD_AFTER / 2).await;
        assert_eq!(long, 2);
    }
}
