//! Keeps a connection: when its link is lost, it makes another.
//!
//! The supervisor knows nothing of channels, queues and calls. Those who use a link learn of its loss from their channel,
//! and get the next one from [`Supervisor::link`].

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use super::state::ConnectionState;
use crate::backoff::pauses;
use crate::error::{BoxError, OpenError, RpcError, ServeError, with_causes};
use crate::task::Task;
use crate::telemetry::metrics;
use crate::transport::{Link, LinkStatus, Transport};

/// The pauses between attempts to connect.
const MIN_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// The owner of a connection's link.
#[derive(Debug)]
pub(super) struct Supervisor {
    /// Tells the task that it was ended by its owner. Dropped before the task.
    _owner: Arc<()>,
    links: watch::Sender<Keeping>,
    moves: watch::Sender<()>,
    _task: Task,
}

/// The reason for which a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    ByProgram,
    /// The runtime that opened the connection has ended.
    WithRuntime,
}

impl From<Closed> for RpcError {
    fn from(reason: Closed) -> Self {
        match reason {
            Closed::ByProgram => Self::closed(),
            Closed::WithRuntime => Self::runtime_ended(),
        }
    }
}

impl From<Closed> for ServeError {
    fn from(reason: Closed) -> Self {
        match reason {
            Closed::ByProgram => Self::Closed,
            Closed::WithRuntime => Self::RuntimeEnded,
        }
    }
}

/// What the supervisor has at the moment.
#[derive(Clone, Debug)]
enum Keeping {
    Link(Arc<dyn Link>),
    Blocked(Arc<dyn Link>, String),
    Nothing(Arc<BoxError>),
    Closed(Closed),
}

impl Supervisor {
    /// Starts with a link that works. Calls `moved` whenever another has taken the place of one that works.
    pub(super) fn start(
        transport: Arc<dyn Transport>,
        link: Arc<dyn Link>,
        moved: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let (links, _) = watch::channel(Keeping::Link(link.clone()));
        let (moves, _) = watch::channel(());
        let owner = Arc::new(());
        let keeper = Keeper {
            transport,
            links: links.clone(),
            moves: moves.clone(),
            moved: Box::new(moved),
            owner: Arc::downgrade(&owner),
        };
        Self {
            _owner: owner,
            _task: Task::spawn(keeper.supervise(link)),
            links,
            moves,
        }
    }

    /// Sees when another link takes the place of one that works. Not when one was lost: its channels tell that.
    pub(super) fn moves(&self) -> watch::Receiver<()> {
        self.moves.subscribe()
    }

    /// Tells the link to which new work goes.
    pub(super) fn is_current(&self, link: &Arc<dyn Link>) -> bool {
        let keeping = self.links.borrow();
        keeping
            .link()
            .is_some_and(|current| Arc::ptr_eq(current, link))
    }

    /// The link, as soon as there is one.
    pub(super) async fn link(&self) -> Result<Arc<dyn Link>, Closed> {
        let mut links = self.links.subscribe();
        loop {
            match &*links.borrow_and_update() {
                Keeping::Link(link) | Keeping::Blocked(link, _) => return Ok(link.clone()),
                Keeping::Closed(reason) => return Err(*reason),
                Keeping::Nothing(_) => {}
            }
            // The sender is here.
            let _ = links.changed().await;
        }
    }

    /// Ends it, and hands out the link to be closed.
    pub(super) fn close(&self) -> Option<Arc<dyn Link>> {
        close(&self.links, Closed::ByProgram)
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(*self.links.borrow(), Keeping::Closed(_))
    }

    pub(super) fn state(&self) -> ConnectionState {
        self.links.borrow().state()
    }

    /// Sees every change of the state.
    pub(super) fn subscribe(&self) -> StateReceiver {
        StateReceiver(self.links.subscribe())
    }
}

impl Keeping {
    fn link(&self) -> Option<&Arc<dyn Link>> {
        match self {
            Self::Link(link) | Self::Blocked(link, _) => Some(link),
            Self::Nothing(_) | Self::Closed(_) => None,
        }
    }

    fn state(&self) -> ConnectionState {
        match self {
            Self::Link(_) => ConnectionState::Connected,
            Self::Blocked(_, reason) => ConnectionState::Blocked {
                reason: reason.clone(),
            },
            Self::Nothing(error) => ConnectionState::Reconnecting {
                error: with_causes(&***error),
            },
            Self::Closed(_) => ConnectionState::Closed,
        }
    }
}

/// A view of the supervisor's state.
#[derive(Clone, Debug)]
pub(super) struct StateReceiver(watch::Receiver<Keeping>);

impl StateReceiver {
    pub(super) fn current(&mut self) -> ConnectionState {
        self.0.borrow_and_update().state()
    }

    /// The state, which still counts as a change.
    pub(super) fn peek(&self) -> ConnectionState {
        self.0.borrow().state()
    }

    /// Waits for a change; `false` when there will be none.
    pub(super) async fn changed(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }
}

/// The supervisor's task.
struct Keeper {
    transport: Arc<dyn Transport>,
    links: watch::Sender<Keeping>,
    moves: watch::Sender<()>,
    moved: Box<dyn Fn() + Send + Sync>,
    owner: Weak<()>,
}

impl Drop for Keeper {
    /// Closes the connection if the task ends with the runtime, so that what uses the connection elsewhere does not wait for it.
    fn drop(&mut self) {
        if self.owner.strong_count() == 0 {
            return;
        }
        let link = close(&self.links, Closed::WithRuntime);
        self.moves.send_replace(());
        if let Some(link) = link {
            link.abandon();
        }
    }
}

impl Keeper {
    async fn supervise(self, mut link: Arc<dyn Link>) {
        let mut waits = pauses(MIN_PAUSE, MAX_PAUSE);
        loop {
            let connected = Instant::now();
            let lost = tokio::select! {
                lost = until_lost(&link, &self.links) => lost,
                next = self.successor(&link) => {
                    link = next;
                    if !replace(&self.links, Keeping::Link(link.clone())) {
                        return;
                    }
                    (self.moved)();
                    self.moves.send_replace(());
                    info!("connected to the broker as another user; what is under way ends on the old connection");
                    continue;
                }
            };
            // A link that is lost as soon as it is made, again and again, is no reason to hurry.
            let Some(cause) = lost else {
                return;
            };
            let error = with_causes(&*cause);
            if !replace(&self.links, Keeping::Nothing(Arc::new(cause))) {
                return;
            }
            warn!(
                ?error,
                "the connection to the broker was lost; connecting again"
            );
            drop(link);
            if connected.elapsed() > MAX_PAUSE {
                waits = pauses(MIN_PAUSE, MAX_PAUSE);
            }
            link = match reconnect(&*self.transport, &self.links, &mut waits).await {
                Some(link) => link,
                None => return,
            };
            metrics::reconnected();
            info!("connected to the broker again");
        }
    }

    /// Another link, once this one should be replaced and as soon as there is one.
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
                        "could not connect to the broker as another user; the old connection goes on"
                    );
                }
            }
            tokio::time::sleep(waits.next().unwrap_or(MAX_PAUSE)).await;
        }
    }
}

/// Passes on whether the link is blocked, until it is lost. `None` once the connection is closed.
async fn until_lost(link: &Arc<dyn Link>, links: &watch::Sender<Keeping>) -> Option<BoxError> {
    let mut status = link.status();
    loop {
        let keeping = match &*status.borrow_and_update() {
            LinkStatus::Up => Keeping::Link(link.clone()),
            LinkStatus::Blocked(reason) => {
                warn!(reason, "the broker blocks publishers");
                Keeping::Blocked(link.clone(), reason.clone())
            }
            LinkStatus::Lost(cause) => return Some(cause.clone().into()),
        };
        if !replace(links, keeping) {
            return None;
        }
        if status.changed().await.is_err() {
            return Some("the connection's watcher ended".into());
        }
    }
}

async fn reconnect(
    transport: &dyn Transport,
    links: &watch::Sender<Keeping>,
    waits: &mut impl Iterator<Item = Duration>,
) -> Option<Arc<dyn Link>> {
    for pause in waits {
        tokio::time::sleep(pause).await;
        match transport.connect().await {
            Ok(link) => return replace(links, Keeping::Link(link.clone())).then_some(link),
            Err(error) => {
                let reason = with_causes(&error);
                if !replace(links, Keeping::Nothing(Arc::new(error.into()))) {
                    return None;
                }
                warn!(error = ?reason, "could not connect to the broker; trying again");
            }
        }
    }
    None // There is always another pause.
}

/// Connects for the first time, again and again until `limit` if it is the broker, or its credentials, that are missing.
pub(super) async fn connect_within(
    transport: &dyn Transport,
    limit: Duration,
) -> Result<Arc<dyn Link>, OpenError> {
    let deadline = crate::message::deadline_after(limit);
    for pause in pauses(MIN_PAUSE, MAX_PAUSE) {
        match transport.connect().await {
            Err(error) if error.may_pass() && Instant::now() + pause < deadline => {}
            outcome => return outcome,
        }
        tokio::time::sleep(pause).await;
    }
    transport.connect().await // There is always another pause.
}

/// Sets what there is, and wakes who waits for that if the state is another; `false` once the connection is closed.
fn replace(links: &watch::Sender<Keeping>, keeping: Keeping) -> bool {
    let mut open = true;
    links.send_if_modified(|current| match current {
        Keeping::Closed(_) => {
            open = false;
            false
        }
        current => {
            let is_another = current.state() != keeping.state();
            *current = keeping;
            is_another
        }
    });
    open
}

/// Closes what is open. Hands out the link that there was.
fn close(links: &watch::Sender<Keeping>, reason: Closed) -> Option<Arc<dyn Link>> {
    let mut link = None;
    links.send_if_modified(|current| {
        let is_open = !matches!(current, Keeping::Closed(_));
        if is_open {
            link = current.link().cloned();
            *current = Keeping::Closed(reason);
        }
        is_open
    });
    link
}
