//! Sends requests in shared messages, for clients with a limit above 1 (`ClientBuilder::coalesce`).
//!
//! Each request queue has a batch queue, in which calls wait until the [`Window`] lets them go.

use std::collections::VecDeque;
use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, Ordering};
use std::sync::{Arc, Weak};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::{Mutex, MutexGuard};
use rustc_hash::FxHashMap;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;
use tracing::{Span, error};
use uuid::Uuid;

use super::format::Batch;
use super::window::{Step, Window};
use crate::error::RpcError;
use crate::message::Request;
use crate::telemetry;
use crate::transport::{ChannelMode, Confirm, Content, Message};
use crate::wire;

/// Times that the task yields to callers, which make their next calls then. With one, callers that are woken on another thread are
/// often too late.
const YIELDS_TO_CALLERS: usize = 3;

/// Capacity of servers that have not told theirs.
const UNKNOWN_CAPACITY: u16 = 4;

/// Number of batch queues from which on unused ones are closed.
const MAX_IDLE_QUEUES: usize = 256;

/// Connection of a batch queue to the broker and to the calls.
pub(crate) trait BatchPublisher: Send + Sync + 'static {
    /// The runtime of the tasks that send.
    fn runtime(&self) -> &Handle;

    /// Resolves when the publisher has been dropped, and all its calls have failed.
    fn gone(&self) -> impl Future<Output = ()> + Send + use<Self>;

    /// Publishes a message, which gets the addresses of the publisher, so that its replies come back to the calls in it.
    fn publish(
        &self,
        queue: Arc<str>,
        message: Message,
        mode: ChannelMode,
    ) -> impl Future<Output = Result<Confirm, RpcError>> + Send;

    /// Waits until the broker has confirmed a message.
    fn confirmed(&self, confirm: Confirm) -> impl Future<Output = Result<(), RpcError>> + Send;

    /// Registers the message in which calls are sent; `batch` is the correlation id of a message with several calls.
    fn share(&self, calls: &[Uuid], message: UnansweredMessage, batch: Option<Uuid>);

    /// Fails the calls, except those that are already answered.
    fn fail(&self, calls: &[Uuid], error: &RpcError);
}

/// The batch queues of a client, by request queue.
pub(crate) struct BatchQueues<P> {
    /// Most calls in a message.
    max_calls: usize,
    mode: ChannelMode,
    queues: Mutex<FxHashMap<Arc<str>, Arc<BatchQueue<P>>>>,
}

/// Calls that wait for a message to one request queue, and the task that sends them.
pub(crate) struct BatchQueue<P> {
    state: Arc<State>,
    publisher: Weak<P>,
    _task: AbortOnDropHandle<()>,
}

/// State of a batch queue, used by its callers, its task and the replies.
struct State {
    max_calls: usize,
    /// Number of requests that servers accept in one message, as the latest reply states it. A capacity of 1 is final: a server states
    /// it, or has refused a batch.
    capacity: AtomicU16,
    calls: Mutex<Calls>,
    /// Wakes the task.
    changed: Notify,
}

struct Calls {
    window: Window,
    waiting: VecDeque<QueuedCall>,
}

/// A call in a batch queue.
struct QueuedCall {
    id: Uuid,
    request: Message,
    span: Span,
    permit: Arc<SendPermit>,
}

/// Permission to send a call that waits. The task uses it once, unless the caller revokes it before.
#[derive(Debug, Default)]
pub(crate) struct SendPermit(AtomicU8);

impl SendPermit {
    const VALID: u8 = 0;
    const USED: u8 = 1;
    const REVOKED: u8 = 2;

    fn change(&self, to: u8) -> bool {
        self.0
            .compare_exchange(Self::VALID, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Returns `true` if the call is to be sent; nothing can prevent that from then on.
    fn take(&self) -> bool {
        self.change(Self::USED)
    }

    /// Returns `true` if the call has not been sent, and will not be.
    pub(crate) fn revoke(&self) -> bool {
        self.change(Self::REVOKED) || self.0.load(Ordering::Acquire) == Self::REVOKED
    }
}

/// A message that counts as unanswered until one of its calls is answered, or until this is dropped.
pub(crate) struct UnansweredMessage {
    queue: Arc<State>,
    is_answered: AtomicBool,
}

impl UnansweredMessage {
    fn new(queue: Arc<State>) -> Self {
        Self {
            queue,
            is_answered: AtomicBool::new(false),
        }
    }

    /// Counts the message as answered. `capacity` is the number of requests that the server accepts in one message, if it tells that.
    pub(crate) fn answered(&self, capacity: Option<u16>) {
        if let Some(capacity) = capacity {
            self.queue.set_capacity(capacity);
        }
        if !self.is_answered.swap(true, Ordering::Relaxed) {
            self.queue.answered();
        }
    }
}

impl fmt::Debug for UnansweredMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnansweredMessage")
            .field("is_answered", &self.is_answered)
            .finish_non_exhaustive()
    }
}

impl Drop for UnansweredMessage {
    fn drop(&mut self) {
        self.answered(None);
    }
}

impl<P: BatchPublisher> BatchQueues<P> {
    pub(crate) fn new(max_calls: usize, mode: ChannelMode) -> Self {
        Self {
            max_calls,
            mode,
            queues: Mutex::default(),
        }
    }

    /// Returns the batch queue of a request that may share a message.
    pub(crate) fn queue(
        &self,
        publisher: &Arc<P>,
        request: &Request,
    ) -> Option<Arc<BatchQueue<P>>> {
        if !may_share(request) {
            return None;
        }
        let name = &request.0.queue;
        let mut queues = self.queues.lock();
        let queue = match queues.get(name) {
            Some(queue) if std::ptr::eq(queue.publisher.as_ptr(), &**publisher) => queue.clone(),
            // The calls in the queue of an earlier publisher fail with that publisher.
            _ => {
                if queues.len() >= MAX_IDLE_QUEUES {
                    // A caller that is about to add a call holds the queue as well.
                    queues.retain(|_, queue| Arc::strong_count(queue) > 1 || !queue.is_idle());
                }
                let queue = BatchQueue::open(name.clone(), self.max_calls, self.mode, publisher);
                queues.insert(name.clone(), queue.clone());
                queue
            }
        };
        (queue.state.capacity() > 1).then_some(queue)
    }
}

/// Returns `true` if a request may be delivered again because of another request, and needs nothing special from the broker.
fn may_share(request: &Request) -> bool {
    let request = &*request.0;
    request.idempotent
        && !request.oneway
        && !request.persistent
        && request.priority.is_none()
        && Batch::holds_request(&request.body, &request.headers)
}

impl<P: BatchPublisher> BatchQueue<P> {
    fn open(queue: Arc<str>, max_calls: usize, mode: ChannelMode, publisher: &Arc<P>) -> Arc<Self> {
        let state = Arc::new(State {
            max_calls,
            capacity: AtomicU16::new(UNKNOWN_CAPACITY),
            calls: Mutex::new(Calls {
                window: Window::new(Instant::now()),
                waiting: VecDeque::new(),
            }),
            changed: Notify::new(),
        });
        let sender = Sender {
            queue,
            mode,
            state: state.clone(),
            publisher: Arc::downgrade(publisher),
        };
        let sending = sender.run(publisher.gone());
        Arc::new(Self {
            state,
            publisher: Arc::downgrade(publisher),
            _task: AbortOnDropHandle::new(publisher.runtime().spawn(sending)),
        })
    }

    /// Counts a message with a single call, which is sent at once. `None` if the call has to wait.
    pub(crate) fn send_alone(&self) -> Option<UnansweredMessage> {
        let mut calls = self.state.calls();
        if !calls.window.is_idle() {
            return None;
        }
        calls.window.sent(Instant::now());
        drop(calls);
        telemetry::metrics::requests_sent(1);
        Some(UnansweredMessage::new(self.state.clone()))
    }

    /// Adds a call, to be sent with others.
    pub(crate) fn add(&self, id: Uuid, request: Message, span: Span) -> Arc<SendPermit> {
        let permit = Arc::<SendPermit>::default();
        let mut calls = self.state.calls();
        let bytes = Batch::room_for(&request);
        calls.waiting.push_back(QueuedCall {
            id,
            request,
            span,
            permit: permit.clone(),
        });
        let wakes = calls.window.add(bytes, self.state.capacity());
        drop(calls);
        if wakes {
            self.state.changed.notify_one();
        }
        permit
    }

    fn is_idle(&self) -> bool {
        self.state.calls().window.is_idle()
    }

    /// Sends calls alone from now on, because a server does not know batches.
    pub(crate) fn refused(&self) {
        self.state.set_capacity(1);
        self.state.changed.notify_one();
    }
}

impl State {
    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock()
    }

    /// Returns the number of calls that share a message.
    fn capacity(&self) -> usize {
        let capacity = self.capacity.load(Ordering::Relaxed);
        self.max_calls.min(capacity.into())
    }

    fn set_capacity(&self, calls: u16) {
        let change = |capacity: u16| (capacity > 1 && capacity != calls).then_some(calls.max(1));
        // An error means that nothing changes.
        let _ = self
            .capacity
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
    }

    fn answered(&self) {
        let wakes = self.calls().window.answered(Instant::now());
        if wakes {
            self.changed.notify_one();
        }
    }

    /// Resolves when a message may be sent.
    async fn ready(&self) {
        loop {
            let step = {
                let capacity = self.capacity();
                self.calls().window.next_step(capacity, Instant::now())
            };
            match step {
                Step::Send => return,
                Step::WaitForCalls => self.changed.notified().await,
                Step::WaitUntil(opens) => tokio::select! {
                    () = self.changed.notified() => {}
                    () = sleep_until(opens) => {}
                },
            }
        }
    }

    /// Takes the calls of the next message; none if it has to wait.
    fn next_message(&self) -> Vec<QueuedCall> {
        let capacity = self.capacity();
        let mut calls = self.calls();
        let Calls { window, waiting } = &mut *calls;
        let limit = window.next_len(capacity);
        let mut next = Vec::with_capacity(limit);
        let mut len = 0;
        while next.len() < limit
            && let Some(call) = waiting.front()
        {
            let bytes = Batch::room_for(&call.request);
            if len + bytes > Batch::MAX_LEN && !next.is_empty() {
                break;
            }
            len += bytes;
            window.remove(bytes);
            if let Some(call) = waiting.pop_front()
                && call.permit.take()
            {
                next.push(call);
            }
        }
        if !next.is_empty() {
            window.sent(Instant::now());
        }
        next
    }
}

/// The task of a batch queue.
struct Sender<P> {
    queue: Arc<str>,
    mode: ChannelMode,
    state: Arc<State>,
    publisher: Weak<P>,
}

impl<P: BatchPublisher> Sender<P> {
    /// Sends waiting calls until the publisher is gone.
    async fn run(self, gone: impl Future<Output = ()>) {
        let mut gone = pin!(gone);
        let mut confirms = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = self.state.ready() => {}
                Some(()) = confirms.next() => continue,
                () = &mut gone => return, // The waiting calls have failed with the publisher.
            }
            // Replies that arrive together wake several callers, which may be about to make their next calls.
            for _ in 0..YIELDS_TO_CALLERS {
                tokio::task::yield_now().await;
            }
            let Some(publisher) = self.publisher.upgrade() else {
                return;
            };
            loop {
                let calls = self.state.next_message();
                if calls.is_empty() {
                    break;
                }
                match self.publish(&*publisher, calls).await {
                    (ids, Ok(confirm)) if confirm.is_requested() => {
                        let publisher = publisher.clone();
                        confirms.push(async move {
                            if let Err(error) = publisher.confirmed(confirm).await {
                                publisher.fail(&ids, &error);
                            }
                        });
                    }
                    (_, Ok(_)) => {}
                    (ids, Err(error)) => publisher.fail(&ids, &error),
                }
            }
        }
    }

    /// Sends calls as one message, which the broker may have to confirm.
    async fn publish(
        &self,
        publisher: &P,
        calls: Vec<QueuedCall>,
    ) -> (Vec<Uuid>, Result<Confirm, RpcError>) {
        let ids: Vec<Uuid> = calls.iter().map(|call| call.id).collect();
        telemetry::metrics::requests_sent(ids.len());
        let unanswered = UnansweredMessage::new(self.state.clone());
        let (message, batch) = match <[QueuedCall; 1]>::try_from(calls) {
            Ok([call]) => (call.request, None),
            Err(calls) => {
                let id = Uuid::new_v4();
                (batch_of(calls, id), Some(id))
            }
        };
        publisher.share(&ids, unanswered, batch);
        let publishing = publisher.publish(self.queue.clone(), message, self.mode);
        let published = publishing.await;
        (ids, published)
    }
}

/// Returns requests as one message.
fn batch_of(calls: Vec<QueuedCall>, id: Uuid) -> Message {
    let requests = calls.len();
    // Only servers tell their capacity.
    let mut batch = Batch::new(0, requests);
    let (mut deadline, mut expiration, mut mandatory) = (None, None, false);
    for QueuedCall { request, span, .. } in calls {
        telemetry::batched(&span, requests);
        // The batch has the latest deadline of its calls.
        deadline = deadline.max(request.deadline);
        expiration = expiration.max(request.expiration);
        mandatory |= request.mandatory;
        if let Err(error) = batch.push(&request) {
            // The call ends at its deadline.
            error!(%error, "a request does not fit into a batch");
        }
    }
    Message::from(Content {
        correlation_id: Some(wire::correlation_id(id)),
        deadline,
        expiration,
        mandatory,
        ..*batch.into_message().0
    })
}

#[cfg(test)]
mod tests {
    use tokio::task::yield_now;

    use super::super::format::requests_of;
    use super::*;
    use crate::definition::{Method, Service};
    use crate::error::ErrorKind;

    const GET: &Method = &Method::new("get", &[]).idempotent();
    const PUT: &Method = &Method::new("put", &[]);
    const SERVICE: &Service = &Service::new("Shelf", "rpc.Shelf", &[GET, PUT]);

    /// A publisher that keeps the messages, or refuses them.
    struct Recorder {
        runtime: Handle,
        refuses: bool,
        published: Mutex<Vec<Message>>,
        unanswered: Mutex<Vec<UnansweredMessage>>,
        failed: Mutex<Vec<Uuid>>,
    }

    impl BatchPublisher for Recorder {
        fn runtime(&self) -> &Handle {
            &self.runtime
        }

        fn gone(&self) -> impl Future<Output = ()> + Send + use<> {
            std::future::pending()
        }

        async fn publish(
            &self,
            _: Arc<str>,
            message: Message,
            _: ChannelMode,
        ) -> Result<Confirm, RpcError> {
            if self.refuses {
                return Err(RpcError::new(ErrorKind::Disconnected, "lost"));
            }
            self.published.lock().push(message);
            Ok(Confirm(None))
        }

        async fn confirmed(&self, _: Confirm) -> Result<(), RpcError> {
            Ok(())
        }

        fn share(&self, _: &[Uuid], message: UnansweredMessage, _: Option<Uuid>) {
            self.unanswered.lock().push(message);
        }

        fn fail(&self, calls: &[Uuid], _: &RpcError) {
            self.failed.lock().extend(calls);
        }
    }

    impl Recorder {
        /// Returns the numbers of requests in the messages.
        fn sizes(&self) -> Vec<usize> {
            let published = self.published.lock();
            let sizes = published
                .iter()
                .map(|message| requests_of(message).map_or(1, |requests| requests.len()));
            sizes.collect()
        }
    }

    fn queues() -> BatchQueues<Recorder> {
        BatchQueues::new(64, ChannelMode::Plain)
    }

    fn request(method: &'static Method) -> Request {
        Request::new(SERVICE, method, "rpc.Shelf", &()).unwrap()
    }

    fn open(refuses: bool) -> (Arc<Recorder>, Arc<BatchQueue<Recorder>>) {
        let recorder = Arc::new(Recorder {
            runtime: Handle::current(),
            refuses,
            published: Mutex::default(),
            unanswered: Mutex::default(),
            failed: Mutex::default(),
        });
        let queue = queues().queue(&recorder, &request(GET)).unwrap();
        (recorder, queue)
    }

    fn add(queue: &BatchQueue<Recorder>) -> (Uuid, Arc<SendPermit>) {
        let id = Uuid::new_v4();
        let message = Message::from(Content {
            correlation_id: Some(wire::correlation_id(id)),
            mandatory: true,
            ..Content::default()
        });
        (id, queue.add(id, message, Span::none()))
    }

    /// Lets the task of the queue run, without opening the window.
    async fn run_task() {
        for _ in 0..4 * YIELDS_TO_CALLERS {
            yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_wait_share_a_message_after_an_answer() {
        let (recorder, queue) = open(false);
        let alone = queue.send_alone().expect("the queue is idle");
        assert!(queue.send_alone().is_none());
        add(&queue);
        run_task().await;
        assert_eq!(recorder.sizes(), [1]);
        for _ in 0..3 {
            add(&queue);
        }
        run_task().await;
        assert_eq!(recorder.sizes(), [1], "two messages are unanswered");
        alone.answered(Some(16));
        run_task().await;
        assert_eq!(recorder.sizes(), [1, 3]);
        assert!(recorder.published.lock()[1].mandatory);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_sent_or_revoked() {
        let (recorder, queue) = open(false);
        let (_, sent) = add(&queue);
        let (_, revoked) = add(&queue);
        assert!(revoked.revoke());
        run_task().await;
        assert_eq!(recorder.sizes(), [1]);
        assert!(!sent.revoke());
        assert!(revoked.revoke());
    }

    #[tokio::test(start_paused = true)]
    async fn calls_of_a_message_that_is_not_published_fail() {
        let (recorder, queue) = open(true);
        let (id, _) = add(&queue);
        run_task().await;
        assert_eq!(*recorder.failed.lock(), [id]);
        assert!(!queue.is_idle());
        recorder.unanswered.lock().clear();
        assert!(queue.is_idle(), "a dropped message is not unanswered");
    }

    #[tokio::test(start_paused = true)]
    async fn calls_are_sent_alone_after_a_refusal() {
        let (recorder, queue) = open(false);
        let _alone = queue.send_alone();
        queue.refused();
        (0..3).for_each(|_| drop(add(&queue)));
        run_task().await;
        assert_eq!(recorder.sizes(), [1, 1, 1]);
    }

    #[tokio::test]
    async fn only_idempotent_requests_share_messages() {
        let (recorder, _) = open(false);
        assert!(queues().queue(&recorder, &request(PUT)).is_none());
        let queues = queues();
        let first = queues.queue(&recorder, &request(GET)).unwrap();
        let again = queues.queue(&recorder, &request(GET)).unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        first.refused();
        assert!(queues.queue(&recorder, &request(GET)).is_none());
    }
}
