//! JSON, written and read by `serde_json`.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::buffer;
use super::checked::Rules;
use super::nesting::{MAX_DEPTH, TOO_DEEP, count};
use crate::error::BoxError;

pub(super) fn encode<T: Serialize>(value: &T) -> Result<Bytes, BoxError> {
    buffer::write(|body| serde_json::to_writer(body, &Rules::JSON.check(value)).map_err(unwritable))
}

/// Explains why a value cannot be written. Keys of maps are the only values that `serde_json` itself refuses.
fn unwritable(error: serde_json::Error) -> BoxError {
    match error.is_syntax() {
        true => format!(
            "JSON has only texts as the keys of maps ({error}): \
             use MessagePack, a list of pairs, or another type of key"
        )
        .into(),
        false => error.into(),
    }
}

pub(super) fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, BoxError> {
    check_depth(body)?;
    Ok(serde_json::from_slice(body)?)
}

/// Refuses values that are nested too deep. `serde_json` has the same limit, but none for values that it skips or keeps as text.
fn check_depth(body: &[u8]) -> Result<(), BoxError> {
    // Few bodies have that many brackets, and counting them is cheap.
    let may_open = |byte| matches!(byte, b'[' | b'{');
    if body.len() < MAX_DEPTH || count(body, may_open) < MAX_DEPTH {
        return Ok(());
    }
    let mut depth = 0_usize;
    let mut bytes = body.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => skip_text(&mut bytes),
            _ => {}
        }
        if depth >= MAX_DEPTH {
            return Err(TOO_DEEP.into());
        }
    }
    Ok(())
}

/// Skips the rest of a text, including its closing quote.
fn skip_text(bytes: &mut std::slice::Iter<'_, u8>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => {
                bytes.next();
            }
            _ => {}
        }
    }
}

/// Encodes the value of a struct's only field, without the field's name.
pub(super) fn encode_bare<A: Serialize>(arguments: &A) -> Result<Bytes, BoxError> {
    // The JSON text is kept, because `serde_json::Value` would write some numbers differently and has no numbers of 128 bits.
    let body = encode(arguments)?;
    let fields: BTreeMap<String, &RawValue> = serde_json::from_slice(&body)?;
    match fields.into_values().collect::<Vec<_>>()[..] {
        [argument] => Ok(body.slice_ref(argument.get().as_bytes())),
        _ => Err("a plain request must have exactly one argument".into()),
    }
}

pub(super) fn decode_bare<A: DeserializeOwned>(
    body: &[u8],
    arguments: usize,
) -> Result<A, BoxError> {
    match arguments {
        // In brackets, the bare argument is an array of arguments in declaration order. A body cannot add a second element: arrays of
        // the wrong length and bytes after an array are refused.
        1 => decode(&[b"[", body, b"]"].concat()),
        _ if body.is_empty() => decode(b"{}"),
        _ => decode(body),
    }
}
