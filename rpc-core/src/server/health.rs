//! Health of a server, as its handle watches it.

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

/// Health of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Health {
    /// The server takes requests.
    Serving,
    /// The server takes no requests: its connection or its channel was lost, and the server is opening another.
    Reconnecting,
    /// The server was told to stop. It takes no more requests, and finishes those that run.
    Draining,
    /// The server has ended. Its health never changes again.
    Stopped,
}

/// Watches the [`Health`] of a server. Returned by [`ServerHandle::health`](crate::ServerHandle::health).
///
/// A watch begins with the health at the moment when it was made. The watch can be used after [`ServerHandle::shutdown`](crate::ServerHandle::shutdown) has taken the handle, and after the server has
/// ended. `Debug` shows the current health.
#[derive(Clone)]
pub struct HealthWatch {
    states: watch::Receiver<State>,
    /// The state that was returned last.
    seen: State,
}

impl HealthWatch {
    /// Returns the current health.
    pub fn current(&mut self) -> Health {
        self.seen = self.states.borrow_and_update().clone();
        self.seen.health
    }

    /// Waits until the health changes and returns it, or `None` once [`Health::Stopped`] has been returned.
    ///
    /// Never misses the latest health, but may skip one that lasted only for a moment.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no change.
    pub async fn changed(&mut self) -> Option<Health> {
        if self.seen.health == Health::Stopped {
            return None;
        }
        self.states.changed().await.ok()?;
        Some(self.current())
    }

    /// Returns the reason for the health that was returned last: the cause of a loss, or of the end. `None` for [`Health::Serving`].
    pub fn reason(&self) -> Option<String> {
        self.seen.reason.as_deref().map(str::to_owned)
    }
}

impl fmt::Debug for HealthWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Shows the health without marking it as seen.
        let health = self.states.borrow().health;
        f.debug_tuple("HealthWatch").field(&health).finish()
    }
}

#[derive(Clone)]
struct State {
    health: Health,
    reason: Option<Arc<str>>,
}

/// The health of a server, as the server reports it. Clones report about the same server.
#[derive(Clone)]
pub(super) struct HealthReport(watch::Sender<State>);

impl HealthReport {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(State {
            health: Health::Serving,
            reason: None,
        }))
    }

    pub(super) fn watch(&self) -> HealthWatch {
        let states = self.0.subscribe();
        let seen = states.borrow().clone();
        HealthWatch { states, seen }
    }

    pub(super) fn serving(&self) {
        self.set(Health::Serving, None);
    }

    pub(super) fn reconnecting(&self, reason: &str) {
        self.set(Health::Reconnecting, Some(reason));
    }

    pub(super) fn draining(&self, reason: &str) {
        self.set(Health::Draining, Some(reason));
    }

    pub(super) fn stopped(&self, reason: &str) {
        self.set(Health::Stopped, Some(reason));
    }

    /// Sets the health. A server that drains never serves again, and one that has stopped stays so.
    fn set(&self, health: Health, reason: Option<&str>) {
        let stage = |health| match health {
            Health::Serving | Health::Reconnecting => 0,
            Health::Draining => 1,
            Health::Stopped => 2,
        };
        self.0.send_if_modified(|state| {
            let is_news = state.health != health && stage(state.health) <= stage(health);
            if is_news {
                *state = State {
                    health,
                    reason: reason.map(Arc::from),
                };
            }
            is_news
        });
    }

    /// Returns a guard that reports the end of the server when the server is dropped.
    pub(super) fn stop_on_drop(&self) -> StopOnDrop {
        StopOnDrop(self.clone())
    }
}

/// Guard of a server's task.
pub(super) struct StopOnDrop(HealthReport);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        // A server that ended by itself has reported its reason.
        self.0
            .stopped("the handle of the server was dropped, or its runtime has ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_watch_sees_every_stage_with_its_reason() {
        let report = HealthReport::new();
        let mut watch = report.watch();
        assert_eq!(watch.current(), Health::Serving);
        assert_eq!(watch.reason(), None);
        report.reconnecting("cut");
        assert_eq!(format!("{watch:?}"), "HealthWatch(Reconnecting)");
        assert_eq!(watch.changed().await, Some(Health::Reconnecting));
        assert_eq!(watch.reason().as_deref(), Some("cut"));
        report.serving();
        assert_eq!(watch.changed().await, Some(Health::Serving));
        assert_eq!(watch.reason(), None);
        report.draining("told to");
        assert_eq!(watch.changed().await, Some(Health::Draining));
        report.stopped("done");
        assert_eq!(watch.changed().await, Some(Health::Stopped));
        assert_eq!(watch.reason().as_deref(), Some("done"));
        assert_eq!(watch.changed().await, None);
    }

    #[test]
    fn health_never_goes_back_to_an_earlier_stage() {
        let report = HealthReport::new();
        let mut watch = report.watch();
        report.draining("told to");
        report.serving();
        report.reconnecting("cut");
        assert_eq!(watch.current(), Health::Draining);
        report.stopped("done");
        report.draining("told to");
        drop(report.stop_on_drop());
        assert_eq!(watch.current(), Health::Stopped);
        assert_eq!(watch.reason().as_deref(), Some("done"));
    }

    #[tokio::test]
    async fn the_end_of_a_dropped_server_is_seen() {
        let report = HealthReport::new();
        let mut watch = report.watch();
        drop(report.stop_on_drop());
        drop(report);
        assert_eq!(watch.changed().await, Some(Health::Stopped));
        assert!(watch.reason().unwrap().contains("dropped"));
        assert_eq!(watch.changed().await, None);
    }
}
