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
