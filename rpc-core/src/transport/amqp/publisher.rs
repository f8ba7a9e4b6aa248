//! How a channel publishes.
//!
//! lapin queues a message on the first poll and writes in that order, so a message that nothing comes after is queued right where
//! it is published. lapin's queue has no bound: every now and then one goes through the channel's task, which waits until it is
//! written, and only so many may be queued before that.
//!
//! lapin puts acknowledgements before publishes that are still queued, so a reply and its acknowledgement keep their order
//! only if the acknowledgement is queued after the reply was written. Waiting for each write before queueing the next
//! publish would halve the throughput. So replies come many at a time ([`Line::write_all`]), and are acknowledged with one
//! acknowledgement for as many as possible (see [`super::settled`]).
//!
//! Returned messages need care too, see [`super::returns`]. With confirms they come attached to confirms, mostly of others; see
//! [`super::confirms`].

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::{FuturesUnordered, StreamExt};
use lapin::message::BasicReturnMessage;
use lapin::options::{BasicAckOptions, BasicNackOptions, BasicPublishOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel};
use lapin::{Confirmation, PublisherConfirm};
use smol_str::SmolStr;
use tokio::sync::{Semaphore, TryAcquireError, mpsc, oneshot};
use tracing::debug;

use super::confirms::{ReturnMatcher, Routing};
use super::properties::{short, to_properties};
use super::returns::ReturnChecks;
use super::settled::{Ack, SettledTags};
use super::{cause, refused_or_lost};
use crate::transport::{Message, Sending, TransportError};

/// How many messages may wait to be written; further publishers wait.
const MAX_QUEUED: usize = 1024;

/// How many messages are queued in lapin before they are waited for.
const MAX_BATCH: usize = 256;

/// How many confirms may be outstanding.
const MAX_UNCONFIRMED: usize = 1024;

/// How many messages are queued in lapin directly for one that is waited for.
const DIRECT: usize = 64;

/// A message on its way out.
pub(super) struct Publish {
    pub(super) address: Address,
    pub(super) properties: BasicProperties,
    pub(super) body: Bytes,
    /// Somebody who waits for the broker's answer.
    pub(super) confirm: Option<Waiting>,
}

/// Waits for the broker's answer to a message.
pub(super) type Waiting = oneshot::Sender<Result<(), TransportError>>;

impl Publish {
    pub(super) fn new(
        address: Address,
        message: Message,
        confirm: Option<Waiting>,
    ) -> Result<Self, TransportError> {
        let (properties, body) = to_properties(message)?;
        Ok(Self {
            address,
            properties,
            body,
            confirm,
        })
    }
}

/// Where a message goes.
pub(super) struct Address {
    pub(super) exchange: ShortString,
    pub(super) routing_key: ShortString,
    /// Whether it comes back if it cannot be routed.
    pub(super) mandatory: bool,
}

impl Address {
    /// Through the default exchange, which routes by the queue's name.
    pub(super) fn queue(queue: SmolStr, mandatory: bool) -> Result<Self, TransportError> {
        Ok(Self {
            exchange: ShortString::default(),
            routing_key: short("the queue's name", queue)?,
            mandatory,
        })
    }
}

/// What a channel and its task share.
pub(super) struct Line {
    pub(super) channel: Channel,
    /// One for each message that may be queued in lapin directly and unwritten.
    places: Semaphore,
    /// How many of these are taken by messages that are before whatever the task takes next.
    taken: AtomicUsize,
    returns: ReturnChecks,
    settled: Mutex<SettledTags>,
}

impl Line {
    pub(super) fn new(channel: Channel) -> Self {
        Self {
            channel,
            places: Semaphore::new(MAX_QUEUED),
            taken: AtomicUsize::new(0),
            returns: ReturnChecks::default(),
            settled: Mutex::default(),
        }
    }

    /// Publishes a message that nothing comes after, or has the task do that; waits while too many are unwritten.
    pub(super) fn publish<'a>(
        &'a self,
        task: &'a mpsc::Sender<Publish>,
        publish: Publish,
    ) -> Sending<'a, Result<(), TransportError>> {
        match self.places.try_acquire() {
            Ok(place) => {
                place.forget();
                Sending::Done(self.publish_placed(task, publish))
            }
            Err(TryAcquireError::Closed) => Sending::Done(Err(closed())),
            Err(TryAcquireError::NoPermits) => Sending::Waiting(
                async move {
                    self.places.acquire().await.map_err(|_| closed())?.forget();
                    self.publish_placed(task, publish)
                }
                .boxed(),
            ),
        }
    }

    fn publish_placed(
        &self,
        task: &mpsc::Sender<Publish>,
        publish: Publish,
    ) -> Result<(), TransportError> {
        if publish.address.mandatory {
            self.returns.published();
        }
        // With the task's queue full, it will soon give places back in any case.
        if self.taken.load(Ordering::Relaxed) >= DIRECT
            && let Ok(place) = task.try_reserve()
        {
            self.taken.fetch_add(1, Ordering::Relaxed);
            place.send(publish);
            return Ok(());
        }
        let Publish {
            address,
            properties,
            body,
            ..
        } = publish;
        let written = write(&self.channel, address, properties, &body);
        if let Some(Err(error)) = written.now_or_never() {
            return Err(TransportError::lost(cause(&error)));
        }
        self.taken.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Queues messages in lapin and waits until all of them are written.
    pub(super) async fn write_all(&self, publishes: &mut Vec<Publish>) -> lapin::Result<()> {
        // Written in their order, so the last one speaks for all.
        let Some(last) = publishes.pop() else {
            return Ok(());
        };
        for publish in publishes.drain(..) {
            let written = write(
                &self.channel,
                publish.address,
                publish.properties,
                &publish.body,
            );
            if let Some(Err(error)) = written.now_or_never() {
                return Err(error);
            }
        }
        write(&self.channel, last.address, last.properties, &last.body).await?;
        Ok(())
    }

    /// Queues acknowledgements. lapin does so on the first poll; when they are written is of no interest.
    pub(super) fn ack(&self, tags: &mut [u64]) {
        // Locked until they are queued: no other acknowledgement may stand for one of these before it.
        let mut settled = self.settled();
        for Ack { tag, multiple } in settled.acks(tags) {
            let acknowledging = self.channel.basic_ack(tag, BasicAckOptions { multiple });
            if let Some(Err(error)) = acknowledging.now_or_never() {
                debug!(%error, "a delivery could not be acknowledged"); // The broker will deliver it again.
            }
        }
    }

    /// Gives a delivery back, in the same way.
    pub(super) fn requeue(&self, tag: u64) {
        let options = BasicNackOptions {
            requeue: true,
            multiple: false,
        };
        let mut settled = self.settled();
        settled.add(tag);
        if let Some(Err(error)) = self.channel.basic_nack(tag, options).now_or_never() {
            debug!(%error, "a delivery could not be given back"); // The broker takes it back with the channel.
        }
    }

    fn settled(&self) -> MutexGuard<'_, SettledTags> {
        // Nothing under the lock leaves it half changed.
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn closed() -> TransportError {
    TransportError::lost("the channel was closed")
}

/// The task of a channel without confirms.
pub(super) async fn run(
    line: Arc<Line>,
    queued: mpsc::Receiver<Publish>,
    returns: mpsc::UnboundedSender<Message>,
) {
    tokio::select! {
        () = keep_pace(&line, queued) => {}
        () = line.returns.run(&line.channel, &returns) => {}
    }
}

/// Gives the places back of what was queued in lapin, once it is written.
async fn keep_pace(line: &Line, mut queued: mpsc::Receiver<Publish>) {
    let mut batch = Vec::new();
    while queued.recv_many(&mut batch, MAX_BATCH).await > 0 {
        let written_with_these = line.taken.swap(0, Ordering::Relaxed);
        if let Err(error) = line.write_all(&mut batch).await {
            // The channel is gone, which its consumers report to those concerned.
            debug!(%error, "messages could not be published");
            line.places.close();
        }
        line.places.add_permits(written_with_these);
    }
}

/// The task of a channel with confirms.
pub(super) async fn run_confirmed(channel: Channel, mut queued: mpsc::Receiver<Publish>) {
    let mut batch = Vec::new();
    let mut last_id = 0;
    let mut refusal = None;
    let mut matcher = Matcher::new();
    let mut unconfirmed = FuturesUnordered::<BoxFuture<'static, Settled>>::new();
    loop {
        tokio::select! {
            received = queued.recv_many(&mut batch, MAX_BATCH), if unconfirmed.len() < MAX_UNCONFIRMED => {
                if received == 0 {
                    return;
                }
                for Written { id, waiting, result } in write_each(&channel, batch.drain(..), &mut last_id).await {
                    let Some(waiting) = waiting else { continue };
                    match result {
                        Ok(confirm) => unconfirmed.push(
                            async move { Settled { id, waiting, confirmation: confirm.await } }.boxed()
                        ),
                        Err(error) => { let _ = waiting.send(Err(explained(error, &mut refusal))); }
                    }
                }
            }
            Some(first) = unconfirmed.next() => {
                settle(first, &mut matcher, &mut refusal);
                while let Some(Some(next)) = unconfirmed.next().now_or_never() {
                    settle(next, &mut matcher, &mut refusal);
                }
                matcher.decide(!unconfirmed.is_empty(), |waiting, routing| {
                    let answer = match routing {
                        Routing::Routed => Ok(()),
                        Routing::Returned => Err(TransportError::Unroutable),
                    };
                    let _ = waiting.send(answer); // The call may be over.
                });
            }
        }
    }
}

/// Matches by the ids that [`write_each`] gives to messages. A returned message without such an id is none of them.
type Matcher = ReturnMatcher<Option<u64>, Waiting>;

/// The error of a message that the broker did not take. lapin names the broker's reason only to those whose confirm is outstanding
/// when the channel is closed; those after them are told the same.
fn explained(error: lapin::Error, refusal: &mut Option<TransportError>) -> TransportError {
    match refused_or_lost(error) {
        error @ TransportError::Lost(_) => refusal.clone().unwrap_or(error),
        error => refusal.insert(error).clone(),
    }
}

/// A confirm that has arrived.
struct Settled {
    id: Option<u64>,
    waiting: Waiting,
    confirmation: lapin::Result<Confirmation>,
}

/// Answers who waits for a refused message; an accepted one may still have been returned.
fn settle(settled: Settled, matcher: &mut Matcher, refusal: &mut Option<TransportError>) {
    let Settled {
        id,
        waiting,
        confirmation,
    } = settled;
    let refusal = match confirmation {
        Ok(Confirmation::Ack(attached)) => {
            return matcher.accepted(id, waiting, attached.map(returned_id));
        }
        Ok(Confirmation::NotRequested) => return matcher.accepted(id, waiting, None),
        Ok(Confirmation::Nack(attached)) => {
            matcher.attached(attached.map(returned_id));
            TransportError::Rejected
        }
        Err(error) => explained(error, refusal),
    };
    let _ = waiting.send(Err(refusal)); // The call may be over.
}

fn returned_id(message: BasicReturnMessage) -> Option<u64> {
    let id = message.delivery.properties.message_id().as_ref()?;
    id.as_str().parse().ok()
}

/// A message that lapin has written to the socket, or could not.
struct Written {
    id: Option<u64>,
    waiting: Option<Waiting>,
    result: lapin::Result<PublisherConfirm>,
}

/// Queues a message in lapin on the first poll; resolves when it is written.
fn write<'a>(
    channel: &'a Channel,
    address: Address,
    properties: BasicProperties,
    body: &'a [u8],
) -> impl Future<Output = lapin::Result<PublisherConfirm>> + use<'a> {
    let options = BasicPublishOptions {
        mandatory: address.mandatory,
        immediate: false,
    };
    channel.basic_publish(
        address.exchange,
        address.routing_key,
        options,
        body,
        properties,
    )
}

/// Queues a batch in lapin and waits until each of it is written and can be confirmed. Each has an id of its own, by which it is
/// recognised if it is returned: correlation ids are others', and several messages may have the same one, or none.
async fn write_each(
    channel: &Channel,
    publishes: impl Iterator<Item = Publish>,
    last_id: &mut u64,
) -> Vec<Written> {
    join_all(publishes.map(|publish| {
        let Publish {
            address,
            properties,
            body,
            confirm: waiting,
        } = publish;
        *last_id += 1;
        let id = *last_id;
        let properties = properties.with_message_id(id.to_string().into());
        async move {
            let result = write(channel, address, properties, &body).await;
            Written {
                id: Some(id),
                waiting,
                result,
            }
        }
    }))
    .await
}

/// Queues for publishing; the receiver goes to [`run`] or [`run_confirmed`].
pub(super) fn queue() -> (mpsc::Sender<Publish>, mpsc::Receiver<Publish>) {
    mpsc::channel(MAX_QUEUED)
}
