//! A channel that is only opened when somebody needs it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Channel, ChannelMode, Link, TransportError};
use crate::task::Shared;

/// A channel that is opened by the first who asks for it, and again once it is lost.
#[derive(Debug)]
pub(crate) struct LazyChannel {
    link: Arc<dyn Link>,
    mode: ChannelMode,
    channel: Arc<Mutex<Option<Arc<dyn Channel>>>>,
    opening: Shared<Result<Arc<dyn Channel>, TransportError>>,
}

impl LazyChannel {
    pub(crate) fn new(link: Arc<dyn Link>, mode: ChannelMode) -> Self {
        Self {
            link,
            mode,
            channel: Arc::default(),
            opening: Shared::new(),
        }
    }

    /// The channel. Dropping the future leaves it to be opened for the next who asks.
    pub(crate) async fn get(&self) -> Result<Arc<dyn Channel>, TransportError> {
        let open = || {
            lock(&self.channel)
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
                *lock(&channel) = Some(opened.clone());
                Ok(opened)
            }
        };
        let opened = self.opening.run(|| open().map(Ok), start).await;
        opened.unwrap_or_else(|| Err(TransportError::lost("the runtime is shutting down")))
    }

    /// Has the next who asks open another. Those who have this one keep it.
    pub(crate) fn forget(&self) {
        *lock(&self.channel) = None;
    }
}

fn lock(channel: &Mutex<Option<Arc<dyn Channel>>>) -> MutexGuard<'_, Option<Arc<dyn Channel>>> {
    channel.lock().unwrap_or_else(PoisonError::into_inner)
}
