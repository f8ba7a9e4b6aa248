//! Dead letters: requests that a server gave up, or that the broker moved out of a request queue. [`DeadLetters`] lists them, sends them to
//! their request queues again, and discards them.
//!
//! [`Connection::dead_letters`] gives the handle:
//!
//! ```
//! # use rpc_core::{Connection, Server, QueueOptions, rpc};
//! # use std::time::Duration;
//! # #[rpc] trait Jobs { #[rpc(oneway)] async fn run(n: u64); }
//! # struct Worker;
//! # impl Jobs for Worker { async fn run(&self, n: u64) {} }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let connection = Connection::open("memory:").await?;
//! # let dispatcher = JobsDispatcher::new(Worker).with_queue("rpc.Jobs.dead");
//! # Server::builder(&connection).service(dispatcher).build().start().await?.shutdown().await?;
//! use rpc_core::dead_letters::Selection;
//!
//! let dead = connection.dead_letters("rpc.Jobs.dead");
//! for letter in dead.list(100).await? {
//!     println!("{} {:?} {:?} {:?}", letter.id, letter.died, letter.reason, letter.method);
//! }
//! let outcome = dead.retry(Selection::All).await?;
//! println!("{} requests run again", outcome.retried.len());
//! # Ok(())
//! # }
//! ```
//!
//! # Counts of deliveries
//!
//! AMQP has no way to look at a message in its queue: each look takes letters and gives them back. On a classic queue, this leaves only the mark
//! that a letter was delivered before. RabbitMQ 4 does not count a letter of a quorum queue that is given back in the way of this module, so no
//! number of looks makes the queue drop a letter for its `x-delivery-limit`. A look whose process dies, or whose future is dropped, may
//! count once. RabbitMQ 3 counts every look, and drops letters only from queues with an `x-delivery-limit`: do not set one for a dead-letter queue
//! there.
//!
//! The order of a quorum queue changes if more than 32 of its letters are given back, or only a part of its letters: those go behind the letters
//! that were given back before.
//!
//! While an operation runs, other programs do not see the letters that it holds: [`list`](DeadLetters::list) holds those that it returns, the others
//! all letters up to the last selected one.
//!
//! # Permissions
//!
//! All operations read the dead-letter queue. [`retry`](DeadLetters::retry) also writes to the exchange `amq.default`, the default exchange. On
//! RabbitMQ 4, the check that a request queue exists needs the permission to read that queue; without it, a letter of a missing queue is taken
//! and put back.
//! A letter names its own request queue, and a retry believes the letter: anyone who may publish to the dead-letter queue can have a message sent to
//! any queue with the operator's permissions. List the letters first.

mod errors;
mod ids;
mod letter;
mod outcome;
mod retry;
mod scan;
mod selection;

use tokio::sync::oneshot;
use tokio::time::Instant;

pub use self::letter::DeadLetter;
pub use self::outcome::{Discarded, KeptLetter, Retried};
use self::retry::Retry;
use self::scan::{STEP, Scan};
pub use self::selection::Selection;
use self::selection::Wanted;
use crate::connection::Connection;
use crate::error::RpcError;
use crate::task;
use crate::transport::ChannelMode;

/// Bytes of letters that are listed at most. The last letter may exceed the limit.
const MAX_LISTED: usize = 32 << 20;

/// Number of letters that are discarded before the broker is asked whether it knows.
const DISCARDED_TOGETHER: usize = 1000;

impl Connection {
    /// Returns a handle to the dead letters in a queue. For a service's queue `rpc.Fib`, this is `rpc.Fib.dead`, unless the server or the queue's
    /// options name another. Does not ask the broker.
    pub fn dead_letters(&self, queue: impl Into<String>) -> DeadLetters {
        DeadLetters {
            connection: self.clone(),
            queue: queue.into(),
        }
    }
}

/// The dead letters in a queue, see [`Connection::dead_letters`]. A cheap handle.
///
/// Several programs may work on a queue at the same time. Each letter is in the hands of one of them, and the others do not find it meanwhile.
/// Letters that arrive during an operation are left for the next one.
///
/// # Errors
///
/// All operations fail with
///
/// - [`ErrorKind::Unroutable`](crate::ErrorKind::Unroutable): the queue does not exist,
/// - [`ErrorKind::PermissionDenied`](crate::ErrorKind::PermissionDenied): the user may not read the queue,
/// - [`ErrorKind::Timeout`](crate::ErrorKind::Timeout): the broker did not answer for 10 seconds, or the connection was down for that time,
/// - [`ErrorKind::Disconnected`](crate::ErrorKind::Disconnected), [`ErrorKind::Closed`](crate::ErrorKind::Closed): the connection was lost, or
///   closed by this program,
/// - [`ErrorKind::Rejected`](crate::ErrorKind::Rejected): the queue is exclusive to another connection, or its node is down.
///
/// An operation that has changed something before its error returns an outcome, with the error in its field `interrupted`.
#[derive(Clone, Debug)]
pub struct DeadLetters {
    connection: Connection,
    queue: String,
}

impl DeadLetters {
    /// Returns the name of the queue.
    pub fn queue(&self) -> &str {
        &self.queue
    }

    /// Lists the oldest letters, at most `limit` of them, and leaves all in the queue. Returns fewer if the letters have more than 32 MiB
    /// together, or after 10 seconds.
    ///
    /// # Errors
    ///
    /// See [`DeadLetters`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives all letters back.
    pub async fn list(&self, limit: usize) -> Result<Vec<DeadLetter>, RpcError> {
        let until = Instant::now() + STEP;
        let (mut letters, mut bytes) = (Vec::new(), 0);
        let mut scan = self.scan(ChannelMode::Plain).await?;
        while letters.len() < limit
            && bytes < MAX_LISTED
            && Instant::now() < until
            && let Some((id, delivery)) = scan.next().await?
        {
            let letter = DeadLetter::new(id, delivery.message);
            bytes += letter.len();
            letters.push(letter);
        }
        self.finish(scan).await?;
        Ok(letters)
    }

    /// Finds a letter by its id, and leaves all in the queue. `None` if no letter has the id.
    ///
    /// # Errors
    ///
    /// See [`DeadLetters`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives all letters back.
    pub async fn find(&self, id: &str) -> Result<Option<DeadLetter>, RpcError> {
        let mut found = None;
        let mut scan = self.scan(ChannelMode::Plain).await?;
        while let Some((other, delivery)) = scan.next().await? {
            if other == id {
                found = Some(DeadLetter::new(other, delivery.message));
                break;
            }
        }
        self.finish(scan).await?;
        Ok(found)
    }

    /// Sends letters to their request queues again, where servers run them as they run replayed requests (see the guide's page on
    /// [delivery](crate::guide::delivery)). Each letter is published and acknowledged in one AMQP transaction: if this program dies or loses its
    /// connection, each letter is in exactly one of the two queues. [`Retried`] lists the letters that were retried, and those that were not.
    ///
    /// A transaction does not protect against the broker's own end: two queues are written independently of each other. If a node dies during a
    /// commit, or a quorum queue elects a leader in this moment, the letters of the commit, at most 32, may be in both queues or in none. They are
    /// `uncertain`, unless the commit was answered just before. The same holds if `quorum_commands_soft_limit`, a setting of RabbitMQ, was set below
    /// its default of 32, and this program dies: letters may be in both queues.
    ///
    /// RabbitMQ does not take a transaction back because a queue refuses a letter. The operation checks that the request queue exists before each
    /// transaction, and sends the first letter to each queue alone. If the queue refuses letters nevertheless, because it is full and rejects
    /// messages, or was deleted at this moment, they are put back into the dead-letter queue. Only a program that dies between the
    /// refusal and this step loses them.
    ///
    /// # Errors
    ///
    /// See [`DeadLetters`]. [`ErrorKind::PermissionDenied`](crate::ErrorKind::PermissionDenied) also if the user may not write to the exchange
    /// `amq.default`.
    ///
    /// # Cancel safety
    ///
    /// After the future was dropped, the transaction that has begun is completed, and no further one begins.
    pub async fn retry(&self, selection: impl Into<Selection>) -> Result<Retried, RpcError> {
        let wanted = Wanted::new(selection.into());
        let scan = self.scan(ChannelMode::Transaction).await?;
        let retry = Retry::new(self.connection.clone(), self.queue.clone(), scan, wanted);
        let (_guard, dropped) = oneshot::channel();
        // In a task of its own, which completes a transaction although the caller stops waiting. Its end is bounded by the time limit of a step.
        let retrying = tokio::spawn(retry.run(dropped));
        retrying
            .await
            .unwrap_or_else(|_| Err(RpcError::runtime_ended()))
    }

    /// Removes letters from the queue, and destroys them.
    ///
    /// # Errors
    ///
    /// See [`DeadLetters`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future keeps the letters that were not discarded yet.
    pub async fn discard(&self, selection: impl Into<Selection>) -> Result<Discarded, RpcError> {
        let mut wanted = Wanted::new(selection.into());
        let mut scan = self.scan(ChannelMode::Plain).await?;
        let mut outcome = Discarded::default();
        let mut ended = Ok(());
        while !wanted.is_done() {
            match scan.next().await {
                Ok(Some((id, delivery))) if wanted.take(&id) => {
                    scan.ack(&mut [delivery.tag]);
                    outcome.uncertain.push(id);
                }
                Ok(Some(_)) => continue,
                Ok(None) => break,
                Err(error) => {
                    ended = Err(error);
                    break;
                }
            }
            if outcome.uncertain.len() >= DISCARDED_TOGETHER {
                let handled = tokio::time::timeout(STEP, scan.channel.acks_handled()).await;
                ended = match handled {
                    Ok(handled) => handled.map_err(|error| errors::not_read(&self.queue, error)),
                    Err(_) => Err(errors::no_answer(&self.queue)),
                };
                if ended.is_err() {
                    break;
                }
                outcome.discarded.append(&mut outcome.uncertain);
            }
        }
        let finished = self.finish(scan).await;
        if finished.is_ok() {
            outcome.discarded.append(&mut outcome.uncertain);
        }
        match ended.and(finished) {
            Ok(()) => outcome.not_found = wanted.not_found(),
            Err(error) if outcome.is_empty() => return Err(error),
            Err(error) => outcome.interrupted = Some(error),
        }
        Ok(outcome)
    }

    async fn scan(&self, mode: ChannelMode) -> Result<Scan, RpcError> {
        if !task::in_runtime() {
            return Err(RpcError::no_runtime());
        }
        Scan::open(&self.connection, &self.queue, mode).await
    }

    async fn finish(&self, scan: Scan) -> Result<(), RpcError> {
        let finished = scan.finish().await;
        finished.map_err(|error| errors::not_read(&self.queue, error))
    }
}
