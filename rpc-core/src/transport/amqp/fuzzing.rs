//! Entry points for fuzzers; see `crate::fuzzing`.

use lapin::protocol::basic;

use super::url::Endpoint;
use super::{guard, properties};
use crate::transport::message::Message;

/// Limit of bytes that may begin a table or an array, into which lapin's parser recurses.
const MAX_NESTING: usize = 64;

/// Reads a message from properties and the body after them, if lapin can read them. Checks that the message survives the way to the
/// broker and back.
pub(crate) fn message(data: &[u8]) -> Option<Message> {
    let nesting = data.iter().filter(|byte| b"AF".contains(byte));
    if nesting.count() > MAX_NESTING {
        return None;
    }
    let (body, read) = basic::parse_properties(data).ok()?;
    let message = properties::to_message(&read, body.to_vec());
    published(message.clone());
    Some(message)
}

/// Checks that a message is written as it was read, or refused.
pub(crate) fn published(mut message: Message) {
    if let Ok((written, body)) = properties::to_properties(message.clone()) {
        // Not part of a message: an option of publishing.
        message.mandatory = false;
        let again = properties::to_message(&written, body.to_vec());
        assert_eq!(format!("{again:?}"), format!("{message:?}"));
    }
}

/// Parses a URL, and checks that no text about it contains the password.
pub(crate) fn url(text: &str) {
    const SECRET: &str = "s3cr3t";

    let _ = Endpoint::parse(text).map(|endpoint| endpoint.timeout());
    let mut parts = text.splitn(3, '\n');
    let (Some(before), Some(after), Some(rest)) = (parts.next(), parts.next(), parts.next()) else {
        return;
    };
    if text.contains(SECRET) {
        return;
    }
    let url = format!("amqp://ada:{before}{SECRET}{after}@{rest}");
    let said = match Endpoint::parse(&url) {
        Ok(endpoint) => format!("{endpoint} {endpoint:?}"),
        Err(error) => format!("{error} {error:?}"),
    };
    assert!(!said.contains(SECRET), "{url}: {said}");
}

/// Size of pieces that is larger than any input.
const WHOLE: usize = 1 << 16;

/// Frames from a broker: a byte for the size of the pieces in which they arrive; then for each frame a byte for its type, two for
/// the length of its payload, and the payload. Checks that the pieces do not matter and that lapin can read the properties of every
/// message.
pub(crate) fn frames(data: &[u8]) {
    let Some((&chunk, mut rest)) = data.split_first() else {
        return;
    };
    let mut frames = Vec::new();
    while let Some((&[kind, high, low], payload)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (payload, left) = payload.split_at(length.min(payload.len()));
        frames.extend([kind, 0, 1, 0, 0]);
        frames.extend(
            u16::try_from(payload.len())
                .unwrap_or(u16::MAX)
                .to_be_bytes(),
        );
        frames.extend(payload);
        frames.push(206);
        rest = left;
    }
    let whole = guard::clean(&frames, WHOLE);
    let in_pieces = guard::clean(&frames, chunk.into());
    assert_eq!(whole.as_ref().ok(), in_pieces.as_ref().ok());
    let Ok(cleaned) = whole else {
        return;
    };
    assert_eq!(guard::clean(&cleaned, WHOLE).ok().as_ref(), Some(&cleaned));
    let mut rest = &cleaned[..];
    while let Some((&[kind, _, _, a, b, c, d], frame)) = rest.split_first_chunk() {
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        let payload = &frame[..length];
        if let (2, Some((&[0, 60, ..], properties))) = (kind, payload.split_first_chunk::<12>()) {
            let (left, read) = basic::parse_properties(properties).expect("lapin can read it");
            assert!(left.is_empty());
            let _ = properties::to_message(&read, Vec::new());
        }
        rest = &frame[length + 1..];
    }
}
