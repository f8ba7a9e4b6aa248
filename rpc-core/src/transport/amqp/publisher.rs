//! How a channel publishes.
//!
//! lapin queues a message on the first poll and writes in that order, so a message that nothing comes after is queued right where
//! it is published. lapin's queue has no bound: every now and then one goes through the channel's task, which waits until it is
//! written, and only so many may be queued before that.
//!
//! lapin puts acknowledgements before publishes that are still queued, so a reply and its acknowledgement keep their order
//! only if the acknowledgement is queued after the reply was written. Waiting for each write before queueing the next
//! publish would halve the throughput. So replies go through the task: it takes all that have gathered, queues them at once, waits
//! until they are written, then acknowledges, with one acknowledgement for as many as possible (see [`super::settled`]); what
//! arrives meanwhile is the next batch.
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
use tokio::sync::{Semaphore, TryAcquireError, mpsc, oneshot};
use tracing::debug;

use super::cause;
use super::confirms::{ReturnMatcher, Routing};
use super::properties::{short, to_properties};
use super::returns::ReturnChecks;
use super::settled::{Ack, SettledTags};
use crate::transport::{Message, Sending, TransportError};

/// How many messages may wait to be written; further publishers wait.
const MAX_QUEUED: usize = 1024;

/// How many messages are queued in lapin before they are waited for.
const MAX_BATCH: usize = 256;

/// How many confirms may be outstanding.
const MAX_UNCONFIRMED: usize = 1024;

/// How many messages are queued in lapin directly for one that is waited for.
const DIRECT: usize = 64;

/// What the task is asked to do.
#[allow(clippy::large_enum_variant)] // Nearly every one is a `Publish`.
pub(super) enum Outgoing {
    Publish(Publish),
    /// Says when everything before it has been written and acknowledged.
    Flush(oneshot::Sender<()>),
}

/// A message on its way out.
pub(super) struct Publish {
    pub(super) address: Address,
    pub(super) properties: BasicProperties,
    pub(super) body: Bytes,
    pub(super) then: Then,
}

impl Publish {
    pub(super) fn new(
        address: Address,
        message: Message,
        then: Then,
    ) -> Result<Self, TransportError> {
        let (properties, body) = to_properties(message)?;
        Ok(Self {
            address,
            properties,
            body,
            then,
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
    pub(super) fn queue(queue: String, mandatory: bool) -> Result<Self, TransportError> {
        Ok(Self {
            exchange: ShortString::default(),
            routing_key: short("the queue's name", queue)?,
            mandatory,
        })
    }
}

/// What comes after the message was written.
pub(super) enum Then {
    Nothing,
    /// Somebody waits for the broker's answer.
    Confirm(oneshot::Sender<Result<(), TransportError>>),
    /// The delivery with this tag is acknowledged.
    Ack(u64),
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
        task: &'a mpsc::Sender<Outgoing>,
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
        task: &mpsc::Sender<Outgoing>,
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
            place.send(Outgoing::Publish(publish));
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

    /// Queues an acknowledgement. lapin does so on the first poll; when it is written is of no interest.
    pub(super) fn ack(&self, tag: u64) {
        self.queue_ack(Ack {
            tag,
            multiple: false,
        });
        // After that, so that no other acknowledgement stands for this one before it.
        self.settled().add(tag);
    }

    /// Gives a delivery back, in the same way.
    pub(super) fn requeue(&self, tag: u64) {
        let options = BasicNackOptions {
            requeue: true,
            multiple: false,
        };
        if let Some(Err(error)) = self.channel.basic_nack(tag, options).now_or_never() {
            debug!(%error, "a delivery could not be given back"); // The broker takes it back with the channel.
        }
        self.settled().add(tag);
    }

    fn ack_all(&self, tags: &mut [u64]) {
        let acks = self.settled().acks(tags);
        acks.for_each(|ack| self.queue_ack(ack));
    }

    fn queue_ack(&self, ack: Ack) {
        let Ack { tag, multiple } = ack;
        let acknowledging = self.channel.basic_ack(tag, BasicAckOptions { multiple });
        if let Some(Err(error)) = acknowledging.now_or_never() {
            debug!(%error, "a delivery could not be acknowledged"); // The broker will deliver it again.
        }
    }

    fn settled(&self) -> MutexGuard<'_, SettledTags> {
        // Nothing under the lock leaves it half changed.
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn closed() -> TransportError {
    TransportError::lost("the channel was closed")
}

/// Starts the task for a channel without confirms.
pub(super) async fn run(
    line: Arc<Line>,
    outgoing: mpsc::Receiver<Outgoing>,
    returns: mpsc::UnboundedSender<Message>,
) {
    tokio::select! {
        () = write_and_ack(&line, outgoing) => {}
        () = line.returns.run(&line.channel, &returns) => {}
    }
}

async fn write_and_ack(line: &Line, mut outgoing: mpsc::Receiver<Outgoing>) {
    let mut batch = Vec::new();
    let mut delivered = Vec::new();
    let mut flushes = Vec::new();
    while outgoing.recv_many(&mut batch, MAX_BATCH).await > 0 {
        // The first of several that are about to come wakes this task. The others are not to wait until it is written.
        tokio::task::yield_now().await;
        while batch.len() < MAX_BATCH
            && let Ok(next) = outgoing.try_recv()
        {
            batch.push(next);
        }
        let written_with_these = line.taken.swap(0, Ordering::Relaxed);
        match write_all(&line.channel, &mut batch, &mut delivered, &mut flushes).await {
            Ok(()) => line.ack_all(&mut delivered),
            Err(error) => {
                // The channel is gone, which its consumers report to those concerned.
                debug!(%error, "messages could not be published");
                line.places.close();
            }
        }
        line.places.add_permits(written_with_these);
        delivered.clear();
        flushes.drain(..).for_each(flushed);
    }
}

/// Starts the task for a channel with confirms.
pub(super) async fn run_confirmed(channel: Channel, mut outgoing: mpsc::Receiver<Outgoing>) {
    let mut batch = Vec::new();
    let mut matcher = Matcher::new();
    let mut unconfirmed = FuturesUnordered::<BoxFuture<'static, Settled>>::new();
    loop {
        tokio::select! {
            received = outgoing.recv_many(&mut batch, MAX_BATCH), if unconfirmed.len() < MAX_UNCONFIRMED => {
                if received == 0 {
                    return;
                }
                let Batch { publishes, flushes } = Batch::take(&mut batch);
                for Written { id, then, result } in write_each(&channel, publishes).await {
                    let Then::Confirm(waiting) = then else { continue };
                    match result {
                        Ok(confirm) => unconfirmed.push(
                            async move { Settled { id, waiting, confirmation: confirm.await } }.boxed()
                        ),
                        Err(error) => { let _ = waiting.send(Err(TransportError::lost(cause(&error)))); }
                    }
                }
                flushes.into_iter().for_each(flushed);
            }
            Some(first) = unconfirmed.next() => {
                settle(first, &mut matcher);
                while let Some(Some(next)) = unconfirmed.next().now_or_never() {
                    settle(next, &mut matcher);
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

type Matcher = ReturnMatcher<Option<ShortString>, oneshot::Sender<Result<(), TransportError>>>;

/// A confirm that has arrived.
struct Settled {
    id: Option<ShortString>,
    waiting: oneshot::Sender<Result<(), TransportError>>,
    confirmation: lapin::Result<Confirmation>,
}

/// Answers who waits for a refused message; an accepted one may still have been returned.
fn settle(settled: Settled, matcher: &mut Matcher) {
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
        Err(error) => TransportError::lost(cause(&error)),
    };
    let _ = waiting.send(Err(refusal)); // The call may be over.
}

fn returned_id(message: BasicReturnMessage) -> Option<ShortString> {
    message.delivery.properties.correlation_id().clone()
}

/// What has gathered, sorted by kind.
struct Batch {
    publishes: Vec<Publish>,
    flushes: Vec<oneshot::Sender<()>>,
}

impl Batch {
    fn take(gathered: &mut Vec<Outgoing>) -> Self {
        let mut batch = Self {
            publishes: Vec::with_capacity(gathered.len()),
            flushes: Vec::new(),
        };
        for outgoing in gathered.drain(..) {
            match outgoing {
                Outgoing::Publish(publish) => batch.publishes.push(publish),
                Outgoing::Flush(waiting) => batch.flushes.push(waiting),
            }
        }
        batch
    }
}

fn flushed(waiting: oneshot::Sender<()>) {
    let _ = waiting.send(()); // Nobody waits any more.
}

/// A message that lapin has written to the socket, or could not.
struct Written {
    id: Option<ShortString>,
    then: Then,
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

/// Queues a batch in lapin and waits until all of it is written; hands out what is to be acknowledged then.
///
/// lapin queues a message on the first poll and writes in that order, so the last one speaks for all.
async fn write_all(
    channel: &Channel,
    batch: &mut Vec<Outgoing>,
    delivered: &mut Vec<u64>,
    flushes: &mut Vec<oneshot::Sender<()>>,
) -> lapin::Result<()> {
    let last = batch
        .iter()
        .rposition(|outgoing| matches!(outgoing, Outgoing::Publish(_)));
    for (index, outgoing) in batch.drain(..).enumerate() {
        match outgoing {
            Outgoing::Publish(Publish {
                address,
                properties,
                body,
                then,
            }) => {
                if let Then::Ack(tag) = then {
                    delivered.push(tag);
                }
                let written = write(channel, address, properties, &body);
                if Some(index) == last {
                    written.await?;
                } else if let Some(Err(error)) = written.now_or_never() {
                    return Err(error);
                }
            }
            Outgoing::Flush(waiting) => flushes.push(waiting),
        }
    }
    Ok(())
}

/// Queues a batch in lapin and waits until each of it is written and can be confirmed.
async fn write_each(channel: &Channel, publishes: Vec<Publish>) -> Vec<Written> {
    join_all(publishes.into_iter().map(
        async |Publish {
                   address,
                   properties,
                   body,
                   then,
               }| {
            let id = properties.correlation_id().clone();
            let result = write(channel, address, properties, &body).await;
            Written { id, then, result }
        },
    ))
    .await
}

/// Queues for publishing; the receiver goes to [`run`] or [`run_confirmed`].
pub(super) fn queue() -> (mpsc::Sender<Outgoing>, mpsc::Receiver<Outgoing>) {
    mpsc::channel(MAX_QUEUED)
}
