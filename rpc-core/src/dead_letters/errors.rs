//! Errors of dead letters, with the missing permission.

use super::scan::STEP;
use crate::deadline::shown;
use crate::error::{ErrorKind, NO_CHANNEL, RpcError};
use crate::queue::Refusal;
use crate::transport::TransportError;

/// Error of reading a dead-letter queue.
pub(super) fn not_read(queue: &str, error: TransportError) -> RpcError {
    let name = queue.escape_debug();
    let (kind, message) = match &error {
        TransportError::Invalid(reason) => return RpcError::new(ErrorKind::Encode, reason),
        TransportError::Forbidden(_) => (
            ErrorKind::PermissionDenied,
            format!(
                "the user may not read the dead-letter queue '{name}': grant the user the permission to read it"
            ),
        ),
        TransportError::Unavailable(words)
            if Refusal::new(queue, &words.to_string()).is_of_missing_queue() =>
        {
            (
                ErrorKind::Unroutable,
                format!(
                    "there is no dead-letter queue '{name}': a server declares it when it gives up its first request"
                ),
            )
        }
        TransportError::NoChannel(_) => (ErrorKind::PermissionDenied, NO_CHANNEL.to_owned()),
        TransportError::Lost(_) => (
            ErrorKind::Disconnected,
            "the connection to the broker was lost; the letters that were not settled are in their queue again"
                .to_owned(),
        ),
        _ => (
            ErrorKind::Rejected,
            format!("the broker does not give letters of queue '{name}': does another connection own it?"),
        ),
    };
    RpcError::new(kind, message).with_source(error)
}

/// Error of a transaction that did not happen.
pub(super) fn not_retried(queue: &str, error: TransportError) -> RpcError {
    let name = queue.escape_debug();
    let (kind, message) = match &error {
        TransportError::Forbidden(_) => (
            ErrorKind::PermissionDenied,
            "the user may not publish requests: grant the user the permission to write to the exchange 'amq.default', the default \
             exchange"
                .to_owned(),
        ),
        TransportError::Lost(_) => (
            ErrorKind::Disconnected,
            "the connection to the broker was lost".to_owned(),
        ),
        _ => (
            ErrorKind::Rejected,
            format!("queue '{name}' refuses letters: is it full?"),
        ),
    };
    RpcError::new(kind, message).with_source(error)
}

/// Error of a broker that is silent, or of a connection that is down.
pub(super) fn no_answer(queue: &str) -> RpcError {
    RpcError::new(
        ErrorKind::Timeout,
        format!(
            "the broker gave no answer about queue '{}' within {}",
            queue.escape_debug(),
            shown(STEP)
        ),
    )
}
