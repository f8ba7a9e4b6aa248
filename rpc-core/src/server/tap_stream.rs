//! The stream of one watcher of the calls of a server: from the question to the end.

use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::stream;
use smol_str::SmolStr;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until};
use tracing::debug;

use super::instance::Instance;
use super::outbox::{Outbox, OutgoingReply};
use super::private_queue::REMEDY;
use super::stream::{lost, server_is_stopping};
use super::tap::{MAX_WATCHERS, Watching};
use crate::batching::ReplyForm;
use crate::codec::{self, ContentType};
use crate::error::{ErrorKind, RpcError};
use crate::headers::Headers;
use crate::instances::{TapEvent, TapEventKind, TapFilter};
use crate::message::StreamError;
use crate::names::TAP;
use crate::streaming::{End, Inbox, Limits, Outlet, Side, send_controls, send_items, watch};
use crate::telemetry::StreamMeter;
use crate::transport::{Message, Reply};
use crate::wire::{self, Accepted, Amount, Frame, StreamLabel};

/// Longest time for which calls are watched.
const MAX_DURATION: Duration = Duration::from_secs(10 * 60);

/// Longest silence of a watcher, whatever the question says. Watchers give a sign of life each minute at least. One that is silent for longer is
/// gone, and holds one of the few places.
const MAX_SILENCE: Duration = Duration::from_secs(3 * 60);

/// The time between two messages about events that were left out.
const SKIPPED_PERIOD: Duration = Duration::from_secs(1);

/// A question that opens a stream of calls, and that the server accepts.
pub(super) struct TapOpening {
    instance: Arc<Instance>,
    watching: Watching,
    events: mpsc::Receiver<Arc<TapEvent>>,
    content_type: ContentType,
    window: Amount,
    silence: Duration,
    private_queue: SmolStr,
    reply_to: SmolStr,
    question: Message,
}

impl Instance {
    /// Decides about a question to the private queue. An error is the fault that the watcher gets.
    pub(super) fn open_tap(
        self: &Arc<Self>,
        question: &mut Message,
        reply_to: &SmolStr,
    ) -> Result<TapOpening, RpcError> {
        let content_type = wire::supported_content_type(question)?;
        let refused = |reason: String| RpcError::new(ErrorKind::BadRequest, reason);
        if !self.options.tap {
            return Err(RpcError::new(
                ErrorKind::PermissionDenied,
                "this server does not show its calls; to allow it, start the server with `ServerBuilder::tap(true)`",
            ));
        }
        if question.topic.is_some() {
            return Err(refused(format!(
                "'{TAP}' opens a stream, so the request must go to the private queue of one instance, which the answers to 'rpc.ping' name"
            )));
        }
        let filter: TapFilter =
            codec::decode_arguments(&question.body, content_type, TapFilter::NAMES).map_err(
                |cause| refused(format!("the arguments of '{TAP}' cannot be read: {cause}")),
            )?;
        if !self
            .queues
            .iter()
            .any(|queue| queue.service == filter.service)
        {
            let service = &filter.service;
            return Err(refused(format!("this server does not serve '{service}'")));
        }
        let terms = wire::take_terms(&mut question.headers).and_then(|terms| {
            let window = Amount {
                items: terms.window_items?,
                bytes: terms.window_bytes?,
            };
            Some((window, terms.silence?.min(MAX_SILENCE)))
        });
        let Some((window, silence)) = terms else {
            return Err(refused(format!(
                "'{TAP}' opens a stream, and the request lacks one of the headers 'rpc-items', 'rpc-bytes' and 'rpc-silence'"
            )));
        };
        if question.correlation_id.is_none() {
            return Err(refused("the request lacks a `correlation_id`".to_owned()));
        }
        let Some(private_queue) = self.private_queue.lock().clone() else {
            return Err(RpcError::new(
                ErrorKind::PermissionDenied,
                format!("the server has no private queue, which streams need: {REMEDY}"),
            ));
        };
        if self.tap.streams().is_stopping() {
            return Err(server_is_stopping());
        }
        let Some((watching, events)) = self.tap.watch(filter) else {
            return Err(RpcError::new(
                ErrorKind::Overloaded,
                format!(
                    "{MAX_WATCHERS} programs watch this server already, which is the limit: try again when one of them has ended"
                ),
            ));
        };
        Ok(TapOpening {
            instance: self.clone(),
            watching,
            events,
            content_type,
            window,
            silence,
            private_queue,
            reply_to: reply_to.clone(),
            question: std::mem::take(question),
        })
    }
}

impl TapOpening {
    /// Sends the events to the watcher, until one of the two ends.
    pub(super) async fn run(self, outbox: Weak<Outbox>) {
        let Self {
            instance,
            watching,
            events,
            content_type,
            window,
            silence,
            private_queue,
            reply_to,
            question,
        } = self;
        let inbox = Inbox::new(Side::Server, None, StreamMeter::none());
        // There are as many streams as places of watchers.
        let Some(open) = instance.tap.streams().register(inbox) else {
            return;
        };
        let outlet = TapOutlet {
            outbox,
            reply_to,
            label: StreamLabel {
                stream: open.id.clone(),
                correlation_id: question.correlation_id.clone(),
                content_type: question.content_type.clone(),
                app_id: Some(instance.connection.app_id()),
                user_id: None, // The outbox adds the user.
            },
            max_len: instance.connection.max_message_size(),
        };
        let accepted = Accepted {
            stream: open.id.clone(),
            private_queue,
            window: None,
            headers: Headers::new(),
        };
        let accepted = accepted.into_message(&outlet.label, &instance.id);
        if outlet.publish(accepted).await.is_err() {
            return;
        }
        let inbox = &open.inbox;
        inbox.open(Some(window));
        let shown = Shown {
            until: Instant::now() + watching.duration().min(MAX_DURATION),
            instance: instance.clone(),
            watching,
            events,
            content_type,
            ticks: ticks(),
            end: None,
        };
        let limits = Limits {
            silence,
            deadline: None,
            result_within: None,
        };
        let items = pin!(stream::unfold(shown, async |mut shown| {
            let item = shown.next().await?;
            Some((item, shown))
        }));
        tokio::select! {
            biased;
            _ = send_items(inbox, &outlet, items) => {}
            end = watch(inbox, limits, &outlet) => {
                debug!(?end, "a watcher of the calls is gone");
                if let End::Failed(error) = end {
                    let items = inbox.sent();
                    let error = Some(error.into());
                    let _ = outlet.send(Frame::End { items, error }).await; // The session may be lost.
                }
            }
            _ = send_controls(inbox, limits, &outlet) => {}
        }
    }
}

fn ticks() -> Interval {
    let mut ticks = interval_at(Instant::now() + SKIPPED_PERIOD, SKIPPED_PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// The events of a watcher, as items of its stream.
struct Shown {
    instance: Arc<Instance>,
    watching: Watching,
    events: mpsc::Receiver<Arc<TapEvent>>,
    content_type: ContentType,
    until: Instant,
    /// The moments at which the watcher is told of events that were left out.
    ticks: Interval,
    /// The end, once it is decided; an error ends the stream early.
    end: Option<Result<(), RpcError>>,
}

impl Shown {
    async fn next(&mut self) -> Option<Result<Bytes, StreamError>> {
        loop {
            if self.end.is_some() {
                if let Some(skipped) = self.skipped() {
                    return Some(self.item(&skipped));
                }
                let end = self.end.replace(Ok(()))?;
                return end.err().map(|error| Err(error.into()));
            }
            tokio::select! {
                biased;
                () = sleep_until(self.until) => {
                    self.watching.watcher.skip(self.events.len());
                    self.end = Some(Ok(()));
                }
                _ = self.ticks.tick() => {
                    if let Some(skipped) = self.skipped() {
                        return Some(self.item(&skipped));
                    }
                }
                Some(event) = self.events.recv() => return Some(self.item(&event)),
                () = self.instance.tap.streams().stopped() => {
                    self.end = Some(Err(server_is_stopping()));
                }
            }
        }
    }

    /// Returns the event that others were left out; `None` if there were none.
    fn skipped(&self) -> Option<TapEvent> {
        let watcher = &self.watching.watcher;
        let events = watcher.take_skipped();
        (events > 0).then(|| TapEvent {
            instance: self.instance.id.to_string(),
            service: watcher.service().to_owned(),
            time: SystemTime::now(),
            call: None,
            kind: TapEventKind::Skipped { events },
        })
    }

    fn item(&self, event: &TapEvent) -> Result<Bytes, StreamError> {
        codec::encode(event, self.content_type).map_err(|cause| {
            let reason = format!("an event could not be encoded: {cause}");
            RpcError::new(ErrorKind::BadReply, reason).into()
        })
    }
}

/// The way to a watcher.
struct TapOutlet {
    /// Not held while the stream waits, because the session is over once only the session itself holds the outbox.
    outbox: Weak<Outbox>,
    reply_to: SmolStr,
    label: StreamLabel,
    max_len: usize,
}

impl TapOutlet {
    async fn publish(&self, message: Message) -> Result<(), RpcError> {
        let outbox = self.outbox.upgrade();
        let outbox = outbox.filter(|outbox| outbox.is_open()).ok_or_else(lost)?;
        let outgoing = OutgoingReply {
            reply: Reply {
                queue: self.reply_to.clone(),
                message,
            },
            form: ReplyForm::Alone,
            token: None,
        };
        outbox.reply(outgoing).wait().await;
        Ok(())
    }
}

impl Outlet for TapOutlet {
    async fn send(&self, frame: Frame) -> Result<(), RpcError> {
        self.publish(frame.into_message(&self.label)).await
    }

    fn is_blocked(&self) -> bool {
        let outbox = self.outbox.upgrade();
        outbox.is_some_and(|outbox| outbox.is_blocked())
    }

    fn max_len(&self) -> usize {
        self.max_len
    }
}
