//! The private queue of an instance: notices of dropped calls, questions to the instance, calls to all instances, and messages of open streams.
//!
//! The queue is bound to topics, and messages for this instance alone come to it by its name, those of streams among them. The listener takes
//! each message at once and never waits: what does not fit into the bounded queues behind it is dropped and counted.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::try_join_all;
use futures_util::stream::StreamExt;
use smol_str::SmolStr;
use tokio::sync::mpsc;
use tokio::task::coop::cooperative;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};
use uuid::Uuid;

use super::announcement;
use super::instance::Instance;
use super::introspection::is_built_in;
use super::open_failure::OpenFailure;
use super::outbox::Outbox;
use super::to_all::{CallToAll, Taken};
use crate::backoff::pauses;
use crate::headers::Headers;
use crate::names::{ANNOUNCE, CANCEL, INSTANCE_QUEUE_PREFIX, TAP};
use crate::transport::{
    Acknowledge, Channel, ChannelMode, Deliveries, Link, Message, QueueKind, TransportError,
};
use crate::wire;

/// Number of questions that may wait for their answers. With the longest length of a question it bounds their memory.
const MAX_QUESTIONS: usize = 64;

/// The pauses before a private queue that was deleted is opened again.
const MIN_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Remedy for the lack of a private queue.
pub(super) const REMEDY: &str = "grant the server's user the permissions to configure, write and read queues whose names begin with \
                                 'rpc.instance.', and to read the exchange 'amq.direct', then start the server again";

/// The open private queue of a session. Dropping it closes the queue.
pub(super) struct PrivateQueue {
    _listening: AbortOnDropHandle<()>,
    _answering: AbortOnDropHandle<()>,
}

/// A private queue whose messages are consumed.
struct Opened {
    /// Owner of the consumer.
    channel: Arc<dyn Channel>,
    deliveries: Deliveries,
}

impl Instance {
    /// Opens the private queue of a session and takes its messages. A server without the permissions goes on without the queue, and does not
    /// try again in its life.
    pub(super) async fn open_private_queue(
        self: &Arc<Self>,
        link: &Arc<dyn Link>,
        outbox: &Arc<Outbox>,
    ) -> Result<Option<PrivateQueue>, OpenFailure> {
        // Each attempt costs a channel, and an error in lapin's log.
        if self.private_queue_is_forbidden.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let opened = match self.declare_private_queue(&**link).await {
            Ok(opened) => opened,
            // The request queues would fail for the same reason.
            Err(error @ (TransportError::Lost(_) | TransportError::NoChannel(_))) => {
                return Err(self.failure(None, error));
            }
            Err(error) => {
                self.report_missing(&error);
                return Ok(None);
            }
        };
        let (questions, asked) = mpsc::channel(MAX_QUESTIONS);
        let listening = self.clone().keep_listening(link.clone(), opened, questions);
        let answering = self.clone().answer_questions(asked, Arc::downgrade(outbox));
        Ok(Some(PrivateQueue {
            _listening: AbortOnDropHandle::new(tokio::spawn(listening)),
            _answering: AbortOnDropHandle::new(tokio::spawn(answering)),
        }))
    }

    /// Declares a private queue under a fresh name, binds it to its topics and consumes from it. After a loss the broker may still hold the
    /// old queue.
    async fn declare_private_queue(&self, link: &dyn Link) -> Result<Opened, TransportError> {
        let queue = format!("{INSTANCE_QUEUE_PREFIX}{}.{}", self.id, Uuid::new_v4());
        // On a separate channel, because a refusal closes the channel.
        let channel = link.open_channel(ChannelMode::Plain).await?;
        channel.declare_queue(&queue, QueueKind::Exclusive).await?;
        let topics = self.topics();
        try_join_all(topics.iter().map(|topic| channel.bind(&queue, topic))).await?;
        let deliveries = channel
            .consume(&queue, "instance", Acknowledge::None)
            .await?;
        *self.private_queue.lock() = Some(SmolStr::from(queue));
        Ok(Opened {
            channel,
            deliveries,
        })
    }

    /// The topics that concern the instance.
    fn topics(&self) -> Vec<String> {
        let mut topics = Vec::new();
        for served in &self.queues {
            if self.calls.is_some() {
                topics.push(wire::cancel_topic(&served.queue));
            }
            topics.push(wire::all_topic(&served.queue));
        }
        if self.options.introspection {
            let services = self.queues.iter().map(|served| Some(served.service));
            topics.extend(services.chain([None]).map(wire::instances_topic));
        }
        topics.sort_unstable();
        topics.dedup();
        topics
    }

    /// Logs, once over the life of the server, that there is no private queue, and the consequences.
    fn report_missing(&self, error: &TransportError) {
        *self.private_queue.lock() = None;
        if matches!(error, TransportError::Forbidden(_)) {
            self.private_queue_is_forbidden
                .store(true, Ordering::Relaxed);
        }
        let error = error.to_string();
        if self.lacks_private_queue.swap(true, Ordering::Relaxed) {
            debug!(?error, "the server still has no private queue");
            return;
        }
        warn!(
            ?error,
            "the server has no private queue, so dropped calls will not be cancelled, `Client::instances` does not list the server, \
             calls to all instances do not reach it, and requests for methods with streams are refused: {REMEDY}"
        );
    }

    /// Takes the messages of a private queue, and opens another if the queue is deleted. The end of the session ends the task.
    async fn keep_listening(
        self: Arc<Self>,
        link: Arc<dyn Link>,
        mut opened: Opened,
        questions: mpsc::Sender<Message>,
    ) {
        loop {
            let Opened {
                channel,
                deliveries,
            } = opened;
            listen(deliveries, |message| self.take_message(message, &questions)).await;
            drop(channel);
            let mut pauses = pauses(MIN_PAUSE, MAX_PAUSE);
            opened = loop {
                tokio::time::sleep(pauses.next().unwrap_or(MAX_PAUSE)).await;
                match self.declare_private_queue(&*link).await {
                    Ok(opened) => break opened,
                    // With the link the session ends, and with the session this task.
                    Err(TransportError::Lost(_) | TransportError::NoChannel(_)) => {}
                    Err(error) => return self.report_missing(&error),
                }
            };
        }
    }

    /// Passes a message on by its topic and its type.
    fn take_message(&self, message: Message, questions: &mpsc::Sender<Message>) {
        let kind = message.kind.as_deref().unwrap_or_default();
        let topic = message.topic.as_deref().unwrap_or_default();
        match wire::queue_of_all_topic(topic) {
            // A method may have any name but that of a built-in, `cancel` included.
            Some(_) if is_built_in(kind) => debug!("a question to a request queue was ignored"),
            Some(queue) => {
                let mut queues = self.queues.iter();
                if let Some(queue) = queues.position(|served| *served.queue == *queue) {
                    self.take_call(CallToAll { queue, message });
                }
            }
            None if kind == CANCEL => self.take_notice(&message),
            None if is_built_in(kind) => self.take_question(message, questions),
            None if message.message_id.is_some() => self.take_of_stream(message),
            None => debug!("a message of an unknown type to the private queue was ignored"),
        }
    }

    fn take_notice(&self, message: &Message) {
        if let Some(calls) = &self.calls {
            calls.take_notice(message);
        }
    }

    fn take_question(&self, mut question: Message, questions: &mpsc::Sender<Message>) {
        if !self.options.introspection {
            debug!("a question was ignored: introspection is switched off");
            return;
        }
        // Other headers are not needed. A sender could make them large.
        match question.kind.as_deref() {
            Some(TAP) => wire::keep_terms(&mut question.headers),
            _ => question.headers = Headers::default(),
        }
        let max_len = match question.kind.as_deref() {
            Some(ANNOUNCE) => announcement::MAX_LEN,
            _ => wire::MAX_QUESTION_LEN,
        };
        if question.body.len() > max_len || questions.try_send(question).is_err() {
            self.count_dropped("a question");
        }
    }

    fn take_of_stream(&self, message: Message) {
        let tap = self.tap.streams();
        match tap.has(&message) {
            true => tap.take(message),
            false => self.streams.take(message),
        }
    }

    fn take_call(&self, call: CallToAll) {
        match self.to_all.take(call) {
            Taken::Yes => {}
            Taken::Anonymous => {
                debug!(
                    "a call to all instances without `reply_to` or `correlation_id` was ignored"
                );
            }
            Taken::Repeated => debug!("a second copy of a call to all instances was ignored"),
            Taken::Stopping => debug!("a call to all instances came to a stopping server"),
            Taken::Full => self.count_dropped("a call to all instances"),
        }
    }
}

/// Passes on the messages of a consumer until its channel is lost or its queue is deleted.
async fn listen(mut deliveries: Deliveries, take: impl Fn(Message)) {
    // Cooperative, so that a flood of messages does not keep the runtime from other work.
    while let Some(Ok(delivery)) = cooperative(deliveries.next()).await {
        take(delivery.message);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::transport::Delivery;

    #[tokio::test]
    async fn a_flood_of_messages_does_not_starve_other_tasks() {
        const MESSAGES: usize = 10_000;
        let taken = Arc::new(AtomicUsize::new(0));
        let count = taken.clone();
        let flood = futures_util::stream::repeat_with(|| {
            Ok(Delivery {
                tag: 0,
                redelivered: false,
                message: Message::default(),
            })
        });
        let listening = tokio::spawn(listen(flood.take(MESSAGES).boxed(), move |_| {
            count.fetch_add(1, Ordering::Relaxed);
        }));
        let seen = taken.clone();
        let other = tokio::spawn(async move { seen.load(Ordering::Relaxed) });
        assert!(other.await.unwrap() < MESSAGES / 10);
        listening.await.unwrap();
        assert_eq!(taken.load(Ordering::Relaxed), MESSAGES);
    }
}
