//! The service's side: from a queue's deliveries to a handler and back to the caller.
//!
//! [`Dispatcher`] is what generated dispatchers are made of; [`Server`] reads the queues of several of them, within a
//! limit, and stops gracefully.

mod builder;
mod cancel;
mod consume;
mod delivery;
mod dispatch;
mod last_attempts;
mod lines;
mod receipt;
mod replies;
mod workload;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{error, warn};

pub use self::builder::ServerBuilder;
use self::builder::{QueueEntry, ReplyPolicy};
use self::cancel::Calls;
use self::consume::{Ended, Limits, Serving, Session};
pub use self::dispatch::{Dispatch, Dispatcher, DispatcherInfo, Handler, Invocation, Route, Serve};
use self::workload::Workload;
use crate::connection::Connection;
use crate::error::{ServeError, with_causes};
use crate::task;

/// Serves one or more services: reads their queues, runs their handlers, replies, acknowledges.
///
/// Any number of servers, in any number of processes, may serve the same queue: the broker shares the requests out among
/// them. A request is acknowledged after its reply was sent, so one whose server dies is given to another server.
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
    queues: Vec<QueueEntry>,
    /// The reason why a service that was added cannot be served.
    flaw: Option<String>,
    limits: Limits,
    reply_policy: ReplyPolicy,
    propagated_headers: Vec<String>,
    cancellation: bool,
    drain_timeout: Duration,
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
    /// refuses a queue. A lost connection is waited for, a deleted queue declared anew.
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
    /// or a queue is not available: the node that has it may be down. The log says so at WARN, once for each cause. To wait for a
    /// limited time put a [`tokio::time::timeout`] around it.
    ///
    /// # Errors
    ///
    /// [`ServeError::QueueTaken`], [`ServeError::InvalidQueue`], [`ServeError::InvalidService`] and [`ServeError::NoService`] for an
    /// invalid configuration, [`ServeError::QueueRefused`] when the broker refuses a queue, above all because it exists with other arguments, or
    /// because it does not exist and is not to be declared ([`QueueOptions::passive`](crate::QueueOptions::passive)),
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
        let refused = Arc::default();
        let serving = Arc::new(Serving {
            connection: self.connection.clone(),
            queues: self.queues,
            limits: self.limits,
            reply_policy: self.reply_policy,
            propagated_headers: self.propagated_headers,
            calls: self.cancellation.then(Calls::default),
            refused: Arc::clone(&refused),
        });
        let session = serving.open().await?;
        let (stop, stopped) = watch::channel(false);
        let mut task = JoinSet::new();
        let serving = serve(serving, session, stopped, self.drain_timeout);
        task.spawn(async {
            let outcome = serving.await;
            if let Err(error) = &outcome
                && !matches!(error, ServeError::Closed)
            {
                error!(error = ?with_causes(error), "the server has ended");
            }
            outcome
        });
        Ok(ServerHandle {
            stop,
            task,
            connection: self.connection,
            refused,
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
            .field("limits", &self.limits)
            .field("drain_timeout", &self.drain_timeout)
            .finish_non_exhaustive()
    }
}

/// The pause between two looks at a session that ends.
const PARTING_LOOK: Duration = Duration::from_millis(100);

/// Serves over one link after the other until told to stop, then drains.
async fn serve(
    serving: Arc<Serving>,
    mut session: Session,
    mut stop: watch::Receiver<bool>,
    drain_timeout: Duration,
) -> Result<(), ServeError> {
    let Limits {
        prefetch,
        concurrency,
        ..
    } = serving.limits;
    let mut workload = Workload::new(serving.queues.len(), prefetch.into(), concurrency);
    let mut parting = JoinSet::new();
    loop {
        let ended = serving.run(&mut session, &mut workload, &mut stop).await?;
        if matches!(ended, Ended::Stopped) {
            break;
        }
        // Handlers go on meanwhile. After a loss, their replies will not be sent: the broker gives their requests to a server again.
        let Some(reopened) = serving.reopen(&ended, &mut stop).await? else {
            break;
        };
        let old = std::mem::replace(&mut session, reopened);
        while parting.try_join_next().is_some() {}
        if matches!(ended, Ended::Moved) {
            parting.spawn(part(old));
        }
    }
    let drained = tokio::time::timeout(drain_timeout, workload.drain()).await;
    if drained.is_err() {
        let handlers = workload.running();
        warn!(handlers, "handlers did not finish in time");
    } else {
        // Their replies are on the way.
        while parting.join_next().await.is_some() {}
    }
    session.close().await;
    Ok(())
}

/// Ends a session whose place another has taken, once what came through it is answered.
async fn part(mut session: Session) {
    while !session.is_done() {
        tokio::time::sleep(PARTING_LOOK).await;
    }
    session.close().await;
}

/// A running server.
///
/// Dropping the handle stops the server at once: handlers are dropped where they stand, and the broker gives their
/// requests to other servers, or to the next one. Prefer [`shutdown`](Self::shutdown).
#[must_use = "dropping the handle stops the server"]
pub struct ServerHandle {
    stop: watch::Sender<bool>,
    /// One task, which ends with the set.
    task: JoinSet<Result<(), ServeError>>,
    connection: Connection,
    refused: Arc<AtomicU64>,
}

impl ServerHandle {
    /// Stops gracefully: takes no more requests, gives those that have not started back to the queue, finishes those that
    /// run (within the drain limit), replies and acknowledges. Returns when that is done.
    ///
    /// # Errors
    ///
    /// Why the server had ended before, or could not finish: see [`Server::start`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops the server at once.
    pub async fn shutdown(mut self) -> Result<(), ServeError> {
        self.stop.send_replace(true);
        self.ended().await
    }

    /// Waits until the server ends of itself: when the connection is closed, or when the broker, after a loss, refuses a queue.
    ///
    /// # Errors
    ///
    /// Why it ended.
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
}

impl ServerHandle {
    /// How many requests no handler saw because of what they are like: arguments that could not be decoded, unknown methods and
    /// content types, replies to where none may go ([`ServerBuilder::reply_policy`]). Each was answered, but for the last kind,
    /// and acknowledged.
    pub fn refused_requests(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for ServerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerHandle")
            .field("connection", &self.connection)
            .finish_non_exhaustive()
    }
}
