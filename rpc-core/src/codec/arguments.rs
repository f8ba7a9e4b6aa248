//! Arguments of a request in MessagePack: a map of names to values, or an array of all values.
//!
//! `rmp_serde` is generic: the compiler makes a copy of its code for each decoded type, and another for the names of the type's fields.
//! Each method has a type of its own for its arguments. All methods share the reader in this file, down to the single values, so that
//! generated code stays small.

use rmp_serde::decode::Error;
use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::message_pack::MessagePack;
use crate::error::BoxError;

/// Decodes arguments, which may borrow from the body. Bytes after the arguments are an error.
pub(super) fn decode<'a, A: Deserialize<'a>>(body: &'a [u8]) -> Result<A, BoxError> {
    let mut arguments = Arguments::open(body)?;
    let decoded = A::deserialize(&mut arguments)?;
    arguments.end()?;
    Ok(decoded)
}

/// Reader of a map or an array of arguments, after its length.
struct Arguments<'a> {
    form: Form,
    left: u32,
    rest: MessagePack<'a>,
}

#[derive(Clone, Copy)]
enum Form {
    Map,
    Array,
}

impl<'a> Arguments<'a> {
    fn open(body: &'a [u8]) -> Result<Self, BoxError> {
        let (mut map, mut array) = (body, body);
        let (form, left, rest) = if let Ok(len) = rmp::decode::read_map_len(&mut map) {
            (Form::Map, len, map)
        } else if let Ok(len) = rmp::decode::read_array_len(&mut array) {
            (Form::Array, len, array)
        } else {
            return Err("arguments must be a map or an array".into());
        };
        Ok(Self {
            form,
            left,
            rest: MessagePack::inside(rest)?,
        })
    }

    /// Advances to the next element. Returns `false` if none is left.
    fn advance(&mut self) -> bool {
        let is_left = self.left > 0;
        self.left = self.left.saturating_sub(1);
        is_left
    }

    fn end(self) -> Result<(), BoxError> {
        match self.left {
            0 => self.rest.end(),
            left => Err(format!("too many arguments: {left} more than the method has").into()),
        }
    }
}

impl<'de> Deserializer<'de> for &mut Arguments<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.form {
            Form::Map => visitor.visit_map(self),
            Form::Array => visitor.visit_seq(self),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct
        seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de> MapAccess<'de> for &mut Arguments<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        while self.advance() {
            if let Some(name) = Name::read(&mut self.rest)? {
                return seed.deserialize(name).map(Some);
            }
            IgnoredAny::deserialize(self.rest.value())?;
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        seed.deserialize(self.rest.value())
    }
}

impl<'de> SeqAccess<'de> for &mut Arguments<'de> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        match self.advance() {
            true => seed.deserialize(self.rest.value()).map(Some),
            false => Ok(None),
        }
    }
}

/// Name of an argument. Only text is a name. An argument with any other key is unknown, and skipped.
struct Name<'de>(&'de str);

impl<'de> Name<'de> {
    fn read(from: &mut MessagePack<'de>) -> Result<Option<Self>, Error> {
        struct Reading;

        impl<'de> Visitor<'de> for Reading {
            type Value = Option<Name<'de>>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("the name of an argument")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Some(Name(text)))
            }

            fn visit_borrowed_bytes<E: de::Error>(self, _: &'de [u8]) -> Result<Self::Value, E> {
                Ok(None)
            }

            fn visit_u64<E: de::Error>(self, _: u64) -> Result<Self::Value, E> {
                Ok(None)
            }

            fn visit_i64<E: de::Error>(self, _: i64) -> Result<Self::Value, E> {
                Ok(None)
            }

            fn visit_f64<E: de::Error>(self, _: f64) -> Result<Self::Value, E> {
                Ok(None)
            }

            fn visit_bool<E: de::Error>(self, _: bool) -> Result<Self::Value, E> {
                Ok(None)
            }

            fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
                Ok(None)
            }
        }

        from.value().deserialize_any(Reading)
    }
}

impl<'de> Deserializer<'de> for Name<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_borrowed_str(self.0)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct
        seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::codec::{self, ContentType};

    const MESSAGE_PACK: ContentType = ContentType::MessagePack;

    #[derive(Serialize, Deserialize, Debug, PartialEq)]
    struct Transfer {
        amount: u64,
        #[serde(rename = "to", alias = "recipient")]
        target: Option<String>,
        #[serde(default)]
        tags: Vec<(String, i8)>,
    }

    #[derive(Serialize, Deserialize, Debug, PartialEq)]
    struct Nothing {}

    #[derive(Serialize, Deserialize, Debug, PartialEq)]
    struct Flat {
        a: u8,
        #[serde(flatten)]
        others: std::collections::BTreeMap<String, u8>,
    }

    /// All combinations of up to three bytes that begin values, some combinations with more bytes, and the beginnings of real bodies.
    fn bodies() -> Vec<Vec<u8>> {
        let transfer = Transfer {
            amount: 300,
            target: Some("Zoë".to_owned()),
            tags: vec![("urgent".to_owned(), -1)],
        };
        let named = rmp_serde::to_vec_named(&transfer).unwrap();
        let array = rmp_serde::to_vec(&transfer).unwrap();
        let mut bodies: Vec<Vec<u8>> = [named, array]
            .iter()
            .flat_map(|body| (0..=body.len()).map(|len| body[..len].to_vec()))
            .collect();
        let some = [0x00, 0x80, 0x81, 0x82, 0x90, 0x91, 0x93, 0xa1, 0xc0, 0xc1];
        let more = [0xc4, 0xcc, 0xd4, 0xdc, 0xdd, 0xde, 0xdf, 0xff, b'a', b'0'];
        let bytes = || some.into_iter().chain(more);
        for first in bytes() {
            bodies.push(vec![first]);
            for second in bytes() {
                bodies.push(vec![first, second]);
                for third in bytes() {
                    bodies.extend([
                        vec![first, second, third],
                        vec![first, second, third, 0x07],
                        vec![first, second, b'a', third, 0x07],
                    ]);
                }
            }
        }
        bodies
    }

    fn check_against_other_values<A>()
    where
        A: for<'a> Deserialize<'a> + std::fmt::Debug + PartialEq,
    {
        for body in bodies() {
            // The decoder of other values also reads bytes as an array of numbers, and keys that are not text.
            if body.first() == Some(&0xc4) || has_other_keys_than_text(&body) {
                continue;
            }
            let expected = codec::decode::<A>(&body, MESSAGE_PACK).ok();
            assert_eq!(decode::<A>(&body).ok(), expected, "{body:x?}");
        }
    }

    /// Returns `true` for a map with a key that is not text.
    fn has_other_keys_than_text(body: &[u8]) -> bool {
        let Ok(mut arguments) = Arguments::open(body) else {
            return false;
        };
        while matches!(arguments.form, Form::Map) && arguments.advance() {
            match Name::read(&mut arguments.rest) {
                Ok(Some(_)) => {}
                Ok(None) => return true,
                Err(_) => return false,
            }
            if IgnoredAny::deserialize(arguments.rest.value()).is_err() {
                return false;
            }
        }
        false
    }

    #[test]
    fn arguments_are_decoded_like_other_values() {
        check_against_other_values::<Transfer>();
        check_against_other_values::<Nothing>();
        check_against_other_values::<Flat>();
    }

    #[test]
    fn only_text_names_an_argument() {
        #[derive(Deserialize, Debug, PartialEq)]
        struct Two {
            a: u8,
            #[serde(default)]
            b: u8,
        }
        let others: [&[u8]; 8] = [
            &[0xc4, 1, b'b'],
            &[0xa1, 0xff],
            &[1],
            &[0xcc, 1],
            &[0xff],
            &[0xc3],
            &[0xc0],
            &[0xca, 0, 0, 0, 0],
        ];
        for other in others {
            let body = [&[0x82, 0xa1, b'a', 7], other, &[0x92, 9, 9]].concat();
            assert_eq!(decode::<Two>(&body).unwrap(), Two { a: 7, b: 0 });
            let alone = [&[0x81], other, &[7]].concat();
            decode::<Two>(&alone).expect_err("there is no `a`");
        }
        // A map or an array is not a key.
        decode::<Two>(&[0x82, 0xa1, b'a', 7, 0x90, 7]).expect_err("an array");
        decode::<Two>(&[0x82, 0xa1, b'a', 7, 0x80, 7]).expect_err("a map");
    }

    #[test]
    fn nesting_is_limited() {
        #[derive(Deserialize)]
        struct Deep {
            #[serde(rename = "a")]
            _a: IgnoredAny,
        }
        let body = |depth: usize| {
            let mut body = vec![0x81, 0xa1, b'a'];
            body.resize(3 + depth, 0x91);
            body.push(0x00);
            body
        };
        for depth in [0, 1, 100, 120, 125, 126, 127, 128, 129, 1_000, 100_000] {
            let body = body(depth);
            let expected = codec::decode::<Deep>(&body, MESSAGE_PACK).is_ok();
            assert_eq!(decode::<Deep>(&body).is_ok(), expected, "{depth}");
        }
    }

    #[test]
    fn error_says_that_arguments_must_be_a_map_or_an_array() {
        let error = decode::<Nothing>(&[0x07]).unwrap_err().to_string();
        assert_eq!(error, "arguments must be a map or an array");
        let error = decode::<(u8,)>(&[0x92, 1, 2]).unwrap_err().to_string();
        assert_eq!(error, "too many arguments: 1 more than the method has");
    }
}
