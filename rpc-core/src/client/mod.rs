//! The caller's side: from a request to its answer, within a deadline.
//!
//! [`Stub`] is what generated clients are made of, [`Call`] the future they return, [`Client`] the service that sends
//! requests over a connection, [`Requester`] what the clients of a connection share.

mod builder;
mod call;
mod cancel;
mod clock;
mod coalesce;
mod in_flight;
mod journey;
mod requester;
mod silence;
mod stub;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

pub use self::builder::ClientBuilder;
use self::builder::Defaults;
pub use self::call::{Call, CallWithHeaders};
use self::coalesce::{Coalescer, Gate, Turn, Unanswered};
pub(crate) use self::in_flight::DropCounter;
pub use self::in_flight::DroppedReplies;
use self::in_flight::Waiter;
pub(crate) use self::journey::Journey;
pub(crate) use self::requester::Requester;
use self::requester::SentCall;
pub use self::stub::Stub;
use crate::codec::ContentType;
use crate::connection::{Connection, ConnectionState};
use crate::error::{ErrorKind, RpcError};
use crate::message::{Outcome, Request, Response};
use crate::middleware::{Attempts, RetryPolicy};
use crate::service::ResponseFuture;
use crate::task;
use crate::telemetry;
use crate::transport::{Channel, ChannelMode, Confirm, Message, Sending, TransportError};
use crate::wire::{self, Envelope};

/// How long a call may take if nobody says otherwise.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// Sends requests over a [`Connection`] and receives their replies.
///
/// Give it to a generated client: `FibClient::new(connection.client())`. It is cheap to clone and to share; all clients of
/// a connection use one reply queue, which the first call sets up.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    connection: Connection,
    timeout: Duration,
    defaults: Defaults,
    content_type: ContentType,
    confirms: bool,
    cancellation: bool,
    mandatory: bool,
    expiration: bool,
    retry: RetryPolicy,
    /// Whether replies may share messages.
    batches: bool,
    /// Where requests wait for each other, if they are to.
    coalescer: Option<Coalescer>,
    /// One for each call in flight that there may be.
    slots: Semaphore,
    max_in_flight: usize,
}

impl Client {
    /// The connection that it uses.
    pub fn connection(&self) -> &Connection {
        &self.0.connection
    }

    /// How many replies were dropped because no call was waiting for them, on this connection.
    pub fn dropped_replies(&self) -> DroppedReplies {
        self.0.connection.drop_counter().read()
    }

    fn send(
        self,
        mut request: Request,
    ) -> impl Future<Output = Result<Response, RpcError>> + Send + 'static {
        self.0.defaults.complete(&mut request);
        // A block, as it keeps what it is given once; an `async fn` copies it.
        async move {
            if !task::in_runtime() {
                return Err(RpcError::no_runtime());
            }
            let started = Instant::now();
            let deadline = request.deadline_or(self.0.timeout, started);
            if let Some(journey) = &request.0.journey {
                journey.arrived(deadline);
            }
            let sent = AtomicBool::new(false);
            if deadline <= started {
                return Err(RpcError::passed_before_it_was_made());
            }
            let slot = match self.0.slots.try_acquire() {
                Ok(slot) => slot,
                Err(_) => self.wait_for_slot(deadline).boxed().await?,
            };
            // For its errors; the request itself may be gone by then. Attempts of a call that is repeated explain theirs themselves.
            let service = request.0.service;
            let queue = (!request.0.idempotent).then(|| Arc::clone(&request.0.queue));
            // What happens before the request is sent is boxed, and what is not needed after that let go, so that a call that waits for
            // its answer is small.
            let answer = async {
                if request.0.idempotent {
                    let repeating = self.repeat(request, started, deadline, &sent);
                    return repeating.boxed().await;
                }
                let sending = self.send_once(request, started, deadline, &sent);
                let mut call = sending.boxed().await?;
                call.answer().await
            };
            let answer = match timeout_at(deadline, answer).await {
                Ok(answer) => answer,
                Err(_) => Err(self.timed_out(service, deadline - started, sent.into_inner())),
            };
            drop(slot);
            answer.map_err(|error| match &queue {
                Some(queue) => self.explained(error, service, queue, started, deadline),
                None => error,
            })
        }
    }

    /// The error of an attempt, in view of what this side knows.
    fn explained(
        &self,
        error: RpcError,
        service: &str,
        queue: &str,
        started: Instant,
        deadline: Instant,
    ) -> RpcError {
        match error.kind() {
            // The server noticed first.
            ErrorKind::DeadlineExceeded if Instant::now() + clock::TOLERANCE >= deadline => {
                self.timed_out(service, deadline - started, true)
            }
            ErrorKind::DeadlineExceeded => {
                clock::refused_early(error, deadline.saturating_duration_since(Instant::now()))
            }
            ErrorKind::Unroutable => RpcError::new(
                ErrorKind::Unroutable,
                format!("there is no queue '{queue}': is a server of {service} running?"),
            )
            .executed_if(error.may_have_executed()),
            _ => error,
        }
    }

    async fn wait_for_slot(&self, deadline: Instant) -> Result<SemaphorePermit<'_>, RpcError> {
        let started = Instant::now();
        match timeout_at(deadline, self.0.slots.acquire()).await {
            Ok(Ok(slot)) => Ok(slot),
            _ => {
                let message = format!(
                    "no answer within {}: the client had {} calls in flight all the time, its limit",
                    shown(deadline - started),
                    self.0.max_in_flight
                );
                Err(RpcError::new(ErrorKind::Timeout, message).not_executed())
            }
        }
    }

    /// Sends a request that may be sent again until it has an answer that stands. One that never left waits for the connection;
    /// others are sent again only if that may help.
    async fn repeat(
        &self,
        request: Request,
        started: Instant,
        deadline: Instant,
        sent: &AtomicBool,
    ) -> Result<Response, RpcError> {
        let (service, queue) = (request.0.service, &*request.0.queue);
        let explained = |error| self.explained(error, service, queue, started, deadline);
        let mut attempts = Attempts::of(&request, &self.0.retry, started, deadline);
        loop {
            let own = attempts.limit();
            // The end of the call, too, is that of an attempt, so that its error tells of those before.
            let limit = own.or(attempts.has_failed().then_some(deadline));
            let answer = match limit {
                None => self.exchange(&request, deadline, sent).await,
                Some(limit) => timeout_at(limit, self.exchange(&request, limit, sent).boxed())
                    .await
                    .unwrap_or_else(|_| match own {
                        Some(_) => Err(attempt_timed_out(sent)),
                        None => {
                            let sent = sent.load(Ordering::Relaxed);
                            Err(self.timed_out(service, deadline - started, sent))
                        }
                    }),
            };
            match answer {
                Ok(response) => return Ok(response),
                Err(error) => attempts.failed(&request, error, explained).boxed().await?,
            }
        }
    }

    /// Publishes a request that is not sent again; one that never left waits for the connection.
    async fn send_once<'a>(
        &self,
        request: Request,
        started: Instant,
        deadline: Instant,
        sent: &'a AtomicBool,
    ) -> Result<SentCall<'a>, RpcError> {
        let mut attempts = Attempts::of(&request, &self.0.retry, started, deadline);
        loop {
            let published = match self.requester().await {
                Ok(requester) => {
                    self.publish(requester, &request, deadline, sent, None)
                        .await
                }
                Err(error) => Err(error),
            };
            match published {
                Ok(call) => return Ok(call),
                Err(error) => {
                    let pause = attempts.failed(&request, error, |error| error);
                    pause.boxed().await?;
                }
            }
        }
    }

    /// The error of a call that was not answered in time; says what was in the way, where that is known.
    fn timed_out(&self, service: &str, limit: Duration, sent: bool) -> RpcError {
        let mut message = match sent {
            true => format!("no answer within {}", shown(limit)),
            false => format!("the request could not be sent within {}", shown(limit)),
        };
        match self.0.connection.state_now() {
            ConnectionState::Reconnecting { error } => {
                message += &format!("; the connection to the broker is down: {error}");
            }
            ConnectionState::Blocked { reason } => {
                message += &format!("; the broker is blocking publishers: {reason}");
            }
            ConnectionState::Connected | ConnectionState::Closed if !sent => {}
            ConnectionState::Connected | ConnectionState::Closed => {
                message += &format!(": is a server of {service} running, and fast enough?");
            }
        }
        if self.0.connection.is_of_another_runtime() {
            message +=
                "; the connection belongs to another runtime, which has to be running: is it?";
        }
        let error = RpcError::new(ErrorKind::Timeout, message);
        if sent { error } else { error.not_executed() }
    }

    /// Publishes the request and waits for whatever completes the call first: its reply, its return, the broker's refusal,
    /// or the end of the connection. `sent` becomes true when a server may get to see the request.
    async fn exchange(
        &self,
        request: &Request,
        deadline: Instant,
        sent: &AtomicBool,
    ) -> Result<Response, RpcError> {
        let requester = self.requester().await?;
        let coalescer = self.0.coalescer.as_ref();
        let mut unanswered = None;
        if let Some(gate) = coalescer.and_then(|coalescer| coalescer.gate(&requester, request)) {
            match gate.enter() {
                Turn::Now(message) => unanswered = Some(message),
                Turn::Later => {
                    let mut call = self.share(&requester, &gate, request, deadline, sent)?;
                    let answer = call.answer().await;
                    match answer {
                        // A server that knows no batches has not run any of this one.
                        Err(error) if error.kind() == ErrorKind::UnsupportedContentType => {
                            gate.refused();
                        }
                        Err(error) if !call.has_left() => return Err(error.not_executed()),
                        answer => return answer,
                    }
                }
            }
        }
        let mut call = self
            .publish(requester, request, deadline, sent, unanswered)
            .await?;
        call.answer().await
    }
}

impl Client {
    async fn requester(&self) -> Result<Arc<Requester>, RpcError> {
        match self.0.connection.live_requester() {
            Some(requester) => Ok(requester),
            None => self.0.connection.requester().boxed().await,
        }
    }

    fn mode(&self, request: &Request) -> ChannelMode {
        if self.0.confirms || request.0.oneway || request.0.persistent {
            ChannelMode::Confirm
        } else {
            ChannelMode::Plain
        }
    }

    /// Publishes the request. A server may get to see it from then on.
    async fn publish<'a>(
        &self,
        requester: Arc<Requester>,
        request: &Request,
        deadline: Instant,
        sent: &'a AtomicBool,
        unanswered: Option<Arc<Unanswered>>,
    ) -> Result<SentCall<'a>, RpcError> {
        let channel = match self.mode(request) {
            ChannelMode::Plain => requester.channel.clone(),
            ChannelMode::Confirm => requester.confirm_channel().boxed().await?,
        };
        let (waiter, sending) =
            self.start_publishing(&requester, &*channel, request, deadline, unanswered)?;
        let confirm = sending.wait().await.map_err(requester::not_sent)?;
        Ok(SentCall {
            requester,
            waiter,
            confirm,
            queue: request.0.queue.clone(),
            deadline,
            oneway: request.0.oneway,
            cancels: self.0.cancellation,
            ended: false,
            ticket: None,
            sent,
        })
    }

    /// Registers the call, then publishes its request.
    fn start_publishing<'a>(
        &self,
        requester: &Requester,
        channel: &'a dyn Channel,
        request: &Request,
        deadline: Instant,
        unanswered: Option<Arc<Unanswered>>,
    ) -> Result<(Waiter, Sending<'a, Result<Confirm, TransportError>>), RpcError> {
        let waiter = requester.in_flight.register(unanswered)?;
        let mut message = self.message(request, &waiter, deadline, channel.frame_max())?;
        message.reply_to = (!request.0.oneway).then(|| requester.reply_to.clone());
        message.app_id = Some(self.0.connection.app_id());
        message.user_id = requester.user_id.clone();
        Ok((
            waiter,
            channel.publish(request.0.queue.clone().into(), message),
        ))
    }

    /// The message of a registered call, but for what it may share with others.
    fn message(
        &self,
        request: &Request,
        waiter: &Waiter,
        deadline: Instant,
        frame_max: usize,
    ) -> Result<Message, RpcError> {
        let inner = &*self.0;
        let envelope = Envelope {
            correlation_id: waiter.correlation_id(),
            mandatory: inner.mandatory,
            expires: inner.expiration,
            batches: inner.batches,
            frame_max,
        };
        let message = wire::message_from_request(request, inner.content_type, deadline, envelope)?;
        let limit = inner.connection.max_message_size();
        wire::check_size("request", &message.body, limit).map_err(RpcError::not_executed)?;
        telemetry::published(request, &message);
        Ok(message)
    }

    /// Registers the call, and has its request sent in a message that it shares with others.
    fn share<'a>(
        &self,
        requester: &Arc<Requester>,
        gate: &Gate,
        request: &Request,
        deadline: Instant,
        sent: &'a AtomicBool,
    ) -> Result<SentCall<'a>, RpcError> {
        let waiter = requester.in_flight.register(None)?;
        let frame_max = requester.channel.frame_max();
        let message = self.message(request, &waiter, deadline, frame_max)?;
        Ok(SentCall {
            requester: requester.clone(),
            ticket: Some(gate.send(waiter.id(), message, request.0.span.clone())),
            waiter,
            confirm: Confirm(None),
            queue: request.0.queue.clone(),
            deadline,
            oneway: false,
            cancels: self.0.cancellation,
            ended: false,
            sent,
        })
    }
}

impl SentCall<'_> {
    /// Waits for whatever completes the call first: its reply, its return, the broker's refusal, or the end of the connection.
    async fn answer(&mut self) -> Result<Response, RpcError> {
        let answer = if self.oneway || self.confirm.is_requested() {
            self.confirmed_answer().boxed().await
        } else {
            self.waiter.answer().await
        };
        self.ended = true;
        answer
    }

    async fn confirmed_answer(&mut self) -> Result<Response, RpcError> {
        let confirm = Confirm(self.confirm.0.take());
        let confirmed = self.requester.confirmed(confirm);
        let error = if self.oneway {
            match confirmed.await {
                Ok(()) => return Ok(no_reply()),
                Err(error) => error,
            }
        } else {
            tokio::select! {
                biased;
                // The answer may overtake the confirm.
                answer = self.waiter.answer() => return answer,
                confirmed = confirmed => match confirmed {
                    Ok(()) => return self.waiter.answer().await,
                    Err(error) => error,
                },
            }
        };
        // The broker takes nothing after the message that it forbids.
        let is_last = self.requester.in_flight.is_last(self.waiter.id());
        Err(refused(error, !is_last))
    }
}

/// A time limit in whole milliseconds: nobody asked for the nanoseconds that passed between a call and its sending.
fn shown(limit: Duration) -> String {
    let millis = (limit + Duration::from_micros(500)).as_millis();
    format!(
        "{:?}",
        Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
    )
}

fn attempt_timed_out(sent: &AtomicBool) -> RpcError {
    let message = "no answer within the time of an attempt, which the policy for retries sets";
    let error = RpcError::new(ErrorKind::Timeout, message);
    if sent.load(Ordering::Relaxed) {
        error
    } else {
        error.not_executed()
    }
}

/// The error of a request that was published, and which the broker then did not accept; `followed` by others, it may have been taken
/// before one of those was forbidden.
fn refused(error: TransportError, followed: bool) -> RpcError {
    match error {
        TransportError::Forbidden(_) => in_flight::may_not_publish(error).executed_if(followed),
        TransportError::Unroutable
        | TransportError::Rejected
        | TransportError::Invalid(_)
        | TransportError::NoChannel(_)
        | TransportError::TooLarge(_) => requester::not_sent(error),
        TransportError::Lost(_) | TransportError::Refused(_) | TransportError::Unavailable(_) => {
            RpcError::new(
                ErrorKind::Disconnected,
                "the connection to the broker was lost",
            )
            .with_source(error)
        }
    }
}

/// What a `oneway` call gets: nothing, in MessagePack.
fn no_reply() -> Response {
    Response::new(
        Outcome::Result,
        ContentType::MessagePack,
        Bytes::from_static(&[0xc0]),
    )
}

impl tower_service::Service<Request> for Client {
    type Response = Response;
    type Error = RpcError;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), RpcError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> ResponseFuture {
        ResponseFuture::new(self.clone().send(request))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("connection", &self.0.connection)
            .field("timeout", &self.0.timeout)
            .field("defaults", &self.0.defaults)
            .field("content_type", &self.0.content_type)
            .field("confirms", &self.0.confirms)
            .field("cancellation", &self.0.cancellation)
            .field("mandatory", &self.0.mandatory)
            .field("expiration", &self.0.expiration)
            .field("retry", &self.0.retry)
            .field("coalesces", &self.0.coalescer.is_some())
            .field("max_in_flight", &self.0.max_in_flight)
            .finish()
    }
}
