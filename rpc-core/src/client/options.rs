//! Options of a client, shared by its builder and the running client.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use crate::codec::ContentType;
use crate::deadline::DEFAULT_TIMEOUT;
use crate::headers::Headers;
use crate::message::Request;
use crate::middleware::RetryPolicy;
use crate::streaming::DEFAULT_WINDOW;
use crate::transport::ChannelMode;
use crate::wire::Amount;

/// Limit of calls in flight, unless set: a few hundred megabytes of waiting calls.
const DEFAULT_MAX_IN_FLIGHT: usize = 262_144;

/// Options of a client; the setters of [`ClientBuilder`](super::ClientBuilder) describe them.
#[derive(Clone, Debug)]
pub(super) struct ClientOptions {
    pub(super) timeout: Duration,
    pub(super) defaults: RequestDefaults,
    pub(super) content_type: ContentType,
    pub(super) confirms: bool,
    pub(super) cancellation: bool,
    pub(super) mandatory: bool,
    pub(super) expiration: bool,
    pub(super) retry: RetryPolicy,
    pub(super) coalesce: Option<usize>,
    pub(super) max_in_flight: usize,
    /// Window of streams.
    pub(super) window: Amount,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            timeout: DEFAULT_TIMEOUT,
            defaults: RequestDefaults::default(),
            content_type: ContentType::MessagePack,
            confirms: false,
            cancellation: true,
            mandatory: true,
            expiration: true,
            retry: RetryPolicy::new(),
            coalesce: None,
            max_in_flight: DEFAULT_MAX_IN_FLIGHT,
            window: DEFAULT_WINDOW,
        }
    }
}

impl ClientOptions {
    /// Returns the mode of the channel for ordinary requests.
    pub(super) fn channel_mode(&self) -> ChannelMode {
        match self.confirms {
            true => ChannelMode::Confirm,
            false => ChannelMode::Plain,
        }
    }

    /// Returns the format in which a request is sent: the client's, or the request's own if its body was encoded outside of this library.
    pub(super) fn content_type_of(&self, request: &Request) -> ContentType {
        match request.0.recode {
            None if self.content_type != ContentType::Plain => request.0.content_type,
            _ => self.content_type,
        }
    }

    /// Returns `true` if replies may share messages.
    pub(super) fn reads_batches(&self) -> bool {
        self.coalesce != Some(1)
    }

    /// Returns the most requests that may share a message, if any may.
    pub(super) fn max_batch(&self) -> Option<usize> {
        let is_plain = self.content_type == ContentType::Plain;
        self.coalesce.filter(|limit| !is_plain && *limit > 1)
    }
}

/// Defaults for the settings of requests.
#[derive(Clone, Default)]
pub(super) struct RequestDefaults {
    pub(super) headers: Headers,
    /// Names of the headers that propagate.
    pub(super) propagating: BTreeSet<String>,
    pub(super) priority: Option<u8>,
    pub(super) persistent: bool,
}

impl RequestDefaults {
    /// Adds the defaults to a request.
    pub(super) fn complete(&self, request: &mut Request) {
        for (name, value) in self.headers.iter() {
            if request.0.headers.get(name).is_none() {
                request.set_header(name.to_owned(), value.clone());
            }
        }
        for name in &self.propagating {
            request.propagate_header(name);
        }
        request.0.priority = request.0.priority.or(self.priority);
        request.0.persistent |= self.persistent;
    }
}

impl fmt::Debug for RequestDefaults {
    /// Leaves out the values of headers, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("RequestDefaults")
            .field("headers", &names)
            .field("propagating", &self.propagating)
            .field("priority", &self.priority)
            .field("persistent", &self.persistent)
            .finish()
    }
}
