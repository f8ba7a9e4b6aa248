//! Dead letters as text and as JSON.

use std::time::{SystemTime, UNIX_EPOCH};

use rpc_core::dead_letters::DeadLetter;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::output::{Output, visible};
use crate::units::{UNKNOWN, since};

/// Most bytes of a body that are shown if it is no JSON.
const MAX_BYTES: usize = 4096;

/// Returns the cells of a table.
pub(super) fn row(letter: &DeadLetter) -> [String; 8] {
    let text = |text: &Option<String>| text.clone().unwrap_or_else(|| UNKNOWN.to_owned());
    let now = SystemTime::now();
    let number = |number: Option<u32>| number.map_or(UNKNOWN.to_owned(), |it| it.to_string());
    [
        letter.id.clone(),
        letter.died.map_or(UNKNOWN.to_owned(), |it| since(it, now)),
        text(&letter.reason),
        letter.deaths.to_string(),
        number(letter.deliveries),
        text(&letter.method),
        text(&letter.queue),
        letter.body.len().to_string(),
    ]
}

/// Returns a letter as JSON. `arguments` are the decoded arguments; if they cannot be decoded, `body` has the bytes in hexadecimal digits.
pub(super) fn details(letter: &DeadLetter) -> Value {
    let seconds = |time: Option<SystemTime>| {
        let time = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        time.map(|time| time.as_secs_f64())
    };
    let mut shown = serde_json::to_value(letter).unwrap_or_default();
    shown["died"] = json!(seconds(letter.died));
    shown["deadline"] = json!(seconds(letter.deadline));
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
    let row = row(letter);
    let names = [
        "id",
        "age",
        "reason",
        "deaths",
        "deliveries",
        "method",
        "from queue",
        "bytes",
    ];
    for (name, value) in names.into_iter().zip(&row) {
        out.line(format_args!("{name:<15}{}", visible(value)))?;
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
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
