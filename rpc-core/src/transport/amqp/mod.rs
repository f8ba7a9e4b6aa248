//! AMQP 0-9-1 through lapin: the only folder that names it.
//!
//! lapin's automatic recovery is never used: a connection that is lost stays lost and says so at once. How its publishes,
//! returns and confirms are handled, and why, is told in [`publisher`].

mod channel;
mod confirms;
mod connection;
mod direct;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod guard;
mod intake;
mod properties;
mod publisher;
mod returns;
mod settled;
mod url;

use std::sync::Arc;
use std::time::Duration;

use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use tracing::warn;

use crate::error::BoxError;
use crate::transport::TransportError;

pub(crate) use connection::{AmqpTransport, Login};
pub(crate) use url::Endpoint;

/// How long a broker is waited for that does not answer to a close.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// Ends something at the broker, unless it does not answer: it ends with the connection in any case.
async fn within_limit(what: &str, closing: impl Future<Output = ()> + Send) {
    if tokio::time::timeout(CLOSE_LIMIT, closing).await.is_err() {
        warn!("{what} could not be closed properly: the broker does not answer");
    }
}

/// The cause of an error, as the source of one of ours. lapin's own repeats its source in its text, and before what the broker says it
/// puts the name of the error, with which the broker itself begins.
fn cause(error: &lapin::Error) -> BoxError {
    match error.kind() {
        lapin::ErrorKind::IOError(cause) => {
            std::io::Error::new(cause.kind(), cause.to_string()).into()
        }
        lapin::ErrorKind::ProtocolError(refusal) if !refusal.get_message().as_str().is_empty() => {
            refusal.get_message().as_str().into()
        }
        _ => error.to_string().into(),
    }
}

/// Tells an operation that the broker refused, which closed the channel, from a lost connection.
fn refused_or_lost(error: lapin::Error) -> TransportError {
    let refusal = match error.kind() {
        lapin::ErrorKind::ProtocolError(refusal) => Some(refusal.kind().clone()),
        _ => None,
    };
    let cause = Arc::new(cause(&error));
    match refusal {
        Some(AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND | AMQPSoftError::RESOURCELOCKED)) => {
            TransportError::Unavailable(cause)
        }
        Some(AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED)) => TransportError::Forbidden(cause),
        Some(AMQPErrorKind::Soft(_)) => TransportError::Refused(cause),
        _ => TransportError::Lost(cause),
    }
}
