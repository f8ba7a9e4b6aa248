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
mod login;
mod options;
mod properties;
mod publisher;
mod renewal;
mod returns;
mod sasl;
mod settled;
#[cfg_attr(not(feature = "tls"), path = "no_tls.rs")]
mod tls;
mod url;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use tracing::warn;

use crate::error::BoxError;
use crate::transport::TransportError;

pub(crate) use connection::AmqpTransport;
pub(crate) use options::Options;

/// How long a broker is waited for that does not answer to a close.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// Ends something at the broker, unless it does not answer: it ends with the connection in any case.
async fn within_limit(what: &str, closing: impl Future<Output = ()> + Send) {
    if tokio::time::timeout(CLOSE_LIMIT, closing).await.is_err() {
        warn!("{what} could not be closed properly: the broker does not answer");
    }
}

/// The cause of a loss, unless there is another.
const CLOSED: &str = "the broker ended the connection";

/// The error of a connection that may not have another channel.
const NO_CHANNEL: &str = "all channels of the connection are in use: raise `channel_max`, in the URL and in the broker's configuration, \
     or open another connection";

/// The cause of an error, as the source of one of ours. lapin's own repeats its source in its text, and before what the broker says it
/// puts the name of the error, with which the broker itself begins.
fn cause(error: &lapin::Error) -> BoxError {
    match error.kind() {
        lapin::ErrorKind::IOError(cause) => {
            let kind = cause.kind();
            match kind {
                // rustls's words are those of its manual.
                io::ErrorKind::UnexpectedEof => io::Error::new(kind, CLOSED),
                _ => io::Error::new(kind, cause.to_string()),
            }
            .into()
        }
        lapin::ErrorKind::ProtocolError(refusal) => refusal_in_words(refusal).into(),
        // lapin's words name its own states.
        lapin::ErrorKind::InvalidConnectionState(_) => "the connection was lost before".into(),
        lapin::ErrorKind::InvalidChannelState(..) => "the channel was closed before".into(),
        _ => error.to_string().into(),
    }
}

/// The broker's own words, and a way out that they do not name.
fn refusal_in_words(refusal: &lapin::protocol::AMQPError) -> String {
    let said = refusal.get_message().as_str();
    let remedy = if said.contains("maximum allowed user limit") {
        ": raise it with `rabbitmqctl set_user_limits`, or use fewer clients and servers as this user"
    } else if is_limit_of_channels(said) {
        ": raise `channel_max_per_node` there, or use fewer clients and servers"
    } else {
        ""
    };
    match said {
        "" => refusal.to_string(),
        _ => format!("{said}{remedy}"),
    }
}

/// Recognizes the broker's words about a user, or a node, that has as many channels as it may have. The broker closes the connection that
/// asks for another one.
fn is_limit_of_channels(said: &str) -> bool {
    said.contains("number of channels opened") && said.contains("maximum allowed")
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

/// Tells a limit of channels from the other causes for which a channel could not be opened.
fn not_opened(error: lapin::Error) -> TransportError {
    match error.kind() {
        lapin::ErrorKind::ChannelsLimitReached => {
            TransportError::NoChannel(Arc::new(NO_CHANNEL.into()))
        }
        lapin::ErrorKind::ProtocolError(refusal)
            if *refusal.kind() == AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED)
                && is_limit_of_channels(refusal.get_message().as_str()) =>
        {
            TransportError::NoChannel(Arc::new(cause(&error)))
        }
        _ => refused_or_lost(error),
    }
}

#[cfg(test)]
mod tests {
    use lapin::protocol::AMQPError;

    use super::*;

    fn refusal(kind: AMQPErrorKind, said: &str) -> lapin::Error {
        lapin::ErrorKind::ProtocolError(AMQPError::new(kind, said.into())).into()
    }

    #[test]
    fn a_connection_that_ended_is_told_without_the_words_of_libraries() {
        let words = "peer closed connection without sending TLS close_notify: https://docs.rs";
        let ended = io::Error::new(io::ErrorKind::UnexpectedEof, words);
        let states = [
            lapin::ErrorKind::InvalidConnectionState(lapin::ConnectionState::Closing),
            lapin::ErrorKind::InvalidChannelState(lapin::ChannelState::Error, "basic.ack"),
        ];
        let states = states.map(lapin::Error::from);
        assert_eq!(cause(&ended.into()).to_string(), CLOSED);
        for error in states {
            let said = cause(&error).to_string();
            assert!(
                said.ends_with("before") && !said.contains("invalid"),
                "{said}"
            );
        }
    }

    #[test]
    fn a_limit_of_channels_is_told_from_other_refusals() {
        let hard = AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED);
        for (said, remedy) in [
            (
                "NOT_ALLOWED - number of channels opened for user 'u' has reached the maximum allowed user limit of 1",
                "set_user_limits",
            ),
            (
                "NOT_ALLOWED - number of channels opened on node 'n' has reached the maximum allowed limit of 1",
                "channel_max_per_node",
            ),
        ] {
            let error = not_opened(refusal(hard.clone(), said));
            assert!(matches!(error, TransportError::NoChannel(_)), "{error:?}");
            assert!(error.to_string().contains(remedy), "{error}");
        }
        let other = not_opened(refusal(hard, "NOT_ALLOWED - closed by an operator"));
        assert!(matches!(other, TransportError::Lost(_)), "{other:?}");
    }
}
