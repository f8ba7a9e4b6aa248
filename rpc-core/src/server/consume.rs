//! The delivery loop of a server: its queues, read through one channel, for as long as the server runs.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{SelectAll, Stream, StreamExt};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::builder::{QueueEntry, ReplyPolicy};
use super::cancel::Calls;
use super::delivery::{Arrival, Lane};
use super::last_attempts::{Change, LastAttempts};
use super::lines::Lines;
use super::receipt::Receipt;
use super::workload::Workload;
use crate::backoff::pauses;
use crate::connection::Connection;
use crate::error::{ServeError, with_causes};
use crate::message::deadline_after;
use crate::task::Task;
use crate::transport::{ChannelMode, Deliveries, Delivery, Link, Message, TransportError};
use crate::wire;

/// The pauses before a server that lost its channel asks for another.
const MIN_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// The pause before a server replaces a channel that the broker closed because of what was sent on it.
const REFUSED_PAUSE: Duration = Duration::from_millis(100);

/// The time that a quorum queue has for acknowledgements before their channel is closed. RabbitMQ holds them back in the channel while
/// 32 others have not been applied, and forgets them with the channel: the requests would be delivered again, as if the server had
/// died. It does not say when they are applied
/// (<https://github.com/rabbitmq/rabbitmq-server/blob/main/deps/rabbit/src/rabbit_fifo_client.erl>, `unsent_commands`).
const APPLYING: Duration = Duration::from_millis(500);

/// The time for which a stopping server reads on until its prefetch is full.
const FILL_LIMIT: Duration = Duration::from_millis(250);

/// How long a stopping server waits for its broker before it turns to its handlers.
const BROKER_LIMIT: Duration = Duration::from_secs(5);

/// What a server does for as long as it runs, whatever happens to its connection.
pub(super) struct Serving {
    pub(super) connection: Connection,
    pub(super) queues: Vec<QueueEntry>,
    pub(super) limits: Limits,
    pub(super) reply_policy: ReplyPolicy,
    /// The headers of requests that handlers' own calls send on, whether or not they are marked.
    pub(super) propagated_headers: Vec<String>,
    /// The calls that can be cancelled; `None` when the server does not listen to that.
    pub(super) calls: Option<Calls>,
    /// How many requests were refused.
    pub(super) refused: Arc<AtomicU64>,
}

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// For each queue.
    pub(super) prefetch: u16,
    /// For the whole server.
    pub(super) concurrency: usize,
    /// For each request.
    pub(super) deliveries: Option<u32>,
    /// For each request that comes without a deadline.
    pub(super) deadline: Option<Duration>,
}

impl Limits {
    /// How many requests it takes in one message: a quarter of what it works on at once, so that what a client has under way, four
    /// messages at most, does not keep more than one server busy while others are idle.
    fn batch(self) -> u16 {
        (self.prefetch / 4).max(1)
    }
}

/// The queues being read over one link. A lost link ends it, and another takes its place.
pub(super) struct Session {
    lines: Arc<Lines>,
    arrivals: SelectAll<Arrivals>,
    last_attempts: LastAttempts,
    /// One of the queues may be a quorum queue.
    is_quorum: bool,
    /// Tells when another link takes the place of this one.
    moves: watch::Receiver<()>,
    _notices: Option<Task>,
}

/// The deliveries of a queue. The last one is an error: the consumer was cancelled, by either side, or went with its channel, for the
/// reason that is given.
struct Arrivals {
    consumer: Consumer,
    /// `None` after the last one.
    deliveries: Option<Deliveries>,
}

impl Stream for Arrivals {
    type Item = (Consumer, Result<Delivery, Option<TransportError>>);

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(deliveries) = &mut self.deliveries else {
            return Poll::Ready(None);
        };
        let arrival = match ready!(deliveries.poll_next_unpin(cx)) {
            Some(Ok(delivery)) => Ok(delivery),
            ended => {
                self.deliveries = None;
                Err(ended.and_then(Result::err))
            }
        };
        Poll::Ready(Some((self.consumer, arrival)))
    }
}

/// Which queue is read.
#[derive(Clone, Copy, Debug)]
struct Consumer {
    queue: usize,
    lane: Lane,
    /// 0 for the first of its lane, which is always there.
    number: u32,
}

/// Why a session ended.
pub(super) enum Ended {
    Stopped,
    Lost,
    /// It goes on over another link. What runs still ends over this one.
    Moved,
}

impl Serving {
    /// Declares the queues and reads them, as soon as that succeeds. A passive queue has to be there.
    pub(super) async fn open(&self) -> Result<Session, ServeError> {
        self.keep_opening(Outlook::MayPass).await
    }

    /// Opens another session after the end of one, as soon as that succeeds; `None` when told to stop before. A user who has taken
    /// another's place may be given the permissions later, or be replaced in turn.
    pub(super) async fn reopen(
        &self,
        ended: &Ended,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<Option<Session>, ServeError> {
        let worst = match ended {
            Ended::Moved => Outlook::AfterMove,
            Ended::Lost | Ended::Stopped => Outlook::AfterLoss,
        };
        tokio::select! {
            () = stopped(stop) => Ok(None),
            reopened = self.keep_opening(worst) => reopened.map(Some),
        }
    }

    /// Opens a session, again and again while the outlook is no worse than this. A link that is not known to be lost yet gives no channels, one may
    /// be lost at once, and in a cluster a queue may come back later than the connection.
    async fn keep_opening(&self, worst: Outlook) -> Result<Session, ServeError> {
        let mut pauses = pauses(MIN_PAUSE, MAX_PAUSE);
        let mut told = String::new();
        loop {
            let moves = self.connection.moves(); // First, so that none is missed.
            let link = self.connection.link().await?;
            match self.try_open(link, moves).await {
                Ok(session) => return Ok(session),
                Err(failure) if failure.outlook <= worst => {
                    let error = with_causes(&failure.error);
                    if error != told {
                        warn!(?error, "cannot serve yet; trying again until that changes");
                        told = error;
                    }
                }
                Err(failure) => return Err(failure.error),
            }
            tokio::time::sleep(pauses.next().unwrap_or(MAX_PAUSE)).await;
        }
    }

    async fn try_open(
        &self,
        link: Arc<dyn Link>,
        moves: watch::Receiver<()>,
    ) -> Result<Session, Failure> {
        // One channel for all queues: the reply and the acknowledgement of a delivery go out where it came in.
        let channel = link
            .open_channel(ChannelMode::Plain)
            .await
            .map_err(|error| self.failure(None, error))?;
        let user_id = self.connection.user_id_on(&*link);
        let mut session = Session {
            // Before the queues, so that no notice is missed about what comes from them.
            _notices: self.listen(&*link).await?,
            lines: Arc::new(Lines::new(link, channel, self.limits.batch(), user_id)),
            arrivals: SelectAll::new(),
            last_attempts: LastAttempts::default(),
            is_quorum: self.queues.iter().any(QueueEntry::may_be_quorum),
            moves,
        };
        for (queue, entry) in self.queues.iter().enumerate() {
            self.subscribe(&mut session, Consumer::first(queue, Lane::Main))
                .await?;
            if entry.isolates(self.limits.deliveries) {
                self.subscribe(&mut session, Consumer::first(queue, Lane::Retry))
                    .await?;
                session.last_attempts.add(queue, 0);
            }
            info!(
                service = entry.service,
                queue = &*entry.queue,
                prefetch = self.limits.prefetch,
                "serving"
            );
        }
        Ok(session)
    }

    /// Hears about calls that were dropped. A server that may not do that goes on without.
    async fn listen(&self, link: &dyn Link) -> Result<Option<Task>, Failure> {
        let Some(calls) = self.calls.clone() else {
            return Ok(None);
        };
        let topics: Vec<String> = self
            .queues
            .iter()
            .map(|entry| wire::notices_for(&entry.queue))
            .collect();
        let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
        // On a channel of its own, which a refusal closes.
        let listening = async {
            let channel = link.open_channel(ChannelMode::Plain).await?;
            let notices = channel.listen(&topics).await?;
            Ok::<_, TransportError>((channel, notices))
        };
        match listening.await {
            Ok((channel, notices)) => Ok(Some(Task::spawn(async move {
                calls.listen(notices).await;
                drop(channel);
            }))),
            // The queues would meet the same.
            Err(error @ (TransportError::Lost(_) | TransportError::NoChannel(_))) => {
                Err(self.failure(None, error))
            }
            Err(error) => {
                let error = error.to_string();
                warn!(
                    ?error,
                    "dropped calls will not be cancelled: grant the server's user the permissions to configure, write and read queues \
                     whose names begin with 'rpc.notices.', and to read the exchange 'amq.direct'"
                );
                Ok(None)
            }
        }
    }

    async fn subscribe(&self, session: &mut Session, consumer: Consumer) -> Result<(), Failure> {
        let entry = &self.queues[consumer.queue];
        let lines = &session.lines;
        let opening = async {
            let (queue, prefetch) = match consumer.lane {
                Lane::Main => {
                    let queue = &*entry.queue;
                    lines.declare_requests(queue, &entry.options).await?;
                    (queue, self.limits.prefetch)
                }
                // One at a time, as long as that does not take long: whatever ends a server then, it was not another of these.
                Lane::Retry => {
                    let queue = entry.retry_queue.as_str();
                    lines.declare_retries(queue, &entry.options).await?;
                    (queue, 1)
                }
            };
            lines.consume(queue, &consumer.name(), prefetch).await
        };
        let deliveries = opening.await;
        let deliveries = deliveries.map_err(|error| self.failure(Some(entry), error))?;
        session.arrivals.push(Arrivals {
            consumer,
            deliveries: Some(deliveries),
        });
        Ok(())
    }

    fn failure(&self, entry: Option<&QueueEntry>, error: TransportError) -> Failure {
        let (error, outlook) = match (error, entry) {
            (TransportError::Lost(_), _) | (_, None) if self.connection.is_closed() => {
                (ServeError::Closed, Outlook::Final)
            }
            (error @ TransportError::NoChannel(_), _) => {
                let source = error.into();
                (ServeError::NoChannel { source }, Outlook::AfterLoss)
            }
            (error @ TransportError::Lost(_), _) | (error, None) => {
                (ServeError::Disconnected(error.into()), Outlook::MayPass)
            }
            (error, Some(entry)) => {
                let outlook = match error {
                    TransportError::Unavailable(_) if entry.options.is_passive() => {
                        Outlook::AfterLoss
                    }
                    TransportError::Unavailable(_) => Outlook::MayPass,
                    TransportError::Forbidden(_) => Outlook::AfterMove,
                    _ => Outlook::Final,
                };
                let refused = ServeError::QueueRefused {
                    queue: entry.queue.to_string(),
                    source: error.into(),
                };
                (refused, outlook)
            }
        };
        Failure { error, outlook }
    }

    pub(super) fn may_reply_to(&self, queue: &str) -> bool {
        // A reply to one of its own queues would come back as a request.
        !self.queues.iter().any(|entry| entry.owns(queue)) && (self.reply_policy)(queue)
    }

    /// Serves until told to stop or until the link is lost. A queue that was deleted is declared anew.
    pub(super) async fn run(
        self: &Arc<Self>,
        session: &mut Session,
        workload: &mut Workload,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<Ended, ServeError> {
        let mut stopping = std::pin::pin!(stopped(stop));
        let mut moves = session.moves.clone();
        let mut moved = std::pin::pin!(async move {
            if moves.changed().await.is_err() {
                std::future::pending::<()>().await; // The connection is about to end.
            }
        });
        loop {
            tokio::select! {
                biased;
                () = &mut stopping => {
                    self.give_back(session, workload).await;
                    return Ok(Ended::Stopped);
                }
                () = workload.progress() => {}
                () = session.last_attempts.due() => {
                    if let Some(ended) = self.look_after_last_attempts(session, workload).await? {
                        return Ok(ended);
                    }
                }
                Some((consumer, arrival)) = session.arrivals.next() => match arrival {
                    Ok(delivery) => {
                        let arrival = self.arrival(session, consumer, delivery);
                        if workload.add(arrival) > 1 {
                            // The replies to one batch are sent before the next is begun. Otherwise they gather, and nothing is
                            // on its way meanwhile.
                            tokio::task::yield_now().await;
                        }
                    }
                    Err(error) => {
                        if !session.lines.channel.is_open() {
                            // What waited came through that channel: the broker gives it to a server again.
                            workload.take_backlog();
                            if told_of_refusal(error) {
                                // It may refuse the same again at once.
                                tokio::select! {
                                    () = &mut stopping => {}
                                    () = tokio::time::sleep(REFUSED_PAUSE) => {}
                                }
                            }
                            return Ok(Ended::Lost);
                        }
                        let Consumer { queue, number, .. } = consumer;
                        if number > 0 {
                            session.last_attempts.remove(queue, number);
                            continue;
                        }
                        let queue = &*self.queues[queue].queue;
                        warn!(queue, "the broker cancelled the consumer; consuming again");
                        if let Some(ended) = self.resubscribe(session, workload, consumer).await? {
                            return Ok(ended);
                        }
                    }
                },
                // Last, so that it costs nothing while deliveries come.
                () = &mut moved => {
                    if self.connection.is_closed() {
                        return Ok(Ended::Lost); // Nothing runs that would end the deliveries.
                    }
                    self.give_back(session, workload).await;
                    return Ok(Ended::Moved);
                }
            }
        }
    }

    /// Reads a queue again, or through one more consumer; `Some` if the session has ended instead.
    async fn resubscribe(
        self: &Arc<Self>,
        session: &mut Session,
        workload: &mut Workload,
        consumer: Consumer,
    ) -> Result<Option<Ended>, ServeError> {
        match self.subscribe(session, consumer).await {
            Ok(()) => Ok(None),
            Err(failure) if failure.outlook <= Outlook::AfterLoss => {
                self.give_back(session, workload).await;
                Ok(Some(Ended::Lost))
            }
            Err(failure) => Err(failure.error),
        }
    }

    async fn look_after_last_attempts(
        self: &Arc<Self>,
        session: &mut Session,
        workload: &mut Workload,
    ) -> Result<Option<Ended>, ServeError> {
        for change in session.last_attempts.look_after(self.queues.len()) {
            let of = |queue, number| Consumer {
                number,
                ..Consumer::first(queue, Lane::Retry)
            };
            match change {
                Change::Start { queue, number } => {
                    let consumer = of(queue, number);
                    let ended = self.resubscribe(session, workload, consumer).await?;
                    if ended.is_some() {
                        return Ok(ended);
                    }
                }
                Change::Cancel { queue, number } => {
                    let name = of(queue, number).name();
                    session.lines.channel.cancel(&name).await;
                }
            }
        }
        Ok(None)
    }

    /// Makes an arrival of a delivery, which is a request or a batch.
    fn arrival(
        self: &Arc<Self>,
        session: &mut Session,
        consumer: Consumer,
        delivery: Delivery,
    ) -> Arrival {
        let Delivery {
            tag,
            redelivered,
            mut message,
        } = delivery;
        let revived = wire::revive(&mut message);
        let Consumer {
            queue,
            lane,
            number,
        } = consumer;
        Arrival {
            serving: self.clone(),
            lines: session.lines.clone(),
            queue,
            lane,
            receipt: Some(Receipt::Whole(tag)),
            redelivered,
            revived,
            method: self.queues[queue].method(&message),
            default_deadline: self.default_deadline(&message),
            last_attempt: match lane {
                Lane::Main => None,
                Lane::Retry => Some(session.last_attempts.begin(queue, number)),
            },
            message,
        }
    }

    /// The end of a request that comes without a deadline. A batch may hold such requests, whatever it says itself.
    fn default_deadline(&self, message: &Message) -> Option<Instant> {
        let has_one = message.deadline.is_some() || message.expiration.is_some();
        if has_one && !wire::is_batch(message) {
            return None;
        }
        self.limits.deadline.map(deadline_after)
    }

    /// Stops reading, and gives what has not started back to the queues.
    async fn give_back(self: &Arc<Self>, session: &mut Session, workload: &mut Workload) {
        let mut unstarted = workload.take_backlog();
        let giving_back = async {
            let filling = self.fill_up(session, &mut unstarted);
            // If fewer requests than the prefetch come in that time, hardly one is on its way just then.
            tokio::time::timeout(FILL_LIMIT, filling).await.ok();
            let channel = &session.lines.channel;
            let consumers = (0..self.queues.len()).flat_map(|queue| {
                let first = move |lane| Consumer::first(queue, lane);
                let further = session.last_attempts.further(queue);
                let further = further.map(move |number| Consumer {
                    number,
                    ..first(Lane::Retry)
                });
                [Lane::Main, Lane::Retry]
                    .map(first)
                    .into_iter()
                    .chain(further)
            });
            join_all(consumers.map(async |consumer| channel.cancel(&consumer.name()).await)).await;
            while let Some((consumer, arrival)) = session.arrivals.next().await {
                if let Ok(delivery) = arrival {
                    // A batch goes back as it is.
                    unstarted.push_back(self.arrival(session, consumer, delivery));
                }
            }
            join_all(unstarted.into_iter().map(Arrival::give_back)).await;
        };
        // A broker that answers nothing takes back what is left with the channel.
        if tokio::time::timeout(BROKER_LIMIT, giving_back)
            .await
            .is_err()
        {
            warn!(
                "requests that had not started could not be given back: the broker does not answer"
            );
        }
    }

    /// Reads on, and starts nothing, until the prefetch of each quorum queue is used up, so that nothing is on its way when its
    /// consumer is cancelled. That would be taken back by the broker as delivered, and requests of `at_most_once` methods then
    /// given up (<https://github.com/rabbitmq/rabbitmq-server/issues/3729>). Classic queues take nothing back.
    async fn fill_up(self: &Arc<Self>, session: &mut Session, unstarted: &mut VecDeque<Arrival>) {
        let prefetch = usize::from(self.limits.prefetch);
        // The places that are left, for each queue that others are waited for.
        let left = self.queues.iter().enumerate().map(|(queue, entry)| {
            let held = unstarted.iter().filter(|arrival| arrival.fills(queue));
            match entry.may_be_quorum() {
                true => prefetch.saturating_sub(held.count()),
                false => 0,
            }
        });
        let mut left: Vec<usize> = left.collect();
        while left.iter().any(|left| *left > 0)
            && let Some((consumer, arrival)) = session.arrivals.next().await
        {
            let queue = consumer.queue;
            match arrival {
                Ok(delivery) => {
                    let arrival = self.arrival(session, consumer, delivery);
                    if arrival.fills(queue) {
                        left[queue] = left[queue].saturating_sub(1);
                    }
                    unstarted.push_back(arrival);
                }
                Err(_) if consumer.lane == Lane::Main => left[queue] = 0,
                Err(_) => {}
            }
        }
    }
}

impl Session {
    /// Returns `true` once nothing runs that came through it.
    pub(super) fn is_done(&self) -> bool {
        Arc::strong_count(&self.lines) == 1
    }

    /// Ends it once the broker has every reply.
    pub(super) async fn close(&mut self) {
        let flushing = tokio::time::timeout(BROKER_LIMIT, self.lines.replies.flush());
        if flushing.await.is_err() {
            warn!("replies could not be sent: the broker takes nothing");
        } else if self.is_quorum {
            tokio::time::sleep(APPLYING).await;
        }
        self.lines.channel.close().await;
    }
}

impl Consumer {
    fn first(queue: usize, lane: Lane) -> Self {
        Self {
            queue,
            lane,
            number: 0,
        }
    }

    /// Its name on its channel.
    fn name(self) -> String {
        let queue = self.queue;
        match (self.lane, self.number) {
            (Lane::Main, _) => format!("rpc-{queue}"),
            (Lane::Retry, 0) => format!("rpc-{queue}-retry"),
            (Lane::Retry, number) => format!("rpc-{queue}-retry-{number}"),
        }
    }
}

/// Tells the operator why the broker closed a channel, if it did. Nothing that a consumer does is refused, but what is published on
/// its channel may be, as replies are.
fn told_of_refusal(error: Option<TransportError>) -> bool {
    let Some(error) = error else {
        return false;
    };
    let is_refusal = !matches!(error, TransportError::Lost(_));
    let error = error.to_string();
    match is_refusal {
        true => warn!(
            ?error,
            "the broker closed the channel of a server, which opens another"
        ),
        false => debug!(?error, "a consumer ended"),
    }
    is_refusal
}

/// The reason for which queues could not be read.
struct Failure {
    error: ServeError,
    outlook: Outlook,
}

/// Tells when a failure may be gone a little later, the best outlook first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outlook {
    MayPass,
    /// Only where the server has read its queues before: a queue that is not to be declared is missing, or all channels are taken, perhaps
    /// by a connection that was lost.
    AfterLoss,
    /// Only if the connection's user has changed, who lacks a permission.
    AfterMove,
    Final,
}

/// Resolves when the server is told to stop.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the handle was dropped, and the task that waits here is about to be.
    let _ = stop.wait_for(|stop| *stop).await;
}
