//! One stream: the acceptance of its request, the handler and its items, and the end.
//!
//! A request for a method with streams runs in a task of its own. Once the server has accepted it, it is acknowledged, and holds neither a slot of
//! the pool nor a place of the prefetch.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use parking_lot::Mutex;
use smol_str::SmolStr;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{Instrument, debug};

use super::outbox::{Outbox, OutgoingReply};
use super::pool;
use super::private_queue::REMEDY;
use super::received::{ReceivedRequest, Source};
use super::statistics::Recording;
use super::streams::OpenStream;
use super::tapped::Tapped;
use crate::batching::{AckToken, ReplyForm};
use crate::cancellation::Cancellation;
use crate::codec::ContentType;
use crate::deadline;
use crate::definition::Method;
use crate::error::{ErrorKind, RpcError};
use crate::headers::Headers;
use crate::message::{ItemStream, Outcome, Request, Response, Slot, StreamError};
use crate::streaming::{End, Inbox, Limits, Outlet, Side, send_controls, send_items, watch};
use crate::telemetry::{Observed, StreamMeter};
use crate::transport::{Message, Reply};
use crate::wire::{Accepted, Amount, Frame, History, StreamLabel, started};

/// Longest silence of a caller, whatever the request says. Callers give a sign of life each minute at least, so a caller that is silent for
/// longer is gone, and its stream holds a place of `max_streams`.
const MAX_SILENCE: Duration = Duration::from_secs(15 * 60);

/// Time for which a handler that receives items may go on after an error has ended them.
const GRACE: Duration = Duration::from_secs(1);

/// A request for a method with streams.
pub(super) struct StreamRequest {
    pub(super) received: ReceivedRequest,
    pub(super) method: &'static Method,
    pub(super) slot: pool::Slot,
}

impl StreamRequest {
    /// Runs a request to the end of its streams. The slot is free once the server has accepted the request.
    pub(super) async fn run(self) {
        let Self {
            mut received,
            method,
            slot,
        } = self;
        let is_at_most_once = received.is_at_most_once();
        let ReceivedRequest {
            source,
            token,
            history: History { deliveries, .. },
            message,
            ..
        } = &mut received;
        let (source, deliveries) = (&*source, *deliveries);
        let call = source.register(message);
        // A handler that receives items learns from their end that its caller is gone.
        let cancellation = match method.stream_argument {
            Some(_) => Cancellation::default(),
            None => call.cancellation.clone(),
        };
        // A block of its own, because its parts borrow the request.
        let answer = 'answer: {
            let observed = source.observe(Some(method), message, token.as_ref(), deliveries);
            let recorded = Box::new(Recorded {
                recording: source.record(Some(method), message),
                observed,
                tapped: source.tap(Some(method), message, deliveries),
            });
            let signals = Signals {
                handler: &cancellation,
                dropped: &call.cancellation,
            };
            let request = source.decode(Some(method), message, deliveries, &cancellation);
            let admitted =
                request.and_then(|request| Admitted::of(source, method, message, request, signals));
            let settles_first = is_at_most_once && admitted.is_ok();
            let settled = source.settle_before(settles_first, token, deliveries).await;
            if let Err(error) = settled {
                break 'answer Err(error);
            }
            match admitted {
                Err(error) => {
                    let result = Err(error);
                    recorded.ended(&result);
                    Ok(Some(result))
                }
                Ok(Admitted { opening, stream }) => {
                    let span = recorded.observed.span().clone();
                    let _open = stream.inbox().count_as_open(span.clone());
                    *stream.recorded.lock() = Some(recorded);
                    let running = stream.run(opening, token, slot);
                    Ok(running.instrument(span).await)
                }
            }
        };
        let executed = source.execution(deliveries, &cancellation);
        drop(call);
        match answer {
            Ok(Some(result)) => {
                if let Err(error) = &result {
                    source.report_fault(error);
                }
                received.reply(result, executed).await;
            }
            Ok(None) => {}
            Err(error) => received.requeue_later(error).boxed().await,
        }
    }
}

/// A request that may run, and its stream.
struct Admitted<'a> {
    opening: Opening,
    /// Boxed, because each step of the task would keep its memory.
    stream: Box<Stream<'a>>,
}

/// Parts of a request that are used until its stream is open.
struct Opening {
    request: Request,
    /// Private queue that the caller is to write to.
    private_queue: SmolStr,
    /// The caller's window.
    window: Amount,
    /// The moment until which the caller waits for the first answer.
    waits_until: Instant,
}

/// Signals that a call is cancelled.
#[derive(Clone, Copy)]
struct Signals<'a> {
    /// The signal that the handler sees.
    handler: &'a Cancellation,
    /// Given once the caller has dropped the call.
    dropped: &'a Cancellation,
}

impl<'a> Admitted<'a> {
    /// Decides about a request. An error is the fault that the caller gets.
    fn of(
        source: &'a Source,
        method: &'static Method,
        message: &Message,
        request: Request,
        signals: Signals<'a>,
    ) -> Result<Self, RpcError> {
        let instance = &*source.instance;
        let service = source.served().service;
        let refused = |reason: &str| {
            let name = method.name;
            let reason = format!("{service}.{name} has a stream: {reason}");
            RpcError::new(ErrorKind::BadRequest, reason)
        };
        if source.to_all {
            return Err(refused(
                "a call to all instances cannot have streams; call one instance",
            ));
        }
        let terms = request.0.streams.as_deref();
        let terms = terms.and_then(|terms| {
            let window = Amount {
                items: terms.window_items?,
                bytes: terms.window_bytes?,
            };
            Some((window, terms.silence?.min(MAX_SILENCE)))
        });
        let Some((window, silence)) = terms else {
            return Err(refused(
                "the request lacks one of the headers 'rpc-items', 'rpc-bytes' and 'rpc-silence', or one of them is no number of at least 0; \
                 plain clients, batches, and clients of an older contract without the stream cannot call the method",
            ));
        };
        let Some(reply_to) = message.reply_to.clone() else {
            return Err(refused(
                "the request lacks `reply_to`, so the items would reach no caller",
            ));
        };
        if source.outbox.is_direct_reply_to(&reply_to) {
            return Err(refused(
                "its items cannot be sent to an address of direct reply-to; use a reply queue",
            ));
        }
        if message.correlation_id.is_none() {
            return Err(refused("the request lacks a `correlation_id`"));
        }
        let Some(private_queue) = instance.private_queue.lock().clone() else {
            return Err(RpcError::new(
                ErrorKind::PermissionDenied,
                format!("the server has no private queue, which streams need: {REMEDY}"),
            ));
        };
        let deadline = request.0.deadline.moment();
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(deadline::passed_at_the_server());
        }
        if signals.dropped.is_cancelled() {
            return Err(caller_is_gone());
        }
        if instance.streams.is_stopping() {
            return Err(server_is_stopping());
        }
        let own_window = method.stream_argument.map(|_| instance.options.window);
        let meter = StreamMeter::of_server(service, method.name);
        let inbox = Inbox::new(Side::Server, own_window, meter);
        let Some(open) = instance.streams.register(inbox) else {
            return Err(RpcError::new(
                ErrorKind::Overloaded,
                format!(
                    "the server has {} open streams, which is its limit; `ServerBuilder::max_streams` sets another",
                    instance.options.max_streams
                ),
            ));
        };
        let label = StreamLabel {
            stream: open.id.clone(),
            correlation_id: message.correlation_id.clone(),
            content_type: message.content_type.clone(),
            app_id: Some(instance.connection.app_id()),
            user_id: None, // The outbox adds the user.
        };
        let waits_until = match message.expiration {
            Some(millis) => deadline::after(Duration::from_millis(millis.into())),
            None => deadline::after(silence),
        };
        let limits = Limits {
            silence,
            deadline,
            result_within: None,
        };
        Ok(Self {
            opening: Opening {
                request,
                private_queue,
                window,
                waits_until,
            },
            stream: Box::new(Stream {
                source,
                method,
                open,
                reply_to,
                label,
                limits,
                signals,
                recorded: Mutex::new(None),
            }),
        })
    }
}

/// Statistics and telemetry of a stream, and its watchers. Dropping them counts the stream as dropped.
struct Recorded<'a> {
    recording: Recording<'a>,
    observed: Observed,
    tapped: Option<Box<Tapped<'a>>>,
}

impl Recorded<'_> {
    fn ended(mut self, result: &Result<Response, RpcError>) {
        self.observed.ended(Some(result));
        self.recording.ended(result);
        Tapped::ended(self.tapped, result);
    }
}

/// A stream whose request has been admitted. Also the way to its caller.
struct Stream<'a> {
    source: &'a Source,
    method: &'static Method,
    open: OpenStream<'a>,
    reply_to: SmolStr,
    label: StreamLabel,
    limits: Limits,
    signals: Signals<'a>,
    /// `None` once the end is recorded.
    recorded: Mutex<Option<Box<Recorded<'a>>>>,
}

/// Reason why a stream ends before its handler has ended it.
enum Interruption {
    CallerIsGone,
    DeadlinePassed,
    /// The caller broke the rules.
    Violation(RpcError),
    ServerIsStopping,
    /// The session is lost: nothing can be sent.
    Lost,
}

impl Interruption {
    /// The error with which the caller's items end.
    fn error(&self) -> RpcError {
        match self {
            Self::CallerIsGone => caller_is_gone(),
            Self::DeadlinePassed => deadline::passed_at_the_server(),
            Self::Violation(error) => error.copied(),
            Self::ServerIsStopping => server_is_stopping(),
            Self::Lost => lost(),
        }
    }
}

fn caller_is_gone() -> RpcError {
    RpcError::new(
        ErrorKind::Cancelled,
        "the caller is gone, or has dropped the call",
    )
}

pub(super) fn server_is_stopping() -> RpcError {
    RpcError::new(ErrorKind::Cancelled, "the server is stopping")
}

pub(super) fn lost() -> RpcError {
    RpcError::new(
        ErrorKind::Disconnected,
        "the server has lost the connection that the stream went over",
    )
}

impl Stream<'_> {
    fn outbox(&self) -> &Outbox {
        &self.source.outbox
    }

    fn inbox(&self) -> &Inbox {
        &self.open.inbox
    }

    /// Runs the handler and sends its items. Returns the ordinary reply, if the stream ends with one; it is recorded.
    async fn run(
        &self,
        opening: Opening,
        token: &mut Option<AckToken>,
        slot: pool::Slot,
    ) -> Option<Result<Response, RpcError>> {
        let Opening {
            request,
            private_queue,
            window,
            waits_until,
        } = opening;
        let receives = self.method.stream_argument.is_some();
        let answer = if receives {
            self.accept(Headers::new(), &private_queue, token).await;
            drop(slot);
            // Boxed, because the items that follow would keep its memory.
            Box::pin(self.receive(request)).await?
        } else {
            let answer = Box::pin(self.source.answer(request, self.signals.handler));
            let answer = tokio::select! {
                biased;
                answer = answer => answer,
                () = self.outbox().lost() => return None,
                // Usually a notice comes first. A caller that is gone sends none, and its handler would keep the slot.
                () = sleep_until(waits_until) => Err(deadline::passed_at_the_server()),
            };
            drop(slot);
            answer
        };
        let mut response = match answer {
            Ok(response) => response,
            Err(error) => return Some(self.answered(Err(error))),
        };
        let Some(items) = response.items.take().and_then(|items| items.take()) else {
            return Some(self.answered(Ok(response)));
        };
        if self.source.instance.streams.is_stopping() {
            return Some(self.answered(Err(server_is_stopping())));
        }
        if receives {
            let message = started(response.headers, &self.label);
            self.publish(message, None).await;
        } else {
            self.accept(response.headers, &private_queue, token).await;
        }
        self.inbox().open(Some(window));
        self.drive(items).await;
        None
    }

    /// Tells the caller that the server runs the request, and acknowledges the request.
    async fn accept(
        &self,
        headers: Headers,
        private_queue: &SmolStr,
        token: &mut Option<AckToken>,
    ) {
        let instance = &self.source.instance;
        let window = self.method.stream_argument.map(|_| instance.options.window);
        let accepted = Accepted {
            stream: self.open.id.clone(),
            private_queue: private_queue.clone(),
            window,
            headers,
        };
        if let Some(recorded) = &mut *self.recorded.lock() {
            recorded.recording.accepted();
            if let Some(tapped) = &mut recorded.tapped {
                tapped.opened(self.inbox());
            }
        }
        let message = accepted.into_message(&self.label, &instance.id);
        self.publish(message, token.take()).await;
    }

    /// Runs a handler that receives the caller's items, until its first answer. `None` if no caller waits for the answer.
    async fn receive(&self, mut request: Request) -> Option<Result<Response, RpcError>> {
        let reader = self.inbox().reader();
        if let Some(streams) = &mut request.0.streams {
            streams.items = Some(Slot::new(Box::new(move |_| reader)));
        }
        let mut answering = pin!(self.source.answer(request, self.signals.handler));
        let mut heeds_stop = true;
        loop {
            let interruption = tokio::select! {
                biased;
                // First, because a handler answers when it sees that its caller has broken the rules.
                interruption = self.interrupted(heeds_stop) => interruption,
                answer = &mut answering => return Some(answer),
            };
            let error = interruption.error();
            match interruption {
                // All items have arrived: the handler may give its result.
                Interruption::ServerIsStopping if self.inbox().is_complete() => {
                    heeds_stop = false;
                    continue;
                }
                Interruption::DeadlinePassed => return Some(Err(error)),
                _ => {}
            }
            self.inbox().fail(error.copied());
            let _ = timeout(GRACE, &mut answering).await; // The caller gets no answer of the handler.
            return match interruption {
                // A result would pretend that the handler got all items.
                Interruption::Violation(_) | Interruption::ServerIsStopping => Some(Err(error)),
                Interruption::Lost => None,
                _ => {
                    self.ended(&Err(error));
                    None
                }
            };
        }
    }

    /// Sends the items of the handler, to the end of the stream.
    async fn drive(&self, mut items: ItemStream) {
        let interruption = tokio::select! {
            biased;
            sent = send_items(self.inbox(), self, &mut items) => match sent {
                Ok(_) => return,
                Err(_) => Interruption::Lost,
            },
            interruption = self.interrupted(true) => interruption,
        };
        let error = interruption.error();
        match interruption {
            Interruption::Lost => {}
            Interruption::CallerIsGone => self.ended(&Err(error.copied())),
            _ => {
                let end = Frame::End {
                    items: self.inbox().sent(),
                    error: Some(StreamError::Rpc(error.copied())),
                };
                let _ = self.send(end).await; // An error means that the session is lost.
            }
        }
        if self.method.stream_argument.is_some()
            && !matches!(interruption, Interruption::DeadlinePassed)
        {
            self.inbox().fail(error);
            // Further items reach no caller.
            let _ = timeout(GRACE, async {
                while let Some(Ok(_)) = items.next().await {
                    yield_now().await;
                }
            })
            .await;
        }
    }

    /// Keeps the stream until something interrupts it.
    async fn interrupted(&self, heeds_stop: bool) -> Interruption {
        tokio::select! {
            biased;
            () = self.outbox().lost() => Interruption::Lost,
            end = watch(self.inbox(), self.limits, self) => match end {
                End::DeadlinePassed => Interruption::DeadlinePassed,
                End::Failed(error) => Interruption::Violation(error),
                End::Silent => {
                    debug!(
                        silence = ?self.limits.silence,
                        correlation_id = self.label.correlation_id.as_deref(),
                        "a stream ends: its caller gives no signs of life"
                    );
                    Interruption::CallerIsGone
                }
                // The other reasons are those of a caller's side.
                End::Stopped | End::Finished | End::Abandoned | End::NoResult => {
                    Interruption::CallerIsGone
                }
            },
            () = self.signals.dropped.cancelled() => Interruption::CallerIsGone,
            () = self.source.instance.streams.stopped(), if heeds_stop => {
                Interruption::ServerIsStopping
            }
            _ = send_controls(self.inbox(), self.limits, self) => Interruption::Lost,
        }
    }

    /// Records the end of the stream; the first one counts.
    fn ended(&self, result: &Result<Response, RpcError>) {
        let recorded = self.recorded.lock().take();
        if let Some(recorded) = recorded {
            recorded.ended(result);
        }
    }

    /// Records an ordinary reply.
    fn answered(&self, answer: Result<Response, RpcError>) -> Result<Response, RpcError> {
        self.ended(&answer);
        answer
    }

    async fn publish(&self, message: Message, token: Option<AckToken>) {
        let queue = self.reply_to.clone();
        let outgoing = OutgoingReply {
            reply: Reply { queue, message },
            form: ReplyForm::Alone,
            token,
        };
        self.outbox().reply(outgoing).wait().await;
    }
}

/// All messages of an open stream to its caller. The end is recorded before it is sent, like a reply.
impl Outlet for Stream<'_> {
    async fn send(&self, frame: Frame) -> Result<(), RpcError> {
        if let Frame::End { error, .. } = &frame {
            self.ended(&ending(error.as_ref()));
        }
        if !self.outbox().is_open() {
            return Err(lost());
        }
        self.publish(frame.into_message(&self.label), None).await;
        Ok(())
    }

    fn is_blocked(&self) -> bool {
        self.outbox().is_blocked()
    }

    fn max_len(&self) -> usize {
        self.source.instance.connection.max_message_size()
    }
}

/// The outcome of a stream that ended, as statistics and telemetry take it.
fn ending(error: Option<&StreamError>) -> Result<Response, RpcError> {
    let outcome = match error {
        None => Outcome::Result,
        Some(StreamError::Own(_)) => Outcome::Error,
        Some(StreamError::Rpc(error)) => {
            debug!(kind = ?error.kind(), error = ?error.to_string(), "a stream ends with a fault");
            return Err(error.copied());
        }
    };
    Ok(Response::new(
        outcome,
        ContentType::MessagePack,
        Bytes::new(),
    ))
}

#[cfg(test)]
mod tests;
