//! Limits that a broker has for a message. A broker closes the channel or the connection of a publisher that exceeds them, which
//! fails every call in flight, so each message is checked before it is published.

use super::error::TransportError;
use super::message::Content;
use crate::headers::Size;
use crate::names::{BATCHES_HEADER, DEADLINE_HEADER};

/// Longest text in AMQP's properties, in bytes: a short string.
const MAX_SHORT: usize = 255;

/// Frame size that RabbitMQ proposes by default, in bytes (`frame_max` in <https://www.rabbitmq.com/docs/configure>).
pub(crate) const DEFAULT_FRAME_MAX: usize = 131_072;

/// Smallest limit of a frame that AMQP 0-9-1 allows, in bytes.
#[cfg(feature = "amqp")]
pub(crate) const MIN_FRAME_MAX: u32 = 4096;

/// Size of a frame beside its payload: type, channel, length and end.
const FRAME_LEN: usize = 8;

/// Size of a content header beside its properties: class, weight, length of the body, flags.
const CONTENT_HEADER_LEN: usize = 14;

/// Room that is kept in a frame beside the user's headers: for the properties, the protocol's headers, and the headers that are
/// added to a request when it is republished or dead-lettered.
const RESERVED: usize = 4096;

/// Largest size of a user's headers on a connection with frames of `frame_max` bytes.
pub(crate) const fn max_header_bytes(frame_max: usize) -> usize {
    let reserved = if frame_max / 2 < RESERVED {
        frame_max / 2
    } else {
        RESERVED
    };
    frame_max - reserved
}

/// Refuses a message that a broker with frames of `frame_max` bytes would refuse.
pub(crate) fn check(message: &Content, frame_max: usize) -> Result<(), TransportError> {
    let mut len = FRAME_LEN + CONTENT_HEADER_LEN;
    for (what, text) in [
        ("the correlation id", &message.correlation_id),
        ("the name of the reply queue", &message.reply_to),
        ("the message id", &message.message_id),
        ("the method's name", &message.kind),
        ("the content type", &message.content_type),
        ("the connection's name", &message.app_id),
        ("the user id", &message.user_id),
    ] {
        let text = text.as_deref().unwrap_or_default();
        check_short(what, text)?;
        len += 1 + text.len();
    }
    // The properties alone fit into every frame.
    if message.headers.is_empty() {
        return Ok(());
    }
    for name in ["CC", "BCC"] {
        if message.headers.get(name).is_some() {
            return Err(invalid(format!(
                "the header '{name}' would make RabbitMQ send copies of the message"
            )));
        }
    }
    let Size { bytes, .. } = message
        .headers
        .size()
        .map_err(|flaw| invalid(format!("the headers cannot be sent: {flaw}")))?;
    // The other properties have a fixed size: the expiration has at most ten digits, the message id twenty, delivery mode and
    // priority one byte each.
    let own = DEADLINE_HEADER.len() + BATCHES_HEADER.len() + 2 * 10;
    len += 11 + 21 + 2 + 4 + own + bytes;
    if len > frame_max {
        return Err(TransportError::TooLarge(format!(
            "the headers have {bytes} bytes, which leaves no room for the other properties in the broker's frames of {frame_max} bytes"
        )));
    }
    Ok(())
}

/// Refuses a text that is too long for a short string of AMQP.
pub(crate) fn check_short(what: &str, text: &str) -> Result<(), TransportError> {
    if text.len() > MAX_SHORT {
        return Err(too_long(what));
    }
    Ok(())
}

/// The error of a text that is too long for a short string of AMQP.
pub(crate) fn too_long(what: &str) -> TransportError {
    invalid(format!("{what} is longer than {MAX_SHORT} bytes"))
}

fn invalid(reason: String) -> TransportError {
    TransportError::Invalid(reason)
}
