//! How much a server does at once: running handlers, and deliveries that wait for one of them to end.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use tokio::task::{JoinError, JoinSet};

use super::delivery::Arrival;

/// The handlers of a server, within its limits, whatever happens to its connection.
pub(super) struct Workload {
    /// Each tells the number of its queue when it ends.
    handlers: JoinSet<usize>,
    /// For each queue.
    running: Vec<usize>,
    /// Deliveries of the present channel that have not started.
    backlog: VecDeque<Box<Arrival>>,
    per_queue: usize,
    in_all: usize,
}

impl Workload {
    pub(super) fn new(queues: usize, per_queue: usize, in_all: usize) -> Self {
        Self {
            handlers: JoinSet::new(),
            running: vec![0; queues],
            backlog: VecDeque::new(),
            per_queue,
            in_all,
        }
    }

    /// Starts to work on a delivery, or keeps it until that is possible.
    pub(super) fn add(&mut self, arrival: Box<Arrival>) {
        while let Some(ended) = self.handlers.try_join_next() {
            self.ended(ended);
        }
        if self.backlog.is_empty() && self.has_room(&arrival) {
            self.start(arrival);
        } else {
            self.backlog.push_back(arrival);
            self.start_what_waits();
        }
    }

    /// Waits until a handler ends, and starts what waited for that. Never resolves while nothing waits: a server that is woken
    /// for every handler that ends spends a good deal of its time on that.
    pub(super) async fn progress(&mut self) {
        if self.backlog.is_empty() {
            return std::future::pending().await;
        }
        match self.handlers.join_next().await {
            Some(ended) => {
                self.ended(ended);
                self.start_what_waits();
            }
            None => std::future::pending().await,
        }
    }

    fn ended(&mut self, ended: Result<usize, JoinError>) {
        // Handlers are not aborted and catch their panics.
        if let Ok(queue) = ended {
            self.running[queue] -= 1;
        }
    }

    /// What has not started, and now will not.
    pub(super) fn take_backlog(&mut self) -> VecDeque<Box<Arrival>> {
        std::mem::take(&mut self.backlog)
    }

    /// Waits until all handlers have ended.
    pub(super) async fn drain(&mut self) {
        while self.handlers.join_next().await.is_some() {}
    }

    pub(super) fn running(&self) -> usize {
        self.handlers.len()
    }

    fn has_room(&self, arrival: &Arrival) -> bool {
        self.handlers.len() < self.in_all && self.running[arrival.queue] < self.per_queue
    }

    fn start_what_waits(&mut self) {
        let mut index = 0;
        while let Some(arrival) = self.backlog.get(index) {
            if self.handlers.len() >= self.in_all {
                return;
            }
            if self.has_room(arrival) {
                if let Some(arrival) = self.backlog.remove(index) {
                    self.start(arrival);
                }
            } else {
                index += 1;
            }
        }
    }

    fn start(&mut self, arrival: Box<Arrival>) {
        let queue = arrival.queue;
        self.running[queue] += 1;
        self.handlers.spawn(async move {
            // Boxed, because spawning moves what it is given several times.
            let work = Box::pin(arrival.work());
            // Handlers' panics are caught where they can be answered; whatever else panics must not change the count.
            let _ = AssertUnwindSafe(work).catch_unwind().await;
            queue
        });
    }
}
