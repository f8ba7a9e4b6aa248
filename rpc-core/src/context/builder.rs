//! Contexts that tests build by hand.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smol_str::SmolStr;

use super::{Context, Inner};
use crate::deadline;
use crate::headers::HeaderValue;

/// Builds a [`Context`], for tests that call a handler directly.
///
/// The defaults are those of a bare request: no deadline, no headers, delivered for the first time. Calls that
/// the handler makes inherit from the context only in its scope: `cx.scope(shop.place(item, cx.clone()))`.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use rpc_core::{Context, rpc};
///
/// #[rpc]
/// trait Orders {
///     async fn place(item: String, #[ctx] cx: Context) -> Result<u64, String>;
/// }
///
/// struct Shop;
/// impl Orders for Shop {
///     async fn place(&self, item: String, cx: Context) -> Result<u64, String> {
///         let tenant: &str = cx.header_as("tenant").ok_or("no tenant")?;
///         cx.set_reply_header("placed-for", tenant);
///         Ok(1)
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let cx = Context::builder()
///     .timeout(Duration::from_secs(1))
///     .header("tenant", "a")
///     .build();
/// assert_eq!(Shop.place("tea".to_owned(), cx.clone()).await, Ok(1));
/// assert_eq!(cx.reply_headers().get_as("placed-for"), Some("a"));
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct ContextBuilder(pub(super) Inner);

impl ContextBuilder {
    /// Names the service. Default: an empty name.
    pub fn service(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.0.service = name.into();
        self
    }

    /// Names the method. Default: an empty name.
    pub fn method(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.0.method = name.into();
        self
    }

    /// Sets the deadline of the caller. Default: none. With a moment in the past the context is cancelled.
    pub fn deadline(mut self, deadline: Instant) -> Self {
        self.0.deadline = Some(deadline);
        self
    }

    /// Sets the deadline of the caller, counted from now; more than 30 years count as 30 years. Default: none.
    pub fn timeout(self, timeout: Duration) -> Self {
        self.deadline(deadline::after(timeout).into_std())
    }

    /// Adds a header of the caller. Default: none.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<HeaderValue>) -> Self {
        self.0.headers.insert(name, value);
        self
    }

    /// Adds a header of the caller that propagates to calls made with this context. Default: none.
    pub fn propagating_header(
        mut self,
        name: impl Into<String>,
        value: impl Into<HeaderValue>,
    ) -> Self {
        let name = name.into();
        self.0.propagating.insert(name.clone());
        self.header(name, value)
    }

    /// Sets the correlation id that the caller gave the call. Default: none.
    pub fn correlation_id(mut self, id: impl Into<String>) -> Self {
        self.0.delivery.correlation_id = Some(SmolStr::new(id.into()));
        self
    }

    /// Sets the name that the caller states for itself. Default: none.
    pub fn app_id(mut self, name: impl Into<String>) -> Self {
        self.0.delivery.app_id = Some(SmolStr::new(name.into()));
        self
    }

    /// Sets the broker's user that published the request. Default: not stated.
    pub fn user_id(mut self, name: impl Into<String>) -> Self {
        self.0.delivery.user_id = Some(SmolStr::new(name.into()));
        self
    }

    /// Sets the number of deliveries before this one; more than 0 makes the request a redelivery. Default: 0.
    pub fn delivery_count(mut self, deliveries: u32) -> Self {
        self.0.delivery.deliveries = deliveries;
        self.0.delivery.redelivered = deliveries > 0;
        self
    }

    /// Marks the call as dropped by its caller. Default: the caller waits.
    pub fn cancelled(self) -> Self {
        self.0.delivery.cancellation.cancel();
        self
    }

    /// Builds the context.
    #[must_use]
    pub fn build(self) -> Context {
        Context(Arc::new(self.0))
    }
}
