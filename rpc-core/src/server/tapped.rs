//! A call that is watched: its events, from the request to the answer.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use smol_str::SmolStr;
use tokio::time::Instant;

use super::received::Source;
use super::statistics::DROPPED;
use super::tap::{Watcher, is_protocols, text_of};
use crate::deadline;
use crate::definition::Method;
use crate::error::RpcError;
use crate::headers::{HIDDEN, Headers, is_secret};
use crate::instances::{
    TapAnswer, TapBody, TapEvent, TapEventKind, TapFault, TapHeaders, TapItems, TapOutcome,
    TapRequest, TappedCall,
};
use crate::message::Response;
use crate::names::SILENCE_HEADER;
use crate::streaming::Inbox;
use crate::transport::Message;

/// Bytes of a body that are shown, and of all headers together.
const MAX_BODY: usize = 16 << 10;
const MAX_HEADERS: usize = 16 << 10;

/// Bytes of other texts that are shown, each.
const MAX_TEXT: usize = 1 << 10;

/// A call that at least one watcher sees. Dropping it before its end shows that the server has abandoned the request.
pub(super) struct Tapped<'a> {
    source: &'a Source,
    watchers: Vec<Arc<Watcher>>,
    call: TappedCall,
    started: Instant,
    /// The request and its time, for watchers that select calls by their outcome.
    request: Option<(SystemTime, TapRequest)>,
    /// Set once the server has accepted a call with streams.
    streams: Option<Inbox>,
    is_over: bool,
}

impl Source {
    /// Shows a request to the watchers. `None` if there are none, as usual.
    pub(super) fn tap(
        &self,
        method: Option<&'static Method>,
        message: &Message,
        deliveries: u32,
    ) -> Option<Box<Tapped<'_>>> {
        match self.instance.tap.is_watched() {
            false => None,
            true => Tapped::begin(self, method, message, deliveries),
        }
    }
}

impl<'a> Tapped<'a> {
    #[cold]
    fn begin(
        source: &'a Source,
        method: Option<&'static Method>,
        message: &Message,
        deliveries: u32,
    ) -> Option<Box<Self>> {
        let tap = &source.instance.tap;
        // A plain request may name no method.
        let name = method.map(|method| method.name).or(message.kind.as_deref());
        let watchers = tap.watchers_of(source.served().service, name, &message.headers);
        if watchers.is_empty() {
            return None;
        }
        let id = message.correlation_id.as_deref();
        let selects_outcome = watchers.iter().any(|watcher| watcher.selects_outcome());
        let request = || request_of(source, message, deliveries);
        let tapped = Self {
            request: selects_outcome.then(|| (SystemTime::now(), request())),
            source,
            watchers,
            call: TappedCall {
                number: tap.number(),
                method: method.map(|method| method.name.to_owned()),
                correlation_id: id.map(|id| cut(id).to_owned()),
            },
            started: Instant::now(),
            streams: None,
            is_over: false,
        };
        tapped.show(None, || TapEventKind::Request(request()));
        Some(Box::new(tapped))
    }

    /// Shows that the server has accepted a request, whose streams are open.
    pub(super) fn opened(&mut self, streams: &Inbox) {
        self.streams = Some(streams.clone());
        self.show(None, || TapEventKind::StreamOpened);
    }

    /// Shows the end of a call, if the call is watched.
    pub(super) fn ended(tapped: Option<Box<Self>>, result: &Result<Response, RpcError>) {
        if let Some(mut tapped) = tapped {
            tapped.end(Some(result));
        }
    }

    fn end(&mut self, result: Option<&Result<Response, RpcError>>) {
        self.is_over = true;
        let outcome = match result {
            Some(Ok(response)) if response.is_error() => TapOutcome::Error,
            Some(Ok(_)) => TapOutcome::Result,
            Some(Err(_)) | None => TapOutcome::Fault,
        };
        let duration = self.started.elapsed();
        if let Some((time, request)) = self.request.take() {
            let wanted = self.wanted(Some(outcome));
            let wanted = wanted.filter(|watcher| watcher.selects_outcome()).collect();
            let kind = || TapEventKind::Request(request.clone());
            self.show_to(wanted, time, kind);
        }
        self.show(Some(outcome), || {
            TapEventKind::Answer(answer_of(result, outcome, duration, self.streams.as_ref()))
        });
    }

    /// Shows an event of the call; the end of the call with its outcome.
    fn show(&self, outcome: Option<TapOutcome>, kind: impl Fn() -> TapEventKind) {
        self.show_to(self.wanted(outcome).collect(), SystemTime::now(), kind);
    }

    fn wanted(&self, outcome: Option<TapOutcome>) -> impl Iterator<Item = &Arc<Watcher>> {
        let watchers = self.watchers.iter();
        watchers.filter(move |watcher| watcher.wants_outcome(outcome))
    }

    fn show_to(
        &self,
        wanted: Vec<&Arc<Watcher>>,
        time: SystemTime,
        kind: impl Fn() -> TapEventKind,
    ) {
        let instance = &self.source.instance;
        instance.tap.show(&wanted, || TapEvent {
            instance: instance.id.to_string(),
            service: self.source.served().service.to_owned(),
            time,
            call: Some(self.call.clone()),
            kind: kind(),
        });
    }
}

impl Drop for Tapped<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.end(None);
        }
    }
}

fn request_of(source: &Source, message: &Message, deliveries: u32) -> TapRequest {
    // The expiration of a request that opens a stream limits the wait for the first answer only.
    let opens_stream = message.headers.get(SILENCE_HEADER).is_some();
    let expiration = message.expiration.filter(|_| !opens_stream);
    let deadline = deadline::from_wire(message.deadline, expiration);
    let owned = |text: &Option<SmolStr>| text.as_deref().map(|text| cut(text).to_owned());
    TapRequest {
        method: owned(&message.kind),
        queue: source.served().queue.to_string(),
        app_id: owned(&message.app_id),
        user_id: owned(&message.user_id),
        headers: headers_of(&message.headers),
        body: body_of(message.content_type.as_deref(), &message.body),
        remaining: deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())),
        redelivered: source.redelivered || source.revived || deliveries > 0,
        to_all: source.to_all,
    }
}

/// Returns the end of a call. Without a result, the server has abandoned the call.
fn answer_of(
    result: Option<&Result<Response, RpcError>>,
    outcome: TapOutcome,
    duration: Duration,
    streams: Option<&Inbox>,
) -> TapAnswer {
    let response = result.and_then(|result| result.as_ref().ok());
    // The end of a stream of results is a response without content.
    let has_body = |response: &&Response| streams.is_none() || !response.body().is_empty();
    let fault = match result {
        Some(Ok(_)) => None,
        Some(Err(error)) => Some(TapFault {
            code: error.kind().fault_code().to_owned(),
            message: cut(&error.to_string()).to_owned(),
        }),
        None => Some(TapFault {
            code: DROPPED.to_owned(),
            message: "the server has abandoned the request".to_owned(),
        }),
    };
    TapAnswer {
        outcome,
        duration,
        headers: response.map_or_else(TapHeaders::default, |response| {
            headers_of(response.headers())
        }),
        body: response.filter(has_body).map(|response| {
            let content_type = response.content_type().to_string();
            body_of(Some(&content_type), response.body())
        }),
        fault,
        items: streams.map(|inbox| TapItems {
            received: inbox.read(),
            sent: inbox.sent(),
        }),
    }
}

fn body_of(content_type: Option<&str>, body: &[u8]) -> TapBody {
    TapBody {
        content_type: content_type.map(|text| cut(text).to_owned()),
        // A copy, because a part of the body would keep the memory of the whole.
        bytes: body[..body.len().min(MAX_BODY)].to_vec(),
        len: body.len() as u64,
    }
}

fn headers_of(headers: &Headers) -> TapHeaders {
    let mut shown = TapHeaders::default();
    let mut len = 0;
    for (name, value) in headers.iter().filter(|(name, _)| !is_protocols(name)) {
        let value = match is_secret(name) {
            true => HIDDEN.to_owned(),
            false => text_of(value),
        };
        len += name.len() + value.len();
        match len <= MAX_HEADERS {
            true => drop(shown.values.insert(name.to_owned(), value)),
            false => shown.left_out += 1,
        }
    }
    shown
}

/// Returns a text, or the beginning of a long one.
fn cut(text: &str) -> &str {
    let mut ends = (0..=text.len().min(MAX_TEXT)).rev();
    let end = ends.find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or_default()]
}
