//! Requests that several instances answer, by correlation id.
//!
//! A gather is registered before its request is published, so that the fastest answer finds the gather. A gather accepts one answer of each
//! instance until its time limit. When the requester ends, every gather learns the reason.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use smol_str::SmolStr;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep_until};
use uuid::Uuid;

use super::in_flight::InFlight;
use crate::error::RpcError;
use crate::message::Response;
use crate::wire::{Origin, correlation_id};

/// Most answers of one gather: memory stays bounded, whatever arrives.
const MAX_ANSWERS: usize = 4_096;

/// Bytes of answers that may wait to be read before further ones are dropped. Any sender may answer as any number of instances.
const MAX_UNREAD: usize = 128 << 20;

/// Answer of one instance.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) origin: Box<Origin>,
    pub(crate) result: Result<Response, RpcError>,
    pub(crate) arrived: Instant,
}

impl Answer {
    /// Length in bytes, headers excluded.
    pub(crate) fn len(&self) -> usize {
        match &self.result {
            Ok(response) => response.body.len(),
            Err(error) => error.message().len(),
        }
    }
}

/// An answer, or the reason why no more answers can come.
type Event = Result<Answer, RpcError>;

/// A gather in the table.
#[derive(Debug)]
pub(super) struct PendingGather {
    until: Instant,
    /// Ids of the instances that have answered.
    answered: HashSet<SmolStr>,
    /// Length of the answers that wait to be read.
    unread: Arc<AtomicUsize>,
    /// Holds at most [`MAX_ANSWERS`] answers and the end.
    events: mpsc::UnboundedSender<Event>,
}

/// Reason why an answer is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The answer came after the time limit, or is not the first of its instance, or too many answers have come or wait to be read.
    Late,
    /// The answer does not name its instance.
    Malformed,
}

impl PendingGather {
    /// Accepts an answer. Sending it is left to the caller, who holds a lock at this moment.
    pub(super) fn accept(
        &mut self,
        origin: Option<Box<Origin>>,
        result: Result<Response, RpcError>,
    ) -> Result<(mpsc::UnboundedSender<Event>, Answer), Refusal> {
        let origin = origin.ok_or(Refusal::Malformed)?;
        let arrived = Instant::now();
        let is_late = arrived > self.until
            || self.answered.len() >= MAX_ANSWERS
            || self.unread.load(Ordering::Relaxed) >= MAX_UNREAD
            || !self.answered.insert(origin.instance.clone());
        if is_late {
            return Err(Refusal::Late);
        }
        let answer = Answer {
            origin,
            result,
            arrived,
        };
        self.unread.fetch_add(answer.len(), Ordering::Relaxed);
        Ok((self.events.clone(), answer))
    }

    /// Tells the reader that no more answers can come.
    pub(super) fn end(self, error: RpcError) {
        let _ = self.events.send(Err(error)); // The reader may be gone.
    }
}

/// The answers to a registered gather. Dropping them unregisters the gather.
#[derive(Debug)]
pub(super) struct GatherWaiter {
    id: Uuid,
    until: Instant,
    /// Number of answers after which the gather ends.
    left: usize,
    unread: Arc<AtomicUsize>,
    events: mpsc::UnboundedReceiver<Event>,
    timer: Pin<Box<Sleep>>,
    is_over: bool,
    in_flight: Arc<InFlight>,
}

impl GatherWaiter {
    /// Registers a gather that ends at a moment or after a number of answers. 0 counts as 1.
    pub(super) fn register(
        in_flight: &Arc<InFlight>,
        until: Instant,
        expected: Option<usize>,
    ) -> Result<Self, RpcError> {
        let id = Uuid::new_v4();
        let (sender, events) = mpsc::unbounded_channel();
        let unread = Arc::<AtomicUsize>::default();
        let gather = PendingGather {
            until,
            answered: HashSet::new(),
            unread: unread.clone(),
            events: sender,
        };
        in_flight.add_gather(id, gather)?;
        Ok(Self {
            id,
            until,
            left: expected.unwrap_or(usize::MAX).max(1),
            unread,
            events,
            timer: Box::pin(sleep_until(until)),
            is_over: false,
            in_flight: in_flight.clone(),
        })
    }

    pub(super) fn id(&self) -> Uuid {
        self.id
    }

    pub(super) fn correlation_id(&self) -> SmolStr {
        correlation_id(self.id)
    }

    pub(super) fn until(&self) -> Instant {
        self.until
    }

    /// Returns `true` after the last answer.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Returns the next answer, or `None` after the last. An error is the last item: the requester has ended.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        // Answers that arrived in time come first, however late they are read.
        let event = match self.events.poll_recv(cx) {
            Poll::Ready(event) => event,
            Poll::Pending if self.timer.as_mut().poll(cx).is_pending() => return Poll::Pending,
            // An answer may have arrived in between.
            Poll::Pending => self.events.try_recv().ok(),
        };
        if let Some(Ok(answer)) = &event {
            self.unread.fetch_sub(answer.len(), Ordering::Relaxed);
            self.left -= 1;
        }
        if self.left == 0 || !matches!(event, Some(Ok(_))) {
            self.end();
        }
        Poll::Ready(event)
    }

    /// Ends the gather: later answers are late.
    pub(super) fn end(&mut self) {
        if !self.is_over {
            self.is_over = true;
            self.in_flight.remove_gather(self.id);
        }
    }
}

impl Drop for GatherWaiter {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use bytes::Bytes;
    use futures_util::FutureExt;

    use super::super::dropped::{DropCounter, DroppedReplies};
    use super::super::in_flight::EndReason;
    use super::*;
    use crate::codec::ContentType;
    use crate::error::ErrorKind;
    use crate::message::Outcome;

    const LIMIT: Duration = Duration::from_secs(1);

    struct Setup {
        in_flight: Arc<InFlight>,
        dropped: Arc<DropCounter>,
    }

    impl Setup {
        fn new() -> Self {
            let dropped = Arc::new(DropCounter::default());
            let in_flight = Arc::new(InFlight::new(dropped.clone()));
            Self { in_flight, dropped }
        }

        fn gather(&self, expected: Option<usize>) -> GatherWaiter {
            GatherWaiter::register(&self.in_flight, Instant::now() + LIMIT, expected).unwrap()
        }

        /// Has an answer of an instance arrive.
        fn answer(&self, id: &str, instance: Option<&str>) {
            self.answer_with(id, instance, Bytes::new());
        }

        fn answer_with(&self, id: &str, instance: Option<&str>, body: Bytes) {
            let origin = instance.map(|instance| {
                Box::new(Origin {
                    instance: instance.into(),
                    private_queue: None,
                })
            });
            let response = Response::new(Outcome::Result, ContentType::MessagePack, body);
            self.in_flight.complete_from(Some(id), origin, Ok(response));
        }

        fn dropped(&self) -> (u64, u64, u64) {
            let DroppedReplies {
                late,
                foreign,
                malformed,
            } = self.dropped.read();
            (late, foreign, malformed)
        }
    }

    async fn next(answers: &mut GatherWaiter) -> Option<Result<String, ErrorKind>> {
        let event = poll_fn(|cx| answers.poll_next(cx)).await?;
        Some(match event {
            Ok(answer) => Ok(answer.origin.instance.to_string()),
            Err(error) => Err(error.kind()),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn each_instance_is_heard_once_until_the_time_limit() {
        let setup = Setup::new();
        let mut answers = setup.gather(None);
        let id = answers.correlation_id();
        setup.answer(&id, Some("a"));
        setup.answer(&id, Some("b"));
        setup.answer(&id, Some("a"));
        setup.answer(&id, None);
        assert_eq!(setup.dropped(), (1, 0, 1));
        assert_eq!(next(&mut answers).await, Some(Ok("a".to_owned())));
        // Read after the time limit, but arrived in time.
        tokio::time::advance(2 * LIMIT).await;
        setup.answer(&id, Some("c"));
        assert_eq!(setup.dropped(), (2, 0, 1));
        assert_eq!(next(&mut answers).await, Some(Ok("b".to_owned())));
        assert_eq!(next(&mut answers).await, None);
        assert_eq!(next(&mut answers).await, None);
        setup.answer(&id, Some("d"));
        assert_eq!(setup.dropped(), (3, 0, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_gather_without_answers_ends_at_its_time_limit() {
        let setup = Setup::new();
        let begun = Instant::now();
        let mut answers = setup.gather(None);
        assert_eq!(next(&mut answers).await, None);
        assert!(begun.elapsed() >= LIMIT && begun.elapsed() < 2 * LIMIT);
    }

    #[tokio::test]
    async fn a_gather_ends_after_the_expected_number_of_answers() {
        let setup = Setup::new();
        let mut answers = setup.gather(Some(2));
        let id = answers.correlation_id();
        for instance in ["a", "b", "c"] {
            setup.answer(&id, Some(instance));
        }
        assert_eq!(next(&mut answers).await, Some(Ok("a".to_owned())));
        assert_eq!(next(&mut answers).await, Some(Ok("b".to_owned())));
        assert_eq!(next(&mut answers).await, None);
        setup.answer(&id, Some("d"));
        assert_eq!(setup.dropped(), (1, 0, 0));
    }

    #[tokio::test]
    async fn the_number_of_answers_is_bounded() {
        let setup = Setup::new();
        let mut answers = setup.gather(None);
        let id = answers.correlation_id();
        for instance in 0..MAX_ANSWERS + 3 {
            setup.answer(&id, Some(&instance.to_string()));
        }
        assert_eq!(setup.dropped(), (3, 0, 0));
        for instance in 0..MAX_ANSWERS {
            assert_eq!(next(&mut answers).await, Some(Ok(instance.to_string())));
        }
        tokio::task::yield_now().await; // A task that receives much is made to pause.
        assert_eq!(next(&mut answers).now_or_never(), None);
    }

    #[tokio::test]
    async fn the_bytes_of_unread_answers_are_bounded() {
        let setup = Setup::new();
        let mut answers = setup.gather(None);
        let id = answers.correlation_id();
        // All answers share their memory.
        let half = Bytes::from(vec![0; MAX_UNREAD / 2]);
        for instance in ["a", "b", "c"] {
            setup.answer_with(&id, Some(instance), half.clone());
        }
        assert_eq!(setup.dropped(), (1, 0, 0));
        assert_eq!(next(&mut answers).await, Some(Ok("a".to_owned())));
        setup.answer_with(&id, Some("d"), half);
        assert_eq!(setup.dropped(), (1, 0, 0));
        for instance in ["b", "d"] {
            assert_eq!(next(&mut answers).await, Some(Ok(instance.to_owned())));
        }
    }

    #[tokio::test]
    async fn answers_after_a_dropped_gather_are_late() {
        let setup = Setup::new();
        let answers = setup.gather(None);
        let id = answers.correlation_id();
        drop(answers);
        setup.answer(&id, Some("a"));
        setup.answer(&id, None);
        assert_eq!(setup.dropped(), (2, 0, 0));
    }

    #[tokio::test]
    async fn the_end_of_the_requester_is_the_last_item_of_every_gather() {
        let setup = Setup::new();
        let mut answers = setup.gather(None);
        setup.answer(&answers.correlation_id(), Some("a"));
        let lost = EndReason::Lost(Arc::new("reset by peer".into()));
        setup.in_flight.end(lost);
        assert_eq!(next(&mut answers).await, Some(Ok("a".to_owned())));
        let last = poll_fn(|cx| answers.poll_next(cx)).await.unwrap();
        let error = last.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Disconnected);
        assert!(error.may_have_executed());
        assert_eq!(next(&mut answers).await, None);
        let refused = GatherWaiter::register(&setup.in_flight, Instant::now(), None);
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Disconnected);
        assert!(!error.may_have_executed());
    }

    #[tokio::test]
    async fn a_batch_of_replies_holds_no_answer_to_a_gather() {
        let setup = Setup::new();
        let answers = setup.gather(None);
        let id = answers.correlation_id();
        let response = Response::new(Outcome::Result, ContentType::MessagePack, "".into());
        let results = [(id.as_str(), Ok(response))];
        setup.in_flight.complete_all(results.into_iter(), 1);
        assert_eq!(setup.dropped(), (0, 0, 1));
    }
}
