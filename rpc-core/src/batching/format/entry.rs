//! The calls of a batch in MessagePack, with limits that hold before memory is taken.

use std::fmt;

use bytes::Bytes;
use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::headers::{HeaderValue, Headers, MAX_DEPTH, MAX_VALUES};

/// Most calls in a batch.
pub(super) const MAX_CALLS: usize = 1024;

/// Most values of all headers in a batch together. Each value takes far more memory than it has bytes.
pub(super) const MAX_VALUES_IN_ALL: usize = 100_000;

/// A call in a batch: the part of a request or a reply that it does not share with the others.
#[derive(Serialize)]
pub(super) struct Entry<'a, H> {
    pub(super) correlation_id: &'a str,
    pub(super) kind: Option<&'a str>,
    pub(super) content_type: Option<&'a str>,
    pub(super) deadline: Option<i64>,
    pub(super) headers: Option<H>,
    #[serde(serialize_with = "as_bytes")]
    pub(super) body: &'a [u8],
}

/// The body of a batch.
#[derive(Deserialize)]
pub(super) struct Contents<'a>(
    /// Number of requests that the sender accepts in one batch.
    pub(super) u16,
    #[serde(borrow, deserialize_with = "entries")] pub(super) Vec<Entry<'a, Headers>>,
);

/// Reads the calls, up to their limit: many tiny calls would take much memory.
fn entries<'de: 'a, 'a, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<Entry<'a, Headers>>, D::Error> {
    struct Entries;

    impl<'de> Visitor<'de> for Entries {
        type Value = Vec<Entry<'de, Headers>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "1 to {MAX_CALLS} calls")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut entries = Vec::with_capacity(seq.size_hint().unwrap_or(0).min(MAX_CALLS));
            let mut room = Room {
                in_entry: MAX_VALUES,
                in_batch: MAX_VALUES_IN_ALL,
            };
            while let Some(entry) = seq.next_element_seed(EntrySeed(&mut room))? {
                entries.push(entry);
                if entries.len() > MAX_CALLS {
                    return Err(A::Error::invalid_length(entries.len(), &self));
                }
            }
            if entries.is_empty() {
                return Err(A::Error::invalid_length(0, &self));
            }
            Ok(entries)
        }
    }

    deserializer.deserialize_seq(Entries)
}

fn as_bytes<S: Serializer>(body: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(body)
}

/// Headers, written as a map.
pub(super) struct Table<'a>(pub(super) &'a Headers);

/// Value of a header, written in MessagePack's own types.
struct Value<'a>(&'a HeaderValue);

impl Serialize for Table<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let values = self.0.iter();
        serializer.collect_map(values.map(|(name, value)| (name, Value(value))))
    }
}

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            HeaderValue::Void => serializer.serialize_unit(),
            HeaderValue::Bool(flag) => serializer.serialize_bool(*flag),
            HeaderValue::Int(number) => serializer.serialize_i64(*number),
            HeaderValue::Float(number) => serializer.serialize_f64(*number),
            HeaderValue::String(text) => serializer.serialize_str(text),
            HeaderValue::Bytes(bytes) => serializer.serialize_bytes(bytes),
            HeaderValue::List(values) => serializer.collect_seq(values.iter().map(Value)),
            HeaderValue::Table(headers) => Table(headers).serialize(serializer),
            HeaderValue::Timestamp(_) => Err(S::Error::custom("a timestamp cannot be in a batch")),
        }
    }
}

/// Number of values that may still be read.
struct Room {
    /// Values in the headers of one call.
    in_entry: usize,
    in_batch: usize,
}

impl Room {
    fn take<E: serde::de::Error>(&mut self) -> Result<(), E> {
        if self.in_entry == 0 || self.in_batch == 0 {
            return Err(E::custom(format!(
                "headers have at most {MAX_VALUES} values, and those of a batch {MAX_VALUES_IN_ALL}"
            )));
        }
        self.in_entry -= 1;
        self.in_batch -= 1;
        Ok(())
    }
}

/// Reads a call.
struct EntrySeed<'r>(&'r mut Room);

impl<'de> DeserializeSeed<'de> for EntrySeed<'_> {
    type Value = Entry<'de, Headers>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_tuple(6, self)
    }
}

impl<'de> Visitor<'de> for EntrySeed<'_> {
    type Value = Entry<'de, Headers>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a call: an array of six")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let Self(room) = self;
        room.in_entry = MAX_VALUES;
        let entry = Entry {
            correlation_id: next(&mut seq)?,
            kind: next(&mut seq)?,
            content_type: next(&mut seq)?,
            deadline: next(&mut seq)?,
            headers: seq
                .next_element_seed(HeadersSeed(room))?
                .ok_or_else(too_short)?,
            body: next(&mut seq)?,
        };
        match seq.next_element::<serde::de::IgnoredAny>()? {
            None => Ok(entry),
            Some(_) => Err(A::Error::custom("a call has more than six parts")),
        }
    }
}

/// Reads a part of a call.
fn next<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(seq: &mut A) -> Result<T, A::Error> {
    seq.next_element()?.ok_or_else(too_short)
}

fn too_short<E: serde::de::Error>() -> E {
    E::custom("a call has fewer than six parts")
}

/// Reads the headers of a call, if it has any.
struct HeadersSeed<'r>(&'r mut Room);

impl<'de> DeserializeSeed<'de> for HeadersSeed<'_> {
    type Value = Option<Headers>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for HeadersSeed<'_> {
    type Value = Option<Headers>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("headers: a map, or nil")
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        read_table(map, self.0, 0).map(Some)
    }
}

/// Reads the value of a header at a depth in the headers.
struct ValueSeed<'r> {
    room: &'r mut Room,
    depth: usize,
}

impl ValueSeed<'_> {
    fn inside<E: serde::de::Error>(&self) -> Result<usize, E> {
        match self.depth < MAX_DEPTH {
            true => Ok(self.depth + 1),
            false => Err(E::custom(format!(
                "headers are nested more than {MAX_DEPTH} deep"
            ))),
        }
    }
}

fn read_table<'de, A: MapAccess<'de>>(
    mut map: A,
    room: &mut Room,
    depth: usize,
) -> Result<Headers, A::Error> {
    let mut headers = Headers::new();
    while let Some(name) = map.next_key::<&str>()? {
        let room = &mut *room;
        headers.insert(name, map.next_value_seed(ValueSeed { room, depth })?);
    }
    Ok(headers)
}

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = HeaderValue;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<HeaderValue, D::Error> {
        self.room.take()?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed<'_> {
    type Value = HeaderValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a header's value")
    }

    fn visit_unit<E>(self) -> Result<HeaderValue, E> {
        Ok(HeaderValue::Void)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<HeaderValue, E> {
        Ok(HeaderValue::Bool(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<HeaderValue, E> {
        Ok(HeaderValue::Int(number))
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<HeaderValue, E> {
        let number = i64::try_from(number).map_err(|_| E::custom("a number beyond 63 bits"))?;
        Ok(HeaderValue::Int(number))
    }

    fn visit_f64<E>(self, number: f64) -> Result<HeaderValue, E> {
        Ok(HeaderValue::Float(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<HeaderValue, E> {
        Ok(HeaderValue::String(text.to_owned()))
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<HeaderValue, E> {
        Ok(HeaderValue::Bytes(Bytes::copy_from_slice(bytes)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<HeaderValue, A::Error> {
        let (depth, room) = (self.inside()?, self.room);
        let mut values = Vec::new();
        while let Some(value) = seq.next_element_seed(ValueSeed {
            room: &mut *room,
            depth,
        })? {
            values.push(value);
        }
        Ok(HeaderValue::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<HeaderValue, A::Error> {
        let depth = self.inside()?;
        read_table(map, self.room, depth).map(HeaderValue::Table)
    }
}
