//! Calls that share messages, for clients that ask for it.
//!
//! The answers are the clock: with nothing unanswered, a call goes out alone and at once. Calls that come at the same moment share
//! the few messages to a queue that may be unanswered, and beyond those wait: what has gathered when a message is answered is the
//! next one. A full message does not wait for as long. So a quiet client notices nothing, and a busy one sends as many messages as
//! its servers answer.
//!
//! Answers may be long in coming, with slow handlers or a server that hangs. If none comes for a moment, what waits goes out all
//! the same.

use std::collections::VecDeque;
use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use smol_str::SmolStr;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tracing::{Span, error};
use uuid::Uuid;

use super::in_flight::{InFlight, correlation_id};
use super::refused;
use super::requester::{Requester, not_sent};
use crate::error::RpcError;
use crate::fast_hash::FastMap;
use crate::message::Request;
use crate::task::Task;
use crate::telemetry;
use crate::transport::{Confirm, Content, Message};
use crate::wire::Batch;

/// How many messages to a queue may be unanswered before calls wait for each other: while one is worked on, the other is on its way.
const MAX_UNANSWERED: usize = 2;

/// How many may be before even a full one waits.
const MAX_FULL_UNANSWERED: usize = 4;

/// How long nothing is answered before what waits goes out all the same.
const MAX_SILENCE: Duration = Duration::from_millis(1);

/// How many turns callers have to make their next calls. With one, those whose turn comes on another thread are often too late.
const TURNS_FOR_CALLERS: usize = 3;

/// How many calls share a message with servers that have not said yet how many they take.
const TAKEN_BY_STRANGERS: u16 = 4;

/// How many queues a client has gates for before it closes those that it does not use.
const MAX_IDLE_GATES: usize = 256;

/// What a client has under way, queue by queue.
pub(super) struct Coalescer {
    settings: Settings,
    gates: Mutex<FastMap<Arc<str>, Arc<Gate>>>,
}

/// What all messages of a client have in common.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// How many calls share a message at most.
    pub(super) limit: usize,
    pub(super) app_id: SmolStr,
    pub(super) mandatory: bool,
    pub(super) confirms: bool,
}

/// The way of calls to a queue.
pub(super) struct Gate {
    line: Arc<Line>,
    _task: Task,
}

/// What calls, answers and the gate's task share.
struct Line {
    settings: Settings,
    queue: Arc<str>,
    requester: Weak<Requester>,
    /// How many requests the servers take in one message, as one of them said last. Once it is 1, because one of them said so or
    /// refused a batch, it stays so.
    taken: AtomicU16,
    state: Mutex<State>,
    /// That there may be something to do.
    news: Notify,
}

struct State {
    /// Messages that nothing was heard of.
    unanswered: usize,
    waiting: VecDeque<Waiting>,
    /// How many bytes that would be in a message.
    len: usize,
    /// When a message was sent or answered.
    last_news: Instant,
    /// Whether what waits goes out, however many messages are unanswered.
    is_open: bool,
}

/// A call that waits for a message that it can share.
struct Waiting {
    id: Uuid,
    request: Message,
    span: Span,
    ticket: Arc<Ticket>,
}

/// Whether a call is still waiting: its caller may have gone, or its request.
#[derive(Debug, Default)]
pub(super) struct Ticket(AtomicU8);

impl Ticket {
    const WAITING: u8 = 0;
    const SENT: u8 = 1;
    const WITHDRAWN: u8 = 2;

    fn change(&self, to: u8) -> bool {
        self.0
            .compare_exchange(Self::WAITING, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Whether the call is to be sent, which nobody can prevent from now on.
    fn send(&self) -> bool {
        self.change(Self::SENT)
    }

    /// Whether the call was not sent, and will not be.
    pub(super) fn withdraw(&self) -> bool {
        self.change(Self::WITHDRAWN) || self.0.load(Ordering::Acquire) == Self::WITHDRAWN
    }
}

/// When a call is sent.
pub(super) enum Turn {
    /// Alone and at once.
    Now(Arc<Unanswered>),
    /// With others.
    Later,
}

/// A message of which nothing was heard yet. It counts until one of its calls is answered, or all have ended.
pub(crate) struct Unanswered {
    line: Arc<Line>,
    is_answered: AtomicBool,
    /// A batch's own id, under which all its calls are found.
    batch: Option<(Weak<InFlight>, Uuid)>,
}

impl Unanswered {
    fn new(line: Arc<Line>) -> Self {
        Self {
            line,
            is_answered: AtomicBool::new(false),
            batch: None,
        }
    }

    /// One of its calls is answered, by a server that takes so many requests in one message, if it says so.
    pub(super) fn answered(&self, taken: Option<u16>) {
        if let Some(taken) = taken {
            self.line.takes(taken);
        }
        if !self.is_answered.swap(true, Ordering::Relaxed) {
            self.line.answered();
        }
    }

    /// The id of its batch, if it is one.
    pub(super) fn batch(&self) -> Option<Uuid> {
        self.batch.as_ref().map(|(_, id)| *id)
    }
}

impl fmt::Debug for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unanswered")
            .field("batch", &self.batch())
            .finish_non_exhaustive()
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.answered(None);
        if let Some((in_flight, id)) = self.batch.take()
            && let Some(in_flight) = in_flight.upgrade()
        {
            in_flight.forget_batch(id);
        }
    }
}

impl Coalescer {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            gates: Mutex::default(),
        }
    }

    /// The gate that a call has to go through, if it may share a message.
    pub(super) fn gate(&self, requester: &Arc<Requester>, request: &Request) -> Option<Arc<Gate>> {
        if !may_share(request) {
            return None;
        }
        let queue = &request.0.queue;
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        let gate = match gates.get(queue) {
            Some(gate) if std::ptr::eq(gate.line.requester.as_ptr(), &**requester) => gate.clone(),
            // What waits at an older one fails with its requester.
            _ => {
                if gates.len() >= MAX_IDLE_GATES {
                    // A call that is about to enter one has it, too.
                    gates.retain(|_, gate| Arc::strong_count(gate) > 1 || !gate.is_idle());
                }
                let gate = Gate::open(self.settings.clone(), queue.clone(), requester);
                gates.insert(queue.clone(), gate.clone());
                gate
            }
        };
        (gate.line.taken() > 1).then_some(gate)
    }
}

/// Whether a request may be delivered again because of another, and needs nothing of the broker that others do not.
fn may_share(request: &Request) -> bool {
    let request = &*request.0;
    request.idempotent
        && !request.oneway
        && !request.persistent
        && request.priority.is_none()
        && Batch::holds_request(&request.body, &request.headers)
}

impl Gate {
    fn open(settings: Settings, queue: Arc<str>, requester: &Arc<Requester>) -> Arc<Self> {
        let line = Arc::new(Line {
            settings,
            queue,
            requester: Arc::downgrade(requester),
            taken: AtomicU16::new(TAKEN_BY_STRANGERS),
            state: Mutex::new(State {
                unanswered: 0,
                waiting: VecDeque::new(),
                len: 0,
                last_news: Instant::now(),
                is_open: false,
            }),
            news: Notify::new(),
        });
        Arc::new(Self {
            _task: Task::spawn_on(&requester.runtime, send(line.clone(), requester.gone())),
            line,
        })
    }

    /// Says when the next call is sent.
    pub(super) fn enter(&self) -> Turn {
        let mut state = self.line.state();
        if state.unanswered > 0 || !state.waiting.is_empty() {
            return Turn::Later;
        }
        state.sent();
        drop(state);
        telemetry::metrics::requests_sent(1);
        Turn::Now(Arc::new(Unanswered::new(self.line.clone())))
    }

    /// Sends a request with others.
    pub(super) fn send(&self, id: Uuid, request: Message, span: Span) -> Arc<Ticket> {
        let ticket = Arc::<Ticket>::default();
        let mut state = self.line.state();
        state.len += Batch::room_for(&request);
        state.waiting.push_back(Waiting {
            id,
            request,
            span,
            ticket: ticket.clone(),
        });
        let is_news = state.waiting.len() == 1 || state.may_send(self.line.taken());
        drop(state);
        if is_news {
            self.line.news.notify_one();
        }
        ticket
    }

    /// Whether nothing waits, and nothing is unanswered.
    fn is_idle(&self) -> bool {
        let state = self.line.state();
        state.unanswered == 0 && state.waiting.is_empty()
    }

    /// A server does not know batches: calls go alone from now on.
    pub(super) fn refused(&self) {
        self.line.takes(1);
        self.line.news.notify_one();
    }
}

impl State {
    fn sent(&mut self) {
        self.unanswered += 1;
        self.last_news = Instant::now();
    }

    /// Whether a message may be sent that so many calls can share.
    fn may_send(&self, taken: usize) -> bool {
        let is_full = self.waiting.len() >= taken || self.len >= Batch::MAX_LEN;
        let limit = match is_full {
            true => MAX_FULL_UNANSWERED,
            false => MAX_UNANSWERED,
        };
        self.unanswered < limit || self.is_open
    }
}

impl Line {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock leaves it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many calls share a message.
    fn taken(&self) -> usize {
        let taken = self.taken.load(Ordering::Relaxed);
        self.settings.limit.min(taken.into())
    }

    /// A server takes so many calls in one message.
    fn takes(&self, calls: u16) {
        let change = |taken: u16| (taken > 1 && taken != calls).then_some(calls.max(1));
        // An error means that nothing changes.
        let _ = self
            .taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
    }

    fn answered(&self) {
        let mut state = self.state();
        state.unanswered -= 1;
        state.last_news = Instant::now();
        let is_news = !state.waiting.is_empty();
        drop(state);
        if is_news {
            self.news.notify_one();
        }
    }

    /// Resolves when something may be sent.
    async fn due(&self) {
        loop {
            let silence_ends = {
                let taken = self.taken();
                let mut state = self.state();
                state.is_open |= taken == 1;
                match state.waiting.is_empty() {
                    true => None,
                    false if state.may_send(taken) => return,
                    false => Some(state.last_news + MAX_SILENCE),
                }
            };
            match silence_ends {
                None => self.news.notified().await,
                Some(end) => tokio::select! {
                    () = self.news.notified() => {}
                    () = sleep_until(end) => {
                        let mut state = self.state();
                        state.is_open = state.last_news + MAX_SILENCE <= Instant::now();
                    }
                },
            }
        }
    }

    /// The calls of the next message; none when it has to wait. What waits is spread over the messages that may be sent.
    fn next(&self) -> Vec<Waiting> {
        let taken = self.taken();
        let mut state = self.state();
        let mut next = Vec::new();
        if !state.may_send(taken) {
            return next;
        }
        let messages = MAX_UNANSWERED.saturating_sub(state.unanswered).max(1);
        let limit = taken.min(state.waiting.len().div_ceil(messages));
        next.reserve(limit);
        let mut len = 0;
        while next.len() < limit
            && let Some(waiting) = state.waiting.front()
        {
            let room = Batch::room_for(&waiting.request);
            if len + room > Batch::MAX_LEN && !next.is_empty() {
                break;
            }
            len += room;
            if let Some(waiting) = state.waiting.pop_front()
                && waiting.ticket.send()
            {
                next.push(waiting);
            }
        }
        state.len -= len;
        state.is_open &= !state.waiting.is_empty();
        if !next.is_empty() {
            state.sent();
        }
        next
    }

    /// Sends calls as one message, which the broker may have to confirm.
    async fn publish(
        self: &Arc<Self>,
        requester: &Requester,
        calls: Vec<Waiting>,
    ) -> (Vec<Uuid>, Result<Confirm, RpcError>) {
        let ids: Vec<Uuid> = calls.iter().map(|call| call.id).collect();
        telemetry::metrics::requests_sent(ids.len());
        let mut unanswered = Unanswered::new(self.clone());
        let mut message = match <[Waiting; 1]>::try_from(calls) {
            Ok([call]) => call.request,
            Err(calls) => {
                let id = Uuid::new_v4();
                unanswered.batch = Some((Arc::downgrade(&requester.in_flight), id));
                batch_of(calls, id)
            }
        };
        message.reply_to = Some(requester.reply_to.clone());
        message.app_id = Some(self.settings.app_id.clone());
        message.user_id = requester.user_id.clone();
        message.mandatory = self.settings.mandatory;
        requester.in_flight.share(&ids, unanswered);
        let published = async {
            let channel = match self.settings.confirms {
                false => requester.channel.clone(),
                true => requester.confirm_channel().await?,
            };
            let sending = channel.publish(self.queue.clone().into(), message);
            sending.wait().await.map_err(not_sent)
        };
        let published = published.await;
        (ids, published)
    }
}

/// Requests as one message.
fn batch_of(calls: Vec<Waiting>, id: Uuid) -> Message {
    // Only servers announce how many they take.
    let requests = calls.len();
    let mut batch = Batch::new(0, requests);
    let (mut deadline, mut expiration) = (None, None);
    for Waiting { request, span, .. } in calls {
        telemetry::shared(&span, requests);
        // As long as the longest of them.
        deadline = deadline.max(request.deadline);
        expiration = expiration.max(request.expiration);
        if let Err(error) = batch.push(&request) {
            // The call ends at its deadline.
            error!(%error, "a request does not fit into a batch");
        }
    }
    Message::from(Content {
        correlation_id: Some(correlation_id(id)),
        deadline,
        expiration,
        ..*batch.into_message().0
    })
}

/// Sends what waits at a gate whenever it may go, for as long as there is the gate and its requester.
async fn send(line: Arc<Line>, gone: impl Future<Output = ()>) {
    let mut gone = pin!(gone);
    let mut confirms = FuturesUnordered::new();
    loop {
        tokio::select! {
            () = line.due() => {}
            Some(()) = confirms.next() => continue,
            () = &mut gone => return, // What waits has failed with it.
        }
        // Answers that came together make callers ready together, whose next calls are about to come.
        for _ in 0..TURNS_FOR_CALLERS {
            tokio::task::yield_now().await;
        }
        let Some(requester) = line.requester.upgrade() else {
            return;
        };
        loop {
            let calls = line.next();
            if calls.is_empty() {
                break;
            }
            match line.publish(&requester, calls).await {
                (ids, Ok(confirm)) if confirm.is_requested() => {
                    let requester = requester.clone();
                    confirms.push(async move {
                        if let Err(error) = requester.confirmed(confirm).await {
                            requester.in_flight.fail(&ids, &refused(error, true));
                        }
                    });
                }
                (_, Ok(_)) => {}
                (ids, Err(error)) => requester.in_flight.fail(&ids, &error),
            }
        }
    }
}
