//! Publishing without confirms.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;
use lapin::Channel;
use tokio::sync::{Semaphore, TryAcquireError, mpsc};
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use super::publish::{Publish, write, write_all};
use super::returns::ReturnChecks;
use crate::transport::amqp::error::{cause, channel_closed};
use crate::transport::channel::Sending;
use crate::transport::error::TransportError;
use crate::transport::message::Message;

/// Limit of messages that wait to be written. Further publishers wait.
const MAX_QUEUED: usize = 1024;

/// Limit of messages that the task queues in lapin before it waits until they are written.
const MAX_BATCH: usize = 256;

/// Number of messages that publishers queue in lapin between two that go through the task.
const MAX_UNAWAITED: usize = 64;

/// A publisher on a channel without confirms. Its task ends with it.
pub(crate) struct PlainPublisher {
    writer: Arc<Writer>,
    /// Messages for the task to write.
    queued: mpsc::Sender<Publish>,
    _task: AbortOnDropHandle<()>,
}

/// State that a publisher shares with its task.
struct Writer {
    channel: Channel,
    /// A permit for each message that may be queued and unwritten.
    permits: Semaphore,
    /// Number of messages that were published since the task took its last batch.
    unawaited: AtomicUsize,
    returns: ReturnChecks,
}

impl PlainPublisher {
    /// Sends returned messages to `returns`.
    pub(crate) fn start(channel: Channel, returns: mpsc::UnboundedSender<Message>) -> Self {
        let (queued, to_write) = mpsc::channel(MAX_QUEUED);
        let writer = Arc::new(Writer {
            channel,
            permits: Semaphore::new(MAX_QUEUED),
            unawaited: AtomicUsize::new(0),
            returns: ReturnChecks::default(),
        });
        Self {
            _task: AbortOnDropHandle::new(tokio::spawn(run(writer.clone(), to_write, returns))),
            writer,
            queued,
        }
    }

    /// Queues a message in lapin, or has the task do that; waits while too many are unwritten.
    pub(crate) fn publish(&self, publish: Publish) -> Sending<'_, Result<(), TransportError>> {
        match self.writer.permits.try_acquire() {
            Ok(permit) => {
                permit.forget();
                Sending::Done(self.publish_permitted(publish))
            }
            Err(TryAcquireError::Closed) => Sending::Done(Err(channel_closed())),
            Err(TryAcquireError::NoPermits) => Sending::Pending(
                async move {
                    let permit = self.writer.permits.acquire().await;
                    permit.map_err(|_| channel_closed())?.forget();
                    self.publish_permitted(publish)
                }
                .boxed(),
            ),
        }
    }

    /// Looks for returned messages soon, because a mandatory message is published past the publisher.
    pub(crate) fn expect_returns(&self) {
        self.writer.returns.published();
    }

    fn publish_permitted(&self, publish: Publish) -> Result<(), TransportError> {
        let writer = &*self.writer;
        if publish.address.mandatory {
            writer.returns.published();
        }
        // If the task's queue is full, the task will soon release permits in any case.
        if writer.unawaited.load(Ordering::Relaxed) >= MAX_UNAWAITED
            && let Ok(place) = self.queued.try_reserve()
        {
            writer.unawaited.fetch_add(1, Ordering::Relaxed);
            place.send(publish);
            return Ok(());
        }
        let Publish {
            address,
            properties,
            body,
        } = publish;
        let writing = write(&writer.channel, address, properties, &body);
        if let Some(Err(error)) = writing.now_or_never() {
            return Err(TransportError::lost(cause(&error)));
        }
        writer.unawaited.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// The task of a publisher.
async fn run(
    writer: Arc<Writer>,
    queued: mpsc::Receiver<Publish>,
    returns: mpsc::UnboundedSender<Message>,
) {
    tokio::select! {
        () = writer.write_queued(queued) => {}
        () = writer.returns.run(&writer.channel, &returns) => {}
    }
}

impl Writer {
    /// Writes the messages for the task, and releases the permits of all messages that lapin has written by then.
    async fn write_queued(&self, mut queued: mpsc::Receiver<Publish>) {
        let mut batch = Vec::new();
        while queued.recv_many(&mut batch, MAX_BATCH).await > 0 {
            let written_with_these = self.unawaited.swap(0, Ordering::Relaxed);
            if let Err(error) = write_all(&self.channel, &mut batch).await {
                // The channel is gone; its consumers report that.
                debug!(%error, "messages could not be published");
                self.permits.close();
            }
            self.permits.add_permits(written_with_these);
        }
    }
}
