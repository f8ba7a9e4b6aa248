//! Dead letters as text and as JSON.

use std::fmt::Write;
use std::time::SystemTime;

use rpc_core::dead_letters::DeadLetter;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::output::{Output, visible};
use crate::units::{known, moment, since};

/// Most bytes of a body that are shown if it is no JSON.
const MAX_BYTES: usize = 4096;

/// Header of [`row`].
pub(super) const HEADER: [&str; 8] = [
    "id",
    "age",
    "reason",
    "deaths",
    "deliveries",
    "method",
    "queue",
    "bytes",
];

/// Returns the cells of a table.
pub(super) fn row(letter: &DeadLetter) -> [String; 8] {
    let now = SystemTime::now();
    [
        letter.id.clone(),
        known(letter.died.map(|it| since(it, now))),
        known(letter.reason.as_deref()),
        letter.deaths.to_string(),
        known(letter.deliveries),
        known(letter.method.as_deref()),
        known(letter.queue.as_deref()),
        letter.body.len().to_string(),
    ]
}

/// Returns a letter as JSON. Times have the form of RFC 3339. `arguments` are the decoded arguments; if they cannot be decoded, `body` has the bytes in hexadecimal digits.
pub(super) fn details(letter: &DeadLetter) -> Value {
    // A body of many bytes would become as many values.
    let mut head = letter.clone();
    head.body = Default::default();
    let mut shown = serde_json::to_value(head).unwrap_or_default();
    shown["died"] = json!(letter.died.map(moment));
    shown["deadline"] = json!(letter.deadline.map(moment));
    if let Some(fields) = shown.as_object_mut() {
        fields.remove("body");
    }
    match arguments(letter) {
        Ok(arguments) => shown["arguments"] = arguments,
        Err(reason) => {
            shown["body"] = hex(&letter.body).into();
            shown["not_decoded"] = reason.into();
        }
    }
    shown
}

/// Prints a letter for people.
pub(super) fn print(letter: &DeadLetter, out: &mut Output) -> Result<(), Failure> {
    for (name, value) in HEADER.into_iter().zip(row(letter)) {
        out.line(format_args!("{name:<15}{}", visible(&value)))?;
    }
    let details = details(letter);
    for (name, field) in [
        ("correlation id", "correlation_id"),
        ("caller", "app_id"),
        ("user", "user_id"),
        ("unreadable", "unreadable"),
        ("headers", "headers"),
    ] {
        let value = match &details[field] {
            Value::Null => continue,
            Value::String(text) => visible(text),
            Value::Object(headers) if headers.is_empty() => continue,
            other => visible(&other.to_string()),
        };
        out.line(format_args!("{name:<15}{value}"))?;
    }
    match arguments(letter) {
        Ok(arguments) => {
            out.line("arguments")?;
            out.json(&arguments)
        }
        Err(reason) => {
            let shown = letter.body.get(..MAX_BYTES).unwrap_or(&letter.body);
            out.line(format_args!(
                "body           {}: {}",
                visible(&reason),
                hex(shown)
            ))
        }
    }
}

/// Decodes the arguments, or tells why that is not possible.
fn arguments(letter: &DeadLetter) -> Result<Value, String> {
    let arguments = letter.arguments().ok_or_else(|| {
        let content_type = letter.content_type.as_deref().unwrap_or_default();
        format!("content type '{content_type}' is not decoded")
    })?;
    let text = arguments.to_json().map_err(|error| error.to_string())?;
    serde_json::from_str(&text).map_err(|error| error.to_string())
}

fn hex(bytes: &[u8]) -> String {
    let mut digits = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(digits, "{byte:02x}"); // A write to a text does not fail.
    }
    digits
}
