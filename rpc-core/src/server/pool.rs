//! Limits of handlers: the requests that a server works on, and the deliveries that wait for a free handler.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::arrival::{Arrival, Unpacked};
use super::received::{ReceivedRequest, Source};
use super::served::QueueRole;
use super::to_all::MAX_WAITING;

/// Number of requests that share a task until they wait for something, if they start together. A task for each request costs more than
/// many handlers do, and one task for all would use a single core.
const REQUESTS_PER_TASK: usize = 8;

/// The time for which requests share a task.
const SHARE_FOR: Duration = Duration::from_micros(50);

/// The handlers of a server, within its limits. The pool outlives the loss of the connection.
pub(super) struct Pool {
    tasks: JoinSet<()>,
    /// Requests for methods with streams, to the ends of their streams. An accepted stream takes no slot.
    streams: JoinSet<()>,
    counters: Arc<Counters>,
    /// Requests that are counted as running, and will share a task.
    starting: Vec<StartedRequest>,
    backlog: VecDeque<Pending>,
    /// Number of calls to all instances in the backlog.
    waiting_to_all: usize,
    max_per_queue: usize,
    max_total: usize,
}

/// A delivery, or a request, of the present session that has not started.
///
/// A batch that comes while others wait is not unpacked before it can start: its requests take many times as much memory.
pub(super) enum Pending {
    Arrival(Arrival),
    Request(ReceivedRequest),
}

impl Pending {
    fn source(&self) -> &Source {
        match self {
            Self::Arrival(arrival) => &arrival.source,
            Self::Request(request) => &request.source,
        }
    }

    fn is_to_all(&self) -> bool {
        self.source().to_all
    }

    /// Returns `true` if the delivery counts against the prefetch of a request queue.
    pub(super) fn fills(&self, queue: usize) -> bool {
        match self {
            Self::Arrival(Arrival { source, .. }) => {
                source.queue == queue && source.role == QueueRole::Main
            }
            Self::Request(_) => false, // From a batch, which counts once for all its requests, or to all instances.
        }
    }

    /// Gives back a delivery or request that has not started.
    pub(super) async fn give_back(self) {
        let request = match self {
            Self::Arrival(arrival) => arrival.into_whole(),
            Self::Request(request) => request,
        };
        request.give_back().await;
    }
}

impl Pool {
    pub(super) fn new(queues: usize, max_per_queue: usize, max_total: usize) -> Self {
        Self {
            tasks: JoinSet::new(),
            streams: JoinSet::new(),
            counters: Arc::new(Counters {
                of_queues: (0..queues).map(|_| AtomicUsize::new(0)).collect(),
                to_all: AtomicUsize::new(0),
                total: AtomicUsize::new(0),
                handler_ended: Notify::new(),
            }),
            starting: Vec::new(),
            backlog: VecDeque::new(),
            waiting_to_all: 0,
            max_per_queue,
            max_total,
        }
    }

    /// Takes a delivery, to be worked on as soon as the limits allow. Returns the number of its requests, or 1 while others wait.
    pub(super) fn add(&mut self, arrival: Arrival) -> usize {
        let mut requests = 1;
        if self.backlog.is_empty() && self.has_room(&arrival.source) {
            requests = self.unpack(arrival, 0);
        } else {
            self.backlog.push_back(Pending::Arrival(arrival));
        }
        self.start();
        requests
    }

    /// Takes a call to all instances, to be worked on as soon as the limits allow. Returns `false` if too many wait already; the call is
    /// dropped then.
    pub(super) fn add_to_all(&mut self, request: ReceivedRequest) -> bool {
        if self.backlog.is_empty() && self.has_room(&request.source) {
            self.prepare(request);
        } else if self.waiting_to_all < MAX_WAITING {
            self.waiting_to_all += 1;
            self.backlog.push_back(Pending::Request(request));
        } else {
            return false;
        }
        self.start();
        true
    }

    /// Prepares the request of a delivery, or puts the requests of a batch into the backlog from an index on. Returns their number.
    fn unpack(&mut self, arrival: Arrival, index: usize) -> usize {
        match arrival.unpack() {
            Unpacked::One(request) => {
                self.prepare(request);
                1
            }
            Unpacked::Several(requests) => {
                let before = self.backlog.len();
                for (number, request) in requests.enumerate() {
                    self.backlog
                        .insert(index + number, Pending::Request(request));
                }
                self.backlog.len() - before
            }
        }
    }

    /// Starts as much of the backlog as the limits allow.
    fn start(&mut self) {
        while self.tasks.try_join_next().is_some() {}
        while self.streams.try_join_next().is_some() {}
        let mut index = 0;
        while let Some(pending) = self.backlog.get(index)
            && self.running() < self.max_total
        {
            if !self.has_room(pending.source()) {
                index += 1;
                continue;
            }
            if pending.is_to_all() {
                self.waiting_to_all -= 1;
            }
            match self.backlog.remove(index) {
                Some(Pending::Arrival(arrival)) => {
                    self.unpack(arrival, index);
                }
                Some(Pending::Request(request)) => self.prepare(request),
                None => {}
            }
        }
        self.spawn();
    }

    /// Waits until a handler ends, and starts waiting requests. Never resolves while the backlog is empty: waking the server for
    /// every handler that ends would take a good part of its time.
    pub(super) async fn progress(&mut self) {
        if self.backlog.is_empty() {
            return std::future::pending().await;
        }
        self.counters.handler_ended.notified().await;
        self.start();
    }

    /// Removes everything that has not started and that the broker may deliver to another server: all but calls to all instances.
    pub(super) fn take_backlog(&mut self) -> VecDeque<Pending> {
        let backlog = std::mem::take(&mut self.backlog);
        let (to_all, others) = backlog.into_iter().partition(Pending::is_to_all);
        self.backlog = to_all;
        others
    }

    /// Drops the calls to all instances that have not started.
    pub(super) fn drop_calls_to_all(&mut self) {
        self.backlog.retain(|pending| !pending.is_to_all());
        self.waiting_to_all = 0;
    }

    /// Waits until all handlers and streams have ended.
    pub(super) async fn drain(&mut self) {
        while self.tasks.join_next().await.is_some() {}
        while self.streams.join_next().await.is_some() {}
    }

    /// Number of streams, and of handlers that may return one.
    pub(super) fn streams(&self) -> usize {
        self.streams.len()
    }

    pub(super) fn running(&self) -> usize {
        self.counters.total.load(Ordering::Acquire)
    }

    fn has_room(&self, source: &Source) -> bool {
        self.running() < self.max_total
            && self.counters.of(source).load(Ordering::Acquire) < self.max_per_queue
    }

    fn prepare(&mut self, request: ReceivedRequest) {
        let slot = Slot::take(&self.counters, &request.source);
        if request.is_streaming() {
            self.streams
                .spawn(StartedRequest { request, slot }.work_on_streams());
            return;
        }
        self.starting.push(StartedRequest { request, slot });
        if self.starting.len() == REQUESTS_PER_TASK {
            self.spawn();
        }
    }

    fn spawn(&mut self) {
        match self.starting.len() {
            0 => {}
            1 => self.starting.drain(..).for_each(|one| {
                self.tasks.spawn(one.work());
            }),
            _ => {
                let next = Vec::with_capacity(REQUESTS_PER_TASK);
                let together = std::mem::replace(&mut self.starting, next);
                self.tasks.spawn(work_together(together));
            }
        }
    }
}

/// Numbers of running handlers.
struct Counters {
    of_queues: Box<[AtomicUsize]>,
    /// Calls to all instances, of all services: like one more queue.
    to_all: AtomicUsize,
    total: AtomicUsize,
    handler_ended: Notify,
}

impl Counters {
    fn of(&self, source: &Source) -> &AtomicUsize {
        match source.to_all {
            true => &self.to_all,
            false => &self.of_queues[source.queue],
        }
    }
}

/// The slot of one running handler. Dropping it frees the slot.
pub(super) struct Slot {
    counters: Arc<Counters>,
    /// Index of the queue; `None` for a call to all instances.
    queue: Option<usize>,
}

impl Slot {
    fn take(counters: &Arc<Counters>, source: &Source) -> Self {
        counters.of(source).fetch_add(1, Ordering::AcqRel);
        counters.total.fetch_add(1, Ordering::AcqRel);
        Self {
            counters: counters.clone(),
            queue: (!source.to_all).then_some(source.queue),
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Counters {
            of_queues,
            to_all,
            total,
            handler_ended,
        } = &*self.counters;
        let of_queue = self.queue.map_or(to_all, |queue| &of_queues[queue]);
        of_queue.fetch_sub(1, Ordering::AcqRel);
        total.fetch_sub(1, Ordering::AcqRel);
        handler_ended.notify_one();
    }
}

/// A request that counts as running.
struct StartedRequest {
    request: ReceivedRequest,
    slot: Slot,
}

impl StartedRequest {
    fn work(self) -> impl Future<Output = ()> + Send + Unpin {
        let Self { request, slot } = self;
        // Boxed, because spawning moves a future several times.
        let work = Box::pin(request.work(slot));
        // The request itself catches panics of handlers, and answers with a fault. No other panic may end the requests that share the task.
        AssertUnwindSafe(work).catch_unwind().map(drop)
    }

    /// Works on a request for a method with streams. Each step frees its memory when it ends.
    async fn work_on_streams(self) {
        let Self { request, slot } = self;
        if let Some(request) = Box::pin(request.work(slot)).await {
            Box::pin(request.run()).await;
        }
    }
}

/// Works on requests that start together. A request that has to wait for something gets its own task. So does a request that could not
/// start soon enough: a handler that keeps its core busy must not hold up requests that other cores could run.
async fn work_together(requests: Vec<StartedRequest>) {
    let begun = Instant::now();
    let mut others = JoinSet::new();
    for request in requests {
        let mut work = request.work();
        if begun.elapsed() > SHARE_FOR || (&mut work).now_or_never().is_none() {
            others.spawn(work);
        }
    }
    while others.join_next().await.is_some() {}
}
