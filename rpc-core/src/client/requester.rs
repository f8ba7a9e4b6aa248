//! What the clients of a connection share: a channel, a reply queue, and the calls in flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::stream::StreamExt;
use smol_str::{SmolStr, format_smolstr};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::coop::cooperative;
use tokio::task::yield_now;
use tokio::time::Instant;
use tracing::debug;
use uuid::Uuid;

use super::cancel::Canceller;
use super::coalesce::Ticket;
use super::in_flight::{DropCounter, Ended, InFlight, Waiter};
use super::silence::Silence;
use crate::error::{ErrorKind, RpcError};
use crate::task::Task;
use crate::transport::{
    Acknowledge, Channel, ChannelMode, Confirm, Deliveries, LazyChannel, Link, Message, QueueKind,
    TransportError,
};
use crate::wire;

/// The sending and receiving side of a connection's clients.
///
/// It works until its channel or its reply queue is lost; calls then fail at once, and the next one opens another.
#[derive(Debug)]
pub(crate) struct Requester {
    /// The exclusive queue for replies; its name is fresh for each requester, so no old reply can reach a new call.
    pub(crate) reply_to: SmolStr,
    /// The user that requests state, if they do.
    pub(crate) user_id: Option<SmolStr>,
    pub(crate) in_flight: Arc<InFlight>,
    /// The runtime that opened the connection, whatever runtime a call is made in.
    pub(crate) runtime: Handle,
    pub(crate) canceller: Canceller,
    /// For requests that are not to be confirmed, and for replies.
    pub(crate) channel: Arc<dyn Channel>,
    /// For requests that are to be confirmed.
    confirming: LazyChannel,
    /// How long the broker has refused what went through that.
    refusals: Silence,
    /// Closes when this is gone.
    gone: watch::Sender<()>,
    _replies: Task,
}

impl Requester {
    pub(crate) async fn open(
        link: Arc<dyn Link>,
        user_id: Option<SmolStr>,
        dropped: Arc<DropCounter>,
    ) -> Result<Arc<Self>, RpcError> {
        let reply_to = format_smolstr!("rpc.reply.{}", Uuid::new_v4());
        let (channel, deliveries) = subscribe(&*link, &reply_to).await.map_err(not_sent)?;
        let in_flight = Arc::new(InFlight::new(dropped));
        let replies = Task::spawn(receive(in_flight.clone(), deliveries, channel.returns()));
        Ok(Arc::new(Self {
            canceller: Canceller::start(link.clone(), reply_to.clone(), user_id.clone()),
            runtime: Handle::current(),
            reply_to,
            user_id,
            in_flight,
            channel,
            confirming: LazyChannel::new(link, ChannelMode::Confirm),
            refusals: Silence::new(),
            gone: watch::Sender::default(),
            _replies: replies,
        }))
    }

    /// Whether it can be used by new calls.
    pub(crate) fn is_live(&self) -> bool {
        self.in_flight.is_live() && !self.in_flight.silence.is_suspicious()
    }

    pub(crate) fn close(&self) {
        self.in_flight.end(Ended::Closed);
    }

    /// Resolves when there is no such requester any more.
    pub(crate) fn gone(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut gone = self.gone.subscribe();
        async move { while gone.changed().await.is_ok() {} }
    }

    /// The channel for requests that are to be confirmed.
    pub(crate) async fn confirm_channel(&self) -> Result<Arc<dyn Channel>, RpcError> {
        self.confirming.get().await.map_err(not_sent)
    }

    /// Waits for the broker's answer to a request. A channel that it only refuses is replaced for the requests to come.
    pub(crate) async fn confirmed(&self, confirm: Confirm) -> Result<(), TransportError> {
        let is_confirmed = confirm.is_requested();
        let answer = confirm.wait().await;
        match &answer {
            Ok(()) if is_confirmed => self.refusals.broken(),
            Err(TransportError::Rejected) => {
                self.refusals.goes_on();
                if self.refusals.is_suspicious() {
                    self.refusals.restart();
                    self.confirming.forget();
                }
            }
            _ => {}
        }
        answer
    }
}

/// A call that a server may have by now. When this is dropped before the call ended, nobody waits for it.
#[derive(Debug)]
pub(super) struct SentCall<'a> {
    pub(crate) requester: Arc<Requester>,
    pub(crate) waiter: Waiter,
    pub(crate) confirm: Confirm,
    pub(crate) queue: Arc<str>,
    pub(crate) deadline: Instant,
    /// Whether no reply is expected.
    pub(crate) oneway: bool,
    /// Whether servers are told.
    pub(crate) cancels: bool,
    pub(crate) ended: bool,
    /// Of one that is still with the client, perhaps.
    pub(crate) ticket: Option<Arc<Ticket>>,
    /// Becomes true when a server may get to see the request.
    pub(crate) sent: &'a AtomicBool,
}

impl SentCall<'_> {
    /// Whether it has left the client; if not, it will not.
    pub(crate) fn has_left(&self) -> bool {
        self.ticket.as_ref().is_none_or(|ticket| !ticket.withdraw())
    }
}

impl Drop for SentCall<'_> {
    fn drop(&mut self) {
        if !self.has_left() {
            return;
        }
        self.sent.store(true, Ordering::Relaxed);
        if self.ended || self.oneway {
            return;
        }
        if Instant::now() >= self.deadline {
            // Servers stop by themselves then.
            self.requester.in_flight.silence.goes_on();
        } else if self.cancels {
            let id = self.waiter.id();
            self.requester
                .canceller
                .cancel(&self.queue, id, self.deadline);
        }
    }
}

async fn subscribe(
    link: &dyn Link,
    reply_to: &str,
) -> Result<(Arc<dyn Channel>, Deliveries), TransportError> {
    let channel = link.open_channel(ChannelMode::Plain).await?;
    channel
        .declare_queue(reply_to, QueueKind::Exclusive)
        .await?;
    let deliveries = channel
        .consume(reply_to, "replies", Acknowledge::None)
        .await?;
    Ok((channel, deliveries))
}

/// Fails the calls when it is dropped.
struct EndOnDrop(Arc<InFlight>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end(Ended::Lost(Arc::new(
            "the client's reply task ended".into(),
        )));
    }
}

/// The longest batch of replies that is taken apart, in bytes. A server of this crate begins another after 64 KiB, so that one
/// reply with large headers may still be added.
const MAX_BATCH_LEN: usize = 1 << 20;

/// The bytes of replies that are handed out before timers and other tasks have their turn.
const TURN: usize = 256 << 10;

/// Wakes callers until the reply queue is lost, then tells those who still wait.
async fn receive(
    in_flight: Arc<InFlight>,
    mut replies: Deliveries,
    mut returns: mpsc::UnboundedReceiver<Message>,
) {
    // Whatever ends this task, a runtime that goes down included, nobody waits for it any longer.
    let _guard = EndOnDrop(in_flight.clone());
    let mut handed_out = 0;
    let ended = loop {
        tokio::select! {
            biased;
            // Leaves off now and then, so that returned requests have their turn however many replies there are.
            reply = cooperative(replies.next()) => match reply {
                Some(Ok(delivery)) => {
                    handed_out += delivery.message.body.len();
                    hand_out(&in_flight, delivery.message);
                    // Otherwise only after many replies, however long each of them takes.
                    if handed_out >= TURN {
                        handed_out = 0;
                        yield_now().await;
                    }
                }
                Some(Err(error)) => break Ended::from(error),
                None => break Ended::Lost(Arc::new("the reply queue is gone".into())),
            },
            Some(request) = returns.recv() => {
                in_flight.answer(request.correlation_id.as_deref(), Err(unroutable()));
            }
        }
    };
    in_flight.end(ended);
}

/// Gives what has arrived to those who wait for it.
fn hand_out(in_flight: &InFlight, mut message: Message) {
    if !wire::is_batch(&message) {
        let correlation_id = message.correlation_id.take();
        let answer = wire::answer_from_message(message);
        return in_flight.answer(correlation_id.as_deref(), answer);
    }
    if message.body.len() > MAX_BATCH_LEN {
        let len = message.body.len();
        debug!(
            len,
            "a batch of replies was dropped: it is longer than {MAX_BATCH_LEN} bytes"
        );
        return in_flight.malformed();
    }
    match wire::replies_of(&message.body) {
        Ok((taken, replies)) => {
            let answers = replies.map(|reply| {
                let correlation_id = reply.correlation_id;
                (correlation_id, wire::answer_from_batch(reply))
            });
            in_flight.answer_all(answers, taken);
        }
        Err(error) => {
            let error = error.to_string();
            debug!(error, "a batch of replies could not be read");
            in_flight.malformed();
        }
    }
}

pub(crate) fn unroutable() -> RpcError {
    RpcError::new(ErrorKind::Unroutable, "there is no such queue")
}

/// The error of a call that did not come to be published.
pub(crate) fn not_sent(error: TransportError) -> RpcError {
    let (kind, message) = match error {
        TransportError::Invalid(reason) => return RpcError::new(ErrorKind::Encode, reason),
        TransportError::TooLarge(reason) => {
            return RpcError::new(ErrorKind::TooLarge, reason).not_executed();
        }
        TransportError::Unroutable => return unroutable(),
        TransportError::Rejected => {
            return RpcError::new(
                ErrorKind::Rejected,
                "the broker refused the request: is the queue full?",
            );
        }
        TransportError::Lost(_) => (
            ErrorKind::Disconnected,
            "the connection to the broker is lost",
        ),
        TransportError::Forbidden(_) => (
            ErrorKind::PermissionDenied,
            "the broker does not allow this client a reply queue: grant its user the permissions to configure and to read queues \
             whose names begin with 'rpc.reply.'",
        ),
        TransportError::NoChannel(_) => (
            ErrorKind::PermissionDenied,
            "the client may not open another channel: raise the limit of channels, or use fewer clients and servers",
        ),
        TransportError::Refused(_) | TransportError::Unavailable(_) => (
            ErrorKind::Rejected,
            "the broker refused to set up the client's reply queue",
        ),
    };
    RpcError::new(kind, message)
        .with_source(error)
        .not_executed()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::transport::{Content, Delivery};
    use crate::wire::Batch;

    fn reply(correlation_id: &str, len: usize) -> Message {
        Message::from(Content {
            correlation_id: Some(correlation_id.into()),
            content_type: Some("application/msgpack".into()),
            body: vec![0xc0; len].into(),
            ..Content::default()
        })
    }

    fn batch(ids: impl Iterator<Item = String>, len: usize) -> Message {
        let mut batch = Batch::new(1, 1);
        for id in ids {
            batch.push(&reply(&id, len)).unwrap();
        }
        batch.into_message()
    }

    #[tokio::test]
    async fn a_batch_that_is_longer_than_any_server_makes_it_is_dropped() {
        let dropped = Arc::new(DropCounter::default());
        let in_flight = Arc::new(InFlight::new(dropped.clone()));
        let mut waiter = in_flight.register(None).unwrap();
        let ids = || std::iter::repeat_n(waiter.correlation_id().to_string(), 200);
        let long = batch(ids(), 8 << 10);
        assert!(long.body.len() > MAX_BATCH_LEN);
        hand_out(&in_flight, long);
        assert_eq!(dropped.read().malformed, 1);
        let short = batch(ids(), 1);
        hand_out(&in_flight, short);
        assert_eq!(&waiter.answer().await.unwrap().body[..], [0xc0]);
        let counted = dropped.read();
        assert_eq!((counted.malformed, counted.late), (1, 199));
    }

    /// Counts the replies of that length that are handed out before another task has its turn.
    async fn handed_out_at_once(len: usize) -> usize {
        let taken = Arc::new(AtomicUsize::new(0));
        let count = taken.clone();
        let flood = futures_util::stream::repeat_with(move || {
            count.fetch_add(1, Ordering::Relaxed);
            Ok(Delivery {
                tag: 0,
                redelivered: false,
                message: reply("1", len),
            })
        });
        let in_flight = Arc::new(InFlight::new(Arc::default()));
        let (_returned, returns) = mpsc::unbounded_channel();
        let receiving = Task::spawn(receive(in_flight, flood.boxed(), returns));
        let other = tokio::spawn(async move { taken.load(Ordering::Relaxed) });
        let taken = other.await.unwrap();
        drop(receiving);
        taken
    }

    #[tokio::test]
    async fn a_flood_of_replies_leaves_other_tasks_their_turn() {
        let short = handed_out_at_once(10).await;
        assert!((2..1_000).contains(&short), "{short}");
        let long = handed_out_at_once(TURN / 2).await;
        assert_eq!(long, 2);
    }
}
