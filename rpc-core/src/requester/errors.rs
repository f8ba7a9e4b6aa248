//! Errors of the transport in the words of a caller.

use crate::error::{BoxError, ErrorKind, NO_CHANNEL, RpcError};
use crate::transport::TransportError;

pub(super) fn unroutable() -> RpcError {
    RpcError::new(ErrorKind::Unroutable, "there is no such queue")
}

/// Returns the error of a call whose request was not published.
pub(crate) fn not_sent(error: TransportError) -> RpcError {
    let (kind, message) = match error {
        TransportError::Invalid(reason) => return RpcError::new(ErrorKind::Encode, reason),
        TransportError::TooLarge(reason) => {
            return RpcError::new(ErrorKind::TooLarge, reason).not_executed();
        }
        TransportError::Unroutable => return unroutable(),
        TransportError::Rejected => {
            return RpcError::new(
                ErrorKind::Rejected,
                "the broker refused the request: is the queue full?",
            );
        }
        TransportError::Lost(_) => (
            ErrorKind::Disconnected,
            "the connection to the broker is lost",
        ),
        TransportError::Forbidden(_) => (
            ErrorKind::PermissionDenied,
            "the user may not have a reply queue: grant the user the permissions to configure and to read queues whose names begin \
             with 'rpc.reply.'",
        ),
        TransportError::NoChannel(_) => (ErrorKind::PermissionDenied, NO_CHANNEL),
        TransportError::Refused(_) | TransportError::Unavailable(_) => (
            ErrorKind::Rejected,
            "the broker refused to set up the client's reply queue",
        ),
    };
    RpcError::new(kind, message)
        .with_source(error)
        .not_executed()
}

/// Returns the error of a published request that the broker did not accept. If other requests `followed` on the channel, the broker may
/// have accepted this request and forbidden a later one.
pub(crate) fn refused(error: TransportError, followed: bool) -> RpcError {
    match error {
        TransportError::Forbidden(_) => may_not_publish(error).executed_if(followed),
        TransportError::Unroutable
        | TransportError::Rejected
        | TransportError::Invalid(_)
        | TransportError::NoChannel(_)
        | TransportError::TooLarge(_) => not_sent(error),
        TransportError::Lost(_) | TransportError::Refused(_) | TransportError::Unavailable(_) => {
            RpcError::new(
                ErrorKind::Disconnected,
                "the connection to the broker was lost",
            )
            .with_source(error)
        }
    }
}

/// Returns the error of a published request to a topic that the broker did not accept, or for which there is no instance. If other messages
/// `followed` on the channel, the broker may have accepted this one and forbidden a later one.
pub(super) fn topic_refused(error: TransportError, followed: bool) -> RpcError {
    match error {
        TransportError::Forbidden(_) => RpcError::new(
            ErrorKind::PermissionDenied,
            "the user may not send messages to instances: grant the user the permission to write to the exchange 'amq.direct'",
        )
        .with_source(error)
        .executed_if(followed),
        TransportError::Unroutable => {
            RpcError::new(ErrorKind::Unroutable, "no instance listens to the topic")
        }
        error => refused(error, followed),
    }
}

/// Returns the error of a call whose user may not publish its request.
pub(super) fn may_not_publish(cause: impl Into<BoxError>) -> RpcError {
    RpcError::new(
        ErrorKind::PermissionDenied,
        "the user may not publish requests: grant the user the permission to write to the exchange 'amq.default', the default \
         exchange",
    )
    .with_source(cause)
}
