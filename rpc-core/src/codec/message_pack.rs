//! MessagePack, written and read by `rmp_serde`.

use bytes::Bytes;
use rmp_serde::config::{DefaultConfig, HumanReadableConfig};
use rmp_serde::decode::{Error, ReadRefReader};
use serde::de::{Deserialize, DeserializeOwned, IgnoredAny};
use serde::ser::Serialize;

use super::sending::Rules;
use super::{MAX_DEPTH, TOO_DEEP};
use crate::error::BoxError;

/// MessagePack that is being read.
pub(crate) struct MessagePack<'a>(Reader<'a>);

type Reader<'a> =
    rmp_serde::Deserializer<ReadRefReader<'a, [u8]>, HumanReadableConfig<DefaultConfig>>;

impl<'a> MessagePack<'a> {
    fn new(body: &'a [u8], max_depth: usize) -> Self {
        let mut reader = rmp_serde::Deserializer::from_read_ref(body).with_human_readable();
        reader.set_max_depth(max_depth);
        Self(reader)
    }

    /// What a map or an array consists of, and whatever follows it.
    pub(crate) fn inside(rest: &'a [u8]) -> Result<Self, BoxError> {
        check_depth(rest, MAX_DEPTH - 1)?;
        Ok(Self::new(rest, MAX_DEPTH - 1))
    }

    /// The next value.
    pub(crate) fn value(&mut self) -> &mut Reader<'a> {
        &mut self.0
    }

    /// Makes sure that there is no other.
    pub(crate) fn end(mut self) -> Result<(), BoxError> {
        // A `bool` is a marker and nothing else, so only the end of the body fails to give one.
        match bool::deserialize(&mut self.0) {
            Err(Error::InvalidMarkerRead(_)) => Ok(()),
            _ => Err("there are bytes after the value".into()),
        }
    }
}

/// Writes a value: structs as maps, and what serde writes for people, as in JSON.
pub(super) fn encode<T: Serialize>(value: &T) -> Result<Bytes, BoxError> {
    super::write(|body| {
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

/// Decodes a value of the protocol's own, which may borrow from the body.
pub(crate) fn decode_own<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, BoxError> {
    let mut body = MessagePack::new(body, MAX_DEPTH);
    let value = T::deserialize(body.value())?;
    body.end()?;
    Ok(value)
}

/// Refuses values that are nested too deep. `rmp_serde` has the same limit, but does not count the maps that are variants of enums.
fn check_depth(body: &[u8], max_depth: usize) -> Result<(), BoxError> {
    if body.len() < max_depth || !may_be_deep(body, max_depth) {
        return Ok(());
    }
    let mut body = MessagePack::new(body, max_depth);
    loop {
        match IgnoredAny::deserialize(body.value()) {
            Ok(IgnoredAny) => {}
            Err(Error::DepthLimitExceeded) => return Err(TOO_DEEP.into()),
            // The end, or what cannot be read.
            Err(_) => return Ok(()),
        }
    }
}

/// Tells whether there are enough bytes that could open an array or a map.
fn may_be_deep(body: &[u8], max_depth: usize) -> bool {
    let opening = |byte: &&u8| matches!(byte, 0x80..=0x9f | 0xdc..=0xdf);
    body.iter().filter(opening).count() >= max_depth
}
