//! Cancel notices: servers learn of calls that were dropped, and stop working on them.
//!
//! The client does not know which server has a request, so the notice goes to all servers of the queue. Nothing is sent while no call is
//! dropped. Calls that are dropped together share a notice.

use std::collections::HashMap;
use std::sync::Arc;

use smol_str::SmolStr;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};
use uuid::Uuid;

use super::topics::Topics;
use crate::transport::{Message, TransportError};
use crate::wire::{self, CancelNotice};

/// Most dropped calls that wait for a notice: the default limit of calls in flight. No notice is sent for further calls.
const MAX_WAITING: usize = 262_144;

/// Sender of cancel notices.
#[derive(Debug)]
pub(crate) struct Canceller {
    dropped: mpsc::Sender<Dropped>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Debug)]
enum Dropped {
    Call(DroppedCall),
    /// Answered once the servers have been told of all earlier calls.
    Told(oneshot::Sender<()>),
}

#[derive(Debug)]
struct DroppedCall {
    queue: String,
    id: Uuid,
    deadline: Instant,
}

impl Canceller {
    pub(super) fn start(topics: Arc<Topics>, reply_to: SmolStr, user_id: Option<SmolStr>) -> Self {
        let (dropped, waiting) = mpsc::channel(MAX_WAITING);
        Self {
            dropped,
            _task: AbortOnDropHandle::new(tokio::spawn(send_notices(
                topics, reply_to, user_id, waiting,
            ))),
        }
    }

    /// Sends a notice of a dropped call to the servers of its queue, soon.
    pub(crate) fn cancel(&self, queue: &str, id: Uuid, deadline: Instant) {
        let dropped = DroppedCall {
            queue: queue.to_owned(),
            id,
            deadline,
        };
        if self.dropped.try_send(Dropped::Call(dropped)).is_err() {
            debug!("no notice of a dropped call is sent: too many calls were dropped");
        }
    }

    /// Waits until the broker has the notices of all calls that were dropped earlier, or cannot get them.
    pub(super) async fn told(&self) {
        let (told, answer) = oneshot::channel();
        if self.dropped.send(Dropped::Told(told)).await.is_ok() {
            let _ = answer.await; // Fails if the task has given up.
        }
    }
}

async fn send_notices(
    topics: Arc<Topics>,
    reply_to: SmolStr,
    user_id: Option<SmolStr>,
    mut waiting: mpsc::Receiver<Dropped>,
) {
    let mut batch = Vec::new();
    while waiting.recv_many(&mut batch, CancelNotice::MAX_CALLS).await > 0 {
        let mut notices: HashMap<String, CancelNotice> = HashMap::new();
        let mut told = Vec::new();
        for dropped in batch.drain(..) {
            let call = match dropped {
                Dropped::Call(call) => call,
                Dropped::Told(answer) => {
                    told.push(answer);
                    continue;
                }
            };
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
            match notify(&topics, &queue, notice).await {
                Ok(()) => {}
                // Each attempt would cost a channel. The next connection tries again.
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
        for answer in told {
            let _ = answer.send(()); // The program may wait no longer.
        }
    }
}

async fn notify(topics: &Topics, queue: &str, notice: Message) -> Result<(), TransportError> {
    let published = topics.publish(wire::cancel_topic(queue), notice).await?;
    let confirmed = topics.confirmed(published).await;
    confirmed.map_err(|(error, _)| error)
}
