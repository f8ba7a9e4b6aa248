//! What fuzzers need of this folder; see `crate::fuzzing`.

use lapin::protocol::basic;

use super::{Endpoint, properties};
use crate::transport::Message;

/// How many bytes may begin a table or an array: lapin's parser recurses into them.
const MAX_NESTING: usize = 64;

/// The message that these properties and the body after them make, if lapin can read them. It survives the way to the broker and
/// back.
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

/// A message is written as it is read, or refused.
pub(crate) fn published(mut message: Message) {
    if let Ok((written, body)) = properties::to_properties(message.clone()) {
        // What only a publisher says.
        message.mandatory = false;
        let again = properties::to_message(&written, body.to_vec());
        assert_eq!(format!("{again:?}"), format!("{message:?}"));
    }
}

/// Parses a URL; nothing that is said of it repeats the password.
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
