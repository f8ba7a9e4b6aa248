//! Header frames: the properties of a message (AMQP 0-9-1, 2.3.5.2 and 4.2.6.1).

use std::io;
use std::ops::Range;

use super::malformed::malformed;
use super::table;
use super::text;
use crate::names::UNREADABLE_HEADER;

/// Length of class, weight and the body's size.
const PREFIX: usize = 12;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Short,
    Table,
    Octets(usize),
}

/// Kinds of the properties in their order on the wire. The first one belongs to the highest bit of the flags.
const KINDS: [Kind; 14] = [
    Kind::Short,     // content type
    Kind::Short,     // content encoding
    Kind::Table,     // headers
    Kind::Octets(1), // delivery mode
    Kind::Octets(1), // priority
    Kind::Short,     // correlation id
    Kind::Short,     // reply to
    Kind::Short,     // expiration
    Kind::Short,     // message id
    Kind::Octets(8), // timestamp
    Kind::Short,     // type
    Kind::Short,     // user id
    Kind::Short,     // app id
    Kind::Short,     // cluster id
];

const HEADERS: usize = 2;
const CORRELATION_ID: usize = 5;
const MESSAGE_ID: usize = 8;

/// Repairs the properties of a message in place. Returns a replacement of at most `limit` bytes if that is not enough.
pub(super) fn repair(payload: &mut [u8], limit: usize) -> io::Result<Option<Vec<u8>>> {
    let properties = Properties::read(payload)?;
    let headers = properties.places[HEADERS].clone();
    let defect = match headers.map(|headers| table::check(&mut payload[headers][4..])) {
        Some(Err(defect)) => Some(defect.reason()),
        _ => properties.defect,
    };
    let Some(reason) = defect else {
        return Ok(None);
    };
    let marked = properties.marked(payload, reason, true);
    if marked.len() <= limit {
        return Ok(Some(marked));
    }
    Ok(Some(properties.marked(payload, reason, false)))
}

/// Reduces a returned message, which lapin logs, to its ids. Returns the replacement and the size of the body.
pub(super) fn blank(payload: &mut [u8]) -> io::Result<(Vec<u8>, u64)> {
    let properties = Properties::read(payload)?;
    let size = payload[4..].first_chunk().copied().map(u64::from_be_bytes);
    let mut out = payload[..4].to_vec();
    out.extend_from_slice(&[0; 8]);
    let ids = [CORRELATION_ID, MESSAGE_ID]
        .into_iter()
        .filter(|&id| properties.places[id].is_some());
    let flags = ids.clone().fold(0, |flags, id| flags | flag(id));
    out.extend_from_slice(&flags.to_be_bytes());
    for id in ids {
        out.extend_from_slice(properties.get(payload, id));
    }
    Ok((out, size.unwrap_or_default()))
}

/// The bit of a property.
fn flag(property: usize) -> u16 {
    0x8000 >> property
}

/// Positions of the properties of a message, with their lengths.
struct Properties {
    places: [Option<Range<usize>>; KINDS.len()],
    /// The defect that hides further properties, if there is one.
    defect: Option<&'static str>,
}

impl Properties {
    /// Finds the properties, and turns their texts into UTF-8.
    fn read(payload: &mut [u8]) -> io::Result<Self> {
        if payload.len() < PREFIX {
            return Err(malformed("a header frame that is too short"));
        }
        let mut properties = Self {
            places: [const { None }; KINDS.len()],
            defect: None,
        };
        let Some(flags) = payload[PREFIX..].first_chunk().copied() else {
            properties.defect = Some("the properties are missing");
            return Ok(properties);
        };
        let mut at = PREFIX + 2;
        let mut flags = u16::from_be_bytes(flags);
        loop {
            let property = flags.leading_zeros() as usize;
            let Some(&kind) = KINDS.get(property) else {
                break; // No bits are left, or only bits without a meaning.
            };
            flags &= !flag(property);
            let Some(length) = length(&payload[at..], kind) else {
                if kind == Kind::Table && payload.len() - at >= 4 {
                    properties.places[property] = Some(at..payload.len());
                }
                properties.defect = Some("the properties end early");
                return Ok(properties);
            };
            let place = at..at + length;
            at = place.end;
            if kind == Kind::Short {
                text::repair(&mut payload[place.clone()][1..]);
            }
            properties.places[property] = Some(place);
        }
        if at < payload.len() {
            properties.defect = Some("there are bytes after the properties");
        }
        Ok(properties)
    }

    fn get<'a>(&self, payload: &'a [u8], property: usize) -> &'a [u8] {
        self.places[property]
            .clone()
            .map_or(&[], |place| &payload[place])
    }

    /// Returns the same properties with headers that contain the reason for which they are incomplete.
    fn marked(&self, payload: &mut [u8], reason: &str, with_others: bool) -> Vec<u8> {
        let mut out = payload[..PREFIX].to_vec();
        let present = |&property: &usize| property == HEADERS || self.places[property].is_some();
        let flags = (0..KINDS.len())
            .filter(present)
            .fold(0, |flags, property| flags | flag(property));
        out.extend_from_slice(&flags.to_be_bytes());
        for property in (0..KINDS.len()).filter(present) {
            if property != HEADERS {
                out.extend_from_slice(self.get(payload, property));
                continue;
            }
            let headers = match &self.places[HEADERS] {
                Some(headers) if with_others => &mut payload[headers.clone()][4..],
                _ => &mut [],
            };
            table::rewrite(headers, Some((UNREADABLE_HEADER, reason)), &mut out);
        }
        out
    }
}

/// Length of the property at the beginning of these bytes, if it is complete.
fn length(bytes: &[u8], kind: Kind) -> Option<usize> {
    let length = match kind {
        Kind::Short => 1 + usize::from(*bytes.first()?),
        Kind::Table => 4_usize.saturating_add(u32::from_be_bytes(*bytes.first_chunk()?) as usize),
        Kind::Octets(octets) => octets,
    };
    (length <= bytes.len()).then_some(length)
}
