//! Events as JSON.

use std::collections::BTreeMap;

use rpc_core::instances::{
    TapAnswer, TapBody, TapEvent, TapEventKind, TapFault, TapItems, TapOutcome, TapRequest,
};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{is_text, json_of, outcome};
use crate::units;

/// An event as JSON.
#[derive(Serialize)]
pub(super) struct Record<'a> {
    /// Time in the form of RFC 3339.
    time: String,
    instance: &'a str,
    service: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    call: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<&'a str>,
    #[serde(flatten)]
    kind: Kind<'a>,
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Kind<'a> {
    Request {
        queue: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        app_id: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        user_id: Option<&'a str>,
        headers: &'a BTreeMap<String, String>,
        arguments: Body,
        /// Milliseconds until the caller's deadline.
        #[serde(skip_serializing_if = "Option::is_none")]
        remaining_ms: Option<f64>,
        redelivered: bool,
        to_all: bool,
    },
    StreamOpened,
    Answer {
        outcome: &'static str,
        duration_ms: f64,
        headers: &'a BTreeMap<String, String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        result: Option<Body>,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<Body>,
        #[serde(skip_serializing_if = "Option::is_none")]
        fault: Option<&'a TapFault>,
        #[serde(skip_serializing_if = "Option::is_none")]
        items: Option<TapItems>,
    },
    Skipped {
        events: u64,
    },
    Ended {
        error: Option<&'a str>,
    },
    Unknown,
}

/// A body: its JSON, or a description of one that is cut or cannot be read.
#[derive(Serialize)]
#[serde(untagged)]
enum Body {
    Json(Box<RawValue>),
    Other {
        content_type: Option<String>,
        /// Length in bytes.
        len: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        beginning: Option<String>,
    },
}

impl Body {
    fn of(body: &TapBody) -> Self {
        let json = json_of(body).and_then(|json| RawValue::from_string(json).ok());
        match json {
            Some(json) => Self::Json(json),
            None => Self::Other {
                content_type: body.content_type.clone(),
                len: body.len,
                beginning: is_text(body).then(|| String::from_utf8_lossy(&body.bytes).into_owned()),
            },
        }
    }
}

impl<'a> Record<'a> {
    pub(super) fn of(event: &'a TapEvent) -> Self {
        let call = event.call.as_ref();
        let mut method = call.and_then(|call| call.method.as_deref());
        let kind = match &event.kind {
            TapEventKind::Request(request) => {
                method = method.or(request.method.as_deref());
                Kind::of_request(request)
            }
            TapEventKind::StreamOpened => Kind::StreamOpened,
            TapEventKind::Answer(answer) => Kind::of_answer(answer),
            TapEventKind::Skipped { events } => Kind::Skipped { events: *events },
            TapEventKind::Ended { error } => Kind::Ended {
                error: error.as_deref(),
            },
            _ => Kind::Unknown,
        };
        Self {
            time: units::moment(event.time),
            instance: &event.instance,
            service: &event.service,
            call: call.map(|call| call.number),
            method,
            correlation_id: call.and_then(|call| call.correlation_id.as_deref()),
            kind,
        }
    }
}

impl<'a> Kind<'a> {
    fn of_request(request: &'a TapRequest) -> Self {
        Self::Request {
            queue: &request.queue,
            app_id: request.app_id.as_deref(),
            user_id: request.user_id.as_deref(),
            headers: &request.headers.values,
            arguments: Body::of(&request.body),
            remaining_ms: request.remaining.map(units::millis),
            redelivered: request.redelivered,
            to_all: request.to_all,
        }
    }

    fn of_answer(answer: &'a TapAnswer) -> Self {
        let body = |outcome| {
            let body = answer.body.as_ref().filter(|_| answer.outcome == outcome);
            body.map(Body::of)
        };
        Self::Answer {
            outcome: outcome(answer.outcome),
            duration_ms: units::millis(answer.duration),
            headers: &answer.headers.values,
            result: body(TapOutcome::Result),
            error: body(TapOutcome::Error),
            fault: answer.fault.as_ref(),
            items: answer.items,
        }
    }
}
