//! Opens streams: sends the request of a call with streams until a server has accepted it, and opens a stream again that has failed before its
//! first item.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{Stream, StreamExt};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::caller_items;
use super::errors;
use super::keep_stream::OpenStream;
use super::service::{Client, Place};
use super::stream_attempt::{AcceptedStream, FirstAnswer};
use crate::codec::ContentType;
use crate::deadline::{self, FAR_FUTURE};
use crate::error::{ErrorKind, RpcError};
use crate::headers::Headers;
use crate::message::{ItemSource, ItemStream, Outcome, Request, Response, Slot, StreamError};
use crate::middleware::{Attempts, RetryPolicy};
use crate::requester::{Directions, StreamAnswer};
use crate::streaming::Limits;
use crate::task;
use crate::wire::{Amount, StreamTerms, unreadable};

/// Makes a call with streams. Resolves once the server's stream is open, or with the reply if the server sends no stream.
pub(super) async fn open_stream(client: Client, request: Request) -> Result<Response, RpcError> {
    if !task::in_runtime() {
        return Err(RpcError::no_runtime());
    }
    let mut opener = Opener::new(client, request)?;
    let response = opener.open().await?;
    Ok(opener.reopened_on_failure(response))
}

fn plain_client() -> RpcError {
    RpcError::new(
        ErrorKind::Encode,
        "a plain client cannot open streams: the servers of plain requests know single replies only",
    )
}

/// A call with streams.
struct Opener {
    client: Client,
    request: Request,
    content_type: ContentType,
    /// The caller's items, if the method has a stream as its argument.
    items: Option<Slot<ItemSource>>,
    directions: Directions,
    terms: StreamTerms,
    attempts: Attempts<RetryPolicy>,
    started: Instant,
    /// Time in which a first answer is awaited.
    waiting: (Instant, Instant),
    /// Task of the stream that is open, or was.
    task: Option<JoinHandle<()>>,
}

/// Failure of one attempt.
enum Failure {
    /// No server has accepted the request, as far as this client knows.
    NotAccepted(RpcError),
    /// The stream was open.
    Accepted(RpcError),
}

impl From<RpcError> for Failure {
    fn from(error: RpcError) -> Self {
        Self::NotAccepted(error)
    }
}

impl Opener {
    fn new(client: Client, mut request: Request) -> Result<Self, RpcError> {
        let options = &client.sender().options;
        let content_type = options.content_type_of(&request);
        if content_type == ContentType::Plain {
            return Err(plain_client());
        }
        options.defaults.complete(&mut request);
        let streams = request.0.streams.take().unwrap_or_default();
        let sends = streams.sends_items;
        let directions = match (streams.returns_items, sends) {
            (_, false) => Directions::Incoming,
            (false, true) => Directions::Outgoing,
            (true, true) => Directions::Both,
        };
        let started = Instant::now();
        let silence = streams.silence.unwrap_or(options.timeout).min(FAR_FUTURE);
        let deadline = &request.0.deadline;
        let until = match sends {
            false => deadline.fix_first_answer(silence, started),
            true => {
                // The layers around the client wait until the last item of the caller, and for the reply.
                deadline.fix(Duration::MAX, started);
                deadline.first_answer(silence, started)
            }
        };
        if until <= started {
            return Err(deadline::passed_before_the_call());
        }
        let terms = StreamTerms {
            window: Amount {
                items: streams.window_items.unwrap_or(options.window.items),
                bytes: streams.window_bytes.unwrap_or(options.window.bytes),
            },
            silence,
            deadline: deadline.moment(),
        };
        let attempts = Attempts::of(&request, options.retry.clone(), started, until);
        Ok(Self {
            items: sends.then(|| streams.items.unwrap_or_else(Slot::empty)),
            client,
            request,
            content_type,
            directions,
            terms,
            attempts,
            started,
            waiting: (started, until),
            task: None,
        })
    }

    /// Makes attempts until one of them has the response, or fails for good.
    async fn open(&mut self) -> Result<Response, RpcError> {
        loop {
            match self.attempt().await {
                Ok(response) => return Ok(response),
                Err(Failure::Accepted(error)) => self.prepare_again(error).await?,
                Err(Failure::NotAccepted(error)) => {
                    let (since, until) = self.waiting;
                    let (request, connection) = (&self.request, self.client.connection());
                    let (service, queue) = (request.service(), &request.0.queue);
                    let explained =
                        |error| errors::explained(error, connection, service, queue, since, until);
                    self.attempts.failed(request, error, explained).await?;
                }
            }
        }
    }

    /// Waits before another attempt, after a stream that was open has failed before its first item. Returns the error of the call if
    /// there must not be another attempt.
    async fn prepare_again(&mut self, error: RpcError) -> Result<(), RpcError> {
        let is_transient = self.attempts.may_repeat() && error.is_retryable();
        if is_transient && let Some(task) = self.task.take() {
            // The task gives the caller's items back, if none was taken.
            let _ = task.await;
        }
        if !(is_transient && self.has_items()) {
            return Err(self.attempts.ended(error));
        }
        let (now, until) = (Instant::now(), deadline::after(self.terms.silence));
        let until = self
            .terms
            .deadline
            .map_or(until, |deadline| deadline.min(until));
        self.waiting = (now, until);
        self.attempts.extend(until);
        self.attempts
            .failed(&self.request, error, |error| error)
            .await
    }

    /// Returns `true` unless an attempt has taken an item of the caller.
    fn has_items(&self) -> bool {
        self.items.as_ref().is_none_or(|items| !items.is_empty())
    }

    /// Sends the request once.
    async fn attempt(&mut self) -> Result<Response, Failure> {
        if !self.has_items() {
            return Err(caller_items::taken().into());
        }
        let own = self.attempts.attempt_deadline();
        let until = own.unwrap_or(self.waiting.1);
        let timed_out = |sent| match own {
            Some(_) => errors::attempt_timed_out(sent),
            None => {
                let (connection, service) = (self.client.connection(), self.request.service());
                errors::timed_out(connection, service, until - self.waiting.0, sent)
            }
        };
        if until <= Instant::now() {
            return Err(timed_out(false).into());
        }
        let place = self.client.place(until).await?;
        let sender = self.client.sender();
        let publishing = sender.publish_stream(&self.request, until, self.terms, self.directions);
        let sent = timeout_at(until, publishing).await;
        let sent = sent.unwrap_or_else(|_| Err(timed_out(false)))?;
        let answer = timeout_at(until, sent.answer()).await;
        match answer.unwrap_or_else(|_| Err(timed_out(true)))? {
            FirstAnswer::Replied(response) if response.outcome == Outcome::Result => {
                Err(self.no_stream().into())
            }
            FirstAnswer::Replied(response) => Ok(response),
            FirstAnswer::Accepted(stream) => self.follow(*stream, place).await,
        }
    }

    /// Starts the task of a stream that a server has accepted, and waits for the response.
    async fn follow(&mut self, stream: AcceptedStream, place: Place) -> Result<Response, Failure> {
        let AcceptedStream {
            requester,
            waiter,
            headers,
            outlet,
        } = stream;
        let items = self.items.as_ref();
        let items = match items.map(|items| caller_items::lend(items, self.content_type)) {
            None => None,
            Some(Some(items)) => Some(items),
            Some(None) => {
                outlet.stop_soon();
                return Err(Failure::Accepted(caller_items::taken().executed_if(true)));
            }
        };
        // From here on, dropping the reader stops the stream.
        let reader = self.explaining(waiter.registration.inbox().reader());
        let mut answers = waiter.answers;
        let open = OpenStream {
            registration: waiter.registration,
            outlet,
            limits: Limits {
                silence: self.terms.silence,
                deadline: self.terms.deadline,
                result_within: (self.directions == Directions::Outgoing)
                    .then_some(self.terms.silence),
            },
            connection: self.client.connection().clone(),
            service: self.request.0.service.clone(),
            started: self.started,
            span: self.request.0.span.clone(),
            _place: place,
        };
        // A block holds its captures once; an `async fn` copies its arguments.
        let keeping = async move { open.keep(items).await };
        self.task = Some(requester.runtime().spawn(keeping));
        drop(requester);
        if self.directions == Directions::Incoming {
            return streaming(self.content_type, reader, headers);
        }
        match answers.next().await {
            Ok(StreamAnswer::Started(headers)) => streaming(self.content_type, reader, headers),
            Ok(StreamAnswer::Replied(response))
                if self.directions == Directions::Both && response.outcome == Outcome::Result =>
            {
                Err(Failure::Accepted(self.no_stream()))
            }
            Ok(StreamAnswer::Replied(response)) => Ok(response),
            Ok(StreamAnswer::Accepted(_)) => Err(Failure::Accepted(self.no_stream())),
            Err(error) => {
                let error = errors::explained_in_stream(error, self.started, self.terms.deadline);
                Err(Failure::Accepted(error))
            }
        }
    }

    /// Has faults of the server in a stream explained, if the stream has a deadline.
    fn explaining(&self, items: ItemStream) -> ItemStream {
        let (started, deadline) = (self.started, self.terms.deadline);
        if deadline.is_none() {
            return items;
        }
        Box::pin(items.map(move |item| {
            item.map_err(|error| match error {
                StreamError::Rpc(error) => {
                    errors::explained_in_stream(error, started, deadline).into()
                }
                own => own,
            })
        }))
    }

    fn no_stream(&self) -> RpcError {
        let (service, method) = (self.request.service(), self.request.method());
        RpcError::new(
            ErrorKind::BadReply,
            format!(
                "the server's method '{}' of {service} does not stream: it sent a single result; compare the contracts of client and server",
                method.unwrap_or_default()
            ),
        )
    }

    /// Has the stream in a response opened again if it fails before its first item, and the call may be repeated.
    fn reopened_on_failure(self, mut response: Response) -> Response {
        let items = response.items.take();
        if let Some(items) = items.and_then(|items| items.take()) {
            let items = match self.attempts.may_repeat() {
                true => Box::pin(Reopening {
                    first: Some(Box::pin(self.first_item(items))),
                    rest: None,
                }),
                false => items,
            };
            response.items = Some(Slot::new(items));
        }
        response
    }

    /// Returns the first item, and the stream of the others.
    async fn first_item(mut self, mut items: ItemStream) -> (Option<Item>, ItemStream) {
        loop {
            let error = match items.next().await {
                Some(Err(StreamError::Rpc(error))) => error,
                item => return (item, items),
            };
            match self.open_again(error).await {
                Ok(again) => items = again,
                Err(error) => return (Some(Err(error.into())), items),
            }
        }
    }

    async fn open_again(&mut self, error: RpcError) -> Result<ItemStream, RpcError> {
        if error.is_retryable() && !task::in_runtime() {
            return Err(error.with_note(
                "; the stream was not opened again, because it is read outside of a Tokio runtime",
            ));
        }
        let failure = error.copied();
        self.prepare_again(error).await?;
        let response = self.open().await?;
        response
            .items
            .and_then(|items| items.take())
            // The type of a stream's items has no place for the method's error.
            .ok_or_else(|| failure.with_note("; opened again, the service answered with an error"))
    }
}

/// Returns the response of an open stream.
fn streaming(
    content_type: ContentType,
    reader: ItemStream,
    headers: Headers,
) -> Result<Response, Failure> {
    if let Some(reason) = unreadable(&headers) {
        let reason = format!("the headers of the reply cannot be read: {reason}");
        return Err(Failure::Accepted(RpcError::new(
            ErrorKind::BadReply,
            reason,
        )));
    }
    let mut response = Response::streaming(content_type, reader);
    response.headers = headers;
    Ok(response)
}

type Item = Result<Bytes, StreamError>;

/// Items of a stream that is opened again until its first item.
struct Reopening {
    first: Option<BoxFuture<'static, (Option<Item>, ItemStream)>>,
    /// The items after the first.
    rest: Option<ItemStream>,
}

impl Stream for Reopening {
    type Item = Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        if let Some(first) = &mut self.first {
            let (item, rest) = ready!(first.as_mut().poll(cx));
            self.first = None;
            self.rest = Some(rest);
            return Poll::Ready(item);
        }
        match &mut self.rest {
            Some(rest) => rest.as_mut().poll_next(cx),
            None => Poll::Ready(None),
        }
    }
}

#[cfg(test)]
mod tests;
