//! Requests to topics, whose answers are gathered.

use std::sync::Arc;
use std::task::{Context, Poll};

use smol_str::SmolStr;
use tokio::time::Instant;

use super::Requester;
use super::errors::{not_sent, topic_refused};
use super::gathers::{Answer, GatherWaiter};
use super::topics::Published;
use crate::error::RpcError;
use crate::transport::Message;

/// Limits of a gather, and the way to end it early.
#[derive(Debug)]
pub(crate) struct GatherOptions {
    /// The moment at which the gather ends.
    pub(crate) until: Instant,
    /// Number of answers after which the gather ends.
    pub(crate) expected: Option<usize>,
    /// The queue whose servers are told if the gather is dropped before its end.
    pub(crate) cancels: Option<Arc<str>>,
}

/// A published request to a topic, and its answers. Dropping it before its end cancels the call.
#[derive(Debug)]
pub(crate) struct Gathering {
    requester: Arc<Requester>,
    answers: GatherWaiter,
    /// Taken when the broker's answer is awaited.
    published: Option<Published>,
    cancels: Option<Arc<str>>,
}

impl Requester {
    /// Publishes a request to a topic. `message` makes the request, without the addresses, from its correlation id and the size of the
    /// largest frame.
    ///
    /// An error means that the request was not published. From then on an instance may see the request.
    pub(crate) async fn gather(
        self: Arc<Self>,
        topic: String,
        options: GatherOptions,
        message: impl FnOnce(SmolStr, usize) -> Result<Message, RpcError>,
    ) -> Result<Gathering, RpcError> {
        let GatherOptions {
            until,
            expected,
            cancels,
        } = options;
        let topics = self.topics.clone();
        let frame_max = topics.frame_max().await.map_err(not_sent)?;
        // Before the request is published, so that the fastest answer finds the gather.
        let answers = GatherWaiter::register(&self.in_flight, until, expected)?;
        let mut message = message(answers.correlation_id(), frame_max)?;
        self.address(&mut message, true);
        message.mandatory = true;
        message.batches = false;
        let published = topics.publish(topic, message).await.map_err(not_sent)?;
        Ok(Gathering {
            requester: self,
            answers,
            published: Some(published),
            cancels,
        })
    }
}

impl Gathering {
    /// Waits until the broker has the request and an instance gets it. After an error, there are no answers.
    pub(crate) async fn confirmed(&mut self) -> Result<(), RpcError> {
        let Some(published) = self.published.take() else {
            return Ok(());
        };
        let confirmed = self.requester.topics.confirmed(published).await;
        confirmed.map_err(|(error, followed)| {
            self.answers.end();
            topic_refused(error, followed)
        })
    }

    /// Returns `true` after the last answer.
    pub(crate) fn is_over(&self) -> bool {
        self.answers.is_over()
    }

    /// Returns the next answer, or `None` after the last. An error is the last item: the connection was lost or closed.
    pub(crate) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Answer, RpcError>>> {
        self.answers.poll_next(cx)
    }

    /// Waits for the next answer, as [`poll_next`](Self::poll_next).
    pub(crate) async fn next(&mut self) -> Option<Result<Answer, RpcError>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }
}

impl Drop for Gathering {
    fn drop(&mut self) {
        let (id, until) = (self.answers.id(), self.answers.until());
        // Servers know the time limit, and stop without a notice.
        if let Some(queue) = &self.cancels
            && !self.answers.is_over()
            && Instant::now() < until
        {
            self.requester.canceller.cancel(queue, id, until);
        }
    }
}
