//! Spawned tasks and who waits for them.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::task::{AbortHandle, JoinHandle};

/// Tells code that would panic outside of a runtime that it is inside.
pub(crate) fn in_runtime() -> bool {
    Handle::try_current().is_ok()
}

/// A task that ends when its owner is dropped.
#[derive(Debug)]
pub(crate) struct Task(AbortHandle);

impl Task {
    pub(crate) fn spawn(future: impl Future<Output = ()> + Send + 'static) -> Self {
        Self::spawn_on(&Handle::current(), future)
    }

    pub(crate) fn spawn_on(
        runtime: &Handle,
        future: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        Self(runtime.spawn(future).abort_handle())
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Work that is done once for all who wait for it, and goes on when they give up. It runs where its owner was made, so that what it
/// starts lives as long as its owner, in whatever runtime the caller is.
#[derive(Debug)]
pub(crate) struct Shared<T> {
    runtime: Handle,
    work: Arc<Mutex<Option<Work<T>>>>,
}

/// The outcome is only there for those who wait when it comes.
type Work<T> = JoinHandle<Option<T>>;

impl<T: Send + 'static> Shared<T> {
    /// Takes the runtime of the caller.
    pub(crate) fn new() -> Self {
        Self {
            runtime: Handle::current(),
            work: Arc::default(),
        }
    }

    /// Waits for the work under way, or starts it. One after the other: whoever comes next looks whether it is still needed.
    /// `None` if it ended without an outcome, because its runtime did.
    ///
    /// Dropping the future leaves the work to the next who waits.
    pub(crate) async fn run<S, F>(&self, is_done: impl FnOnce() -> Option<T>, start: S) -> Option<T>
    where
        S: FnOnce() -> F,
        F: Future<Output = T> + Send + 'static,
    {
        let mut work = self.work.lock().await;
        if let Some(outcome) = is_done() {
            *work = None; // It may have been about to end, and then its outcome would stay.
            return Some(outcome);
        }
        let outcome = work.get_or_insert_with(|| {
            let (doing, work) = (start(), self.work.clone());
            self.runtime.spawn(async move {
                let outcome = doing.await;
                // Whoever waits holds the lock. If nobody does, nobody comes for the outcome, and it must not stay.
                match work.try_lock() {
                    Ok(mut work) => *work = None,
                    Err(_) => return Some(outcome),
                }
                None
            })
        });
        let outcome = outcome.await;
        *work = None;
        outcome.ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{sleep, timeout};

    use super::*;

    const PAUSE: Duration = Duration::from_secs(1);

    async fn slow(outcome: Arc<()>) -> Arc<()> {
        sleep(PAUSE).await;
        outcome
    }

    #[tokio::test(start_paused = true)]
    async fn work_goes_on_for_the_next_who_waits() {
        let shared = Shared::new();
        let first = shared.run(|| None, || slow(Arc::new(())));
        timeout(PAUSE / 2, first).await.unwrap_err();
        let again = || async { panic!("it is under way") };
        assert!(shared.run(|| None, again).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn an_outcome_that_nobody_waits_for_does_not_stay() {
        let shared = Shared::new();
        let outcome = Arc::new(());
        let first = shared.run(|| None, || slow(outcome.clone()));
        timeout(PAUSE / 2, first).await.unwrap_err();
        sleep(PAUSE).await;
        assert_eq!(Arc::strong_count(&outcome), 1);
        assert!(shared.run(|| None, || slow(outcome)).await.is_some());
    }
}
