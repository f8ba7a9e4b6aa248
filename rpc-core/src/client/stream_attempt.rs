//! One attempt to open a stream: a request that is published once, and its first answer.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use smol_str::SmolStr;
use tokio::time::Instant;

use super::attempt::RequestSender;
use crate::codec::ContentType;
use crate::deadline;
use crate::error::{ErrorKind, RpcError};
use crate::headers::Headers;
use crate::message::{Request, Response};
use crate::requester::{
    Directions, Requester, StreamAnswer, StreamOutlet, StreamWaiter, not_sent, refused,
};
use crate::streaming::{Inbox, Side};
use crate::telemetry::StreamMeter;
use crate::transport::{ChannelMode, Confirm};
use crate::wire::{Accepted, QUESTION_CONTENT_TYPE, StreamQuestion, StreamTerms};

/// First answer to the request of a stream.
pub(super) enum FirstAnswer {
    Accepted(Box<AcceptedStream>),
    Replied(Response),
}

/// A stream that a server has accepted.
pub(super) struct AcceptedStream {
    pub(super) requester: Arc<Requester>,
    pub(super) waiter: StreamWaiter,
    /// Headers of the first answer.
    pub(super) headers: Headers,
    pub(super) outlet: StreamOutlet,
}

/// The request of a stream that a server may have. Dropping it before its first answer cancels the call.
#[derive(Debug)]
pub(super) struct SentStream {
    requester: Arc<Requester>,
    /// `None` after the first answer.
    waiter: Option<StreamWaiter>,
    confirm: Confirm,
    queue: Arc<str>,
    content_type: ContentType,
    max_len: usize,
    /// The moment until which the first answer is awaited.
    until: Instant,
    silence: Duration,
    /// Tells servers that the call was dropped.
    cancels: bool,
}

impl RequestSender {
    /// Publishes a request that opens a stream. From then on a server may see the request.
    pub(super) async fn publish_stream(
        &self,
        request: &Request,
        until: Instant,
        terms: StreamTerms,
        directions: Directions,
    ) -> Result<SentStream, RpcError> {
        let requester = self.requester().await?;
        let channel = match self.mode(request) {
            ChannelMode::Confirm => requester.confirm_channel().await?,
            _ => requester.channel.clone(),
        };
        let receives = (directions != Directions::Outgoing).then_some(terms.window);
        let method = request.method().unwrap_or_default();
        let meter = StreamMeter::of_client(request.0.service.clone(), method);
        let inbox = Inbox::new(Side::Caller, receives, meter);
        // Before the request is published, so that the fastest answer finds the stream.
        let waiter = StreamWaiter::register(&requester.in_flight, directions, inbox)?;
        let id = waiter.registration.correlation_id();
        let frame_max = channel.frame_max();
        let mut message = self.message(request, id, until, frame_max, Some(terms))?;
        requester.address(&mut message, true);
        let sending = channel.publish(request.0.queue.clone().into(), message);
        let confirm = sending.wait().await.map_err(not_sent)?;
        Ok(SentStream {
            requester,
            waiter: Some(waiter),
            confirm,
            queue: request.0.queue.clone(),
            content_type: self.options.content_type_of(request),
            max_len: self.connection.max_message_size(),
            until,
            silence: terms.silence,
            cancels: self.options.cancellation,
        })
    }

    /// Publishes a question that opens a stream of items to an instance, at its private queue.
    pub(super) async fn publish_stream_question(
        &self,
        requester: Arc<Requester>,
        question: &StreamQuestion,
        private_queue: SmolStr,
        until: Instant,
    ) -> Result<SentStream, RpcError> {
        let StreamTerms {
            window, silence, ..
        } = question.terms();
        let inbox = Inbox::new(Side::Caller, Some(window), StreamMeter::none());
        let directions = Directions::Incoming;
        let waiter = StreamWaiter::register(&requester.in_flight, directions, inbox)?;
        let mut message = question.message(waiter.registration.correlation_id(), until);
        requester.address(&mut message, true);
        let channel = match self.options.channel_mode() {
            ChannelMode::Confirm => requester.confirm_channel().await?,
            _ => requester.channel.clone(),
        };
        let sending = channel.publish(private_queue.clone(), message);
        let confirm = sending.wait().await.map_err(not_sent)?;
        Ok(SentStream {
            requester,
            waiter: Some(waiter),
            confirm,
            queue: Arc::from(&*private_queue),
            content_type: QUESTION_CONTENT_TYPE,
            max_len: self.connection.max_message_size(),
            until,
            silence,
            cancels: false, // A server cancels calls of its services only.
        })
    }
}

impl SentStream {
    /// Waits for the first event: the answer of a server, the return of the request, the broker's refusal, or the end of the connection.
    pub(super) async fn answer(mut self) -> Result<FirstAnswer, RpcError> {
        let answer = self.next().await;
        match (answer?, self.waiter.take()) {
            (StreamAnswer::Accepted(accepted), Some(waiter)) => {
                let outlet = self.outlet(&waiter, &accepted);
                Ok(FirstAnswer::Accepted(Box::new(AcceptedStream {
                    requester: self.requester.clone(),
                    waiter,
                    headers: accepted.headers,
                    outlet,
                })))
            }
            (StreamAnswer::Replied(response), _) => Ok(FirstAnswer::Replied(response)),
            (StreamAnswer::Accepted(_) | StreamAnswer::Started(_), _) => Err(RpcError::new(
                ErrorKind::BadReply,
                "the server's answers came in a wrong order",
            )),
        }
    }

    async fn next(&mut self) -> Result<StreamAnswer, RpcError> {
        let Some(waiter) = &mut self.waiter else {
            return std::future::pending().await;
        };
        let confirm = Confirm(self.confirm.0.take());
        let answer = if confirm.is_requested() {
            let confirmed = self.requester.confirmed(confirm);
            let refusal = tokio::select! {
                biased;
                // The answer may overtake the confirm.
                answer = waiter.answers.next() => return answer,
                confirmed = confirmed.boxed() => confirmed.err(),
            };
            match refusal {
                None => waiter.answers.next().await,
                Some(error) => {
                    // After a forbidden message, the broker accepts no more on the channel.
                    let is_last = self.requester.in_flight.is_last(waiter.registration.id());
                    Err(refused(error, !is_last))
                }
            }
        } else {
            waiter.answers.next().await
        };
        if answer.is_err() {
            self.waiter = None; // The call is over, and no server works on it.
        }
        answer
    }

    fn outlet(&self, waiter: &StreamWaiter, accepted: &Accepted) -> StreamOutlet {
        StreamOutlet::new(
            self.requester.clone(),
            accepted,
            waiter.registration.correlation_id(),
            self.content_type,
            self.max_len,
        )
    }
}

impl Drop for SentStream {
    fn drop(&mut self) {
        let Some(mut waiter) = self.waiter.take() else {
            return;
        };
        match waiter.answers.arrived() {
            Some(Ok(StreamAnswer::Accepted(accepted))) => {
                self.outlet(&waiter, &accepted).stop_soon();
            }
            Some(_) => {}
            None => {
                if Instant::now() >= self.until {
                    self.requester.in_flight.health.failed();
                }
                // At the time limit too: a server knows the limit of the whole stream only.
                if self.cancels {
                    let id = waiter.registration.id();
                    let known_until = deadline::after(self.silence);
                    let canceller = &self.requester.canceller;
                    canceller.cancel(&self.queue, id, known_until);
                }
            }
        }
    }
}
