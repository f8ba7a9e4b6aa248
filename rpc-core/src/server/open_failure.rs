//! Failures to open a session, and whether another attempt may succeed.

use super::instance::Instance;
use super::served::ServedQueue;
use crate::error::ServeError;
use crate::transport::TransportError;

/// A failure to read the queues of a server.
pub(super) struct OpenFailure {
    pub(super) error: ServeError,
    pub(super) outlook: Outlook,
}

/// Outlook of further attempts, the best first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outlook {
    /// Another attempt may succeed.
    Transient,
    /// Another attempt may succeed where the server has read its queues before: a queue that is not to be declared is missing, or all
    /// channels are taken, perhaps by a connection that was lost.
    AfterLoss,
    /// Another attempt may succeed if the connection's user, who lacks a permission, has changed.
    AfterMove,
    Final,
}

impl Instance {
    /// Classifies an error of the transport; `served` is the queue concerned, if any.
    pub(super) fn failure(
        &self,
        served: Option<&ServedQueue>,
        error: TransportError,
    ) -> OpenFailure {
        let (error, outlook) = match (error, served) {
            (TransportError::Lost(_), _) | (_, None) if self.connection.is_closed() => {
                (ServeError::Closed, Outlook::Final)
            }
            (error @ TransportError::NoChannel(_), _) => {
                let source = error.into();
                (ServeError::NoChannel { source }, Outlook::AfterLoss)
            }
            (error @ TransportError::Lost(_), _) | (error, None) => {
                (ServeError::Disconnected(error.into()), Outlook::Transient)
            }
            (error, Some(served)) => {
                let outlook = match error {
                    TransportError::Unavailable(_) if served.options.is_passive() => {
                        Outlook::AfterLoss
                    }
                    TransportError::Unavailable(_) => Outlook::Transient,
                    TransportError::Forbidden(_) => Outlook::AfterMove,
                    _ => Outlook::Final,
                };
                let refused = ServeError::QueueRefused {
                    queue: served.queue.to_string(),
                    source: error.into(),
                };
                (refused, outlook)
            }
        };
        OpenFailure { error, outlook }
    }
}
