//! What can be watched of a connection.

use std::fmt;

use super::supervisor::StateReceiver;

/// How a connection is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectionState {
    /// It works.
    Connected,
    /// It works, but the broker takes no messages: it is short of memory or disk space
    /// (<https://www.rabbitmq.com/docs/connection-blocked>). Calls wait, until their deadlines.
    Blocked {
        /// The broker's words.
        reason: String,
    },
    /// It was lost and is being made again. New calls wait, until their deadlines; servers go on afterwards.
    Reconnecting {
        /// Why it was lost, or why the last attempt failed.
        error: String,
    },
    /// It was closed on this side. That is for good.
    Closed,
}

/// Watches the [`ConnectionState`] of a connection: made by [`Connection::state`](crate::Connection::state).
///
/// `Debug` shows the state now.
#[derive(Clone)]
pub struct StateWatch(pub(super) StateReceiver);

impl StateWatch {
    /// The state now.
    pub fn current(&mut self) -> ConnectionState {
        self.0.current()
    }

    /// Waits until the state changes and returns the new one; `None` when the connection has been dropped. A state that
    /// lasted very shortly may be missed, the latest never is.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future misses nothing.
    pub async fn changed(&mut self) -> Option<ConnectionState> {
        if self.0.changed().await {
            Some(self.0.current())
        } else {
            None
        }
    }
}

impl fmt::Debug for StateWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StateWatch").field(&self.0.peek()).finish()
    }
}

#[cfg(test)]
mod tests {
    use crate::Connection;

    #[tokio::test]
    async fn a_watch_prints_the_state_and_misses_nothing_by_that() {
        let connection = Connection::open("memory:").await.unwrap();
        let mut state = connection.state();
        assert_eq!(format!("{state:?}"), "StateWatch(Connected)");
        connection.close().await;
        assert_eq!(format!("{state:?}"), "StateWatch(Closed)");
        assert!(state.changed().await.is_some());
    }
}
