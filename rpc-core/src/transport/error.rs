//! Errors of a transport.

use std::sync::Arc;

use crate::error::BoxError;

/// Errors of a transport.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum TransportError {
    /// The link or the channel is gone.
    #[error("{0}")]
    Lost(Arc<BoxError>),
    /// There is no such queue.
    #[error("there is no such queue")]
    Unroutable,
    /// The broker answered a message with a nack.
    #[error("the broker refused the message")]
    Rejected,
    /// The broker refused an operation and closed the channel.
    #[error("{0}")]
    Refused(Arc<BoxError>),
    /// The broker refused an operation and closed the channel, because the user lacks a permission.
    #[error("{0}")]
    Forbidden(Arc<BoxError>),
    /// The broker refused an operation and closed the channel, because a queue does not exist or is unavailable: its node may be
    /// down.
    #[error("{0}")]
    Unavailable(Arc<BoxError>),
    /// No further channel may be opened, on the connection or by its user.
    #[error("{0}")]
    #[cfg_attr(
        not(feature = "amqp"),
        expect(dead_code, reason = "the embedded broker has no such limit")
    )]
    NoChannel(Arc<BoxError>),
    /// The message does not fit into AMQP.
    #[error("{0}")]
    Invalid(String),
    /// The message is larger than the broker takes.
    #[error("{0}")]
    TooLarge(String),
}

impl TransportError {
    pub(crate) fn lost(cause: impl Into<BoxError>) -> Self {
        Self::Lost(Arc::new(cause.into()))
    }
}
