//! Spawned tasks and who waits for them.

use tokio::sync::Mutex;
use tokio::task::{AbortHandle, JoinHandle};

/// A task that ends when its owner is dropped.
#[derive(Debug)]
pub(crate) struct Task(AbortHandle);

impl Task {
    pub(crate) fn spawn(future: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(future).abort_handle())
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Work that is done once for all who wait for it, and goes on when they give up.
#[derive(Debug)]
pub(crate) struct Shared<T>(Mutex<Option<JoinHandle<T>>>);

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T: Send + 'static> Shared<T> {
    /// Waits for the work under way, or starts it. One after the other: whoever comes next looks whether it is still needed.
    /// `None` if it ended without an outcome, because its runtime did.
    ///
    /// Dropping the future leaves the work to the next who waits.
    pub(crate) async fn run<S, F>(&self, is_done: impl FnOnce() -> Option<T>, start: S) -> Option<T>
    where
        S: FnOnce() -> F,
        F: Future<Output = T> + Send + 'static,
    {
        let mut work = self.0.lock().await;
        if let Some(outcome) = is_done() {
            return Some(outcome);
        }
        let outcome = work.get_or_insert_with(|| tokio::spawn(start())).await;
        *work = None;
        outcome.ok()
    }
}
