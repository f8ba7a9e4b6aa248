//! The supervisor of a connection: when the link is lost, it connects again.
//!
//! The supervisor handles links only, no channels, queues or calls. Users of a link learn of its loss from their channel, and get
//! the next link from [`SharedState::link`].

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::state::{CloseReason, SharedState, State};
use crate::backoff::pauses;
use crate::error::{BoxError, OpenError, with_causes};
use crate::telemetry::metrics;
use crate::transport::{Link, LinkStatus, Transport};

/// The pauses between attempts to connect.
const MIN_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Owner of the task that keeps a connection's link.
#[derive(Debug)]
pub(super) struct Supervisor {
    /// Shows the task that its owner ended it. Dropped before the task.
    _owner: Arc<()>,
    pub(super) state: SharedState,
    handovers: watch::Sender<()>,
    _task: AbortOnDropHandle<()>,
}

impl Supervisor {
    /// Starts with a link that works. Calls `on_handover` after each handover: when another link replaces one that works.
    pub(super) fn start(
        transport: Arc<dyn Transport>,
        link: Arc<dyn Link>,
        on_handover: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let state = SharedState::new(link.clone());
        let handovers = watch::Sender::new(());
        let owner = Arc::new(());
        let task = Task {
            transport,
            state: state.clone(),
            handovers: handovers.clone(),
            on_handover: Box::new(on_handover),
            owner: Arc::downgrade(&owner),
        };
        Self {
            _owner: owner,
            _task: AbortOnDropHandle::new(tokio::spawn(task.run(link))),
            state,
            handovers,
        }
    }

    /// Notifies of handovers, and of the end of the runtime. The loss of a link is not a handover: the link's channels report it.
    pub(super) fn handovers(&self) -> watch::Receiver<()> {
        self.handovers.subscribe()
    }
}

/// The supervisor's task.
struct Task {
    transport: Arc<dyn Transport>,
    state: SharedState,
    handovers: watch::Sender<()>,
    on_handover: Box<dyn Fn() + Send + Sync>,
    owner: Weak<()>,
}

impl Drop for Task {
    /// Closes the connection if the task ends with its runtime. Otherwise users of the connection in other runtimes would wait
    /// for the task.
    fn drop(&mut self) {
        if self.owner.strong_count() == 0 {
            return;
        }
        let link = self.state.close(CloseReason::RuntimeEnded);
        self.handovers.send_replace(());
        if let Some(link) = link {
            link.abandon();
        }
    }
}

impl Task {
    /// Keeps the connection until it is closed.
    async fn run(self, mut link: Arc<dyn Link>) {
        let mut waits = pauses(MIN_PAUSE, MAX_PAUSE);
        loop {
            let connected = Instant::now();
            let lost = tokio::select! {
                lost = self.until_lost(&link) => lost,
                next = self.successor(&link) => {
                    link = next;
                    if !self.state.set(State::Connected(link.clone())) {
                        return;
                    }
                    (self.on_handover)();
                    self.handovers.send_replace(());
                    info!("connected to the broker as another user; calls and handlers in progress finish on the old connection");
                    continue;
                }
            };
            let Some(cause) = lost else {
                return;
            };
            let error = with_causes(&*cause);
            if !self.state.set(State::Reconnecting(Arc::new(cause))) {
                return;
            }
            warn!(?error, "lost the connection to the broker; reconnecting");
            drop(link);
            // The pauses keep growing while each link is lost soon after it was made.
            if connected.elapsed() > MAX_PAUSE {
                waits = pauses(MIN_PAUSE, MAX_PAUSE);
            }
            link = match self.reconnect(&mut waits).await {
                Some(link) => link,
                None => return,
            };
            metrics::reconnected();
            info!("reconnected to the broker");
        }
    }

    /// Reports in the state whether the broker blocks the link, until the link is lost. Returns the cause of the loss, or `None` if
    /// the connection is closed.
    async fn until_lost(&self, link: &Arc<dyn Link>) -> Option<BoxError> {
        let mut status = link.status();
        loop {
            let state = match &*status.borrow_and_update() {
                LinkStatus::Up => State::Connected(link.clone()),
                LinkStatus::Blocked(reason) => {
                    warn!(reason, "the broker blocks publishers");
                    State::Blocked(link.clone(), reason.clone())
                }
                LinkStatus::Lost(cause) => return Some(cause.clone().into()),
            };
            if !self.state.set(state) {
                return None;
            }
            if status.changed().await.is_err() {
                return Some("the connection's watcher ended".into());
            }
        }
    }

    /// Waits until the link is outdated, then connects and returns its successor.
    async fn successor(&self, link: &Arc<dyn Link>) -> Arc<dyn Link> {
        link.outdated().await;
        let mut waits = pauses(MIN_PAUSE, MAX_PAUSE);
        loop {
            match self.transport.connect().await {
                Ok(next) => return next,
                Err(error) => {
                    let error = with_causes(&error);
                    warn!(
                        ?error,
                        "could not connect to the broker as another user; the old connection stays in use"
                    );
                }
            }
            tokio::time::sleep(waits.next().unwrap_or(MAX_PAUSE)).await;
        }
    }

    /// Connects again. Returns `None` if the connection is closed.
    async fn reconnect(&self, waits: &mut impl Iterator<Item = Duration>) -> Option<Arc<dyn Link>> {
        for pause in waits {
            tokio::time::sleep(pause).await;
            match self.transport.connect().await {
                Ok(link) => {
                    let is_open = self.state.set(State::Connected(link.clone()));
                    return is_open.then_some(link);
                }
                Err(error) => {
                    let reason = with_causes(&error);
                    if !self.state.set(State::Reconnecting(Arc::new(error.into()))) {
                        return None;
                    }
                    warn!(error = ?reason, "could not reconnect to the broker; trying again");
                }
            }
        }
        None // Unreachable: the pauses are endless.
    }
}

/// Connects for the first time. Tries again until `limit` while the broker cannot be reached or the credentials callback fails.
pub(super) async fn connect_within(
    transport: &dyn Transport,
    limit: Duration,
) -> Result<Arc<dyn Link>, OpenError> {
    let deadline = crate::deadline::after(limit);
    for pause in pauses(MIN_PAUSE, MAX_PAUSE) {
        match transport.connect().await {
            Err(error) if error.may_pass() && Instant::now() + pause < deadline => {}
            outcome => return outcome,
        }
        tokio::time::sleep(pause).await;
    }
    transport.connect().await // Unreachable: the pauses are endless.
}
