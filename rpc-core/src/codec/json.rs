//! JSON, written and read by `serde_json`.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_transcode::Transcoder;

use super::buffer;
use super::checked::Rules;
use super::message_pack::{self, MessagePack};
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

/// Converts a value of any type from MessagePack. Bytes become arrays of numbers, as JSON has them for types of this program.
pub(super) fn from_message_pack(body: &[u8]) -> Result<Bytes, BoxError> {
    let mut reader = MessagePack::open(body)?;
    let encoded = encode(&Transcoder::new(reader.value()))?;
    reader.end()?;
    Ok(encoded)
}

/// Converts a value of any type to MessagePack.
pub(super) fn to_message_pack(body: &[u8]) -> Result<Bytes, BoxError> {
    check_depth(body)?;
    let mut reader = serde_json::Deserializer::from_slice(body);
    let encoded = message_pack::encode(&Transcoder::new(&mut reader))?;
    reader.end()?;
    Ok(encoded)
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
