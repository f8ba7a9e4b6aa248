//! The delivery loop of one queue: at most as many handlers as the prefetch allows, each in a task of its own.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::stream::StreamExt;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::builder::ServiceEntry;
use super::dispatch::panicked;
use crate::error::ServeError;
use crate::service;
use crate::transport::{Channel, Deliveries, Delivery, TransportError};
use crate::wire;

/// A queue that is being served.
pub(super) struct Consumption {
    pub(super) entry: ServiceEntry,
    pub(super) consumer: String,
    pub(super) deliveries: Deliveries,
    pub(super) channel: Arc<dyn Channel>,
    pub(super) app_id: Arc<str>,
    pub(super) max_message_size: usize,
}

impl Consumption {
    /// Serves until told to stop, then drains; ends with an error when the deliveries end of themselves.
    pub(super) async fn run(
        mut self,
        mut stop: watch::Receiver<bool>,
        drain_timeout: Duration,
    ) -> Result<(), ServeError> {
        let mut handlers = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                // An error means that the handle was dropped, and this task is about to be.
                _ = stop.wait_for(|stop| *stop) => break,
                Some(_) = handlers.join_next() => {}
                delivery = self.deliveries.next() => match delivery {
                    Some(Ok(delivery)) => {
                        handlers.spawn(self.answer(delivery));
                    }
                    Some(Err(error)) => return Err(ServeError::Disconnected(error.into())),
                    None => return Err(ServeError::Disconnected(
                        TransportError::lost(format!("queue '{}' is no longer delivered from", self.entry.queue)).into(),
                    )),
                },
            }
        }
        self.channel.cancel(&self.consumer).await;
        while let Some(Ok(delivery)) = self.deliveries.next().await {
            self.channel.requeue(delivery.tag);
        }
        let drained = async { while handlers.join_next().await.is_some() {} };
        if tokio::time::timeout(drain_timeout, drained).await.is_err() {
            warn!(
                service = self.entry.service,
                handlers = handlers.len(),
                "handlers did not finish in time"
            );
        }
        Ok(())
    }

    /// Runs the handler for a delivery and sends its answer. Whatever the request is like, it is answered and settled.
    fn answer(&self, delivery: Delivery) -> impl Future<Output = ()> + Send + 'static {
        let Self {
            entry:
                ServiceEntry {
                    service,
                    queue,
                    handler,
                },
            channel,
            app_id,
            max_message_size,
            ..
        } = self;
        let max_message_size = *max_message_size;
        let (service, queue, handler) = (*service, queue.clone(), handler.clone());
        let (channel, app_id) = (channel.clone(), app_id.clone());
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
                wire::check_size("reply", &response.body, max_message_size).map(|()| response)
            });
            if let Err(error) = &answer {
                debug!(service, kind = ?error.kind(), %error, "answering with a fault");
            }
            match reply_to {
                Some(reply_to) => {
                    let reply =
                        wire::message_from_answer(answer, correlation_id, content_type, &app_id);
                    channel.reply(tag, reply_to, reply).await;
                }
                None => channel.ack(tag),
            }
        }
    }
}
