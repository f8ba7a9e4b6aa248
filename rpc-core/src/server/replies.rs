//! The way of replies out of a server.
//!
//! A task takes all that have gathered, sends them, and acknowledges their deliveries once they are written; what gathers
//! meanwhile goes next. So replies and acknowledgements keep their order, and nobody waits for a write. Those for the same client
//! share a message, if it can read that.

use std::sync::Arc;

use futures_util::FutureExt;
use smol_str::SmolStr;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tracing::debug;

use super::receipt::{Receipt, Settlement};
use crate::task::Task;
use crate::telemetry::metrics;
use crate::transport::{Channel, Message, Reply, Sending};
use crate::wire::Batch;

/// How many replies may wait to be sent; further handlers wait.
const MAX_WAITING: usize = 1024;

/// How many replies are sent at once.
const MAX_AT_ONCE: usize = 256;

/// Where handlers put their replies.
pub(super) struct Replies {
    channel: Arc<dyn Channel>,
    user_id: Option<SmolStr>,
    waiting: mpsc::Sender<Outgoing>,
    _task: Task,
}

enum Outgoing {
    Answer(Answer),
    /// Says when everything before it has been sent and acknowledged.
    Flush(oneshot::Sender<()>),
}

/// A reply, and what is settled with it.
pub(super) struct Answer {
    pub(super) reply: Reply,
    pub(super) form: Form,
    /// The request's, unless it was settled before.
    pub(super) receipt: Option<Receipt>,
}

/// How a reply travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Alone,
    /// With others, if there are some.
    MayShare,
    /// In a batch, be it the only one there: its client learns from that how many requests this server takes in one.
    Batch,
}

impl Form {
    /// That of the reply to a request.
    pub(super) fn of(request: &Message, is_batched: bool) -> Self {
        match (is_batched, request.batches) {
            (true, _) => Self::Batch,
            (false, true) => Self::MayShare,
            (false, false) => Self::Alone,
        }
    }
}

impl Replies {
    /// For a server that takes so many requests in one message, and states this user in its own.
    pub(super) fn start(channel: Arc<dyn Channel>, takes: u16, user_id: Option<SmolStr>) -> Self {
        let (waiting, outgoing) = mpsc::channel(MAX_WAITING);
        Self {
            _task: Task::spawn(send(channel.clone(), takes, user_id.clone(), outgoing)),
            channel,
            user_id,
            waiting,
        }
    }

    /// Sends a reply, then acknowledges its delivery: soon, or, where that takes a while, before this is done.
    pub(super) fn send(&self, mut answer: Answer) -> Sending<'_, ()> {
        if self.channel.is_direct(&answer.reply.queue) {
            answer.reply.message.user_id = self.user_id.clone();
            let directly = async {
                self.channel.reply(vec![answer.reply]).await;
                settle(&*self.channel, answer.receipt);
            };
            return Sending::Waiting(directly.boxed());
        }
        match self.waiting.try_send(Outgoing::Answer(answer)) {
            Err(TrySendError::Full(answer)) => {
                let sending = self.waiting.send(answer);
                // An error means the same as below.
                Sending::Waiting(sending.map(drop).boxed())
            }
            // Closed means that the session is over: the broker gives the request to a server again.
            Ok(()) | Err(TrySendError::Closed(_)) => Sending::Done(()),
        }
    }

    /// Waits until everything before this was sent and acknowledged.
    pub(super) async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.waiting.send(Outgoing::Flush(done)).await.is_ok() {
            let _ = flushed.await; // An error means the same as above.
        }
    }
}

async fn send(
    channel: Arc<dyn Channel>,
    takes: u16,
    user_id: Option<SmolStr>,
    mut outgoing: mpsc::Receiver<Outgoing>,
) {
    let mut gathered = Vec::new();
    let mut receipts = Vec::new();
    while outgoing.recv_many(&mut gathered, MAX_AT_ONCE).await > 0 {
        // The first of several that are about to come wakes this task. The others are not to wait until it is written.
        tokio::task::yield_now().await;
        while gathered.len() < MAX_AT_ONCE
            && let Ok(next) = outgoing.try_recv()
        {
            gathered.push(next);
        }
        let mut replies = Coalesced::new(takes);
        let mut flushes = Vec::new();
        for next in gathered.drain(..) {
            match next {
                Outgoing::Answer(Answer {
                    reply,
                    form,
                    receipt,
                }) => {
                    replies.add(reply, form);
                    receipts.extend(receipt);
                }
                Outgoing::Flush(done) => flushes.push(done),
            }
        }
        let mut replies = replies.finish();
        if user_id.is_some() {
            for reply in &mut replies {
                reply.message.user_id = user_id.clone();
            }
        }
        channel.reply(replies).await;
        settle(&*channel, receipts.drain(..));
        for done in flushes {
            let _ = done.send(()); // Nobody waits any more.
        }
    }
}

/// Settles the deliveries of requests whose replies are written.
fn settle(channel: &dyn Channel, receipts: impl IntoIterator<Item = Receipt>) {
    let mut tags = Vec::new();
    for settlement in receipts.into_iter().filter_map(Receipt::settle) {
        match settlement {
            Settlement::Acknowledge(tag) => tags.push(tag),
            Settlement::GiveBack(tag) => channel.requeue(tag),
        }
    }
    channel.ack(&mut tags);
}

/// Replies that become as few messages as possible.
struct Coalesced {
    takes: u16,
    /// One for each client that reads batches: few have replies in one round.
    groups: Vec<Group>,
    messages: Vec<Reply>,
}

/// What goes to one client.
struct Group {
    queue: SmolStr,
    /// Whether it is a batch whatever is in it.
    is_batch: bool,
    replies: Vec<Message>,
}

impl Coalesced {
    fn new(takes: u16) -> Self {
        Self {
            takes,
            groups: Vec::new(),
            messages: Vec::new(),
        }
    }

    fn add(&mut self, reply: Reply, form: Form) {
        if form == Form::Alone || !Batch::is_for(&reply.message) {
            self.messages.push(reply);
            return;
        }
        let Reply { queue, message } = reply;
        let is_batch = form == Form::Batch;
        match self.groups.iter_mut().find(|group| group.queue == queue) {
            Some(group) => {
                group.is_batch |= is_batch;
                group.replies.push(message);
            }
            None => self.groups.push(Group {
                queue,
                is_batch,
                replies: vec![message],
            }),
        }
    }

    fn finish(mut self) -> Vec<Reply> {
        for Group {
            queue,
            is_batch,
            replies,
        } in self.groups
        {
            let mut send = |message, calls| {
                metrics::replies_sent(calls);
                let queue = queue.clone();
                self.messages.push(Reply { queue, message });
            };
            if replies.len() == 1 && !is_batch {
                replies.into_iter().for_each(|alone| send(alone, 1));
                continue;
            }
            let gathered = replies.len();
            let mut batch = Batch::new(self.takes, gathered);
            for reply in replies {
                if batch.is_full(&reply) {
                    let full = std::mem::replace(&mut batch, Batch::new(self.takes, gathered));
                    let calls = full.calls();
                    send(full.into_message(), calls);
                }
                if let Err(error) = batch.push(&reply) {
                    debug!(%error, "a reply does not fit into a batch");
                    send(reply, 1);
                }
            }
            let calls = batch.calls();
            send(batch.into_message(), calls);
        }
        self.messages
    }
}
