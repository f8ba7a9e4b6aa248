//! Taking letters out of their queue, one after the other, and giving back those that nothing was done with.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::errors;
use super::ids::Ids;
use crate::connection::Connection;
use crate::error::RpcError;
use crate::transport::{Channel, ChannelMode, Delivery, Link, TransportError};

/// Longest wait for one answer of the broker, and for the connection.
pub(super) const STEP: Duration = Duration::from_secs(10);

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
            (self.ids.next(&delivery.message), delivery)
        }))
    }

    /// Gives back the letters that are not settled, and waits until the broker has them.
    pub(super) async fn finish(self) -> Result<(), TransportError> {
        let channel = self.channel.clone();
        drop(self);
        // The broker answers after it has handled everything before, and no other channel may find the queue empty until then.
        let handled = timeout(STEP, channel.acks_handled()).await;
        channel.close().await;
        handled.unwrap_or_else(|_| Err(TransportError::lost("the broker does not answer")))
    }
}

impl Drop for Scan {
    fn drop(&mut self) {
        self.channel.requeue_all();
    }
}
