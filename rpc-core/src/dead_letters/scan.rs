//! Taking letters out of their queue, one after the other, and giving back those that nothing was done with.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::errors;
use super::ids::Ids;
use crate::connection::Connection;
use crate::error::RpcError;
use crate::transport::{Channel, ChannelMode, Delivery, Link, TransportError};

/// Longest wait for one answer of the broker, and for the connection.
pub(super) const STEP: Duration = Duration::from_secs(10);

/// Number of letters that a channel may settle at once. RabbitMQ sends 32 commands to a quorum queue before it waits for the queue, keeps the
/// others back, and forgets those with their channel. Each letter is one command, because `basic.get` makes each the only one of a consumer.
pub(super) const SETTLED_AT_ONCE: usize = 32;

/// Time between two looks at the number of letters that are back.
const PAUSE: Duration = Duration::from_millis(10);

/// Longest wait for a further letter that is back: another program may have taken it meanwhile.
const PATIENCE: Duration = Duration::from_secs(1);

/// One pass through a queue, on a channel of its own. Every letter that is not settled by the end is given back, also if the pass is dropped.
///
/// A pass ends after as many letters as the queue had at the first one. So it ends although letters arrive meanwhile, and takes none twice.
pub(super) struct Scan {
    pub(super) link: Arc<dyn Link>,
    pub(super) channel: Arc<dyn Channel>,
    queue: String,
    ids: Ids,
    /// Number of letters that are still to be taken, once it is known.
    left: Option<u32>,
    /// Number of letters that are taken, and not acknowledged.
    held: u32,
}

impl Scan {
    pub(super) async fn open(
        connection: &Connection,
        queue: &str,
        mode: ChannelMode,
    ) -> Result<Self, RpcError> {
        let opening = async {
            let link = connection.link().await?;
            let channel = link.open_channel(mode).await;
            let channel = channel.map_err(|error| errors::not_read(queue, error))?;
            Ok(Self {
                link,
                channel,
                queue: queue.to_owned(),
                ids: Ids::default(),
                left: None,
                held: 0,
            })
        };
        let opened = timeout(STEP, opening).await;
        opened.unwrap_or_else(|_| Err(errors::no_answer(queue)))
    }

    /// Takes the next letter; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<(String, Delivery)>, RpcError> {
        if self.left == Some(0) {
            return Ok(None);
        }
        let taken = timeout(STEP, self.channel.get(&self.queue)).await;
        let taken = taken.map_err(|_| errors::no_answer(&self.queue))?;
        let taken = taken.map_err(|error| errors::not_read(&self.queue, error))?;
        Ok(taken.map(|(delivery, behind)| {
            self.left = Some(self.left.map_or(behind, |left| left - 1));
            self.held += 1;
            (self.ids.next(&delivery.message), delivery)
        }))
    }

    /// Acknowledges letters that were taken: [`SETTLED_AT_ONCE`] at most between two letters that are taken.
    pub(super) fn ack(&mut self, tags: &mut [u64]) {
        self.channel.ack(tags);
        self.held -= tags.len() as u32;
    }

    /// Returns `true` if the connection works, whatever has become of the channel.
    pub(super) async fn is_connected(&self) -> bool {
        let opening = self.link.open_channel(ChannelMode::Plain);
        matches!(timeout(STEP, opening).await, Ok(Ok(_)))
    }

    /// Gives back the letters that are not settled, and waits until the queue has them.
    pub(super) async fn finish(self) -> Result<(), TransportError> {
        let (link, channel) = (self.link.clone(), self.channel.clone());
        let (queue, held) = (self.queue.clone(), self.held);
        let waits = held as usize > SETTLED_AT_ONCE;
        let watch = match waits {
            true => Watch::start(&*link, queue, held).await,
            false => None,
        };
        drop(self);
        // The broker answers after it has handled everything before, and no other channel may find the queue empty until then.
        let handled = timeout(STEP, channel.acks_handled()).await;
        if let Some(watch) = watch
            && let Ok(Ok(())) = handled
        {
            watch.until_back().await;
        }
        channel.close().await;
        handled.unwrap_or_else(|_| Err(TransportError::lost("the broker does not answer")))
    }
}

/// The number of letters in a queue while others are given back.
///
/// A quorum queue has the letters some time after their channel has given them back. If the channel closed before, the queue would count a
/// delivery of each, and the next operation might miss them.
struct Watch {
    channel: Arc<dyn Channel>,
    queue: String,
    /// The number at the end.
    expected: u32,
}

impl Watch {
    /// Looks at the queue before the letters are given back. `None` if the broker does not tell.
    async fn start(link: &dyn Link, queue: String, held: u32) -> Option<Self> {
        let looking = async {
            let channel = link.open_channel(ChannelMode::Plain).await.ok()?;
            let status = channel.queue_status(&queue).await.ok()?;
            let expected = status.messages.saturating_add(held);
            Some(Self {
                channel,
                queue,
                expected,
            })
        };
        timeout(STEP, looking).await.ok().flatten()
    }

    /// Waits for the letters. Other programs may take some meanwhile, so the wait also ends when no further letter is back.
    async fn until_back(self) {
        let waiting = async {
            let (mut highest, mut since) = (0, Instant::now());
            while let Ok(status) = self.channel.queue_status(&self.queue).await {
                if status.messages > highest {
                    (highest, since) = (status.messages, Instant::now());
                }
                if status.messages >= self.expected || since.elapsed() >= PATIENCE {
                    break;
                }
                sleep(PAUSE).await;
            }
        };
        let _ = timeout(STEP, waiting).await; // The letters are back later.
        self.channel.close().await;
    }
}

impl Drop for Scan {
    fn drop(&mut self) {
        self.channel.requeue_all();
    }
}
