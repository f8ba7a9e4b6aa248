//! The task through which everything that a channel publishes goes.
//!
//! lapin puts acknowledgements before publishes that are still queued, so a reply and its acknowledgement keep their order
//! only if the acknowledgement is queued after the reply was written. Waiting for each write before queueing the next
//! publish would halve the throughput. So this task takes all that has gathered, queues it at once, waits until it is
//! written, then acknowledges; what arrives meanwhile is the next batch. The queue before it is bounded, which is the
//! backpressure that lapin does not have.
//!
//! Returned messages need care too. Without confirms lapin collects them silently, to be asked for: the task asks after a
//! publish, ever more rarely. With confirms they come attached to confirms, mostly of others; see [`super::confirms`].

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::{FuturesUnordered, StreamExt};
use lapin::message::BasicReturnMessage;
use lapin::options::{BasicAckOptions, BasicPublishOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel};
use lapin::{Confirmation, PublisherConfirm};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::debug;

use super::cause;
use super::confirms::{ReturnMatcher, Routing};
use super::properties::{short, to_message, to_properties};
use crate::transport::{Message, TransportError};

/// How many messages may wait to be written; further publishers wait.
const MAX_QUEUED: usize = 1024;

/// How many messages are queued in lapin before they are waited for.
const MAX_BATCH: usize = 256;

/// How many confirms may be outstanding.
const MAX_UNCONFIRMED: usize = 1024;

/// How soon after a publish the task first asks for returned messages.
const FIRST_CHECK: Duration = Duration::from_millis(1);

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

/// Starts the task for a channel without confirms.
pub(super) async fn run(
    channel: Channel,
    mut outgoing: mpsc::Receiver<Outgoing>,
    returns: mpsc::UnboundedSender<Message>,
) {
    let mut batch = Vec::new();
    let mut checks = ReturnChecks::default();
    loop {
        tokio::select! {
            received = outgoing.recv_many(&mut batch, MAX_BATCH) => {
                if received == 0 {
                    return;
                }
                let Batch { publishes, flushes } = Batch::take(&mut batch);
                checks.published(&publishes);
                match write_all(&channel, publishes).await {
                    Ok(delivered) => delivered.into_iter().for_each(|tag| ack(&channel, tag)),
                    // The channel is gone, which its consumers report to those concerned.
                    Err(error) => debug!(%error, "messages could not be published"),
                }
                flushes.into_iter().for_each(flushed);
            }
            () = checks.due() => {
                // Resolves at once: there are no confirms to wait for.
                for returned in channel.wait_for_confirms().await.unwrap_or_default() {
                    let _ = returns.send(returned_message(returned)); // Nobody listens: nobody waits.
                }
            }
        }
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
                for Written { id, then, result } in write(&channel, publishes).await {
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

/// Queues a batch in lapin and waits until all of it is written; hands out what is to be acknowledged then.
///
/// lapin queues a message on the first poll and writes in that order, so the last one speaks for all.
async fn write_all(channel: &Channel, publishes: Vec<Publish>) -> lapin::Result<Vec<u64>> {
    let mut delivered = Vec::with_capacity(publishes.len());
    let mut publishes = publishes.into_iter().peekable();
    while let Some(Publish {
        address,
        properties,
        body,
        then,
    }) = publishes.next()
    {
        if let Then::Ack(tag) = then {
            delivered.push(tag);
        }
        let written = channel.basic_publish(
            address.exchange,
            address.routing_key,
            BasicPublishOptions {
                mandatory: address.mandatory,
                immediate: false,
            },
            &body,
            properties,
        );
        if publishes.peek().is_none() {
            written.await?;
        } else if let Some(Err(error)) = written.now_or_never() {
            return Err(error);
        }
    }
    Ok(delivered)
}

/// Queues a batch in lapin and waits until each of it is written and can be confirmed.
async fn write(channel: &Channel, publishes: Vec<Publish>) -> Vec<Written> {
    join_all(publishes.into_iter().map(
        async |Publish {
                   address,
                   properties,
                   body,
                   then,
               }| {
            let options = BasicPublishOptions {
                mandatory: address.mandatory,
                immediate: false,
            };
            let id = properties.correlation_id().clone();
            let result = channel
                .basic_publish(
                    address.exchange,
                    address.routing_key,
                    options,
                    &body,
                    properties,
                )
                .await;
            Written { id, then, result }
        },
    ))
    .await
}

/// Queues an acknowledgement. lapin does so on the first poll; when it is written is of no interest.
pub(super) fn ack(channel: &Channel, tag: u64) {
    if let Some(Err(error)) = channel
        .basic_ack(tag, BasicAckOptions::default())
        .now_or_never()
    {
        debug!(%error, "a delivery could not be acknowledged"); // The broker will deliver it again.
    }
}

fn returned_message(returned: BasicReturnMessage) -> Message {
    let delivery = returned.delivery;
    to_message(&delivery.properties, delivery.data)
}

/// Queues for publishing; the receiver goes to [`run`] or [`run_confirmed`].
pub(super) fn queue() -> (mpsc::Sender<Outgoing>, mpsc::Receiver<Outgoing>) {
    mpsc::channel(MAX_QUEUED)
}

/// When to ask lapin for returned messages: the pauses grow with the time since the last request, so that a return is
/// noticed after at most a quarter more time than it took, and an idle channel is left alone.
#[derive(Default)]
struct ReturnChecks {
    last_publish: Option<Instant>,
    next: Option<Instant>,
}

impl ReturnChecks {
    fn published(&mut self, batch: &[Publish]) {
        if batch.iter().any(|message| message.address.mandatory) {
            let now = Instant::now();
            self.last_publish = Some(now);
            let soon = now + FIRST_CHECK;
            self.next = Some(self.next.map_or(soon, |next| next.min(soon)));
        }
    }

    /// Resolves when it is time to ask.
    async fn due(&mut self) {
        let (Some(last_publish), Some(next)) = (self.last_publish, self.next) else {
            return std::future::pending().await;
        };
        tokio::time::sleep_until(next).await;
        let now = Instant::now();
        self.next = Some(now + ((now - last_publish) / 4).max(FIRST_CHECK));
    }
}
