//! The calls of a running server as a watcher sees them.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::codec::{ContentType, Encoded};

/// Default of the time for which calls are watched.
pub(crate) const DEFAULT_DURATION: Duration = Duration::from_secs(60);

/// One event: a step of a call of an instance, or news about the watching itself. See [`Client::tap`](crate::Client::tap).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TapEvent {
    /// Id of the instance: see [`InstanceInfo::id`](super::InstanceInfo::id).
    pub instance: String,
    /// Name of the service.
    pub service: String,
    /// Time of the event, by the clock of the instance.
    pub time: SystemTime,
    /// The call that the event belongs to; `None` for [`TapEventKind::Skipped`] and [`TapEventKind::Ended`].
    pub call: Option<TappedCall>,
    /// Kind of the event, with its details.
    pub kind: TapEventKind,
}

/// A call that is watched.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TappedCall {
    /// Number of the call. All events of a call have the same number, and no other call of the instance has it.
    pub number: u64,
    /// Name of the method on the wire. `None` if the request names none, or one that the service does not have: see [`TapRequest::method`].
    pub method: Option<String>,
    /// Correlation id of the request, as its caller wrote it.
    pub correlation_id: Option<String>,
}

/// Kind of an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum TapEventKind {
    /// The server begins to work on a request.
    Request(TapRequest),
    /// The server has accepted a request for a method with streams. The streams are open until the call's answer.
    StreamOpened,
    /// The call has ended.
    Answer(TapAnswer),
    /// Events were left out: more came than the limits of the instance allow, or than the watcher has read.
    Skipped {
        /// Number of events since the last event of this kind.
        events: u64,
    },
    /// The last event of an instance, which the client adds.
    Ended {
        /// Reason why the instance is watched no longer; `None` at the end of the time that the watcher has set.
        error: Option<String>,
    },
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TapRequest {
    /// The method that the request names, which the service may not have.
    pub method: Option<String>,
    /// The queue that the request came from.
    pub queue: String,
    /// Name that the caller states for itself, which is not verified.
    pub app_id: Option<String>,
    /// The broker's user that published the request, if the caller stated the user.
    pub user_id: Option<String>,
    /// The headers.
    pub headers: TapHeaders,
    /// The arguments.
    pub body: TapBody,
    /// Time until the caller's deadline; `None` if the request has none.
    pub remaining: Option<Duration>,
    /// `true` if the request was delivered before, to a server that did not finish it.
    pub redelivered: bool,
    /// `true` for a call to all instances.
    pub to_all: bool,
}

/// Outcome of a call, and its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TapAnswer {
    /// Outcome of the call.
    pub outcome: TapOutcome,
    /// Time since the server began to work on the request.
    pub duration: Duration,
    /// The headers of the answer. None for a fault, and none for the end of a stream.
    pub headers: TapHeaders,
    /// The result or the service's own error. `None` for a fault, and for the end of a stream.
    pub body: Option<TapBody>,
    /// The fault.
    pub fault: Option<TapFault>,
    /// Numbers of items, for a call whose streams were open.
    pub items: Option<TapItems>,
}

/// Outcome of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TapOutcome {
    /// The method's value, or the end of a stream that the handler intended. Calls without a reply have this outcome, too.
    Result,
    /// The service's own error.
    Error,
    /// A failure that the library reports.
    Fault,
}

/// A fault.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TapFault {
    /// Code of the fault, such as `panicked`. `dropped` means that the server has abandoned the request, and that the broker may deliver the
    /// request again.
    pub code: String,
    /// Text of the fault, at most 1 KiB of it.
    pub message: String,
}

/// Items of a call with streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TapItems {
    /// Number of items that the handler has read.
    pub received: u64,
    /// Number of items that were sent to the caller.
    pub sent: u64,
}

/// Headers as text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TapHeaders {
    /// The values by the names of the headers. The values of secret headers are `<hidden>`: see [`Headers`](crate::Headers). Headers that begin
    /// with `rpc-`, which belong to the protocol, are left out.
    pub values: BTreeMap<String, String>,
    /// Number of headers that are left out, because all names and values together are longer than 16 KiB.
    pub left_out: u64,
}

/// A body, or the beginning of a long one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TapBody {
    /// Content type, as the sender wrote it.
    pub content_type: Option<String>,
    /// The first 16 KiB of the body.
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
    /// Length of the whole body, in bytes.
    pub len: u64,
}

impl TapBody {
    /// Returns `true` if the event holds the beginning of the body only.
    pub fn is_cut(&self) -> bool {
        self.len > self.bytes.len() as u64
    }

    /// Returns the arguments, the result or the error; `None` if the body is cut, or has a content type that this crate does not know.
    pub fn encoded(&self) -> Option<Encoded> {
        let content_type = ContentType::parse(self.content_type.as_deref())?;
        (!self.is_cut()).then(|| Encoded::new(content_type, self.bytes.clone()))
    }
}

/// Selection of events. Also the arguments of the built-in method.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TapFilter {
    pub(crate) service: String,
    /// Calls of this method only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) method: Option<String>,
    /// Calls whose requests have this header only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) header: Option<String>,
    /// Value of the header, as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) value: Option<String>,
    /// Calls with this outcome only: the request and the answer, at the end of the call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) outcome: Option<TapOutcome>,
    /// Time for which calls are watched, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) millis: Option<u64>,
}

impl TapFilter {
    /// Names of the arguments.
    pub(crate) const NAMES: &[&str] =
        &["service", "method", "header", "value", "outcome", "millis"];

    /// Time for which calls are watched.
    pub(crate) fn duration(&self) -> Duration {
        self.millis.map_or(DEFAULT_DURATION, Duration::from_millis)
    }
}
