//! Values in messages for people.

use serde_json::Value;

use crate::output::visible;

/// Number of characters of a value that a message has.
const MAX_SHOWN: usize = 60;

/// Returns a value as JSON, shortened.
pub(super) fn shown(value: &Value) -> String {
    let text = visible(&value.to_string());
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
