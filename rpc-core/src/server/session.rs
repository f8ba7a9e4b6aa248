//! The delivery loop of a server: its queues, read through one channel, as long as a link lasts.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{SelectAll, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};

use super::arrival::Arrival;
use super::consumer::{Consumer, ConsumerStream};
use super::instance::Instance;
use super::last_attempts::{Change, LastAttempts};
use super::open_failure::{OpenFailure, Outlook};
use super::outbox::Outbox;
use super::pool::{Pending, Pool};
use super::private_queue::PrivateQueue;
use super::received::{ReceivedRequest, Source};
use super::served::QueueRole;
use super::to_all::CallToAll;
use super::topology;
use crate::batching;
use crate::deadline;
use crate::error::{ServeError, with_causes};
use crate::transport::{Acknowledge, Channel, Delivery, Link, Message, TransportError};
use crate::wire;

/// The pause before a server replaces a channel that the broker closed because of a message that was sent on it.
const REFUSED_PAUSE: Duration = Duration::from_millis(100);

/// The time that a quorum queue has for acknowledgements before their channel is closed. RabbitMQ holds acknowledgements back in the
/// channel while 32 others have not been applied, and forgets them with the channel: the requests would be delivered again, as if the
/// server had died. RabbitMQ does not say when they are applied
/// (<https://github.com/rabbitmq/rabbitmq-server/blob/main/deps/rabbit/src/rabbit_fifo_client.erl>, `unsent_commands`).
const APPLYING: Duration = Duration::from_millis(500);

/// The time for which a stopping server reads on until its prefetch is full.
const FILL_LIMIT: Duration = Duration::from_millis(250);

/// The time for which a stopping server waits for its broker before it turns to its handlers.
const BROKER_LIMIT: Duration = Duration::from_secs(5);

/// The queues of a server, read over one link. A lost link ends the session, and a session on another link follows.
pub(super) struct Session {
    pub(super) link: Arc<dyn Link>,
    /// Channel of all consumers: the reply and the acknowledgement of a delivery go out where the delivery came in.
    pub(super) channel: Arc<dyn Channel>,
    pub(super) outbox: Arc<Outbox>,
    pub(super) deliveries: SelectAll<ConsumerStream>,
    pub(super) last_attempts: LastAttempts,
    /// Set if one of the queues may be a quorum queue.
    pub(super) has_quorum_queue: bool,
    /// Changes when another link takes the place of this one.
    pub(super) handovers: watch::Receiver<()>,
    pub(super) _private_queue: Option<PrivateQueue>,
    /// Takes returned messages of streams.
    pub(super) _returns: AbortOnDropHandle<()>,
}

/// Reason why a session ended.
pub(super) enum SessionEnd {
    Stopped,
    /// The channel was lost, for the reason if it is known.
    Lost(Option<String>),
    /// The server goes on over another link. Running requests end over this link.
    Moved,
}

impl Session {
    /// Declares a queue and reads it through a consumer.
    pub(super) async fn subscribe(
        &mut self,
        instance: &Instance,
        consumer: Consumer,
    ) -> Result<(), OpenFailure> {
        let served = &instance.queues[consumer.queue];
        let (link, options) = (&*self.link, &served.options);
        let queue = served.name_of(consumer.role);
        let opening = async {
            let prefetch = match consumer.role {
                QueueRole::Main => {
                    topology::declare_requests(link, queue, options).await?;
                    instance.options.prefetch
                }
                // One at a time, so that a request on its last attempt is not blamed for another that kills the server.
                QueueRole::Retry => {
                    topology::declare_retries(link, queue, options).await?;
                    1
                }
            };
            let acknowledge = Acknowledge::Each { prefetch };
            let name = consumer.name();
            self.channel.consume(queue, &name, acknowledge).await
        };
        let deliveries = opening.await;
        let deliveries = deliveries.map_err(|error| instance.failure(Some(served), error))?;
        self.deliveries
            .push(ConsumerStream::new(consumer, deliveries));
        Ok(())
    }

    /// Serves until the server is told to stop or the link is lost. A queue that was deleted is declared again.
    pub(super) async fn run(
        &mut self,
        instance: &Arc<Instance>,
        pool: &mut Pool,
        to_all: &mut mpsc::Receiver<CallToAll>,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<SessionEnd, ServeError> {
        let mut stopping = std::pin::pin!(stopped(stop));
        let mut handovers = self.handovers.clone();
        let mut moved = std::pin::pin!(async move {
            if handovers.changed().await.is_err() {
                std::future::pending::<()>().await; // The connection is about to end.
            }
        });
        loop {
            tokio::select! {
                biased;
                () = &mut stopping => {
                    instance.streams.stop();
                    self.give_back(instance, pool).await;
                    return Ok(SessionEnd::Stopped);
                }
                () = pool.progress() => {}
                () = self.last_attempts.due() => {
                    if let Some(end) = self.adjust_last_attempts(instance, pool).await? {
                        return Ok(end);
                    }
                }
                Some((consumer, delivery)) = self.deliveries.next() => match delivery {
                    Ok(delivery) => {
                        let arrival = self.arrival(instance, consumer, delivery);
                        if pool.add(arrival) > 1 {
                            // The replies to this batch are sent before the next batch starts. Otherwise replies gather, and
                            // nothing is on its way meanwhile.
                            tokio::task::yield_now().await;
                        }
                    }
                    Err(error) => {
                        if !self.outbox.is_open() {
                            // The backlog came through the lost channel: the broker delivers it again.
                            pool.take_backlog();
                            if log_refusal(error.as_ref()) {
                                // The broker may refuse the same message again at once.
                                tokio::select! {
                                    () = &mut stopping => {}
                                    () = tokio::time::sleep(REFUSED_PAUSE) => {}
                                }
                            }
                            let reason = error.map(|error| error.to_string());
                            return Ok(SessionEnd::Lost(reason));
                        }
                        let Consumer { queue, number, .. } = consumer;
                        if number > 0 {
                            self.last_attempts.remove(queue, number);
                            continue;
                        }
                        let queue = &*instance.queues[queue].queue;
                        warn!(queue, "the broker cancelled the consumer; consuming again");
                        if let Some(end) = self.resubscribe(instance, pool, consumer).await? {
                            return Ok(end);
                        }
                    }
                },
                // The last branches, so that the checks cost nothing while deliveries come.
                Some(call) = to_all.recv() => {
                    if !pool.add_to_all(self.request_to_all(instance, call)) {
                        instance.count_dropped("a call to all instances");
                    }
                }
                () = &mut moved => {
                    if instance.connection.is_closed() {
                        return Ok(SessionEnd::Lost(None)); // The deliveries would not end by themselves.
                    }
                    self.give_back(instance, pool).await;
                    return Ok(SessionEnd::Moved);
                }
            }
        }
    }

    /// Reads a queue again, or through one more consumer; `Some` if the session has ended instead.
    async fn resubscribe(
        &mut self,
        instance: &Arc<Instance>,
        pool: &mut Pool,
        consumer: Consumer,
    ) -> Result<Option<SessionEnd>, ServeError> {
        match self.subscribe(instance, consumer).await {
            Ok(()) => Ok(None),
            Err(failure) if failure.outlook <= Outlook::AfterLoss => {
                self.give_back(instance, pool).await;
                Ok(Some(SessionEnd::Lost(Some(with_causes(&failure.error)))))
            }
            Err(failure) => Err(failure.error),
        }
    }

    async fn adjust_last_attempts(
        &mut self,
        instance: &Arc<Instance>,
        pool: &mut Pool,
    ) -> Result<Option<SessionEnd>, ServeError> {
        for change in self.last_attempts.take_changes(instance.queues.len()) {
            match change {
                Change::Start { queue, number } => {
                    let consumer = Consumer::of_retries(queue, number);
                    let end = self.resubscribe(instance, pool, consumer).await?;
                    if end.is_some() {
                        return Ok(end);
                    }
                }
                Change::Cancel { queue, number } => {
                    let name = Consumer::of_retries(queue, number).name();
                    self.channel.cancel(&name).await;
                }
            }
        }
        Ok(None)
    }

    /// Turns a delivery into an [`Arrival`].
    fn arrival(
        &mut self,
        instance: &Arc<Instance>,
        consumer: Consumer,
        delivery: Delivery,
    ) -> Arrival {
        let Delivery {
            tag,
            redelivered,
            mut message,
        } = delivery;
        let revived = wire::revive(&mut message);
        let Consumer {
            queue,
            role,
            number,
        } = consumer;
        let default_deadline = default_deadline(instance, &message);
        Arrival {
            source: Source {
                instance: instance.clone(),
                outbox: self.outbox.clone(),
                queue,
                role,
                redelivered,
                revived,
                to_all: false,
                default_deadline,
                _last_attempt: match role {
                    QueueRole::Main => None,
                    QueueRole::Retry => Some(self.last_attempts.begin(queue, number)),
                },
            },
            tag,
            message,
        }
    }

    /// Turns a call to all instances into a request. The queue keeps no such call, so none is delivered again.
    fn request_to_all(&self, instance: &Arc<Instance>, call: CallToAll) -> ReceivedRequest {
        let CallToAll { queue, message } = call;
        let source = Source {
            instance: instance.clone(),
            outbox: self.outbox.clone(),
            queue,
            role: QueueRole::Main,
            redelivered: false,
            revived: false,
            to_all: true,
            default_deadline: default_deadline(instance, &message),
            _last_attempt: None,
        };
        ReceivedRequest::to_all(source, message)
    }

    /// Stops reading, and gives back everything that has not started.
    async fn give_back(&mut self, instance: &Arc<Instance>, pool: &mut Pool) {
        let mut unstarted = pool.take_backlog();
        let giving_back = async {
            let filling = self.fill_up(instance, &mut unstarted);
            // If fewer requests than the prefetch come in that time, it is unlikely that one is on its way.
            tokio::time::timeout(FILL_LIMIT, filling).await.ok();
            let consumers = (0..instance.queues.len()).flat_map(|queue| {
                let firsts = [QueueRole::Main, QueueRole::Retry];
                let firsts = firsts.map(|role| Consumer::first(queue, role));
                let further = self.last_attempts.further(queue);
                let further = further.map(move |number| Consumer::of_retries(queue, number));
                firsts.into_iter().chain(further)
            });
            let channel = &self.channel;
            join_all(consumers.map(async |consumer| channel.cancel(&consumer.name()).await)).await;
            while let Some((consumer, delivery)) = self.deliveries.next().await {
                if let Ok(delivery) = delivery {
                    let arrival = self.arrival(instance, consumer, delivery);
                    unstarted.push_back(Pending::Arrival(arrival));
                }
            }
            join_all(unstarted.into_iter().map(Pending::give_back)).await;
        };
        // If the broker does not answer, it takes back the rest when the channel closes.
        if tokio::time::timeout(BROKER_LIMIT, giving_back)
            .await
            .is_err()
        {
            warn!(
                "requests that had not started could not be given back: the broker does not answer"
            );
        }
    }

    /// Reads on, and starts nothing, until the prefetch of each quorum queue is used up, so that no request is on its way when the
    /// consumer is cancelled. The broker would take back such a request as delivered, and requests of `at_most_once` methods would then
    /// be given up (<https://github.com/rabbitmq/rabbitmq-server/issues/3729>). Classic queues take nothing back.
    async fn fill_up(&mut self, instance: &Arc<Instance>, unstarted: &mut VecDeque<Pending>) {
        let prefetch = usize::from(instance.options.prefetch);
        // The places that are left, for each queue.
        let left = instance.queues.iter().enumerate().map(|(queue, served)| {
            let held = unstarted.iter().filter(|pending| pending.fills(queue));
            match served.may_be_quorum() {
                true => prefetch.saturating_sub(held.count()),
                false => 0,
            }
        });
        let mut left: Vec<usize> = left.collect();
        while left.iter().any(|left| *left > 0)
            && let Some((consumer, delivery)) = self.deliveries.next().await
        {
            let queue = consumer.queue;
            match delivery {
                Ok(delivery) => {
                    let arrival = self.arrival(instance, consumer, delivery);
                    let pending = Pending::Arrival(arrival);
                    if pending.fills(queue) {
                        left[queue] = left[queue].saturating_sub(1);
                    }
                    unstarted.push_back(pending);
                }
                Err(_) if consumer.role == QueueRole::Main => left[queue] = 0,
                Err(_) => {}
            }
        }
    }

    /// Returns `true` once all requests that came through the session have ended.
    pub(super) fn is_done(&self) -> bool {
        Arc::strong_count(&self.outbox) == 1
    }

    /// Ends the session once the broker has every reply.
    pub(super) async fn close(&mut self) {
        let flushing = tokio::time::timeout(BROKER_LIMIT, self.outbox.flush());
        if flushing.await.is_err() {
            warn!("replies could not be sent: the broker does not accept them");
        } else if self.has_quorum_queue {
            tokio::time::sleep(APPLYING).await;
        }
        self.channel.close().await;
    }
}

/// The deadline of a message that may come without one.
fn default_deadline(instance: &Instance, message: &Message) -> Option<Instant> {
    match batching::may_lack_deadline(message) {
        true => instance.options.default_deadline.map(deadline::after),
        false => None,
    }
}

/// Returns `true`, and logs the reason, if the broker closed the channel. The cause is a message that the server published on the channel,
/// such as a reply.
fn log_refusal(error: Option<&TransportError>) -> bool {
    let Some(error) = error else {
        return false;
    };
    let is_refusal = !matches!(error, TransportError::Lost(_));
    let error = error.to_string();
    match is_refusal {
        true => warn!(
            ?error,
            "the broker closed the channel of the server; opening another"
        ),
        false => debug!(?error, "a consumer ended"),
    }
    is_refusal
}

/// Resolves when the server is told to stop.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the handle was dropped, so the task that waits here is about to be dropped as well.
    let _ = stop.wait_for(|stop| *stop).await;
}
