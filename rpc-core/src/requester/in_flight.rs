//! Calls that wait for a reply, by correlation id.
//!
//! A call is registered before its request is published, so that the fastest reply finds the call, and unregistered on every
//! exit: completed, failed, out of time or dropped.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, MutexGuard};
use rustc_hash::FxHashMap;
use smol_str::SmolStr;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::dropped::DropCounter;
use super::errors::may_not_publish;
use super::gathers::{PendingGather, Refusal};
use super::health::ChannelHealth;
use super::streams::{PendingStream, Taken};
use crate::batching::UnansweredMessage;
use crate::error::{BoxError, ErrorKind, RpcError};
use crate::message::Response;
use crate::transport::{Message, TransportError};
use crate::wire::{Origin, correlation_id, parse_correlation_id};

/// Result of a call.
type CallResult = Result<Response, RpcError>;

/// The table of waiting calls.
#[derive(Debug)]
pub(crate) struct InFlight {
    table: Mutex<Table>,
    /// Copy of the table's state, for readers that tolerate a short delay.
    has_ended: AtomicBool,
    /// Health of the channel for requests and replies.
    pub(crate) health: ChannelHealth,
    dropped: Arc<DropCounter>,
}

#[derive(Debug, Default)]
struct Table {
    /// A fast hash is safe: the ids are made here, and ids that arrive are only looked up.
    calls: FxHashMap<Uuid, Pending>,
    /// Calls of batches that may come back as a whole.
    batches: FxHashMap<Uuid, Vec<Uuid>>,
    /// Requests that several instances answer. Only replies for which there is no call are looked up here.
    gathers: FxHashMap<Uuid, PendingGather>,
    /// Streams that are open, or are being opened. Looked up like gathers, and for messages with an id.
    streams: FxHashMap<Uuid, Arc<PendingStream>>,
    /// The call that was registered last; nil if another message was published since.
    last: Uuid,
    ended: Option<EndReason>,
}

/// A call that waits.
#[derive(Debug)]
struct Pending {
    sender: oneshot::Sender<CallResult>,
    /// Message of a call that goes through a batch queue. Dropped without holding a lock, because its destructor takes locks.
    message: Option<Arc<SentMessage>>,
}

/// A message that counts as unanswered, with the calls in it.
#[derive(Debug)]
pub(crate) struct SentMessage {
    unanswered: UnansweredMessage,
    /// The table with the calls of a batch, and the batch's own id.
    batch: Option<(Weak<InFlight>, Uuid)>,
}

impl SentMessage {
    /// Returns the message of a single call.
    pub(crate) fn with_one_call(unanswered: UnansweredMessage) -> Arc<Self> {
        Arc::new(Self {
            unanswered,
            batch: None,
        })
    }
}

impl Drop for SentMessage {
    /// Forgets the calls of a batch, which cannot come back as a whole any more.
    fn drop(&mut self) {
        if let Some((in_flight, id)) = self.batch.take()
            && let Some(in_flight) = in_flight.upgrade()
        {
            in_flight.table().batches.remove(&id);
        }
    }
}

/// Reason why no more replies can come.
#[derive(Clone, Debug)]
pub(super) enum EndReason {
    Lost(Arc<BoxError>),
    /// The broker closed the channel, because the user may not publish to it.
    Forbidden(Arc<BoxError>),
    Closed,
}

impl From<TransportError> for EndReason {
    fn from(error: TransportError) -> Self {
        match error {
            TransportError::Forbidden(cause) => Self::Forbidden(cause),
            error => Self::Lost(Arc::new(error.into())),
        }
    }
}

impl EndReason {
    /// Returns the error of a call that was sent before the end.
    fn error(&self) -> RpcError {
        match self {
            Self::Lost(cause) => RpcError::new(
                ErrorKind::Disconnected,
                "the connection to the broker was lost",
            )
            .with_source(cause.to_string()),
            Self::Forbidden(cause) => may_not_publish(cause.to_string()).executed_if(true),
            Self::Closed => RpcError::new(
                ErrorKind::Closed,
                "the connection was closed by this process",
            ),
        }
    }
}

impl InFlight {
    pub(super) fn new(dropped: Arc<DropCounter>) -> Self {
        Self {
            table: Mutex::default(),
            has_ended: AtomicBool::new(false),
            health: ChannelHealth::new(),
            dropped,
        }
    }

    /// Registers a new call under a fresh id.
    pub(crate) fn register(
        self: &Arc<Self>,
        message: Option<Arc<SentMessage>>,
    ) -> Result<Waiter, RpcError> {
        let id = Uuid::new_v4();
        let (sender, receiver) = oneshot::channel();
        let pending = Pending { sender, message };
        let mut table = self.table();
        match &table.ended {
            Some(reason) => Err(reason.error().not_executed()),
            None => {
                table.calls.insert(id, pending);
                table.last = id;
                Ok(Waiter {
                    id,
                    receiver,
                    is_over: false,
                    in_flight: self.clone(),
                })
            }
        }
    }

    /// Registers the message in which calls are sent.
    pub(super) fn share(
        self: &Arc<Self>,
        calls: &[Uuid],
        unanswered: UnansweredMessage,
        batch: Option<Uuid>,
    ) {
        let message = Arc::new(SentMessage {
            unanswered,
            batch: batch.map(|id| (Arc::downgrade(self), id)),
        });
        let mut table = self.table();
        for id in calls {
            if let Some(pending) = table.calls.get_mut(id) {
                pending.message = Some(message.clone());
            }
        }
        if let Some(batch) = batch {
            table.batches.insert(batch, calls.to_vec());
        }
    }

    /// Fails the calls, except those that are over.
    pub(super) fn fail(&self, calls: &[Uuid], error: &RpcError) {
        for id in calls {
            let pending = self.table().calls.remove(id);
            if let Some(pending) = pending {
                let _ = pending.sender.send(Err(error.copied())); // The call may be over.
            }
        }
    }

    /// Registers a request that several instances answer.
    pub(super) fn add_gather(&self, id: Uuid, gather: PendingGather) -> Result<(), RpcError> {
        let mut table = self.table();
        match &table.ended {
            Some(reason) => Err(reason.error().not_executed()),
            None => {
                table.gathers.insert(id, gather);
                Ok(())
            }
        }
    }

    pub(super) fn remove_gather(&self, id: Uuid) {
        let gather = self.table().gathers.remove(&id);
        drop(gather); // Without holding the lock.
    }

    /// Registers a stream.
    pub(super) fn add_stream(&self, id: Uuid, stream: Arc<PendingStream>) -> Result<(), RpcError> {
        let mut table = self.table();
        match &table.ended {
            Some(reason) => Err(reason.error().not_executed()),
            None => {
                table.streams.insert(id, stream);
                table.last = id;
                Ok(())
            }
        }
    }

    pub(super) fn remove_stream(&self, id: Uuid) {
        let stream = self.table().streams.remove(&id);
        drop(stream); // Without holding the lock.
    }

    /// Notes that a message of a stream was published, so that it is not taken for the request of the last call.
    pub(super) fn published_after_calls(&self) {
        self.table().last = Uuid::nil();
    }

    /// Hands a message with an id to the stream that has its correlation id. Returns a message that is an ordinary reply, or names no stream.
    pub(super) fn take_of_stream(&self, message: Message) -> Option<Message> {
        let correlation_id = message.correlation_id.as_deref();
        let Some((id, stream)) = correlation_id.and_then(|text| self.stream(text)) else {
            return Some(message);
        };
        self.health.succeeded();
        match stream.take(message) {
            Taken::GoesOn => {}
            Taken::IsOver => self.remove_stream(id),
            Taken::Reply(reply) => return Some(reply),
            Taken::Late => self.dropped.count_late(),
            Taken::Foreign => self.dropped.count_foreign(),
            Taken::Malformed => self.dropped.count_malformed(),
        }
        None
    }

    /// Tells the stream that one of its messages has come back, because there is no such queue.
    pub(super) fn returned_of_stream(&self, correlation_id: Option<&str>, id: &str) {
        if let Some((_, stream)) = correlation_id.and_then(|text| self.stream(text)) {
            stream.returned(Some(id));
        }
    }

    pub(super) fn stream(&self, correlation_id: &str) -> Option<(Uuid, Arc<PendingStream>)> {
        let id = parse_correlation_id(correlation_id)?;
        let stream = self.table().streams.get(&id).cloned()?;
        Some((id, stream))
    }

    /// Completes the call that waits for a reply; counts the reply if no call does.
    pub(super) fn complete(&self, correlation_id: Option<&str>, result: CallResult) {
        self.complete_from(correlation_id, None, result);
    }

    /// Completes the call that waits for a reply, or adds the reply to the answers of a gather; counts the reply if no one waits.
    pub(super) fn complete_from(
        &self,
        correlation_id: Option<&str>,
        origin: Option<Box<Origin>>,
        result: CallResult,
    ) {
        self.health.succeeded();
        let Some(text) = correlation_id else {
            return self.malformed();
        };
        let Some(id) = parse_correlation_id(text) else {
            return self.dropped.count_foreign();
        };
        let pending = self.table().calls.remove(&id);
        self.finish(id, pending, origin, result, None);
    }

    /// Completes the calls that wait for the replies of a batch; `capacity` is the number of requests that the server accepts in one
    /// message.
    pub(super) fn complete_all<'a>(
        &self,
        results: impl Iterator<Item = (&'a str, CallResult)>,
        capacity: u16,
    ) {
        self.health.succeeded();
        let mut known = Vec::with_capacity(results.size_hint().0);
        for (text, result) in results {
            match parse_correlation_id(text) {
                Some(id) => known.push((id, None, result)),
                None => self.dropped.count_foreign(),
            }
        }
        let mut table = self.table();
        for (id, pending, _) in &mut known {
            *pending = table.calls.remove(id);
        }
        drop(table);
        for (id, pending, result) in known {
            self.finish(id, pending, None, result, Some(capacity));
        }
    }

    fn finish(
        &self,
        id: Uuid,
        pending: Option<Pending>,
        origin: Option<Box<Origin>>,
        result: CallResult,
        capacity: Option<u16>,
    ) {
        let Some(Pending { sender, message }) = pending else {
            return self.finish_other(id, origin, result);
        };
        let is_late = sender.send(result).is_err();
        if let Some(message) = message {
            message.unanswered.answered(capacity);
        }
        if is_late {
            self.dropped.count_late();
        }
    }

    /// Handles a reply for which there is no call: one to a stream, an answer to a gather, the refusal of a batch, or a late reply.
    fn finish_other(&self, id: Uuid, origin: Option<Box<Origin>>, result: CallResult) {
        let mut table = self.table();
        if let Some(stream) = table.streams.get(&id).cloned() {
            drop(table);
            match stream.reply(result) {
                true => self.remove_stream(id),
                false => self.dropped.count_late(),
            }
            return;
        }
        let Some(gather) = table.gathers.get_mut(&id) else {
            drop(table);
            let is_late = match result {
                Ok(_) => true,
                Err(error) => !self.fail_batch(id, &error),
            };
            if is_late {
                self.dropped.count_late();
            }
            return;
        };
        let accepted = gather.accept(origin, result);
        drop(table);
        let outcome = accepted.and_then(|(events, answer)| {
            // Without the lock: this wakes the reader, who may be gone.
            events.send(Ok(answer)).map_err(|_| Refusal::Late)
        });
        match outcome {
            Ok(()) => {}
            Err(Refusal::Late) => self.dropped.count_late(),
            Err(Refusal::Malformed) => self.dropped.count_malformed(),
        }
    }

    /// Fails the calls of a batch that comes back as a whole. Returns `false` if there is no batch of that id.
    fn fail_batch(&self, id: Uuid, error: &RpcError) -> bool {
        let calls = self.table().batches.remove(&id);
        calls.inspect(|calls| self.fail(calls, error)).is_some()
    }

    #[cfg(test)]
    pub(super) fn dropped(&self) -> super::dropped::DroppedReplies {
        self.dropped.read()
    }

    /// Counts a malformed reply.
    pub(super) fn malformed(&self) {
        self.dropped.count_malformed();
    }

    /// Fails every call and every stream, and ends every gather, those in flight and those to come.
    pub(super) fn end(&self, reason: EndReason) {
        let (calls, gathers, streams, last) = {
            let mut table = self.table();
            if table.ended.is_some() {
                return;
            }
            table.ended = Some(reason.clone());
            self.has_ended.store(true, Ordering::Relaxed);
            let calls = std::mem::take(&mut table.calls);
            let gathers = std::mem::take(&mut table.gathers);
            let streams = std::mem::take(&mut table.streams);
            (calls, gathers, streams, table.last)
        };
        let error_of = |id| {
            let error = reason.error();
            // After a forbidden message, the broker accepts no more on the channel.
            match matches!(reason, EndReason::Forbidden(_)) && id == last {
                true => error.not_executed(),
                false => error,
            }
        };
        for (id, pending) in calls {
            let _ = pending.sender.send(Err(error_of(id))); // The call may be over.
        }
        for (id, stream) in streams {
            stream.fail(&error_of(id));
        }
        for gather in gathers.into_values() {
            gather.end(reason.error());
        }
    }

    /// Returns `true` if this is the call that was registered last.
    pub(crate) fn is_last(&self, id: Uuid) -> bool {
        self.table().last == id
    }

    pub(super) fn is_live(&self) -> bool {
        !self.has_ended.load(Ordering::Relaxed)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock()
    }
}

/// A registered call. Dropping it unregisters the call.
#[derive(Debug)]
pub(crate) struct Waiter {
    id: Uuid,
    receiver: oneshot::Receiver<CallResult>,
    /// Set once the call has left the table.
    is_over: bool,
    in_flight: Arc<InFlight>,
}

impl Waiter {
    pub(crate) fn id(&self) -> Uuid {
        self.id
    }

    pub(crate) fn correlation_id(&self) -> SmolStr {
        correlation_id(self.id)
    }

    /// Waits for the result of the call.
    pub(crate) async fn result(&mut self) -> CallResult {
        let result = (&mut self.receiver).await;
        self.is_over = true;
        match result {
            Ok(result) => result,
            // The table uses each sender before it drops the sender.
            Err(_) => Err(RpcError::new(
                ErrorKind::Disconnected,
                "the client's reply task ended",
            )),
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if !self.is_over {
            let pending = self.in_flight.table().calls.remove(&self.id);
            drop(pending); // Without holding the lock.
        }
    }
}

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::ContentType;
    use crate::message::Outcome;
    use crate::requester::dropped::DroppedReplies;

    fn response(body: &'static [u8]) -> CallResult {
        Ok(Response::new(
            Outcome::Result,
            ContentType::MessagePack,
            body.into(),
        ))
    }

    #[tokio::test]
    async fn a_reply_reaches_only_the_call_with_its_id() {
        let in_flight = Arc::new(InFlight::new(Arc::default()));
        let mut first = in_flight.register(None).unwrap();
        let mut second = in_flight.register(None).unwrap();
        in_flight.complete(Some(&second.correlation_id()), response(b"2"));
        in_flight.complete(Some(&first.correlation_id()), response(b"1"));
        assert_eq!(&first.result().await.unwrap().body[..], b"1");
        assert_eq!(&second.result().await.unwrap().body[..], b"2");
        assert_eq!(in_flight.dropped.read(), DroppedReplies::default());
    }

    #[tokio::test]
    async fn late_duplicate_foreign_and_malformed_replies_are_counted() {
        let in_flight = Arc::new(InFlight::new(Arc::default()));
        let waiter = in_flight.register(None).unwrap();
        let id = waiter.correlation_id();
        drop(waiter);
        in_flight.complete(Some(&id), response(b""));
        in_flight.complete(Some("1"), response(b""));
        in_flight.complete(None, response(b""));
        assert_eq!(
            in_flight.dropped.read(),
            DroppedReplies {
                late: 1,
                foreign: 1,
                malformed: 1
            }
        );
        let mut completed = in_flight.register(None).unwrap();
        let id = completed.correlation_id();
        in_flight.complete(Some(&id), response(b"once"));
        in_flight.complete(Some(&id), response(b"twice"));
        assert_eq!(&completed.result().await.unwrap().body[..], b"once");
        assert_eq!(in_flight.dropped.read().late, 2);
    }

    #[tokio::test]
    async fn dropping_a_call_unregisters_it() {
        let in_flight = Arc::new(InFlight::new(Arc::default()));
        drop(in_flight.register(None).unwrap());
        assert!(in_flight.table().calls.is_empty());
    }

    #[tokio::test]
    async fn the_end_fails_calls_in_flight_and_later_calls() {
        let in_flight = Arc::new(InFlight::new(Arc::default()));
        let mut waiting = in_flight.register(None).unwrap();
        in_flight.end(EndReason::Lost(Arc::new("reset by peer".into())));
        let error = waiting.result().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Disconnected);
        assert!(error.may_have_executed());
        let error = in_flight.register(None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Disconnected);
        assert!(!error.may_have_executed());
    }
}
