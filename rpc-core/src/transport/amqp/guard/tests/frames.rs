//! Test frames, built byte by byte.

use amq_protocol::frame::{AMQPFrame, parse_frame};
use amq_protocol::types::{AMQPValue, FieldTable, ShortString};
use fastrand::Rng;

pub(super) const HEADERS: u16 = 1 << 13;
pub(super) const CORRELATION_ID: u16 = 1 << 10;
pub(super) const REPLY_TO: u16 = 1 << 9;
pub(super) const MESSAGE_ID: u16 = 1 << 7;
pub(super) const TYPE: u16 = 1 << 5;

pub(super) fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![kind];
    frame.extend(channel.to_be_bytes());
    frame.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
    frame.extend(payload);
    frame.push(206);
    frame
}

/// A header frame for a body of `size` bytes.
pub(super) fn header(channel: u16, size: u64, flags: u16, properties: &[Vec<u8>]) -> Vec<u8> {
    let mut payload = vec![0, 60, 0, 0];
    payload.extend(size.to_be_bytes());
    payload.extend(flags.to_be_bytes());
    payload.extend(properties.concat());
    frame(2, channel, &payload)
}

pub(super) fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text].concat()
}

pub(super) fn long(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
    [&length, bytes].concat()
}

/// A table of these entries, with its length.
pub(super) fn table(entries: &[(&[u8], Vec<u8>)]) -> Vec<u8> {
    let entries: Vec<_> = entries
        .iter()
        .map(|(key, value)| [short(key), value.clone()].concat())
        .collect();
    long(&entries.concat())
}

/// Arrays in arrays.
pub(super) fn nested_arrays(depth: usize) -> Vec<u8> {
    (0..depth).fold(Vec::new(), |inner, _| {
        [b"A".to_vec(), long(&inner)].concat()
    })
}

/// Tables in tables.
pub(super) fn nested_tables(depth: usize) -> Vec<u8> {
    let innermost = [b"F".to_vec(), long(b"")].concat();
    (1..depth).fold(innermost, |inner, _| {
        [b"F".to_vec(), table(&[(b"k", inner)])].concat()
    })
}

/// Parses bytes with lapin's parser; `None` if it refuses a frame.
pub(super) fn parse(mut bytes: &[u8]) -> Option<Vec<AMQPFrame>> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let (rest, frame) = parse_frame(bytes).ok()?;
        frames.push(frame);
        bytes = rest;
    }
    Some(frames)
}

/// The text of a property. Panics without the property.
pub(super) fn text(property: &Option<ShortString>) -> &str {
    property.as_ref().expect("the property").as_str()
}

/// The headers of a header frame.
pub(super) fn headers(frame: &AMQPFrame) -> Option<&FieldTable> {
    match frame {
        AMQPFrame::Header(_, header) => header.properties.headers().as_ref(),
        _ => None,
    }
}

/// Depth of a table, and the number of its values.
pub(super) fn measure(table: &FieldTable) -> (usize, usize) {
    let values = table.inner().values().map(measure_value);
    values.fold((0, 0), |(depth, count), (deep, more)| {
        (depth.max(deep), count + more)
    })
}

fn measure_value(value: &AMQPValue) -> (usize, usize) {
    let (depth, count) = match value {
        AMQPValue::FieldTable(table) => measure(table),
        AMQPValue::FieldArray(array) => {
            let values = array.as_slice().iter().map(measure_value);
            values.fold((0, 0), |(depth, count), (deep, more)| {
                (depth.max(deep), count + more)
            })
        }
        _ => return (0, 1),
    };
    (depth + 1, count + 1)
}

/// A random header frame, of an honest or a malicious publisher.
pub(super) fn random_header(rng: &mut Rng) -> Vec<u8> {
    let class = if rng.u8(..20) == 0 { rng.u16(..) } else { 60 };
    let mut flags = rng.u16(..);
    if rng.bool() {
        flags &= !3; // Two bits have no meaning.
    }
    if rng.bool() {
        flags |= HEADERS;
    }
    let mut payload = class.to_be_bytes().to_vec();
    payload.extend([0, rng.u8(..2)]);
    payload.extend(rng.u64(..).to_be_bytes());
    payload.extend(flags.to_be_bytes());
    for property in 0..14 {
        if flags & (0x8000 >> property) == 0 {
            continue;
        }
        match property {
            2 => {
                let mut left = if rng.u8(..30) == 0 { 1_200 } else { 40 };
                let depth = rng.usize(..40);
                payload.extend(long(&random_entries(rng, true, depth, &mut left)));
            }
            3 | 4 => payload.push(rng.u8(..)),
            9 => payload.extend(rng.u64(..).to_be_bytes()),
            _ => payload.extend(random_text(rng)),
        }
    }
    if rng.u8(..3) == 0 {
        mutate(rng, &mut payload);
    }
    frame(2, rng.u16(..), &payload)
}

fn random_text(rng: &mut Rng) -> Vec<u8> {
    let length = if rng.u8(..20) == 0 {
        rng.usize(..256)
    } else {
        rng.usize(..12)
    };
    let mut text: Vec<u8> = (0..length).map(|_| rng.u8(b'a'..=b'z')).collect();
    match rng.u8(..40) {
        0 => text.fill_with(|| rng.u8(..)),
        1 => text = "schön ✓".as_bytes().to_vec(),
        2 => text = b"rpc-unreadable".to_vec(),
        _ => {}
    }
    short(&text)
}

fn random_entries(rng: &mut Rng, is_table: bool, depth: usize, left: &mut usize) -> Vec<u8> {
    let mut entries = Vec::new();
    for _ in 0..rng.usize(..=(*left).min(if *left > 100 { 1_200 } else { 4 })) {
        let Some(fewer) = left.checked_sub(1) else {
            break;
        };
        *left = fewer;
        if is_table {
            entries.extend(random_text(rng));
        }
        // Rarely an unknown type.
        let kind = match rng.u8(..200) {
            0 => rng.u8(..),
            _ => *rng.choice(b"tbBsUuIilLfdDTSxFAFAV").unwrap(),
        };
        entries.push(kind);
        let length = match kind {
            b't' | b'b' | b'B' => 1,
            b's' | b'U' | b'u' => 2,
            b'I' | b'i' | b'f' => 4,
            b'l' | b'L' | b'd' | b'T' => 8,
            b'D' => 5,
            b'S' | b'x' => {
                let length = rng.usize(..10);
                entries.extend(u32::try_from(length).unwrap().to_be_bytes());
                length
            }
            b'F' | b'A' => {
                let inner = match depth.checked_sub(1) {
                    Some(depth) => random_entries(rng, kind == b'F', depth, left),
                    None => Vec::new(),
                };
                entries.extend(long(&inner));
                0
            }
            _ => 0,
        };
        entries.extend(std::iter::repeat_with(|| rng.u8(..)).take(length));
    }
    entries
}

/// Changes, inserts or removes a few bytes.
pub(super) fn mutate(rng: &mut Rng, payload: &mut Vec<u8>) {
    for _ in 0..rng.usize(1..4) {
        if payload.is_empty() {
            return;
        }
        let at = rng.usize(..payload.len());
        match rng.u8(..4) {
            0 => payload[at] = rng.u8(..),
            1 => payload[at] ^= 1 << rng.u8(..8),
            2 => payload.insert(at, rng.u8(..)),
            _ => drop(payload.drain(at..(at + rng.usize(..8)).min(payload.len()))),
        }
    }
}
