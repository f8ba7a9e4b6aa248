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
    /// The most calls that one notice names.
    pub(crate) const MAX_CALLS: usize = 256;

    /// The longest body: that many ids, each as long as AMQP has them and with its length, and how many they are.
    const MAX_LEN: usize = Self::MAX_CALLS * (2 + 255) + 5;

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

    /// `None` if it is something else, or broken, or names too many calls.
    pub(crate) fn from_message(message: &Message) -> Option<Self> {
        if message.kind.as_deref() != Some(CANCEL) || message.body.len() > Self::MAX_LEN {
            return None;
        }
        // Borrowed until it is known how many they are.
        let ids: Vec<&str> = codec::decode_own(&message.body).ok()?;
        if ids.len() > Self::MAX_CALLS {
            return None;
        }
        Some(Self {
            reply_to: message.reply_to.clone()?,
            correlation_ids: ids.into_iter().map(str::to_owned).collect(),
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
    fn a_notice_names_no_more_calls_than_a_client_puts_into_one() {
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
