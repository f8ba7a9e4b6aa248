//! Publishing with confirms (<https://www.rabbitmq.com/docs/confirms>).

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::{FuturesUnordered, StreamExt};
use lapin::message::BasicReturnMessage;
use lapin::options::ConfirmSelectOptions;
use lapin::{Channel, Confirmation, PublisherConfirm};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use super::publish::{Publish, write};
use super::return_matcher::{ReturnMatcher, Routing};
use crate::transport::amqp::error::{channel_closed, refused_or_lost};
use crate::transport::channel::{Confirm, Sending};
use crate::transport::error::TransportError;

/// Limit of messages that wait for the task. Further publishers wait.
const MAX_QUEUED: usize = 1024;

/// Limit of messages that the task queues in lapin before it waits until they are written.
const MAX_BATCH: usize = 256;

/// Limit of outstanding confirms.
const MAX_UNCONFIRMED: usize = 1024;

/// A publisher on a channel with confirms. Its task ends with it.
pub(crate) struct ConfirmedPublisher {
    queued: mpsc::Sender<Queued>,
    _task: AbortOnDropHandle<()>,
}

/// A message for the task.
struct Queued {
    publish: Publish,
    outcome: Outcome,
}

/// Sender of the broker's answer to a message.
type Outcome = oneshot::Sender<Result<(), TransportError>>;

impl ConfirmedPublisher {
    /// Turns on confirms.
    pub(crate) async fn start(channel: Channel) -> Result<Self, TransportError> {
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await
            .map_err(refused_or_lost)?;
        let (queued, to_write) = mpsc::channel(MAX_QUEUED);
        Ok(Self {
            queued,
            _task: AbortOnDropHandle::new(tokio::spawn(run(channel, to_write))),
        })
    }

    /// Hands a message to the task; waits while the task has too many.
    pub(crate) fn publish(&self, publish: Publish) -> Sending<'_, Result<Confirm, TransportError>> {
        let (outcome, answer) = oneshot::channel();
        let confirm = Confirm(Some(answer));
        match self.queued.try_reserve() {
            Ok(place) => {
                place.send(Queued { publish, outcome });
                Sending::Done(Ok(confirm))
            }
            Err(TrySendError::Full(())) => {
                let sending = self.queued.send(Queued { publish, outcome });
                Sending::Pending(
                    async move {
                        sending.await.map_err(|_| channel_closed())?;
                        Ok(confirm)
                    }
                    .boxed(),
                )
            }
            Err(TrySendError::Closed(())) => Sending::Done(Err(channel_closed())),
        }
    }
}

/// The task of a publisher.
async fn run(channel: Channel, mut queued: mpsc::Receiver<Queued>) {
    let mut batch = Vec::new();
    let mut last_id = 0;
    let mut refusal = None;
    let mut matcher = Matcher::new();
    let mut unconfirmed = FuturesUnordered::<BoxFuture<'static, Confirmed>>::new();
    loop {
        tokio::select! {
            received = queued.recv_many(&mut batch, MAX_BATCH), if unconfirmed.len() < MAX_UNCONFIRMED => {
                if received == 0 {
                    return;
                }
                for Written { id, outcome, result } in write_each(&channel, batch.drain(..), &mut last_id).await {
                    match result {
                        Ok(confirm) => unconfirmed.push(
                            async move { Confirmed { id, outcome, confirmation: confirm.await } }.boxed()
                        ),
                        Err(error) => { let _ = outcome.send(Err(explained(error, &mut refusal))); }
                    }
                }
            }
            Some(first) = unconfirmed.next() => {
                take_confirm(first, &mut matcher, &mut refusal);
                while let Some(Some(next)) = unconfirmed.next().now_or_never() {
                    take_confirm(next, &mut matcher, &mut refusal);
                }
                matcher.decide(!unconfirmed.is_empty(), |outcome, routing| {
                    let answer = match routing {
                        Routing::Routed => Ok(()),
                        Routing::Returned => Err(TransportError::Unroutable),
                    };
                    let _ = outcome.send(answer); // The call may be over.
                });
            }
        }
    }
}

/// Matches by the ids that [`write_each`] gives to messages. `None` stands for a returned message without such an id, which matches
/// no other.
type Matcher = ReturnMatcher<Option<u64>, Outcome>;

/// The error of a message that the broker did not take. lapin names the broker's reason only to messages whose confirm is
/// outstanding when the channel is closed; later messages get the same reason here.
fn explained(error: lapin::Error, refusal: &mut Option<TransportError>) -> TransportError {
    match refused_or_lost(error) {
        error @ TransportError::Lost(_) => refusal.clone().unwrap_or(error),
        error => refusal.insert(error).clone(),
    }
}

/// A confirm that has arrived.
struct Confirmed {
    id: Option<u64>,
    outcome: Outcome,
    confirmation: lapin::Result<Confirmation>,
}

/// Sends the outcome of a refused message. An accepted one may still have been returned.
fn take_confirm(confirmed: Confirmed, matcher: &mut Matcher, refusal: &mut Option<TransportError>) {
    let Confirmed {
        id,
        outcome,
        confirmation,
    } = confirmed;
    let refusal = match confirmation {
        Ok(Confirmation::Ack(attached)) => {
            return matcher.accepted(id, outcome, attached.map(returned_id));
        }
        Ok(Confirmation::NotRequested) => return matcher.accepted(id, outcome, None),
        Ok(Confirmation::Nack(attached)) => {
            matcher.attached(attached.map(returned_id));
            TransportError::Rejected
        }
        Err(error) => explained(error, refusal),
    };
    let _ = outcome.send(Err(refusal)); // The call may be over.
}

fn returned_id(message: BasicReturnMessage) -> Option<u64> {
    let id = message.delivery.properties.message_id().as_ref()?;
    id.as_str().parse().ok()
}

/// A message that lapin has written to the socket, or could not write.
struct Written {
    id: Option<u64>,
    outcome: Outcome,
    result: lapin::Result<PublisherConfirm>,
}

/// Queues a batch in lapin and waits until each message is written and can be confirmed. Each gets an id of its own, by which it is
/// recognised if it is returned: correlation ids belong to callers, and several messages may have the same one, or none.
async fn write_each(
    channel: &Channel,
    batch: impl Iterator<Item = Queued>,
    last_id: &mut u64,
) -> Vec<Written> {
    join_all(batch.map(|Queued { publish, outcome }| {
        let Publish {
            address,
            properties,
            body,
        } = publish;
        *last_id += 1;
        let id = *last_id;
        let properties = properties.with_message_id(id.to_string().into());
        async move {
            let result = write(channel, address, properties, &body).await;
            Written {
                id: Some(id),
                outcome,
                result,
            }
        }
    }))
    .await
}
