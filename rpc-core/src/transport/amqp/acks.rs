//! Settling deliveries of a channel.

use futures_util::FutureExt;
use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicNackOptions};
use parking_lot::Mutex;
use tracing::debug;

use super::settled_tags::{Ack, SettledTags};

/// Acknowledges and requeues the deliveries of a channel.
///
/// lapin queues an acknowledgement on the first poll, so callers do not wait for the write.
pub(super) struct Acks {
    channel: Channel,
    settled: Mutex<SettledTags>,
}

impl Acks {
    pub(super) fn new(channel: Channel) -> Self {
        Self {
            channel,
            settled: Mutex::default(),
        }
    }

    /// Acknowledges deliveries; sorts them.
    pub(super) fn ack(&self, tags: &mut [u64]) {
        // Locked until lapin has queued the acknowledgements: until then, no other one may cover these tags.
        let mut settled = self.settled.lock();
        for Ack { tag, multiple } in settled.acks(tags) {
            let acking = self.channel.basic_ack(tag, BasicAckOptions { multiple });
            if let Some(Err(error)) = acking.now_or_never() {
                debug!(%error, "a delivery could not be acknowledged"); // The broker will deliver it again.
            }
        }
    }

    /// Returns a delivery to its queue.
    pub(super) fn requeue(&self, tag: u64) {
        let options = BasicNackOptions {
            requeue: true,
            multiple: false,
        };
        let mut settled = self.settled.lock();
        settled.add(tag);
        if let Some(Err(error)) = self.channel.basic_nack(tag, options).now_or_never() {
            debug!(%error, "a delivery could not be requeued"); // The broker requeues it when the channel closes.
        }
    }

    /// Returns all unsettled deliveries to their queues.
    pub(super) fn requeue_all(&self) {
        let options = BasicNackOptions {
            requeue: true,
            multiple: true,
        };
        let all = 0; // In AMQP, the tag of all unsettled deliveries.
        if let Some(Err(error)) = self.channel.basic_nack(all, options).now_or_never() {
            debug!(%error, "deliveries could not be requeued"); // The broker requeues them when the channel closes.
        }
    }
}
