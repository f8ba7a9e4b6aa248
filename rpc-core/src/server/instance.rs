//! A running server: the state that its sessions and its requests share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

use parking_lot::Mutex;
use smol_str::SmolStr;
use tokio::sync::mpsc;
use tracing::{debug, warn};
use uuid::Uuid;

use super::announcement::KnownContracts;
use super::cancellation::CallRegistry;
use super::health::HealthReport;
use super::in_flight::CallsInFlight;
use super::options::ServerOptions;
use super::rate_limit::{ANSWERS_AT_ONCE, ANSWERS_PER_SECOND, RateLimit};
use super::served::ServedQueue;
use super::streams::Streams;
use super::tap::CallTap;
use super::to_all::{CallToAll, CallsToAll};
use crate::connection::{Connection, ConnectionState};
use crate::names::INSTANCE_QUEUE_PREFIX;

/// A running server. It outlives the loss of its connection.
pub(super) struct Instance {
    /// Id of the instance: a UUID.
    pub(super) id: Arc<str>,
    pub(super) started: SystemTime,
    pub(super) connection: Connection,
    pub(super) queues: Vec<ServedQueue>,
    pub(super) options: ServerOptions,
    pub(super) health: HealthReport,
    /// The calls that can be cancelled; `None` if the server does not listen for dropped calls.
    pub(super) calls: Option<CallRegistry>,
    /// The calls that run; `None` if neither statistics nor slow handlers are of interest.
    pub(super) in_flight: Option<CallsInFlight>,
    /// Name of the latest private queue; `None` if the server may not have one.
    pub(super) private_queue: Mutex<Option<SmolStr>>,
    /// Set once the log says that the server has no private queue.
    pub(super) lacks_private_queue: AtomicBool,
    /// Set once the broker has refused the private queue for lack of permissions.
    pub(super) private_queue_is_forbidden: AtomicBool,
    pub(super) to_all: CallsToAll,
    pub(super) streams: Streams,
    /// The watchers of the calls.
    pub(super) tap: Arc<CallTap>,
    pub(super) known_contracts: Mutex<KnownContracts>,
    /// Limit of answers to questions.
    pub(super) answers: RateLimit,
    /// Limit of announcements of other instances that are read.
    pub(super) announcements: RateLimit,
    /// Number of refused requests, which the handle of the server reads.
    pub(super) refused: Arc<AtomicU64>,
    /// Number of dropped questions and calls to all instances, which the handle of the server reads.
    pub(super) dropped: Arc<AtomicU64>,
}

impl Instance {
    /// Makes an instance with a fresh id, and the receiver of its calls to all instances.
    pub(super) fn new(
        connection: Connection,
        queues: Vec<ServedQueue>,
        options: ServerOptions,
    ) -> (Arc<Self>, mpsc::Receiver<CallToAll>) {
        let (to_all, arriving) = CallsToAll::new();
        let records = options.introspection || options.slow_handler.is_some();
        let instance = Self {
            id: Uuid::new_v4().hyphenated().to_string().into(),
            started: SystemTime::now(),
            connection,
            queues,
            health: HealthReport::new(),
            calls: options.cancellation.then(CallRegistry::default),
            in_flight: records.then(CallsInFlight::default),
            streams: Streams::new(options.max_streams),
            tap: Arc::new(CallTap::new()),
            options,
            private_queue: Mutex::default(),
            lacks_private_queue: AtomicBool::new(false),
            private_queue_is_forbidden: AtomicBool::new(false),
            to_all,
            known_contracts: Mutex::default(),
            answers: RateLimit::new(ANSWERS_PER_SECOND, ANSWERS_AT_ONCE),
            announcements: RateLimit::new(ANSWERS_PER_SECOND, ANSWERS_AT_ONCE),
            refused: Arc::default(),
            dropped: Arc::default(),
        };
        (Arc::new(instance), arriving)
    }

    /// Returns `true` if replies to a queue are allowed.
    pub(super) fn may_reply_to(&self, queue: &str) -> bool {
        // A reply to one of the server's own queues would come back as a request, and no caller reads a private queue of an instance.
        !self.queues.iter().any(|served| served.owns(queue))
            && !queue.starts_with(INSTANCE_QUEUE_PREFIX)
            && (self.options.reply_policy)(queue)
    }

    pub(super) fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Reports in the health of the server that a session was lost, with the best reason that is known.
    pub(super) fn report_loss(&self, reason: Option<&str>) {
        match self.connection.state_now() {
            ConnectionState::Reconnecting { error } => self.health.reconnecting(&error),
            ConnectionState::Closed => {} // The server is about to end.
            ConnectionState::Connected | ConnectionState::Blocked { .. } => {
                let unknown = "the channel of the server was closed";
                self.health.reconnecting(reason.unwrap_or(unknown));
            }
        }
    }

    /// Counts a message to the private queue that is dropped, because too many have come. The log has one warning.
    pub(super) fn count_dropped(&self, what: &str) {
        if self.dropped.fetch_add(1, Ordering::Relaxed) == 0 {
            warn!(
                "{what} was dropped: more of them come than this server takes. `ServerHandle::dropped_questions` counts further ones"
            );
        } else {
            debug!("{what} was dropped: more of them come than this server takes");
        }
    }
}
