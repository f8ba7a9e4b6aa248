//! Messages and acknowledgements that leave a server through one session.
//!
//! A task takes all replies that have gathered, sends them, and acknowledges their deliveries once they are written; replies that
//! gather meanwhile go next. So replies and acknowledgements keep their order, and no handler waits for a write. Replies to the same
//! client share a message, if the client can read that.

use std::sync::Arc;

use futures_util::FutureExt;
use smol_str::SmolStr;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{RwLock, mpsc, oneshot, watch};
use tokio_util::task::AbortOnDropHandle;

use super::publisher::ConfirmedPublisher;
use crate::batching::{AckToken, ReplyForm, ReplyPacker, Settlement};
use crate::cancellation::Cancellation;
use crate::transport::{Channel, Link, LinkStatus, Message, Reply, Sending, TransportError};

/// Number of replies that may wait to be sent; further handlers wait.
const MAX_WAITING: usize = 1024;

/// Number of replies that are sent at once.
const MAX_AT_ONCE: usize = 256;

/// Sender of the replies and acknowledgements of a session.
pub(super) struct Outbox {
    /// Channel on which deliveries came and are settled.
    channel: Arc<dyn Channel>,
    user_id: Option<SmolStr>,
    outgoing: mpsc::Sender<Outgoing>,
    _task: AbortOnDropHandle<()>,
    pub(super) publisher: ConfirmedPublisher,
    /// Held for reading while a delivery is replaced, until the delivery is acknowledged.
    replacing: RwLock<()>,
    status: watch::Receiver<LinkStatus>,
    /// Given once the session is lost.
    lost: Cancellation,
}

enum Outgoing {
    Reply(OutgoingReply),
    /// Answered when everything before it has been sent and acknowledged.
    Flush(oneshot::Sender<()>),
}

/// A reply, and the delivery that is settled with it.
pub(super) struct OutgoingReply {
    pub(super) reply: Reply,
    pub(super) form: ReplyForm,
    /// Token of the request, unless the request was settled before.
    pub(super) token: Option<AckToken>,
}

impl Outbox {
    /// Starts to send over a link. `batch_limit` is the number of requests that the server takes in one message, `user_id` the user
    /// that the server states in its messages.
    pub(super) fn start(
        link: Arc<dyn Link>,
        channel: Arc<dyn Channel>,
        batch_limit: u16,
        user_id: Option<SmolStr>,
    ) -> Self {
        let (outgoing, gathering) = mpsc::channel(MAX_WAITING);
        let sending = send(channel.clone(), batch_limit, user_id.clone(), gathering);
        Self {
            _task: AbortOnDropHandle::new(tokio::spawn(sending)),
            channel,
            user_id,
            outgoing,
            status: link.status(),
            publisher: ConfirmedPublisher::new(link),
            replacing: RwLock::new(()),
            lost: Cancellation::default(),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.channel.is_open()
    }

    /// Returns `true` while the broker accepts no messages.
    pub(super) fn is_blocked(&self) -> bool {
        matches!(*self.status.borrow(), LinkStatus::Blocked(_))
    }

    /// Records that the session is lost: nothing can be sent any more.
    pub(super) fn lose(&self) {
        self.lost.cancel();
    }

    /// Resolves once the session is lost.
    pub(super) async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// Returns `true` for an address of direct reply-to, which is reached through a connection of its own.
    pub(super) fn is_direct_reply_to(&self, queue: &str) -> bool {
        self.channel.is_direct_reply_to(queue)
    }

    pub(super) fn frame_max(&self) -> usize {
        self.channel.frame_max()
    }

    /// Sends a reply, then acknowledges its delivery: in the background, or, if the reply goes to a direct reply-to address, before this
    /// resolves.
    pub(super) fn reply(&self, mut reply: OutgoingReply) -> Sending<'_, ()> {
        if self.channel.is_direct_reply_to(&reply.reply.queue) {
            reply.reply.message.user_id = self.user_id.clone();
            let directly = async {
                self.channel.reply(vec![reply.reply]).await;
                acknowledge(&*self.channel, reply.token);
            };
            return Sending::Pending(directly.boxed());
        }
        match self.outgoing.try_send(Outgoing::Reply(reply)) {
            Err(TrySendError::Full(reply)) => {
                let sending = self.outgoing.send(reply);
                // An error means that the session is over.
                Sending::Pending(sending.map(drop).boxed())
            }
            // Closed means that the session is over: the broker gives the request to a server again.
            Ok(()) | Err(TrySendError::Closed(_)) => Sending::Done(()),
        }
    }

    /// Waits until all replies before this were sent and acknowledged.
    pub(super) async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.outgoing.send(Outgoing::Flush(done)).await.is_ok() {
            let _ = flushed.await; // An error means that the session is over.
        }
    }

    /// Acknowledges a request.
    pub(super) fn ack(&self, token: AckToken) {
        self.settle(token.ack());
    }

    /// Requeues a request.
    pub(super) fn requeue(&self, token: AckToken) {
        self.settle(token.requeue());
    }

    fn settle(&self, settlement: Option<Settlement>) {
        match settlement {
            Some(Settlement::Ack(tag)) => self.channel.ack(&mut [tag]),
            Some(Settlement::Requeue(tag)) => self.channel.requeue(tag),
            None => {}
        }
    }

    /// Waits until the broker has handled all acknowledgements.
    pub(super) async fn settled(&self) -> Result<(), TransportError> {
        self.channel.acks_handled().await
    }

    /// Publishes a message in place of a delivery, then acknowledges the delivery.
    pub(super) async fn replace(
        &self,
        token: &mut Option<AckToken>,
        queue: &str,
        message: Message,
    ) -> Result<(), TransportError> {
        let _replacing = self.replacing.read().await;
        self.publisher.offer(queue, message, false).await?;
        if let Some(token) = token.take() {
            self.ack(token);
        }
        Ok(())
    }

    /// Waits until the broker has handled the acknowledgements of all replaced deliveries. The replacement of a delivery may arrive before
    /// the delivery is acknowledged. If the replacement ran and killed this process then, both would exist.
    pub(super) async fn until_replaced(&self) -> Result<(), TransportError> {
        drop(self.replacing.write().await);
        self.settled().await
    }
}

async fn send(
    channel: Arc<dyn Channel>,
    batch_limit: u16,
    user_id: Option<SmolStr>,
    mut outgoing: mpsc::Receiver<Outgoing>,
) {
    let mut gathered = Vec::new();
    let mut tokens = Vec::new();
    while outgoing.recv_many(&mut gathered, MAX_AT_ONCE).await > 0 {
        // The first of several replies wakes this task. The yield lets the others gather, so that they do not wait until it is written.
        tokio::task::yield_now().await;
        while gathered.len() < MAX_AT_ONCE
            && let Ok(next) = outgoing.try_recv()
        {
            gathered.push(next);
        }
        let mut packer = ReplyPacker::new(batch_limit);
        let mut flushes = Vec::new();
        for next in gathered.drain(..) {
            match next {
                Outgoing::Reply(OutgoingReply { reply, form, token }) => {
                    packer.add(reply, form);
                    tokens.extend(token);
                }
                Outgoing::Flush(done) => flushes.push(done),
            }
        }
        let mut replies = packer.finish();
        if user_id.is_some() {
            for reply in &mut replies {
                reply.message.user_id = user_id.clone();
            }
        }
        channel.reply(replies).await;
        acknowledge(&*channel, tokens.drain(..));
        for done in flushes {
            let _ = done.send(()); // An error means that the flush was abandoned.
        }
    }
}

/// Settles the requests whose replies are written.
fn acknowledge(channel: &dyn Channel, tokens: impl IntoIterator<Item = AckToken>) {
    let mut tags = Vec::new();
    for settlement in tokens.into_iter().filter_map(AckToken::ack) {
        match settlement {
            Settlement::Ack(tag) => tags.push(tag),
            Settlement::Requeue(tag) => channel.requeue(tag),
        }
    }
    channel.ack(&mut tags);
}
