//! Texts and values of other programs in messages for people.

use serde_json::Value;

/// Number of characters of a value that a message has.
const MAX_SHOWN: usize = 60;

/// Returns a text of another program without characters that would control a terminal.
pub(super) fn shown(text: &str) -> String {
    let escaped = |c: char| match c.is_control() {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    text.chars().map(escaped).collect()
}

/// Returns a value as JSON, shortened.
pub(super) fn shown_value(value: &Value) -> String {
    let text = shown(&value.to_string());
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
