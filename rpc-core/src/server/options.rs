//! Options of a server and their defaults.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::streaming::DEFAULT_WINDOW;
use crate::wire::Amount;

/// Predicate on the name of a reply queue: `true` allows replies.
pub(super) type ReplyPolicy = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// Options of a server. The builder sets and describes them; the running server reads them.
#[derive(Clone)]
pub(super) struct ServerOptions {
    /// Unacknowledged requests of each queue, and handlers of each queue at a time.
    pub(super) prefetch: u16,
    /// Handlers of the whole server at a time.
    pub(super) concurrency: usize,
    /// Deliveries of a request before it is given up; `None` sets no limit.
    pub(super) delivery_limit: Option<u32>,
    /// Time for a request that comes without a deadline; `None` sets no limit.
    pub(super) default_deadline: Option<Duration>,
    pub(super) reply_policy: ReplyPolicy,
    /// Headers that handlers' own calls send on, even if the caller has not marked them.
    pub(super) propagated_headers: Vec<String>,
    /// Streams of the whole server at a time.
    pub(super) max_streams: usize,
    /// Items of a caller that may be unread, for each stream.
    pub(super) window: Amount,
    /// Stops the handlers of dropped calls.
    pub(super) cancellation: bool,
    pub(super) drain_timeout: Duration,
    /// Answers questions about the instance, and records statistics for them.
    pub(super) introspection: bool,
    /// Shows requests and answers to programs that ask.
    pub(super) tap: bool,
    /// Time after which the log warns about a running handler; `None` for no warnings.
    pub(super) slow_handler: Option<Duration>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            prefetch: 64,
            concurrency: usize::MAX,
            delivery_limit: Some(3),
            default_deadline: Some(Duration::from_secs(15 * 60)),
            reply_policy: Arc::new(|_| true),
            propagated_headers: Vec::new(),
            max_streams: 1024,
            window: DEFAULT_WINDOW,
            cancellation: true,
            drain_timeout: Duration::from_secs(30),
            introspection: true,
            tap: false,
            slow_handler: Some(Duration::from_secs(60)),
        }
    }
}

impl ServerOptions {
    /// Number of requests that the server takes in one message: a quarter of the prefetch. A client has at most four messages under
    /// way, which then do not keep more than one server busy while others are idle.
    pub(super) fn batch_limit(&self) -> u16 {
        (self.prefetch / 4).max(1)
    }
}

impl fmt::Debug for ServerOptions {
    /// Leaves out the policy, which is a closure.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerOptions")
            .field("prefetch", &self.prefetch)
            .field("concurrency", &self.concurrency)
            .field("delivery_limit", &self.delivery_limit)
            .field("default_deadline", &self.default_deadline)
            .field("propagated_headers", &self.propagated_headers)
            .field("max_streams", &self.max_streams)
            .field("window", &self.window)
            .field("cancellation", &self.cancellation)
            .field("drain_timeout", &self.drain_timeout)
            .field("introspection", &self.introspection)
            .field("tap", &self.tap)
            .field("slow_handler", &self.slow_handler)
            .finish_non_exhaustive()
    }
}
