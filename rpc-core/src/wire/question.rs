//! Questions to instances: requests for built-in methods; and the topics that instances listen to.

use serde::Serialize;
use smol_str::SmolStr;
use tokio::time::Instant;

use crate::codec::{self, ContentType};
use crate::deadline;
use crate::names::{ALL_TOPIC_PREFIX, INSTANCES_TOPIC, SERVICE_TOPIC_PREFIX};
use crate::transport::{Content, Message};

/// Returns the topic of calls to all servers of a queue.
pub(crate) fn all_topic(queue: &str) -> String {
    format!("{ALL_TOPIC_PREFIX}{queue}")
}

/// Returns the topic of questions to the instances of a service, or to all instances.
pub(crate) fn instances_topic(service: Option<&str>) -> String {
    match service {
        Some(service) => format!("{SERVICE_TOPIC_PREFIX}{service}"),
        None => INSTANCES_TOPIC.to_owned(),
    }
}

/// Request for a built-in method.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question<'a> {
    /// Name of the built-in method.
    pub(crate) method: &'static str,
    /// The service that is asked about; `None` for all services of an instance.
    pub(crate) service: Option<&'a str>,
}

/// Arguments of all built-in methods.
#[derive(Serialize)]
struct Arguments<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<&'a str>,
}

impl Question<'_> {
    /// Returns the question as a message, without the addresses.
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
            deadline: Some(deadline::unix_millis_after(remaining)),
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
        assert!(message.deadline.is_some());
        assert_eq!(&ping(None).body[..], b"\x80");
    }

    #[test]
    fn topics_name_the_queue_or_the_service() {
        assert_eq!(all_topic("rpc.Fib"), "rpc.all.rpc.Fib");
        assert_eq!(instances_topic(Some("Fib")), "rpc.instances.Fib");
        assert_eq!(instances_topic(None), "rpc.instances");
    }
}
