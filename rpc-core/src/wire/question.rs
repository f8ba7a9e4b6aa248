//! Questions to instances: requests for built-in methods.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use tokio::time::Instant;

use super::checks::check_size;
use super::request::StreamTerms;
use crate::codec::{self, ContentType};
use crate::deadline;
use crate::error::{BoxError, ErrorKind, RpcError};
use crate::transport::{Content, Message};

/// Content type of questions.
pub(crate) const QUESTION_CONTENT_TYPE: ContentType = ContentType::MessagePack;

/// Longest body of a question, in bytes.
pub(crate) const MAX_QUESTION_LEN: usize = 4096;

/// Request for a built-in method.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question<'a> {
    /// Name of the built-in method.
    pub(crate) method: &'static str,
    /// The service that is asked about; `None` for all services of an instance.
    pub(crate) service: Option<&'a str>,
}

/// Arguments of the built-in methods that have one answer.
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
        let arguments = Arguments {
            service: self.service,
        };
        // Every format can represent text.
        let body = codec::encode(&arguments, QUESTION_CONTENT_TYPE).unwrap_or_default();
        question(self.method, body, correlation_id, deadline)
    }
}

/// A question that opens a stream.
#[derive(Clone, Debug)]
pub(crate) struct StreamQuestion {
    method: &'static str,
    arguments: Bytes,
    terms: StreamTerms,
}

impl StreamQuestion {
    /// Makes a question for a built-in method. Arguments that no instance would read are an error.
    pub(crate) fn new(
        method: &'static str,
        arguments: &impl Serialize,
        terms: StreamTerms,
    ) -> Result<Self, RpcError> {
        let arguments = codec::encode(arguments, QUESTION_CONTENT_TYPE).map_err(|cause| {
            let reason = format!("the arguments of '{method}' cannot be encoded: {cause}");
            RpcError::new(ErrorKind::Encode, reason)
        })?;
        check_size("question", &arguments, MAX_QUESTION_LEN).map_err(RpcError::not_executed)?;
        Ok(Self {
            method,
            arguments,
            terms,
        })
    }

    pub(crate) fn terms(&self) -> StreamTerms {
        self.terms
    }

    /// Returns the question as a message, without the addresses. The deadline is the moment until which the first answer is awaited.
    pub(crate) fn message(&self, correlation_id: SmolStr, deadline: Instant) -> Message {
        let arguments = self.arguments.clone();
        let mut message = question(self.method, arguments, correlation_id, deadline);
        self.terms.insert(&mut message.headers);
        message
    }
}

fn question(
    method: &'static str,
    body: Bytes,
    correlation_id: SmolStr,
    deadline: Instant,
) -> Message {
    let remaining = deadline.saturating_duration_since(Instant::now());
    Message::from(Content {
        correlation_id: Some(correlation_id),
        kind: Some(SmolStr::new_static(method)),
        content_type: QUESTION_CONTENT_TYPE.as_property().map(SmolStr::new_static),
        expiration: Some(deadline::expiration(remaining)),
        mandatory: true,
        body,
        ..Content::default()
    })
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
