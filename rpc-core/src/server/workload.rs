//! How much a server does at once: running handlers, and requests that wait for one of them to end.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::delivery::Arrival;

/// How many requests that came together share a task until they wait for something. A task for each costs more than many a
/// handler does, and one for all would keep a single core busy.
const SHARE_A_TASK: usize = 8;

/// How long they do.
const SHARE_FOR: Duration = Duration::from_micros(50);

/// The handlers of a server, within its limits, whatever happens to its connection.
pub(super) struct Workload {
    tasks: JoinSet<()>,
    running: Arc<Running>,
    /// Requests that are counted as running, and will share a task.
    starting: Vec<Started>,
    /// Requests and batches of the present channel that have not started. A batch that comes while others wait is taken apart when its
    /// turn comes: its requests take many times as much memory.
    backlog: VecDeque<Arrival>,
    per_queue: usize,
    in_all: usize,
}

impl Workload {
    pub(super) fn new(queues: usize, per_queue: usize, in_all: usize) -> Self {
        Self {
            tasks: JoinSet::new(),
            running: Arc::new(Running {
                of_queues: (0..queues).map(|_| AtomicUsize::new(0)).collect(),
                in_all: AtomicUsize::new(0),
                one_ended: Notify::new(),
            }),
            starting: Vec::new(),
            backlog: VecDeque::new(),
            per_queue,
            in_all,
        }
    }

    /// Takes a delivery, to be worked on as soon as that is possible. Returns the number of its requests, or 1 while others wait.
    pub(super) fn add(&mut self, arrival: Arrival) -> usize {
        let mut requests = 1;
        if self.backlog.is_empty() && self.has_room(arrival.queue) {
            requests = self.take_apart(arrival, 0);
        } else {
            self.backlog.push_back(arrival);
        }
        self.start();
        requests
    }

    /// Prepares a request, or puts those of a batch into the backlog from there on. Returns their number.
    fn take_apart(&mut self, arrival: Arrival, index: usize) -> usize {
        match arrival.taken_apart() {
            Ok(requests) => {
                let before = self.backlog.len();
                for (number, request) in requests.enumerate() {
                    self.backlog.insert(index + number, request);
                }
                self.backlog.len() - before
            }
            Err(whole) => {
                self.prepare(whole);
                1
            }
        }
    }

    /// Starts to work on what was added.
    fn start(&mut self) {
        while self.tasks.try_join_next().is_some() {}
        let mut index = 0;
        while let Some(arrival) = self.backlog.get(index)
            && self.running() < self.in_all
        {
            if self.has_room(arrival.queue) {
                if let Some(arrival) = self.backlog.remove(index) {
                    self.take_apart(arrival, index);
                }
            } else {
                index += 1;
            }
        }
        self.spawn();
    }

    /// Waits until a handler ends, and starts what waited for that. Never resolves while nothing waits: a server that is woken
    /// for every handler that ends spends a good deal of its time on that.
    pub(super) async fn progress(&mut self) {
        if self.backlog.is_empty() {
            return std::future::pending().await;
        }
        self.running.one_ended.notified().await;
        self.start();
    }

    /// What has not started, and now will not.
    pub(super) fn take_backlog(&mut self) -> VecDeque<Arrival> {
        std::mem::take(&mut self.backlog)
    }

    /// Waits until all handlers have ended.
    pub(super) async fn drain(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }

    pub(super) fn running(&self) -> usize {
        self.running.in_all.load(Ordering::Acquire)
    }

    fn has_room(&self, queue: usize) -> bool {
        self.running() < self.in_all
            && self.running.of_queues[queue].load(Ordering::Acquire) < self.per_queue
    }

    fn prepare(&mut self, arrival: Arrival) {
        let slot = Slot::take(&self.running, arrival.queue);
        self.starting.push(Started { arrival, slot });
        if self.starting.len() == SHARE_A_TASK {
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
                let next = Vec::with_capacity(SHARE_A_TASK);
                let together = std::mem::replace(&mut self.starting, next);
                self.tasks.spawn(work_on(together));
            }
        }
    }
}

/// How many handlers run.
struct Running {
    of_queues: Box<[AtomicUsize]>,
    in_all: AtomicUsize,
    one_ended: Notify,
}

/// One of those, until it is dropped.
struct Slot {
    running: Arc<Running>,
    queue: usize,
}

impl Slot {
    fn take(running: &Arc<Running>, queue: usize) -> Self {
        running.of_queues[queue].fetch_add(1, Ordering::AcqRel);
        running.in_all.fetch_add(1, Ordering::AcqRel);
        Self {
            running: running.clone(),
            queue,
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Running {
            of_queues,
            in_all,
            one_ended,
        } = &*self.running;
        of_queues[self.queue].fetch_sub(1, Ordering::AcqRel);
        in_all.fetch_sub(1, Ordering::AcqRel);
        one_ended.notify_one();
    }
}

/// A request that is about to be worked on.
struct Started {
    arrival: Arrival,
    slot: Slot,
}

impl Started {
    fn work(self) -> impl Future<Output = ()> + Send + Unpin {
        let Self { arrival, slot } = self;
        // Boxed, because spawning moves what it is given several times.
        let work = Box::pin(arrival.work());
        // Handlers' panics are caught where they can be answered; whatever else panics must not take others along.
        AssertUnwindSafe(work)
            .catch_unwind()
            .map(move |_| drop(slot))
    }
}

/// Works on requests that came together. What has to wait for something gets a task of its own, and so does what was not begun
/// soon enough: a handler that keeps its core busy does not keep others from using the rest.
async fn work_on(requests: Vec<Started>) {
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
