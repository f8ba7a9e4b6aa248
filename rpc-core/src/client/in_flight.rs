//! The calls that wait for an answer, by correlation id.
//!
//! A call is registered before its request is published, so that the fastest reply finds it, and unregistered on every
//! way out: answered, failed, out of time or dropped.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smol_str::SmolStr;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::coalesce::Unanswered;
use super::silence::Silence;
use crate::error::{BoxError, ErrorKind, RpcError};
use crate::message::Response;
use crate::random_keys::RandomKeyMap;
use crate::telemetry::metrics;
use crate::transport::TransportError;

/// The fate of a call.
pub(crate) type Answer = Result<Response, RpcError>;

/// Replies that no call was waiting for, by what was wrong with them; each was dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DroppedReplies {
    /// The call was over: its deadline had passed, its future was dropped, or it had been answered already.
    pub late: u64,
    /// The correlation id is not one that this client makes.
    pub foreign: u64,
    /// There is no correlation id, or it is a batch of replies that cannot be read.
    pub malformed: u64,
}

/// Counts [`DroppedReplies`] over the life of a connection.
#[derive(Debug, Default)]
pub(crate) struct DropCounter {
    late: AtomicU64,
    foreign: AtomicU64,
    malformed: AtomicU64,
}

impl DropCounter {
    fn count(counter: &AtomicU64, reason: &'static str) {
        counter.fetch_add(1, Ordering::Relaxed);
        metrics::reply_dropped(reason);
    }

    pub(crate) fn read(&self) -> DroppedReplies {
        DroppedReplies {
            late: self.late.load(Ordering::Relaxed),
            foreign: self.foreign.load(Ordering::Relaxed),
            malformed: self.malformed.load(Ordering::Relaxed),
        }
    }
}

/// The table of waiting calls.
#[derive(Debug)]
pub(crate) struct InFlight {
    table: Mutex<Table>,
    /// What the table says, for those who need not know it exactly.
    has_ended: AtomicBool,
    /// How long nothing was heard from the broker.
    pub(crate) silence: Silence,
    dropped: Arc<DropCounter>,
}

#[derive(Debug, Default)]
struct Table {
    /// The ids are made here; those that arrive are only looked up.
    calls: RandomKeyMap<Uuid, Pending>,
    /// The calls of batches that may come back as a whole.
    batches: RandomKeyMap<Uuid, Vec<Uuid>>,
    /// The call that was registered last.
    last: Uuid,
    ended: Option<Ended>,
}

/// A call that waits.
#[derive(Debug)]
struct Pending {
    answer: oneshot::Sender<Answer>,
    /// Its message, where that is of interest. Dropped while nothing is locked: it has more to tell then.
    message: Option<Arc<Unanswered>>,
}

/// Why no more answers can come.
#[derive(Clone, Debug)]
pub(crate) enum Ended {
    Lost(Arc<BoxError>),
    /// The broker closed the channel, because the user may not publish to it.
    Forbidden(Arc<BoxError>),
    Closed,
}

impl From<TransportError> for Ended {
    fn from(error: TransportError) -> Self {
        match error {
            TransportError::Forbidden(cause) => Self::Forbidden(cause),
            error => Self::Lost(Arc::new(error.into())),
        }
    }
}

impl Ended {
    /// The error for a call that was sent before.
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
    pub(crate) fn new(dropped: Arc<DropCounter>) -> Self {
        Self {
            table: Mutex::default(),
            has_ended: AtomicBool::new(false),
            silence: Silence::new(),
            dropped,
        }
    }

    /// Registers a new call under a fresh id.
    pub(crate) fn register(
        self: &Arc<Self>,
        message: Option<Arc<Unanswered>>,
    ) -> Result<Waiter, RpcError> {
        let id = Uuid::new_v4();
        let (sender, answer) = oneshot::channel();
        let pending = Pending {
            answer: sender,
            message,
        };
        let mut table = self.table();
        match &table.ended {
            Some(ended) => Err(ended.error().not_executed()),
            None => {
                table.calls.insert(id, pending);
                table.last = id;
                Ok(Waiter {
                    id,
                    answer,
                    is_over: false,
                    in_flight: self.clone(),
                })
            }
        }
    }

    /// Calls share a message from now on.
    pub(super) fn share(&self, calls: &[Uuid], message: Unanswered) {
        let batch = message.batch();
        let message = Arc::new(message);
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

    /// Nothing will come back for a batch as a whole.
    pub(super) fn forget_batch(&self, batch: Uuid) {
        self.table().batches.remove(&batch);
    }

    /// Fails those of the calls that still wait.
    pub(super) fn fail(&self, calls: &[Uuid], error: &RpcError) {
        for id in calls {
            let pending = self.table().calls.remove(id);
            if let Some(pending) = pending {
                let _ = pending.answer.send(Err(error.copied())); // The call may be over.
            }
        }
    }

    /// Gives an answer to the call that waits for it; counts it if none does.
    pub(crate) fn answer(&self, correlation_id: Option<&str>, answer: Answer) {
        self.silence.broken();
        let Some(text) = correlation_id else {
            return self.malformed();
        };
        let Some(id) = parse_id(text) else {
            return self.foreign();
        };
        let pending = self.table().calls.remove(&id);
        self.settle(id, pending, answer, None);
    }

    /// The same for answers that came together, from a server that takes so many requests in one message.
    pub(crate) fn answer_all<'a>(
        &self,
        answers: impl Iterator<Item = (&'a str, Answer)>,
        taken: u16,
    ) {
        self.silence.broken();
        let mut known = Vec::with_capacity(answers.size_hint().0);
        for (text, answer) in answers {
            match parse_id(text) {
                Some(id) => known.push((id, None, answer)),
                None => self.foreign(),
            }
        }
        let mut table = self.table();
        for (id, pending, _) in &mut known {
            *pending = table.calls.remove(id);
        }
        drop(table);
        for (id, pending, answer) in known {
            self.settle(id, pending, answer, Some(taken));
        }
    }

    fn settle(&self, id: Uuid, pending: Option<Pending>, answer: Answer, taken: Option<u16>) {
        let is_late = match (pending, answer) {
            (
                Some(Pending {
                    answer: waiting,
                    message,
                }),
                answer,
            ) => {
                let is_late = waiting.send(answer).is_err();
                if let Some(message) = message {
                    message.answered(taken);
                }
                is_late
            }
            (None, Err(error)) => !self.fail_batch(id, &error),
            (None, Ok(_)) => true,
        };
        if is_late {
            DropCounter::count(&self.dropped.late, "late");
        }
    }

    /// Fails the calls of a batch that comes back as a whole; whether there is one of that id.
    fn fail_batch(&self, id: Uuid, error: &RpcError) -> bool {
        let calls = self.table().batches.remove(&id);
        calls.inspect(|calls| self.fail(calls, error)).is_some()
    }

    fn foreign(&self) {
        DropCounter::count(&self.dropped.foreign, "foreign");
    }

    /// Counts a reply that makes no sense.
    pub(crate) fn malformed(&self) {
        DropCounter::count(&self.dropped.malformed, "malformed");
    }

    /// Fails every call, those in flight and those to come.
    pub(crate) fn end(&self, ended: Ended) {
        let (calls, last) = {
            let mut table = self.table();
            if table.ended.is_some() {
                return;
            }
            table.ended = Some(ended.clone());
            self.has_ended.store(true, Ordering::Relaxed);
            (std::mem::take(&mut table.calls), table.last)
        };
        for (id, pending) in calls {
            let mut error = ended.error();
            // The broker takes nothing after the message that it forbids.
            if matches!(ended, Ended::Forbidden(_)) && id == last {
                error = error.not_executed();
            }
            let _ = pending.answer.send(Err(error)); // The call may be over.
        }
    }

    /// Tells whether no call was registered after this one.
    pub(super) fn is_last(&self, id: Uuid) -> bool {
        self.table().last == id
    }

    pub(crate) fn is_live(&self) -> bool {
        !self.has_ended.load(Ordering::Relaxed)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing under the lock leaves the table half changed.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The error of a call whose request the broker does not let the user publish.
pub(super) fn may_not_publish(cause: impl Into<BoxError>) -> RpcError {
    RpcError::new(
        ErrorKind::PermissionDenied,
        "the broker does not allow this client to publish requests: grant its user the permission to write to the exchange \
         'amq.default', the default exchange",
    )
    .with_source(cause)
}

/// An id as it is sent.
pub(super) fn correlation_id(id: Uuid) -> SmolStr {
    let mut buffer = Uuid::encode_buffer();
    SmolStr::from(&*id.hyphenated().encode_lower(&mut buffer))
}

/// A correlation id of this crate: a UUID in its usual form, as [`correlation_id`] writes it.
fn parse_id(text: &str) -> Option<Uuid> {
    const HYPHENATED: usize = 36;
    if text.len() == HYPHENATED {
        Uuid::try_parse(text).ok()
    } else {
        None
    }
}

/// A registered call. Dropping it unregisters the call.
#[derive(Debug)]
pub(crate) struct Waiter {
    id: Uuid,
    answer: oneshot::Receiver<Answer>,
    /// Whether it has left the table.
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

    /// Waits for the call's fate.
    pub(crate) async fn answer(&mut self) -> Answer {
        let answer = (&mut self.answer).await;
        self.is_over = true;
        match answer {
            Ok(answer) => answer,
            // The table drops a sender only after it has used it.
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
            drop(pending); // With nothing locked.
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

    fn response(body: &'static [u8]) -> Answer {
        Ok(Response::new(
            Outcome::Result,
            ContentType::MessagePack,
            body.into(),
        ))
    }

    #[tokio::test]
    async fn an_answer_reaches_the_call_of_its_id_alone() {
        let in_flight = Arc::new(InFlight::new(Arc::default()));
        let mut first = in_flight.register(None).unwrap();
        let mut second = in_flight.register(None).unwrap();
        in_flight.answer(Some(&second.correlation_id()), response(b"2"));
        in_flight.answer(Some(&first.correlation_id()), response(b"1"));
        assert_eq!(&first.answer().await.unwrap().body[..], b"1");
        assert_eq!(&second.answer().await.unwrap().body[..], b"2");
        assert_eq!(in_flight.dropped.read(), DroppedReplies::default());
    }

    #[tokio::test]
    async fn late_duplicate_foreign_and_malformed_replies_are_counted() {
        let in_flight = Arc::new(InFlight::new(Arc::default()));
        let waiter = in_flight.register(None).unwrap();
        let id = waiter.correlation_id();
        drop(waiter);
        in_flight.answer(Some(&id), response(b""));
        in_flight.answer(Some("1"), response(b""));
        in_flight.answer(None, response(b""));
        assert_eq!(
            in_flight.dropped.read(),
            DroppedReplies {
                late: 1,
                foreign: 1,
                malformed: 1
            }
        );
        let mut answered = in_flight.register(None).unwrap();
        let id = answered.correlation_id();
        in_flight.answer(Some(&id), response(b"once"));
        in_flight.answer(Some(&id), response(b"twice"));
        assert_eq!(&answered.answer().await.unwrap().body[..], b"once");
        assert_eq!(in_flight.dropped.read().late, 2);
    }

    #[tokio::test]
    async fn a_dropped_call_leaves_nothing_behind() {
        let in_flight = Arc::new(InFlight::new(Arc::default()));
        drop(in_flight.register(None).unwrap());
        assert!(in_flight.table().calls.is_empty());
    }

    #[tokio::test]
    async fn the_end_fails_the_calls_in_flight_and_those_to_come() {
        let in_flight = Arc::new(InFlight::new(Arc::default()));
        let mut waiting = in_flight.register(None).unwrap();
        in_flight.end(Ended::Lost(Arc::new("reset by peer".into())));
        let error = waiting.answer().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Disconnected);
        assert!(error.may_have_executed());
        let error = in_flight.register(None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Disconnected);
        assert!(!error.may_have_executed());
    }
}
