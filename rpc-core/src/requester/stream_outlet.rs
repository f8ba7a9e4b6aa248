//! The way from a caller to the server of its stream.

use std::sync::Arc;
use std::time::Duration;

use smol_str::SmolStr;
use tokio::time::timeout;

use super::Requester;
use super::errors::not_sent;
use crate::codec::ContentType;
use crate::error::RpcError;
use crate::streaming::Outlet;
use crate::transport::LinkStatus;
use crate::wire::{Accepted, Frame, StreamLabel};

/// Longest wait until the message that stops a stream is on its way. Without that message, the server learns of the end by its caller's
/// silence.
const STOPPING: Duration = Duration::from_secs(5);

/// Sends the messages of one stream to the private queue of the instance that serves the stream. All go through the channel of the requests, so
/// they keep their order.
#[derive(Debug)]
pub(crate) struct StreamOutlet {
    requester: Arc<Requester>,
    private_queue: SmolStr,
    label: StreamLabel,
    max_len: usize,
}

impl StreamOutlet {
    /// Returns the way to the instance that has accepted a request. `max_len` is the length of the longest body, in bytes.
    pub(crate) fn new(
        requester: Arc<Requester>,
        accepted: &Accepted,
        correlation_id: SmolStr,
        content_type: ContentType,
        max_len: usize,
    ) -> Self {
        let label = StreamLabel {
            stream: accepted.stream.clone(),
            correlation_id: Some(correlation_id),
            content_type: content_type.as_property().map(SmolStr::new_static),
            app_id: Some(requester.app_id.clone()),
            user_id: requester.user_id.clone(),
        };
        Self {
            requester,
            private_queue: accepted.private_queue.clone(),
            label,
            max_len,
        }
    }

    /// Tells the server that the caller has abandoned the stream.
    pub(crate) async fn stop(&self) {
        // Nothing is left to do after a failure: the server hears no more of the caller.
        let _ = timeout(STOPPING, self.send(Frame::Stop)).await;
    }

    /// Tells the server, soon, that the caller has abandoned the stream.
    pub(crate) fn stop_soon(self) {
        let runtime = self.requester.runtime.clone();
        runtime.spawn(async move { self.stop().await }); // Ends after `STOPPING`.
    }
}

impl Outlet for StreamOutlet {
    async fn send(&self, frame: Frame) -> Result<(), RpcError> {
        let message = frame.into_message(&self.label);
        let sending = self
            .requester
            .channel
            .publish(self.private_queue.clone(), message);
        let sent = sending.wait().await;
        sent.map_err(|error| not_sent(error).executed_if(true))?;
        self.requester.in_flight.published_after_calls();
        Ok(())
    }

    fn is_blocked(&self) -> bool {
        matches!(*self.requester.status.borrow(), LinkStatus::Blocked(_))
    }

    fn max_len(&self) -> usize {
        self.max_len
    }
}
