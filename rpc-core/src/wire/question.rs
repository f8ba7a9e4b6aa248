//! Questions to instances: requests for built-in methods.

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use tokio::time::Instant;

use crate::codec::{self, ContentType};
use crate::deadline;
use crate::error::BoxError;
use crate::transport::{Content, Message};

/// Request for a built-in method.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question<'a> {
    /// Name of the built-in method.
    pub(crate) method: &'static str,
    /// The service that is asked about; `None` for all services of an instance.
    pub(crate) service: Option<&'a str>,
}

/// Arguments of all built-in methods.
#[derive(Serialize, Deserialize)]
struct Arguments<T> {
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<T>,
}

/// Names of the arguments, in their order.
const ARGUMENTS: &[&str] = &["service"];

/// Returns the service that the arguments of a question name; `None` for all services of an instance.
pub(crate) fn service_in_question(
    arguments: &[u8],
    content_type: ContentType,
) -> Result<Option<String>, BoxError> {
    let arguments: Arguments<String> = codec::decode_arguments(arguments, content_type, ARGUMENTS)?;
    Ok(arguments.service)
}

impl Question<'_> {
    /// Returns the question as a message, without the addresses. The message says for how long it may wait in a queue, and names no moment:
    /// an instance whose clock differs answers all the same.
    pub(crate) fn message(self, correlation_id: SmolStr, deadline: Instant) -> Message {
        let remaining = deadline.saturating_duration_since(Instant::now());
        let content_type = ContentType::MessagePack;
        let arguments = Arguments {
            service: self.service,
        };
        Message::from(Content {
            correlation_id: Some(correlation_id),
            kind: Some(SmolStr::new_static(self.method)),
            content_type: content_type.as_property().map(SmolStr::new_static),
            expiration: Some(deadline::expiration(remaining)),
            mandatory: true,
            // Every format can represent text.
            body: codec::encode(&arguments, content_type).unwrap_or_default(),
            ..Content::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::names::PING;

    #[test]
    fn a_question_is_a_request_for_a_built_in_method() {
        let deadline = Instant::now() + Duration::from_secs(5);
        let ping = |service| {
            let question = Question {
                method: PING,
                service,
            };
            question.message("id".into(), deadline)
        };
        let message = ping(Some("Fib"));
        assert_eq!(message.kind.as_deref(), Some("rpc.ping"));
        assert_eq!(message.content_type.as_deref(), Some("application/msgpack"));
        assert_eq!(&message.body[..], b"\x81\xa7service\xa3Fib");
        assert!(message.mandatory && !message.batches);
        assert!(message.expiration.is_some_and(|left| left <= 5_000));
        assert_eq!(message.deadline, None);
        assert_eq!(&ping(None).body[..], b"\x80");
    }

    #[test]
    fn the_service_in_a_question_may_be_left_out() {
        let read = |body: &[u8]| service_in_question(body, ContentType::MessagePack).ok();
        assert_eq!(
            read(b"\x81\xa7service\xa3Fib"),
            Some(Some("Fib".to_owned()))
        );
        assert_eq!(read(b"\x80"), Some(None));
        assert_eq!(read(b"\x81\xa7service\x07"), None);
    }
}
