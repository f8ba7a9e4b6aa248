//! Replies packed into as few messages as possible.

use smol_str::SmolStr;
use tracing::debug;

use super::format::Batch;
use crate::telemetry::metrics;
use crate::transport::{Message, Reply};

/// Form of the message in which a reply travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplyForm {
    Alone,
    /// With other replies to the same client, if there are some.
    MayShare,
    /// In a batch, even if the batch holds no other reply: the client learns from a batch how many requests this server takes in one.
    Batch,
}

impl ReplyForm {
    /// The form of the reply to a request in a message of its own.
    pub(crate) fn of(request: &Message) -> Self {
        match request.batches {
            true => Self::MayShare,
            false => Self::Alone,
        }
    }
}

/// Packs replies that are sent at the same time.
pub(crate) struct ReplyPacker {
    /// Number of requests that the server takes in one message, which each batch states.
    batch_limit: u16,
    /// One group for each client that reads batches. A list, because few clients have replies at the same time.
    groups: Vec<Group>,
    messages: Vec<Reply>,
}

/// Replies to one client.
struct Group {
    queue: SmolStr,
    /// Set if one reply suffices for a batch.
    is_batch: bool,
    replies: Vec<Message>,
}

impl ReplyPacker {
    pub(crate) fn new(batch_limit: u16) -> Self {
        Self {
            batch_limit,
            groups: Vec::new(),
            messages: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, reply: Reply, form: ReplyForm) {
        if form == ReplyForm::Alone || !Batch::is_for(&reply.message) {
            self.messages.push(reply);
            return;
        }
        let Reply { queue, message } = reply;
        let is_batch = form == ReplyForm::Batch;
        match self.groups.iter_mut().find(|group| group.queue == queue) {
            Some(group) => {
                group.is_batch |= is_batch;
                group.replies.push(message);
            }
            None => self.groups.push(Group {
                queue,
                is_batch,
                replies: vec![message],
            }),
        }
    }

    /// Returns the messages that hold all replies.
    pub(crate) fn finish(mut self) -> Vec<Reply> {
        for Group {
            queue,
            is_batch,
            replies,
        } in self.groups
        {
            let mut send = |message, calls| {
                metrics::replies_sent(calls);
                let queue = queue.clone();
                self.messages.push(Reply { queue, message });
            };
            if replies.len() == 1 && !is_batch {
                replies.into_iter().for_each(|alone| send(alone, 1));
                continue;
            }
            let gathered = replies.len();
            let mut batch = Batch::new(self.batch_limit, gathered);
            for reply in replies {
                if batch.is_full(&reply) {
                    let next = Batch::new(self.batch_limit, gathered);
                    let full = std::mem::replace(&mut batch, next);
                    let calls = full.calls();
                    send(full.into_message(), calls);
                }
                if let Err(error) = batch.push(&reply) {
                    debug!(%error, "a reply does not fit into a batch");
                    send(reply, 1);
                }
            }
            let calls = batch.calls();
            send(batch.into_message(), calls);
        }
        self.messages
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batching::format::{is_batch, replies_of};
    use crate::transport::Content;

    fn reply(queue: &str, correlation_id: &str) -> Reply {
        Reply {
            queue: queue.into(),
            message: Message::from(Content {
                correlation_id: Some(correlation_id.into()),
                ..Content::default()
            }),
        }
    }

    /// Packs replies; returns for each message its queue and the correlation ids of its replies.
    fn packed(replies: &[(&str, &str, ReplyForm)]) -> Vec<(String, Vec<String>)> {
        let mut packer = ReplyPacker::new(16);
        for (queue, correlation_id, form) in replies {
            packer.add(reply(queue, correlation_id), *form);
        }
        let messages = packer.finish().into_iter();
        messages
            .map(|Reply { queue, message }| {
                let ids = match is_batch(&message) {
                    true => {
                        let (batch_limit, replies) = replies_of(&message.body).unwrap();
                        assert_eq!(batch_limit, 16);
                        replies
                            .map(|reply| reply.correlation_id.to_owned())
                            .collect()
                    }
                    false => vec![format!(
                        "alone {}",
                        message.correlation_id.as_ref().unwrap()
                    )],
                };
                (queue.to_string(), ids)
            })
            .collect()
    }

    fn message(queue: &str, ids: &[&str]) -> (String, Vec<String>) {
        let ids = ids.iter().map(|id| (*id).to_owned());
        (queue.to_owned(), ids.collect())
    }

    #[test]
    fn replies_to_one_client_share_a_message_and_others_do_not() {
        use ReplyForm::{Alone, MayShare};
        let replies = [
            ("a", "1", MayShare),
            ("b", "2", MayShare),
            ("a", "3", MayShare),
            ("a", "4", Alone),
        ];
        assert_eq!(
            packed(&replies),
            [
                message("a", &["alone 4"]),
                message("a", &["1", "3"]),
                message("b", &["alone 2"]),
            ]
        );
    }

    #[test]
    fn a_single_reply_to_a_batch_is_sent_as_a_batch() {
        let replies = [("a", "1", ReplyForm::Batch)];
        assert_eq!(packed(&replies), [message("a", &["1"])]);
    }

    #[test]
    fn a_reply_too_large_for_a_batch_is_sent_alone() {
        let mut packer = ReplyPacker::new(16);
        let mut large = reply("a", "1");
        large.message.body = vec![0; 1 << 20].into();
        packer.add(large, ReplyForm::Batch);
        packer.add(reply("a", "2"), ReplyForm::Batch);
        let messages = packer.finish();
        assert_eq!(messages.len(), 2);
        assert!(!is_batch(&messages[0].message));
        assert!(is_batch(&messages[1].message));
    }
}
