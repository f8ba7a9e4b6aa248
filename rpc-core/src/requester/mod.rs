//! The requester: a channel, a reply queue, the calls in flight and the open streams, shared by the clients of a connection.

mod cancel;
mod dropped;
mod errors;
mod gathering;
mod gathers;
mod health;
mod in_flight;
mod replies;
mod stream_outlet;
mod streams;
mod topics;

use std::sync::Arc;
use std::time::Duration;

use smol_str::{SmolStr, format_smolstr};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use self::cancel::Canceller;
pub(crate) use self::dropped::DropCounter;
pub use self::dropped::DroppedReplies;
pub(crate) use self::errors::{not_sent, refused};
pub(crate) use self::gathering::{GatherOptions, Gathering};
pub(crate) use self::gathers::Answer;
use self::health::ChannelHealth;
use self::in_flight::EndReason;
pub(crate) use self::in_flight::{InFlight, SentMessage, Waiter};
pub(crate) use self::stream_outlet::StreamOutlet;
pub(crate) use self::streams::{Directions, StreamAnswer, StreamRegistration, StreamWaiter};
use self::topics::Topics;
use crate::batching::{BatchPublisher, UnansweredMessage};
use crate::error::RpcError;
use crate::names::REPLY_QUEUE_PREFIX;
use crate::transport::{
    Acknowledge, Channel, ChannelMode, Confirm, Deliveries, LazyChannel, Link, LinkStatus, Message,
    QueueKind, TransportError,
};

/// Longest time for which closing a connection waits for cancel notices.
const TELLING_LIMIT: Duration = Duration::from_secs(1);

/// The sending and receiving side of a connection's clients.
///
/// A requester works until its channel or its reply queue is lost. Its calls then fail at once, and the next call opens another requester.
#[derive(Debug)]
pub(crate) struct Requester {
    /// The exclusive queue for replies. Its name is fresh for each requester, so no old reply can reach a new call.
    reply_to: SmolStr,
    /// The connection's name.
    app_id: SmolStr,
    /// The user stated in requests, if any.
    user_id: Option<SmolStr>,
    pub(crate) in_flight: Arc<InFlight>,
    /// The runtime that opened the connection. Callers may be in other runtimes.
    runtime: Handle,
    pub(crate) canceller: Canceller,
    /// Status of the link.
    status: watch::Receiver<LinkStatus>,
    /// Channel for messages to topics.
    topics: Arc<Topics>,
    /// Channel for requests that are not confirmed, and for replies.
    pub(crate) channel: Arc<dyn Channel>,
    /// Channel for confirmed requests.
    confirming: LazyChannel,
    /// Health of the channel for confirmed requests.
    confirming_health: ChannelHealth,
    /// Closes when the requester is dropped.
    gone: watch::Sender<()>,
    _replies: AbortOnDropHandle<()>,
}

impl Requester {
    pub(crate) async fn open(
        link: Arc<dyn Link>,
        app_id: SmolStr,
        user_id: Option<SmolStr>,
        dropped: Arc<DropCounter>,
    ) -> Result<Arc<Self>, RpcError> {
        let reply_to = format_smolstr!("{REPLY_QUEUE_PREFIX}{}", Uuid::new_v4());
        let (channel, deliveries) = subscribe(&*link, &reply_to).await.map_err(not_sent)?;
        let in_flight = Arc::new(InFlight::new(dropped));
        let replies = AbortOnDropHandle::new(tokio::spawn(replies::receive(
            in_flight.clone(),
            deliveries,
            channel.returns(),
        )));
        let topics = Arc::new(Topics::new(link.clone()));
        Ok(Arc::new(Self {
            canceller: Canceller::start(topics.clone(), reply_to.clone(), user_id.clone()),
            topics,
            runtime: Handle::current(),
            reply_to,
            app_id,
            user_id,
            in_flight,
            status: link.status(),
            channel,
            confirming: LazyChannel::new(link, ChannelMode::Confirm),
            confirming_health: ChannelHealth::new(),
            gone: watch::Sender::default(),
            _replies: replies,
        }))
    }

    /// Returns `true` if new calls can use the requester.
    pub(crate) fn is_live(&self) -> bool {
        self.in_flight.is_live() && !self.in_flight.health.is_suspicious()
    }

    /// Returns the runtime of the connection.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Ends the calls in flight.
    pub(crate) fn close(&self) {
        self.in_flight.end(EndReason::Closed);
    }

    /// Waits until the servers have been told of the calls that were dropped, for a time limit at most.
    pub(crate) async fn tell_of_dropped_calls(&self) {
        // A broker that does not answer does not delay the end of the program.
        let _ = timeout(TELLING_LIMIT, self.canceller.told()).await;
    }

    /// Adds the addresses of the requester to a message: its reply queue, if a reply is expected, its name and its user.
    pub(crate) fn address(&self, message: &mut Message, expects_reply: bool) {
        message.reply_to = expects_reply.then(|| self.reply_to.clone());
        message.app_id = Some(self.app_id.clone());
        message.user_id = self.user_id.clone();
    }

    /// Returns the channel for confirmed requests.
    pub(crate) async fn confirm_channel(&self) -> Result<Arc<dyn Channel>, RpcError> {
        self.confirming.get().await.map_err(not_sent)
    }

    /// Waits until the broker has confirmed or refused a request. Replaces the channel, for later requests, after many refusals in a row.
    pub(crate) async fn confirmed(&self, confirm: Confirm) -> Result<(), TransportError> {
        let is_requested = confirm.is_requested();
        let confirmed = confirm.wait().await;
        match &confirmed {
            Ok(()) if is_requested => self.confirming_health.succeeded(),
            Err(TransportError::Rejected) => {
                self.confirming_health.failed();
                if self.confirming_health.is_suspicious() {
                    self.confirming_health.restart();
                    self.confirming.forget();
                }
            }
            _ => {}
        }
        confirmed
    }
}

impl BatchPublisher for Requester {
    fn runtime(&self) -> &Handle {
        &self.runtime
    }

    fn gone(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut gone = self.gone.subscribe();
        async move { while gone.changed().await.is_ok() {} }
    }

    async fn publish(
        &self,
        queue: Arc<str>,
        mut message: Message,
        mode: ChannelMode,
    ) -> Result<Confirm, RpcError> {
        self.address(&mut message, true);
        let channel = match mode {
            ChannelMode::Confirm => self.confirm_channel().await?,
            _ => self.channel.clone(),
        };
        let sending = channel.publish(queue.into(), message);
        sending.wait().await.map_err(not_sent)
    }

    async fn confirmed(&self, confirm: Confirm) -> Result<(), RpcError> {
        let confirmed = self.confirmed(confirm).await;
        confirmed.map_err(|error| refused(error, true))
    }

    fn share(&self, calls: &[Uuid], message: UnansweredMessage, batch: Option<Uuid>) {
        self.in_flight.share(calls, message, batch);
    }

    fn fail(&self, calls: &[Uuid], error: &RpcError) {
        self.in_flight.fail(calls, error);
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
