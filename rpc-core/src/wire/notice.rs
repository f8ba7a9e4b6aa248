//! Notices to all servers of a queue, which of them holds a call being unknown to its client.

use smol_str::SmolStr;
use tokio::time::Instant;

use super::{deadline, unix_millis_after};
use crate::codec::{self, ContentType};
use crate::transport::{Content, Message};

/// The type of a notice that calls were dropped.
const CANCEL: &str = "cancel";

/// What the topics of notices begin with.
pub(crate) const NOTICE_PREFIX: &str = "rpc.cancel.";

/// The topic of the notices for the servers of a queue.
pub(crate) fn notices_for(queue: &str) -> String {
    format!("{NOTICE_PREFIX}{queue}")
}

/// Says that calls were dropped by their callers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CancelNotice {
    /// Where their replies would go.
    pub(crate) reply_to: SmolStr,
    pub(crate) correlation_ids: Vec<String>,
    /// When the last of them ends anyway.
    pub(crate) deadline: Instant,
}

impl CancelNotice {
    pub(crate) fn into_message(self) -> Message {
        let remaining = self.deadline.saturating_duration_since(Instant::now());
        Message::from(Content {
            reply_to: Some(self.reply_to),
            kind: Some(SmolStr::new_static(CANCEL)),
            content_type: ContentType::MessagePack
                .as_property()
                .map(SmolStr::new_static),
            deadline: Some(unix_millis_after(remaining)),
            // Text can be written in every format.
            body: codec::encode(&self.correlation_ids, ContentType::MessagePack)
                .unwrap_or_default(),
            ..Content::default()
        })
    }

    /// `None` if it is something else, or broken.
    pub(crate) fn from_message(message: &Message) -> Option<Self> {
        if message.kind.as_deref() != Some(CANCEL) {
            return None;
        }
        Some(Self {
            reply_to: message.reply_to.clone()?,
            correlation_ids: codec::decode(&message.body, ContentType::MessagePack).ok()?,
            deadline: deadline(message.deadline, None)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_notice_arrives_as_it_was_sent() {
        let notice = |deadline| CancelNotice {
            reply_to: "replies".into(),
            correlation_ids: vec!["a".to_owned(), "b".to_owned()],
            deadline,
        };
        let deadline = Instant::now() + Duration::from_secs(5);
        let message = notice(deadline).into_message();
        assert_eq!(message.kind.as_deref(), Some("cancel"));
        assert_eq!(&message.body[..], b"\x92\xa1a\xa1b");
        let received = CancelNotice::from_message(&message).unwrap();
        // The wall clock does not stand still.
        assert_eq!(notice(received.deadline), received);
        assert!(deadline - received.deadline < Duration::from_millis(100));
    }

    #[test]
    fn what_is_no_notice_is_ignored() {
        let kind = Message::from(Content {
            kind: Some("fib".into()),
            ..Content::default()
        });
        let body = Message::from(Content {
            kind: Some("cancel".into()),
            reply_to: Some("replies".into()),
            body: vec![0xc1].into(),
            ..Content::default()
        });
        for message in [Message::default(), kind, body] {
            assert_eq!(CancelNotice::from_message(&message), None);
        }
    }
}
