//! MessagePack, written and read by `rmp_serde`.

use bytes::Bytes;
use rmp::Marker;
use rmp_serde::config::{DefaultConfig, HumanReadableConfig};
use rmp_serde::decode::{Error, ReadRefReader};
use serde::de::{Deserialize, DeserializeOwned};
use serde::ser::Serialize;

use super::buffer;
use super::checked::Rules;
use super::nesting::{MAX_DEPTH, TOO_DEEP, count};
use crate::error::BoxError;

/// Reader of MessagePack.
pub(super) struct MessagePack<'a>(Reader<'a>);

type Reader<'a> =
    rmp_serde::Deserializer<ReadRefReader<'a, [u8]>, HumanReadableConfig<DefaultConfig>>;

impl<'a> MessagePack<'a> {
    fn new(body: &'a [u8], max_depth: usize) -> Self {
        let mut reader = rmp_serde::Deserializer::from_read_ref(body).with_human_readable();
        reader.set_max_depth(max_depth);
        Self(reader)
    }

    /// Creates a reader of one value of any type.
    #[cfg(feature = "json")]
    pub(super) fn open(body: &'a [u8]) -> Result<Self, BoxError> {
        check_depth(body, MAX_DEPTH)?;
        Ok(Self::new(body, MAX_DEPTH))
    }

    /// Creates a reader of the values inside a map or an array, and of the bytes after it.
    pub(super) fn inside(rest: &'a [u8]) -> Result<Self, BoxError> {
        check_depth(rest, MAX_DEPTH - 1)?;
        Ok(Self::new(rest, MAX_DEPTH - 1))
    }

    /// Returns a deserializer of the next value.
    pub(super) fn value(&mut self) -> &mut Reader<'a> {
        &mut self.0
    }

    /// Checks that no bytes are left.
    pub(super) fn end(mut self) -> Result<(), BoxError> {
        // A `bool` consists of its marker only, so reading the marker fails only at the end of the body.
        match bool::deserialize(&mut self.0) {
            Err(Error::InvalidMarkerRead(_)) => Ok(()),
            _ => Err("there are bytes after the value".into()),
        }
    }
}

/// Encodes a value: structs as maps, in serde's human-readable form, as in JSON.
pub(super) fn encode<T: Serialize>(value: &T) -> Result<Bytes, BoxError> {
    buffer::write(|body| {
        let mut writer = rmp_serde::Serializer::new(body)
            .with_struct_map()
            .with_human_readable();
        Ok(Rules::MESSAGE_PACK.check(value).serialize(&mut writer)?)
    })
}

/// Decodes a value of any type.
pub(super) fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, BoxError> {
    check_depth(body, MAX_DEPTH)?;
    decode_own(body)
}

/// Decodes a value of one of the protocol's own types, which may borrow from the body.
pub(crate) fn decode_own<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, BoxError> {
    let mut body = MessagePack::new(body, MAX_DEPTH);
    let value = T::deserialize(body.value())?;
    body.end()?;
    Ok(value)
}

/// Refuses values that are nested too deep. `rmp_serde` has the same limit, but does not count maps that are variants of enums.
fn check_depth(body: &[u8], max_depth: usize) -> Result<(), BoxError> {
    let may_open = |byte| matches!(byte, 0x80..=0x9f | 0xdc..=0xdf);
    if body.len() < max_depth || count(body, may_open) < max_depth {
        return Ok(());
    }
    // The numbers of values that are left: in the body, without a limit, and in each open array or map.
    let mut left = [u64::MAX; MAX_DEPTH];
    let mut depth = 0;
    let mut rest = body;
    // Malformed bytes are left to the decoder, which refuses them.
    while let Some((content, after)) = next(rest) {
        rest = after;
        left[depth] -= 1;
        if let Some(values) = content {
            depth += 1;
            if depth == max_depth {
                return Err(TOO_DEEP.into());
            }
            left[depth] = values;
        }
        while left[depth] == 0 {
            depth -= 1;
        }
    }
    Ok(())
}

/// Skips a value, or only the marker and length of an array or map, and returns the rest of the body. The first item is the number of
/// values inside the array or map.
fn next(body: &[u8]) -> Option<(Option<u64>, &[u8])> {
    let (marker, rest) = body.split_first()?;
    let number = |bytes| {
        let bytes = rest.get(..bytes)?.iter();
        Some(bytes.fold(0_u64, |number, byte| number << 8 | u64::from(*byte)))
    };
    let (len, values) = match Marker::from_u8(*marker) {
        Marker::Null | Marker::True | Marker::False | Marker::Reserved => (0, None),
        Marker::FixPos(_) | Marker::FixNeg(_) => (0, None),
        Marker::U8 | Marker::I8 => (1, None),
        Marker::U16 | Marker::I16 => (2, None),
        Marker::U32 | Marker::I32 | Marker::F32 => (4, None),
        Marker::U64 | Marker::I64 | Marker::F64 => (8, None),
        Marker::FixStr(len) => (len.into(), None),
        Marker::Str8 | Marker::Bin8 => (1 + number(1)?, None),
        Marker::Str16 | Marker::Bin16 => (2 + number(2)?, None),
        Marker::Str32 | Marker::Bin32 => (4 + number(4)?, None),
        // `rmp_serde` reads extensions as arrays.
        Marker::FixExt1 => (2, Some(0)),
        Marker::FixExt2 => (3, Some(0)),
        Marker::FixExt4 => (5, Some(0)),
        Marker::FixExt8 => (9, Some(0)),
        Marker::FixExt16 => (17, Some(0)),
        Marker::Ext8 => (2 + number(1)?, Some(0)),
        Marker::Ext16 => (3 + number(2)?, Some(0)),
        Marker::Ext32 => (5 + number(4)?, Some(0)),
        Marker::FixArray(len) => (0, Some(len.into())),
        Marker::Array16 => (2, Some(number(2)?)),
        Marker::Array32 => (4, Some(number(4)?)),
        Marker::FixMap(len) => (0, Some(2 * u64::from(len))),
        Marker::Map16 => (2, Some(2 * number(2)?)),
        Marker::Map32 => (4, Some(2 * number(4)?)),
    };
    Some((values, rest.get(usize::try_from(len).ok()?..)?))
}

#[cfg(test)]
mod tests {
    use serde::de::IgnoredAny;

    use super::*;

    /// A value for each marker of a scalar.
    fn scalars() -> Vec<Vec<u8>> {
        // Bytes that would open arrays, if they were read as markers.
        let of = |marker: &[u8], len: usize| [marker, &vec![0xdd; len]].concat();
        let mut scalars = vec![vec![7], vec![0xe0], vec![0xc0], vec![0xc2], vec![0xc3]];
        scalars.extend([
            of(&[0xcc], 1),
            of(&[0xcd], 2),
            of(&[0xce], 4),
            of(&[0xcf], 8),
        ]);
        scalars.extend([
            of(&[0xd0], 1),
            of(&[0xd1], 2),
            of(&[0xd2], 4),
            of(&[0xd3], 8),
        ]);
        scalars.extend([of(&[0xca], 4), of(&[0xcb], 8), of(&[0xa3], 3)]);
        for (bytes, markers) in [[0xd9, 0xc4], [0xda, 0xc5], [0xdb, 0xc6]]
            .into_iter()
            .enumerate()
        {
            let zeros = vec![0; (1 << bytes) - 1];
            for marker in markers {
                scalars.push(of(&[&[marker], &zeros[..], &[9]].concat(), 9));
            }
        }
        scalars
    }

    /// Beginnings of arrays and maps, up to their last value.
    fn openings() -> Vec<Vec<u8>> {
        let mut openings: Vec<Vec<u8>> = [
            &[0x91][..],
            &[0x81, 0xa1, b'k'],
            &[0xdc, 0, 1],
            &[0xdd, 0, 0, 0, 1],
            &[0xde, 0, 1, 1],
            &[0xdf, 0, 0, 0, 1, 1],
            &[0x93, 1, 2],
            &[0x82, 1, 2, 3],
        ]
        .map(<[u8]>::to_vec)
        .into();
        openings.extend(
            scalars()
                .into_iter()
                .map(|scalar| [&[0x92], &scalar[..]].concat()),
        );
        openings
    }

    #[test]
    fn nesting_is_counted_like_the_decoder_counts_it() {
        let openings = openings();
        for levels in [1, MAX_DEPTH - 1, MAX_DEPTH, MAX_DEPTH + 1, 1_000] {
            for first in 0..openings.len() {
                let mut body = Vec::new();
                for opening in openings.iter().cycle().skip(first).take(levels) {
                    body.extend_from_slice(opening);
                }
                body.push(7);
                let is_refused = check_depth(&body, MAX_DEPTH).is_err();
                assert_eq!(is_refused, levels >= MAX_DEPTH, "{levels} from {first}");
                let read = decode_own::<IgnoredAny>(&body);
                assert_eq!(read.is_err(), is_refused, "{levels} from {first}");
            }
        }
    }

    #[test]
    fn sibling_values_do_not_count_as_nesting() {
        let pair = [0x92, 0x81, 1, 0x90, 7];
        let body = [&[0xdc, 3, 0xe8][..], &pair.repeat(1_000)].concat();
        check_depth(&body, MAX_DEPTH).unwrap();
        decode_own::<IgnoredAny>(&body).unwrap();
    }

    #[test]
    fn truncated_body_is_left_to_the_decoder() {
        for opening in openings() {
            let body = opening.repeat(MAX_DEPTH - 1);
            for len in 0..=body.len() {
                check_depth(&body[..len], MAX_DEPTH).unwrap();
            }
        }
        check_depth(&[0xdb, 0xff, 0xff, 0xff, 0xff].repeat(MAX_DEPTH), MAX_DEPTH).unwrap();
    }
}
