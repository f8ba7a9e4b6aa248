//! The answers of instances.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// One running server, and one of the services that it serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct InstanceInfo {
    /// Id of the instance: a UUID, fresh for each start of a server. See
    /// [`ServerHandle::instance_id`](crate::ServerHandle::instance_id).
    pub id: String,
    /// Name of the server's connection.
    pub name: String,
    /// Name of the service.
    pub service: String,
    /// Version of the service.
    pub version: String,
    /// The queues of the service that the instance reads, sorted by name.
    pub queues: Vec<String>,
    /// Time at which the server was started, by its own clock.
    pub started: SystemTime,
    /// Version of `rpc-core` in the server.
    pub crate_version: String,
    /// Version of the wire protocol.
    pub protocol: u32,
    /// Hash of the contract: see [`ServiceInfo::contract`].
    pub contract: String,
    /// Time from the question to the answer, measured by the client.
    #[serde(default)]
    pub round_trip: Duration,
}

/// Description of a service: the contract that an instance serves, with the options of its trait.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ServiceInfo {
    /// Name of the service.
    pub name: String,
    /// Version of the service: the trait's option `version`, else the version of the crate that the trait is in.
    pub version: String,
    /// Doc comment of the trait.
    pub docs: Option<String>,
    /// The queue of methods without a queue of their own.
    pub queue: String,
    /// Hash of the contract: the names and kinds of methods, and the names and Rust types of their arguments, results and errors. Docs,
    /// schemas, and options that concern one side only do not count, nor do the fields of types.
    pub contract: String,
    /// The methods, in the order of the trait.
    pub methods: Vec<MethodInfo>,
}

impl ServiceInfo {
    /// Removes the schemas of all types, which are the longest part of a description.
    pub(crate) fn remove_schemas(&mut self) {
        for method in &mut self.methods {
            let arguments = method.arguments.iter_mut().map(|argument| &mut argument.ty);
            let others = [Some(&mut method.result), method.error.as_mut()];
            let others = others.into_iter().chain([method.item_error.as_mut()]);
            for ty in arguments.chain(others.flatten()) {
                ty.schema = None;
            }
        }
    }
}

/// Description of a method.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MethodInfo {
    /// Name on the wire.
    pub name: String,
    /// Doc comment of the method.
    pub docs: Option<String>,
    /// Kind of the method.
    pub kind: MethodKind,
    /// The method's own queue; `None` if its requests go to the service's queue.
    pub queue: Option<String>,
    /// Arguments in the order of their declaration, without the context.
    pub arguments: Vec<ArgumentInfo>,
    /// Type of the result: of a value that is not an error.
    pub result: TypeInfo,
    /// Type of the service's own error, for a method that returns a `Result`.
    pub error: Option<TypeInfo>,
    /// Type of the error that ends a stream of results, for a stream of `Result`s.
    pub item_error: Option<TypeInfo>,
    /// Option `idempotent`: clients repeat a call after a temporary failure.
    pub idempotent: bool,
    /// Option `at_most_once`: a request is acknowledged before it runs.
    pub at_most_once: bool,
    /// Option `persistent`: a request survives a restart of the broker.
    pub persistent: bool,
    /// Set for the method that serves requests without a method name.
    pub default: bool,
    /// Option `priority`.
    pub priority: Option<u8>,
    /// Option `timeout`.
    pub timeout: Option<Duration>,
}

/// Kind of a method: the number of messages in each direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum MethodKind {
    /// One request, one reply.
    Unary,
    /// One request, a stream of replies.
    ServerStreaming,
    /// A stream of requests, one reply.
    ClientStreaming,
    /// A stream in each direction.
    Bidirectional,
    /// One request without a reply.
    Oneway,
}

impl MethodKind {
    /// Returns `true` if the method returns a stream.
    pub fn returns_items(self) -> bool {
        matches!(self, Self::ServerStreaming | Self::Bidirectional)
    }

    /// Returns `true` if the method takes a stream from its caller.
    pub fn takes_items(self) -> bool {
        matches!(self, Self::ClientStreaming | Self::Bidirectional)
    }

    /// Returns `true` if the method has a stream in any direction.
    pub fn has_stream(self) -> bool {
        self.returns_items() || self.takes_items()
    }
}

/// Writes the kind as one word, such as `server_streaming`. The words are a part of the hashes of contracts.
impl fmt::Display for MethodKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unary => "unary",
            Self::ServerStreaming => "server_streaming",
            Self::ClientStreaming => "client_streaming",
            Self::Bidirectional => "bidirectional",
            Self::Oneway => "oneway",
        })
    }
}

/// Description of an argument.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ArgumentInfo {
    /// Name on the wire.
    pub name: String,
    /// Type of the argument, or of the items of a stream.
    pub ty: TypeInfo,
    /// `true` if a request may leave the argument out: it has a `#[serde(default)]` or is an `Option`.
    pub optional: bool,
    /// `true` for a stream.
    pub stream: bool,
}

/// Description of a type.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TypeInfo {
    /// Name of the Rust type, without paths: `Vec<Item>`.
    pub rust: String,
    /// JSON Schema of the type (draft 2020-12) as text. `None` unless the server has the feature `schema` and the type implements
    /// `schemars::JsonSchema`.
    pub schema: Option<String>,
}

/// Statistics of one service of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct InstanceStats {
    /// Id of the instance: see [`InstanceInfo::id`].
    pub id: String,
    /// Name of the server's connection.
    pub name: String,
    /// Name of the service.
    pub service: String,
    /// Time at which counting began: the start of the server, by its own clock.
    pub since: SystemTime,
    /// The methods, in the order of the trait.
    pub methods: Vec<MethodStats>,
    /// The oldest calls that are running, the oldest first; at most 16.
    pub oldest: Vec<CallInFlight>,
}

/// Statistics of a method. Requests count from the start of their handling to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MethodStats {
    /// Name on the wire.
    pub name: String,
    /// Number of calls that have ended.
    pub calls: u64,
    /// Number of calls that ended with a value.
    pub results: u64,
    /// Number of calls that ended with the service's own error.
    pub errors: u64,
    /// Number of calls that ended with a fault, by its code, such as `panicked`. `dropped` counts calls whose handling was abandoned.
    pub faults: BTreeMap<String, u64>,
    /// Number of calls that are running, without those whose streams are open.
    pub in_flight: u64,
    /// Number of open streams. A stream counts as one call when it ends: with a value at its own end, or with the error that ends it.
    pub streams: u64,
    /// Mean duration of the calls that have ended. The duration of a stream is the time until the server has accepted it.
    pub mean: Duration,
    /// Median of the durations.
    pub p50: Duration,
    /// 90th percentile of the durations.
    pub p90: Duration,
    /// 99th percentile of the durations.
    pub p99: Duration,
    /// Longest duration.
    pub max: Duration,
}

/// A call that is running.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CallInFlight {
    /// Name of the method on the wire.
    pub method: String,
    /// Time since the handling of the call began.
    pub age: Duration,
    /// Correlation id of the request, as its caller wrote it.
    pub correlation_id: Option<String>,
}
