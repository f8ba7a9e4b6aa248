//! Channels that are opened on first use.

use std::sync::Arc;

use parking_lot::Mutex;

use super::channel::{Channel, ChannelMode};
use super::error::TransportError;
use super::link::Link;
use crate::task::SingleFlight;

/// A channel that is opened on first use, and opened again once it is lost.
#[derive(Debug)]
pub(crate) struct LazyChannel {
    link: Arc<dyn Link>,
    mode: ChannelMode,
    channel: Arc<Mutex<Option<Arc<dyn Channel>>>>,
    opening: SingleFlight<Result<Arc<dyn Channel>, TransportError>>,
}

impl LazyChannel {
    pub(crate) fn new(link: Arc<dyn Link>, mode: ChannelMode) -> Self {
        Self {
            link,
            mode,
            channel: Arc::default(),
            opening: SingleFlight::new(),
        }
    }

    /// Returns the channel, and opens it if needed. Dropping the future leaves the channel to be opened for the next caller.
    pub(crate) async fn get(&self) -> Result<Arc<dyn Channel>, TransportError> {
        let open = || {
            self.channel
                .lock()
                .clone()
                .filter(|channel| channel.is_open())
        };
        if let Some(channel) = open() {
            return Ok(channel);
        }
        let start = || {
            let (link, mode, channel) = (self.link.clone(), self.mode, self.channel.clone());
            async move {
                let opened = link.open_channel(mode).await?;
                *channel.lock() = Some(opened.clone());
                Ok(opened)
            }
        };
        let opened = self.opening.run(|| open().map(Ok), start).await;
        opened.unwrap_or_else(|| Err(TransportError::lost("the runtime is shutting down")))
    }

    /// Makes the next [`get`](Self::get) open another channel. Callers that already have this one keep it.
    pub(crate) fn forget(&self) {
        *self.channel.lock() = None;
    }
}
