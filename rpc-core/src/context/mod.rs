//! What a handler can know of the call that it answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::headers::{HeaderValue, Headers};
use crate::message::{Delivery, Request};

/// The circumstances of a call, for the handler: an argument marked `#[ctx]` receives it.
///
/// Cloning is cheap. `Context::default()` is that of a call without deadline or headers, for tests that call a handler
/// directly.
#[derive(Clone, Debug, Default)]
pub struct Context(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    deadline: Option<Instant>,
    headers: Headers,
    delivery: Delivery,
}

impl Context {
    /// Takes the metadata out of a request.
    pub(crate) fn of(request: &mut Request) -> Self {
        Self(Arc::new(Inner {
            deadline: request.deadline(),
            headers: std::mem::take(&mut request.headers),
            delivery: request.delivery.take().unwrap_or_default(),
        }))
    }

    /// When the caller stops waiting. A handler that is still running then is stopped, unless it is `blocking`.
    pub fn deadline(&self) -> Option<Instant> {
        self.0.deadline
    }

    /// The time left until the deadline; zero when it has passed.
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline().map(|deadline| {
            deadline.saturating_duration_since(tokio::time::Instant::now().into_std())
        })
    }

    /// The id that the caller gave the call, in whatever form.
    pub fn correlation_id(&self) -> Option<&str> {
        self.0.delivery.correlation_id.as_deref()
    }

    /// A header that the caller set.
    pub fn header(&self, name: &str) -> Option<&HeaderValue> {
        self.0.headers.get(name)
    }

    /// Whether the broker handed the request out before, to a server that did not finish it: it may have run already.
    pub fn redelivered(&self) -> bool {
        self.0.delivery.redelivered
    }

    /// How often the request was delivered before this time, to servers that did not finish it: 0 for a new one.
    ///
    /// A quorum queue counts exactly. Of a classic queue it is the least that is known. RabbitMQ before version 4 counts what
    /// a stopping server gave back unrun, too.
    pub fn delivery_count(&self) -> u32 {
        self.0.delivery.deliveries
    }

    /// Whether nobody waits for the answer any more: the caller dropped the call, its deadline has passed, or the server
    /// stops without waiting longer. What a `blocking` handler asks from time to time; an `async` one is dropped then.
    ///
    /// That a caller dropped its call is told by a notice, which may come late or, when a connection is lost, not at all.
    pub fn is_cancelled(&self) -> bool {
        self.0.delivery.cancellation.is_cancelled()
            || self
                .remaining()
                .is_some_and(|remaining| remaining.is_zero())
    }

    /// Resolves when [`is_cancelled`](Self::is_cancelled) becomes true: for tasks that a handler starts.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn cancelled(&self) {
        let cancelled = self.0.delivery.cancellation.cancelled();
        match self.deadline() {
            None => cancelled.await,
            // An error is the deadline, which is one reason of the two.
            Some(deadline) => {
                let _ = tokio::time::timeout_at(deadline.into(), cancelled).await;
            }
        }
    }

    /// What the caller calls itself; not verified by anyone.
    pub fn app_id(&self) -> Option<&str> {
        self.0.delivery.app_id.as_deref()
    }

    /// The broker's user that published the request, if the caller stated it: RabbitMQ refuses a `user_id` that is not
    /// the publisher's own (<https://www.rabbitmq.com/docs/validated-user-id>).
    pub fn user_id(&self) -> Option<&str> {
        self.0.delivery.user_id.as_deref()
    }
}
