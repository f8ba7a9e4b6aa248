//! The service's side: from a queue's deliveries to a handler and back to the caller.
//!
//! The files, by stage:
//!
//! | stage | files |
//! |---|---|
//! | setup | `builder` and `options`; `dispatchers` finds dispatchers inside layers; `served`, a queue with its service |
//! | start | `instance`, the state of a server, with its `health`; `opening` opens sessions; `topology` declares queues; `open_failure` classifies failures |
//! | delivery loop | `session`, with `consumer`; `last_attempts` adds consumers of retry queues |
//! | private queue | `private_queue` listens; `introspection` answers questions, within its `rate_limit`; `to_all` passes on calls to all instances; `announcement` compares contracts with those of other instances |
//! | limits of handlers | `pool` |
//! | unpacking | `arrival` takes the requests out of a delivery, resolves their methods, and asks `redelivery` for a verdict |
//! | one request | `received`, its state; `request` decodes and runs it; `cancellation` stops it; `in_flight` and `statistics` record it; `slow_handlers` warns |
//! | streams | `stream` accepts a request, drives the handler and its items, and ends; `streams` finds open streams by their ids |
//! | calls watched from outside | `tapped` makes the events of a call; `tap` gives them to watchers, within limits; `tap_stream` is the stream of one watcher |
//! | redelivery | `redelivery` decides; `republish` carries the verdicts out |
//! | output | `outbox` sends replies and acknowledges; `publisher` sends confirmed messages |

mod announcement;
mod arrival;
mod builder;
mod cancellation;
mod consumer;
mod dispatchers;
mod health;
mod in_flight;
mod incoming;
mod instance;
mod introspection;
mod last_attempts;
mod open_failure;
mod opening;
mod options;
mod outbox;
mod pool;
mod private_queue;
mod publisher;
mod rate_limit;
mod received;
mod redelivery;
mod republish;
mod request;
mod served;
mod session;
mod slow_handlers;
mod statistics;
mod stream;
mod streams;
mod tap;
mod tap_stream;
mod tapped;
mod to_all;
mod topology;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, warn};

pub use self::builder::ServerBuilder;
pub(crate) use self::dispatchers::report_dispatcher;
pub use self::dispatchers::{Dispatch, DispatcherInfo, Serve};
use self::health::HealthReport;
pub use self::health::{Health, HealthWatch};
pub use self::incoming::{Incoming, IncomingItem};
use self::instance::Instance;
use self::options::ServerOptions;
use self::pool::Pool;
use self::served::ServedQueue;
use self::session::{Session, SessionEnd};
use self::to_all::CallToAll;
use crate::connection::Connection;
use crate::error::{ServeError, with_causes};
use crate::task;

/// Serves one or more services: reads their queues, runs their handlers, replies, acknowledges.
///
/// Any number of servers, in any number of processes, may serve the same queue: the broker shares the requests out among
/// them. A server acknowledges a request after it has sent the reply, so the broker gives a request whose server dies to another server.
///
/// # Examples
///
/// ```
/// use rpc_core::{Connection, Server, rpc};
///
/// #[rpc]
/// trait Greeter {
///     async fn greet(name: String) -> String;
/// }
///
/// struct Polite;
/// impl Greeter for Polite {
///     async fn greet(&self, name: String) -> String {
///         format!("Good day, {name}")
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let connection = Connection::open("memory:").await?;
/// let server = Server::builder(&connection).service(GreeterDispatcher::new(Polite)).build().start().await?;
///
/// let greeter = GreeterClient::new(connection.client());
/// assert_eq!(greeter.greet("Ada".to_owned()).await?, "Good day, Ada");
///
/// server.shutdown().await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "a server does nothing until `start`, `run` or `run_until` is called"]
pub struct Server {
    connection: Connection,
    queues: Vec<ServedQueue>,
    /// The reason why a service that was added cannot be served.
    flaw: Option<String>,
    options: ServerOptions,
}

impl Server {
    /// Sets up a server on a connection.
    pub fn builder(connection: &Connection) -> ServerBuilder {
        ServerBuilder::new(connection.clone())
    }

    /// Serves until `signal` resolves, then stops gracefully: takes no more requests, finishes those that run, replies and
    /// acknowledges, and gives the rest back to the queue.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start), and later only if the connection is closed on this side, or if the broker, after a loss,
    /// refuses a queue. The server waits for a lost connection and declares a deleted queue again.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops the server at once, as dropping a [`ServerHandle`] does. End the signal instead.
    pub async fn run_until(self, signal: impl Future<Output = ()>) -> Result<(), ServeError> {
        let mut signal = std::pin::pin!(signal);
        let mut handle = tokio::select! {
            started = self.start() => started?,
            () = &mut signal => return Ok(()),
        };
        tokio::select! {
            ended = handle.ended() => ended,
            () = signal => handle.shutdown().await,
        }
    }

    /// Serves until the connection is closed.
    ///
    /// # Errors
    ///
    /// As [`run_until`](Self::run_until).
    ///
    /// # Cancel safety
    ///
    /// As [`run_until`](Self::run_until).
    pub async fn run(self) -> Result<(), ServeError> {
        self.run_until(std::future::pending()).await
    }

    /// Declares the queues, starts to serve in the background and returns once requests are being taken. Waits for the
    /// connection if it is down. Tries again, with pauses from 50 ms to 1 second, if the connection is lost meanwhile,
    /// or a queue is not available because its node may be down. The log reports each cause once, at WARN. To limit the time put a
    /// [`tokio::time::timeout`] around the call.
    ///
    /// # Errors
    ///
    /// [`ServeError::QueueTaken`], [`ServeError::InvalidQueue`], [`ServeError::InvalidService`] and [`ServeError::NoService`] for an
    /// invalid configuration, [`ServeError::QueueRefused`] when the broker refuses a queue, above all because the queue exists with other
    /// arguments, or does not exist and must not be declared ([`QueueOptions::passive`](crate::QueueOptions::passive)),
    /// [`ServeError::NoChannel`] when a limit leaves no room for its channels,
    /// [`ServeError::Closed`] when the connection is closed on this side.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops what was started; declared queues stay.
    pub async fn start(self) -> Result<ServerHandle, ServeError> {
        self.check()?;
        if !task::in_runtime() {
            return Err(ServeError::NoRuntime);
        }
        let (instance, to_all) = Instance::new(self.connection, self.queues, self.options);
        let session = instance.open().await?;
        let (stop, stopped) = watch::channel(false);
        let health = instance.health.clone();
        let guard = health.stop_on_drop();
        let serving = serve(instance.clone(), session, to_all, stopped);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let _guard = guard;
            let outcome = serving.await;
            match &outcome {
                Ok(()) => health.stopped(SHUTDOWN),
                Err(error) => health.stopped(&with_causes(error)),
            }
            if let Err(error) = &outcome
                && !matches!(error, ServeError::Closed)
            {
                error!(error = ?with_causes(error), "the server has ended");
            }
            outcome
        });
        Ok(ServerHandle {
            id: instance.id.clone(),
            stop,
            task,
            connection: instance.connection.clone(),
            health: instance.health.clone(),
            refused: instance.refused.clone(),
            dropped: instance.dropped.clone(),
        })
    }

    fn check(&self) -> Result<(), ServeError> {
        if let Some(reason) = self.flaw.clone() {
            return Err(ServeError::InvalidService { reason });
        }
        if self.queues.is_empty() {
            return Err(ServeError::NoService);
        }
        for (index, second) in self.queues.iter().enumerate() {
            if let Some(reason) = second.flaw() {
                let queue = second.queue.to_string();
                return Err(ServeError::InvalidQueue { queue, reason });
            }
            if let Some(first) = self.queues[..index].iter().find(|first| {
                first.queue == second.queue
                    || *first.retry_queue == *second.queue
                    || *second.retry_queue == *first.queue
            }) {
                return Err(ServeError::QueueTaken {
                    queue: second.queue.to_string(),
                    first: first.service,
                    second: second.service,
                });
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("queues", &self.queues)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// Reason of the health of a server that was told to stop.
const SHUTDOWN: &str = "shutdown was requested";

/// The pause between two checks of a session that was replaced.
const RETIRING_PAUSE: Duration = Duration::from_millis(100);

/// Serves over one link after the other until told to stop, then drains.
async fn serve(
    instance: Arc<Instance>,
    mut session: Session,
    mut to_all: mpsc::Receiver<CallToAll>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), ServeError> {
    let options = &instance.options;
    let _slow_handlers = options.slow_handler.map(|limit| {
        AbortOnDropHandle::new(tokio::spawn(slow_handlers::watch(instance.clone(), limit)))
    });
    let announcing = instance.clone().announce(session.link.clone());
    let _announcing = AbortOnDropHandle::new(tokio::spawn(announcing));
    let prefetch = options.prefetch.into();
    let mut pool = Pool::new(instance.queues.len(), prefetch, options.concurrency);
    let mut retiring = JoinSet::new();
    loop {
        let end = session
            .run(&instance, &mut pool, &mut to_all, &mut stop)
            .await?;
        match &end {
            SessionEnd::Stopped => break,
            SessionEnd::Lost(reason) => {
                pool.drop_calls_to_all(); // Their replies could not be sent.
                session.outbox.lose();
                instance.report_loss(reason.as_deref());
            }
            SessionEnd::Moved => {}
        }
        // Handlers go on meanwhile. After a loss, their replies will not be sent: the broker gives their requests to a server again.
        let Some(reopened) = instance.reopen(&end, &mut stop).await? else {
            break;
        };
        let old = std::mem::replace(&mut session, reopened);
        while retiring.try_join_next().is_some() {}
        if matches!(end, SessionEnd::Moved) {
            retiring.spawn(retire(old));
        }
    }
    drop(to_all);
    instance.streams.stop();
    pool.drop_calls_to_all();
    let drained = tokio::time::timeout(options.drain_timeout, pool.drain()).await;
    if drained.is_err() {
        let (handlers, streams) = (pool.running(), pool.streams());
        warn!(handlers, streams, "handlers did not finish in time");
        slow_handlers::report_unfinished(&instance);
    } else {
        // The replies of the handlers are on the way.
        while retiring.join_next().await.is_some() {}
    }
    instance.tap.stop().await;
    session.close().await;
    Ok(())
}

/// Closes a session that was replaced, once its requests are answered and its streams have ended, or its link is lost.
async fn retire(mut session: Session) {
    while !session.is_done() {
        if !session.outbox.is_open() {
            session.outbox.lose();
        }
        tokio::time::sleep(RETIRING_PAUSE).await;
    }
    session.close().await;
}

/// A running server.
///
/// Dropping the handle stops the server at once: handlers are dropped where they are, and the broker gives their
/// requests to other servers, or to the next one. Prefer [`shutdown`](Self::shutdown).
#[must_use = "dropping the handle stops the server"]
pub struct ServerHandle {
    id: Arc<str>,
    stop: watch::Sender<bool>,
    /// One task, which ends with the set.
    task: JoinSet<Result<(), ServeError>>,
    connection: Connection,
    health: HealthReport,
    refused: Arc<AtomicU64>,
    dropped: Arc<AtomicU64>,
}

impl ServerHandle {
    /// Stops gracefully: takes no more requests, gives requests that have not started back to the queue, finishes those that
    /// run (within the drain timeout), replies and acknowledges. Returns when that is done.
    ///
    /// Streams end at once: after the items that were sent, their callers get [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled). A
    /// handler that is still receiving a stream gets the same error as the last item of that stream, and has one second to finish. Its caller gets
    /// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled), because a result would not cover all items. A handler that returns a single result
    /// may finish within the drain timeout if all items of its caller have arrived.
    ///
    /// # Errors
    ///
    /// The reason why the server had ended before, or could not finish: see [`Server::start`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops the server at once.
    pub async fn shutdown(mut self) -> Result<(), ServeError> {
        self.health.draining(SHUTDOWN);
        self.stop.send_replace(true);
        self.ended().await
    }

    /// Waits until the server ends by itself: when the connection is closed, or when the broker, after a loss, refuses a queue.
    ///
    /// # Errors
    ///
    /// The reason why the server ended.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn ended(&mut self) -> Result<(), ServeError> {
        match self.task.join_next().await {
            Some(Ok(outcome)) => outcome,
            Some(Err(error)) => Err(ServeError::Disconnected(error.into())), // The runtime is shutting down.
            None => Ok(()),
        }
    }

    /// Returns the id of this instance of the services: a UUID in its usual form, fresh for each start of a server.
    pub fn instance_id(&self) -> &str {
        &self.id
    }

    /// Number of requests that no handler saw because the requests are invalid: arguments that could not be decoded, unknown methods
    /// and content types, and reply queues that are not allowed ([`ServerBuilder::reply_policy`]). Each was answered, except
    /// those of the last kind, and acknowledged.
    pub fn refused_requests(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Number of questions to this instance, of announcements of other instances, and of calls to all instances, that were dropped because too
    /// many came or because they were too long. Up to 64 questions wait for their answers, and an instance sends at most 100 answers in a second,
    /// or 200 at once after a quiet time. Up to 64 calls to all instances wait for a handler, and as many on their way there.
    ///
    /// Questions that come through a request queue are not dropped: beyond the limit they get the fault
    /// [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded).
    pub fn dropped_questions(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Returns a watch on the health of the server, for the probes of an orchestrator. The watch remains after
    /// [`shutdown`](Self::shutdown) has taken the handle.
    ///
    /// # Examples
    ///
    /// ```
    /// # use rpc_core::{Connection, Health, Server, rpc};
    /// # #[rpc] trait Fib { async fn fib(n: u64) -> u64; }
    /// # struct Calculator;
    /// # impl Fib for Calculator { async fn fib(&self, n: u64) -> u64 { n } }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let connection = Connection::open("memory:").await?;
    /// let server = Server::builder(&connection).service(FibDispatcher::new(Calculator)).build().start().await?;
    /// let mut health = server.health();
    /// assert_eq!(health.current(), Health::Serving);
    ///
    /// server.shutdown().await?;
    /// assert_eq!(health.current(), Health::Stopped);
    /// assert_eq!(health.reason().as_deref(), Some("shutdown was requested"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn health(&self) -> HealthWatch {
        self.health.watch()
    }
}

impl fmt::Debug for ServerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerHandle")
            .field("id", &self.id)
            .field("connection", &self.connection)
            .finish_non_exhaustive()
    }
}
