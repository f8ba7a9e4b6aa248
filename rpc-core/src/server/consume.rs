//! The delivery loop of a server: its queues, read through one channel, and a task for each request.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::stream::{self, BoxStream, SelectAll, StreamExt};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use super::builder::ServiceEntry;
use super::dispatch::panicked;
use crate::backoff::pauses;
use crate::connection::Connection;
use crate::error::ServeError;
use crate::service;
use crate::transport::{
    Acknowledge, Channel, ChannelMode, Deliveries, Delivery, Link, QueueKind, TransportError,
};
use crate::wire;

/// The pauses before a server that lost its channel asks for another.
const MIN_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// What a server does for as long as it runs, whatever happens to its connection.
pub(super) struct Serving {
    pub(super) connection: Connection,
    pub(super) services: Vec<ServiceEntry>,
    pub(super) prefetch: u16,
}

/// The queues being read over one link. A lost link ends it, and another takes its place.
pub(super) struct Session {
    link: Arc<dyn Link>,
    channel: Arc<dyn Channel>,
    arrivals: SelectAll<Arrivals>,
}

/// What arrives for a service, which the number tells. The last one is `None`: the consumer was cancelled, by either side,
/// or went with its channel.
type Arrivals = BoxStream<'static, (usize, Option<Delivery>)>;

/// Why a session ended.
pub(super) enum Ended {
    Stopped,
    Lost,
}

impl Serving {
    /// Declares the queues and reads them, as soon as there is a link.
    pub(super) async fn open(&self) -> Result<Session, ServeError> {
        let link = self.connection.link().await.ok_or(ServeError::Closed)?;
        let lost = |error: TransportError| self.lost(error);
        // One channel for all queues: the reply and the acknowledgement of a delivery go out where it came in.
        let channel = link.open_channel(ChannelMode::Plain).await.map_err(lost)?;
        let mut session = Session {
            link,
            channel,
            arrivals: SelectAll::new(),
        };
        for index in 0..self.services.len() {
            self.subscribe(&mut session, index).await?;
        }
        Ok(session)
    }

    /// Opens another session after a loss, as soon as that succeeds; `None` when told to stop before.
    pub(super) async fn reopen(
        &self,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<Option<Session>, ServeError> {
        let reopening = async {
            // A link that is not known to be lost yet gives no channels.
            for pause in pauses(MIN_PAUSE, MAX_PAUSE) {
                match self.open().await {
                    Err(ServeError::Disconnected(error)) => debug!(%error, "lost again"),
                    outcome => return outcome.map(Some),
                }
                tokio::time::sleep(pause).await;
            }
            Ok(None)
        };
        tokio::select! {
            () = stopped(stop) => Ok(None),
            reopened = reopening => reopened,
        }
    }

    async fn subscribe(&self, session: &mut Session, index: usize) -> Result<(), ServeError> {
        let ServiceEntry { service, queue, .. } = &self.services[index];
        let deliveries = self
            .try_subscribe(
                &*session.link,
                &*session.channel,
                queue,
                &format!("rpc-{index}"),
            )
            .await
            .map_err(|error| match error {
                TransportError::Lost(_) => self.lost(error),
                error => ServeError::QueueRefused {
                    queue: queue.to_string(),
                    source: error.into(),
                },
            })?;
        info!(
            service,
            queue = &**queue,
            prefetch = self.prefetch,
            "serving"
        );
        session.arrivals.push(arrivals(index, deliveries));
        Ok(())
    }

    async fn try_subscribe(
        &self,
        link: &dyn Link,
        channel: &dyn Channel,
        queue: &str,
        consumer: &str,
    ) -> Result<Deliveries, TransportError> {
        // A refusal closes the channel that it happens on, so not on the one that others already use.
        let declaring = link.open_channel(ChannelMode::Plain).await?;
        declaring.declare_queue(queue, QueueKind::Durable).await?;
        let acknowledge = Acknowledge::Each {
            prefetch: self.prefetch,
        };
        channel.consume(queue, consumer, acknowledge).await
    }

    fn lost(&self, error: TransportError) -> ServeError {
        if self.connection.is_closed() {
            ServeError::Closed
        } else {
            ServeError::Disconnected(error.into())
        }
    }

    /// Serves until told to stop or until the link is lost. A queue that was deleted is declared anew.
    pub(super) async fn run(
        &self,
        session: &mut Session,
        handlers: &mut JoinSet<()>,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<Ended, ServeError> {
        loop {
            tokio::select! {
                biased;
                () = stopped(stop) => {
                    session.give_back(self.services.len()).await;
                    return Ok(Ended::Stopped);
                }
                Some(_) = handlers.join_next() => {}
                Some((index, arrival)) = session.arrivals.next() => match arrival {
                    Some(delivery) => {
                        handlers.spawn(self.answer(index, session.channel.clone(), delivery));
                    }
                    None => {
                        if !session.channel.is_open() {
                            return Ok(Ended::Lost);
                        }
                        let queue = &*self.services[index].queue;
                        warn!(queue, "the broker cancelled the consumer; consuming again");
                        match self.subscribe(session, index).await {
                            Err(ServeError::Disconnected(_)) => return Ok(Ended::Lost),
                            outcome => outcome?,
                        }
                    }
                },
            }
        }
    }

    /// Runs the handler for a delivery and sends its answer. Whatever the request is like, it is answered and settled.
    fn answer(
        &self,
        index: usize,
        channel: Arc<dyn Channel>,
        delivery: Delivery,
    ) -> impl Future<Output = ()> + Send + 'static {
        let ServiceEntry {
            service,
            queue,
            handler,
        } = &self.services[index];
        let (service, queue, handler) = (*service, queue.clone(), handler.clone());
        let connection = self.connection.clone();
        async move {
            let Delivery {
                tag,
                redelivered,
                message,
            } = delivery;
            let reply_to = message.reply_to.clone();
            let correlation_id = message.correlation_id.clone();
            let content_type = message.content_type.clone();
            let answer = match wire::request_from_message(service, &queue, message, redelivered) {
                // The dispatcher catches what handlers do; this is for the layers around it.
                Ok(request) => AssertUnwindSafe(service::call(handler, request))
                    .catch_unwind()
                    .await
                    .unwrap_or_else(|_| Err(panicked())),
                Err(refusal) => Err(refusal),
            };
            let answer = answer.and_then(|response| {
                wire::check_size("reply", &response.body, connection.max_message_size())
                    .map(|()| response)
            });
            if let Err(error) = &answer {
                debug!(service, kind = ?error.kind(), %error, "answering with a fault");
            }
            match reply_to {
                Some(reply_to) => {
                    let reply = wire::message_from_answer(
                        answer,
                        correlation_id,
                        content_type,
                        redelivered,
                        connection.name(),
                    );
                    channel.reply(tag, reply_to, reply).await;
                }
                None => channel.ack(tag),
            }
        }
    }
}

impl Session {
    /// Stops reading, and gives what has not started back to the queues.
    async fn give_back(&mut self, consumers: usize) {
        for index in 0..consumers {
            self.channel.cancel(&format!("rpc-{index}")).await;
        }
        while let Some((_, arrival)) = self.arrivals.next().await {
            if let Some(delivery) = arrival {
                self.channel.requeue(delivery.tag);
            }
        }
    }

    /// Ends it once the broker has every reply.
    pub(super) async fn close(&mut self) {
        self.channel.close().await;
    }
}

/// Resolves when the server is told to stop.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the handle was dropped, and the task that waits here is about to be.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// The deliveries for a service, and that there are no more.
fn arrivals(index: usize, deliveries: Deliveries) -> Arrivals {
    deliveries
        .scan((), |(), delivery| {
            std::future::ready(match delivery {
                Ok(delivery) => Some(delivery),
                Err(error) => {
                    debug!(%error, "a consumer ended");
                    None
                }
            })
        })
        .map(Some)
        .chain(stream::once(std::future::ready(None)))
        .map(move |arrival| (index, arrival))
        .boxed()
}
