//! Detection of a Tokio runtime, and work that several callers share.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

/// Returns `true` inside a Tokio runtime: code that spawns or sleeps panics outside of one.
pub(crate) fn in_runtime() -> bool {
    Handle::try_current().is_ok()
}

/// Work that runs once for all callers that wait for its outcome at the same time.
///
/// The work continues if its callers stop waiting. It runs on the runtime that created the `SingleFlight`, not on that of a caller,
/// so that tasks that the work starts do not end with a caller's runtime.
#[derive(Debug)]
pub(crate) struct SingleFlight<T> {
    runtime: Handle,
    work: Arc<Mutex<Option<Work<T>>>>,
}

/// Work under way. Its outcome is `None` if no caller waited when it ended.
type Work<T> = JoinHandle<Option<T>>;

impl<T: Send + 'static> SingleFlight<T> {
    /// Creates a `SingleFlight` whose work runs on the current runtime.
    ///
    /// # Panics
    ///
    /// Panics outside of a runtime.
    pub(crate) fn new() -> Self {
        Self {
            runtime: Handle::current(),
            work: Arc::default(),
        }
    }

    /// Waits for the work under way, or starts it. Returns `None` if the work's runtime ended before the work did.
    ///
    /// Callers take turns: each first calls `is_done`, which returns the outcome that an earlier caller has left.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the work running, for the next caller.
    pub(crate) async fn run<S, F>(&self, is_done: impl FnOnce() -> Option<T>, start: S) -> Option<T>
    where
        S: FnOnce() -> F,
        F: Future<Output = T> + Send + 'static,
    {
        let mut work = self.work.lock().await;
        if let Some(outcome) = is_done() {
            *work = None; // Work that was about to end would keep its outcome here.
            return Some(outcome);
        }
        let outcome = work.get_or_insert_with(|| {
            let (doing, work) = (start(), self.work.clone());
            self.runtime.spawn(async move {
                let outcome = doing.await;
                // A waiting caller holds the lock. If the lock is free, no caller takes the outcome: drop it.
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
    async fn abandoned_work_serves_the_next_caller() {
        let opening = SingleFlight::new();
        let first = opening.run(|| None, || slow(Arc::new(())));
        timeout(PAUSE / 2, first).await.unwrap_err();
        let again = || async { panic!("the work is under way") };
        assert!(opening.run(|| None, again).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn outcome_without_a_waiting_caller_is_dropped() {
        let opening = SingleFlight::new();
        let outcome = Arc::new(());
        let first = opening.run(|| None, || slow(outcome.clone()));
        timeout(PAUSE / 2, first).await.unwrap_err();
        sleep(PAUSE).await;
        assert_eq!(Arc::strong_count(&outcome), 1);
        assert!(opening.run(|| None, || slow(outcome)).await.is_some());
    }
}
