//! State of a connection, as its users watch it and as the supervisor keeps it.

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

use crate::error::{BoxError, RpcError, ServeError, with_causes};
use crate::transport::Link;

/// State of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectionState {
    /// The connection works.
    Connected,
    /// The connection works, but the broker accepts no messages because it is short of memory or disk space
    /// (<https://www.rabbitmq.com/docs/connection-blocked>). Calls wait until their deadlines.
    Blocked {
        /// The reason, in the broker's words.
        reason: String,
    },
    /// The connection was lost, and the library is connecting again. New calls wait until their deadlines; servers continue once the
    /// connection is back.
    Reconnecting {
        /// The cause of the loss, or of the last failed attempt to connect.
        error: String,
    },
    /// The connection was closed on this side, or its runtime has ended. It stays closed.
    Closed,
}

/// Watches the [`ConnectionState`] of a connection. Returned by [`Connection::state`](crate::Connection::state).
///
/// `Debug` shows the current state.
#[derive(Clone)]
pub struct StateWatch(watch::Receiver<State>);

impl StateWatch {
    /// Returns the current state.
    pub fn current(&mut self) -> ConnectionState {
        (&*self.0.borrow_and_update()).into()
    }

    /// Waits until the state changes and returns the new one, or `None` once the connection has been dropped.
    ///
    /// Never misses the latest state, but may skip a state that lasted only for a moment.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no change.
    pub async fn changed(&mut self) -> Option<ConnectionState> {
        self.0.changed().await.ok()?;
        Some(self.current())
    }
}

impl fmt::Debug for StateWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Shows the state without marking it as seen.
        let state = ConnectionState::from(&*self.0.borrow());
        f.debug_tuple("StateWatch").field(&state).finish()
    }
}

/// State of a connection, with its link.
#[derive(Clone, Debug)]
pub(super) enum State {
    Connected(Arc<dyn Link>),
    Blocked(Arc<dyn Link>, String),
    Reconnecting(Arc<BoxError>),
    Closed(CloseReason),
}

impl State {
    fn link(&self) -> Option<&Arc<dyn Link>> {
        match self {
            Self::Connected(link) | Self::Blocked(link, _) => Some(link),
            Self::Reconnecting(_) | Self::Closed(_) => None,
        }
    }
}

impl From<&State> for ConnectionState {
    fn from(state: &State) -> Self {
        match state {
            State::Connected(_) => Self::Connected,
            State::Blocked(_, reason) => Self::Blocked {
                reason: reason.clone(),
            },
            State::Reconnecting(error) => Self::Reconnecting {
                error: with_causes(&***error),
            },
            State::Closed(_) => Self::Closed,
        }
    }
}

/// Reason why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseReason {
    ByProgram,
    /// The runtime that opened the connection has ended.
    RuntimeEnded,
}

impl From<CloseReason> for RpcError {
    fn from(reason: CloseReason) -> Self {
        match reason {
            CloseReason::ByProgram => Self::closed(),
            CloseReason::RuntimeEnded => Self::runtime_ended(),
        }
    }
}

impl From<CloseReason> for ServeError {
    fn from(reason: CloseReason) -> Self {
        match reason {
            CloseReason::ByProgram => Self::Closed,
            CloseReason::RuntimeEnded => Self::RuntimeEnded,
        }
    }
}

/// Handle to the state of a connection. A state that is `Closed` never changes again.
#[derive(Clone, Debug)]
pub(super) struct SharedState(watch::Sender<State>);

impl SharedState {
    pub(super) fn new(link: Arc<dyn Link>) -> Self {
        Self(watch::Sender::new(State::Connected(link)))
    }

    /// Sets the state, and notifies watchers if its public form changes. Returns `false` if the connection is closed.
    pub(super) fn set(&self, state: State) -> bool {
        let mut open = true;
        self.0.send_if_modified(|current| match current {
            State::Closed(_) => {
                open = false;
                false
            }
            current => {
                let changed = ConnectionState::from(&*current) != ConnectionState::from(&state);
                *current = state;
                changed
            }
        });
        open
    }

    /// Closes the connection, unless it is closed already. Returns the link that was in use, for the caller to close.
    pub(super) fn close(&self, reason: CloseReason) -> Option<Arc<dyn Link>> {
        let mut link = None;
        self.0.send_if_modified(|current| {
            let is_open = !matches!(current, State::Closed(_));
            if is_open {
                link = current.link().cloned();
                *current = State::Closed(reason);
            }
            is_open
        });
        link
    }

    /// Waits for a link and returns it.
    pub(super) async fn link(&self) -> Result<Arc<dyn Link>, CloseReason> {
        let mut states = self.0.subscribe();
        loop {
            match &*states.borrow_and_update() {
                State::Connected(link) | State::Blocked(link, _) => return Ok(link.clone()),
                State::Closed(reason) => return Err(*reason),
                State::Reconnecting(_) => {}
            }
            let _ = states.changed().await; // Never fails: `self` is a sender.
        }
    }

    /// Returns `true` if new work goes to this link.
    pub(super) fn is_current(&self, link: &Arc<dyn Link>) -> bool {
        let state = self.0.borrow();
        state
            .link()
            .is_some_and(|current| Arc::ptr_eq(current, link))
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(*self.0.borrow(), State::Closed(_))
    }

    pub(super) fn current(&self) -> ConnectionState {
        (&*self.0.borrow()).into()
    }

    pub(super) fn watch(&self) -> StateWatch {
        StateWatch(self.0.subscribe())
    }
}

#[cfg(test)]
mod tests {
    use crate::connection::Connection;

    #[tokio::test]
    async fn debug_output_shows_the_state_and_loses_no_change() {
        let connection = Connection::open("memory:").await.unwrap();
        let mut state = connection.state();
        assert_eq!(format!("{state:?}"), "StateWatch(Connected)");
        connection.close().await;
        assert_eq!(format!("{state:?}"), "StateWatch(Closed)");
        assert!(state.changed().await.is_some());
    }
}
