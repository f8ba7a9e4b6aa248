//! `rpc tail`: the calls of running servers, as they happen.

use std::collections::BTreeMap;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use rpc_core::instances::{
    TapAnswer, TapBody, TapEvent, TapEventKind, TapFault, TapItems, TapOutcome, TapRequest,
};
use rpc_core::{ConnectionState, ContentType, Tap};
use serde::Serialize;
use serde_json::value::RawValue;
use unicode_width::UnicodeWidthChar;

use crate::app::App;
use crate::cli::duration;
use crate::failure::{Exit, Failure};
use crate::instances::instance_that_starts;
use crate::output::{note, visible};
use crate::units::{self, count, short_id};

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Prints a line for each request and each answer. Watching changes nothing for callers and servers. The servers must allow it with \
`ServerBuilder::tap(true)`. The instances that run at the start are watched, and not those that start later. Times are in UTC, by the \
clock of the instance. Events that exceed the limits of a server are left out and counted.

  rpc tail Fib
  rpc tail Shop --method order --outcome error
  rpc tail Shop --header tenant=a --take 10")]
pub(crate) struct Args {
    /// Name of the service.
    service: String,

    /// Shows only the calls of this method.
    #[arg(long, value_name = "NAME")]
    method: Option<String>,

    /// Shows only calls whose requests have this header, or this value of it.
    #[arg(long, value_name = "NAME[=VALUE]")]
    header: Option<String>,

    /// Shows only calls with this outcome: the request and the answer, once the call has ended.
    #[arg(long)]
    outcome: Option<Outcome>,

    /// Shows only the calls of the instance with this id, or this beginning of an id.
    #[arg(long, value_name = "ID")]
    instance: Option<String>,

    /// Time for which calls are watched. A server shows them for 10 minutes at most.
    #[arg(long, short, value_name = "TIME", default_value = "1m", value_parser = duration)]
    duration: Duration,

    /// Ends after N events.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    take: Option<u64>,
}

/// An outcome as a user types it.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Outcome {
    Result,
    Error,
    Fault,
}

impl From<Outcome> for TapOutcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Result => Self::Result,
            Outcome::Error => Self::Error,
            Outcome::Fault => Self::Fault,
        }
    }
}

pub(crate) async fn run(args: Args, app: &mut App) -> Result<(), Failure> {
    let mut tap = open(&args, app).await?;
    let mut left = args.take.unwrap_or(u64::MAX);
    let mut last_error = None;
    while let Some(event) = tap.next().await {
        let is_event = match &event.kind {
            TapEventKind::Ended { error } => {
                if let Some(error) = error {
                    note(format_args!(
                        "the instance {} is watched no longer: {}",
                        visible(&event.instance),
                        visible(error)
                    ));
                }
                last_error = error.clone();
                false
            }
            // Skipped events are shown, and are not counted.
            kind => !matches!(kind, TapEventKind::Skipped { .. }),
        };
        match app.out.is_json() {
            true => app.out.json_line(&Record::of(&event))?,
            false => {
                if let Some(line) = line(&event) {
                    app.out.line(line.shown(width()))?;
                }
            }
        }
        left -= u64::from(is_event);
        if left == 0 {
            return Ok(());
        }
    }
    match last_error {
        None => Ok(()),
        Some(_) => {
            let connection = app.broker.connection().await?;
            let exit = match connection.state().current() {
                ConnectionState::Reconnecting { .. } => Exit::NoBroker,
                _ => Exit::Unroutable,
            };
            Err(Failure::new(
                exit,
                format!("no instance of {} is watched any longer", args.service),
            ))
        }
    }
}

/// Starts to watch, and tells on standard error which instances are watched and which are not.
async fn open(args: &Args, app: &App) -> Result<Tap, Failure> {
    let client = app.client().await?;
    let within = app.global.within;
    let mut query = client
        .tap(&args.service)
        .within(within)
        .duration(args.duration);
    if let Some(method) = &args.method {
        query = query.method(method);
    }
    match args.header.as_ref().map(|header| header.split_once('=')) {
        None => {}
        Some(Some((name, value))) => query = query.header_value(name, value),
        Some(None) => query = query.header(args.header.clone().unwrap_or_default()),
    }
    if let Some(outcome) = args.outcome {
        query = query.outcome(outcome.into());
    }
    if let Some(start) = &args.instance {
        let instances = client.instances(&args.service).within(within).await?;
        query = query.instance(&instance_that_starts(start, &instances)?.id);
    }
    let tap = query.await?;
    for (instance, error) in tap.refused() {
        note(format_args!(
            "the instance {} is not watched: {}",
            visible(&instance.id),
            visible(&error.to_string())
        ));
    }
    let watched = count(tap.instances().len(), "instance");
    note(format_args!("watching {watched} of {}", args.service));
    Ok(tap)
}

/// Columns of the terminal; `None` if the output is no terminal, whose lines are not cut.
fn width() -> Option<usize> {
    let (terminal_size::Width(columns), _) = terminal_size::terminal_size_of(std::io::stdout())?;
    Some(columns.into())
}

/// A line for people: the part that is always shown, and the part that may be cut.
struct Line {
    head: String,
    body: String,
    style: Style,
}

impl Line {
    /// Returns the line, cut to a number of columns.
    fn shown(&self, width: Option<usize>) -> String {
        let text = format!("{}  {}", visible(&self.head), visible(&self.body));
        let text = match width {
            None => text.trim_end(),
            Some(width) => cut(text.trim_end(), width),
        };
        let style = self.style;
        format!("{style}{text}{style:#}")
    }
}

/// Returns the beginning of a text that fits into a number of columns.
fn cut(text: &str, width: usize) -> &str {
    let mut columns = 0;
    for (at, character) in text.char_indices() {
        columns += character.width().unwrap_or(0);
        if columns > width {
            return &text[..at];
        }
    }
    text
}

/// Returns the line of an event; `None` for one that standard error tells of.
fn line(event: &TapEvent) -> Option<Line> {
    let time = units::moment(event.time);
    let time = time.get(11..23).unwrap_or(&time); // Without the date, to the millisecond.
    let id = short_id(&event.instance);
    let (number, method) = match &event.call {
        Some(call) => (format!("#{}", call.number), call.method.as_deref()),
        None => (String::new(), None),
    };
    let begin = |arrow, method: Option<&str>| {
        format!("{time} {id} {arrow} {number} {}", method.unwrap_or("-"))
    };
    let mut style = Style::new();
    let (head, body) = match &event.kind {
        TapEventKind::Request(request) => {
            let method = method.or(request.method.as_deref());
            let redelivered = match request.redelivered {
                true => " redelivered",
                false => "",
            };
            let head = begin('→', method) + redelivered;
            (head, text_of(&request.body))
        }
        TapEventKind::StreamOpened => (begin('↔', method), "stream opened".to_owned()),
        TapEventKind::Answer(answer) => {
            let outcome = outcome(answer.outcome);
            style = match answer.outcome {
                TapOutcome::Error => AnsiColor::Yellow.on_default(),
                TapOutcome::Fault => AnsiColor::Red.on_default(),
                _ => style,
            };
            let lasted = units::duration(answer.duration);
            let head = format!("{} {outcome} {lasted}", begin('←', method));
            (head, text_of_answer(answer))
        }
        TapEventKind::Skipped { events } => {
            style = style.dimmed();
            let body = format!("{} left out", count(*events, "event"));
            (format!("{time} {id} …"), body)
        }
        _ => return None,
    };
    Some(Line { head, body, style })
}

fn outcome(outcome: TapOutcome) -> &'static str {
    match outcome {
        TapOutcome::Result => "result",
        TapOutcome::Error => "error",
        _ => "fault",
    }
}

fn text_of_answer(answer: &TapAnswer) -> String {
    let items = answer.items.map(|TapItems { received, sent, .. }| {
        format!("{} received, {sent} sent", count(received, "item"))
    });
    let fault = answer.fault.as_ref();
    let fault = fault.map(|TapFault { code, message, .. }| format!("{code}: {message}"));
    let body = answer.body.as_ref().map(text_of);
    let parts = [items, fault, body];
    parts.into_iter().flatten().collect::<Vec<_>>().join("  ")
}

/// Returns a body as JSON, or a description of one that cannot be read.
fn text_of(body: &TapBody) -> String {
    if let Some(json) = json_of(body) {
        return json;
    }
    let content_type = body.content_type.as_deref();
    let content_type = content_type.unwrap_or("no content type");
    let beginning = match is_text(body) {
        true => format!(": {}", String::from_utf8_lossy(&body.bytes)),
        false => String::new(),
    };
    format!("({}, {content_type}){beginning}", count(body.len, "byte"))
}

/// Returns a whole body as JSON; `None` if that is not possible.
fn json_of(body: &TapBody) -> Option<String> {
    body.encoded()?.to_json().ok()
}

/// Returns `true` for content that people can read although it is cut.
fn is_text(body: &TapBody) -> bool {
    match body.encoded() {
        Some(encoded) => encoded.content_type() != ContentType::MessagePack,
        None => {
            let content_type = body.content_type.as_deref().unwrap_or("text/plain");
            content_type.starts_with("text/") || content_type.contains("json")
        }
    }
}

/// An event as JSON.
#[derive(Serialize)]
struct Record<'a> {
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
    fn of(event: &'a TapEvent) -> Self {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_by_columns() {
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("abcd", 3), "abc");
        // Two columns each.
        assert_eq!(cut("日本語", 5), "日本");
        assert_eq!(cut("→x", 1), "→");
    }
}
