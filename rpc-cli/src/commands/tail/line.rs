//! Events as lines for people.

use anstyle::{AnsiColor, Style};
use rpc_core::instances::{
    TapAnswer, TapBody, TapEvent, TapEventKind, TapFault, TapItems, TapOutcome,
};

use super::{is_text, json_of, outcome};
use crate::output::{fitting, terminal_size, visible};
use crate::units::{self, count, short_id};

/// Columns of the terminal; `None` if the output is no terminal, whose lines are not cut.
pub(super) fn width() -> Option<usize> {
    terminal_size().map(|(columns, _)| columns)
}

/// A line for people: the part that is always shown, and the part that may be cut.
pub(super) struct Line {
    head: String,
    body: String,
    style: Style,
}

impl Line {
    /// Returns the line, cut to a number of columns.
    pub(super) fn shown(&self, width: Option<usize>) -> String {
        let text = format!("{}  {}", visible(&self.head), visible(&self.body));
        let text = match width {
            None => text.trim_end(),
            Some(width) => fitting(text.trim_end(), width),
        };
        let style = self.style;
        format!("{style}{text}{style:#}")
    }
}

/// Returns the line of an event; `None` for one that standard error tells of.
pub(super) fn line(event: &TapEvent) -> Option<Line> {
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
