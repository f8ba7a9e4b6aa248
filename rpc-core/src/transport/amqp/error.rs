//! Errors of lapin and refusals of RabbitMQ, as errors of the transport.

use std::io;
use std::sync::Arc;

use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};

use crate::error::BoxError;
use crate::transport::error::TransportError;

/// Cause of a loss, if no other is known.
pub(super) const CLOSED: &str = "the broker ended the connection";

/// Error of a connection that has reached its limit of channels.
const NO_CHANNEL: &str = "the connection has reached its limit of channels: raise `channel_max`, in the URL and in the broker's \
     configuration, or open another connection";

/// Converts an error of lapin to the source of an error of this crate. lapin repeats an error's source in its text, and puts the
/// name of the error before the broker's text, which begins with that name.
pub(super) fn cause(error: &lapin::Error) -> BoxError {
    match error.kind() {
        lapin::ErrorKind::IOError(cause) => {
            let kind = cause.kind();
            match kind {
                // rustls's text quotes its manual.
                io::ErrorKind::UnexpectedEof => io::Error::new(kind, CLOSED),
                _ => io::Error::new(kind, cause.to_string()),
            }
            .into()
        }
        lapin::ErrorKind::ProtocolError(refusal) => explained_refusal(refusal).into(),
        // lapin's text names its internal states.
        lapin::ErrorKind::InvalidConnectionState(_) => "the connection was already lost".into(),
        lapin::ErrorKind::InvalidChannelState(..) => "the channel was already closed".into(),
        _ => error.to_string().into(),
    }
}

/// Returns the broker's text, followed by a remedy if one is known.
fn explained_refusal(refusal: &lapin::protocol::AMQPError) -> String {
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

/// Recognizes the broker's text about a user, or a node, that has reached its limit of channels. The broker closes the connection that
/// asks for another channel.
fn is_limit_of_channels(said: &str) -> bool {
    said.contains("number of channels opened") && said.contains("maximum allowed")
}

/// Error of an operation on a closed channel.
pub(super) fn channel_closed() -> TransportError {
    TransportError::lost("the channel was closed")
}

/// Distinguishes an operation that the broker refused, which closed the channel, from a lost connection.
pub(super) fn refused_or_lost(error: lapin::Error) -> TransportError {
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

/// Distinguishes a limit of channels from other causes for which a channel could not be opened.
pub(super) fn not_opened(error: lapin::Error) -> TransportError {
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
    fn causes_do_not_quote_libraries() {
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
                said.contains("already") && !said.contains("invalid"),
                "{said}"
            );
        }
    }

    #[test]
    fn limits_of_channels_are_distinguished_from_other_refusals() {
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
