//! Notices to all servers of a queue: a client does not know the server that runs a call.

use smol_str::SmolStr;
use tokio::time::Instant;

use crate::codec::{self, ContentType};
use crate::deadline;
use crate::names::CANCEL;
use crate::transport::{Content, Message};

/// Notice that callers have dropped their calls.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CancelNotice {
    /// The reply queue of the calls.
    pub(crate) reply_to: SmolStr,
    pub(crate) correlation_ids: Vec<String>,
    /// Deadline of the last of the calls.
    pub(crate) deadline: Instant,
}

impl CancelNotice {
    /// Most calls in one notice.
    pub(crate) const MAX_CALLS: usize = 256;

    /// Longest body: the number of ids, and the ids, each with its length and as long as AMQP allows.
    const MAX_LEN: usize = Self::MAX_CALLS * (2 + 255) + 5;

    pub(crate) fn into_message(self) -> Message {
        let remaining = self.deadline.saturating_duration_since(Instant::now());
        Message::from(Content {
            reply_to: Some(self.reply_to),
            kind: Some(SmolStr::new_static(CANCEL)),
            content_type: ContentType::MessagePack
                .as_property()
                .map(SmolStr::new_static),
            deadline: Some(deadline::unix_millis_after(remaining)),
            // Every format can represent text.
            body: codec::encode(&self.correlation_ids, ContentType::MessagePack)
                .unwrap_or_default(),
            ..Content::default()
        })
    }

    /// Reads a notice. `None` if the message is no notice, or malformed, or names too many calls.
    pub(crate) fn from_message(message: &Message) -> Option<Self> {
        if message.kind.as_deref() != Some(CANCEL) || message.body.len() > Self::MAX_LEN {
            return None;
        }
        // Borrowed until their number has been checked.
        let ids: Vec<&str> = codec::decode_own(&message.body).ok()?;
        if ids.len() > Self::MAX_CALLS {
            return None;
        }
        Some(Self {
            reply_to: message.reply_to.clone()?,
            correlation_ids: ids.into_iter().map(str::to_owned).collect(),
            deadline: deadline::from_wire(message.deadline, None)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_notice_is_read_as_it_was_written() {
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
        // The wall clock goes on.
        assert_eq!(notice(received.deadline), received);
        assert!(deadline - received.deadline < Duration::from_millis(100));
    }

    #[test]
    fn a_notice_with_too_many_calls_is_ignored() {
        let naming = |ids: Vec<String>| {
            let deadline = Instant::now() + Duration::from_secs(5);
            let notice = CancelNotice {
                reply_to: "replies".into(),
                correlation_ids: ids,
                deadline,
            };
            CancelNotice::from_message(&notice.into_message())
        };
        let longest = "x".repeat(255);
        let most = naming(vec![longest.clone(); CancelNotice::MAX_CALLS]);
        assert_eq!(
            most.map(|notice| notice.correlation_ids.len()),
            Some(CancelNotice::MAX_CALLS)
        );
        assert_eq!(
            naming(vec![String::new(); CancelNotice::MAX_CALLS + 1]),
            None
        );
        assert_eq!(naming(vec!["x".repeat(1 << 20)]), None);
    }

    #[test]
    fn malformed_notices_are_ignored() {
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
