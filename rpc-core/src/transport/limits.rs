//! The limits that a broker has for a message: what exceeds them costs its publisher the channel or the connection, and with it
//! every call in flight, so each message is checked before it is published.

use super::{BATCHES_HEADER, Content, DEADLINE_HEADER, TransportError};
use crate::headers::Size;

/// The longest text in AMQP's properties, in bytes: a short string.
const MAX_SHORT: usize = 255;

/// The frame size that RabbitMQ proposes unless it is configured otherwise (<https://www.rabbitmq.com/docs/configure>).
pub(crate) const USUAL_FRAME_MAX: usize = 131_072;

/// The parts of a frame beside its payload: type, channel, length and end.
const FRAME_LEN: usize = 8;

/// The parts of a content header beside its properties: class, weight, length of the body, flags.
const CONTENT_HEADER_LEN: usize = 14;

/// The room in a frame for what is not the user's headers: the properties, the protocol's headers, and those that a request is given
/// when it is published anew or given up.
const RESERVED: usize = 4096;

/// The size that a user's headers may have on a connection with frames of that size.
pub(crate) const fn max_header_bytes(frame_max: usize) -> usize {
    let reserved = if frame_max / 2 < RESERVED {
        frame_max / 2
    } else {
        RESERVED
    };
    frame_max - reserved
}

/// Refuses a message that a broker with frames of that size would refuse.
pub(crate) fn check(message: &Content, frame_max: usize) -> Result<(), TransportError> {
    let mut len = FRAME_LEN + CONTENT_HEADER_LEN;
    for (what, text) in [
        ("the correlation id", &message.correlation_id),
        ("the name of the reply queue", &message.reply_to),
        ("the method's name", &message.kind),
        ("the content type", &message.content_type),
        ("the connection's name", &message.app_id),
        ("the user id", &message.user_id),
    ] {
        let text = text.as_deref().unwrap_or_default();
        check_short(what, text)?;
        len += 1 + text.len();
    }
    // Every frame has room for the properties alone.
    if message.headers.is_empty() {
        return Ok(());
    }
    for name in ["CC", "BCC"] {
        if message.headers.get(name).is_some() {
            return Err(invalid(format!(
                "the header '{name}' would have RabbitMQ send copies of the message"
            )));
        }
    }
    let Size { bytes, .. } = message
        .headers
        .size()
        .map_err(|flaw| invalid(format!("the headers cannot be sent: {flaw}")))?;
    // The rest are fixed: the expiration has ten digits at most, the message id twenty, delivery mode and priority one byte each.
    let own = DEADLINE_HEADER.len() + BATCHES_HEADER.len() + 2 * 10;
    len += 11 + 21 + 2 + 4 + own + bytes;
    if len > frame_max {
        return Err(TransportError::TooLarge(format!(
            "the headers have {bytes} bytes and leave no room for the rest in a frame of the broker, of {frame_max} bytes"
        )));
    }
    Ok(())
}

/// Refuses a text that is no short string of AMQP.
pub(crate) fn check_short(what: &str, text: &str) -> Result<(), TransportError> {
    if text.len() > MAX_SHORT {
        return Err(too_long(what));
    }
    Ok(())
}

/// The error of a text that is no short string of AMQP.
pub(crate) fn too_long(what: &str) -> TransportError {
    invalid(format!("{what} is longer than {MAX_SHORT} bytes"))
}

fn invalid(reason: String) -> TransportError {
    TransportError::Invalid(reason)
}
