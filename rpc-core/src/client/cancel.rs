//! Tells servers about calls that were dropped, so that they stop working on them.
//!
//! The client does not know which server has a request, so it tells all servers of its queue. Nothing is sent while no call is
//! dropped; calls that are dropped together are told of together.

use std::collections::HashMap;
use std::sync::Arc;

use smol_str::SmolStr;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, warn};
use uuid::Uuid;

use crate::task::Task;
use crate::transport::{ChannelMode, LazyChannel, Link, Message, TransportError};
use crate::wire::{self, CancelNotice};

/// How many dropped calls may wait to be told of: as many as are in flight by default. Of more nothing is said.
const MAX_WAITING: usize = 262_144;

/// A client's way to its servers.
#[derive(Debug)]
pub(crate) struct Canceller {
    dropped: mpsc::Sender<DroppedCall>,
    _task: Task,
}

#[derive(Debug)]
struct DroppedCall {
    queue: String,
    id: Uuid,
    deadline: Instant,
}

impl Canceller {
    pub(crate) fn start(link: Arc<dyn Link>, reply_to: SmolStr, user_id: Option<SmolStr>) -> Self {
        let (dropped, waiting) = mpsc::channel(MAX_WAITING);
        Self {
            dropped,
            _task: Task::spawn(tell(link, reply_to, user_id, waiting)),
        }
    }

    /// Tells servers of a dropped call, soon.
    pub(crate) fn cancel(&self, queue: &str, id: Uuid, deadline: Instant) {
        let dropped = DroppedCall {
            queue: queue.to_owned(),
            id,
            deadline,
        };
        if self.dropped.try_send(dropped).is_err() {
            debug!("a dropped call will run in vain");
        }
    }
}

async fn tell(
    link: Arc<dyn Link>,
    reply_to: SmolStr,
    user_id: Option<SmolStr>,
    mut waiting: mpsc::Receiver<DroppedCall>,
) {
    // A channel for notices alone: a user who may not publish them loses this one, not the one with the requests. Confirmed, because a refusal is
    // not heard of otherwise.
    let channel = LazyChannel::new(link, ChannelMode::Confirm);
    let mut batch = Vec::new();
    while waiting.recv_many(&mut batch, CancelNotice::MAX_CALLS).await > 0 {
        let mut notices: HashMap<String, CancelNotice> = HashMap::new();
        for call in batch.drain(..) {
            let notice = notices.entry(call.queue).or_insert_with(|| CancelNotice {
                reply_to: reply_to.clone(),
                correlation_ids: Vec::new(),
                deadline: call.deadline,
            });
            notice
                .correlation_ids
                .push(call.id.hyphenated().to_string());
            notice.deadline = notice.deadline.max(call.deadline);
        }
        for (queue, notice) in notices {
            let mut notice = notice.into_message();
            notice.user_id = user_id.clone();
            match notify(&channel, &queue, notice).await {
                Ok(()) => {}
                // Each attempt would cost a channel. Another connection tries again.
                Err(TransportError::Forbidden(error)) => {
                    warn!(
                        error = ?error.to_string(),
                        "servers are not told of dropped calls: grant the client's user the permission to write to the exchange \
                         'amq.direct', or switch the notices off with `ClientBuilder::cancellation(false)`"
                    );
                    return;
                }
                Err(error) => warn!(queue, %error, "servers could not be told of dropped calls"),
            }
        }
    }
}

async fn notify(channel: &LazyChannel, queue: &str, notice: Message) -> Result<(), TransportError> {
    let channel = channel.get().await?;
    channel.notify(wire::notices_for(queue), notice).await
}
