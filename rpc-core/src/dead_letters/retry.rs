//! Sending letters to their request queues, in transactions.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::error;

use super::errors;
use super::ids;
use super::letter;
use super::outcome::{KeptLetter, Retried};
use super::scan::{SETTLED_AT_ONCE, STEP, Scan};
use super::selection::Wanted;
use crate::connection::Connection;
use crate::error::{ErrorKind, RpcError};
use crate::transport::{Channel, ChannelMode, Message, TransportError};
use crate::wire::{self, Death};

/// Most letters of one transaction. With more, a channel that ends after the commit would leave letters in both queues.
const MAX_LETTERS: usize = SETTLED_AT_ONCE;

/// Bytes of letters of one transaction. The last letter may exceed the limit.
const MAX_BYTES: usize = 4 << 20;

/// Most request queues whose sizes of transactions are remembered: any sender may name any number.
const MAX_QUEUES: usize = 1024;

/// One pass that retries letters.
pub(super) struct Retry {
    connection: Connection,
    dead_letter_queue: String,
    scan: Scan,
    wanted: Wanted,
    outcome: Retried,
    /// Number of letters of the next transaction, by request queue. It grows from one: a queue that refuses letters refuses one at first, and
    /// is known to have refused this one.
    sizes: HashMap<String, usize>,
}

/// Letters of one transaction.
#[derive(Default)]
struct Batch {
    request_queue: String,
    letters: Vec<Letter>,
    bytes: usize,
}

struct Letter {
    id: String,
    tag: u64,
    /// The message as it was taken.
    dead: Message,
    /// The message for the request queue.
    retried: Message,
}

impl Retry {
    pub(super) fn new(
        connection: Connection,
        dead_letter_queue: String,
        scan: Scan,
        wanted: Wanted,
    ) -> Self {
        Self {
            connection,
            dead_letter_queue,
            scan,
            wanted,
            outcome: Retried::default(),
            sizes: HashMap::new(),
        }
    }

    /// Retries until the end of the queue, or until the caller's end of the channel is dropped.
    pub(super) async fn run(mut self, dropped: oneshot::Receiver<()>) -> Result<Retried, RpcError> {
        let ended = self.pass(dropped).await;
        let Self {
            scan,
            wanted,
            mut outcome,
            dead_letter_queue,
            ..
        } = self;
        let finished = scan.finish().await;
        let finished = finished.map_err(|error| errors::not_read(&dead_letter_queue, error));
        match ended.and(finished) {
            Ok(()) => outcome.not_found = wanted.not_found(),
            Err(error) if outcome.is_empty() => return Err(error),
            Err(error) => outcome.interrupted = Some(error),
        }
        Ok(outcome)
    }

    async fn pass(&mut self, mut dropped: oneshot::Receiver<()>) -> Result<(), RpcError> {
        let mut batch = Batch::default();
        while !self.wanted.is_done() {
            if let Err(oneshot::error::TryRecvError::Closed) = dropped.try_recv() {
                return Ok(()); // Letters that were not committed are given back.
            }
            let Some((id, delivery)) = self.scan.next().await? else {
                break;
            };
            if !self.wanted.take(&id) {
                continue;
            }
            let dead = delivery.message;
            let (request_queue, retried) = match self.prepared(&dead) {
                Ok(prepared) => prepared,
                Err(reason) => {
                    self.keep(id, &reason);
                    continue;
                }
            };
            if batch.request_queue != request_queue {
                self.commit(std::mem::take(&mut batch)).await?;
                batch.request_queue = request_queue;
            }
            batch.bytes += letter::len(&dead.body, &dead.headers);
            batch.letters.push(Letter {
                id,
                tag: delivery.tag,
                dead,
                retried,
            });
            let size = self.sizes.get(&batch.request_queue).copied();
            if batch.letters.len() >= size.unwrap_or(1) || batch.bytes >= MAX_BYTES {
                self.commit(std::mem::take(&mut batch)).await?;
            }
        }
        self.commit(batch).await
    }

    /// Returns the request queue of a letter and the message for it, or the reason for which the letter cannot be retried.
    fn prepared(&self, dead: &Message) -> Result<(String, Message), String> {
        let death = Death::of(dead);
        let request_queue = death.queue.clone();
        let request_queue = request_queue.ok_or("the message does not name its request queue")?;
        if request_queue == self.dead_letter_queue {
            return Err("the message names the dead-letter queue as its request queue".to_owned());
        }
        let check = |message: &Message| self.scan.channel.check(message);
        let retried = wire::made_to_fit(wire::retried(dead.clone(), &death), check);
        let retried = retried.map_err(|error| error.to_string())?;
        Ok((request_queue, retried))
    }

    fn keep(&mut self, id: String, reason: &str) {
        let reason = reason.to_owned();
        self.outcome.kept.push(KeptLetter { id, reason });
    }

    /// Moves the letters of a batch in one transaction.
    async fn commit(&mut self, batch: Batch) -> Result<(), RpcError> {
        let Batch {
            request_queue,
            letters,
            ..
        } = batch;
        if letters.is_empty() {
            return Ok(());
        }
        let obstacle = match self.connection.queue_status(&request_queue).await {
            Ok(Some(_)) => None,
            Ok(None) => Some(missing(&request_queue)),
            Err(error) if error.kind() == ErrorKind::Rejected => Some(error.to_string()),
            Err(error) if error.kind() == ErrorKind::Encode => Some(error.to_string()),
            // RabbitMQ 4 wants a permission on the queue. Without it, the broker returns the letters of a missing queue.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => None,
            Err(error) => return Err(error),
        };
        if let Some(reason) = obstacle {
            for letter in letters {
                self.keep(letter.id, &reason);
            }
            return Ok(());
        }
        let publishing = publish(&*self.scan.channel, &request_queue, &letters);
        match timeout(STEP, publishing).await {
            // Nothing was committed.
            Err(_) => return Err(errors::no_answer(&request_queue)),
            Ok(Err(error)) => return Err(errors::not_retried(&request_queue, error)),
            Ok(Ok(())) => {}
        }
        // After the publishes, so that a transaction that is cut short has no acknowledgement without its message.
        let mut tags: Vec<_> = letters.iter().map(|letter| letter.tag).collect();
        self.scan.ack(&mut tags);
        let ids = |letters: Vec<Letter>| letters.into_iter().map(|letter| letter.id);
        match timeout(STEP, self.scan.channel.commit()).await {
            Ok(Ok(returned)) => {
                self.grow(&request_queue);
                self.routed(&request_queue, letters, returned).await;
                Ok(())
            }
            Ok(Err(refused @ TransportError::Refused(_))) => {
                let is_known = letters.len() == 1;
                let reason = format!("queue '{}' refused it", request_queue.escape_debug());
                for letter in letters {
                    if !is_known {
                        self.outcome.may_exist_twice.push(letter.id.clone());
                    }
                    self.put_back(letter, &reason).await;
                }
                Err(errors::not_retried(&request_queue, refused))
            }
            // The broker closed the channel before the commit.
            Ok(Err(forbidden @ TransportError::Forbidden(_))) => {
                Err(errors::not_retried(&request_queue, forbidden))
            }
            // The broker closes a channel because of a message that it does not permit. The close may be known only as such.
            Ok(Err(TransportError::Lost(cause))) if self.scan.is_connected().await => {
                let forbidden = TransportError::Forbidden(cause);
                Err(errors::not_retried(&request_queue, forbidden))
            }
            Ok(Err(error)) => {
                self.outcome.uncertain.extend(ids(letters));
                Err(errors::not_retried(&request_queue, error))
            }
            Err(_) => {
                self.outcome.uncertain.extend(ids(letters));
                Err(errors::no_answer(&request_queue))
            }
        }
    }

    /// Lets the next transaction of a queue have twice as many letters.
    fn grow(&mut self, request_queue: &str) {
        if let Some(size) = self.sizes.get_mut(request_queue) {
            *size = (*size * 2).min(MAX_LETTERS);
        } else if self.sizes.len() < MAX_QUEUES {
            self.sizes.insert(request_queue.to_owned(), 2);
        }
    }

    /// Records the letters of a transaction. Those that the broker returned are put back: their queue has just been deleted.
    async fn routed(&mut self, request_queue: &str, letters: Vec<Letter>, returned: Vec<Message>) {
        let mut returned: Vec<_> = returned.iter().map(ids::hash).collect();
        // If contents changed on the way, all letters count as returned: a letter in both queues is better than a lost one.
        let published: Vec<_> = letters.iter().map(|l| ids::hash(&l.retried)).collect();
        let is_known = returned.iter().all(|hash| published.contains(hash));
        for (letter, hash) in letters.into_iter().zip(published) {
            let is_returned = match returned.iter().position(|other| *other == hash) {
                Some(place) => {
                    returned.swap_remove(place);
                    true
                }
                None => !is_known,
            };
            if !is_returned {
                self.outcome.retried.push(letter.id);
                continue;
            }
            if !is_known {
                self.outcome.may_exist_twice.push(letter.id.clone());
            }
            self.put_back(letter, &missing(request_queue)).await;
        }
    }

    /// Puts a letter back that was refused by its request queue, after the broker has taken it out of the dead-letter queue.
    async fn put_back(&mut self, letter: Letter, reason: &str) {
        let Letter { id, dead, .. } = letter;
        let putting_back = async {
            let link = Arc::clone(&self.scan.link);
            let channel = link.open_channel(ChannelMode::Confirm).await?;
            let message =
                wire::made_to_fit(wire::put_back(dead), |message| channel.check(message))?;
            let queue = self.dead_letter_queue.as_str().into();
            channel.publish(queue, message).wait().await?.wait().await
        };
        let put_back = timeout(STEP, putting_back).await;
        match put_back.unwrap_or_else(|_| Err(TransportError::lost("the broker does not answer"))) {
            Ok(()) => self.keep(id, reason),
            Err(error) => {
                error!(
                    id,
                    queue = self.dead_letter_queue,
                    error = ?error.to_string(),
                    "a dead letter that its request queue refused could not be put back: it may be lost"
                );
                self.outcome.uncertain.push(id);
            }
        }
    }
}

async fn publish(
    channel: &dyn Channel,
    request_queue: &str,
    letters: &[Letter],
) -> Result<(), TransportError> {
    for letter in letters {
        let sending = channel.publish(request_queue.into(), letter.retried.clone());
        sending.wait().await?;
    }
    Ok(())
}

fn missing(request_queue: &str) -> String {
    let queue = request_queue.escape_debug();
    format!("its request queue '{queue}' does not exist: start a server of the service")
}
