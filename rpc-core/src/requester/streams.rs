//! Streams that are being opened, or are open, by correlation id.
//!
//! A stream is registered before its request is published, so that the fastest answer finds the stream, and unregistered on every exit. The
//! messages of an open stream carry the unguessable id that only the server's `accepted` has brought: a sender that knows the correlation id
//! alone cannot add items, or end them.

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use smol_str::SmolStr;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::in_flight::InFlight;
use crate::error::{ErrorKind, RpcError};
use crate::headers::Headers;
use crate::message::Response;
use crate::names::{ACCEPTED, ALIVE, CREDIT, END, ITEMS, STARTED, STOP};
use crate::streaming::Inbox;
use crate::transport::Message;
use crate::wire::{Accepted, Frame, correlation_id};

/// Answer to a request that opens a stream.
#[derive(Debug)]
pub(crate) enum StreamAnswer {
    /// The server runs the request: the first answer.
    Accepted(Box<Accepted>),
    /// The handler, which receives items, has returned its own stream. Follows [`Accepted`](Self::Accepted).
    Started(Headers),
    /// An ordinary reply: the last answer.
    Replied(Response),
}

/// An answer, or the reason why no answer can come any more.
type Event = Result<StreamAnswer, RpcError>;

/// Directions in which a stream has items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Directions {
    /// From the server.
    Incoming,
    /// From the caller. The server's last message is an ordinary reply.
    Outgoing,
    Both,
}

/// A stream in the table.
#[derive(Debug)]
pub(super) struct PendingStream {
    directions: Directions,
    inbox: Inbox,
    /// Id of the stream, once the server has accepted the request.
    id: OnceLock<SmolStr>,
    /// Takes the answers that are still expected: at most two.
    answers: Mutex<Option<mpsc::UnboundedSender<Event>>>,
}

/// Outcome of a message with an id.
#[derive(Debug)]
pub(super) enum Taken {
    /// The stream goes on.
    GoesOn,
    /// The message was the last of the stream.
    IsOver,
    /// The message is an ordinary reply, whose sender gives ids to its messages.
    Reply(Message),
    Late,
    Foreign,
    Malformed,
}

impl PendingStream {
    /// Takes a message with an id and the correlation id of the stream.
    pub(super) fn take(&self, mut message: Message) -> Taken {
        let kind = message.kind.as_deref().unwrap_or_default();
        if self.is_id(message.message_id.as_deref()) {
            return match kind {
                STARTED => self.started(std::mem::take(&mut message.headers)),
                ACCEPTED => Taken::Late,
                _ => self.take_frame(message),
            };
        }
        match kind {
            ACCEPTED => self.accepted(message),
            STARTED | ITEMS | END | CREDIT | ALIVE | STOP => Taken::Foreign,
            _ => Taken::Reply(message),
        }
    }

    fn is_id(&self, id: Option<&str>) -> bool {
        id.is_some() && self.id.get().map(SmolStr::as_str) == id
    }

    /// Believes the first acceptance only.
    fn accepted(&self, message: Message) -> Taken {
        let Some(accepted) = Accepted::from_message(message) else {
            return Taken::Malformed;
        };
        // Without a window of the server, the caller could never send an item.
        if self.directions != Directions::Incoming && accepted.window.is_none() {
            return Taken::Malformed;
        }
        let mut answers = self.answers.lock();
        let Some(sender) = answers.clone() else {
            return Taken::Late;
        };
        if self.id.set(accepted.stream.clone()).is_err() {
            return Taken::Late;
        }
        if self.directions == Directions::Incoming {
            *answers = None;
        }
        drop(answers);
        self.inbox.open(accepted.window);
        let accepted = StreamAnswer::Accepted(Box::new(accepted));
        match sender.send(Ok(accepted)) {
            Ok(()) => Taken::GoesOn,
            Err(_) => Taken::Late,
        }
    }

    fn started(&self, headers: Headers) -> Taken {
        if self.directions != Directions::Both {
            return Taken::Malformed;
        }
        let Some(answers) = self.answers.lock().take() else {
            return Taken::Late;
        };
        self.inbox.heard();
        match answers.send(Ok(StreamAnswer::Started(headers))) {
            Ok(()) => Taken::GoesOn,
            Err(_) => Taken::Late,
        }
    }

    fn take_frame(&self, message: Message) -> Taken {
        let receives = self.directions != Directions::Outgoing;
        let frame = Frame::from_message(message).filter(|frame| match frame {
            Frame::Items { .. } | Frame::End { .. } => receives,
            Frame::Stop => false, // Only a caller stops a stream.
            Frame::Credit(_) | Frame::Alive => true,
        });
        let Some(frame) = frame else {
            self.inbox.take_malformed();
            return Taken::Malformed;
        };
        let is_over = matches!(frame, Frame::End { .. });
        self.inbox.take(frame);
        match is_over {
            true => Taken::IsOver,
            false => Taken::GoesOn,
        }
    }

    /// Takes an ordinary reply, or the failure to get one. Returns `false` if none is expected.
    pub(super) fn reply(&self, result: Result<Response, RpcError>) -> bool {
        let Some(answers) = self.answers.lock().take() else {
            return false;
        };
        let is_new = answers.send(result.map(StreamAnswer::Replied)).is_ok();
        self.inbox.finish();
        is_new
    }

    /// Takes the return of a message: of the request if no stream is open, else of a message to the server.
    pub(super) fn returned(&self, id: Option<&str>) {
        if self.is_id(id) {
            self.fail(&RpcError::new(
                ErrorKind::Disconnected,
                "the instance that served the stream is gone",
            ));
        }
    }

    /// Ends the stream on this side: with an error in place of the answers that are expected, and as the last item.
    pub(super) fn fail(&self, error: &RpcError) {
        // A server that has accepted the request may have run it.
        let error = error.copied().executed_if(self.id.get().is_some());
        let answers = self.answers.lock().take();
        if let Some(answers) = answers {
            let _ = answers.send(Err(error.copied())); // The call may be over.
        }
        self.inbox.fail(error);
    }
}

/// A registered stream that the server has not accepted yet. Dropping it unregisters the stream.
#[derive(Debug)]
pub(crate) struct StreamWaiter {
    pub(crate) registration: StreamRegistration,
    pub(crate) answers: StreamAnswers,
}

/// The answers to the request of a stream.
#[derive(Debug)]
pub(crate) struct StreamAnswers(mpsc::UnboundedReceiver<Event>);

/// A stream in the table. Dropping it unregisters the stream, which is over at the latest then.
#[derive(Debug)]
pub(crate) struct StreamRegistration {
    id: Uuid,
    stream: Arc<PendingStream>,
    in_flight: Arc<InFlight>,
}

impl StreamWaiter {
    /// Registers a stream under a fresh correlation id. The inbox is the caller's side of the stream.
    pub(crate) fn register(
        in_flight: &Arc<InFlight>,
        directions: Directions,
        inbox: Inbox,
    ) -> Result<Self, RpcError> {
        let id = Uuid::new_v4();
        let (sender, answers) = mpsc::unbounded_channel(); // Holds at most three events.
        let stream = Arc::new(PendingStream {
            directions,
            inbox,
            id: OnceLock::new(),
            answers: Mutex::new(Some(sender)),
        });
        in_flight.add_stream(id, stream.clone())?;
        Ok(Self {
            registration: StreamRegistration {
                id,
                stream,
                in_flight: in_flight.clone(),
            },
            answers: StreamAnswers(answers),
        })
    }
}

impl StreamAnswers {
    /// Waits for the next answer. There is one after [`StreamAnswer::Accepted`] if the caller sends items, else none.
    ///
    /// Dropping the future loses no answer.
    pub(crate) async fn next(&mut self) -> Event {
        // The table uses each sender before it drops the sender.
        let gone = || Err(RpcError::runtime_ended().executed_if(true));
        self.0.recv().await.unwrap_or_else(gone)
    }

    /// Returns an answer that has arrived.
    pub(crate) fn arrived(&mut self) -> Option<Event> {
        self.0.try_recv().ok()
    }
}

impl StreamRegistration {
    pub(crate) fn id(&self) -> Uuid {
        self.id
    }

    pub(crate) fn correlation_id(&self) -> SmolStr {
        correlation_id(self.id)
    }

    pub(crate) fn inbox(&self) -> &Inbox {
        &self.stream.inbox
    }

    /// Ends the stream on this side: with an error in place of the answers that are expected, and as the last item. What arrived before is read
    /// first.
    pub(crate) fn fail(&self, error: &RpcError) {
        self.in_flight.remove_stream(self.id);
        self.stream.fail(error);
    }
}

impl Drop for StreamRegistration {
    fn drop(&mut self) {
        self.in_flight.remove_stream(self.id);
        // A reader must not wait any more. Without an end by now, the task that keeps the stream has ended with its runtime.
        self.stream
            .fail(&RpcError::runtime_ended().executed_if(true));
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::{FutureExt, StreamExt};

    use super::super::dropped::DroppedReplies;
    use super::super::in_flight::EndReason;
    use super::*;
    use crate::codec::ContentType;
    use crate::message::{Outcome, StreamError};
    use crate::streaming::{DEFAULT_WINDOW, Side};
    use crate::telemetry::StreamMeter;
    use crate::transport::TransportError;
    use crate::wire::StreamLabel;

    fn table() -> Arc<InFlight> {
        Arc::new(InFlight::new(Arc::default()))
    }

    fn register(in_flight: &Arc<InFlight>, directions: Directions) -> StreamWaiter {
        let inbox = Inbox::new(
            Side::Caller,
            Some(DEFAULT_WINDOW),
            StreamMeter::of_client("Service", "method"),
        );
        StreamWaiter::register(in_flight, directions, inbox).unwrap()
    }

    fn label(waiter: &StreamWaiter) -> StreamLabel {
        StreamLabel {
            stream: "secret".into(),
            correlation_id: Some(waiter.registration.correlation_id()),
            content_type: Some("application/msgpack".into()),
            app_id: None,
            user_id: None,
        }
    }

    fn accept(in_flight: &InFlight, label: &StreamLabel) {
        let accepted = Accepted {
            stream: label.stream.clone(),
            private_queue: "rpc.instance.i.1".into(),
            window: Some(DEFAULT_WINDOW),
            headers: Headers::new(),
        };
        let message = accepted.into_message(label, "i");
        assert!(in_flight.take_of_stream(message).is_none());
    }

    fn response() -> Result<Response, RpcError> {
        let body = Bytes::from_static(&[0xc0]);
        Ok(Response::new(
            Outcome::Result,
            ContentType::MessagePack,
            body,
        ))
    }

    fn has(in_flight: &InFlight, waiter: &StreamWaiter) -> bool {
        let id = waiter.registration.correlation_id();
        in_flight.stream(&id).is_some()
    }

    #[tokio::test]
    async fn a_stream_is_registered_until_its_end_its_reply_or_its_drop() {
        let in_flight = table();
        let ended = register(&in_flight, Directions::Incoming);
        accept(&in_flight, &label(&ended));
        assert!(has(&in_flight, &ended));
        let end = Frame::End {
            items: 0,
            error: None,
        };
        in_flight.take_of_stream(end.into_message(&label(&ended)));
        assert!(!has(&in_flight, &ended));

        let replied = register(&in_flight, Directions::Outgoing);
        accept(&in_flight, &label(&replied));
        let id = replied.registration.correlation_id();
        in_flight.complete(Some(&id), response());
        assert!(!has(&in_flight, &replied));

        let dropped = register(&in_flight, Directions::Both);
        let id = dropped.registration.correlation_id();
        drop(dropped);
        assert!(in_flight.stream(&id).is_none());
    }

    #[tokio::test]
    async fn replies_with_message_ids_of_other_servers_are_ordinary() {
        let in_flight = table();
        let mut waiter = register(&in_flight, Directions::Incoming);
        let mut reply = Frame::Alive.into_message(&label(&waiter));
        reply.kind = Some("result".into());
        let reply = in_flight.take_of_stream(reply).unwrap();
        in_flight.complete(reply.correlation_id.as_deref(), response());
        let answer = waiter.answers.next().await.unwrap();
        assert!(matches!(answer, StreamAnswer::Replied(_)));
        // A call that has no stream.
        let call = in_flight.register(None).unwrap();
        let mut label = label(&waiter);
        label.correlation_id = Some(call.correlation_id());
        let message = Frame::Alive.into_message(&label);
        assert!(in_flight.take_of_stream(message).is_some());
        assert_eq!(in_flight.dropped(), DroppedReplies::default());
    }

    #[tokio::test]
    async fn the_end_of_the_requester_fails_streams_and_their_answers() {
        let in_flight = table();
        let mut waiting = register(&in_flight, Directions::Incoming);
        let mut open = register(&in_flight, Directions::Both);
        accept(&in_flight, &label(&open));
        open.answers.next().await.unwrap();
        let mut reader = open.registration.inbox().reader();
        in_flight.end(EndReason::Lost(Arc::new("reset by peer".into())));
        for error in [
            waiting.answers.next().await.unwrap_err(),
            open.answers.next().await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Disconnected);
            assert!(error.may_have_executed());
        }
        let last = reader.next().await;
        assert!(matches!(last, Some(Err(StreamError::Rpc(_)))));
        let inbox = Inbox::new(
            Side::Caller,
            None,
            StreamMeter::of_client("Service", "method"),
        );
        let refused = StreamWaiter::register(&in_flight, Directions::Incoming, inbox);
        assert!(!refused.unwrap_err().may_have_executed());
    }

    #[tokio::test]
    async fn a_stream_that_a_server_has_accepted_may_have_run() {
        let in_flight = table();
        let waiter = register(&in_flight, Directions::Incoming);
        accept(&in_flight, &label(&waiter));
        let mut reader = waiter.registration.inbox().reader();
        in_flight.end(TransportError::Forbidden(Arc::new("no".into())).into());
        let Some(Err(StreamError::Rpc(error))) = reader.next().await else {
            panic!("no error");
        };
        assert!(error.may_have_executed());
    }

    #[tokio::test]
    async fn a_forbidden_request_did_not_run_unless_a_message_followed() {
        for followed in [false, true] {
            let in_flight = table();
            let mut waiter = register(&in_flight, Directions::Incoming);
            if followed {
                in_flight.published_after_calls();
            }
            let forbidden = TransportError::Forbidden(Arc::new("no".into()));
            in_flight.end(forbidden.into());
            let error = waiter.answers.next().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied);
            assert_eq!(error.may_have_executed(), followed);
        }
    }

    #[tokio::test]
    async fn a_returned_message_ends_only_the_stream_of_its_id() {
        let in_flight = table();
        let waiter = register(&in_flight, Directions::Incoming);
        let label = label(&waiter);
        accept(&in_flight, &label);
        let mut reader = waiter.registration.inbox().reader();
        let id = label.correlation_id.as_deref();
        in_flight.returned_of_stream(id, "another");
        assert!(reader.next().now_or_never().is_none());
        in_flight.returned_of_stream(id, "secret");
        let Some(Err(StreamError::Rpc(error))) = reader.next().await else {
            panic!("no error");
        };
        assert_eq!(error.kind(), ErrorKind::Disconnected);
    }

    #[tokio::test]
    async fn a_reader_does_not_outlive_the_registration() {
        let in_flight = table();
        let waiter = register(&in_flight, Directions::Incoming);
        let mut reader = waiter.registration.inbox().reader();
        drop(waiter);
        let Some(Err(StreamError::Rpc(error))) = reader.next().await else {
            panic!("no error");
        };
        assert_eq!(error.kind(), ErrorKind::Closed);
        assert!(error.may_have_executed());
    }
}
